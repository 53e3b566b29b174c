"""The runtime's own manners: inputs, states, precision, kept values, and errors that name what is wrong."""

import gc
import itertools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools import proto
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Program

import milbuild
from milbuild import runtime
from milbuild.lowering.writer import Description, Feature, lower, write
from milbuild.runtime.profiling import profile
from tests.conftest import checkpoint, difference, tokens

PRECISIONS = ("float32", "declared")


def program(
    tmp_path: Path,
    build: Any,
    shapes: dict[str, tuple[Any, ...]],
    states: dict[str, tuple[int, ...]] | None = None,
    dtype: str = "float16",
) -> Path:
    """A package of one function over inputs of `dtype`, made without the rest of milbuild. A pair in a shape is a range."""
    from coremltools.converters.mil.mil import Function, get_new_symbol, types

    element = {"float16": types.fp16, "float32": types.fp32}[dtype]
    symbolic = {
        name: [size if isinstance(size, int) else get_new_symbol() for size in shape] for name, shape in shapes.items()
    }
    inputs = {name: mb.placeholder(shape, element) for name, shape in symbolic.items()}
    inputs |= {name: mb.state_tensor_placeholder(shape, types.fp16) for name, shape in (states or {}).items()}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        outputs = build(**function.inputs)
        function.set_outputs(outputs)
    whole = Program()
    whole.add_function("main", function)
    description = Description(
        [Feature(name, dtype, shape, "") for name, shape in shapes.items()],
        [
            Feature(var.name, types.builtin_to_string(var.dtype).replace("fp", "float"), _known(var.shape), "")
            for var in outputs
        ],
        [Feature(name, "float16", shape, "") for name, shape in (states or {}).items()],
    )
    model, plan = lower(whole, {"main": description}, 9)
    path = tmp_path / "program.mlpackage"
    write(model, plan, path)
    return path


