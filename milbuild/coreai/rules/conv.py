"""Convolutions (coremltools: ops/defs/iOS15/conv.py). Core AI's have two axes, and no padding of their own."""

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.values import along, like, rank, signed, sizes, unsigned


@rule
def conv(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Value:
    count = rank(x) - 2
    if count > 2:
        raise Refused("it has three axes")
    strides, dilations = strides or [1] * count, dilations or [1] * count
    kernel = sizes(weight, range(2, rank(weight)), "the padding")
    extents = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    x = padded(x, padding(pad_type, pad, x, extents, strides), 0.0)
    if count == 1:
        x, weight = ai.expand_dims(x, signed([2])), ai.expand_dims(weight, signed([2]))
        strides, dilations = [1, *strides], [1, *dilations]
    y = ai.conv2d(x, weight, unsigned(strides), unsigned(dilations), np.uint32(groups))
    y = ai.shrink_dims(y, signed([2])) if count == 1 else y
    return y if bias is None else ai.broadcasting_add(y, along(bias, 1, y))


def padding(
    pad_type: str, pad: list[int] | None, x: Value, extents: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    """Before and after every spatial axis; `same` as tensorflow does, no more than ceil(size / stride) windows need."""
    count = rank(x) - 2
    if pad_type == "valid":
        return [(0, 0)] * count
    if pad_type == "custom":
        given = pad or [0, 0] * count
        return list(zip(given[::2], given[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise Refused(f"pad_type is {pad_type}")
    found = []
    for size, extent, stride in zip(sizes(x, range(2, rank(x)), "the padding"), extents, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        low = (total + 1) // 2 if pad_type == "same_lower" else total // 2
        found.append((low, total - low))
    return found


def padded(x: Value, around: list[tuple[int, int]], value: float) -> Value:
    whole = [0, 0, 0, 0, *(size for pair in around for size in pair)]
    if min(whole) < 0:
        raise Refused(f"the padding is {around}")
    return ai.pad(x, unsigned(whole), like(x, value), "constant") if any(whole) else x
