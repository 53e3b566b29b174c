"""Packages written operation by operation into the protobuf, so that a test can make what coremltools would refuse."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from coremltools import proto

from milbuild.lowering import writer
from milbuild.package.storage import ALIGNMENT, CODES, HEADER, METADATA, SENTINEL

H, F, I, B = "FLOAT16", "FLOAT32", "INT32", "BOOL"  # noqa: E741
NAMES = {"float16": H, "float32": F, "int32": I, "bool": B, "int4": "INT4"}

Shape = tuple[int | None, ...]


class Assembled:
    """One package; a function is begun with `function`, and is called main where nobody does."""

    def __init__(self, version: int = 9) -> None:
        self.spec = proto.Model_pb2.Model(specificationVersion=version)
        self.spec.mlProgram.version = 1
        self.weights = bytearray(HEADER.pack(0, 2))
        self.described = self.spec.description
        self.block: Any = None
        self.entry: Any = None

    def function(self, name: str = "main", several: bool = False, opset: str = "") -> "Assembled":
        opset = opset or f"CoreML{self.spec.specificationVersion - 1}"
        self.entry = self.spec.mlProgram.functions[name]
        self.entry.opset = opset
        self.block = self.entry.block_specializations[opset]
        if several:
            self.described = self.spec.description.functions.add(name=name)
        return self

    def input(
        self,
        name: str,
        shape: Shape,
        dtype: str = H,
        *,
        ranged: list[tuple[int, int]] | None = None,
        listed: list[Shape] | None = None,
        default: Shape | None = None,
        optional: bool = False,
        described: str | None = None,
        declared: str | None = None,
    ) -> str:
        """`described` and `declared` are the name and type in the description, where they are others than the program's."""
        _tensor(self._begun().inputs.add(name=name).type, dtype, shape)
        feature = self.described.input.add(name=described or name)
        fixed = default or (listed or [tuple(low for low, _ in ranged or [])])[0] or shape
        _array(feature.type.multiArrayType, declared or dtype, fixed)
        feature.type.isOptional = optional
        for low, high in ranged or []:
            feature.type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
        for entry in listed or []:
            feature.type.multiArrayType.enumeratedShapes.shapes.add(shape=entry)
        return name

    def image(self, name: str, shape: Shape, color: str = "RGB") -> str:
        _tensor(self._begun().inputs.add(name=name).type, H, shape)
        kind = self.described.input.add(name=name).type.imageType
        kind.width = kind.height = 8
        kind.colorSpace = proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.Value(color)
        return name

    def state(self, name: str, shape: Shape, dtype: str = H) -> str:
        _tensor(self._begun().inputs.add(name=name).type.stateType.wrappedType, dtype, shape)
        _array(self.described.state.add(name=name).type.stateType.arrayType, dtype, shape)
        return name

    def const(self, name: str, value: Any, stored: bool | int = False, value_name: str = "") -> str:
        """`stored` puts it into weight.bin; a number is the offset of something that stands there already."""
        operation = self._begun_block().operations.add(type="const")
        operation.attributes["name"].CopyFrom(_immediate(name))
        operation.attributes["val"].CopyFrom(self._stored(value, stored) if stored else _immediate(value))
        output = operation.outputs.add(name=value_name or name)
        output.type.CopyFrom(operation.attributes["val"].type)
        return value_name or name

    def op(self, kind: str, name: str = "", shape: Shape | None = None, dtype: str = H, /, **inputs: Any) -> str:
        """An operation whose value bears its name; inputs are names, lists of names, or constants bound in place."""
        operation = self._begun_block().operations.add(type=kind)
        operation.attributes["name"].CopyFrom(_immediate(name))
        for parameter, given in inputs.items():
            names = isinstance(given, list) and type(given[0]) is str
            for entry in given if names else [given]:
                if type(entry) is str:
                    operation.inputs[parameter].arguments.add(name=entry)
                else:
                    operation.inputs[parameter].arguments.add().value.CopyFrom(_immediate(entry))
        if shape is not None:
            _tensor(operation.outputs.add(name=name).type, dtype, shape)
        return name

    def cast(self, name: str, x: str, shape: Shape, dtype: str) -> str:
        return self.op("cast", name, shape, dtype, x=x, dtype=Word(dtype.lower()))

    def read(self, name: str, state: str, shape: Shape) -> str:
        return self.op("read_state", name, shape, input=state)

    def write(self, name: str, state: str, data: str) -> None:
        self.op("write_state", name, input=state, data=data)

    def branch(self, name: str) -> "Assembled":
        """A `cond` with one block, into which operations go until `function` is called."""
        operation = self._begun_block().operations.add(type="cond")
        operation.attributes["name"].CopyFrom(_immediate(name))
        self.block = operation.blocks.add()
        return self

    def output(self, *names: str, dtype: str = H, shape: Shape = (), described: str | None = None) -> None:
        for name in names:
            self._begun_block().outputs.append(name)
            _array(self.described.output.add(name=described or name).type.multiArrayType, dtype, shape)

    def save(self, path: Path) -> Path:
        root = path / writer.ROOT
        (root / "weights").mkdir(parents=True)
        (root / "model.mlmodel").write_bytes(self.spec.SerializeToString(deterministic=True))
        (root / writer.WEIGHTS).write_bytes(self.weights)
        (path / "Manifest.json").write_text(json.dumps(json.loads(writer.manifest())))
        return path

    def _begun(self) -> Any:
        if self.entry is None:
            self.function()
        return self.entry

    def _begun_block(self) -> Any:
        self._begun()
        return self.block

    def _stored(self, value: Any, stored: bool | int) -> Any:
        found = _typed(value)
        if stored is not True:
            found.blobFileValue.offset = stored
        else:
            data, start = value.tobytes(), -(-len(self.weights) // ALIGNMENT) * ALIGNMENT
            self.weights += bytes(start - len(self.weights))
            head = (SENTINEL, CODES[NAMES.get(str(value.dtype), str(value.dtype).upper())], len(data))
            self.weights += METADATA.pack(*head, start + ALIGNMENT, 0) + data
            found.blobFileValue.offset = start
        found.blobFileValue.fileName = "@model_path/weights/weight.bin"
        return found


class Word(str):
    """A string that is a constant, not a name."""


def _tensor(target: Any, dtype: str, shape: Shape) -> None:
    target.tensorType.dataType = proto.MIL_pb2.DataType.Value(dtype)
    target.tensorType.rank = len(shape)
    for length in shape:
        dimension = target.tensorType.dimensions.add()
        if length is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = length


def _array(target: Any, dtype: str, shape: Shape) -> None:
    kinds = proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    target.dataType = kinds.Value(dtype) if dtype in kinds.keys() else 99  # noqa: SIM118
    target.shape.extend(length or 1 for length in shape)


def _typed(value: Any) -> Any:
    found = proto.MIL_pb2.Value()
    dtype = NAMES.get(str(value.dtype), str(value.dtype).upper())
    _tensor(found.type, dtype, value.shape)
    return found


def _immediate(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], Word)):
        found, words = proto.MIL_pb2.Value(), [value] if isinstance(value, str) else value
        _tensor(found.type, "STRING", () if isinstance(value, str) else (len(words),))
        found.immediateValue.tensor.strings.values.extend(words)
        return found
    value = np.asarray(value)
    if value.dtype == np.int64:
        value = value.astype(np.int32)
    if value.dtype == np.float64:
        value = value.astype(np.float32)
    found = _typed(value)
    tensor = found.immediateValue.tensor
    if value.dtype == np.float32:
        tensor.floats.values.extend(value.reshape(-1).tolist())
    elif value.dtype == np.int32:
        tensor.ints.values.extend(value.reshape(-1).tolist())
    elif value.dtype == np.bool_:
        tensor.bools.values.extend(value.reshape(-1).tolist())
    elif value.dtype == ml_dtypes.int4:
        tensor.bytes.values = bytes(-(-value.size // 2))
    else:
        tensor.bytes.values = value.tobytes()
    return found
