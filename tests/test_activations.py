"""Every activation function of transformers, wherever a configuration names one, against transformers' model."""

import functools
from pathlib import Path

import numpy as np
import pytest
import transformers
from transformers.activations import ACT2FN

import milbuild
from milbuild import architectures
from milbuild.layers.activation import ACTIVATIONS
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, psnr, reference
from tests.tiny import TABLE

# What transformers' class makes of another field.
DERIVED = {("t5", "dense_act_fn")}
# The tasks whose models have every place where the field counts: a language model's head has one of its own.
TASKS = ("fill-mask", "text-generation", "image-classification", "ctc", "feature-extraction")


@functools.cache
def fields(model_type: str) -> list[str]:
    """Those of a configuration that name an activation: their default is one, or their name says so."""
    values = transformers.AutoConfig.for_model(model_type).to_dict()
    return [
        name
        for name, value in values.items()
        if isinstance(value, str) and value in ACT2FN and (model_type, name) not in DERIVED
    ]


PLACES = [(model_type, field) for model_type in sorted(architectures.SUPPORTED) for field in fields(model_type)]
# Where squares would grow beyond float32 from layer to layer, in transformers' own model.
SHALLOW = {"resnet": {"hidden_sizes": [12], "depths": [1]}}
# With parameters, whose names in the file are the module's; and what no other test builds.
HARD = ("prelu", "xielu")


def inputs_of(model: milbuild.Model, vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Random values of every input of a package."""
    random, found = np.random.default_rng(seed), {}
    for feature in model.interface.input:
        shape = tuple(feature.type.multiArrayType.shape)
        if feature.name.endswith("_ids"):
            found[feature.name] = random.integers(6, vocabulary, shape, np.int32)
            if feature.name == "token_type_ids":
                found[feature.name] %= 2
        elif feature.name == "attention_mask":
            found[feature.name] = np.ones(shape, np.int32)
        else:
            found[feature.name] = random.normal(size=shape).astype(np.float32)
    return found


def largest(folder: Path, task: str, kind: type, calls: list[dict[str, np.ndarray]]) -> float:
    """Of all values that the functions of a kind give in transformers' model."""
    truth, values = reference(folder, task), [0.0]
    modules = [module for module in truth.modules() if isinstance(module, kind)]
    hooks = [m.register_forward_hook(lambda m, x, y: values.append(float(y.abs().max()))) for m in modules]
    for each in calls:
        hf.forward(truth, each)
    for hook in hooks:
        hook.remove()
    return max(values)


def compare(model_type: str, field: str, function: str, precision: str) -> None:
    entry = architectures.SUPPORTED[model_type]
    task = next(task for task in TASKS if task in entry.tasks)
    folder = checkpoint(model_type, task, **SHALLOW.get(model_type, {}), **{field: function})
    options = TABLE[model_type].options | {"postprocess": False}
    model = milbuild.build(folder, task=task, precision=precision, **options)
    calls = [inputs_of(model, 61, seed) for seed in range(3)]
    if precision == "float16" and largest(folder, task, type(ACT2FN[function]), calls) > 65504:
        pytest.skip("in transformers' model, in float32, its values grow from layer to layer beyond float16")
    found = [model.predict(dict(each)) for each in calls]
    expected = [hf.forward(reference(folder, task), each) for each in calls]
    for name in found[0]:
        value, truth = (np.concatenate([each[name].reshape(-1) for each in side]) for side in (found, expected))
        assert np.ptp(truth) > 0.05, name
        if precision == "float32":
            assert difference(value, truth) <= 1e-5, name
        else:
            assert psnr(value, truth) >= 55, name


def test_places_are_found() -> None:
    """Every family has one, and the ones that are known by name are among them."""
    assert {model_type for model_type, _ in PLACES} == set(architectures.SUPPORTED)
    known = {("vit", "pooler_act"), ("hubert", "feat_extract_activation"), ("t5", "feed_forward_proj")}
    assert known | {("gemma3_text", "hidden_activation"), ("distilbert", "activation")} <= set(PLACES)


def test_activations_are_all_of_transformers() -> None:
    assert sorted(ACT2FN) == sorted(ACTIVATIONS)


@pytest.mark.parametrize("function", HARD)
@pytest.mark.parametrize(("model_type", "field"), PLACES)
def test_parameters_wherever_a_function_is_named(model_type: str, field: str, function: str) -> None:
    compare(model_type, field, function, "float32")


@pytest.mark.all
@pytest.mark.filterwarnings("ignore::milbuild.LintWarning")  # a square in float16 is one
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("function", sorted(ACT2FN))
@pytest.mark.parametrize(("model_type", "field"), PLACES)
def test_every_function_wherever_one_is_named(model_type: str, field: str, function: str, precision: str) -> None:
    compare(model_type, field, function, precision)
