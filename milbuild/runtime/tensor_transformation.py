"""Shapes and slices (coremltools: ops/defs/iOS15/tensor_transformation.py, iOS18/tensor_transformation.py)."""

from typing import Any

from torch import Tensor

from milbuild.runtime.registry import moves


@moves
def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    y = x
    rank = y.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        y = y.unsqueeze(axis)
    return y


@moves
def reshape(x: Tensor, shape: list[int]) -> Tensor:
    # 0 keeps the axis of the same number.
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@moves
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze([axis % x.ndim for axis in axes])


@moves
def transpose(x: Tensor, perm: list[int]) -> Tensor:
    return x.permute(perm)


def _slices(
    x: Tensor,
    first: list[int],
    last: list[int],
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeeze_mask: list[bool] | None,
) -> tuple[Any, ...]:
    steps = stride or [1] * x.ndim
    free_begin, free_end, squeezed = (mask or [False] * x.ndim for mask in (begin_mask, end_mask, squeeze_mask))
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
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    return x[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


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
    where = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x if in_place else x.clone()
    if y[where].shape != update.shape:
        raise ValueError(f"the slice has the shape {tuple(y[where].shape)}")
    y[where] = update
    return y


@moves
def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin, size, strict=True))]