def _known(shape: tuple[Any, ...]) -> tuple[int, ...] | None:
    return tuple(shape) if all(isinstance(size, int | np.integer) for size in shape) else None


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), sequence_length=7).save(path)
    return path


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "needs the input input_ids"),
        ({"ids": [[1] * 7]}, "has no input ids; it has input_ids"),
        ({"input_ids": [[1] * 6]}, r"the input input_ids has the shape \(1, 6\); it takes \(1, 7\)"),
        ({"input_ids": [1] * 7}, r"has the shape \(7,\)"),
        ({"input_ids": [["a"] * 7]}, "it takes numbers"),
        ({"input_ids": [[0.5] * 7]}, "whole numbers"),
        ({"input_ids": [[2**40] * 7]}, "whole numbers of 32 bits"),
        ({"input_ids": [[np.nan] * 7]}, "whole numbers"),
        ({"input_ids": [[61] * 7]}, "transformer_wte .*the index 61 is outside of 61 entries"),
        ({"input_ids": [[-62] * 7]}, "the index -62 is outside of 61 entries"),
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_wrong_inputs_are_named(package: Path, inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(milbuild.Error, match=text):
        runtime.load(package).predict(inputs)


def test_inputs_of_every_kind_of_array(package: Path) -> None:
    import torch

    model = runtime.load(package)
    ids = tokens(1, 7)
    expected = model.predict({"input_ids": ids})["logits"]
    for same in (
        ids.astype(np.int64),
        ids.astype(np.float32),
        ids.tolist(),
        torch.from_numpy(ids),
        np.asfortranarray(ids),
    ):
        given = {"input_ids": same}
        assert np.array_equal(model.predict(given)["logits"], expected)
        assert given["input_ids"] is same, "the caller's dictionary stays as it is"
    assert expected.dtype == np.float32


@pytest.mark.parametrize(
    ("length", "wrong", "text"), [((2, 5), 6, "2 to 5"), ([3, 5], 4, r"\(1, 3\), \(1, 5\)")], ids=str
)
def test_flexible_shapes_are_checked(length: Any, wrong: int, text: str) -> None:
    model = milbuild.build(checkpoint(), sequence_length=length)
    with pytest.raises(milbuild.Error, match=text):
        model.predict({"input_ids": tokens(1, wrong)})


def test_states_are_checked(package: Path) -> None:
    one = milbuild.build(checkpoint(), cache="state")
    other = milbuild.build(checkpoint(), cache="state", context_length=9)
    inputs = {"input_ids": [[1]], "position": [0]}
    with pytest.raises(milbuild.Error, match=r"keeps key_cache, value_cache in a state"):
        one.predict(inputs)
    with pytest.raises(milbuild.Error, match="the state is of another model"):
        one.predict(inputs, other.make_state())
    twin = milbuild.build(checkpoint(), cache="state", logits="last")
    with pytest.raises(milbuild.Error, match="the state is of another model than"):
        one.predict(inputs, twin.make_state())
    with pytest.raises(milbuild.Error, match="not what make_state"):
        one.predict(inputs, {})
    state = one.make_state()
    with pytest.raises(milbuild.Error, match="there is no state cache"):
        state.read_state("cache")
    with pytest.raises(milbuild.Error, match="has the shape"):
        state.write_state("key_cache", np.zeros(3))


def test_a_state_can_be_saved_and_put_back() -> None:
    model = milbuild.build(checkpoint(), cache="state", prefill_length=4)
    state, other = model.make_state(), model.make_state()
    model.function("prefill").predict({"input_ids": tokens(1, 4), "position": [0]}, state)
    for name in ("key_cache", "value_cache"):
        other.write_state(name, state.read_state(name))
    following = {"input_ids": [[3]], "position": [4]}
    assert np.array_equal(model.predict(following, state)["logits"], model.predict(following, other)["logits"])


def test_precisions(package: Path) -> None:
    ids = tokens(1, 7)
    declared, wide = (
        runtime.load(package, precision=p).predict({"input_ids": ids})["logits"] for p in ("declared", "float32")
    )
    assert np.array_equal(declared, declared.astype(np.float16)), "results are rounded to their declared type"
    assert not np.array_equal(wide, wide.astype(np.float16))
    assert 0 < difference(declared, wide) < 1e-2
    with pytest.raises(milbuild.Error, match="precision is 'half'"):
        runtime.load(package, precision="half")


@pytest.mark.parametrize("given", [{"function_name": 3}, {"keep": [1]}, {"precision": None}])
def test_load_refuses(package: Path, given: dict[str, Any]) -> None:
    with pytest.raises(milbuild.Error, match=f"^{next(iter(given))} is "):
        runtime.load(package, **given)


def test_overflow_becomes_infinity(tmp_path: Path) -> None:
    path = program(tmp_path, lambda x: [mb.mul(x=x, y=np.float16(4), name="y")], {"x": (3,)})
    inputs = {"x": np.float32([1, 20000, -60000])}
    assert np.array_equal(runtime.load(path).predict(inputs)["y"], [4, np.inf, -np.inf])
    assert np.array_equal(runtime.load(path, precision="float32").predict(inputs)["y"], [4, 80000, -240000])


def test_kept_values(package: Path) -> None:
    model = runtime.load(package, keep=["transformer_h_*_attn_c_proj", "transformer_wte"])
    model.predict({"input_ids": tokens(1, 7)})
    assert sorted(model.kept) == [*(f"transformer_h_{i}_attn_c_proj" for i in range(3)), "transformer_wte"]
    assert model.kept["transformer_wte"].shape == (1, 7, 24)


def test_a_value_read_before_a_write_keeps_its_numbers(tmp_path: Path) -> None:
    """The state is written in place only where nobody can tell: here the old value is used again behind the write."""

    def build(x: Any, s: Any) -> list[Any]:
        before = mb.read_state(input=s, name="before")
        updated = mb.slice_update(x=before, update=x, begin=[1], end=[3], name="updated")
        after = mb.coreml_update_state(state=s, value=updated, name="after")
        return [mb.add(x=after, y=before, name="sum")]

    path = program(tmp_path, build, {"x": (2,)}, {"s": (4,)})
    model = runtime.load(path)
    state = model.make_state()
    assert np.array_equal(model.predict({"x": [1, 2]}, state)["sum"], [0, 1, 2, 0])
    assert np.array_equal(model.predict({"x": [5, 5]}, state)["sum"], [0, 6, 7, 0])
    assert np.array_equal(state.read_state("s"), [0, 5, 5, 0])


@pytest.mark.parametrize("shared", [False, True])
def test_in_place_writes(tmp_path: Path, shared: bool) -> None:
    """With a view of the old value still to be read the buffer is copied, without it is not; the numbers are the same."""

    def build(x: Any, s: Any) -> list[Any]:
        before = mb.read_state(input=s, name="before")
        view = mb.slice_by_index(x=before, begin=[1], end=[3], name="view")
        total = view if shared else mb.add(x=view, y=np.float16(0), name="copy")
        updated = mb.slice_update(x=before, update=x, begin=[1], end=[3], name="updated")
        mb.coreml_update_state(state=s, value=updated, name="after")
        return [mb.mul(x=total, y=np.float16(1), name="old")]

    model = runtime.load(program(tmp_path, build, {"x": (2,)}, {"s": (4,)}))
    assert [step.constants["in_place"] for step in model._body.steps if step.op.type == "slice_update"] == [not shared]
    state = model.make_state()
    assert np.array_equal(model.predict({"x": [1, 2]}, state)["old"], [0, 0])
    assert np.array_equal(model.predict({"x": [3, 4]}, state)["old"], [1, 2])
    assert np.array_equal(state.read_state("s"), [0, 3, 4, 0])


def test_decoding_writes_the_cache_in_place() -> None:
    model = milbuild.build(checkpoint(), cache="state")
    steps = runtime.load(model.package_path)._body.steps
    assert all(step.constants["in_place"] for step in steps if step.op.type == "slice_update")


def test_decoding_takes_one_thread(tmp_path: Path) -> None:
    """And gives back the others, after an error too."""
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), cache="state", prefill_length=4).save(path)
    torch.set_num_threads(3)
    try:
        used = {}
        for name in ("main", "prefill"):
            engine = runtime.load(path, name)
            given = {"input_ids": [[1] * (1 if name == "main" else 4)], "position": [0]}
            threads = set()
            engine.predict(given, engine.make_state(), lambda *_, seen=threads: seen.add(torch.get_num_threads()))
            used[name] = threads, engine.threads
            with pytest.raises(ZeroDivisionError):
                engine.predict(given, engine.make_state(), lambda *_: 1 / 0)
            assert torch.get_num_threads() == 3
        assert used == {"main": ({1}, 1), "prefill": ({3}, 3)}
    finally:
        torch.set_num_threads(1)


