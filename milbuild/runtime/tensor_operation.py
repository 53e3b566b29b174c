"""Whole tensors: joining, splitting, filling, counting (coremltools: ops/defs/iOS15/tensor_operation.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import moves, operation


@moves
def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        raise ValueError("concat with interleave is not known yet")
    return torch.cat([value if value.ndim else value[None] for value in values], axis)


@operation
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    y = x.flip(axis) if reverse else x
    total = torch.cumsum(y, axis, dtype=x.dtype)
    total = total - y if exclusive else total
    return total.flip(axis) if reverse else total


@moves
def fill(shape: list[int], value: Tensor) -> Tensor:
    return value.expand(shape)


@moves
def identity(x: Tensor) -> Tensor:
    return x


@operation
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operation
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@moves
def split(
    x: Tensor, num_splits: int | None = None, split_sizes: list[int] | None = None, axis: int = 0
) -> tuple[Tensor, ...]:
    return torch.split(x, split_sizes if split_sizes is not None else x.shape[axis] // (num_splits or 1), axis)


@moves
def tile(x: Tensor, reps: list[int]) -> Tensor:
    return x.repeat(reps)
