"""Normalizations (coremltools: ops/defs/iOS15/normalization.py)."""

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import rule
from milbuild.coreai.rules.values import along, axes_of, like, rank, reshaped, shape, signed, sizes


@rule
def layer_norm(
    x: Value,
    axes: list[int] | None = None,
    gamma: Value | None = None,
    beta: Value | None = None,
    epsilon: float = 1e-5,
) -> Value:
    where = axes_of(x, axes)
    y = _standard(x, where, epsilon)
    if gamma is None and beta is None:
        return y
    found = [n if axis in where else 1 for axis, n in enumerate(shape(x))]
    sizes(x, where, "the shape of gamma and beta")
    wide = [each or 1 for each in found]
    y = y if gamma is None else ai.broadcasting_mul(y, reshaped(gamma, wide))
    return y if beta is None else ai.broadcasting_add(y, reshaped(beta, wide))


@rule
def instance_norm(x: Value, gamma: Value | None = None, beta: Value | None = None, epsilon: float = 1e-5) -> Value:
    y = _standard(x, list(range(2, rank(x))), epsilon)
    y = y if gamma is None else ai.broadcasting_mul(y, along(gamma, 1, x))
    return y if beta is None else ai.broadcasting_add(y, along(beta, 1, x))


@rule
def batch_norm(
    x: Value,
    mean: Value,
    variance: Value,
    gamma: Value | None = None,
    beta: Value | None = None,
    epsilon: float = 1e-5,
) -> Value:
    scale = ai.rsqrt(ai.broadcasting_add(variance, like(variance, epsilon)))
    scale = scale if gamma is None else ai.broadcasting_mul(scale, gamma)
    y = ai.broadcasting_mul(ai.broadcasting_sub(x, along(mean, 1, x)), along(scale, 1, x))
    return y if beta is None else ai.broadcasting_add(y, along(beta, 1, x))


@rule
def l2_norm(x: Value, epsilon: float = 1e-6) -> Value:
    squares = ai.reduce_sum(ai.broadcasting_mul(x, x), signed(range(rank(x) - 3, rank(x))))
    return ai.broadcasting_mul(x, ai.rsqrt(ai.broadcasting_add(squares, like(x, epsilon))))


def _standard(x: Value, axes: list[int], epsilon: float) -> Value:
    """Mean 0 and variance 1 over axes."""
    over = signed(axes)
    centred = ai.broadcasting_sub(x, ai.reduce_mean(x, over))
    variance = ai.reduce_mean(ai.broadcasting_mul(centred, centred), over)
    return ai.broadcasting_mul(centred, ai.rsqrt(ai.broadcasting_add(variance, np.array(epsilon, like(x, 0).dtype))))