def test_a_row_at_the_end_of_a_large_network_takes_all_threads() -> None:
    """MobileNet's classifier is its only `linear`, and has one row."""
    source = checkpoint("mobilenet_v2", "image-classification")
    model = milbuild.build(source, image_size=256, postprocess=False)
    engine = runtime.load(model.package_path)
    torch.set_num_threads(3)
    try:
        assert engine.threads == 3
    finally:
        torch.set_num_threads(1)


def test_functions_and_precisions_have_their_weights_in_common(tmp_path: Path) -> None:
    """Each is widened once while the package is in use; one that took its place has its own."""
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), cache="state", prefill_length=4).save(path)

    def weights(engine: Any) -> set[int]:
        return {tensor.data_ptr() for tensor in engine.constants() if tensor.numel() > 99}

    engines = [runtime.load(path, name, precision) for name in ("main", "prefill") for precision in PRECISIONS]
    first, *others = map(weights, engines)
    assert len(first) > 10
    assert all(first == other for other in others)
    milbuild.build(checkpoint(), cache="state", prefill_length=5).save(path)
    assert not first & weights(runtime.load(path))


def test_decoding_holds_no_more_with_every_token() -> None:
    model = milbuild.build(checkpoint(), cache="state", context_length=24)
    state = model.make_state()

    def decode(count: int) -> int:
        for at in range(count):
            model.predict(
                {"input_ids": np.array([[at % 61]], np.int32), "position": np.array([at % 24], np.int32)}, state
            )
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        held = [decode(240) for _ in range(6)]
        # In the least of them: caches of Python's own, and of other tests in this process, fill now and then.
        assert min(after - before for before, after in itertools.pairwise(held)) < 1_000
    finally:
        tracemalloc.stop()


