"""Elementwise operations of one value (coremltools: ops/defs/iOS15/elementwise_unary.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import operation

# The types a cast can name, as the runtime holds them. Narrow floats are rounded by the declared type of the result.
CASTS = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int8": torch.int32,
    "uint8": torch.int32,
    "int16": torch.int32,
    "uint16": torch.int32,
    "int32": torch.int32,
    "bool": torch.bool,
}


@operation
def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(CASTS[dtype])


@operation
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@operation
def abs_(x: Tensor) -> Tensor:
    return torch.abs(x)


@operation
def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


@operation
def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


@operation
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operation
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation
def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


@operation
def square(x: Tensor) -> Tensor:
    return torch.square(x)


@operation
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)
