"""Elementwise operations of two values, with broadcasting (coremltools: ops/defs/iOS15/elementwise_binary.py).

A value may be a Python number where the program holds a constant of rank 0.
"""

from typing import Any

import torch
from torch import Tensor

from milbuild.runtime.registry import operation


def _tensor(value: Any) -> Tensor:
    return (
        value
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else None)
    )


def _both(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x, y = _tensor(x), _tensor(y)
    # torch would widen int32 against the int64 of a Python number's tensor.
    return (x, y.to(x.dtype)) if x.ndim else (x.to(y.dtype), y)


@operation
def add(x: Any, y: Any) -> Tensor:
    return torch.as_tensor(x + y)


@operation
def sub(x: Any, y: Any) -> Tensor:
    return torch.as_tensor(x - y)


@operation
def mul(x: Any, y: Any) -> Tensor:
    return torch.as_tensor(x * y)


@operation
def real_div(x: Any, y: Any) -> Tensor:
    x, y = _both(x, y)
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operation
def floor_div(x: Any, y: Any) -> Tensor:
    return torch.div(*_both(x, y), rounding_mode="floor")


@operation
def mod(x: Any, y: Any) -> Tensor:
    return torch.remainder(*_both(x, y))


@operation
def pow_(x: Any, y: Any) -> Tensor:
    return torch.pow(*_both(x, y))


@operation
def maximum(x: Any, y: Any) -> Tensor:
    return torch.maximum(*_both(x, y))


@operation
def minimum(x: Any, y: Any) -> Tensor:
    return torch.minimum(*_both(x, y))


@operation
def equal(x: Any, y: Any) -> Tensor:
    return torch.eq(*_both(x, y))


@operation
def not_equal(x: Any, y: Any) -> Tensor:
    return torch.ne(*_both(x, y))


@operation
def greater(x: Any, y: Any) -> Tensor:
    return torch.gt(*_both(x, y))


@operation
def greater_equal(x: Any, y: Any) -> Tensor:
    return torch.ge(*_both(x, y))


@operation
def less(x: Any, y: Any) -> Tensor:
    return torch.lt(*_both(x, y))


@operation
def less_equal(x: Any, y: Any) -> Tensor:
    return torch.le(*_both(x, y))


@operation
def logical_and(x: Any, y: Any) -> Tensor:
    return torch.logical_and(*_both(x, y))


@operation
def logical_or(x: Any, y: Any) -> Tensor:
    return torch.logical_or(*_both(x, y))
