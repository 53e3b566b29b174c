"""Every flag, task, size, precision and target of the families that take pictures against transformers, eager, in float32."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from PIL import Image

import milbuild
from milbuild import Error, architectures
from milbuild.package import TARGETS
from milbuild.validation import reference as hf
from milbuild.validation.sample_inputs import random_image
from tests.conftest import check_module_outputs, checkpoint, difference, examples, reference
from tests.test_parity import compare
from tests.tiny import TABLE, VISION_MODELS

FLAGS = [(name, flag) for name, tiny in VISION_MODELS.items() for flag in tiny.flags]
TASKS = [(name, task) for name in VISION_MODELS for task in architectures.SUPPORTED[name].tasks]


def pictures(model: milbuild.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for every input of a package."""
    random = np.random.default_rng(seed)
    found = {}
    for feature in model.get_spec().description.input:
        shape = tuple(feature.type.multiArrayType.shape)
        values = (
            random.integers(0, 2, shape, np.int32) if feature.name == "bool_masked_pos" else random.normal(size=shape)
        )
        found[feature.name] = values if values.dtype == np.int32 else values.astype(np.float32)
    return found


def proved(folder: Path, task: str, precision: str, size: Any, calls: int = 3, **options: Any) -> milbuild.Model:
    """A package of three pictures a call that keeps the bar of its precision."""
    model = milbuild.build(
        folder, task=task, precision=precision, image_size=size, batch_size=3, postprocess=False, **options
    )
    for name, (error, noise) in compare(model, folder, task, *(pictures(model, seed) for seed in range(calls))).items():
        print(f"{folder.name} {precision} {name}: {error:.2e}, {noise:.1f} dB")
        assert error <= 1e-5 if precision == "float32" else noise >= 55, name
    return model


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("model_type", "flag"), FLAGS)
def test_flags(model_type: str, flag: str, precision: str) -> None:
    """On every task: each reads other fields."""
    tiny = VISION_MODELS[model_type]
    fields = tiny.flags[flag]
    for task in architectures.SUPPORTED[model_type].tasks:
        size = fields.get("image_size", tiny.size)
        if task == "masked-im" and flag in ("trained on oblongs", "oblong patches"):
            with pytest.raises(Error, match="masked-im reconstructs squares"):
                proved(checkpoint(model_type, task, **fields), task, precision, size)
            continue
        proved(checkpoint(model_type, task, **fields), task, precision, size)


@pytest.mark.parametrize(("model_type", "task"), TASKS)
def test_every_module_output(model_type: str, task: str) -> None:
    """Every module of transformers whose output stands in the graph has its value there, under its name."""
    folder, tiny = checkpoint(model_type, task), VISION_MODELS[model_type]
    model = milbuild.build(folder, task=task, precision="float32", **tiny.options)
    check_module_outputs(model, folder, task, pictures(model), tiny.module_outputs)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model_type", VISION_MODELS)
def test_targets(model_type: str, target: str, precision: str) -> None:
    task = architectures.SUPPORTED[model_type].tasks[0]
    model = proved(checkpoint(model_type, task), task, precision, VISION_MODELS[model_type].size, target=target)
    assert model.get_spec().specificationVersion == TARGETS[target]


@pytest.mark.parametrize("size", [(40, 32), (24, 72), (64, 64), (37, 50)], ids=str)
@pytest.mark.parametrize("model_type", VISION_MODELS)
def test_other_sizes_than_the_trained_one(model_type: str, size: tuple[int, int]) -> None:
    """Positions are resampled when the package is saved, as transformers does at every call."""
    for task in architectures.SUPPORTED[model_type].tasks:
        if task != "masked-im":  # transformers itself has no mask there
            proved(checkpoint(model_type, task), task, "float32", size, calls=1)


def test_a_reconstruction_without_a_mask() -> None:
    """An input that is left out hides nothing."""
    folder = checkpoint("vit", "masked-im")
    model = milbuild.build(folder, task="masked-im", precision="float32", **VISION_MODELS["vit"].options)
    inputs = {"pixel_values": pictures(model)["pixel_values"]}
    assert compare(model, folder, "masked-im", inputs)["reconstruction"][0] <= 1e-5


