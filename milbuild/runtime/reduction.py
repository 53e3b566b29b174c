"""Reductions (coremltools: ops/defs/iOS15/reduction.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import integers, operation


def _axes(x: Tensor, axes: Tensor | None) -> list[int]:
    return list(range(x.ndim)) if axes is None else integers(axes)


@operation
def reduce_max(x: Tensor, axes: Tensor | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amax(x, _axes(x, axes), keep_dims)


@operation
def reduce_min(x: Tensor, axes: Tensor | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amin(x, _axes(x, axes), keep_dims)


@operation
def reduce_sum(x: Tensor, axes: Tensor | None = None, keep_dims: bool = False) -> Tensor:
    return torch.sum(x, _axes(x, axes), keep_dims).to(x.dtype)


@operation
def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: bool = False) -> Tensor:
    return torch.mean(x, _axes(x, axes), keep_dims)


@operation
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
    return torch.argmax(x, axis, keep_dims).int()
