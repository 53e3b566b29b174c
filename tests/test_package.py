"""What is written: bytes, sharing, metadata, names; that it is written once, whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild import architectures, runtime
from milbuild.lowering import passes, temporary
from milbuild.package.reader import Package
from milbuild.program.mil import opened_length
from milbuild.program.plan import Plan
from milbuild.validation import reference as hf
from milbuild.weights import Unread
from tests.conftest import checkpoint, difference, reference, tokens
from tests.tiny import TABLE, VISION

# coremltools leaves its temporary folders to the garbage collector, which Python reports.
THEIR_TEMPORARY_FOLDERS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

CASES = {
    "plain": {"sequence_length": 11},
    "state": {"cache": "state", "prefill_length": 4},
    "io": {"cache": "io", "context_length": (1, 29), "sequence_length": (1, 5)},
    "swift": {"cache": "state", "interface": "swift-transformers"},
}


def _files(package: Path) -> dict[str, bytes]:
    return {str(file.relative_to(package)): file.read_bytes() for file in sorted(package.rglob("*")) if file.is_file()}


# Of "state" test_places_and_hash_seeds_do_not_show (test_writing.py) compares three.
@pytest.mark.all
@pytest.mark.parametrize("case", CASES)
def test_two_builds_in_two_processes_are_byte_identical(case: str, tmp_path: Path) -> None:
    script = "import sys, milbuild; milbuild.build(sys.argv[1], **eval(sys.argv[3])).save(sys.argv[2])"
    for name in ("one", "two"):
        environment = os.environ | {"PYTHONHASHSEED": str(len(name) * 7 + (name == "two"))}
        command = [sys.executable, "-c", script, str(checkpoint()), str(tmp_path / name), repr(CASES[case])]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    assert _files(tmp_path / "one.mlpackage") == _files(tmp_path / "two.mlpackage")


def test_what_was_built_before_does_not_show(tmp_path: Path) -> None:
    for name in ("one", "two"):
        milbuild.build(checkpoint(), **CASES["state"]).save(tmp_path / name)
        milbuild.build(checkpoint(), sequence_length=5)
    assert _files(tmp_path / "one.mlpackage") == _files(tmp_path / "two.mlpackage")


def test_functions_share_every_weight() -> None:
    single = milbuild.build(checkpoint(), cache="state").weight_bytes
    both = milbuild.build(checkpoint(), cache="state", prefill_length=8).weight_bytes
    assert both <= 1.01 * single


def test_a_tied_head_is_stored_once() -> None:
    tied = milbuild.build(checkpoint(), sequence_length=4)
    untied = milbuild.build(checkpoint(tie_word_embeddings=False), sequence_length=4)
    assert untied.weight_bytes - tied.weight_bytes >= 61 * 24 * 2


def test_names_come_from_the_checkpoint() -> None:
    model = milbuild.build(checkpoint(), sequence_length=7)
    operations = {op.name: op.type for op in Package(model.package_path).function().operations}
    assert operations["transformer_h_0_attn_c_attn"] == "linear"
    assert operations["transformer_h_2_mlp_c_proj"] == "linear"
    assert operations["transformer_h_1"] == "add"
    assert operations["transformer_ln_f"] == "layer_norm"
    assert operations["lm_head"] == "linear"
    assert operations["transformer_h_0_attn_c_attn_weight"] == "const"


@pytest.mark.parametrize("case", CASES)
def test_names_are_identifiers_and_each_stands_once(case: str) -> None:
    """Core ML takes letters, digits and underscores; a name that two values share would give one the other's content."""
    model = milbuild.build(checkpoint(), **CASES[case])
    package = Package(model.package_path)
    for name in package.function_names:
        function = package.function(name)
        operations = [operation.name for operation in function.operations if operation.type != "write_state"]
        values = [value.name for value in function.inputs]
        values += [value.name for operation in function.operations for value in operation.outputs]
        for names in (operations, values):
            assert len(names) == len(set(names))
            assert all(re.fullmatch(r"[A-Za-z_]\w*", each, re.ASCII) for each in names)
        assert set(function.outputs) <= set(values)
        assert not set(function.outputs) & {value.name for value in function.inputs}


