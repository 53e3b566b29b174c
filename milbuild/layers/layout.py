"""Which axis is which: layer functions that know it have one body for each layout, chosen by context as the opset is.

The plain layout is (B, T, D), and (B, H, T, E) inside attention. Another is a `Layout` with functions of its own for those that
its model classes call:

    wide = Layout("wide", {linear: _linear, attention: _attention, ...})
    with use(wide):
        milbuild.build(...)

Model classes and heads name no axis, so none of them changes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from milbuild.errors import Error

P = ParamSpec("P")
R = TypeVar("R")


class Layout:
    """Bodies of layer functions by the functions of that name in milbuild.layers. Those that a layout lacks raise an
    `Error` when they are called; with `rest` they are that one's."""

    def __init__(
        self, name: str, functions: Mapping[Callable[..., Any], Callable[..., Any]], rest: "Layout | None" = None
    ) -> None:
        self.name = name
        self.functions: dict[str, Callable[..., Any]] = {
            **(rest.functions if rest else {}),
            **{key(each): f for each, f in functions.items()},
        }


PLAIN = Layout("plain", {})
_current: ContextVar[Layout] = ContextVar("layout", default=PLAIN)


@contextmanager
def use(layout: Layout) -> Iterator[None]:
    """Graphs that are written meanwhile, in this thread, have the layout."""
    token = _current.set(layout)
    try:
        yield
    finally:
        _current.reset(token)


def layer(plain: Callable[P, R]) -> Callable[P, R]:
    """Marks a function that knows the layout; what follows is its body in the plain one."""
    name = key(plain)
    PLAIN.functions[name] = plain

    @wraps(plain)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        layout = _current.get()
        if name not in layout.functions:
            raise Error(f"the layout {layout.name} has no function for {name}")
        result: R = layout.functions[name](*args, **kwargs)
        return result

    return chosen


def key(function: Callable[..., Any]) -> str:
    """milbuild.layers.linear.conv1d -> linear.conv1d."""
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
