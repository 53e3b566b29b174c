"""Every flag, task, size, precision and target of the families that take pictures against transformers, eager, in float32."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milbuild
from milbuild import Error, architectures, runtime
from milbuild.options import TARGETS
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, reference
from tests.test_parity import _operations, compare
from tests.tiny import PICTURES

FLAGS = [(name, flag) for name, tiny in PICTURES.items() for flag in tiny.flags]
TASKS = [(name, task) for name in PICTURES for task in architectures.SUPPORTED[name].tasks]


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
    tiny = PICTURES[model_type]
    fields = tiny.flags[flag]
    for task in architectures.SUPPORTED[model_type].tasks:
        size = fields.get("image_size", tiny.size)
        if task == "masked-im" and flag in ("trained on oblongs", "oblong patches"):
            with pytest.raises(Error, match="masked-im reconstructs squares"):
                proved(checkpoint(model_type, task, **fields), task, precision, size)
            continue
        proved(checkpoint(model_type, task, **fields), task, precision, size)


@pytest.mark.parametrize(("model_type", "task"), TASKS)
def test_every_landmark(model_type: str, task: str) -> None:
    """Every module of transformers whose output stands in the graph has its value there, under its name."""
    folder, tiny = checkpoint(model_type, task), PICTURES[model_type]
    model = milbuild.build(folder, task=task, precision="float32", **tiny.options)
    inputs, truth, path = pictures(model), reference(folder, task), model.package_path
    with hf.modules(truth) as expected:
        hf.forward(truth, inputs)
    names = hf.landmarks(expected, [op.name for op in runtime.load(path).function.operations if op.type != "const"])
    engine = runtime.load(path, keep=list(names.values()))
    engine.predict(inputs)
    compared = set()
    for module, operation in names.items():
        value = engine.kept[operation]
        if value.shape == expected[module].shape:
            assert difference(value, expected[module]) <= 1e-5, module
            compared.add(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module))
    assert set(tiny.landmarks) <= compared


@pytest.mark.parametrize("model_type", PICTURES)
def test_operations_stay_few(model_type: str) -> None:
    tiny = PICTURES[model_type]
    model = milbuild.build(checkpoint(model_type, "feature-extraction"), task="feature-extraction", **tiny.options)
    assert len(_operations(model)) <= tiny.operations


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model_type", PICTURES)
def test_targets(model_type: str, target: str, precision: str) -> None:
    task = architectures.SUPPORTED[model_type].tasks[0]
    model = proved(checkpoint(model_type, task), task, precision, PICTURES[model_type].size, target=target)
    assert model.get_spec().specificationVersion == TARGETS[target]


@pytest.mark.parametrize("size", [(40, 32), (24, 72), (64, 64), (37, 50)], ids=str)
@pytest.mark.parametrize("model_type", PICTURES)
def test_other_sizes_than_the_trained_one(model_type: str, size: tuple[int, int]) -> None:
    """Positions are resampled when the package is saved, as transformers does at every call."""
    for task in architectures.SUPPORTED[model_type].tasks:
        if task != "masked-im":  # transformers itself has no mask there
            proved(checkpoint(model_type, task), task, "float32", size, calls=1)


def test_a_reconstruction_without_a_mask() -> None:
    """An input that is left out hides nothing."""
    folder = checkpoint("vit", "masked-im")
    model = milbuild.build(folder, task="masked-im", precision="float32", **PICTURES["vit"].options)
    inputs = {"pixel_values": pictures(model)["pixel_values"]}
    assert compare(model, folder, "masked-im", inputs)["reconstruction"][0] <= 1e-5


def test_positions_that_are_no_square_are_not_resampled() -> None:
    folder = checkpoint("vit", "image-classification", image_size=(24, 40))
    with pytest.raises(Error, match="positions of 3 x 5 patches are no square"):
        milbuild.build(folder, image_size=(32, 32), postprocess=False)


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (3, 3), (5, 1), (1, 6), (14, 37)])
def test_bicubic_is_torch_s(old: int, new: int) -> None:
    import torch

    from milbuild.layers.image import bicubic

    values = np.random.default_rng(0).normal(size=(old, old))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(new, new), mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(bicubic(old, new) @ values @ bicubic(old, new).T, expected[0, 0], atol=1e-12)
