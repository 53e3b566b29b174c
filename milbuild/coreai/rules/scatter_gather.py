"""Values chosen by their places (coremltools: ops/defs/iOS15/scatter_gather.py). Core AI counts negative places from the end."""

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.values import dtype, rank, signed, unsigned


@rule
def gather(x: Value, indices: Value, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Value:
    axis %= rank(x)
    if batch_dims:
        raise Refused(f"batch_dims is {batch_dims}")
    # The axis that is chosen from comes first, and goes back to its place behind those before it.
    first = x if axis == 0 else ai.transpose(x, unsigned([axis, *(each for each in range(rank(x)) if each != axis)]))
    taken = ai.gather_nd(first, ai.expand_dims(_signed(indices), signed([rank(indices)])))
    if axis == 0:
        return taken
    count = rank(indices)
    order = [*range(count, count + axis), *range(count), *range(count + axis, count + rank(x) - 1)]
    return ai.transpose(taken, unsigned(order))


@rule
def gather_along_axis(x: Value, indices: Value, axis: int = 0, validate_indices: bool = False) -> Value:
    return ai.gather_along_axis(x, _signed(indices), np.int32(axis % rank(x)))


@rule
def gather_nd(x: Value, indices: Value, batch_dims: int = 0, validate_indices: bool = False) -> Value:
    if batch_dims:
        raise Refused(f"batch_dims is {batch_dims}")
    return ai.gather_nd(x, _signed(indices))


@rule
def scatter_nd(data: Value, indices: Value, updates: Value, mode: str = "add", validate_indices: bool = False) -> Value:
    if mode != "update":
        raise Refused(f"mode is {mode}")
    return ai.scatter_nd(data, _signed(indices), updates)


def _signed(indices: Value) -> Value:
    return indices if dtype(indices) in (np.int32, np.int16) else ai.cast(indices, np.int32)
