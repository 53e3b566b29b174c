"""What several rules ask of a value of a graph."""

from collections.abc import Sequence

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused


def shape(x: Value) -> list[int | None]:
    """None for a length that is known only at the call."""
    return [None if each < 0 else each for each in x.type.shape]


def rank(x: Value) -> int:
    return len(x.type.shape)


def dtype(x: Value) -> np.dtype:
    found: np.dtype = np.dtype(x.type.dtype.numpy)
    return found


def is_float(x: Value) -> bool:
    return dtype(x).kind == "f"


def like(x: Value, number: float) -> np.ndarray:
    """A number in the type of x: Core AI promotes nothing."""
    return np.array(number, dtype(x))


def axes_of(x: Value, axes: Sequence[int] | None) -> list[int]:
    """From 0 on, in order; all of them for None."""
    return sorted(axis % rank(x) for axis in (range(rank(x)) if axes is None else axes))


def unsigned(numbers: Sequence[int]) -> np.ndarray:
    """Sizes, repetitions, permutations: operands that Core AI wants without a sign."""
    return np.array(list(numbers), np.uint32)


def signed(numbers: Sequence[int]) -> np.ndarray:
    """Axes that are reduced or reversed: operands that it wants with one."""
    return np.array(list(numbers), np.int32)


def sizes(x: Value, axes: Sequence[int], what: str) -> list[int]:
    """Lengths of axes that a rule must know before the call. Raises `Refused` for one that is open."""
    found = shape(x)
    if any(found[axis] is None for axis in axes):
        raise Refused(f"{what} depends on a length that is known only at the call")
    return [found[axis] or 0 for axis in axes]


def reshaped(x: Value, to: Sequence[int]) -> Value:
    return ai.reshape(x, np.array(list(to), np.int32))


def along(value: Value, axis: int, of: Value) -> Value:
    """A vector as a value that broadcasts along an axis of another."""
    return reshaped(value, [-1 if each == axis % rank(of) else 1 for each in range(rank(of))])


def where(condition: Value, x: Value | np.ndarray, y: Value | np.ndarray) -> Value:
    return ai.broadcasting_where(condition, x, y)
