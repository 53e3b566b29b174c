"""Any saved package, checked before it is believed: its description, its functions, its values mapped from disk.

Nothing is ever written into a package that is read. The runtime, inspect and lint are based on this.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from coremltools import proto

from milbuild.errors import Error
from milbuild.package import TARGETS
from milbuild.package.storage import ALIGNMENT, BITS, CODES, DTYPES, HEADER, METADATA, SENTINEL, decode, size
from milbuild.weights.files import refuse_pointer

NAMES = {number: name for name, number in proto.MIL_pb2.DataType.items()}  # of MIL's element types
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
PROGRAM = "coremltools.convert(..., convert_to='mlprogram')"
DAMAGED = "The package is damaged or was cut off while it was copied: build or download it again."


@dataclass(frozen=True)
class Value:
    """The name, element type (MIL's: FLOAT16) and shape of a value; None for a length that is known only at the call.

    The shape is None where the rank is unknown, and for what is no tensor: the type is then LIST, DICTIONARY or TUPLE.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    is_state: bool = False


@dataclass(frozen=True)
class Operation:
    """`inputs` are names of values or, for constants bound in place, arrays. `attributes` are those of the file but `name`.

    A function that is read with a `read` function has its results in place of the arrays of constants.
    """

    type: str
    name: str
    inputs: dict[str, list[Any]]
    outputs: tuple[Value, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: tuple["Block", ...] = ()


@dataclass(frozen=True)
class Block:
    """What an operation like while_loop repeats or chooses; it sees the values around it."""

    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Function(Block):
    name: str
    opset: str


class OnDisk(Protocol):
    """What knows the path of its package: a `milbuild.Model`, coremltools' MLModel."""

    @property
    def package_path(self) -> str: ...


Source = str | os.PathLike[str] | OnDisk


def path_of(source: Source) -> Path:
    """Where a package is that was given by its path or as a model."""
    path = source if isinstance(source, str | os.PathLike) else source.package_path
    return Path(path).expanduser()


class Package:
    """A package of type ML Program: `spec` (the Model protobuf), `functions`, `weights` (weight.bin, mapped)."""

    def __init__(self, path: str | Path, spec: Any = None) -> None:
        """`spec` is for a program that was lowered and not saved: `path` is then its name, and there are no files."""
        self.path = Path(path)
        self.saved = spec is None
        self.spec = read_spec(self.path) if spec is None else spec
        check_program(self.path.name, self.spec)
        self._files: dict[str, np.ndarray] = {}

    @functools.cached_property
    def digest(self) -> str:
        """A hash of everything but the weights in files, which tells models apart."""
        return hashlib.sha256(self.spec.SerializeToString(deterministic=True)).hexdigest()

    @property
    def function_names(self) -> list[str]:
        return sorted(self.spec.mlProgram.functions)

    @property
    def default_function(self) -> str:
        return str(self.spec.description.defaultFunctionName or "main")

    def description(self, function: str) -> Any:
        """The description (input, output, state) of a function."""
        named = [description for description in self.spec.description.functions if description.name == function]
        return named[0] if named else self.spec.description

    def function(self, name: str | None = None, read: Callable[[Any], Any] | None = None) -> Function:
        """A function by its name, the default one without. Raises `Error` for one that the package does not have.

        `read` turns a constant's protobuf into what the operations hold for it; by default its content.
        """
        name = name or self.default_function
        if name not in self.spec.mlProgram.functions:
            raise Error(f"{self.path.name} has no function {name}; it has {', '.join(self.function_names)}")
        function = self.spec.mlProgram.functions[name]
        blocks = function.block_specializations
        block = blocks.get(function.opset) if function.opset in blocks else None
        if block is None:
            raise Error(f"{self.path.name}: function {name} has no block for its opset {function.opset}", DAMAGED)
        inputs = tuple(_value(entry) for entry in function.inputs)
        return Function(
            inputs, tuple(block.outputs), tuple(self._operations(block, read or self.array)), name, function.opset
        )

    def array(self, value: Any) -> Any:
        """The content of a Value protobuf: an array (mapped from the disk where it is in a file), or a list of such."""
        kind = value.WhichOneof("value")
        if value.type.WhichOneof("type") == "listType" and kind == "immediateValue":
            return [self.array(entry) for entry in value.immediateValue.list.values]
        if value.type.WhichOneof("type") != "tensorType" or kind is None:
            raise Error(
                f"{self.path.name} holds a constant of the kind {value.type.WhichOneof('type')}, which is unknown"
            )
        dtype, shape = _tensor_type(value.type)
        if shape is None or None in shape or dtype not in DTYPES:
            raise Error(f"{self.path.name} holds a value of type {dtype} and shape {shape}", DAMAGED)
        whole = tuple(d for d in shape if d is not None)
        if kind == "blobFileValue":
            return self._blob(value.blobFileValue, dtype, whole)
        return _immediate(value.immediateValue.tensor, dtype, whole, self.path.name)

    def _operations(self, block: Any, read: Callable[[Any], Any]) -> Iterator[Operation]:
        for entry in block.operations:
            attributes = {
                key: (read if key == "val" else self.array)(value)
                for key, value in entry.attributes.items()
                if key != "name"
            }
            outputs = tuple(_value(output) for output in entry.outputs)
            # An operation need not have a name; its first value always has.
            named = entry.attributes["name"].immediateValue.tensor.strings.values if "name" in entry.attributes else []
            name = str(named[0]) if len(named) == 1 else ""
            inputs = {
                key: [
                    binding.name if binding.WhichOneof("binding") == "name" else read(binding.value)
                    for binding in argument.arguments
                ]
                for key, argument in entry.inputs.items()
            }
            blocks = tuple(
                Block(
                    tuple(_value(value) for value in inner.inputs),
                    tuple(inner.outputs),
                    tuple(self._operations(inner, read)),
                )
                for inner in entry.blocks
            )
            yield Operation(
                entry.type, name or (outputs[0].name if outputs else ""), inputs, outputs, attributes, blocks
            )

    def stored(self, value: Any) -> np.ndarray:
        """The bytes of a Value protobuf in a file, mapped, as they are stored: elements of few bits packed."""
        dtype, shape = _tensor_type(value.type)
        return self._bytes(value.blobFileValue, dtype, tuple(d or 0 for d in shape or ()))

    def _blob(self, blob: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        return decode(self._bytes(blob, dtype, shape), dtype, math.prod(shape)).reshape(shape)

    def _bytes(self, blob: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        data = self._file(blob.fileName)
        where, at = f"{self.path.name}: {blob.fileName.removeprefix('@model_path/')}", blob.offset
        if at % ALIGNMENT or at + METADATA.size > data.size:
            raise Error(f"{where} has {data.size:,} bytes, a value should begin at {at:,}", DAMAGED)
        sentinel, code, nbytes, start, _ = METADATA.unpack(data[at : at + METADATA.size].tobytes())
        needed = size(dtype, math.prod(shape))
        if sentinel != SENTINEL or code != CODES.get(dtype):
            raise Error(f"{where} has no {dtype.lower()} value at byte {at:,}", DAMAGED)
        if nbytes != needed or start + nbytes > data.size:
            raise Error(
                f"{where}: the value at byte {at:,} has {nbytes:,} bytes of {data.size:,}, its shape {shape} needs {needed:,}",
                DAMAGED,
            )
        return data[start : start + nbytes]

    def _file(self, name: str) -> np.ndarray:
        if name not in self._files:
            root = _model_path(self.path).parent
            inside = Path(name.removeprefix("@model_path/"))
            if not name.startswith("@model_path/") or ".." in inside.parts or inside.is_absolute():
                raise Error(f"{self.path.name} names the file {name!r}, which is not in the package")
            try:
                # Copy on write: what reads it may take it for an array like any other, and cannot change the file.
                data = np.memmap(root / inside, np.uint8, "c").view(np.ndarray)
            except (OSError, ValueError) as error:
                raise Error(f"{self.path.name} has no {inside}", DAMAGED) from error
            refuse_pointer(root / inside)
            if data.size < HEADER.size:
                raise Error(f"{self.path.name}: {inside} has {data.size} bytes", DAMAGED)
            self._files[name] = data
        return self._files[name]


def read_spec(path: Path) -> Any:
    """The Model protobuf of a package. Raises `Error` for what is not a package."""
    if path.suffix == ".mlmodelc" and path.is_dir():
        hint = "milbuild reads packages. A compiled model cannot be turned into a package: use the one it was compiled from."
        raise Error(f"{path.name} is compiled (.mlmodelc), which only Core ML itself reads", hint)
    if path.suffix == ".mlmodel" and path.is_file():
        refuse_pointer(path)
        raise Error(
            f"{path.name} is a .mlmodel, the single-file format, which holds no ML Program with weights",
            f"Convert the model again into a package: {PROGRAM}",
        )
    if not path.is_dir():
        raise Error(f"there is no package {path}", "A package is a folder whose name ends with .mlpackage.")
    if (path / "config.json").is_file() and not (path / "Manifest.json").exists():
        hint = "Build a package of it first: milbuild build SOURCE OUTPUT. In other commands the package comes first."
        raise Error(f"{path.name} is a checkpoint, not a package", hint)
    file = _model_path(path)
    try:
        refuse_pointer(file)
        spec = proto.Model_pb2.Model.FromString(file.read_bytes())
    except Error:
        raise
    except Exception as error:  # protobuf's DecodeError has no public base class that all its implementations share
        raise Error(f"{path.name}: {file.name} cannot be read ({type(error).__name__})", DAMAGED) from error
    if spec.WhichOneof("Type") is None:
        raise Error(f"{path.name}: {file.name} holds no model", DAMAGED)
    return spec


def check_program(name: str, spec: Any) -> None:
    """Raises `Error` for a Model protobuf that is not an ML Program, with what it is instead."""
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        return
    if kind not in PIPELINES:
        raise Error(f"{name} is a {kind}, not an ML Program", f"Convert it for iOS 15 or later: {PROGRAM}")
    pipeline = getattr(spec, kind)
    models = (pipeline if kind == "pipeline" else pipeline.pipeline).models
    parts = [str(model.WhichOneof("Type")) for model in models]
    hint = "Save one of its models as a package of its own (coremltools.utils.load_spec, MLModel(spec=...))."
    if "mlProgram" not in parts:
        hint = f"None of its models is an ML Program. Convert each for iOS 15 or later: {PROGRAM}"
    raise Error(f"{name} is a {kind} of {len(parts)} models ({', '.join(parts)}), not an ML Program", hint)


def _model_path(path: Path) -> Path:
    """The model's file inside the package, as the manifest names it."""
    try:
        refuse_pointer(path / "Manifest.json")
        manifest = json.loads((path / "Manifest.json").read_text("utf-8"))
        inside = Path(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Error(
            f"{path.name} has no manifest that names its model", "Is it a package? It holds Manifest.json and Data/."
        ) from error
    if inside.is_absolute() or ".." in inside.parts:
        raise Error(f"the manifest of {path.name} names {inside}, which is not in the package")
    return path / "Data" / inside


def target(version: int) -> str:
    """The iOS that a specification version belongs to: iOS18 of 9."""
    return {number: name for name, number in TARGETS.items()}.get(version, f"specification version {version}")


def type_name(array: Any) -> str:
    """The type of a described array or state (FLOAT32, INT32); of an unknown number, the number."""
    return _spelled(proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType, array.dataType)


def color_name(image: Any) -> str:
    """The color space of a described image (RGB, GRAYSCALE); of an unknown number, the number."""
    return _spelled(proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace, image.colorSpace)


def _spelled(kinds: Any, number: int) -> str:
    return str(kinds.Name(number)) if number in kinds.values() else f"type {number}"


def type_of(value: Any) -> tuple[str, tuple[int | None, ...] | None]:
    """The element type and shape of a Value protobuf, without reading its content."""
    entry = _value(value)
    return entry.dtype, entry.shape


def _value(entry: Any) -> Value:
    kind = entry.type.WhichOneof("type")
    inner = entry.type.stateType.wrappedType if kind == "stateType" else entry.type
    name = getattr(entry, "name", "")  # a constant's protobuf has a type, and no name
    if inner.WhichOneof("type") == "tensorType":
        return Value(name, *_tensor_type(inner), is_state=kind == "stateType")
    return Value(name, str(inner.WhichOneof("type")).removesuffix("Type").upper(), None)


def _tensor_type(entry: Any) -> tuple[str, tuple[int | None, ...] | None]:
    return _parsed_type(entry.tensorType.SerializeToString())


@functools.lru_cache(4096)
def _parsed_type(data: bytes) -> tuple[str, tuple[int | None, ...] | None]:
    """The same few types occur thousands of times in a program, and protobuf's fields are slow to read."""
    tensor = proto.MIL_pb2.TensorType.FromString(data)
    name = NAMES.get(tensor.dataType) or str(tensor.dataType)
    shape: list[int | None] = []
    for dimension in tensor.dimensions:
        if dimension.HasField("constant"):
            shape.append(dimension.constant.size)
        elif dimension.unknown.variadic:
            return name, None
        else:
            shape.append(None)
    return name, tuple(shape)


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    kind, count = tensor.WhichOneof("value"), math.prod(shape)
    values = getattr(tensor, kind).values if kind else []
    if kind == "bytes":
        held = len(values) if dtype in BITS else len(values) / DTYPES[dtype].itemsize
        if dtype in ("BOOL", "STRING") or len(values) != size(dtype, count):
            raise Error(
                f"{where} holds {held:g} values of {dtype.lower()} where the shape {shape} needs {count}", DAMAGED
            )
        return decode(np.frombuffer(bytearray(values), np.uint8), dtype, count).reshape(shape)
    if len(values) != count:
        raise Error(f"{where} holds {len(values)} values where the shape {shape} needs {count}", DAMAGED)
    try:
        return np.array(list(values), DTYPES[dtype]).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise Error(f"{where} holds {kind} where it says {dtype.lower()}", DAMAGED) from error
