"""Speech encoders against transformers: every flag, task, kind of length, mask and precision, every module's output."""

import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import milbuild
from milbuild import architectures, runtime
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, examples, psnr, reference
from tests.test_parity import compare, operations
from tests.tiny import AUDIO_MODELS

FLAGS = [(name, flag) for name, tiny in AUDIO_MODELS.items() for flag in tiny.flags]
TASK_PAIRS = [(name, task) for name in AUDIO_MODELS for task in architectures.SUPPORTED[name].tasks]


def sound(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise of unit variance, which is what a processor makes of any sound."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def padded(seed: int = 0) -> dict[str, np.ndarray]:
    """Three sounds, two of them shorter, with zeros behind them."""
    mask = np.ones((3, 431), np.int32)
    mask[1, 300:] = mask[2, 209:] = 0
    return {"input_values": sound(3, 431, seed=seed) * np.float32(mask), "attention_mask": mask}


@pytest.mark.parametrize(("model_type", "flag"), FLAGS)
@pytest.mark.parametrize("masked", [False, True])
def test_flags_in_both_precisions(model_type: str, flag: str, masked: bool) -> None:
    folder = checkpoint(model_type, "ctc", **AUDIO_MODELS[model_type].flags[flag])
    inputs = padded() if masked else {"input_values": sound(3, 431)}
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": masked, "postprocess": False}
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, precision=precision, **options)
        error, noise = compare(model, folder, "ctc", inputs)["logits"]
        assert error <= 1e-5 if precision == "float32" else noise >= 55


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("flags", [{}, {"use_weighted_layer_sum": True}, {"do_stable_layer_norm": True}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_tasks_in_both_precisions(model_type: str, task: str, flags: dict[str, Any], masked: bool) -> None:
    folder = checkpoint(model_type, task, **flags)
    # A classifier gives few numbers in a call: the noise of some more makes a figure.
    calls = [padded(seed) if masked else {"input_values": sound(3, 431, seed=seed)} for seed in range(4)]
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": masked, "postprocess": False}
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, task=task, precision=precision, **options)
        for name, (error, noise) in compare(model, folder, task, *calls).items():
            assert error <= 1e-5 if precision == "float32" else noise >= 55, name


@pytest.mark.parametrize("length", [431, (41, 640), [41, 431, 640]], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_tasks_at_every_kind_of_length(model_type: str, task: str, masked: bool, length: Any) -> None:
    shortest = architectures.find(model_type).shortest(reference(checkpoint(model_type, task), task).config, task)
    low = max(41, shortest)
    length = length if isinstance(length, int) else type(length)(low if n == 41 else n for n in length)
    folder = checkpoint(model_type, task)
    options = {"sequence_length": length, "attention_mask": masked, "postprocess": False, "precision": "float32"}
    model = milbuild.build(folder, task=task, **options)
    for count in [length] if isinstance(length, int) else length:
        inputs = {"input_values": sound(1, count)}
        if masked:
            inputs["attention_mask"] = np.ones((1, count), np.int32)
            inputs["attention_mask"][:, max(count * 2 // 3, shortest) :] = 0
        assert all(error <= 1e-5 for error, _ in compare(model, folder, task, inputs).values())


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("flag", ["plain", "all of XLS-R"])
def test_every_module_output(model_type: str, task: str, flag: str) -> None:
    """Every module of transformers whose output stands in the graph has its value there, under its name."""
    folder = checkpoint(model_type, task, **AUDIO_MODELS[model_type].flags[flag])
    inputs = {"input_values": sound(1, 431)}
    truth = reference(folder, task)
    with hf.modules(truth) as expected:
        hf.forward(truth, inputs)
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, task=task, sequence_length=431, precision=precision, postprocess=False)
        path = model.package_path  # a temporary folder, which lasts as long as the model
        names = hf.module_outputs(
            expected, [op.name for op in runtime.load(path).function.operations if op.type != "const"]
        )
        engine = runtime.load(path, keep=list(names.values()))
        engine.predict(inputs)
        compared = set()
        for module, operation in names.items():
            value, true = engine.kept[operation], expected[module]
            if value.shape == true.shape:
                assert difference(value, true) <= 1e-5 if precision == "float32" else psnr(value, true) >= 55, module
                compared.add(module)
        wanted = {
            module for module in expected if re.sub(r"\.\d+", ".*", module) in AUDIO_MODELS[model_type].module_outputs
        }
        if flag == "all of XLS-R":  # the last convolution's frames go out as the projection wants them
            wanted.discard(f"{model_type}.feature_extractor.conv_layers.2")
        assert wanted <= compared
        assert len(wanted) >= len(AUDIO_MODELS[model_type].module_outputs)


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"])
@pytest.mark.parametrize("length", [431, (431, 640)], ids=str)
@pytest.mark.parametrize("task", ["ctc", "audio-xvector"])
def test_targets(target: str, length: Any, task: str) -> None:
    folder = checkpoint("wav2vec2", task)
    options = {"sequence_length": length, "batch_size": 3, "attention_mask": True, "postprocess": False}
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, task=task, target=target, precision=precision, **options)
        for name, (error, noise) in compare(model, folder, task, padded()).items():
            assert error <= 1e-5 if precision == "float32" else noise >= 55, name


@pytest.mark.parametrize("flag", ["odd positions", "plain"])
def test_old_names_of_weight_norm(flag: str, tmp_path: Path) -> None:
    """Files of the hub call g and v of the positions' convolution weight_g and weight_v."""
    folder = checkpoint("wav2vec2", "ctc", **AUDIO_MODELS["wav2vec2"].flags[flag])
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    names = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    old = {}
    for name, tensor in tensors.items():
        for new, spelled in names.items():
            name = name.replace(new, spelled)
        old[name] = tensor
    assert len(old.keys() - tensors.keys()) == 2
    save_file(old, tmp_path / "model.safetensors")
    inputs = {"input_values": sound(1, 431)}
    scores = [milbuild.build(each, sequence_length=431).predict(inputs)["token_scores"] for each in (folder, tmp_path)]
    np.testing.assert_array_equal(*scores)
    reports = milbuild.validate(milbuild.build(tmp_path, sequence_length=431, precision="float32"), tmp_path)
    assert reports.passed


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("masked", [False, True])
def test_packages_are_validated(model_type: str, task: str, masked: bool) -> None:
    folder = checkpoint(model_type, task)
    options = {"sequence_length": (431, 640), "batch_size": 2, "precision": "float32"}
    report = milbuild.validate(milbuild.build(folder, attention_mask=masked, **options), folder)
    assert report.passed
    assert report.drift is not None
    assert len(report.drift.outputs) > 20
    each = "8" if task == "audio-classification" else "2"
    assert {row.case for row in report.rows} >= {f"{each} x {count} samples" for count in (431, 535, 640)}
    assert any("padded" in row.case for row in report.rows) == masked


def test_what_the_processor_says(tmp_path: Path) -> None:
    shutil.copytree(checkpoint("wav2vec2", "ctc"), tmp_path, dirs_exist_ok=True)
    model = milbuild.build(tmp_path)
    assert list(model.input_description) == ["input_values"]
    assert (
        "(1, 7999, 61)" in model.output_description["token_scores"]
    )  # 160000 samples, each frame of 30, 20 behind the last
    processor = {"sampling_rate": 8000, "return_attention_mask": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = milbuild.build(tmp_path)
    assert list(model.input_description) == ["input_values", "attention_mask"]
    assert "80000 samples" in model.input_description["input_values"]


def test_a_package_names_its_tokens(tmp_path: Path) -> None:
    shutil.copytree(checkpoint("hubert", "ctc"), tmp_path, dirs_exist_ok=True)
    vocabulary = {f"t{i}": i for i in range(61)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    described = milbuild.build(tmp_path, sequence_length=431).output_description["token_scores"]
    assert described.endswith(f"Tokens: {' '.join(vocabulary)}")
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": vocabulary}))  # a tokenizer of several languages
    assert "Tokens" not in milbuild.build(tmp_path, sequence_length=431).output_description["token_scores"]


def test_probabilities() -> None:
    inputs = {"input_values": sound(1, 431)}
    tokens = milbuild.build(checkpoint("wav2vec2", "ctc"), sequence_length=431, precision="float32").predict(inputs)
    np.testing.assert_allclose(tokens["token_scores"].sum(-1), 1, rtol=1e-5)
    folder = checkpoint("wav2vec2", "audio-frame-classification")
    scores = milbuild.build(folder, sequence_length=431, precision="float32").predict(inputs)["frame_scores"]
    raw = hf.forward(reference(folder, "audio-frame-classification"), inputs)["logits"]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw)), rtol=1e-4, atol=1e-6)
    for flags, total in ({}, 1.0), ({"num_labels": 1}, 1.0), ({"problem_type": "multi_label_classification"}, None):
        folder = checkpoint("hubert", "audio-classification", **flags)
        found = milbuild.build(folder, sequence_length=431, precision="float32").predict(inputs)
        assert found["classLabel"] == max(found["probabilities"], key=found["probabilities"].get)
        assert (abs(sum(found["probabilities"].values()) - 1) < 1e-5) == (total is not None)
    regression = checkpoint("hubert", "audio-classification", problem_type="regression", num_labels=1)
    assert list(milbuild.build(regression, sequence_length=431).predict(inputs)) == ["logits"]


@pytest.mark.parametrize(
    ("task", "flags", "options", "message"),
    [
        ("ctc", {}, {"sequence_length": 29}, "sequence_length is 29; ctc needs 30 samples"),
        ("ctc", {}, {"sequence_length": (29, 99)}, "sequence_length is 29:99; ctc needs 30 samples"),
        ("audio-xvector", {}, {"sequence_length": 120}, "audio-xvector needs 130 samples"),
        ("ctc", {}, {"image_size": 30}, "wav2vec2 takes audio: it has no option image_size"),
        ("ctc", {}, {"cache": "state"}, "ctc has no cache"),
        ("ctc", {"feat_extract_norm": "batch"}, {}, "feat_extract_norm is 'batch'; it must be group or layer"),
        ("ctc", {"vocab_size": None}, {}, "config.json has no vocab_size"),
        ("audio-classification", {"add_adapter": True}, {}, "audio-classification has no model with add_adapter: true"),
        ("audio-frame-classification", {"add_adapter": True}, {}, "no model with add_adapter: true"),
        (
            "audio-xvector",
            {"tdnn_kernel": [3, 2]},
            {},
            "tdnn_dim, tdnn_kernel and tdnn_dilation are of several lengths",
        ),
        ("ctc", {"conv_bias": True}, {}, "has no tensor wav2vec2.feature_extractor.conv_layers.0.conv.bias"),
        ("ctc", {"conv_dim": [10, 12, 15]}, {}, "config.json asks for"),
        ("ctc", {"conv_dim": [10, 12]}, {}, "is no configuration of wav2vec2"),
    ],
)
def test_refusals(task: str, flags: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("wav2vec2", task), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | flags))
    with pytest.raises(milbuild.Error, match=re.escape(message)):
        milbuild.build(tmp_path, **({"sequence_length": 431} | options))


