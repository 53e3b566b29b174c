"""Of two values, which broadcast (coremltools: ops/defs/iOS15/elementwise_binary.py)."""

from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import rule
from milbuild.coreai.rules.values import is_float, like, where


@rule
def add(x: Value, y: Value) -> Value:
    return ai.broadcasting_add(x, y)


@rule
def sub(x: Value, y: Value) -> Value:
    return ai.broadcasting_sub(x, y)


@rule
def mul(x: Value, y: Value) -> Value:
    return ai.broadcasting_mul(x, y)


@rule
def real_div(x: Value, y: Value) -> Value:
    return ai.broadcasting_divide(x, y)


@rule
def floor_div(x: Value, y: Value) -> Value:
    return ai.broadcasting_floor_divide(x, y)


@rule
def mod(x: Value, y: Value) -> Value:
    """With the divisor's sign; Core AI's `modulo` has the dividend's."""
    return ai.broadcasting_sub(x, ai.broadcasting_mul(ai.broadcasting_floor_divide(x, y), y))


@rule
def pow_(x: Value, y: Value) -> Value:
    return ai.broadcasting_pow(x, y)


@rule
def maximum(x: Value, y: Value) -> Value:
    return ai.broadcasting_maximum(x, y)


@rule
def minimum(x: Value, y: Value) -> Value:
    return ai.broadcasting_minimum(x, y)


@rule
def equal(x: Value, y: Value) -> Value:
    return ai.broadcasting_equal(x, y)


@rule
def not_equal(x: Value, y: Value) -> Value:
    return ai.broadcasting_not_equal(x, y)


@rule
def greater(x: Value, y: Value) -> Value:
    return ai.broadcasting_greater(x, y)


@rule
def less(x: Value, y: Value) -> Value:
    return ai.broadcasting_greater(y, x)


@rule
def greater_equal(x: Value, y: Value) -> Value:
    """Not by `less`: of NaN both are false."""
    return ai.broadcasting_or(ai.broadcasting_greater(x, y), ai.broadcasting_equal(x, y))


@rule
def less_equal(x: Value, y: Value) -> Value:
    return greater_equal(y, x)


@rule
def logical_and(x: Value, y: Value) -> Value:
    return ai.broadcasting_and(x, y)


@rule
def logical_or(x: Value, y: Value) -> Value:
    return ai.broadcasting_or(x, y)


@rule
def logical_xor(x: Value, y: Value) -> Value:
    return ai.broadcasting_xor(x, y)


def sign_of(x: Value) -> Value:
    zero = like(x, 0)
    negative = where(ai.broadcasting_greater(zero, x), like(x, -1), zero if not is_float(x) else x)
    return where(ai.broadcasting_greater(x, zero), like(x, 1), negative)
