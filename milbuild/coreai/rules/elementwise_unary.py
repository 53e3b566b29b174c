"""Of one value (coremltools: ops/defs/iOS15/elementwise_unary.py)."""

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.elementwise_binary import sign_of
from milbuild.coreai.rules.values import is_float, like, where

TYPES = {
    "fp16": np.float16,
    "fp32": np.float32,
    "int32": np.int32,
    "int16": np.int16,
    "uint16": np.uint16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}


@rule
def cast(x: Value, dtype: str) -> Value:
    if dtype not in TYPES:
        raise Refused(f"dtype is {dtype}")
    if dtype == "bool":
        return ai.broadcasting_not_equal(x, like(x, 0))
    return ai.cast(x, TYPES[dtype])


@rule
def abs_(x: Value) -> Value:
    return ai.abs_(x)


@rule
def acos(x: Value) -> Value:
    return ai.acos(x)


@rule
def asin(x: Value) -> Value:
    return ai.asin(x)


@rule
def atan(x: Value) -> Value:
    return ai.atan(x)


@rule
def atanh(x: Value) -> Value:
    return ai.atanh(x)


@rule
def ceil(x: Value) -> Value:
    return _negative(floor(_negative(x)))


@rule
def clip(x: Value, alpha: float, beta: float) -> Value:
    return ai.broadcasting_minimum(ai.broadcasting_maximum(x, like(x, alpha)), like(x, beta))


@rule
def cos(x: Value) -> Value:
    return ai.cos(x)


@rule
def cosh(x: Value) -> Value:
    return ai.cosh(x)


@rule
def erf(x: Value) -> Value:
    return ai.erf(x)


@rule
def exp(x: Value) -> Value:
    return ai.exp(x)


@rule
def exp2(x: Value) -> Value:
    return ai.broadcasting_pow(like(x, 2), x)


@rule
def floor(x: Value) -> Value:
    return ai.broadcasting_floor_divide(x, like(x, 1))


@rule
def inverse(x: Value, epsilon: float = 1e-4) -> Value:
    return ai.broadcasting_divide(like(x, 1), ai.broadcasting_add(x, like(x, epsilon)))


@rule
def log(x: Value, epsilon: float = 1e-45) -> Value:
    return ai.log(ai.broadcasting_add(x, like(x, epsilon)))


@rule
def logical_not(x: Value) -> Value:
    return ai.not_(x)


@rule
def round_(x: Value) -> Value:
    return ai.round_(x)


@rule
def rsqrt(x: Value, epsilon: float = 1e-12) -> Value:
    return ai.rsqrt(ai.broadcasting_add(x, like(x, epsilon)))


@rule
def sign(x: Value) -> Value:
    return sign_of(x)


@rule
def sin(x: Value) -> Value:
    return ai.sin(x)


@rule
def sinh(x: Value) -> Value:
    return ai.sinh(x)


@rule
def sqrt(x: Value) -> Value:
    return ai.sqrt(x)


@rule
def square(x: Value) -> Value:
    return ai.broadcasting_mul(x, x)


@rule
def tan(x: Value) -> Value:
    return ai.tan(x)


@rule
def tanh(x: Value) -> Value:
    return ai.tanh(x)


@rule
def threshold(x: Value, alpha: float) -> Value:
    return ai.broadcasting_maximum(x, like(x, alpha))


@rule
def select(cond: Value, a: Value, b: Value) -> Value:
    return where(cond, a, b)


@rule
def identity(x: Value) -> Value:
    return x


def _negative(x: Value) -> Value:
    return ai.broadcasting_sub(like(x, -0.0 if is_float(x) else 0), x)
