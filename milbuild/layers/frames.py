"""Frames of audio: how many there are, which of them are padding, and what is pooled over them.

The layout is (B, T, D): batch, frames, features. `seen` is bool (B, T), true for what is no padding.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.layers.layout import layer
from milbuild.weights import Cursor


def samples(attention_mask: Var, w: Cursor) -> Var:
    """int32 (B, S), 1 for audio and 0 for padding -> how many samples each row has, (B, 1)."""
    return mb.reduce_sum(x=attention_mask, axes=[1], keep_dims=True, name=f"{w.name}_samples")


def lengths(steps: Var, convolutions: Iterable[tuple[int, int]], w: Cursor) -> Var:
    """int32 (B, 1) -> (B, 1): what (kernel, stride) one after the other leave of so many steps, and at least 1.

    Each leaves floor((n - kernel) / stride) + 1; floors of floors are one division.
    """
    offset, divisor = 0, 1
    for kernel, stride in convolutions:
        offset, divisor = offset + (stride - kernel) * divisor, divisor * stride
    y = mb.add(x=steps, y=np.int32(offset), name=f"{w.name}_shifted")
    if divisor != 1:
        y = mb.floor_div(x=y, y=np.int32(divisor), name=f"{w.name}_divided")
    return mb.maximum(x=y, y=np.int32(1), name=w.name)


def needed(count: int, convolutions: Iterable[tuple[int, int]]) -> int:
    """The fewest steps of which (kernel, stride), the last first, leave `count`."""
    for kernel, stride in convolutions:
        count = max(1, (count - 1) * stride + kernel)
    return count


def unpadded(
    x: Var, attention_mask: Var | None, convolutions: Iterable[tuple[int, int]], w: Cursor
) -> tuple[Var, Var | None, Var | None]:
    """Frames (B, T, D) that `convolutions` made of samples, whose mask is int32 (B, S) -> zeros in those that are padding,
    which are none, bool (B, T), and how many those are, (B, 1). Without a mask the frames as they are."""
    if attention_mask is None:
        return x, None, None
    length = lengths(samples(attention_mask, w), convolutions, w / "lengths")
    seen = visible(length, x, w / "visible")
    return silenced(x, seen, w / "silenced"), seen, length


@layer
def visible(length: Var, x: Var, w: Cursor) -> Var:
    """Which frames of `x` (B, T, D) are before `length` (B, 1): bool (B, T)."""
    if isinstance(x.shape[1], int):
        places: Any = np.arange(x.shape[1], dtype=np.int32)[None]
    else:
        places = mb.range_1d(start=0, end=_frames(x, w), step=1, name=f"{w.name}_places")
    return mb.less(x=places, y=length, name=w.name)


@layer
def silenced(x: Var, seen: Var, w: Cursor) -> Var:
    """(B, T, D) with zeros in the frames that are not `seen` (B, T)."""
    return mb.mul(x=x, y=_column(seen, x.dtype, w), name=w.name)


@layer
def mean(x: Var, seen: Var | None, w: Cursor) -> Var:
    """(B, T, D) -> (B, D), over all frames or those `seen` (B, T). In float32: float16 ends at 65504."""
    wide = _wide(x, w)
    y = _mean(wide, None if seen is None else _column(seen, types.fp32, w), w)
    return _narrow(mb.squeeze(x=y, axes=[1], name=w.name), x, w)


@layer
def mean_and_deviation(x: Var, seen: Var | None, w: Cursor) -> Var:
    """(B, T, D) -> (B, 2 D), means over time, then unbiased standard deviations; in float32."""
    wide, mask = _wide(x, w), None if seen is None else _column(seen, types.fp32, w)
    centre = _mean(wide, mask, w)
    away = mb.sub(x=wide, y=centre, name=f"{w.name}_centred")
    if mask is not None:
        away = mb.mul(x=away, y=mask, name=f"{w.name}_centred_visible")
    squares = mb.reduce_sum_square(x=away, axes=[1], keep_dims=True, name=f"{w.name}_squares")
    if mask is not None:
        count: Any = mb.reduce_sum(x=mask, axes=[1], keep_dims=True, name=f"{w.name}_counted")
    else:
        count = x.shape[1]
        count = count if isinstance(count, int) else mb.cast(x=_frames(x, w), dtype="fp32", name=f"{w.name}_counted")
    if isinstance(count, int):
        others: Any = np.float32(count - 1)
    else:
        others = mb.sub(x=count, y=np.float32(1), name=f"{w.name}_others")
        others = mb.maximum(x=others, y=np.float32(1), name=f"{w.name}_some_others")
    deviation = mb.sqrt(x=mb.real_div(x=squares, y=others, name=f"{w.name}_variance"), name=f"{w.name}_deviation")
    both = mb.concat(values=[centre, deviation], axis=2, name=f"{w.name}_both")
    return _narrow(mb.squeeze(x=both, axes=[1], name=w.name), x, w)


def _mean(x: Var, mask: Var | None, w: Cursor) -> Var:
    """(B, T, D) -> (B, 1, D), by a mask (B, T, 1) of 1 and 0."""
    if mask is None:
        return mb.reduce_mean(x=x, axes=[1], keep_dims=True, name=f"{w.name}_mean")
    total = mb.reduce_sum(
        x=mb.mul(x=x, y=mask, name=f"{w.name}_visible"), axes=[1], keep_dims=True, name=f"{w.name}_sum"
    )
    count = mb.reduce_sum(x=mask, axes=[1], keep_dims=True, name=f"{w.name}_count")
    return mb.real_div(x=total, y=count, name=f"{w.name}_mean")


def _column(seen: Var, dtype: Any, w: Cursor) -> Var:
    """bool (B, T) -> 1 and 0 in (B, T, 1)."""
    y = mb.cast(x=seen, dtype="fp16" if dtype == types.fp16 else "fp32", name=f"{w.name}_ones")
    return mb.expand_dims(x=y, axes=[2], name=f"{w.name}_column")


def _frames(x: Var, w: Cursor) -> Var:
    """How many frames (B, T, D) has, where only the call says it."""
    return mb.gather(x=mb.shape(x=x, name=f"{w.name}_shape"), indices=1, axis=0, name=f"{w.name}_frames")


def _wide(x: Var, w: Cursor) -> Var:
    return x if x.dtype == types.fp32 else mb.cast(x=x, dtype="fp32", name=f"{w.name}_float32")


def _narrow(y: Var, x: Var, w: Cursor) -> Var:
    """`y` in the type of `x`."""
    return y if y.dtype == x.dtype else mb.cast(x=y, dtype="fp16", name=f"{w.name}_float16")
