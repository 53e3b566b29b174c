"""From a program to a .mlpackage: lowered to protobuf, described, and written in one step that succeeds or leaves nothing."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coremltools import proto
from coremltools.converters.mil.backend.mil.helper import (
    create_file_value_tensor,
    create_scalar_value,
    create_tensor_value,
    types_to_proto_primitive,
)
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Operation, Program, Var

from milbuild.errors import Error
from milbuild.lowering import passes, temporary
from milbuild.lowering.blob import BlobPlan
from milbuild.weights import Unread

SMALLEST_BLOB = 10  # elements; smaller arrays are in the program itself (coremltools' should_use_weight_file)
ROOT = Path("Data") / "com.apple.CoreML"
WEIGHTS = Path("weights") / "weight.bin"
Progress = Callable[[int, int], None]  # bytes written, bytes in all

Dimension = int | tuple[int, int]  # fixed, or (lowest, highest)


@dataclass(frozen=True)
class Feature:
    """An input, output or state of a function as Core ML describes it: `text` is for people, `listed` are whole shapes.

    `dtype` is float16, float32 or int32, or of a classifier's outputs label and probabilities. `default` fills an input
    that a call leaves out; an `image` is an input of shape (1, 3, height, width), whose values are those of RGB pixels.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None  # None: it follows from the inputs
    text: str
    listed: tuple[tuple[int, ...], ...] = ()
    default: int | None = None
    image: bool = False


@dataclass(frozen=True)
class Description:
    """The interface of one function."""

    inputs: Sequence[Feature]
    outputs: Sequence[Feature]
    states: Sequence[Feature] = ()


class _Exporter(MILProtoExporter):  # type: ignore[misc]
    """coremltools' lowering, with our plan of weight.bin instead of its blob writer, and without what takes most of its
    time: the types of values are translated once, the names of operations without asking what a name is.

    coremltools validates a program before it lowers it, which takes a quarter as long as the lowering. A graph that was made
    in one go has nothing to find; tests validate those of every model type.
    """

    def __init__(self, program: Program, version: int, plan: BlobPlan) -> None:
        self.prog, self.specification_version, self.plan = program, version, plan
        self.translated: dict[type, Any] = {}

    def types_to_proto(self, valuetype: type) -> Any:
        if valuetype not in self.translated:
            self.translated[valuetype] = super().types_to_proto(valuetype)
        return self.translated[valuetype]

    @staticmethod
    def _get_attr_dict(operation: Operation) -> dict[str, Any]:
        return {"name": _text(operation.name)}

    def translate_const(self, operation: Operation) -> Any:
        (var,) = operation.outputs
        return proto.MIL_pb2.Operation(
            type="const",
            attributes={"name": _text(operation.name), "val": self.get_milproto_value(var)},
            outputs=[proto.MIL_pb2.NamedValueType(name=var.name, type=self.types_to_proto(var.sym_type))],
        )

    def get_milproto_value(self, var: Var) -> Any:
        if isinstance(var.val, Unread) and var.val.size < SMALLEST_BLOB:
            return create_tensor_value(var.val.tensor.values(var.val.dtype))
        return super().get_milproto_value(var)

    def create_file_value(self, var: Var) -> Any:
        primitive = types_to_proto_primitive(var.dtype)
        return create_file_value_tensor(f"@model_path/{WEIGHTS}", self.plan.offset(var.val), var.shape, primitive)


_STRING = create_scalar_value("").type


def _text(text: str) -> Any:
    """A Value protobuf that is a string."""
    content = proto.MIL_pb2.TensorValue(strings=proto.MIL_pb2.TensorValue.RepeatedStrings(values=[text]))
    return proto.MIL_pb2.Value(type=_STRING, immediateValue=proto.MIL_pb2.Value.ImmediateValue(tensor=content))


def lower(program: Program, descriptions: dict[str, Description], version: int) -> tuple[Any, BlobPlan]:
    """(the Model protobuf, the plan of its weight.bin) of a program; `version` is Core ML's specification version."""
    passes.run(program)
    plan = BlobPlan()
    model = proto.Model_pb2.Model(specificationVersion=version)
    model.mlProgram.CopyFrom(_Exporter(program, version, plan).export())
    if len(descriptions) == 1:
        _describe(model.description, descriptions[program.default_function_name])
    else:
        model.description.defaultFunctionName = program.default_function_name
        for name, description in descriptions.items():
            _describe(model.description.functions.add(name=name), description)
    return model, plan


