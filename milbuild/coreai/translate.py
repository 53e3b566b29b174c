"""A package's functions as the graphs of a Core AI program, operation by operation.

Names of inputs, outputs and states stay; a constant of the package is one of the asset, once however many functions read it.
The shapes and types that Core AI infers must be those that the package declares.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coreai import authoring
from coreai.authoring import Module, TensorType, Value

from milbuild.coreai import private
from milbuild.coreai.registry import RULES, Refused, arguments
from milbuild.coreai import rules  # noqa: F401 -- registers them
from milbuild.errors import Error
from milbuild.package.reader import Function, Operation, Package
from milbuild.package.reader import Value as Declared

DTYPES = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "INT32": np.int32,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
OPSETS = {f"CoreML{number}": number for number in (5, 6, 7, 8, 9)}


@dataclass
class Translation:
    """A Core AI program of a package, and what of the package it does not have."""

    module: Module
    functions: list[str]
    notes: list[str] = field(default_factory=list)


def translate(package: Package, functions: Iterable[str] | None = None) -> Translation:
    """All functions of a package, or those named. Raises `Error` that lists every operation without a rule, or names the first
    one whose form has none."""
    names = list(functions or package.function_names)
    found = [package.function(name) for name in names]
    unknown: dict[str, str] = {}
    for function in found:
        for operation in _all(function.operations):
            if operation.type not in RULES and operation.type not in _OWN:
                unknown.setdefault(operation.type, f"{function.name}: {line(operation)}")
    if unknown:
        raise Error(
            f"{package.path.name} has operations that have no rule for Core AI: {', '.join(sorted(unknown))}\n  "
            + "\n  ".join(unknown.values()),
            "Core ML runs them; a package without them is translated.",
        )
    constants = _Constants()
    module = Module.create()
    with module:
        for function in found:
            _Graph(function, constants, package.path.name).write()
    return Translation(module, names)


def _all(operations: Iterable[Operation]) -> Iterable[Operation]:
    for operation in operations:
        yield operation
        for block in operation.blocks:
            yield from _all(block.operations)


def line(operation: Operation) -> str:
    """An operation as its line of MIL."""
    inputs = ", ".join(
        f"{name}={', '.join(each if isinstance(each, str) else f'{np.asarray(each).dtype}{list(np.shape(each))}' for each in values)}"
        for name, values in operation.inputs.items()
    )
    return f"{', '.join(f'%{output.name}' for output in operation.outputs)} = {operation.type}({inputs})"


class _Constants:
    """Big constants by what they are: the same memory is the same constant in every graph."""

    def __init__(self) -> None:
        self._names: dict[tuple[Any, ...], str] = {}
        self._kept: list[np.ndarray] = []

    def name(self, array: np.ndarray) -> str:
        key = array.__array_interface__["data"][0], array.shape, array.dtype.str
        self._kept.append(array)  # memory that is freed would be another constant's soon
        return self._names.setdefault(key, f"constant_{len(self._names)}")


class _Graph:
    def __init__(self, function: Function, constants: _Constants, name: str) -> None:
        self.function, self.constants, self.where = function, constants, name
        self.opset = OPSETS.get(function.opset, 9)
        self.values: dict[str, Any] = {}
        self.written: dict[int, Value] = {}

    def write(self) -> None:
        function = self.function
        inputs = {each.name: self.type(each) for each in function.inputs if not each.is_state}
        states = {each.name: self.type(each) for each in function.inputs if each.is_state}
        graph = private.Graph(function.name, inputs, states)
        with graph:
            self.graph = graph
            self.values |= graph.inputs | graph.states
            for operation in function.operations:
                self.operation(operation)
            graph.outputs([(name, self.output(name)) for name in function.outputs])

    def type(self, declared: Declared) -> TensorType:
        if declared.shape is None or declared.dtype not in DTYPES:
            raise Error(f"{self.where}: {declared.name} of {self.function.name} is a {declared.dtype.lower()}, no tensor")
        return TensorType([-1 if each is None else each for each in declared.shape], DTYPES[declared.dtype])

    def output(self, name: str) -> Value:
        value = self.value(self.values[name])
        return value

    def value(self, found: Any) -> Value:
        """A value of the graph: of an array a constant, written once in each graph."""
        if isinstance(found, Value):
            return found
        if isinstance(found, str):
            raise Refused("a string is no value of a Core AI graph")
        array = np.asarray(found)
        if id(found) not in self.written:
            self.values[f" {len(self.written)}"] = found  # holds its id
            small = array.size < private.SMALL
            self.written[id(found)] = (
                authoring.constant.constant(array) if small else private.resource(array, self.constants.name(array))
            )
        return self.written[id(found)]

    def operation(self, operation: Operation) -> None:
        if operation.type == "const":
            self.values[operation.outputs[0].name] = operation.attributes["val"]
            return
        given = {
            name: [self.values[each] if isinstance(each, str) else each for each in values]
            for name, values in operation.inputs.items()
        }
        try:
            if operation.type == "read_state":
                results = [given["input"][0].read()]
            elif operation.type == "write_state":
                given["input"][0].write(self.value(given["data"][0]))
                results = []
            elif operation.type == "coreml_update_state":
                given["state"][0].write(self.value(given["value"][0]))
                results = [given["state"][0].read()]
            else:
                found = RULES[operation.type]
                called = arguments(found, given, self.value)
                extras = {"results": operation.outputs, "opset": self.opset}
                results = found.function(**called, **{name: extras[name] for name in found.extras})
        except Refused as error:
            raise Error(
                f"{self.where}, {self.function.name}: {operation.type} cannot be translated: {error}\n  {line(operation)}"
            ) from error
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            said = " ".join(str(error).split())[:300]
            raise Error(
                f"{self.where}, {self.function.name}: Core AI refuses what {operation.type} is there: {said}\n  {line(operation)}"
            ) from error
        results = results if isinstance(results, list) else [results]
        for declared, value in zip(operation.outputs, results, strict=False):
            self.check(operation, declared, value)
            self.values[declared.name] = value

    def check(self, operation: Operation, declared: Declared, value: Any) -> None:
        """Core AI infers what the package declares, lengths that are known only at the call apart."""
        if declared.shape is None or not isinstance(value, Value):
            return
        kind = value.type
        shape = [None if each < 0 else each for each in kind.shape]
        wanted = list(declared.shape)
        same = len(shape) == len(wanted) and all(a == b or None in (a, b) for a, b in zip(shape, wanted, strict=True))
        if not same or kind.dtype != TensorType([1], DTYPES[declared.dtype]).dtype:
            raise Error(
                f"{self.where}, {self.function.name}: {operation.type} gives {declared.dtype} {wanted} in Core ML and "
                f"{kind} in Core AI\n  {line(operation)}"
            )


_OWN = ("const", "read_state", "write_state", "coreml_update_state")
