"""Elementwise operations of one value (coremltools: ops/defs/iOS15/elementwise_unary.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import operation

# The integer types that a cast can name.
INTEGERS = {
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
}
FLOATS = ("fp16", "fp32")


@operation
def cast(x: Tensor, dtype: str) -> Tensor:
    """Floats saturate where an integer type ends, NaN becomes 0; integers wrap. Narrow floats are the engine's to round."""
    if dtype in FLOATS:
        return x.float()
    if dtype == "bool":
        return x.bool()
    kind = INTEGERS[dtype]
    if x.is_floating_point():
        low, high = torch.iinfo(kind).min, torch.iinfo(kind).max
        x = x.double().nan_to_num(0, high, low).clamp(low, high)  # torch leaves undefined what is out of range
    return x.to(kind).to(torch.int32)


@operation
def abs_(x: Tensor) -> Tensor:
    return torch.abs(x)


@operation
def acos(x: Tensor) -> Tensor:
    return torch.acos(x)


@operation
def asin(x: Tensor) -> Tensor:
    return torch.asin(x)


@operation
def atan(x: Tensor) -> Tensor:
    return torch.atan(x)


@operation
def atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


@operation
def ceil(x: Tensor) -> Tensor:
    return torch.ceil(x)


@operation
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@operation
def cos(x: Tensor) -> Tensor:
    return torch.cos(x)


@operation
def cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


@operation
def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


@operation
def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


@operation
def exp2(x: Tensor) -> Tensor:
    return torch.exp2(x) if x.is_floating_point() else cast(torch.exp2(x.double()), "int32")


@operation
def floor(x: Tensor) -> Tensor:
    return torch.floor(x)


@operation
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operation
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@operation
def round_(x: Tensor) -> Tensor:
    return torch.round(x)


@operation
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operation
def sign(x: Tensor) -> Tensor:
    return torch.where(x != x, x, torch.sign(x))  # NaN stays; torch's sign of it is 0


@operation
def sin(x: Tensor) -> Tensor:
    return torch.sin(x)


@operation
def sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


@operation
def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


@operation
def square(x: Tensor) -> Tensor:
    return torch.square(x)


@operation
def tan(x: Tensor) -> Tensor:
    return torch.tan(x)


@operation
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@operation
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)
