"""Whole tensors: joining, splitting, filling, counting (coremltools: ops/defs/iOS15/tensor_operation.py, control_flow.py)."""

from typing import Any

import torch
from torch import Tensor

from milbuild.runtime.registry import integers, moves, operation


@moves
def concat(values: list[Any], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        raise ValueError("concat with interleave is not known yet")
    return torch.cat(
        [torch.as_tensor(value).reshape(-1) if not getattr(value, "ndim", 0) else value for value in values], axis
    )


@operation
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    y = x.flip(axis) if reverse else x
    total = torch.cumsum(y, axis, dtype=x.dtype)
    total = total - y if exclusive else total
    return total.flip(axis) if reverse else total


@moves
def fill(shape: Tensor, value: Any = 0.0) -> Tensor:
    return torch.full(
        integers(shape), value, dtype=torch.int32 if isinstance(value, int) and not isinstance(value, bool) else None
    )


@moves
def identity(x: Any) -> Any:
    return x


@operation
def range_1d(start: Any, end: Any, step: Any) -> Tensor:
    numbers = [value.item() if isinstance(value, Tensor) else value for value in (start, end, step)]
    return torch.arange(*numbers, dtype=torch.float32 if isinstance(numbers[0], float) else torch.int32)


@moves
def select(cond: Tensor, a: Any, b: Any) -> Tensor:
    kind = next(
        (value.dtype for value in (a, b) if isinstance(value, Tensor)),
        torch.float32 if isinstance(a, float) else torch.int32,
    )
    a, b = (torch.as_tensor(value, dtype=kind) for value in (a, b))
    return torch.where(cond, a, b)


@operation
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@moves
def split(
    x: Tensor, num_splits: int | None = None, split_sizes: Tensor | None = None, axis: int = 0
) -> tuple[Tensor, ...]:
    return torch.split(
        x, integers(split_sizes) if split_sizes is not None else x.shape[axis] // (num_splits or 1), axis
    )


@moves
def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(integers(reps))
