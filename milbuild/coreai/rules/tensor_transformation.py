"""Values in other places (coremltools: ops/defs/iOS15/tensor_transformation.py)."""

from typing import Any

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.values import axes_of, rank, reshaped, shape, signed, sizes, unsigned

LAST = np.iinfo(np.int32).max


@rule
def expand_dims(x: Value, axes: list[int]) -> Value:
    end = rank(x) + len(axes)
    return ai.expand_dims(x, signed(sorted(axis % end for axis in axes)))


@rule
def squeeze(x: Value, axes: list[int] | None = None) -> Value:
    """An axis of more than one entry stays."""
    found = shape(x)
    asked = axes_of(x, axes) if axes is not None else [axis for axis, size in enumerate(found) if size == 1]
    if axes is None and None in found:
        raise Refused("which axes have one entry is known only at the call")
    once = [axis for axis in asked if found[axis] == 1]
    return ai.shrink_dims(x, signed(once)) if once else x


@rule
def transpose(x: Value, perm: list[int]) -> Value:
    return ai.transpose(x, unsigned([axis % rank(x) for axis in perm]))


@rule
def reshape(x: Value, shape: Any, *, opset: int) -> Value:
    if isinstance(shape, Value):
        return ai.reshape(x, shape)
    wanted = [int(size) for size in np.asarray(shape).reshape(-1)]
    if 0 not in wanted:
        return reshaped(x, wanted)
    # 0 keeps an axis: up to iOS16 that of the same number, then the one as far from the end; where x has none, 1.
    own = list(x.type.shape)
    if opset < 7:
        kept = [own[axis] if axis < len(own) else 1 for axis in range(len(wanted))]
    else:
        kept = [1] * (len(wanted) - len(own)) + own[max(0, len(own) - len(wanted)) :]
    filled = [size or keep for size, keep in zip(wanted, kept, strict=True)]
    if filled.count(-1) > 1:
        raise Refused("more than one length of the shape is known only at the call")
    return reshaped(x, filled)


@rule
def reverse(x: Value, axes: list[int] | None = None) -> Value:
    return ai.reverse(x, signed(axes_of(x, axes)))


@rule
def slice_by_size(x: Value, begin: Any, size: Any) -> Value:
    counts = _known(size, "size")
    if isinstance(begin, Value):
        start = ai.cast(begin, np.int32)
        if -1 in counts:
            raise Refused("size has -1, and begin is computed by the program")
        return _sized(
            ai.slice_(x, start, ai.broadcasting_add(start, _numbers(counts)), _numbers([1] * rank(x))), counts
        )
    first = _known(begin, "begin")
    ends = []
    for start, count in zip(first, counts, strict=True):
        if count == -1:
            ends.append(LAST)
        elif start < 0:
            # An end of 0, counted from the end, is the end itself.
            ends.append(LAST if start + count == 0 else start + count)
        else:
            ends.append(start + count)
    return ai.slice_(x, _numbers(first), _numbers(ends), _numbers([1] * rank(x)))


@rule
def slice_by_index(
    x: Value,
    begin: Any,
    end: Any,
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
    *,
    results: Any,
) -> Value:
    squeezed = squeeze_mask or [False] * rank(x)
    y = ai.slice_(x, *_corners(x, begin, end, stride, begin_mask, end_mask, squeezed))
    if turned := _backwards(stride, squeezed):
        y = ai.reverse(y, signed(turned))
    if isinstance(begin, Value) or isinstance(end, Value):
        # Of corners that are computed Core AI knows no lengths; the program declares them.
        declared, axes = list(results[0].shape or ()), iter(results[0].shape or ())
        lengths = [1 if once else next(axes) for once in squeezed]
        if declared and lengths.count(None) <= 1:
            y = reshaped(y, [-1 if each is None else each for each in lengths])
    once = [axis for axis, each in enumerate(squeezed) if each]
    return ai.shrink_dims(y, signed(once)) if once else y


