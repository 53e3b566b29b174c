"""Reductions (coremltools: ops/defs/iOS15/reduction.py). Without axes, over all of them."""

import torch
from torch import Tensor

from milbuild.runtime.registry import int32, operation


def _axes(x: Tensor, axes: list[int] | None) -> list[int]:
    return axes or list(range(x.ndim))


@operation
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return int32(torch.argmax(x, axis, keep_dims))


@operation
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return int32(torch.argmin(x, axis, keep_dims))


@operation
def reduce_l1_norm(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x.abs(), axes, keep_dims)


@operation
def reduce_l2_norm(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x.square(), axes, keep_dims).sqrt().to(x.dtype)


@operation
def reduce_log_sum(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x, axes, keep_dims).log().to(x.dtype)


@operation
def reduce_log_sum_exp(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return torch.logsumexp(x.float(), _axes(x, axes), keep_dims).to(x.dtype)


@operation
def reduce_max(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amax(x, _axes(x, axes), keep_dims)


@operation
def reduce_mean(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    where = _axes(x, axes)
    if x.is_floating_point():
        return torch.mean(x, where, keep_dims)
    count = x.numel() // max(1, torch.amax(x, where).numel())
    return torch.div(reduce_sum(x, axes, keep_dims), count, rounding_mode="trunc")


@operation
def reduce_min(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amin(x, _axes(x, axes), keep_dims)


@operation
def reduce_prod(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in _axes(x, axes)), reverse=True):
        x = torch.prod(x, axis, keep_dims, dtype=x.dtype)
    return x


@operation
def reduce_sum(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return torch.sum(x, _axes(x, axes), keep_dims, dtype=x.dtype)


@operation
def reduce_sum_square(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    return reduce_sum(x * x, axes, keep_dims)