def test_unknown_operations_are_named(tmp_path: Path) -> None:
    path = program(tmp_path, lambda x: [mb.erf(x=x, name="y")], {"x": (3,)})
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = proto.Model_pb2.Model.FromString(file.read_bytes())
    next(iter(spec.mlProgram.functions["main"].block_specializations.values())).operations[-1].type = "tetrate"
    file.write_bytes(spec.SerializeToString())
    with pytest.raises(milbuild.Error, match="operation y is a tetrate, which the runtime does not know"):
        runtime.load(path)


def test_functions_are_chosen_by_name() -> None:
    path = milbuild.build(checkpoint(), cache="state", prefill_length=4)
    assert list(runtime.load(path.package_path).predict({"input_ids": [[1]], "position": [0]}, path.make_state())) == [
        "logits"
    ]
    with pytest.raises(milbuild.Error, match="has no function decode; it has main, prefill"):
        runtime.load(path.package_path, "decode")
    with pytest.raises(milbuild.Error, match="has no function decode"):
        milbuild.Model(path.package_path, function_name="decode")


def _damage(name: str, package: Path) -> None:
    weights = package / "Data/com.apple.CoreML/weights/weight.bin"
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    if name == "weight.bin gone":
        weights.unlink()
    elif name == "weight.bin cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif name == "weight.bin empty":
        weights.write_bytes(b"")
    elif name == "sentinel":
        weights.write_bytes(weights.read_bytes()[:64] + struct.pack("<I", 1) + weights.read_bytes()[68:])
    elif name == "size":
        data = bytearray(weights.read_bytes())
        data[72:80] = struct.pack("<Q", 2)
        weights.write_bytes(bytes(data))
    elif name == "model cut":
        model.write_bytes(model.read_bytes()[:1000])
    elif name == "model gone":
        model.unlink()
    elif name == "manifest gone":
        (package / "Manifest.json").unlink()
    elif name == "manifest outside":
        file = package / "Manifest.json"
        file.write_text(file.read_text().replace("com.apple.CoreML/model.mlmodel", "../../model.mlmodel"))
    elif name == "file outside":
        spec = proto.Model_pb2.Model.FromString(model.read_bytes())
        for op in next(iter(spec.mlProgram.functions["main"].block_specializations.values())).operations:
            if op.attributes["val"].WhichOneof("value") == "blobFileValue":
                op.attributes["val"].blobFileValue.fileName = "@model_path/../../../../secret"
        model.write_bytes(spec.SerializeToString())
    elif name == "neural network":
        spec = proto.Model_pb2.Model(specificationVersion=4)
        spec.neuralNetwork.SetInParent()
        model.write_bytes(spec.SerializeToString())


