"""Activations (coremltools: ops/defs/iOS15/activation.py)."""

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.elementwise_unary import clip
from milbuild.coreai.rules.values import along, like, rank, where


@rule
def relu(x: Value) -> Value:
    return ai.relu(x)


@rule
def relu6(x: Value) -> Value:
    return clip(x, 0.0, 6.0)


@rule
def clamped_relu(x: Value, alpha: float, beta: float) -> Value:
    return ai.broadcasting_minimum(leaky_relu(x, alpha), like(x, beta))


@rule
def leaky_relu(x: Value, alpha: float) -> Value:
    return _where_positive(x, x, ai.broadcasting_mul(x, like(x, alpha)))


@rule
def prelu(x: Value, alpha: Value) -> Value:
    return _where_positive(x, x, ai.broadcasting_mul(x, along(alpha, 1, x)))


@rule
def elu(x: Value, alpha: float) -> Value:
    less = ai.broadcasting_sub(ai.exp(ai.broadcasting_minimum(x, like(x, 0))), like(x, 1))
    return _where_positive(x, x, ai.broadcasting_mul(less, like(x, alpha)))


@rule
def gelu(x: Value, mode: str = "EXACT") -> Value:
    if mode == "SIGMOID_APPROXIMATION":
        return ai.broadcasting_mul(x, ai.sigmoid(ai.broadcasting_mul(x, like(x, 1.702))))
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise Refused(f"mode is {mode}")
    return ai.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@rule
def linear_activation(x: Value, alpha: float, beta: float) -> Value:
    return ai.broadcasting_add(ai.broadcasting_mul(x, like(x, alpha)), like(x, beta))


@rule
def scaled_tanh(x: Value, alpha: float, beta: float) -> Value:
    return ai.broadcasting_mul(ai.tanh(ai.broadcasting_mul(x, like(x, beta))), like(x, alpha))


@rule
def sigmoid(x: Value) -> Value:
    return ai.sigmoid(x)


@rule
def sigmoid_hard(x: Value, alpha: float, beta: float) -> Value:
    return clip(linear_activation(x, alpha, beta), 0.0, 1.0)


@rule
def silu(x: Value) -> Value:
    return ai.silu(x)


@rule
def softmax(x: Value, axis: int = -1) -> Value:
    return ai.softmax(x, np.int32(axis % rank(x)))


@rule
def softplus(x: Value) -> Value:
    """max(x, 0) + log(1 + exp(-|x|)): exp of a large number is never asked for."""
    small = ai.exp(ai.broadcasting_sub(like(x, 0), ai.abs_(x)))
    return ai.broadcasting_add(ai.relu(x), ai.log(ai.broadcasting_add(small, like(x, 1))))


@rule
def softplus_parametric(x: Value, alpha: Value, beta: Value) -> Value:
    return ai.broadcasting_mul(softplus(ai.broadcasting_mul(x, along(beta, 1, x))), along(alpha, 1, x))


@rule
def softsign(x: Value) -> Value:
    return ai.broadcasting_divide(x, ai.broadcasting_add(ai.abs_(x), like(x, 1)))


@rule
def thresholded_relu(x: Value, alpha: float) -> Value:
    reached = ai.broadcasting_or(ai.broadcasting_greater(x, like(x, alpha)), ai.broadcasting_equal(x, like(x, alpha)))
    return where(reached, x, like(x, 0))


def _where_positive(x: Value, positive: Value, negative: Value) -> Value:
    return where(ai.broadcasting_greater(x, like(x, 0)), positive, negative)
