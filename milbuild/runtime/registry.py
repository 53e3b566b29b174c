"""The operations that the runtime knows, by their names in MIL, and how their arguments arrive.

An operation is a function of its MIL parameters: tensors as torch tensors (every float as float32, every integer as
int32, whatever narrower type is declared), scalars that are constants of the program as Python numbers, strings as str.
"""

from collections.abc import Callable
from typing import Any

import torch

OPERATIONS: dict[str, Callable[..., Any]] = {}

# Operations that only move values or rename them: their results need no rounding, and may share memory with `x`.
MOVES: set[str] = set()


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function under its name; a trailing underscore, for names that Python keeps for itself, is dropped."""
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


def moves(function: Callable[..., Any]) -> Callable[..., Any]:
    MOVES.add(function.__name__.rstrip("_"))
    return operation(function)


def integers(value: Any) -> list[int]:
    """A parameter that holds positions, sizes or axes, as plain numbers."""
    if isinstance(value, torch.Tensor):
        return [int(n) for n in value.reshape(-1).tolist()]
    return [int(n) for n in value] if isinstance(value, list | tuple) else [int(value)]
