"""Shapes and slices (coremltools: ops/defs/iOS15, iOS16, iOS17 and iOS18/tensor_transformation.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from milbuild.runtime.registry import moves


@moves
def batch_to_space(x: Tensor, block_shape: list[int], crops: list[int]) -> Tensor:
    high, wide = block_shape
    n, c, h, w = x.shape
    if n % (high * wide):
        raise ValueError(f"a batch of {n} does not make blocks of {high} x {wide}")
    blocks = x.reshape(high, wide, n // (high * wide), c, h, w).permute(2, 3, 4, 0, 5, 1)
    y = blocks.reshape(n // (high * wide), c, h * high, w * wide)
    top, bottom, left, right = crops
    return y[:, :, top : h * high - bottom, left : w * wide - right]


@moves
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    # Unlike pixel_shuffle's, the place in the block is the slower part of the channel's number.
    n, c, h, w = x.shape
    b, channels = block_size, c // block_size**2
    return x.reshape(n, b, b, channels, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, channels, h * b, w * b)


@moves
def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@moves
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return functional.pixel_shuffle(x, upscale_factor)


@moves
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return functional.pixel_unshuffle(x, downscale_factor)


@moves
def reshape(x: Tensor, shape: list[int], *, opset: int) -> Tensor:
    if 0 not in shape:
        return x.reshape(shape)
    if opset < 7:  # 0 keeps the axis of the same number
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])
    # From iOS17 on the axis that is as far from the end; where x has none, 1.
    kept = [1] * (len(shape) - x.ndim) + list(x.shape[max(0, x.ndim - len(shape)) :])
    return x.reshape([size or keep for size, keep in zip(shape, kept, strict=True)])


@moves
def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    shape: list[int] = []
    for reference, begin, end, free in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[int(begin) : None if free else int(end)]
    return x.reshape(shape)


@moves
def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


@moves
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    sequence, batch = seq_axis % x.ndim, batch_axis % x.ndim
    if sequence == batch:
        raise ValueError(f"the axis {sequence} is both the sequence's and the batch's")
    size = x.shape[sequence]
    if lengths.shape != (x.shape[batch],) or int(lengths.min()) < 0 or int(lengths.max()) > size:
        raise IndexError(f"the lengths {lengths.tolist()} should be {x.shape[batch]} numbers up to {size}")
    last = lengths.long().reshape([-1 if axis == batch else 1 for axis in range(x.ndim)]) - 1
    places = torch.arange(size).reshape([-1 if axis == sequence else 1 for axis in range(x.ndim)])
    return x.gather(sequence, torch.where(places > last, places, last - places).expand(x.shape))


@moves
def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    where, reversed_axes = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return x[where].flip(reversed_axes) if reversed_axes else x[where]


@moves
def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    for axis, (first, count, length) in enumerate(zip(begin, size, x.shape, strict=True)):
        start = first + length if first < 0 else first
        wanted = length - start if count == -1 else count
        if not 0 <= start <= start + wanted <= length:
            raise IndexError(f"a slice of {count} from {first} on is outside of {length} entries at axis {axis}")
        x = x.narrow(axis, start, wanted)
    return x


@moves
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
    *,
    in_place: bool = False,
) -> Tensor:
    where, reversed_axes = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x if in_place else x.clone()
    if y[where].shape != update.shape:
        raise ValueError(f"the slice has the shape {tuple(y[where].shape)}")
    if reversed_axes:
        update = update.flip(reversed_axes)
    elif in_place and update.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        update = update.clone()  # a cache that is shifted: the parts may overlap
    y[where] = update
    return y


def _slices(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeeze_mask: list[bool] | None,
) -> tuple[tuple[Any, ...], list[int]]:
    """Python's slices, but with positive strides; and the axes of the result to turn round after them."""
    none = [False] * x.ndim
    slices: list[Any] = []
    reversed_axes: list[int] = []
    rank = 0
    for size, first, last, step, from_start, to_end, squeezed in zip(
        x.shape,
        begin,
        end,
        stride or [1] * x.ndim,
        begin_mask or none,
        end_mask or none,
        squeeze_mask or none,
        strict=True,
    ):
        if squeezed:
            slices.append(0 if from_start else first)
            continue
        places = range(size)[slice(None if from_start else first, None if to_end else last, step)]
        if step < 0:
            reversed_axes.append(rank)
            places = places[::-1]
        slices.append(slice(places.start, places.stop, places.step))
        rank += 1
    return tuple(slices), reversed_axes


@moves
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    return x.unfold(axis, size, stride).movedim(-1, axis % x.ndim + 1)


@moves
def space_to_batch(x: Tensor, block_shape: list[int], paddings: list[int]) -> Tensor:
    high, wide = block_shape
    top, bottom, left, right = paddings
    y = functional.pad(x, [left, right, top, bottom])
    n, c, h, w = y.shape
    blocks = y.reshape(n, c, h // high, high, w // wide, wide).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(n * high * wide, c, h // high, w // wide)


@moves
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@moves
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    # An axis of more than one entry stays.
    return x.squeeze() if axes is None else x.squeeze(axes)


@moves
def transpose(x: Tensor, perm: list[int]) -> Tensor:
    return x.permute(perm)
