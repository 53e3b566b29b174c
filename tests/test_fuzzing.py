"""Damaged packages: the runtime plays one or says what is wrong with it; it never crashes, and never writes into it."""

import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from coremltools import proto
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from hypothesis import given
from hypothesis import strategies as st

import milbuild
from milbuild import Error, runtime
from milbuild.runtime.profiling import examples
from tests.conftest import PROFILE, checkpoint
from tests.runtime.harness import TARGETS, save

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
EXAMPLES = hypothesis.settings(
    max_examples={"explore": 2000, "fuzz": 20_000}.get(PROFILE, 150),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
FEWER = hypothesis.settings(EXAMPLES, max_examples=10_000) if PROFILE == "fuzz" else EXAMPLES  # they take longer


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="milbuild-fuzzing-"))


@functools.cache
def packages() -> tuple[Path, ...]:
    """A language model with a state and two functions; blocks, lists and compressed weights."""
    milbuild.build(checkpoint(), cache="state", prefill_length=3).save(folder() / "gpt2.mlpackage")
    inputs = {
        "x": mb.placeholder((2, 16), types.fp32),
        "n": mb.placeholder((1,), types.int32),
        "s": mb.state_tensor_placeholder((2, 16), types.fp16),
    }
    with Function(inputs, opset_version=TARGETS[8]) as function:
        x, n, s = (function.inputs[name] for name in ("x", "n", "s"))
        weight = mb.constexpr_blockwise_shift_scale(
            data=np.arange(256, dtype=np.int8).reshape(16, 16), scale=np.ones((16, 1), np.float32) / 64, name="weight"
        )
        y = mb.linear(x=x, weight=weight, name="y")
        held = mb.read_state(input=s, name="held")
        y = mb.add(x=y, y=mb.cast(x=held, dtype="fp32"), name="sum")
        mb.coreml_update_state(state=s, value=mb.cast(x=y, dtype="fp16"), name="kept")
        list_ = mb.make_list(init_length=3, elem_shape=(2, 16), dynamic_length=True, name="list")

        def ask(i: Any, ls: Any) -> Any:
            return mb.less(x=i, y=mb.add(x=mb.squeeze(x=n, axes=[0]), y=2))

        def body(i: Any, ls: Any) -> Any:
            return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=mb.mul(x=y, y=2.0))

        _, written = mb.while_loop(_cond=ask, _body=body, loop_vars=(np.int32(0), list_), name="loop")
        chosen = mb.cond(
            pred=mb.less(x=mb.squeeze(x=n, axes=[0]), y=1),
            _true_fn=lambda: mb.list_read(ls=written, index=1),
            _false_fn=lambda: mb.slice_by_index(x=x, begin=[0, 0], end=[2, 16], end_mask=[True, True]),
            name="chosen",
        )
        function.set_outputs([mb.softmax(x=chosen, axis=-1, name="z")])
    save(function, folder() / "blocks.mlpackage")
    return tuple(sorted(folder().glob("*.mlpackage")))


def digest(path: Path) -> str:
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file())).hexdigest()


class Enough(Exception):
    """A loop that a change made endless."""


