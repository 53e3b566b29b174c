"""Shapes and slices (coremltools: ops/defs/iOS15/tensor_transformation.py, iOS18/tensor_transformation.py)."""

from typing import Any

import torch
from torch import Tensor

from milbuild.runtime.registry import integers, moves


@moves
def expand_dims(x: Any, axes: Tensor) -> Tensor:
    y = torch.as_tensor(x)
    rank = y.ndim + len(integers(axes))
    for axis in sorted(axis % rank for axis in integers(axes)):
        y = y.unsqueeze(axis)
    return y


@moves
def reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    # 0 keeps the axis of the same number.
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


@moves
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze([axis % x.ndim for axis in integers(axes)])


@moves
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(integers(perm))


def _slices(
    x: Tensor, begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any, squeeze_mask: Any
) -> tuple[Any, ...]:
    first, last = integers(begin), integers(end)
    steps = [1] * x.ndim if stride is None else integers(stride)
    free_begin, free_end, squeezed = (
        [0] * x.ndim if mask is None else integers(mask) for mask in (begin_mask, end_mask, squeeze_mask)
    )
    if any(step < 0 for step in steps):
        raise ValueError("a slice with a negative stride is not known yet")
    slices: list[Any] = []
    for axis in range(x.ndim):
        if squeezed[axis]:
            slices.append(first[axis])
            continue
        start = None if free_begin[axis] else first[axis]
        stop = None if free_end[axis] else last[axis]
        slices.append(slice(start, stop, steps[axis]))
    return tuple(slices)


@moves
def slice_by_index(
    x: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:
    return x[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


@moves
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
    in_place: bool = False,
) -> Tensor:
    where = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x if in_place else x.clone()
    if y[where].shape != update.shape:
        raise ValueError(f"the slice has the shape {tuple(y[where].shape)}")
    y[where] = update
    return y


@moves
def slice_by_size(x: Tensor, begin: Any, size: Any) -> Tensor:
    sizes = integers(size)
    first = integers(begin)
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(first, sizes, strict=True))]
