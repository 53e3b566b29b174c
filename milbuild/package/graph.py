"""A package's functions as graphs, in which every value knows the operation that makes it and those that read it.

Lint's rules and inspect are based on this. Constants stay on the disk until their values are read, piece by piece.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.package.reader import Function, Operation, Package, Value, type_of

PIECE = 1 << 20  # elements that are read at a time

FLOATS = ("FLOAT16", "FLOAT32", "BFLOAT16", "FLOAT64")
# Operations after which a tensor holds the same numbers, in another place or another type.
MOVES = {
    "cast", "concat", "expand_dims", "gather", "identity", "reshape", "select", "slice_by_index", "slice_by_size", "split",
    "squeeze", "stack", "tile", "transpose",
}  # fmt: skip
# Operations that decode compressed weights; constants, like `const`.
COMPRESSED = "constexpr_"


class Constant:
    """A constant whose values are not read yet: where it is stored, its type and shape."""

    def __init__(self, package: Package, value: Any) -> None:
        self._package, self._value = package, value
        stored = value.WhichOneof("value") == "blobFileValue"
        self.place = (value.blobFileValue.fileName, int(value.blobFileValue.offset)) if stored else None
        if stored and package.saved and not self.packed:
            self.values()  # which raises for a file that was cut off, and reads none of it

    @functools.cached_property
    def _type(self) -> tuple[str, tuple[int | None, ...] | None]:
        return type_of(self._value)

    @property
    def dtype(self) -> str:
        return self._type[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d or 0 for d in self._type[1] or ())

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def packed(self) -> bool:
        """Whether a byte holds several elements: reading them takes up to eight times their size."""
        return re.fullmatch(r"U?INT[12346]", self.dtype) is not None

    def values(self) -> Any:
        """An array (mapped from the file) or a list; None where the weights of a program are not written yet."""
        if self.place is not None and not self._package.saved:
            return None
        return self._package.array(self._value)

    def stored(self) -> np.ndarray:
        """The bytes of a constant in a file, as they are stored."""
        return self._package.stored(self._value)

    def pieces(self) -> Iterator[np.ndarray]:
        """The values of a tensor in parts that fit into a processor's cache."""
        values = self.values()
        if isinstance(values, np.ndarray) and values.dtype != object:
            flat = values.reshape(-1)
            for start in range(0, flat.size, PIECE):
                yield flat[start : start + PIECE]

    @functools.cached_property
    def range(self) -> tuple[float, float, bool] | None:
        """(lowest, highest, whether there is a NaN) of floats and 0; None for other types, and for values not yet written."""
        if self.dtype not in FLOATS or not self.count or self.values() is None:
            return None
        if self.dtype == "FLOAT16":
            return _half_range(self.pieces())
        low = high = 0.0
        nan = False
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of a NaN
            for piece in self.pieces():
                lowest, highest = float(np.min(piece)), float(np.max(piece))
                nan = nan or math.isnan(lowest)
                low, high = min(low, lowest), max(high, highest)
        return low, high, nan

    def number(self) -> float | None:
        """The value of a constant of one element."""
        values = self.values() if self.count == 1 else None
        return float(values.reshape(-1)[0]) if isinstance(values, np.ndarray) and values.dtype != object else None

    def word(self) -> str | None:
        values = self.values() if self.dtype == "STRING" and self.count == 1 else None
        return str(values.item()) if isinstance(values, np.ndarray) else None

    def numbers(self) -> list[int] | None:
        """The values of a short constant (axes, strides, perm)."""
        values = self.values() if self.count <= 64 else None
        return [int(v) for v in values.reshape(-1)] if isinstance(values, np.ndarray) else None


def _half_range(pieces: Iterator[np.ndarray]) -> tuple[float, float, bool]:
    """By the bits, which are in the order of the magnitudes: numpy compares float16 twenty times slower."""
    low = high = 0
    for piece in pieces:
        # The largest of all is a negative number, if there is one; seen with a sign, it is the largest of the others.
        low = max(low, int(piece.view(np.uint16).max()) - 0x8000)
        high = max(high, int(piece.view(np.int16).max()))
    return -_half(low), _half(high), low > 0x7C00 or high > 0x7C00


def _half(bits: int) -> float:
    return float(np.array(bits, np.uint16).view(np.float16))


@dataclass(frozen=True)
class Place:
    """A place in a package: a function, and in it an operation or the name of an input, output or state."""

    function: str = ""
    operation: str = ""
    type: str = ""

    @property
    def pattern(self) -> str:
        """See `pattern`."""
        return pattern(self.operation)