@rule
def slice_update(
    x: Value,
    update: Value,
    begin: Any,
    end: Any,
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Value:
    squeezed = squeeze_mask or [False] * rank(x)
    once = [axis for axis, each in enumerate(squeezed) if each]
    update = ai.expand_dims(update, signed(once)) if once else update
    if turned := _backwards(stride, squeezed):
        update = ai.reverse(update, signed(turned))
    start, stop, step = _corners(x, begin, end, stride, begin_mask, end_mask, squeezed)
    return ai.slice_update(x, start, stop, step, update)


def _corners(
    x: Value,
    begin: Any,
    end: Any,
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeezed: list[bool],
) -> tuple[Any, Any, np.ndarray]:
    """Begin, end and stride of a slice as Core AI takes them: no masks, and one entry of an axis that is squeezed."""
    none = [False] * rank(x)
    steps = [1 if once else step for step, once in zip(stride or [1] * rank(x), squeezed, strict=True)]
    from_start, to_end = begin_mask or none, end_mask or none
    if not isinstance(begin, Value) and not isinstance(end, Value):
        corners = zip(_known(begin, "begin"), _known(end, "end"), steps, from_start, to_end, squeezed, strict=True)
        found = [_corner(x, axis, *each) for axis, each in enumerate(corners)]
        starts, ends, strides = (_numbers([each[part] for each in found]) for part in range(3))
        return starts, ends, strides
    if min(steps) < 0:
        raise Refused("a stride is negative, and its corners are computed by the program")
    starts = _masked(begin, from_start, [0] * rank(x))
    stops = _masked(end, to_end, [LAST] * rank(x))
    if any(squeezed):
        one = _numbers([1] * rank(x))
        after = ai.broadcasting_add(starts, one) if isinstance(starts, Value) else starts + one
        stops = ai.broadcasting_where(np.array(squeezed), after, stops)
    return starts, stops, _numbers(steps)


def _corner(
    x: Value, axis: int, begin: int, end: int, step: int, free: bool, open_: bool, once: bool
) -> tuple[int, int, int]:
    """Begin, end and a positive stride along an axis. Backwards, Core AI's slices do not reach the first entry (coreai-core
    1.0.0b3: no end says so): the same entries are taken forwards, and reversed by whoever asked."""
    if once:
        start = 0 if free else begin
        return start, LAST if start == -1 else start + 1, 1
    if step > 0:
        return 0 if free else begin, LAST if open_ else end, step
    (size,) = sizes(x, [axis], "where a slice of negative stride ends")
    places = range(size)[slice(None if free else begin, None if open_ else end, step)][::-1]
    return places.start, places.stop, places.step


def _backwards(stride: list[int] | None, squeezed: list[bool]) -> list[int]:
    """The axes that are taken from the end."""
    return [axis for axis, step in enumerate(stride or []) if step < 0 and not squeezed[axis]]


def _masked(given: Any, mask: list[bool], instead: list[int]) -> Any:
    """Numbers of which the masked ones are others."""
    if isinstance(given, Value):
        found = ai.cast(given, np.int32)
        return ai.broadcasting_where(np.array(mask), _numbers(instead), found) if any(mask) else found
    numbers = [int(each) for each in np.asarray(given).reshape(-1)]
    return _numbers([edge if free else each for each, free, edge in zip(numbers, mask, instead, strict=True)])


def _sized(y: Value, counts: list[int]) -> Value:
    """Core AI knows no lengths of a slice that begins where the program computes."""
    return reshaped(y, counts)


def _known(given: Any, what: str) -> list[int]:
    if isinstance(given, Value):
        raise Refused(f"{what} is computed by the program")
    return [int(each) for each in np.asarray(given).reshape(-1)]


def _numbers(given: list[int]) -> np.ndarray:
    return np.array(given, np.int32)


@rule
def depth_to_space(x: Value, block_size: int) -> Value:
    n, c, h, w = sizes(x, range(4), "the result's shape")
    b = block_size
    y = reshaped(x, [n, b, b, c // b**2, h, w])
    return reshaped(ai.transpose(y, unsigned([0, 3, 4, 1, 5, 2])), [n, c // b**2, h * b, w * b])


@rule
def space_to_depth(x: Value, block_size: int) -> Value:
    n, c, h, w = sizes(x, range(4), "the result's shape")
    b = block_size
    y = reshaped(x, [n, c, h // b, b, w // b, b])
    return reshaped(ai.transpose(y, unsigned([0, 3, 5, 1, 2, 4])), [n, c * b * b, h // b, w // b])


@rule
def pixel_shuffle(x: Value, upscale_factor: int) -> Value:
    n, c, h, w = sizes(x, range(4), "the result's shape")
    r = upscale_factor
    y = reshaped(x, [n, c // r**2, r, r, h, w])
    return reshaped(ai.transpose(y, unsigned([0, 1, 4, 2, 5, 3])), [n, c // r**2, h * r, w * r])


@rule
def pixel_unshuffle(x: Value, downscale_factor: int) -> Value:
    n, c, h, w = sizes(x, range(4), "the result's shape")
    r = downscale_factor
    y = reshaped(x, [n, c, h // r, r, w // r, r])
    return reshaped(ai.transpose(y, unsigned([0, 1, 3, 5, 2, 4])), [n, c * r * r, h // r, w // r])