def _describe(target: Any, description: Description) -> None:
    for feature in description.inputs:
        entry = target.input.add(name=feature.name, shortDescription=feature.text)
        if feature.image:
            _, _, height, width = feature.shape or ()
            color = proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.Value("RGB")
            entry.type.imageType.width, entry.type.imageType.height = width, height
            entry.type.imageType.colorSpace = color
            continue
        _multi_array(entry.type.multiArrayType, feature)
        if feature.default is not None:
            entry.type.isOptional = True
            entry.type.multiArrayType.intDefaultValue = feature.default
    for feature in description.outputs:
        entry = target.output.add(name=feature.name, shortDescription=feature.text)
        if feature.dtype == "label":
            entry.type.stringType.MergeFromString(b"")
            target.predictedFeatureName = feature.name
        elif feature.dtype == "probabilities":
            entry.type.dictionaryType.stringKeyType.MergeFromString(b"")
            target.predictedProbabilitiesName = feature.name
        else:
            _multi_array(entry.type.multiArrayType, feature)
    for feature in description.states:
        entry = target.state.add(name=feature.name, shortDescription=feature.text)
        _multi_array(entry.type.stateType.arrayType, feature)


def _multi_array(array: Any, feature: Feature) -> None:
    array.dataType = proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Value(feature.dtype.upper())
    if feature.shape is None:
        return
    if feature.listed:
        array.shape.extend(feature.listed[0])
        for shape in feature.listed:
            array.enumeratedShapes.shapes.add(shape=shape)
        return
    # The default of a range is its lowest: it is what Core ML allocates when it loads the model.
    array.shape.extend(d if isinstance(d, int) else d[0] for d in feature.shape)
    if not all(isinstance(d, int) for d in feature.shape):
        for d in feature.shape:
            lowest, highest = (d, d) if isinstance(d, int) else d
            array.shapeRange.sizeRanges.add(lowerBound=lowest, upperBound=highest)


def manifest() -> str:
    """Manifest.json, with the same identifiers in every package: nothing outside it refers to them."""
    items, root = {}, ""
    for name, description in (("model.mlmodel", "CoreML Model Specification"), ("weights", "CoreML Model Weights")):
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://pypi.org/project/milbuild#{name}"))
        items[identifier] = {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": f"com.apple.CoreML/{name}",
        }
        root = root or identifier
    return (
        json.dumps(
            {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": root},
            indent=4,
            sort_keys=True,
        )
        + "\n"
    )


def write(
    model: Any, weights: BlobPlan | Path, target: Path, progress: Progress | None = None, replace: bool = True
) -> None:
    """Writes a package at `target`, replacing one that is there only once the new one is whole and on the disk.

    `weights` is the plan of a build, or the weight.bin of a package that is saved again. Raises `Error` when something else
    is there (without `replace` anything), when the place cannot be written to or the disk is full, and for weights that
    the precision cannot hold; nothing is left over. What killed processes have left in the folder is removed.
    """
    try:
        temporary.check(target, replace)
        with temporary.Folder(target) as partial:
            root = partial / ROOT
            (root / WEIGHTS.parent).mkdir(parents=True)
            with (root / WEIGHTS).open("wb") as file:
                if isinstance(weights, BlobPlan):
                    _write_plan(weights, file, progress)
                else:
                    with weights.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                _sync(file)
            with (root / "model.mlmodel").open("wb") as file:
                file.write(model.SerializeToString(deterministic=True))
                _sync(file)
            (partial / "Manifest.json").write_text(manifest())
            temporary.put(partial, target, replace)
    except OSError as error:
        where = target.parent if str(target.parent) != "." else Path.cwd()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = weights.end if isinstance(weights, BlobPlan) else weights.stat().st_size
            raise Error(
                f"the disk of {where} is full: the package needs {needed / 1e6:,.1f} MB",
                "Free some space, or save elsewhere.",
            ) from error
        raise Error(
            f"{target} cannot be written: {error.strerror or error}", "Choose an existing folder that you may write to."
        ) from error


def _write_plan(plan: BlobPlan, file: Any, progress: Progress | None) -> None:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, plan.end)

    plan.write(file, step)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