def pattern(name: str) -> str:
    """A name with `*` for its numbers (`transformer_h_*_mlp_c_fc`), which is the same for all layers."""
    return re.sub(r"(?<![^_.])\d+(?![^_.])", "*", name)


@dataclass
class Graph:
    """A function: every operation in it, those of its blocks too, in order."""

    function: Function
    description: Any
    operations: list[Operation] = field(default_factory=list)
    by_type: dict[str, list[tuple[int, Operation]]] = field(default_factory=dict)  # with their places in the order
    depth: dict[int, int] = field(default_factory=dict)  # id of an operation -> how many blocks it is in
    makers: dict[str, Operation] = field(default_factory=dict)
    readers: dict[str, list[Operation]] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values.update({value.name: value for value in self.function.inputs})
        self._add(self.function.operations, 0)

    def _add(self, operations: tuple[Operation, ...], depth: int) -> None:
        for operation in operations:
            self.by_type.setdefault(operation.type, []).append((len(self.operations), operation))
            self.operations.append(operation)
            self.depth[id(operation)] = depth
            for value in operation.outputs:
                self.makers[value.name] = operation
                self.values[value.name] = value
            for entries in operation.inputs.values():
                for entry in entries:
                    if isinstance(entry, str):
                        self.readers.setdefault(entry, []).append(operation)
            for block in operation.blocks:
                self.values.update({value.name: value for value in block.inputs})
                self._add(block.operations, depth + 1)

    @property
    def name(self) -> str:
        return self.function.name

    @functools.cached_property
    def work(self) -> list[Operation]:
        """The operations that are not constants."""
        return [op for op in self.operations if op.type != "const" and not op.type.startswith(COMPRESSED)]

    @functools.cached_property
    def constants(self) -> list[tuple[Operation, Constant]]:
        found = [(op, op.attributes.get("val")) for op in self.of("const")]
        bound = [
            (op, entry)
            for op in self.operations
            for entries in op.inputs.values()
            for entry in entries
            if isinstance(entry, Constant)
        ]
        return [(op, constant) for op, constant in found if isinstance(constant, Constant)] + bound

    def of(self, *types: str) -> Iterator[Operation]:
        """The operations of the types, in order."""
        found = [self.by_type[name] for name in types if name in self.by_type]
        return (op for _, op in (found[0] if len(found) == 1 else sorted(itertools.chain(*found), key=_place)))

    def entries(self, operation: Operation, *parameters: str) -> list[Any]:
        """What is bound to parameters (to all, without one): names and constants."""
        chosen = parameters or tuple(operation.inputs)
        return [entry for parameter in chosen for entry in operation.inputs.get(parameter, [])]

    def constant(self, operation: Operation, parameter: str) -> Constant | None:
        """What is bound to a parameter, if that is one constant."""
        entries = operation.inputs.get(parameter, [])
        return self.constant_of(entries[0]) if len(entries) == 1 else None

    def constant_of(self, entry: Any) -> Constant | None:
        if isinstance(entry, Constant):
            return entry
        maker = self.makers.get(entry)
        value = maker.attributes.get("val") if maker is not None and maker.type == "const" else None
        return value if isinstance(value, Constant) else None

    def is_constant(self, entry: Any) -> bool:
        """Whether it is a constant, or a compressed one."""
        maker = None if isinstance(entry, Constant) else self.makers.get(entry)
        return isinstance(entry, Constant) or (maker is not None and maker not in self._work_ids)

    @functools.cached_property
    def _work_ids(self) -> "_Identities":
        return _Identities(self.work)

    def value(self, operation: Operation, parameter: str) -> Value | None:
        """The type and shape of what is bound to a parameter."""
        entries = operation.inputs.get(parameter, [])
        return self.type_of(entries[0]) if entries else None

    def type_of(self, entry: Any) -> Value | None:
        if isinstance(entry, Constant):
            return Value("", entry.dtype, entry.shape)
        return self.values.get(entry)

    def maker(self, operation: Operation, parameter: str) -> Operation | None:
        entries = operation.inputs.get(parameter, [])
        return self.makers.get(entries[0]) if entries and isinstance(entries[0], str) else None

    def follow(self, name: str, through: set[str]) -> Iterator[Operation]:
        """The operations that read a value, and those that read it after operations of the types `through`."""
        seen, names = {name}, [name]
        while names:
            for operation in self.readers.get(names.pop(), []):
                yield operation
                if operation.type in through:
                    for value in operation.outputs:
                        if value.name not in seen:
                            seen.add(value.name)
                            names.append(value.name)

    def origin(self, name: str, through: set[str] | None = None) -> Iterator[str]:
        """The names that a value comes from, back through operations of the types `through` (all, without)."""
        seen, names = {name}, [name]
        while names:
            current = names.pop()
            yield current
            maker = self.makers.get(current)
            if maker is not None and (through is None or maker.type in through):
                for entry in self.entries(maker):
                    if isinstance(entry, str) and entry not in seen:
                        seen.add(entry)
                        names.append(entry)

    def at(self, operation: Operation) -> Place:
        return Place(self.name, operation.name, operation.type)

    def here(self, name: str = "") -> Place:
        return Place(self.name, name)


