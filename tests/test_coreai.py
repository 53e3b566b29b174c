"""Packages as Core AI assets, run by Apple's executor, against milbuild's runtime, which other tests hold to transformers."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import transformers
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

import milbuild
from milbuild import architectures, coreai
from tests.conftest import checkpoint, difference, tokens
from tests.helpers.command_line import CommandLine
from tests.helpers.single_fields import inputs_for
from tests.tiny import SEQ2SEQ_MODELS, SPEECH_SEQ2SEQ, TABLE

pytest.importorskip("coreai.authoring", reason="coreai-core is not installed (the extra coreai)")

from milbuild.coreai.executor import Executor
from milbuild.coreai.registry import RULES

PROCESSOR = json.dumps(
    {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
)
ENCODED = {"text2text-generation", "speech-seq2seq"}
PAIRS = [(name, task) for name in TABLE for task in architectures.SUPPORTED[name].tasks if task not in ENCODED]
FIRST = {name: next(task for each, task in PAIRS if each == name) for name in TABLE}
# One of each kind of graph, with all operations that have a rule among them; the others are the same operations again.
QUICK = {"gpt2", "gemma3_text", "gpt_neox", "bert", "vit", "segformer", "mobilenet_v2", "wav2vec2"}


def ran(model: Any, folder: Path, precision: str | None = None) -> Executor:
    translation = coreai.translate(model, precision)
    return Executor(translation.save(folder / "a.aimodel"))


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        pytest.param(*pair, marks=() if pair in {(name, FIRST[name]) for name in QUICK} else pytest.mark.all)
        for pair in PAIRS
    ],
)
def test_every_task(model_type: str, task: str, tmp_path: Path) -> None:
    folder = checkpoint(model_type, task)
    options = {**TABLE[model_type].options, "postprocess": False, "precision": "float32", "lint": False}
    model = milbuild.build(folder, task=task, **options)
    inputs = inputs_for(model, transformers.AutoConfig.from_pretrained(folder))
    found = ran(model, tmp_path).functions["main"].predict(inputs)
    expected = model.predict(dict(inputs))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert difference(found[name], value) <= 1e-5, name


CACHES = {
    "state": {"cache": "state", "prefill_length": 4},
    "io": {"cache": "io"},
    "io, growing": {"cache": "io", "context_length": (1, 29)},
    "none, ranged": {"sequence_length": (1, 29)},
    "none, listed": {"sequence_length": [4, 11]},
}


@pytest.mark.parametrize("build", CACHES)
@pytest.mark.parametrize(
    "model_type",
    ["gpt2", *(pytest.param(name, marks=pytest.mark.all) for name in ("gemma3_text", "llama", "gpt_neox"))],
)
def test_caches_and_lengths(model_type: str, build: str) -> None:
    """By `validate`, against transformers, in a row of its own: calls one after the other, prefill, greedy text."""
    folder = checkpoint(model_type)
    model = milbuild.build(folder, precision="float32", lint=False, **CACHES[build])
    report = milbuild.validate(model, folder, backend="coreai")
    rows = [row for row in report.rows if row.backend == "Core AI"]
    assert report.passed
    assert rows
    assert max(row.max_rel for row in rows) <= 1e-5
    assert any("not a device's arithmetic" in note for note in report.notes())


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=() if name == "t5" else pytest.mark.all) for name in SEQ2SEQ_MODELS]
)
def test_an_encoder_and_a_decoder(model_type: str) -> None:
    """float16 is translated as float32, and is then as good as the graph."""
    tiny = SEQ2SEQ_MODELS[model_type]
    folder = checkpoint(model_type, "speech-seq2seq" if tiny.kind == SPEECH_SEQ2SEQ else "text2text-generation")
    options = {**tiny.options, "postprocess": False} if tiny.kind == SPEECH_SEQ2SEQ else {"sequence_length": 11}
    report = milbuild.validate(milbuild.build(folder, cache="state", lint=False, **options), folder, backend="coreai")
    rows = {(row.case, row.output, row.backend): row.max_rel for row in report.rows}
    assert report.passed
    for (case, output, backend), error in rows.items():
        if backend == "Core AI":
            assert error <= 1.05 * rows[case, output, "float32"] + 1e-6


def test_an_image_classifier(tmp_path: Path) -> None:
    """What Core AI has no counterpart for is said; the rest is the same."""
    folder = shutil.copytree(checkpoint("vit", "image-classification"), tmp_path / "c")
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    model = milbuild.build(folder, task="image-classification", precision="float32", lint=False)
    translation = coreai.translate(model)
    assert [note.partition(":")[0] for note in translation.notes] == ["image", "classLabel"]
    report = milbuild.validate(model, folder, backend="coreai")
    assert report.passed
    assert {row.output for row in report.rows if row.backend == "Core AI"} == {"probabilities"}


# What means something else, or nothing, in Core AI's operation of the same name.


def program(build: Callable[..., Any], **inputs: np.ndarray) -> tuple[dict[str, np.ndarray], Any]:
    specs = [mb.TensorSpec(each.shape, types.numpy_type_to_builtin_type(each.dtype)) for each in inputs.values()]
    # The parameters of the function are the program's inputs.
    names = ", ".join(inputs)
    made: dict[str, Any] = {"build": build}
    exec(f"def function({names}): return build({names})", made)
    prog = mb.program(input_specs=specs, opset_version=ct.target.iOS18)(made["function"])
    model = ct.convert(
        prog, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, minimum_deployment_target=ct.target.iOS18
    )
    return inputs, model


def both(build: Callable[..., Any], folder: Path, **inputs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(Core AI's value, the runtime's) of each output."""
    from milbuild import runtime

    given, model = program(build, **inputs)
    model.save(str(folder / "p.mlpackage"))
    expected = runtime.load(folder / "p.mlpackage").predict(dict(given))
    found = ran(folder / "p.mlpackage", folder).functions["main"].predict(given)
    return [(found[name], np.asarray(value)) for name, value in expected.items()]


