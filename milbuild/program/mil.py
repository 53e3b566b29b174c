"""What is changed in coremltools while a graph is built, and put back afterwards."""

import contextlib
import functools
import gc
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape
from coremltools.converters.mil.mil.types import type_list, type_mapping, type_state
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from milbuild.lowering.writer import SMALLEST_BLOB
from milbuild.weights import Unread

_type_info = functools.cache(types.get_type_info)
_SOLVED = reshape.enforce_volumetric_constraint


def opened_length(volume: Any, shape: Sequence[Any]) -> list[Any]:
    """The shape into which a reshape puts so many numbers: a symbol in it is a length that is left open."""
    known = [int(size) for size in shape if not is_symbolic(size)]
    if len(known) != len(shape) - 1 or not is_symbolic(volume) or 0 in known:
        return list(_SOLVED(volume, shape))
    return [volume / math.prod(known) if is_symbolic(size) else int(size) for size in shape]


# coremltools keeps the blocks and functions that are open, and the counter of names, once for the process.
_ONE = threading.RLock()


@contextlib.contextmanager
def one_build() -> Iterator[None]:
    """Builds of several threads come one after another, since what is changed here, and much of coremltools' builder, is the
    process's. Afterwards everything is as it was. What another thread does with coremltools' builder itself while a build
    runs is not guarded: both would write into the block that is open (coremltools' BLOCK_STACK), and fail or mix.

    Python looks for garbage again and again while a graph grows, a tenth of the time, and everything is still in use: inside
    it does not.
    """
    with _ONE:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


@contextlib.contextmanager
def fresh_builder() -> Iterator[None]:
    """The builder numbers names by a counter of the whole process; ours must not depend on what was built before.

    And three habits of it take most of its time. It adds a constant for each parameter of each operation, axes and masks over
    and over: inside, equal small ones are one. It describes a type, to learn of which kind it is, some forty times for each
    operation: inside, each is described once. And it solves equations for a length that a reshape leaves open: inside, a
    division finds it.
    """
    before, add = dict(mb.name_count), mb._add_const
    shared: dict[Any, Var] = {}

    def add_once(value: Any, name: str, before_op: Any) -> Var:
        key = _small(value)
        if key is None or before_op is not None:
            return add(value, name, before_op)
        if key not in shared:
            shared[key] = add(value, name, before_op)
        return shared[key]

    mb.name_count.clear()
    mb._add_const = add_once
    reshape.enforce_volumetric_constraint = staticmethod(opened_length)
    for module in (type_list, type_mapping, type_state):
        module.get_type_info = _type_info
    try:
        yield
    finally:
        for module in (type_list, type_mapping, type_state):
            module.get_type_info = types.get_type_info
        reshape.enforce_volumetric_constraint = staticmethod(_SOLVED)
        mb._add_const = add
        mb.name_count.clear()
        mb.name_count.update(before)


def _small(value: Any) -> Any:
    """Equal for equal types and values that are in the program itself; None for others."""
    plain = value if isinstance(value, list | tuple) else [value]
    if len(plain) < SMALLEST_BLOB and all(type(each) in (bool, int, float, str) for each in plain):
        return type(value), repr(value)
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, Unread) and value.size < SMALLEST_BLOB:
        return value.dtype.str, value.shape, value.tobytes()
    return None
