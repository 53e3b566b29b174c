"""Patches as tokens, each with its position: learned tables, resampled for another grid as torch does it.

Shapes: B batch, H and W an image's height and width, or its patches below and beside each other, C channels, D features.
"""

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.convolution import convolution, pair
from milbuild.layers.layout import layer
from milbuild.layers.linear import constant
from milbuild.weights import Computed, Cursor, Joined, Tensor
from milbuild.weights.fields import Config

# torch's bicubic kernel (aten/src/ATen/native/UpSample.h).
A = -0.75


def sides(x: Var) -> tuple[int, int]:
    """(B, C, H, W) -> (H, W)."""
    return x.shape[2], x.shape[3]


def patch_grid(config: Config, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """How many patches (`patch_size`) an image of (height, width) has below and beside each other; by default one of
    `image_size`, of which positions are learned."""
    high, wide = pair(config.patch_size, "patch_size")
    height, width = pair(config.image_size, "image_size") if size is None else size
    return height // high, width // wide


def patches(pixel_values: Var, w: Cursor, config: Config, width: int) -> Var:
    """(B, C, height, width) -> (B, H * W, D): squares that do not overlap, each as one token, by the module `projection`."""
    size = pair(config.patch_size, "patch_size")
    return tokens(convolution(pixel_values, w / "projection", width, size, stride=size), w)


@layer
def masked(x: Var, mask: Var, token: Tensor, w: Cursor) -> Var:
    """(B, N, D), int32 (B, N) -> (B, N, D): the learned token (1, 1, D) where the mask is 1."""
    hidden = mb.cast(x=mb.expand_dims(x=mask, axes=[2], name=f"{w.name}_mask"), dtype="bool", name=f"{w.name}_hidden")
    return mb.select(cond=hidden, a=constant(token, w, "mask_token"), b=x, name=f"{w.name}_masked")


def pixel_shuffle(x: Var, factor: int, w: Cursor) -> Var:
    """(B, C * factor^2, H, W) -> (B, C, H * factor, W * factor), as torch.nn.PixelShuffle."""
    return mb.pixel_shuffle(x=x, upscale_factor=factor, name=w.name)


@layer
def tokens(x: Var, w: Cursor) -> Var:
    """(B, C, H, W) -> (B, H * W, C), row by row, as the output of `w`."""
    batch, channels, height, width = x.shape
    x = mb.reshape(x=x, shape=[batch, channels, height * width], name=f"{w.name}_flat")
    return mb.transpose(x=x, perm=[0, 2, 1], name=w.name)


@layer
def feature_map(x: Var, grid: tuple[int, int], w: Cursor) -> Var:
    """(B, H * W, C) -> (B, C, H, W), as the output of `w`: what `tokens` did, undone."""
    batch, _, channels = x.shape
    x = mb.transpose(x=x, perm=[0, 2, 1], name=f"{w.name}_channels_first")
    return mb.reshape(x=x, shape=[batch, channels, *grid], name=w.name)


@layer
def mean_token(x: Var, w: Cursor) -> Var:
    """(B, T, D) -> (B, D): the mean over all tokens."""
    return mb.reduce_mean(x=x, axes=[1], keep_dims=False, name=w.name)


def joined_channels(parts: list[Var], w: Cursor) -> Var:
    """(B, C, H, W), as many channels each as it has -> (B, the channels' sum, H, W)."""
    return mb.concat(values=parts, axis=1, name=w.name)


def spread(x: Var, size: tuple[int, int], w: Cursor) -> Var:
    """(B, C, 1, 1) -> (B, C, H, W), the same everywhere."""
    return mb.tile(x=x, reps=[1, 1, *size], name=w.name)


def resized(x: Var, size: tuple[int, int], name: str) -> Var:
    """(B, C, h, w) -> (B, C, height, width), bilinear between the centres of pixels (torch's align_corners=False)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    height, width = size
    return mb.resize_bilinear(
        x=x, target_size_height=height, target_size_width=width, sampling_mode="UNALIGN_CORNERS", name=name
    )


def learned_tokens(w: Cursor, names: tuple[str, ...], width: int) -> Tensor:
    """(1, any, D): parameters (1, 1, D) of `w`, one after the other."""
    each = [w.tensor(name, 1, 1, width) for name in names]
    return each[0] if len(each) == 1 else Joined(*each).reshaped(1, len(each), width)


@layer
def add_position_embeddings(
    x: Var, w: Cursor, config: Config, size: tuple[int, int], first: Tensor, last: Tensor | None = None
) -> Var:
    """(B, N, D) -> (B, T, D): the patches of an image of (height, width) between learned tokens, (1, any, D), each with its
    row of `position_embeddings`, which are those of an image of `image_size`."""
    old, new, before = patch_grid(config), patch_grid(config, size), first.shape[1]
    count = before + old[0] * old[1] + (0 if last is None else last.shape[1])
    table = w.tensor("position_embeddings", 1, count, first.shape[2])
    return _placed(x, resampled(table, old, new, before), w, first, last)


def check_square(config: Config, size: tuple[int, int]) -> None:
    """Raises `Error` where positions would be resampled that are no square: most models of transformers know no other."""
    trained, (rows, columns) = pair(config.image_size, "image_size"), patch_grid(config)
    if tuple(size) != trained and rows != columns:
        hint = f"Build it with image_size {trained[0]}x{trained[1]}."
        raise Error(f"positions of {rows} x {columns} patches are no square that could be resampled", hint)


def check_whole(config: Config) -> None:
    """Raises `Error` where an image of `image_size` leaves pixels over beside its patches, and rows of YOLOS's positions
    between its layers count them: transformers' model expects whole ones and fails."""
    (height, width), (high, wide) = (pair(getattr(config, name), name) for name in ("image_size", "patch_size"))
    if height * width // (high * wide) != (height // high) * (width // wide):
        raise Error(
            f"an image of {height}x{width} (image_size) has no whole number of patches of {high}x{wide} (patch_size), with "
            "which transformers' model has no positions between its layers",
            "Look into config.json.",
        )


def _placed(x: Var, table: Tensor, w: Cursor, first: Tensor, last: Tensor | None = None) -> Var:
    """(B, N, D) -> (B, T, D): patches between learned tokens, (1, any, D), each with its row of the table (1, T, D)."""
    batch, count, width = x.shape
    begin = first.shape[1]
    rows = _rows(table, begin, begin + count)
    values = [mb.add(x=x, y=constant(rows, w, "positions"), name=f"{w.name}_placed")]

    def beside(token: Tensor, begin: int, name: str) -> Var:
        """Constant: the same for every image."""
        shape, end = (batch, token.shape[1], width), begin + token.shape[1]
        each = Computed(
            "the sum", lambda x, y: np.broadcast_to(x + y, shape).copy(), shape, token, _rows(table, begin, end)
        )
        return constant(each, w, name)

    values.insert(0, beside(first, 0, "first"))
    if last is not None:
        values.append(beside(last, begin + count, "last"))
    return mb.concat(values=values, axis=1, name=w.name)


def _rows(table: Tensor, begin: int, end: int) -> Tensor:
    shape = (table.shape[0], end - begin, table.shape[2])
    return Computed(f"tokens {begin} to {end}", lambda values: values[:, begin:end], shape, table)


def resampled(table: Tensor, old: tuple[int, int], new: tuple[int, int], before: int = 1) -> Tensor:
    """(n, T, D) for patches of the grid `old` after `before` tokens, others after them -> the same for the grid `new`.

    Core ML has no bicubic resampling; a table of weights needs none at run time.
    """
    if old == new:
        return table
    count, tokens, width = table.shape
    end = before + old[0] * old[1]
    rows, columns = (bicubic(*sides) for sides in zip(old, new, strict=True))

    def compute(values: np.ndarray) -> np.ndarray:
        grid = values[:, before:end].reshape(count, *old, width)
        grid = np.einsum("ai,bj,nijd->nabd", rows, columns, grid, optimize=True).reshape(count, -1, width)
        return np.concatenate([values[:, :before], grid, values[:, end:]], axis=1)

    shape = (count, tokens - old[0] * old[1] + new[0] * new[1], width)
    return Computed(f"bicubic {old[0]}x{old[1]} to {new[0]}x{new[1]}", compute, shape, table)


def bicubic(old: int, new: int) -> np.ndarray:
    """(new, old): the weights with which torch's bicubic interpolation, align_corners=False, makes `new` values of `old`."""
    weights = np.zeros((new, old))
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int)
    for tap in range(-1, 3):
        distance = np.abs(places - first - tap)
        near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * A - 4 * A
        inside = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), inside), np.where(distance <= 1, near, far))
    return weights
