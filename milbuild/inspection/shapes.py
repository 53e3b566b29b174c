"""Lengths that a program leaves open, found by running it once with zeros for weights.

A program does not say which of its open lengths are equal, so they cannot be derived from it alone. The runtime runs the
function with zeros for weights, which take no memory; integers, which shapes depend on, are the program's own.
"""

import dataclasses
from typing import Any

import numpy as np

from milbuild.errors import Error, missing_torch
from milbuild.package.graph import COMPRESSED, Graph
from milbuild.package.reader import Function, Operation, Package, Value

Shape = tuple[int, ...]
HOLLOW = 1 << 12  # elements from which on a weight is replaced by zeros


def open_lengths(graph: Graph) -> bool:
    """Whether any tensor of the function has a shape that is known only at the call."""
    return any(
        (value.shape is None and value.dtype not in ("LIST", "DICTIONARY", "TUPLE")) or None in (value.shape or ())
        for value in graph.values.values()
    )


def run_for_shapes(package: Package, function: str, shapes: dict[str, Shape]) -> dict[str, Shape]:
    """The shape of every value by its name, in a call with these shapes of inputs, by default the description's.

    Raises `Error` for shapes that the function does not take, for what the runtime cannot run, and without PyTorch.
    """
    try:
        from milbuild.runtime.engine import Engine
        from milbuild.runtime.profiling import examples
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise missing_torch("the size of a flexible function") from None
    engine = Engine(_Hollow(package.path), function, "float32", ())
    if any(operation.type == "while_loop" for operation in Graph(engine.function, engine.description).operations):
        raise Error(f"{package.path.name}: function {function} has a loop, whose iterations depend on the weights")
    inputs = examples(engine, shapes)
    found = {name: tuple(array.shape) for name, array in inputs.items() if isinstance(array, np.ndarray)}

    def after(operation: Operation, results: tuple[Any, ...]) -> None:
        for value, result in zip(operation.outputs, results, strict=True):
            if hasattr(result, "shape"):
                found[value.name] = tuple(result.shape)

    engine.predict(inputs, engine.make_state(), after)
    return found


class _Hollow(Package):
    """A package whose large floats are zeros, of one element in memory; compressed weights come decoded."""

    def array(self, value: Any) -> Any:
        found = super().array(value)
        hollow = isinstance(found, np.ndarray) and found.dtype.kind in "fV" and found.size >= HOLLOW
        return _zeros(found.shape) if hollow else found

    def function(self, name: str | None = None, read: Any = None) -> Function:
        function = super().function(name, read)
        return dataclasses.replace(function, operations=tuple(_emptied(function.operations)))


def _emptied(operations: tuple[Operation, ...]) -> list[Operation]:
    found = []
    for operation in operations:
        if operation.type.startswith(COMPRESSED):
            found += [
                Operation("const", value.name, {}, (value,), {"val": _zeros(_fixed(value))})
                for value in operation.outputs
            ]
        else:
            blocks = tuple(
                dataclasses.replace(block, operations=tuple(_emptied(block.operations))) for block in operation.blocks
            )
            found.append(dataclasses.replace(operation, blocks=blocks))
    return found


def _fixed(value: Value) -> Shape:
    return tuple(d or 0 for d in value.shape or ())


def _zeros(shape: Shape) -> np.ndarray:
    # One element for all, which a tensor can share; torch warns of what numpy's broadcast_to gives, which is read-only.
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))