@pytest.mark.parametrize("model_type", ["vit", "convnext", "segformer", "yolos"])
def test_pictures_that_are_too_small(model_type: str) -> None:
    task = architectures.SUPPORTED[model_type].tasks[0]
    with pytest.raises(Error, match="the image is too small; 1 pixels are left for a kernel"):
        milbuild.build(checkpoint(model_type, task), image_size=1, postprocess=False)


@pytest.mark.parametrize("model_type", ["convnext", "resnet", "segformer"])
def test_every_stage_has_its_numbers(model_type: str, tmp_path: Path) -> None:
    task = architectures.SUPPORTED[model_type].tasks[0]
    shutil.copytree(checkpoint(model_type, task), tmp_path / "checkpoint")
    file = tmp_path / "checkpoint/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"hidden_sizes": [12, 20]}))
    with pytest.raises(Error, match=r"has 3 stages by \w+, and 2 entries in hidden_sizes"):
        milbuild.build(tmp_path / "checkpoint", image_size=64, postprocess=False)


def test_positions_that_are_no_square_are_not_resampled() -> None:
    folder = checkpoint("vit", "image-classification", image_size=(24, 40))
    with pytest.raises(Error, match="positions of 3 x 5 patches are no square"):
        milbuild.build(folder, image_size=(32, 32), postprocess=False)


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (3, 3), (5, 1), (1, 6), (14, 37)])
def test_bicubic_is_torch_s(old: int, new: int) -> None:
    from milbuild.layers.image import bicubic

    values = np.random.default_rng(0).normal(size=(old, old))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(new, new), mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(bicubic(old, new) @ values @ bicubic(old, new).T, expected[0, 0], atol=1e-12)


# Another mean and deviation for each channel: what is true for one of them is not for the others.
NORMALIZED = {"image_mean": [0.2, 0.5, 0.7], "image_std": [0.21, 0.35, 0.6]}


def with_processor(folder: Path, model_type: str, target: Path) -> tuple[Path, Any]:
    """A copy of a checkpoint with an image processor, and the processor."""
    shutil.copytree(folder, target)
    processor = getattr(transformers, f"{TABLE[model_type].processor}ImageProcessorPil")(**NORMALIZED)
    processor.save_pretrained(target)
    return target, processor


def processed(processor: Any, image: Image.Image) -> dict[str, np.ndarray]:
    steps = {step: False for step in ("do_resize", "do_center_crop", "do_pad") if hasattr(processor, step)}
    return {"pixel_values": processor(image, return_tensors="np", **steps)["pixel_values"]}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("model_type", "task"), TASKS)
def test_pictures_as_images(model_type: str, task: str, precision: str, tmp_path: Path) -> None:
    """What the image processor does is in the graph; `validate` plays both, raw and finished."""
    folder, _ = with_processor(checkpoint(model_type, task), model_type, tmp_path / "checkpoint")
    options = {"task": task, "image_size": VISION_MODELS[model_type].size, "precision": precision}
    for postprocess in (True, False):
        model = milbuild.build(folder, postprocess=postprocess, **options)
        report = milbuild.validate(model, folder)
        assert report.passed, str(report)
        assert report.drift is not None
        backend = "float32" if precision == "float32" else "declared"
        worst = report.drift.worst(backend)
        assert worst.worst[backend] <= (1e-5 if precision == "float32" else 0.02), worst
        kinds = {feature.name: feature.type.WhichOneof("Type") for feature in model.get_spec().description.input}
        assert kinds.get("image") == ("imageType" if postprocess else None)


def test_a_classifier_names_the_picture(tmp_path: Path) -> None:
    folder, processor = with_processor(checkpoint("vit", "image-classification"), "vit", tmp_path / "checkpoint")
    model, image = (
        milbuild.build(folder, image_size=32, precision="float32"),
        random_image((32, 32), np.random.default_rng(0)),
    )
    outputs = model.predict({"image": image})
    logits = hf.forward(reference(folder, "image-classification"), processed(processor, image))["logits"]
    assert outputs["classLabel"] == f"LABEL_{logits.argmax()}"
    expected = torch.from_numpy(logits).softmax(-1)[0].numpy()
    np.testing.assert_allclose(list(outputs["probabilities"].values()), expected, atol=1e-5)


