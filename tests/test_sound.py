"""Speech encoders against transformers: every flag, task, kind of length, mask and precision, every module's output."""

import re
from typing import Any

import numpy as np
import pytest

import milbuild
from milbuild import architectures, runtime
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, psnr, reference
from tests.test_parity import compare, operations
from tests.tiny import SOUNDS

FLAGS = [(name, flag) for name, tiny in SOUNDS.items() for flag in tiny.flags]
TASK_PAIRS = [(name, task) for name in SOUNDS for task in architectures.SUPPORTED[name].tasks]


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
    folder = checkpoint(model_type, "ctc", **SOUNDS[model_type].flags[flag])
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
def test_every_landmark(model_type: str, task: str, flag: str) -> None:
    """Every module of transformers whose output stands in the graph has its value there, under its name."""
    folder = checkpoint(model_type, task, **SOUNDS[model_type].flags[flag])
    inputs = {"input_values": sound(1, 431)}
    truth = reference(folder, task)
    with hf.modules(truth) as expected:
        hf.forward(truth, inputs)
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, task=task, sequence_length=431, precision=precision, postprocess=False)
        path = model.package_path  # a temporary folder, which lasts as long as the model
        names = hf.landmarks(expected, [op.name for op in runtime.load(path).function.operations if op.type != "const"])
        engine = runtime.load(path, keep=list(names.values()))
        engine.predict(inputs)
        compared = set()
        for module, operation in names.items():
            value, true = engine.kept[operation], expected[module]
            if value.shape == true.shape:
                assert difference(value, true) <= 1e-5 if precision == "float32" else psnr(value, true) >= 55, module
                compared.add(module)
        wanted = {module for module in expected if re.sub(r"\.\d+", ".*", module) in SOUNDS[model_type].landmarks}
        if flag == "all of XLS-R":  # the last convolution's frames go out as the projection wants them
            wanted.discard(f"{model_type}.feature_extractor.conv_layers.2")
        assert wanted <= compared
        assert len(wanted) >= len(SOUNDS[model_type].landmarks)


@pytest.mark.parametrize("model_type", SOUNDS)
def test_operations_stay_few(model_type: str) -> None:
    folder = checkpoint(model_type, "feature-extraction")
    model = milbuild.build(folder, sequence_length=431)
    assert len(operations(model)) <= SOUNDS[model_type].operations


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
