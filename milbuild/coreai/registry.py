"""The MIL operations that are translated, by their names in MIL, and how their arguments arrive.

A rule is a function of an operation's MIL parameters that writes Core AI operations and returns their result, or a list of
results. The annotation of a parameter says what it is given:

    Value                   a value of the graph; a constant of the package becomes a constant of the asset
    int, float, bool, str   the content of a constant of one element
    list[int], list[bool]   the content of a small constant: axes, sizes, masks
    list[Value]             several values (`values` of concat)
    Any                     the value as it is: a `Value`, an array for a constant, or a list of them

What comes after the `*` is not a parameter of MIL; the translator passes it to rules that have it: `results` (what the program
declares about the results), `opset` (5 for iOS15, 6, 7, 8, ...).
"""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from coreai.authoring import Value

__all__ = ["RULES", "Refused", "Rule", "rule"]


class Refused(Exception):
    """An operation, or a form of one, that has no counterpart; the text says what of it."""


@dataclass(frozen=True)
class Parameter:
    name: str
    optional: bool
    kind: Any


@dataclass(frozen=True)
class Rule:
    """`parameters` by their names in MIL."""

    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    extras: frozenset[str]


RULES: dict[str, Rule] = {}

F = TypeVar("F", bound=Callable[..., Any])


def rule(function: F) -> F:
    """Registers a rule under its name; a trailing underscore, for names that Python keeps for itself, is dropped."""
    hints, parameters, extras = typing.get_type_hints(function), {}, set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            extras.add(name)
            continue
        kind = hints[name]
        if isinstance(kind, types.UnionType):
            kind = next(each for each in typing.get_args(kind) if each is not type(None))
        parameters[name.rstrip("_")] = Parameter(name, parameter.default is not parameter.empty, kind)
    RULES[function.__name__.rstrip("_")] = Rule(function, parameters, frozenset(extras))
    return function


def arguments(found: Rule, given: dict[str, list[Any]], graph_value: Callable[[Any], Value]) -> dict[str, Any]:
    """What a rule is called with, of an operation's inputs (arrays for constants). Raises `Refused`."""
    called: dict[str, Any] = {}
    if unknown := sorted(given.keys() - found.parameters.keys()):
        raise Refused(f"it has the input {', '.join(unknown)}, which is not known")
    # In the rule's order: that of a protobuf's map is another in each process, and constants are written as they are met.
    for name, parameter in found.parameters.items():
        values = given.get(name)
        if values is None:
            continue
        if parameter.kind == list[Value]:
            called[parameter.name] = [graph_value(each) for each in values]
        elif len(values) != 1:
            called[parameter.name] = values
        else:
            called[parameter.name] = _one(name, values[0], parameter.kind, graph_value)
    if missing := [name for name, each in found.parameters.items() if not each.optional and each.name not in called]:
        raise Refused(f"it has no input {', '.join(missing)}")
    return called


def _one(name: str, value: Any, kind: Any, graph_value: Callable[[Any], Value]) -> Any:
    if kind is Any:
        return value
    if kind is Value:
        return graph_value(value)
    if isinstance(value, Value):
        raise Refused(f"{name} is computed by the program, and Core AI's operation takes a constant")
    if kind in (int, float, bool, str):
        one = np.asarray(value).reshape(-1)[0]
        return kind(one.item() if isinstance(one, np.generic) else one)
    element = typing.get_args(kind)[0]
    return [element(each) for each in np.asarray(value).reshape(-1).tolist()]
