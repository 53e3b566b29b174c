"""Elementwise operations of two values, with broadcasting (coremltools: ops/defs/iOS15/elementwise_binary.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import operation


def _divide(x: Tensor, y: Tensor, rounding: str) -> Tensor:
    """Integers divided: by zero 0, as numpy does; by -1 the negative, where the processor's own division may trap."""
    special = (y == 0) | (y == -1)
    return torch.where(special, x * y, torch.div(x, torch.where(special, 1, y), rounding_mode=rounding))


def _whole(x: Tensor, y: Tensor) -> bool:
    return not (x.is_floating_point() or y.is_floating_point())


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
    return _divide(x, y, "trunc") if _whole(x, y) else torch.div(x, y)


@operation
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return _divide(x, y, "floor") if _whole(x, y) else torch.div(x, y, rounding_mode="floor")


@operation
def mod(x: Tensor, y: Tensor) -> Tensor:
    if _whole(x, y):
        # Nothing remains of a division by 0, as numpy has it, nor by -1, with which torch 2.6 stops the process at the lowest.
        return torch.remainder(x, torch.where(y.abs() <= 1, 1, y))
    # In float32 torch gives NaN where the quotient is too large for it, but only to some elements.
    return torch.remainder(x.double(), y.double()).float()


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


@operation
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_xor(x, y)