@pytest.mark.parametrize("case", CASES)
def test_coremltools_reads_what_we_write(case: str, tmp_path: Path) -> None:
    """coremltools' own loader takes the program apart and finds the checkpoint's numbers in it."""
    from coremltools.converters.mil.frontend.milproto import load

    milbuild.build(checkpoint(), **CASES[case]).save(tmp_path / "x.mlpackage")
    model = ct.models.MLModel(str(tmp_path / "x.mlpackage"))
    program = load.load(model.get_spec(), 9, str(tmp_path / "x.mlpackage/Data/com.apple.CoreML/weights"))
    program.validate()
    weights = Package(tmp_path / "x.mlpackage")
    for name, function in program.functions.items():
        assert set(function.inputs) == {value.name for value in weights.function(name).inputs}
    constant = next(
        op for op in program.functions["main"].operations if op.name == "transformer_h_0_attn_c_attn_weight"
    )
    from milbuild.weights import Checkpoint

    tensor = Checkpoint.open(checkpoint()).tensors["transformer.h.0.attn.c_attn.weight"]
    assert np.array_equal(constant.outputs[0].val, tensor.T.astype(np.float16))


def test_metadata(tmp_path: Path) -> None:
    model = milbuild.build(checkpoint(), cache="state", prefill_length=8, context_length=16)
    metadata = model.user_defined_metadata
    assert metadata["milbuild.source"] == checkpoint().name
    assert metadata["milbuild.version"] == milbuild.__version__
    assert str(checkpoint().parent) not in str(model.get_spec().description)
    plan = Plan.of("x", metadata)
    assert (plan.cache, plan.prefill_length, plan.context_length, plan.sequence_length) == ("state", 8, 16, 1)
    assert json.loads(metadata["milbuild.options"])["precision"] == "float16"
    for description in model.get_spec().description.functions:
        for feature in [*description.input, *description.output, *description.state]:
            assert feature.shortDescription, feature.name
    state = next(f for f in model.get_spec().description.functions if f.name == "main").state[0]
    assert list(state.type.stateType.arrayType.shape) == [3, 1, 4, 16, 6]
    assert "at most 16, the context" in next(f.shortDescription for f in model.interface.input if f.name == "position")
    assert "(1, 1, 61)" in model.interface.output[0].shortDescription


@pytest.mark.parametrize("length", ["7", "1:9", "3,5"])
def test_lengths_survive_in_the_metadata(length: str) -> None:
    from milbuild.program.lengths import parse_length

    model = milbuild.build(checkpoint(), sequence_length=parse_length(length, "x"))
    assert Plan.of("x", model.user_defined_metadata).sequence_length == parse_length(length, "x")


