"""All that milbuild takes of coreai-core which its makers do not promise: graphs whose names are data, states, constants that
are not copied, and the writing of a program's bytecode.

Where it breaks with a new release: `GraphOp` and `outputs_spec` (coreai.authoring.graph_builder), the handle operations and
`ConstantOp` (coreai._compiler.dialects), `DenseResourceElementsAttr.get_from_buffer` (coreai._compiler.ir), and
`AIProgram._save_bytecode`, `_AIModelAsset` (coreai.authoring.asset). Everything else of milbuild.coreai is coreai.authoring's
public `__all__`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coreai._compiler.dialects import coreai as dialect
from coreai._compiler.ir import DenseResourceElementsAttr
from coreai.authoring import AIProgram, Module, TensorType, Value
from coreai.authoring.graph_builder import GraphOp

__all__ = ["Graph", "State", "resource", "save_bytecode"]

# Elements from which on a constant is a resource of its own: smaller ones stand in the program's text.
SMALL = 32


class Graph:
    """An entry point: its inputs by name, then its states by name. Used as a context manager, operations go into it."""

    def __init__(self, name: str, inputs: Mapping[str, TensorType], states: Mapping[str, TensorType]) -> None:
        types = [each._to_mlir() for each in inputs.values()]
        types += [dialect.HandleType.get(each._to_mlir()) for each in states.values()]
        self._graph = GraphOp(name, types, [], [*inputs, *states])
        arguments = self._graph.arguments
        self.inputs = {name: Value._from_mlir(each) for name, each in zip(inputs, arguments, strict=False)}
        self._handles = dict(zip(states, arguments[len(inputs) :], strict=True))

    def __enter__(self) -> "Graph":
        self._block = self._graph.block
        self._block.__enter__()
        self.states = {name: State(handle) for name, handle in self._handles.items()}
        return self

    def __exit__(self, *raised: Any) -> None:
        self._block.__exit__(*raised)

    def outputs(self, values: Sequence[tuple[str, Value]]) -> None:
        """What the graph returns; the last token of each state comes after its values."""
        ends = [(f"{name}_token", state.token) for name, state in self.states.items()]
        self._graph.outputs_spec = [*((name, value._to_mlir()) for name, value in values), *ends]


class State:
    """A state in a graph: what is read of it depends on what was written before."""

    def __init__(self, handle: Any) -> None:
        self._handle, self.token = handle, dialect.create_token()

    def read(self) -> Value:
        value, self.token = dialect.read_handle(self._handle, self.token)
        return Value._from_mlir(value)

    def write(self, value: Value) -> None:
        self.token = dialect.write_handle(self._handle, value._to_mlir(), self.token)


def resource(array: np.ndarray, name: str) -> Value:
    """A constant that stays where it is in memory (a mapped file) until the program is written, under a name of ours:
    coreai-core's own are random, and with them the bytes."""
    kind = TensorType(list(array.shape), array.dtype.type)._to_mlir()
    attribute = DenseResourceElementsAttr.get_from_buffer(np.ascontiguousarray(array), name, kind)
    return Value._from_mlir(dialect.ConstantOp(value=attribute).result)


def save_bytecode(module: Module, path: Path) -> None:
    """The program in MLIR's bytecode, constants inside."""
    AIProgram(module)._save_bytecode(path)