DAMAGES = {
    "weight.bin gone": "has no weights/weight.bin",
    "weight.bin cut": "should begin at",
    "weight.bin empty": "weights/weight.bin",
    "sentinel": "has no float16 value at byte 64",
    "size": "has 2 bytes",
    "model cut": "cannot be read",
    "model gone": "cannot be read",
    "manifest gone": "no manifest that names its model",
    "manifest outside": "which is not in the package",
    "file outside": "which is not in the package",
    "neural network": "is a neuralNetwork, not an ML Program",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packages(package: Path, damage: str) -> None:
    _damage(damage, package)
    with pytest.raises(milbuild.Error, match=DAMAGES[damage]):
        runtime.load(package)


def test_float32_weights_stay_on_the_disk(tmp_path: Path) -> None:
    """They are the mapped file itself; those of float16 are decoded once."""
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), sequence_length=3, precision="float32").save(path)
    model = runtime.load(path)
    (mapped,) = model.package._files.values()
    start, end = mapped.ctypes.data, mapped.ctypes.data + mapped.nbytes
    large = {tensor.data_ptr(): tensor.nbytes for tensor in model.constants() if tensor.is_floating_point()}
    inside = sum(size for pointer, size in large.items() if start <= pointer < end)
    assert inside > 0.9 * sum(large.values())


def test_values_are_freed_after_their_last_use(tmp_path: Path) -> None:
    def build(x: Any) -> list[Any]:
        y = x
        for number in range(50):
            y = mb.mul(x=y, y=np.float16(1.25), name=f"y_{number}")
        return [y]

    found = profile(runtime.load(program(tmp_path, build, {"x": (1000,)})), repeat=1)
    assert found.peak <= 3 * 4000


def test_callback_sees_every_operation(package: Path) -> None:
    model = runtime.load(package)
    seen = []

    def see(operation: Any, results: tuple[Any, ...]) -> None:
        seen.append((operation.name, [tuple(result.shape) for result in results]))

    ids = tokens(1, 7)
    model.predict({"input_ids": ids}, callback=see)
    expected = [op.name for op in model.function.operations if op.type != "const"]
    assert [name for name, _ in seen] == expected
    assert seen[-1] == ("lm_head", [(1, 7, 61)])


def test_profile(package: Path) -> None:
    model = runtime.load(package)
    found = profile(model, {"input_ids": tokens(1, 7)}, repeat=2)
    operations = [op for op in model.function.operations if op.type != "const"]
    for rows in (found.types, found.modules):
        assert sum(row.calls for row in rows) == len(operations)
        assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)
    modules = {row.name: row for row in found.modules}
    assert modules["transformer_h_*_attn_c_attn"].calls == 3
    assert modules["lm_head"].bytes == 7 * 61 * 4
    assert 0 < found.seconds < 10
    with pytest.raises(milbuild.Error, match="repeat is 0"):
        profile(model, repeat=0)


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plot_of_a_profile(package: Path, tmp_path: Path, ending: str) -> None:
    found = profile(runtime.load(package), repeat=1)
    found.plot(tmp_path / f"p.{ending}")
    content = (tmp_path / f"p.{ending}").read_bytes()
    assert content.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    with pytest.raises(milbuild.Error, match=r"cannot be written as p\.txt"):
        found.plot(tmp_path / "p.txt")


def test_loops_that_never_end_are_refused(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Function, types

    from tests.runtime.harness import TARGETS, save

    with Function({"x": mb.placeholder((2,), types.fp32)}, opset_version=TARGETS[8]) as function:
        x = function.inputs["x"]
        true = mb.const(val=True, name="always")
        same = mb.while_loop(_cond=lambda y: mb.identity(x=true), _body=lambda y: mb.identity(x=y), loop_vars=(x,))
        function.set_outputs([mb.identity(x=same[0] if isinstance(same, list | tuple) else same, name="z")])
    path = save(function, tmp_path / "x.mlpackage")
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = proto.Model_pb2.Model.FromString(file.read_bytes())
    main = spec.mlProgram.functions["main"]
    (loop,) = (op for op in main.block_specializations[main.opset].operations if op.type == "while_loop")
    for block, output in zip(loop.blocks, ("always", loop.blocks[1].inputs[0].name), strict=True):
        del block.operations[:]
        block.outputs[:] = [output]
    file.write_bytes(spec.SerializeToString())
    with pytest.raises(milbuild.Error, match="never ends"):
        runtime.load(path).predict({"x": [1, 2]})