def test_license_and_author_of_the_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(checkpoint(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    assert milbuild.build(tmp_path / "model", sequence_length=4).license == "mit"


def test_listed_and_ranged_shapes_are_described() -> None:
    listed = milbuild.build(checkpoint(), sequence_length=[16, 4, 8], attention_mask=True)
    for feature in listed.interface.input:
        shapes = [list(entry.shape) for entry in feature.type.multiArrayType.enumeratedShapes.shapes]
        assert shapes == [[1, 16], [1, 4], [1, 8]], "the default first, every input in the same order"
    ranged = milbuild.build(checkpoint(), sequence_length=(2, 9))
    sizes = ranged.interface.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert [(size.lowerBound, size.upperBound) for size in sizes] == [(1, 1), (2, 9)]


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS18"])
def test_types_at_the_interface(target: str) -> None:
    model = milbuild.build(checkpoint(), cache="io", context_length=16, target=target)
    types = {
        f.name: f.type.multiArrayType.ArrayDataType.Name(f.type.multiArrayType.dataType) for f in model.interface.output
    }
    assert set(types.values()) == {"FLOAT32" if target == "iOS15" else "FLOAT16"}


def test_model_is_an_mlmodel(tmp_path: Path) -> None:
    model = milbuild.gpt2.build(checkpoint(), sequence_length=5)
    assert isinstance(model, ct.models.MLModel)
    model.author, model.short_description, model.license, model.version = "me", "a text", "MIT", "3"
    model.user_defined_metadata["key"] = "value"
    model.input_description["input_ids"] = "ids"
    model.save(str(tmp_path / "named"))
    again = milbuild.Model(tmp_path / "named.mlpackage")
    theirs = ct.models.MLModel(str(tmp_path / "named.mlpackage"))
    for saved in (again, theirs):
        assert (saved.author, saved.short_description, saved.license, saved.version) == ("me", "a text", "MIT", "3")
        assert saved.user_defined_metadata["key"] == "value"
        assert saved.input_description["input_ids"] == "ids"
    assert "input_ids" in str(model)
    assert again.get_spec() == model.get_spec()


@THEIR_TEMPORARY_FOLDERS
def test_compression_by_coremltools_works_on_it(tmp_path: Path) -> None:
    model = milbuild.build(checkpoint(), sequence_length=5, precision="float32")
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig, linear_quantize_weights

    config = OptimizationConfig(global_config=OpLinearQuantizerConfig(weight_threshold=64))
    smaller = linear_quantize_weights(model, config)
    smaller.save(str(tmp_path / "small.mlpackage"))
    assert Package(tmp_path / "small.mlpackage").path.exists()


def test_saving_onto_its_own_path(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    model = milbuild.build(checkpoint(), sequence_length=5)
    model.save(path)
    before = _files(path)
    model.save(path)
    opened = milbuild.Model(path)
    opened.save(path)
    assert _files(path) == before
    opened.author = "somebody"
    opened.save(path)
    assert milbuild.Model(path).author == "somebody"
    assert list(tmp_path.iterdir()) == [path]
    assert opened.predict({"input_ids": tokens(1, 5)})["logits"].shape == (1, 5, 61)


def test_opening_and_predicting_write_nothing_into_the_package(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), cache="state").save(path)
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    model = milbuild.Model(path)
    model.predict({"input_ids": tokens(1, 1), "position": np.int32([0])}, model.make_state())
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == times


def test_an_unsaved_model_cleans_up_after_itself() -> None:
    model = milbuild.build(checkpoint(), sequence_length=5)
    folder = Path(model.package_path).parent
    assert folder.exists()
    del model
    import gc

    gc.collect()
    assert not folder.exists()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = milbuild.build(checkpoint(), sequence_length=5)
    model.save(tmp_path / "x", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    done, total = seen[-1]
    assert total == model.weight_bytes
    assert 0.9 * total < done <= total


def test_an_interrupted_save_leaves_nothing_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mlpackage"
    milbuild.build(checkpoint(), sequence_length=5).save(path)
    before = _files(path)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        milbuild.build(checkpoint(), sequence_length=6).save(path, progress=interrupt)
    assert _files(path) == before
    assert list(tmp_path.iterdir()) == [path]

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(temporary, "put", fail)
    with pytest.raises(milbuild.Error, match="cannot be written"):
        milbuild.build(checkpoint(), sequence_length=6).save(path)
    assert _files(path) == before


def test_placeholders_of_weights_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever looks at a placeholder's values raises; so no operation of a build has folded one."""
    asked: list[str] = []
    refuse = Unread._refuse
    for name in [name for name, value in vars(Unread).items() if value is refuse]:
        monkeypatch.setattr(Unread, name, lambda self, *a, _name=name, **k: asked.append(_name) or refuse(self))
    for case in CASES.values():
        milbuild.build(checkpoint(), **case)
    assert not asked
    from milbuild.weights import Tensor

    placeholder = Unread.of(Tensor("w", "w", np.ones((4, 4), np.float32)), np.dtype(np.float16))
    with pytest.raises(AssertionError, match="not read"), Function({}, opset_version=ct.target.iOS18):
        mb.add(x=mb.const(val=placeholder), y=np.float16(1))


@pytest.mark.parametrize(
    "options",
    [{"outputs": {"pooler_output": None}}, {"pooling": "mean"}, {"pooling": "cls", "normalize": True}],
    ids=str,
)
def test_a_pooler_that_nobody_reads_is_left_out(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With its weights (24 x 24 and a bias of 24, in float32); what remains gives what it gave."""
    inputs = {"input_ids": tokens(1, 11)}

    def built() -> tuple[Counter[str], int, dict[str, np.ndarray]]:
        arguments = {"sequence_length": 11, "attention_mask": False, "precision": "float32"}
        model = milbuild.build(checkpoint("bert", "feature-extraction"), **arguments, **options)
        types = Counter(op.type for op in Package(model.package_path).function().operations)
        return types, model.weight_bytes, model.predict(inputs)

    lean, size, values = built()
    monkeypatch.setattr(passes, "PASSES", (passes.drop_implicit_biases,))
    whole, size_before, values_before = built()
    del whole["const"], lean["const"]
    assert whole - lean == {"linear": 1, "tanh": 1, "slice_by_index": 1}
    assert size_before - size >= (24 * 24 + 24) * 4
    assert values.keys() == values_before.keys()
    for name, value in values.items():
        assert np.array_equal(value, values_before[name])
    if "outputs" in options:
        expected = hf.forward(reference(checkpoint("bert", "feature-extraction"), "feature-extraction"), inputs)
        assert difference(values["last_hidden_state"], expected["last_hidden_state"]) <= 1e-5


def test_what_is_not_read_is_accounted_for_and_not_looked_at(tmp_path: Path) -> None:
    """The tensors of a pooler that is left out are the checkpoint's own, whatever they hold; others are not."""
    tensors = load_file(checkpoint("bert", "feature-extraction") / "model.safetensors")
    tensors["pooler.dense.weight"] = np.full_like(tensors["pooler.dense.weight"], np.nan)

    def build(outputs: dict[str, None] | None) -> None:
        shutil.copy(checkpoint("bert", "feature-extraction") / "config.json", tmp_path)
        save_file(tensors, tmp_path / "model.safetensors")
        milbuild.build(tmp_path, task="feature-extraction", outputs=outputs).save(tmp_path / "x")

    with pytest.raises(milbuild.Error, match=r"pooler\.dense\.weight: 576 of 576 values are NaN"):
        build(None)
    build({"pooler_output": None})
    tensors["pooler.dense.scale"] = tensors["pooler.dense.bias"]
    with pytest.raises(milbuild.Error, match=r"does not use: pooler\.dense\.scale"):
        build({"pooler_output": None})


def test_keys_and_values_alone() -> None:
    """Without its scores a growing cache needs nothing of the last layer but its keys and values."""
    folder, empty = checkpoint(), {"input_ids": tokens(1, 5), "attention_mask": np.int32([[0] + [1] * 5])}
    arguments = {"cache": "io", "context_length": (1, 29), "sequence_length": 5, "precision": "float32"}
    model, whole = (milbuild.build(folder, outputs=outputs, **arguments) for outputs in ({"logits": None}, None))
    past = {f.name: np.zeros((1, 4, 1, 6), np.float32) for f in model.interface.input if "past" in f.name}
    values, expected = (each.predict(empty | past) for each in (model, whole))
    assert values.keys() == expected.keys() - {"logits"}
    assert all(np.array_equal(value, expected[name]) for name, value in values.items())
    names = {op.name for op in Package(model.package_path).function().operations}
    assert "transformer_h_2_attn_c_attn" in names
    assert not {
        name for name in names if re.match("transformer_h_2_(attn_attention|mlp)|transformer_ln_f|lm_head", name)
    }
    assert whole.weight_bytes - model.weight_bytes >= (24 * 24 + 2 * 24 * 52) * 4


def test_states_are_written_whoever_reads_them() -> None:
    inputs = {"x": mb.placeholder((2, 16), types.fp16), "s": mb.state_tensor_placeholder((2, 16), types.fp16)}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        x, s = function.inputs["x"], function.inputs["s"]
        held = mb.read_state(input=s, name="held")
        sum_ = mb.add(x=held, y=x, name="sum")
        after = mb.coreml_update_state(state=s, value=sum_, name="after")
        mb.relu(x=mb.add(x=after, y=x, name="unread"), name="unread_too")
        function.set_outputs([mb.tanh(x=x, name="y")])
    program = Program()
    program.add_function("main", function)
    passes.run(program)
    assert [op.name for op in function.operations if op.op_type != "const"] == ["held", "sum", "after", "y"]


@pytest.mark.parametrize("prefill", [None, 4])
def test_every_state_of_a_cache_is_written(prefill: int | None) -> None:
    """Also the rings of layers with a window, whose last value a call of several tokens does not read."""
    model = milbuild.build(checkpoint("gemma3_text"), cache="state", prefill_length=prefill)
    package = Package(model.package_path)
    for name in package.function_names:
        written = [op for op in package.function(name).operations if op.type == "write_state"]
        assert len(written) == 2 * 4


@pytest.mark.parametrize("skipped", passes.PASSES, ids=lambda apply: apply.__name__)
def test_every_pass_is_needed(skipped, monkeypatch: pytest.MonkeyPatch) -> None:
    def constants() -> int:
        model = milbuild.build(checkpoint(), sequence_length=11)
        return sum(op.type == "const" for op in Package(model.package_path).function().operations)

    lean = constants()
    monkeypatch.setattr(passes, "PASSES", tuple(apply for apply in passes.PASSES if apply is not skipped))
    assert constants() > lean


# A call of each family, and with a state where it has one.
ORACLES = [
    pytest.param(
        name, options, id=f"{name}{' state' * bool(options)}", marks=[] if name == "gpt2" else [pytest.mark.all]
    )
    for name, entry in architectures.SUPPORTED.items()
    for options in ([{}, {"cache": "state", "context_length": 24}] if entry.decoder else [{}])
]


@THEIR_TEMPORARY_FOLDERS
@pytest.mark.parametrize(("model_type", "options"), ORACLES)
def test_no_more_operations_than_coremltools_own_pipeline_leaves(
    model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """coremltools' default pipeline over our program is the oracle: it takes nothing more away, and keeps the numbers."""
    from coremltools.converters.mil.frontend.milproto import load

    from milbuild.runtime.profiling import examples

    task = "feature-extraction"
    if TABLE[model_type].kind == VISION:
        options = {"image_size": TABLE[model_type].size}
    model = milbuild.build(checkpoint(model_type, task), task=task, postprocess=False, precision="float32", **options)
    converted = ct.convert(
        load.load(model.get_spec(), 9, model.weights_dir),
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
    )
    converted.save(str(tmp_path / "default.mlpackage"))

    def count(path: object) -> int:
        return sum(op.type != "const" for op in Package(Path(str(path))).function().operations)

    assert count(model.package_path) <= count(tmp_path / "default.mlpackage")
    engines = [runtime.load(path) for path in (model.package_path, tmp_path / "default.mlpackage")]
    inputs = examples(engines[0])
    ours, theirs = (engine.predict(inputs, engine.make_state()) for engine in engines)
    for name in theirs:
        assert difference(theirs[name], ours[name]) <= 1e-5


def test_equal_small_constants_are_one_and_others_are_not() -> None:
    """Of types and values, not of what is printed: 1 and True, 0.0 and -0.0, float32 and float16 stay apart."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types

    from milbuild.program.mil import _small, fresh_builder

    apart = [
        1,
        1.0,
        True,
        "1",
        [1],
        (1,),
        [1.0],
        0.0,
        -0.0,
        np.int32(1),
        np.float32(0.1),
        np.float16(0.1),
        np.array([1], np.int32),
    ]
    assert len({_small(value) for value in apart}) == len(apart)
    assert _small(np.zeros(10)) is _small([[1]]) is _small([np.float32(0.1)]) is None
    with Function({"x": mb.placeholder((2, 3), types.fp32)}) as function, fresh_builder():
        x = function.inputs["x"]
        for _ in range(3):
            x = mb.transpose(x=mb.add(x=x, y=np.float32(1)), perm=[1, 0])
        function.set_outputs([x])
    assert [op.op_type for op in function.operations].count("const") == 2
    add = mb._add_const
    with Function({"x": mb.placeholder((2, 3), types.fp32)}) as function:
        x = mb.transpose(x=mb.transpose(x=function.inputs["x"], perm=[1, 0]), perm=[1, 0])
        function.set_outputs([x])
    assert mb._add_const == add
    assert [op.op_type for op in function.operations].count("const") == 2


@pytest.mark.parametrize(
    ("given", "shape"),
    [((2, None, 6), (2, None, 3, 2)), ((1, 4, None, 6), (1, None, 24)), ((None, 6), (None, 12)), ((3, 5), (None, 5)),
     ((None, None, 6), (None, None, 3, 2)), ((2, None), (2, None, 0))],
)  # fmt: skip
def test_an_open_length_is_what_coremltools_solves_it_to(given: tuple[Any, ...], shape: tuple[Any, ...]) -> None:
    from coremltools.converters.mil.mil import get_new_symbol
    from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape

    volume = np.prod([get_new_symbol() if size is None else size for size in given])
    asked = [get_new_symbol() if size is None else size for size in shape]

    expected = reshape.enforce_volumetric_constraint(volume, asked)
    found = opened_length(volume, asked)
    assert found == expected
    assert [isinstance(size, int) for size in found] == [isinstance(size, int) for size in expected]


def test_a_state_is_written_at_places_that_keys_and_values_share() -> None:
    model = milbuild.build(checkpoint(), cache="state")
    operations = model.get_spec().mlProgram.functions["main"].block_specializations["CoreML8"].operations
    assert [op.type for op in operations].count("concat") == 2 * 3  # begin and end of three layers
