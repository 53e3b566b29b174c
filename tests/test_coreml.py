"""Core ML itself: every family's small model on each compute unit of a Mac, against transformers' model.

Everything goes through coremltools' own MLModel, as an application would load a package. Off macOS these tests are skipped;
MILBUILD_COREML=runtime puts `milbuild.runtime` in Core ML's place, so that the file itself is known to work anywhere.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from PIL import Image

import milbuild
from milbuild import architectures, runtime
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, psnr, reference, tokens
from tests.tiny import TABLE

STAND_IN = os.environ.get("MILBUILD_COREML") == "runtime"
pytestmark = [
    pytest.mark.coreml,
    pytest.mark.skipif(
        sys.platform != "darwin" and not STAND_IN,
        reason="Core ML is on macOS only; MILBUILD_COREML=runtime runs these tests on milbuild's runtime",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# iOS 18's packages need macOS 15.
OLD = sys.platform == "darwin" and int(platform.mac_ver()[0].split(".")[0]) < 15
TARGET = {"target": "iOS17"} if OLD else {}
new_enough = pytest.mark.skipif(OLD, reason="a state, and two functions in a package, need macOS 15")

# The least PSNR, in dB, of float16 packages. The CPU computes as declared or better; of a compiled model Apple's own bar
# is 40 dB (apple/coreai-models, skills/model-authoring/SKILL.md), and nobody publishes how the Neural Engine accumulates.
LEAST = {"CPU_ONLY": 50, "CPU_AND_GPU": 40, "CPU_AND_NE": 40}
UNITS = list(LEAST)
TASKS = {name: architectures.SUPPORTED[name].tasks[0] for name in TABLE}
DECODERS = [name for name in TABLE if architectures.SUPPORTED[name].decoder]
CONTEXT = 29  # of every decoder in the table
PROCESSOR = """{"do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
"image_mean": [0.5, 0.4, 0.6], "image_std": [0.25, 0.5, 0.3]}"""


@pytest.fixture(scope="module", autouse=True)
def _core_ml() -> Iterator[None]:
    if STAND_IN:
        runtime.enable()
    yield
    if STAND_IN:
        runtime.disable()


def load(model: milbuild.Model, unit: str, function: str | None = None) -> ct.models.MLModel:
    """A build as coremltools loads it from the disk."""
    return ct.models.MLModel(model.package_path, compute_units=ct.ComputeUnit[unit], function_name=function)


def random_inputs(model: milbuild.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """A value for every input of a package that takes arrays: ids below 61, a mask that hides nothing, noise."""
    random, found = np.random.default_rng(seed), {}
    for feature in model.get_spec().description.input:
        shape = tuple(feature.type.multiArrayType.shape)
        if feature.name.endswith("input_ids"):
            found[feature.name] = tokens(*shape, seed=seed)
            found[feature.name][0, shape[1] // 2] = 2  # the end of a text, which some classifiers look for
        elif feature.name == "attention_mask":
            found[feature.name] = np.ones(shape, np.int32)
        elif feature.name in ("token_type_ids", "bool_masked_pos"):
            found[feature.name] = random.integers(0, 2, shape, np.int32)
        else:
            found[feature.name] = random.standard_normal(shape, np.float32)
    return found


def check(unit: str, value: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert np.ptp(expected) > 0.05, "numbers that are all alike show nothing"
    assert psnr(value, expected) >= LEAST[unit], what


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model_type", [name for name in TABLE if architectures.find(name).encode is None])
def test_every_family(model_type: str, unit: str) -> None:
    task, tiny = TASKS[model_type], TABLE[model_type]
    folder = checkpoint(model_type, task)
    model = milbuild.build(folder, task=task, **tiny.options | {"postprocess": False} | TARGET)
    package, several = load(model, unit), [random_inputs(model, seed) for seed in range(4)]
    outputs = [package.predict(inputs) for inputs in several]
    expected = [hf.forward(reference(folder, task), inputs) for inputs in several]
    for name in outputs[0]:
        check(unit, *(np.concatenate([call[name] for call in calls]) for calls in (outputs, expected)), name)


@new_enough
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_state_with_prefill(model_type: str, unit: str) -> None:
    """Seven tokens at once, then one by one, in a state that two functions share."""
    folder, ids = checkpoint(model_type), tokens(1, 12, seed=1)
    model = milbuild.build(folder, cache="state", context_length=CONTEXT, prefill_length=7)
    prefill, decode = load(model, unit, "prefill"), load(model, unit, "main")
    state = decode.make_state()
    scores = [prefill.predict({"input_ids": ids[:, :7], "position": np.int32([0])}, state)["logits"]]
    for at in range(7, 12):
        data = {"input_ids": ids[:, at : at + 1], "position": np.int32([at])}
        scores.append(decode.predict(data, state)["logits"])
    expected = hf.forward(reference(folder), {"input_ids": ids})["logits"]
    check(unit, np.concatenate(scores, axis=1), expected, "logits")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [(1, 29), [7, 1, 29]], ids=["ranged", "listed"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma3_text", "bert"])
def test_open_lengths(model_type: str, length: Any, unit: str) -> None:
    task = "fill-mask" if model_type == "bert" else "text-generation"
    folder = checkpoint(model_type, task)
    package = load(
        milbuild.build(folder, task=task, sequence_length=length, attention_mask=False, postprocess=False, **TARGET),
        unit,
    )
    for count in (1, 7, 29):
        ids = tokens(1, count, seed=count)
        expected = hf.forward(reference(folder, task), {"input_ids": ids})["logits"]
        check(unit, package.predict({"input_ids": ids})["logits"], expected, str(count))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model_type", ["vit", "convnext", "resnet", "mobilenet_v2"])
def test_an_image_and_its_label(model_type: str, unit: str, tmp_path: Path) -> None:
    """An image input, which the package scales itself, and a classifier's dictionary."""
    folder = shutil.copytree(checkpoint(model_type, "image-classification"), tmp_path / "c")
    tiny = TABLE[model_type]
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    height, width = size = tiny.size
    package = load(milbuild.build(folder, image_size=size, **TARGET), unit)
    truth, probabilities, expected = reference(folder, "image-classification"), [], []
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        values = (pixels / 255 - [0.5, 0.4, 0.6]) / [0.25, 0.5, 0.3]
        scores = hf.forward(truth, {"pixel_values": np.float32(values.transpose(2, 0, 1)[None])})
        expected.append(hf.postprocessed("image-classification", scores, truth.config)["probabilities"][0])
        found = package.predict({"image": Image.fromarray(pixels)})
        given = next(value for value in found.values() if isinstance(value, dict))
        labels = [truth.config.id2label[label] for label in range(len(given))]
        assert next(value for value in found.values() if isinstance(value, str)) == max(given, key=given.__getitem__)
        probabilities.append([given[label] for label in labels])
    check(unit, np.float32(probabilities), np.array(expected), "probabilities")


@new_enough
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model_type", [name for name in TABLE if architectures.find(name).encode is not None])
@pytest.mark.parametrize("cache", ["io", "state"])
def test_an_encoder_and_a_decoder(model_type: str, cache: str, unit: str) -> None:
    """What an encoder read, and an answer that is fed token by token."""
    from tests.test_answers import TASKS as ANSWERS
    from tests.test_answers import given, play, sizes

    folder = checkpoint(model_type, ANSWERS[model_type])
    model = milbuild.build(folder, task=ANSWERS[model_type], cache=cache, context_length=13, **sizes(model_type))
    engines = {name: load(model, unit, name) for name in ("encode", "decode")}
    for name, engine in engines.items():
        model.function(name).use(engine)
    inputs = given(model_type, answer=9)
    expected = hf.forward(reference(folder, ANSWERS[model_type]), inputs)["logits"]
    check(unit, play(model, inputs, [1] * 9), expected, "logits")