SIGNED = np.array([-7, -3, -1, 0, 1, 5, 7], np.int32)
NUMBERS = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
IMAGE = np.random.default_rng(1).normal(size=(1, 4, 7, 9)).astype(np.float32)
OPERATIONS: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "mod of negative integers": (lambda x: mb.mod(x=x, y=np.int32(3)), SIGNED),
    "mod by a negative integer": (lambda x: mb.mod(x=x, y=np.int32(-3)), SIGNED),
    "mod of negative numbers": (lambda x: mb.mod(x=x, y=np.float32(0.7)), NUMBERS),
    "floor_div": (lambda x: mb.floor_div(x=x, y=np.int32(2)), SIGNED),
    "floor": (lambda x: mb.floor(x=mb.mul(x=x, y=np.float32(3))), NUMBERS),
    "ceil": (lambda x: mb.ceil(x=mb.mul(x=x, y=np.float32(3))), NUMBERS),
    "round": (lambda x: mb.round(x=mb.mul(x=x, y=np.float32(5))), NUMBERS),
    "sign": (lambda x: mb.sign(x=x), NUMBERS),
    "less_equal": (lambda x: mb.cast(x=mb.less_equal(x=x, y=np.int32(1)), dtype="int32"), SIGNED),
    "slice with a negative stride": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 3, 5], end=[0, 0, 0], stride=[1, -1, -2], end_mask=[True, True, True]
        ),
        NUMBERS,
    ),
    "slice from the end": (
        lambda x: mb.slice_by_index(x=x, begin=[0, -3, -1], end=[2, -1, 0], end_mask=[False, False, True]),
        NUMBERS,
    ),
    "slice that is squeezed": (
        lambda x: mb.slice_by_index(x=x, begin=[-1, 0, 1], end=[0, 4, 3], squeeze_mask=[True, False, False]),
        NUMBERS,
    ),
    "slice_by_size": (lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2], size=[-1, 2, 3]), NUMBERS),
    "gather along axis 2": (lambda x: mb.gather(x=x, indices=np.array([[5, 0], [-1, 2]], np.int32), axis=2), NUMBERS),
    "gather_along_axis": (
        lambda x: mb.gather_along_axis(x=x, indices=np.zeros((2, 1, 6), np.int32), axis=1),
        NUMBERS,
    ),
    "reshape that keeps an axis": (lambda x: mb.reshape(x=x, shape=[0, -1, 3]), NUMBERS),
    "concat interleaved": (
        lambda x: mb.concat(values=[x, mb.mul(x=x, y=np.float32(2))], axis=1, interleave=True),
        NUMBERS,
    ),
    "cumsum exclusive": (lambda x: mb.cumsum(x=x, axis=1, exclusive=True), NUMBERS),
    "cumsum reversed": (lambda x: mb.cumsum(x=x, axis=-1, reverse=True), NUMBERS),
    "topk": (lambda x: mb.topk(x=x, k=2, axis=1)[0], NUMBERS),
    "argsort": (lambda x: mb.argsort(x=x, axis=-1, ascending=True), NUMBERS),
    "reduce_argmin": (lambda x: mb.reduce_argmin(x=x, axis=1), NUMBERS),
    "reduce_log_sum_exp": (lambda x: mb.reduce_log_sum_exp(x=mb.mul(x=x, y=np.float32(100)), axes=[-1]), NUMBERS),
    "reduce_l2_norm": (lambda x: mb.reduce_l2_norm(x=x, axes=[0, 2], keep_dims=True), NUMBERS),
    "softplus": (lambda x: mb.softplus(x=mb.mul(x=x, y=np.float32(60))), NUMBERS),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), NUMBERS),
    "prelu": (lambda x: mb.prelu(x=x, alpha=np.array([0.1, 0.2, 0.3, 0.4], np.float32)), IMAGE),
    "gelu": (lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), NUMBERS),
    "one_hot": (lambda x: mb.one_hot(indices=mb.abs(x=x), one_hot_vector_size=9, axis=0), SIGNED),
    "band_part": (lambda x: mb.band_part(x=x, lower=1, upper=2), NUMBERS),
    "layer_norm over several axes": (lambda x: mb.layer_norm(x=x, axes=[1, 2], epsilon=1e-3), NUMBERS),
    "instance_norm": (lambda x: mb.instance_norm(x=x, epsilon=1e-3), IMAGE),
    "conv padded as tensorflow does": (
        lambda x: mb.conv(x=x, weight=np.ones((2, 4, 3, 4), np.float32), strides=[2, 3], pad_type="same"),
        IMAGE,
    ),
    "conv in groups": (
        lambda x: mb.conv(
            x=x,
            weight=np.ones((4, 2, 2, 2), np.float32),
            groups=2,
            dilations=[2, 1],
            pad_type="custom",
            pad=[1, 0, 2, 1],
        ),
        IMAGE,
    ),
    "max_pool": (lambda x: mb.max_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="same"), IMAGE),
    "avg_pool": (lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[1, 2], pad_type="valid"), IMAGE),
    **{
        f"resize_bilinear {mode}": (
            lambda x, mode=mode: mb.resize_bilinear(
                x=x, target_size_height=11, target_size_width=4, sampling_mode=mode
            ),
            IMAGE,
        )
        for mode in ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
    },
    "upsample_nearest_neighbor": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=3.0),
        IMAGE,
    ),
    "resize_nearest_neighbor": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=5, target_size_width=13),
        IMAGE,
    ),
    "pixel_shuffle": (lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), IMAGE),
    "space_to_depth": (
        lambda x: mb.space_to_depth(x=mb.slice_by_size(x=x, begin=[0] * 4, size=[1, 4, 6, 8]), block_size=2),
        IMAGE,
    ),
    "einsum": (
        lambda x: mb.einsum(values=(x, np.ones((1, 9, 7, 5), np.float32)), equation="abcd,adce->abce"),
        IMAGE,
    ),
    "pad reflected": (lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="reflect"), IMAGE),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), IMAGE),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str, tmp_path: Path) -> None:
    build, x = OPERATIONS[name]
    for found, expected in both(build, tmp_path, x=x):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("boolean", [False, True])
