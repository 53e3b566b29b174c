"""A package's functions as the graphs of a Core AI program, operation by operation.

Names of inputs, outputs and states stay; a constant of the package is one of the asset, once however many functions read it.
The shapes and types that Core AI infers must be those that the package declares.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from coreai import authoring
from coreai.authoring import Module, TensorType, Value

from milbuild.coreai import asset, private
from milbuild.coreai import rules as _rules  # noqa: F401 -- registers them
from milbuild.coreai.registry import RULES, Refused, arguments
from milbuild.errors import Error
from milbuild.package.reader import Function, Operation, Package, color_name
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
    """A Core AI program of a package. `functions`: its entry points; `notes`: what of the package Core AI has no counterpart for,
    a sentence each; `metadata`: the package's own, by Core ML's names."""

    module: Module
    functions: list[str]
    name: str
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str], replace: bool = True) -> Path:
        """Writes the asset; `.aimodel` is added to a name without a suffix. The same package gives the same bytes. An asset that
        is there is replaced when done, unless `replace` is False. Raises `Error`, and then nothing has changed."""
        return asset.write(self, asset.asset_path(Path(path).expanduser()), replace)


def translated(package: Package, float32: bool = False) -> Translation:
    """All functions of a package, with float32 in float16's place if asked for. Raises `Error` that lists every operation without
    a rule, or names the first one whose form has none."""
    names = sorted(package.function_names, key=lambda name: name != package.default_function)
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
            "docs/coreai.md lists the operations that have one.",
        )
    constants, notes = _Constants(), dict[str, None]()
    module = Module.create()
    try:
        with module:
            for function in found:
                notes |= dict.fromkeys(_Graph(function, constants, package, float32).write())
    except RuntimeError as error:  # of Apple's passes over the whole, which run at the end of the block
        said = " ".join(str(error).split())[:600]
        raise Error(
            f"Core AI refuses the program of {package.path.name}: {said}",
            "It is a fault of milbuild's rules: report it.",
        ) from error
    return Translation(module, names, package.path.name, list(notes), _metadata(package.spec))


def _metadata(spec: Any) -> dict[str, str]:
    told = spec.description.metadata
    own = {"author": told.author, "license": told.license, "description": told.shortDescription}
    own |= {"version": told.versionString} | dict(told.userDefined)
    return {name: text for name, text in own.items() if text}


def _all(operations: Iterable[Operation]) -> Iterable[Operation]:
    for operation in operations:
        yield operation
        for block in operation.blocks:
            yield from _all(block.operations)


def line(operation: Operation) -> str:
    """An operation as its line of MIL."""

    def said(value: Any) -> str:
        return value if isinstance(value, str) else f"{np.asarray(value).dtype}{list(np.shape(value))}"

    inputs = ", ".join(f"{name}={', '.join(map(said, values))}" for name, values in operation.inputs.items())
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
    def __init__(self, function: Function, constants: _Constants, package: Package, float32: bool) -> None:
        self.function, self.constants, self.where = function, constants, package.path.name
        self.description = package.description(function.name)
        self.opset = OPSETS.get(function.opset, 9)
        self.types = DTYPES | ({"FLOAT16": np.float32} if float32 else {})
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []
        self.left_out: set[str] = set()
        self.written: dict[int, Value] = {}

    def write(self) -> list[str]:
        """Writes the graph; returns what Core AI has no counterpart for."""
        function = self.function
        inputs = {each.name: self.type(each) for each in function.inputs if not each.is_state}
        states = {each.name: self.type(each) for each in function.inputs if each.is_state}
        graph = private.Graph(function.name, inputs, states)
        with graph:
            self.values |= graph.inputs | graph.states
            for operation in function.operations:
                self.operation(operation)
            told = [name for name in function.outputs if name not in self.left_out]
            graph.outputs([(name, self.value(self.values[name])) for name in told])
        return [*self._inputs(), *self.notes]

    def _inputs(self) -> Iterable[str]:
        """What is lost of the described inputs."""
        for each in self.description.input:
            if each.type.WhichOneof("Type") == "imageType":
                image = each.type.imageType
                yield (
                    f"{each.name}: an image in Core ML, here its pixels, {color_name(image)} of 0 to 255, as a tensor "
                    f"(1, channels, {image.height}, {image.width})"
                )
            flexible = each.type.multiArrayType.WhichOneof("ShapeFlexibility")
            if flexible is not None:
                yield f"{each.name}: Core AI keeps no bounds of its lengths"
            if each.type.isOptional:
                yield f"{each.name}: may be left out in Core ML, and must be given here"
        for each in self.description.output:
            if each.type.WhichOneof("Type") == "imageType":
                yield f"{each.name}: an image in Core ML, here a tensor of its pixels"

    def type(self, declared: Declared) -> TensorType:
        if declared.shape is None or declared.dtype not in self.types:
            raise Error(
                f"{self.where}: {declared.name} of {self.function.name} is a {declared.dtype.lower()}, no tensor"
            )
        return TensorType([-1 if each is None else each for each in declared.shape], self.types[declared.dtype])

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

    def constant(self, array: Any) -> Any:
        """A constant of the package in the type that it has here."""
        halves = isinstance(array, np.ndarray) and array.dtype == np.float16
        return array.astype(self.types["FLOAT16"], copy=False) if halves else array

    def operation(self, operation: Operation) -> None:
        if operation.type == "const":
            self.values[operation.outputs[0].name] = self.constant(operation.attributes["val"])
            return
        given = {
            name: [self.values[each] if isinstance(each, str) else self.constant(each) for each in values]
            for name, values in operation.inputs.items()
        }
        if (
            operation.type == "cast"
            and self.types["FLOAT16"] is np.float32
            and str(np.ravel(given["dtype"][0])[0]) == "fp16"
        ):
            given["dtype"] = ["fp32"]
        try:
            if operation.type == "classify":
                self.classified(operation, given)
                return
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

    def classified(self, operation: Operation, given: dict[str, list[Any]]) -> None:
        """Core AI has no classifiers: the probabilities stay as a tensor, the best label is left to the caller."""
        label, probabilities = (output.name for output in operation.outputs)
        self.values[probabilities] = self.value(given["probabilities"][0])
        self.left_out.add(label)
        self.notes.append(
            f"{label}: left out, since Core AI has no classifiers; {probabilities} is a tensor in the order of the labels"
        )

    def check(self, operation: Operation, declared: Declared, value: Any) -> None:
        """Core AI infers what the package declares, lengths that are known only at the call apart."""
        if declared.shape is None or not isinstance(value, Value):
            return
        kind = value.type
        shape = [None if each < 0 else each for each in kind.shape]
        wanted = list(declared.shape)
        same = len(shape) == len(wanted) and all(a == b or None in (a, b) for a, b in zip(shape, wanted, strict=True))
        if not same or kind.dtype != TensorType([1], self.types[declared.dtype]).dtype:
            raise Error(
                f"{self.where}, {self.function.name}: {operation.type} gives {declared.dtype} {wanted} in Core ML and "
                f"{kind} in Core AI\n  {line(operation)}"
            )


_OWN = ("const", "classify", "read_state", "write_state", "coreml_update_state")
