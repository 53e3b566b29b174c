"""The operations that the runtime knows, by their names in MIL, and how their arguments arrive.

An operation is a function of its MIL parameters. The annotation of a parameter says what it is given:

    Tensor                  every float as float32, every integer as int32 (or int64 where that is too small), bools
    int, float, bool, str   the content of a value of one element
    list[int], list[bool]   the content of a small tensor: axes, sizes, masks
    list[Tensor]            several tensors (`values` of concat)
    Any                     the value as it is: a tensor, or a list of them

What comes after the `*` is not a parameter of MIL; the engine passes it to operations that have it: `opset` (5 for iOS15,
6, 7, 8, ...), `results` (what the program declares about the results), `in_place` (x is not read again).
The engine rounds a result to the type that the program declares for it; an operation computes in float32.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["OPERATIONS", "Kernel", "Parameter", "moves", "operation"]


@dataclass(frozen=True)
class Parameter:
    name: str
    optional: bool
    several: bool
    convert: Callable[[Any], Any] | None  # from a tensor to what the function takes; None: the tensor itself


@dataclass(frozen=True)
class Kernel:
    """A registered operation. `moves`: it only moves or renames values, so its results need no rounding."""

    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    extras: frozenset[str]
    moves: bool


OPERATIONS: dict[str, Kernel] = {}

F = TypeVar("F", bound=Callable[..., Any])


def operation(function: F) -> F:
    """Registers a function under its name; a trailing underscore, for names that Python keeps for itself, is dropped."""
    return _register(function, moves=False)


def moves(function: F) -> F:
    """Registers an operation whose results hold values of its arguments and may share memory with them."""
    return _register(function, moves=True)


def _register(function: F, moves: bool) -> F:
    hints = typing.get_type_hints(function)
    parameters, extras = {}, set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            extras.add(name)
            continue
        hint, plain = hints[name], name.rstrip("_")
        several, convert = _conversion(hint)
        parameters[plain] = Parameter(name, parameter.default is not parameter.empty, several, convert)
    OPERATIONS[function.__name__.rstrip("_")] = Kernel(function, parameters, frozenset(extras), moves)
    return function


def _conversion(hint: Any) -> tuple[bool, Callable[[Any], Any] | None]:
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if hint == list[Tensor]:
        return True, None
    return False, CONVERSIONS.get(hint)


def _item(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"one number is wanted, got {tuple(value.shape)}")
            value = value.item()
        if kind is str and not isinstance(value, str):
            raise ValueError(f"a string is wanted, got {value!r}")
        return kind(value)

    return convert


def _numbers(kind: type) -> Callable[[Any], Any]:
    def convert(value: Tensor | Iterable[Any]) -> list[Any]:
        return [kind(n) for n in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]

    return convert


CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    **{kind: _item(kind) for kind in (int, float, bool, str)},
    list[int]: _numbers(int),
    list[bool]: _numbers(bool),
}

INT32 = torch.iinfo(torch.int32)


def int32(value: Tensor) -> Tensor:
    """Integers as the runtime holds them; results of torch in int64, that is."""
    return value.to(torch.int32)