def test_attention_to_nothing_is_zero(boolean: bool, tmp_path: Path) -> None:
    """softmax of a row of -inf is NaN."""
    mask = np.zeros((3, 5), bool)
    mask[0, :2] = mask[2, 4] = True
    given: Any = mask if boolean else np.where(mask, 0, -np.inf).astype(np.float32)
    query, key = (
        np.random.default_rng(seed).normal(size=(1, 2, n, 4)).astype(np.float32) for seed, n in ((0, 3), (1, 5))
    )

    def build(q: Any, k: Any) -> Any:
        return mb.scaled_dot_product_attention(query=q, key=k, value=k, attn_mask=given)

    ((found, expected),) = both(build, tmp_path, q=query, k=key)
    assert not found[:, :, 1].any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_has_no_rule_is_refused_by_its_line(tmp_path: Path) -> None:
    _, model = program(lambda x: mb.non_zero(x=x), x=SIGNED)
    model.save(str(tmp_path / "p.mlpackage"))
    with pytest.raises(milbuild.Error, match=r"no rule for Core AI: non_zero\n  main: %\w+ = non_zero\(x=x\)"):
        coreai.translate(tmp_path / "p.mlpackage")
    _, model = program(lambda x: mb.gather_nd(x=x, indices=np.zeros((2, 1, 1), np.int32), batch_dims=1), x=NUMBERS)
    model.save(str(tmp_path / "q.mlpackage"))
    with pytest.raises(milbuild.Error, match=r"q.mlpackage, main: gather_nd cannot be translated: batch_dims is 1"):
        coreai.translate(tmp_path / "q.mlpackage")


