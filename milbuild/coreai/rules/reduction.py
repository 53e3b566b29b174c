"""Reductions (coremltools: ops/defs/iOS15/reduction.py). Core AI's keep the axes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import rule
from milbuild.coreai.rules.values import axes_of, like, rank, signed, where


def _ended(y: Value, axes: list[int], keep_dims: bool) -> Value:
    return y if keep_dims else ai.shrink_dims(y, signed(axes))


def _reduction(name: str, reduce: Callable[[Value, Any], Value]) -> None:
    def found(x: Value, axes: list[int] | None = None, keep_dims: bool = False) -> Value:
        over = axes_of(x, axes)
        return _ended(reduce(x, signed(over)), over, keep_dims)

    found.__name__ = name
    rule(found)


def _square_sum(x: Value, axes: Any) -> Value:
    return ai.reduce_sum(ai.broadcasting_mul(x, x), axes)


def _log_sum_exp(x: Value, axes: Any) -> Value:
    """Of numbers from the largest on, so that none overflows; of infinite ones the largest itself."""
    largest = ai.reduce_max(x, axes)
    finite = ai.broadcasting_greater(like(x, np.inf), ai.abs_(largest))
    shift = where(finite, largest, like(x, 0))
    return ai.broadcasting_add(ai.log(ai.reduce_sum(ai.exp(ai.broadcasting_sub(x, shift)), axes)), shift)


_reduction("reduce_sum", ai.reduce_sum)
_reduction("reduce_mean", ai.reduce_mean)
_reduction("reduce_max", ai.reduce_max)
_reduction("reduce_min", ai.reduce_min)
_reduction("reduce_prod", ai.reduce_product)
_reduction("reduce_sum_square", _square_sum)
_reduction("reduce_l1_norm", lambda x, axes: ai.reduce_sum(ai.abs_(x), axes))
_reduction("reduce_l2_norm", lambda x, axes: ai.sqrt(_square_sum(x, axes)))
_reduction("reduce_log_sum", lambda x, axes: ai.log(ai.reduce_sum(x, axes)))
_reduction("reduce_log_sum_exp", _log_sum_exp)


@rule
def reduce_argmax(x: Value, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Value:
    return _index(ai.argmax(x, np.int32(axis % rank(x))), axis % rank(x), keep_dims, output_dtype)


@rule
def reduce_argmin(x: Value, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Value:
    return reduce_argmax(ai.broadcasting_sub(like(x, 0), x), axis, keep_dims, output_dtype)


def _index(found: Value, axis: int, keep_dims: bool, output_dtype: str) -> Value:
    return ai.cast(_ended(found, [axis], keep_dims), np.uint16 if output_dtype == "uint16" else np.int32)
