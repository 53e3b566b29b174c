"""Values made, joined, repeated and ordered (coremltools: ops/defs/iOS15/tensor_operation.py)."""

import math
from typing import Any

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.values import dtype, like, rank, reshaped, signed, sizes, unsigned, where

ZERO, ON, OFF = np.float32(0), np.int32(1), np.int32(0)


@rule
def concat(values: list[Value], axis: int, interleave: bool = False) -> Value:
    values = [value if rank(value) else reshaped(value, [1]) for value in values]
    axis %= rank(values[0])
    if interleave:
        lengths = sizes(values[0], range(rank(values[0])), "the result's shape")
        wide = ai.concat(np.int32(axis + 1), [ai.expand_dims(value, signed([axis + 1])) for value in values])
        lengths[axis] *= len(values)
        return reshaped(wide, lengths)
    return values[0] if len(values) == 1 else ai.concat(np.int32(axis), list(values))


@rule
def stack(values: list[Value], axis: int) -> Value:
    axis %= rank(values[0]) + 1
    wide = [ai.expand_dims(value, signed([axis])) for value in values]
    return wide[0] if len(wide) == 1 else ai.concat(np.int32(axis), list(wide))


@rule
def split(x: Value, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None) -> list[Value]:
    axis %= rank(x)
    if split_sizes is None:
        (length,) = sizes(x, [axis], "the parts' size")
        split_sizes = [length // (num_splits or 1)] * (num_splits or 1)
    return [x] if len(split_sizes) == 1 else list(ai.split(x, unsigned(split_sizes), np.int32(axis)))


@rule
def cumsum(x: Value, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Value:
    total = ai.scan(x, np.uint32(axis % rank(x)), np.array(reverse), "sum")
    return ai.broadcasting_sub(total, x) if exclusive else total


@rule
def fill(shape: Any, value: Any = ZERO) -> Value:
    number = value if isinstance(value, Value) else np.asarray(value).reshape(())
    if isinstance(shape, Value):
        return ai.broadcast_to(number, ai.cast(shape, np.uint32))
    return ai.broadcast_to(number, unsigned([int(each) for each in np.asarray(shape).reshape(-1)]))


@rule
def fill_like(ref_tensor: Value, value: Any = ZERO) -> Value:
    return ai.broadcast_to(
        value if isinstance(value, Value) else np.asarray(value).reshape(()), ai.get_shape(ref_tensor)
    )


@rule
def flatten2d(x: Value, axis: int = 1) -> Value:
    lengths = sizes(x, range(rank(x)), "the result's shape")
    return reshaped(x, [math.prod(lengths[:axis]), math.prod(lengths[axis:])])


@rule
def one_hot(
    indices: Value, one_hot_vector_size: int, axis: int = -1, on_value: Any = ON, off_value: Any = OFF
) -> Value:
    places = np.arange(one_hot_vector_size, dtype=dtype(indices))
    hot = ai.broadcasting_equal(ai.expand_dims(indices, signed([rank(indices)])), places)
    found = where(hot, _scalar(on_value), _scalar(off_value))
    end = rank(indices)
    axis %= end + 1
    order = [*range(end)]
    order.insert(axis, end)
    return found if axis == end else ai.transpose(found, unsigned(order))


def _scalar(value: Any) -> Any:
    return value if isinstance(value, Value) else np.asarray(value).reshape(())


@rule
def pad(x: Value, pad: list[int], mode: str = "constant", constant_val: float = 0.0) -> Value:
    """The sizes belong to the last axes."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}
    if mode not in modes:
        raise Refused(f"mode is {mode}")
    whole = [0] * (2 * rank(x) - len(pad)) + pad
    return ai.pad(x, unsigned(whole), like(x, constant_val), modes[mode]) if any(whole) else x


@rule
def range_1d(start: Any, end: Any, step: Any) -> Value:
    return ai.range_(*(_zero_d(each) for each in (start, end, step)))


def _zero_d(value: Any) -> Any:
    if isinstance(value, Value):
        return value if rank(value) == 0 else reshaped(value, [])
    return np.asarray(value).reshape(())


@rule
def shape_(x: Value) -> Value:
    return ai.cast(ai.get_shape(x), np.int32)


@rule
def tile(x: Value, reps: list[int]) -> Value:
    times = [rep if rep > 0 else 1 for rep in reps]  # as old coremltools writes an axis that is kept
    return ai.tile(x, unsigned(times)) if max(times) > 1 else x


@rule
def band_part(x: Value, lower: int = -1, upper: int = -1) -> Value:
    height, width = sizes(x, [rank(x) - 2, rank(x) - 1], "which entries stay")
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    kept = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return where(np.asarray(kept), x, like(x, 0))


@rule
def argsort(x: Value, axis: int = -1, ascending: bool = False) -> Value:
    return ai.cast(ai.argsort(x, np.int32(axis % rank(x)), np.array(not ascending), np.array(True)), np.int32)


@rule
def topk(
    x: Value,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> list[Value]:
    """Always sorted; of equal values the first comes first."""
    axis %= rank(x)
    order = ai.argsort(x, np.int32(axis), np.array(not ascending), np.array(True))
    if k != -1:
        ends = [k if each == axis else np.iinfo(np.int32).max for each in range(rank(x))]
        begin, step = np.zeros(rank(x), np.int32), np.ones(rank(x), np.int32)
        order = ai.slice_(order, begin, np.array(ends, np.int32), step)
    index = ai.cast(order, np.int32)
    values = ai.gather_along_axis(x, index, np.int32(axis))
    kind = {"int32": np.int32, "uint16": np.uint16, "int16": np.int16}[output_indices_dtype]
    return [values, ai.cast(index, kind)] if return_indices else [values]