def _place(entry: tuple[int, Operation]) -> int:
    return entry[0]


class _Identities:
    def __init__(self, operations: list[Operation]) -> None:
        self._ids = {id(operation) for operation in operations}

    def __contains__(self, operation: Operation) -> bool:
        return id(operation) in self._ids


class Graphs:
    """The functions of a package as graphs."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.spec = package.spec
        self.version = int(package.spec.specificationVersion)
        self._constants: dict[Any, Constant] = {}
        self.graphs = [
            Graph(package.function(name, self._constant), package.description(name)) for name in package.function_names
        ]
        self.by_name = {graph.name: graph for graph in self.graphs}

    def _constant(self, value: Any) -> Constant:
        """One for each place in the file and type, so that weights that functions share are read once."""
        if value.WhichOneof("value") != "blobFileValue":
            return Constant(self.package, value)
        key = (value.blobFileValue.fileName, value.blobFileValue.offset, value.type.SerializeToString())
        if key not in self._constants:
            self._constants[key] = Constant(self.package, value)
        return self._constants[key]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.spec.description.metadata.userDefined)

    @functools.cached_property
    def stored(self) -> list[Constant]:
        """The constants in files, each once."""
        return list(self._constants.values())

    @property
    def from_coremltools(self) -> bool:
        """Written by coremltools' own passes, which leave a note."""
        return "buildInfo" in self.spec.mlProgram.attributes

    @functools.cached_property
    def weight_bytes(self) -> int:
        if not self.package.saved:
            return sum(_bytes(constant) for constant in self.stored)
        return sum(file.stat().st_size for file in Path(self.package.path).rglob("*.bin"))

    def works(self, *types: str) -> Iterator[tuple[Graph, Operation]]:
        """The operations of the types, of every function."""
        for graph in self.graphs:
            for operation in graph.of(*types):
                yield graph, operation

    def constants(self) -> Iterator[tuple[Graph, Operation, Constant]]:
        """Every constant of every function; one that functions share once."""
        seen = set()
        for graph in self.graphs:
            for operation, constant in graph.constants:
                if id(constant) not in seen:
                    seen.add(id(constant))
                    yield graph, operation, constant

    def features(self, kind: str) -> Iterator[tuple[Graph, Any]]:
        """Descriptions of the inputs, outputs or states (kind: input, output, state)."""
        for graph in self.graphs:
            for feature in getattr(graph.description, kind):
                yield graph, feature


def _bytes(constant: Constant) -> int:
    from milbuild.package.storage import size

    return size(constant.dtype, constant.count)


def array_of(feature: Any) -> Any:
    """The multi-array of a feature's description, of a state's too; None for images, labels and dictionaries."""
    kind = feature.type.WhichOneof("Type")
    if kind == "stateType":
        return feature.type.stateType.arrayType
    return feature.type.multiArrayType if kind == "multiArrayType" else None


def ranges(feature: Any) -> list[tuple[int, int]] | None:
    """The bounds of every axis of a ranged input; None for other inputs."""
    array = array_of(feature)
    if array is None or array.WhichOneof("ShapeFlexibility") != "shapeRange":
        return None
    return [(int(size.lowerBound), int(size.upperBound)) for size in array.shapeRange.sizeRanges]


def listed(feature: Any) -> list[tuple[int, ...]] | None:
    """The listed shapes of an input; None for other inputs."""
    array = array_of(feature)
    if array is None or array.WhichOneof("ShapeFlexibility") != "enumeratedShapes":
        return None
    return [tuple(entry.shape) for entry in array.enumeratedShapes.shapes]


def flexible(feature: Any) -> bool:
    bounds = ranges(feature)
    return listed(feature) is not None or any(low != high for low, high in bounds or [])
