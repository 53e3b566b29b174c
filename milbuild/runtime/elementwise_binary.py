"""Elementwise operations of two values, with broadcasting (coremltools: ops/defs/iOS15/elementwise_binary.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@operation
def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


@operation
def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@operation
def real_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operation
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@operation
def mod(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)


@operation
def pow_(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


@operation
def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@operation
def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


@operation
def equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.eq(x, y)


@operation
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.ne(x, y)


@operation
def greater(x: Tensor, y: Tensor) -> Tensor:
    return torch.gt(x, y)


@operation
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.ge(x, y)


@operation
def less(x: Tensor, y: Tensor) -> Tensor:
    return torch.lt(x, y)


@operation
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.le(x, y)


@operation
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_and(x, y)


@operation
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_or(x, y)