@pytest.mark.parametrize("model_type", ["segformer", "mobilenet_v2"])
def test_every_pixel_has_a_label(model_type: str, tmp_path: Path) -> None:
    folder, processor = with_processor(
        checkpoint(model_type, "semantic-segmentation"), model_type, tmp_path / "checkpoint"
    )
    size, task = VISION_MODELS[model_type].size, "semantic-segmentation"
    model = milbuild.build(folder, task=task, image_size=size, precision="float32")
    image = random_image(size, np.random.default_rng(0))
    with torch.no_grad():
        truth = reference(folder, task)(torch.from_numpy(processed(processor, image)["pixel_values"]))
    expected = processor.post_process_semantic_segmentation(truth, target_sizes=[size])[0].numpy()
    found = model.predict({"image": image})["classLabels"]
    assert found.dtype == np.int32
    assert found.shape == (1, *size)
    assert len(np.unique(found)) > 1 or model_type == "mobilenet_v2"  # whose few states here are all alike
    assert (found[0] == expected).mean() > 0.999
    metadata = model.user_defined_metadata
    assert metadata["com.apple.coreml.model.preview.type"] == "imageSegmenter"
    parameters = json.loads(metadata["com.apple.coreml.model.preview.params"])
    assert parameters["labels"] == [f"LABEL_{number}" for number in range(7)]
    assert len(set(parameters["colors"])) == 7
    assert all(re.fullmatch(r"#[0-9A-F]{6}", color) for color in parameters["colors"])
    assert "LABEL_6" in model.get_spec().description.output[0].shortDescription


def test_boxes_are_those_of_the_pipeline(tmp_path: Path) -> None:
    folder, processor = with_processor(checkpoint("yolos", "object-detection"), "yolos", tmp_path / "checkpoint")
    size = VISION_MODELS["yolos"].size
    model = milbuild.build(folder, image_size=size, precision="float32")
    image = random_image(size, np.random.default_rng(0))
    outputs = model.predict({"image": image})
    with torch.no_grad():
        truth = reference(folder, "object-detection")(torch.from_numpy(processed(processor, image)["pixel_values"]))
    found = processor.post_process_object_detection(truth, threshold=0.0, target_sizes=[size])[0]
    np.testing.assert_allclose(outputs["scores"][0].max(-1), found["scores"], atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"][0], found["boxes"], atol=1e-3)
    assert np.array_equal(outputs["scores"][0].argmax(-1), found["labels"])


@pytest.mark.parametrize(("model_type", "task"), TASKS)
def test_both_spellings_of_the_hub(model_type: str, task: str, tmp_path: Path) -> None:
    """Files of the hub have the modules' old names, which transformers goes on writing; new ones load, too."""
    folder = checkpoint(model_type, task)
    reference(folder, task).save_pretrained(tmp_path / "new", save_original_format=False)
    options = {"task": task, "precision": "float32", **VISION_MODELS[model_type].options}
    old, new = (milbuild.build(source, **options) for source in (folder, tmp_path / "new"))
    inputs = pictures(old)
    one, two = old.predict(inputs), new.predict(inputs)
    assert all(np.array_equal(one[name], two[name]) for name in one)


# Drawn, not picked: any of a family's variations together. What transformers itself refuses is no configuration.
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_variations_together_equal_transformers(data: st.DataObject) -> None:
    model_type, task = data.draw(st.sampled_from(TASKS))
    tiny = VISION_MODELS[model_type]
    names = data.draw(st.lists(st.sampled_from(sorted(tiny.flags)), min_size=1, max_size=4, unique=True))
    flags: dict[str, Any] = {}
    for name in names:
        flags |= tiny.flags[name]
    size = flags.get("image_size", tiny.size)
    try:
        folder = checkpoint(model_type, task, **flags)
        truth = reference(folder, task)
    except (ValueError, RuntimeError, AssertionError, Error):
        reject()
    try:
        model = milbuild.build(folder, task=task, image_size=size, batch_size=2, precision="float32", postprocess=False)
    except Error:
        reject()  # masked-im of oblongs; test_flags has what it says
    inputs = pictures(model, len(names))
    expected = hf.forward(truth, inputs)
    for name, value in model.predict(inputs).items():
        if np.ptp(expected[name]) > 0.05:
            assert difference(value, expected[name]) <= 1e-5, name
