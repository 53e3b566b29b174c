"""Pooling (coremltools: ops/defs/iOS15/pool.py). Core AI's has two axes, and no padding of its own."""

import math
from collections.abc import Callable

import numpy as np
from coreai import authoring as ai
from coreai.authoring import TensorType, Value
from coreai.authoring.constant import constant

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.conv import padded, padding
from milbuild.coreai.rules.values import dtype, like, shape, signed, unsigned


@rule
def max_pool(
    x: Value,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Value:
    return _pooled(x, kernel_sizes, pad_type, strides, pad, ceil_mode, -math.inf, _largest)


@rule
def avg_pool(
    x: Value,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Value:
    around = padding(pad_type.lower(), pad, x, kernel_sizes, strides or [1] * len(kernel_sizes))
    if exclude_padding_from_average and any(size for pair in around for size in pair):
        raise Refused("exclude_padding_from_average is true")
    total = _pooled(x, kernel_sizes, pad_type, strides, pad, ceil_mode, 0.0, _total)
    return ai.broadcasting_divide(total, like(total, math.prod(kernel_sizes)))


@rule
def l2_pool(
    x: Value,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Value:
    squares = ai.broadcasting_mul(x, x)
    return ai.sqrt(_pooled(squares, kernel_sizes, pad_type, strides, pad, ceil_mode, 0.0, _total))


def _pooled(
    x: Value,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None,
    pad: list[int] | None,
    ceil_mode: bool,
    value: float,
    pool: Callable[[Value, list[int], list[int]], Value],
) -> Value:
    if len(kernel_sizes) > 2:
        raise Refused("it has three axes")
    if ceil_mode:
        raise Refused("ceil_mode is true")
    strides = strides or [1] * len(kernel_sizes)
    x = padded(x, padding(pad_type.lower(), pad, x, kernel_sizes, strides), value)
    one = len(kernel_sizes) == 1
    if one:
        x, kernel_sizes, strides = ai.expand_dims(x, signed([2])), [1, *kernel_sizes], [1, *strides]
    y = pool(x, kernel_sizes, strides)
    return ai.shrink_dims(y, signed([2])) if one else y


def _total(x: Value, kernel: list[int], strides: list[int]) -> Value:
    # Its dilation is optional by its signature alone (coreai-core 1.0.0b3), and an array is no value to it.
    return ai.sumpool2d(x, unsigned(kernel), unsigned(strides), constant(unsigned([1, 1])))


def _largest(x: Value, kernel: list[int], strides: list[int]) -> Value:
    found = shape(x)
    ends = [
        -1 if size is None else (size - k) // stride + 1
        for size, k, stride in zip(found[2:], kernel, strides, strict=True)
    ]
    kind = TensorType([-1 if each is None else each for each in found[:2]] + ends, dtype(x).type)
    return ai.maxpool2d(kind, x, unsigned(kernel), unsigned(strides), unsigned([1, 1]), np.array(False))