def run(path: Path) -> str:
    """What became of a damaged package: "played", or the error's text. Everything else goes through."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > 2000:
            raise Enough

    before = digest(path)
    text = "played"
    try:
        for name in runtime.load(path).package.function_names:
            model = runtime.load(path, name)
            model.predict(examples(model), model.make_state(), count)
    except Error as error:
        text = str(error)
        assert len(text) > 10
    except Enough:
        text = "endless"
    assert digest(path) == before
    return text


def damaged(source: Path, file: Path, content: bytes) -> str:
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        path = Path(place) / "x.mlpackage"
        shutil.copytree(source, path)
        (path / file).write_bytes(content)
        return run(path)


def test_what_is_not_damaged_plays() -> None:
    assert [path.name for path in packages()] == ["blocks.mlpackage", "gpt2.mlpackage"]
    for path in packages():
        assert run(path) == "played"


@EXAMPLES
@given(data=st.data())
@pytest.mark.usefixtures("little_memory")
@pytest.mark.fuzz
def test_flipped_and_missing_bytes(data: Any) -> None:
    source = data.draw(st.sampled_from(packages()))
    file = data.draw(st.sampled_from([MODEL, WEIGHTS, Path("Manifest.json")]))
    content = bytearray((source / file).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged(source, file, bytes(content))


NAMES = [
    "relu",
    "const",
    "gather",
    "while_loop",
    "cond",
    "read_state",
    "write_state",
    "reshape",
    "custom_layer",
    "",
    "x",
]


def places(message: Any) -> list[tuple[Any, Any]]:
    """Every scalar field and every message that stands in a list or a map, with whom it belongs to."""
    found: list[tuple[Any, Any]] = []
    for field, value in message.ListFields():
        if field.message_type is None:
            found.append((message, field))
        elif field.message_type.GetOptions().map_entry:
            found.append((message, field))
            for entry in value.values():
                if hasattr(entry, "ListFields"):
                    found += places(entry)
        elif field.is_repeated:
            found.append((message, field))
            for entry in value:
                found += places(entry)
        else:
            found += places(value)
    return found


def change(data: Any, message: Any, field: Any) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if value:
            del value[data.draw(st.sampled_from(sorted(value)))]
    elif field.message_type is not None:
        entries = list(value)
        first, second = (data.draw(st.integers(0, len(entries) - 1)) for _ in range(2))
        action = data.draw(st.sampled_from(["drop", "repeat", "swap"]))
        if action == "drop":
            del value[first]
        elif action == "repeat":
            value.add().CopyFrom(entries[first])
        else:
            copied = type(entries[first])()
            copied.CopyFrom(entries[first])
            entries[first].CopyFrom(entries[second])
            entries[second].CopyFrom(copied)
    elif field.is_repeated:
        if value and data.draw(st.booleans()):
            value.pop(data.draw(st.integers(0, len(value) - 1)))
        elif value:
            value.append(value[0])
    elif field.type == field.TYPE_STRING:
        setattr(message, field.name, data.draw(st.sampled_from(NAMES)))
    elif field.type == field.TYPE_BYTES:
        setattr(message, field.name, data.draw(st.binary(max_size=40)))
    elif field.type == field.TYPE_ENUM:
        setattr(message, field.name, data.draw(st.sampled_from([v.number for v in field.enum_type.values])))
    elif field.type == field.TYPE_BOOL:
        setattr(message, field.name, not value)
    elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        setattr(message, field.name, data.draw(st.sampled_from([0.0, -1.5, float("nan"), float("inf")])))
    else:
        limit = 2**31 - 1 if "32" in str(field.cpp_type) or field.cpp_type == field.CPPTYPE_INT32 else 2**62
        numbers = [0, 1, 2, 3, 7, 64, 65, 2**20, limit]
        signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        setattr(message, field.name, data.draw(st.sampled_from([*numbers, -1, -3] if signed else numbers)))


@functools.cache
def parsed(path: Path) -> Any:
    return proto.Model_pb2.Model.FromString((path / MODEL).read_bytes())


@FEWER
@given(data=st.data())
@pytest.mark.usefixtures("little_memory")
@pytest.mark.fuzz
def test_changed_programs(data: Any) -> None:
    """Any field of the protobuf may say anything, and any part of a list may be missing, doubled or at another place."""
    source = data.draw(st.sampled_from(packages()))
    spec = proto.Model_pb2.Model()
    spec.CopyFrom(parsed(source))
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(spec)
        message, field = found[data.draw(st.integers(0, len(found) - 1))]
        change(data, message, field)
    damaged(source, MODEL, spec.SerializeToString())


def test_manifests_that_name_a_path_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    shutil.copytree(packages()[0], path)
    manifest = json.loads((path / "Manifest.json").read_text())
    for outside in ("../../secret", "/etc/passwd", "com.apple.CoreML/../../../x"):
        manifest["itemInfoEntries"]["model"]["path"] = outside
        (path / "Manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(Error, match="not in the package"):
            runtime.load(path)


@pytest.mark.parametrize(
    "outside", ["@model_path/../../../secret", "/etc/passwd", "weights/weight.bin", "@model_path//etc/passwd"]
)
def test_weights_that_name_a_path_outside(tmp_path: Path, outside: str) -> None:
    path = tmp_path / "x.mlpackage"
    shutil.copytree(packages()[0], path)
    spec = proto.Model_pb2.Model.FromString((path / MODEL).read_bytes())
    function = spec.mlProgram.functions["main"]
    values = [
        value
        for operation in function.block_specializations[function.opset].operations
        for value in operation.attributes.values()
        if value.WhichOneof("value") == "blobFileValue"
    ]
    assert values
    for value in values:
        value.blobFileValue.fileName = outside
    (path / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(Error, match="not in the package"):
        runtime.load(path)


def test_offsets_outside_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    shutil.copytree(packages()[0], path)
    content = np.fromfile(path / WEIGHTS, np.uint8)
    assert "should begin at" in damaged(path, WEIGHTS, content[:64].tobytes())
    content[64 + 16 : 64 + 24] = np.frombuffer((2**40).to_bytes(8, "little"), np.uint8)
    assert "its shape" in damaged(path, WEIGHTS, content.tobytes())


def test_a_state_that_no_memory_holds_is_named() -> None:
    source = next(path for path in packages() if path.stem == "gpt2")
    spec = proto.Model_pb2.Model()
    spec.CopyFrom(parsed(source))
    for function in spec.mlProgram.functions.values():
        for value in function.inputs:
            if value.type.WhichOneof("type") == "stateType":
                value.type.stateType.wrappedType.tensorType.dimensions[0].constant.size = 2**62
    assert "no memory for the states" in damaged(source, MODEL, spec.SerializeToString())


@pytest.mark.parametrize("kind", ["multiArrayType", "imageType"])
def test_a_type_that_nobody_knows_is_named(kind: str) -> None:
    source = next(path for path in packages() if path.stem == "gpt2")
    spec = proto.Model_pb2.Model()
    spec.CopyFrom(parsed(source))
    for description in [spec.description, *spec.description.functions]:
        for feature in description.input:
            if kind == "imageType":
                feature.type.imageType.colorSpace = 32
            else:
                feature.type.multiArrayType.dataType = 32
    assert "has the unknown type 32" in damaged(source, MODEL, spec.SerializeToString())