def test_a_checkpoint_of_pretraining_serves_as_base_model(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("wav2vec2", **AUDIO_MODELS["wav2vec2"].config)
    transformers.Wav2Vec2ForPreTraining(config).save_pretrained(tmp_path)
    model = milbuild.build(tmp_path, task="feature-extraction", sequence_length=431)
    assert list(model.predict({"input_values": sound(1, 431)})) == ["last_hidden_state", "extract_features"]


def test_a_bias_of_the_base_model_is_not_taken_for_a_head() -> None:
    """A speaker's head is called feature_extractor, as the base model's convolutions are."""
    folder = checkpoint("wav2vec2", "ctc", conv_bias=True)
    other = checkpoint("wav2vec2", "ctc")
    tensors = load_file(folder / "model.safetensors")
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(other, name, dirs_exist_ok=True)
        save_file(tensors, Path(name) / "model.safetensors")
        with pytest.raises(milbuild.Error, match="has 3 tensors that its architecture does not use"):
            milbuild.build(name, sequence_length=431)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(1, 9),
    st.fixed_dictionaries(
        {
            "feat_extract_norm": st.sampled_from(["group", "layer"]),
            "do_stable_layer_norm": st.booleans(),
            "conv_bias": st.booleans(),
            "num_hidden_layers": st.integers(1, 2),
            "num_attention_heads": st.sampled_from([1, 3, 8]),
        }
    ),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_any_configuration_equals_transformers(
    convolutions: list[tuple[int, int]], size: int, flags: dict[str, Any], more: int, fewer: int
) -> None:
    """Of any number of samples, padded or not: one division says how many frames all convolutions leave."""
    kernels, strides = zip(*convolutions, strict=True)
    sizes = {"conv_kernel": kernels, "conv_stride": strides, "conv_dim": [10, 11, 12, 13][: len(kernels)]}
    folder = checkpoint("wav2vec2", "ctc", **sizes, **flags, num_conv_pos_embeddings=size)
    truth = reference(folder, "ctc")
    shortest = architectures.find("wav2vec2").shortest(truth.config, "ctc")
    inputs = {
        "input_values": sound(2, shortest + 5 + more),
        "attention_mask": np.ones((2, shortest + 5 + more), np.int32),
    }
    inputs["attention_mask"][1, shortest + fewer :] = 0
    options = {"sequence_length": (shortest, shortest + 205), "attention_mask": True, "batch_size": 2}
    model = milbuild.build(folder, precision="float32", postprocess=False, **options)
    expected = hf.forward(truth, inputs)["logits"]
    assert difference(model.predict(inputs)["logits"], expected) <= 1e-5


def test_a_mask_can_be_left_out_and_a_row_be_empty() -> None:
    folder = checkpoint("wav2vec2", "audio-classification")
    options = {"sequence_length": 431, "batch_size": 2, "postprocess": False, "precision": "float32"}
    model = milbuild.build(folder, attention_mask=True, **options)
    inputs = {"input_values": sound(2, 431)}
    plain = hf.forward(reference(folder, "audio-classification"), inputs)["logits"]
    assert difference(model.predict(inputs)["logits"], plain) <= 1e-5
    mask = np.ones((2, 431), np.int32)
    mask[1] = 0  # transformers takes the mean of all frames, which are no sound
    logits = model.predict(inputs | {"attention_mask": mask})["logits"]
    assert np.isfinite(logits).all()
    assert difference(logits[:1], plain[:1]) <= 1e-5


def test_a_speaker_behind_an_adapter() -> None:
    folder = checkpoint("wav2vec2", "audio-xvector", add_adapter=True, num_adapter_layers=1)
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": True, "precision": "float32"}
    model = milbuild.build(folder, **options)
    assert all(error <= 1e-5 for error, _ in compare(model, folder, "audio-xvector", padded()).values())


@pytest.mark.parametrize(
    ("model_type", "task", "flag"),
    [
        *((model_type, task, flag) for model_type, task in TASK_PAIRS for flag in ("plain", "all of XLS-R")),
        ("wav2vec2", "ctc", "adapter"),
        ("hubert", "ctc", "batch norm"),
    ],
)
def test_no_operation_is_in_vain(model_type: str, task: str, flag: str) -> None:
    folder = checkpoint(model_type, task, **AUDIO_MODELS[model_type].flags[flag])
    for length, masked in itertools.product((431, (431, 640)), (False, True)):
        model = milbuild.build(folder, sequence_length=length, attention_mask=masked)
        read = {each for op in operations(model) for names in op.inputs.values() for each in names if type(each) is str}
        read |= set(model.output_description)
        assert [op.name for op in operations(model) if not read & {output.name for output in op.outputs}] == []


# Drawn, not picked: any of a family's variations together. What transformers itself refuses is no configuration.
@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_variations_together_equal_transformers(data: st.DataObject) -> None:
    model_type, task = data.draw(st.sampled_from(TASK_PAIRS))
    rows = AUDIO_MODELS[model_type].flags
    names = data.draw(st.lists(st.sampled_from(sorted(rows)), min_size=1, max_size=4, unique=True))
    flags: dict[str, Any] = {}
    for name in names:
        flags |= rows[name]
    inputs = padded(len(names)) if data.draw(st.booleans()) else {"input_values": sound(3, 431)}
    try:
        folder = checkpoint(model_type, task, **flags)
        expected = hf.forward(reference(folder, task), inputs)
    except (ValueError, StrictDataclassError, milbuild.Error):
        reject()
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": len(inputs) > 1, "postprocess": False}
    model = milbuild.build(folder, task=task, precision="float32", **options)
    for name, value in model.predict(inputs).items():
        if np.ptp(expected[name]) > 0.05:
            assert difference(value, expected[name]) <= 1e-5, name