def test_padding_that_an_average_leaves_out_is_refused(tmp_path: Path) -> None:
    """Along whichever axis it is."""
    how = {"kernel_sizes": [2, 2], "pad_type": "custom", "exclude_padding_from_average": True}
    _, model = program(lambda x: mb.avg_pool(x=x, pad=[0, 0, 1, 1], **how), x=IMAGE)
    model.save(str(tmp_path / "p.mlpackage"))
    with pytest.raises(milbuild.Error, match="exclude_padding_from_average is true"):
        coreai.translate(tmp_path / "p.mlpackage")


def test_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    milbuild.build(checkpoint(), cache="state", prefill_length=4, lint=False).save(tmp_path / "p.mlpackage")
    sums = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.aimodel"
        code = f"from milbuild import coreai; coreai.translate({str(tmp_path / 'p.mlpackage')!r}).save({str(target)!r})"
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        sums.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()})
        assert (target / "main.hash").read_bytes().hex() == sums[-1]["main.mlirb"]
    assert sums[0] == sums[1]
    told = json.loads((tmp_path / "1.aimodel" / "metadata.json").read_text())
    assert told["creatorDefinedMetadata"]["milbuild.model_type"] == "gpt2"


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    model = milbuild.build(checkpoint(), cache="state", context_length=29, precision="float32", lint=False)
    found = ran(model, tmp_path)
    yield found
    found.close()


def test_a_new_state_holds_nothing(executor: Executor) -> None:
    main = executor.functions["main"]
    first, scores = main.make_state(), []
    for token in tokens(1, 9)[0]:
        main.predict({"input_ids": [[token]], "position": [0]}, first)
    for state in (main.make_state(), main.make_state()):
        scores.append(main.predict({"input_ids": [[7]], "position": [0]}, state)["logits"])
    assert np.array_equal(*scores)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"input_ids": [[1, 2]], "position": [0]}, "input_ids has an invalid shape"),
        ({"input_ids": [[1]]}, "the input position is missing"),
        ({"input_ids": [[1]], "position": [0], "mask": [0]}, "there is no input mask; there are input_ids, position"),
    ],
)
def test_wrong_inputs(data: dict[str, Any], words: str, executor: Executor) -> None:
    main = executor.functions["main"]
    with pytest.raises(milbuild.Error, match=words):
        main.predict(data, main.make_state())
    assert main.predict({"input_ids": [[1]], "position": [0]}, main.make_state())["logits"].shape == (1, 1, 61)


def test_the_end_of_its_process_is_an_error(executor: Executor) -> None:
    executor._process.send_signal(signal.SIGKILL)
    with pytest.raises(milbuild.Error, match=r"Core AI's runtime ended by SIGKILL on a\.aimodel"):
        executor.functions["main"].make_state()


def test_command(tmp_path: Path, torch_command: CommandLine) -> None:
    milbuild.build(checkpoint(), sequence_length=7, lint=False).save(tmp_path / "p.mlpackage")
    result = torch_command("translate", "p.mlpackage", "out", cwd=tmp_path)
    assert (result.code, result.out) == (0, "")
    assert "Translated p.mlpackage to out.aimodel" in result.err
    result = torch_command("translate", "p.mlpackage", "out.aimodel", cwd=tmp_path)
    assert (result.code, "out.aimodel exists" in result.err) == (2, True)
    result = torch_command("translate", "p.mlpackage", "out.aimodel", "--force", "--json", cwd=tmp_path)
    assert json.loads(result.out)["functions"] == ["main"]
    result = torch_command("translate", "p.mlpackage", "out.mlpackage", cwd=tmp_path)
    assert (result.code, "does not end with .aimodel" in result.err) == (2, True)
    (tmp_path / "notes.aimodel").mkdir()
    (tmp_path / "notes.aimodel" / "mine.txt").write_text("mine")
    result = torch_command("translate", "p.mlpackage", "notes.aimodel", "--force", cwd=tmp_path)
    assert (result.code, "is not a package" in result.err) == (2, True)
    assert (tmp_path / "notes.aimodel" / "mine.txt").read_text() == "mine"


def test_every_rule_is_one_of_the_runtimes_operations() -> None:
    from milbuild.coreai import rules  # noqa: F401 -- registers them
    from milbuild.runtime import operations  # noqa: F401 -- registers them
    from milbuild.runtime.registry import OPERATIONS as KNOWN

    assert not RULES.keys() - KNOWN.keys()
    page = (Path(__file__).parents[1] / "docs" / "coreai.md").read_text()
    missing = page[page.index("Not translated yet") : page.index("## What is proved")]
    assert {name for name in KNOWN if f"`{name}`" in missing} - {"scatter_nd"} == KNOWN.keys() - RULES.keys() - {
        "classify"
    }
    for name, rule in RULES.items():
        assert set(rule.parameters) <= set(KNOWN[name].parameters) | {"interleave"}, name
