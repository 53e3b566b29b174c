"""Shifted windows: squares of an image's patches that attend to each other, moved by half a square in every second layer.

Needed by Swin and its relatives (Donut, Swin V2, Swin2SR; transformers/models/swin/modeling_swin.py, SwinLayer). Shapes: B batch,
H and W patches below and beside each other, R the patches along the side of a window, N the number of windows, C features.
"""

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.layers.layout import layer
from milbuild.weights import Cursor

APART = -100.0  # what transformers' Swin adds to the scores of patches that are not neighbours


@layer
def windows(x: Var, grid: tuple[int, int], side: int, shift: int, w: Cursor) -> Var:
    """(B, H * W, C) -> (B * N, R * R, C): zeros fill what the windows lack below and to the right, and everything moves
    `shift` patches up and to the left, around the edges."""
    (batch, _, channels), (height, width) = x.shape, grid
    high, wide = _filled(grid, side)
    x = mb.reshape(x=x, shape=[batch, height, width, channels], name=f"{w.name}_grid")
    if (high, wide) != grid:
        x = mb.pad(x=x, pad=[0, 0, 0, high - height, 0, wide - width, 0, 0], name=f"{w.name}_filled")
    x = _rolled(x, (shift, shift), f"{w.name}_shifted")
    # Core ML has no more than five axes: rows of windows count as images.
    x = mb.reshape(
        x=x, shape=[batch * high // side, side, wide // side, side, channels], name=f"{w.name}_rows_of_windows"
    )
    x = mb.transpose(x=x, perm=[0, 2, 1, 3, 4], name=f"{w.name}_windows")
    return mb.reshape(x=x, shape=[-1, side * side, channels], name=w.name)


@layer
def from_windows(x: Var, grid: tuple[int, int], side: int, shift: int, w: Cursor) -> Var:
    """(B * N, R * R, C) -> (B, H * W, C): what `windows` did, undone."""
    (count, _, channels), (height, width) = x.shape, grid
    high, wide = _filled(grid, side)
    rows = count * side // wide
    x = mb.reshape(x=x, shape=[rows, wide // side, side, side, channels], name=f"{w.name}_windows")
    x = mb.transpose(x=x, perm=[0, 2, 1, 3, 4], name=f"{w.name}_rows_of_windows")
    x = mb.reshape(x=x, shape=[rows * side // high, high, wide, channels], name=f"{w.name}_grid")
    x = _rolled(x, (high - shift, wide - shift), f"{w.name}_shifted_back") if shift else x
    if (high, wide) != grid:
        x = mb.slice_by_size(x=x, begin=[0] * 4, size=[-1, height, width, -1], name=f"{w.name}_cropped")
    return mb.reshape(x=x, shape=[-1, height * width, channels], name=w.name)


@layer
def window_mask(grid: tuple[int, int], side: int, shift: int, batch: int, w: Cursor) -> Var | None:
    """What is added to the scores of shifted windows, (B * N, 1, R * R, R * R): `APART` where two patches of a window were no
    neighbours before the shift. None without one."""
    if shift == 0:
        return None
    high, wide = _filled(grid, side)
    below, beside = (np.arange(n) >= n - shift for n in (high, wide))  # what came around the edges
    region = below[:, None] * 2 + beside
    region = region.reshape(high // side, side, wide // side, side).transpose(0, 2, 1, 3).reshape(-1, 1, 1, side * side)
    mask = np.where(region == region.transpose(0, 1, 3, 2), 0, APART)
    return mb.const(val=np.tile(mask, (batch, 1, 1, 1)).astype(w.dtype), name=f"{w.name}_mask")


def _filled(grid: tuple[int, int], side: int) -> tuple[int, int]:
    high, wide = (-(-n // side) * side for n in grid)
    return high, wide


def _rolled(x: Var, by: tuple[int, int], name: str) -> Var:
    """(B, H, W, C), each axis of the grid so many places towards its beginning, around the edges."""
    for axis, places in zip((1, 2), by, strict=True):
        if places:
            sizes = [places, x.shape[axis] - places]
            first, rest = mb.split(x=x, split_sizes=sizes, axis=axis, name=f"{name}_parts_{axis}")
            x = mb.concat(values=[rest, first], axis=axis, name=f"{name}_{axis}")
    return x
