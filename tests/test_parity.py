"""Every flag, task, shape, precision and target of every family against transformers, eager, in float32."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milbuild
from milbuild import architectures
from milbuild.layers.activation import ACTIVATIONS
from milbuild.package import TARGETS
from milbuild.validation import reference as hf
from tests.conftest import check_module_outputs, checkpoint, difference, inputs_of, psnr, reference, tokens
from tests.helpers.operations import counted, written
from tests.tiny import TABLE, TEXT_MODELS

FLAGS = [(name, flag) for name, tiny in TEXT_MODELS.items() for flag in tiny.flags]
TASK_PAIRS = [(name, task) for name in TEXT_MODELS for task in architectures.SUPPORTED[name].tasks]


Figures = dict[str, tuple[float, float]]


def compare(model: milbuild.Model, folder: Path, task: str, *inputs: dict[str, np.ndarray], rows: Any = ...) -> Figures:
    """(error over range, PSNR) of every output, over several calls as if they were one; `rows` of those that have a value
    for each token."""
    expected = [hf.forward(reference(folder, task), each) for each in inputs]
    outputs = [model.predict(dict(each)) for each in inputs]
    assert outputs[0].keys() <= expected[0].keys()
    figures = {}
    for name, first in outputs[0].items():
        places = rows if rows is ... or first.shape[: rows.ndim] == rows.shape else ...
        value, truth = (np.concatenate([each[name][places] for each in calls]) for calls in (outputs, expected))
        assert np.ptp(truth) > 0.05, "numbers that are all alike show nothing"
        figures[name] = difference(value, truth), psnr(value, truth)
    return figures


@pytest.mark.parametrize(("model_type", "flag"), FLAGS)
def test_flags_in_both_precisions(model_type: str, flag: str) -> None:
    """On the task with the largest head: scores of every token."""
    task = next(t for t in ("text-generation", "fill-mask") if t in architectures.SUPPORTED[model_type].tasks)
    folder = checkpoint(model_type, task, **TABLE[model_type].flags[flag])
    inputs = {"input_ids": tokens(3, 11)}
    options = {"task": task, "sequence_length": 11, "batch_size": 3, "postprocess": False}
    exact = milbuild.build(folder, precision="float32", **options)
    assert compare(exact, folder, task, inputs)["logits"][0] <= 1e-5
    half = milbuild.build(folder, **options)
    assert compare(half, folder, task, inputs)["logits"][1] >= 55


@pytest.mark.parametrize("function", sorted(ACTIVATIONS))
def test_every_activation(function: str) -> None:
    folder = checkpoint(activation_function=function)
    inputs = {"input_ids": tokens(1, 11)}
    exact = milbuild.build(folder, sequence_length=11, precision="float32")
    assert compare(exact, folder, "text-generation", inputs)["logits"][0] <= 1e-5
    half = milbuild.build(folder, sequence_length=11)
    assert compare(half, folder, "text-generation", inputs)["logits"][1] >= 55


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tasks_of_a_padded_batch(model_type: str, task: str, precision: str) -> None:
    folder = checkpoint(model_type, task)
    # A classifier gives few numbers in a call: the noise of some more makes a figure.
    inputs = [inputs_of(model_type, task, 3, 11, padded=True, seed=seed) for seed in range(4)]
    model = milbuild.build(
        folder,
        task=task,
        sequence_length=11,
        batch_size=3,
        attention_mask=True,
        token_type_ids="token_type_ids" in inputs[0] or None,
        postprocess=False,
        precision=precision,
    )
    # What stands at a padded place is compared nowhere; figures of whole texts everywhere.
    whole = task in ("text-classification", "multiple-choice", "next-sentence-prediction")
    for name, (error, noise) in compare(
        model, folder, task, *inputs, rows=... if whole else inputs[0]["attention_mask"].astype(bool)
    ).items():
        assert error <= 1e-5 if precision == "float32" else noise >= 55, name


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_float16_is_no_noisier_than_transformers_own(model_type: str, task: str) -> None:
    """What rounding alone costs, with these weights and inputs, is what transformers' model loses in half precision."""
    folder = checkpoint(model_type, task)
    inputs = [{"input_ids": inputs_of(model_type, task, 3, 11, seed=seed)["input_ids"]} for seed in range(8)]
    options = {"sequence_length": 11, "batch_size": 3, "attention_mask": False, "token_type_ids": False}
    model = milbuild.build(folder, task=task, postprocess=False, **options)
    halved = copy.deepcopy(reference(folder, task)).half()
    theirs = [hf.forward(halved, each) for each in inputs]
    expected = [hf.forward(reference(folder, task), each) for each in inputs]
    for name, (_, noise) in compare(model, folder, task, *inputs).items():
        value, truth = (np.concatenate([each[name] for each in calls]) for calls in (theirs, expected))
        assert noise >= psnr(value, truth) - 3, name  # which roundings cancel is chance where a call gives few numbers


@pytest.mark.parametrize("length", [11, (4, 19), [4, 11, 19]], ids=str)
@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_tasks_at_every_kind_of_length(model_type: str, task: str, length) -> None:
    folder = checkpoint(model_type, task)
    given = inputs_of(model_type, task, 1, 11)
    typed = "token_type_ids" in given or None
    listed = {} if isinstance(length, int) else {"attention_mask": False}
    model = milbuild.build(
        folder,
        task=task,
        sequence_length=length,
        precision="float32",
        token_type_ids=typed,
        postprocess=False,
        **listed,
    )
    for count in [length] if isinstance(length, int) else length:
        inputs = inputs_of(model_type, task, 1, count)
        assert all(error <= 1e-5 for error, _ in compare(model, folder, task, inputs).values())


@pytest.mark.parametrize("length", [11, (2, 19), [4, 11]], ids=str)
def test_logits_of_the_last_token(length) -> None:
    folder = checkpoint()
    model = milbuild.build(folder, sequence_length=length, batch_size=3, logits="last", precision="float32")
    for count in [length] if isinstance(length, int) else length:
        inputs = {"input_ids": tokens(3, count)}
        expected = hf.forward(reference(folder), inputs)["logits"][:, -1:]
        assert difference(model.predict(inputs)["logits"], expected) <= 1e-5


@pytest.mark.parametrize("length", [7, (2, 19)], ids=str)
@pytest.mark.parametrize(("target", "precision"), list(itertools.product(TARGETS, ["float32", "float16"])))
def test_targets(target: str, precision: str, length) -> None:
    folder = checkpoint()
    arguments = {"sequence_length": length, "batch_size": 3, "attention_mask": True}
    model = milbuild.build(folder, target=target, precision=precision, **arguments)
    assert model.get_spec().specificationVersion == TARGETS[target]
    mask = np.ones((3, 7), np.int32)
    mask[0, :2] = 0
    error, noise = compare(
        model, folder, "text-generation", {"input_ids": tokens(3, 7), "attention_mask": mask}, rows=mask.astype(bool)
    )["logits"]
    assert error <= 1e-5 if precision == "float32" else noise >= 55
    fused = "scaled_dot_product_attention" in {op.type for op in operations(model)}
    assert fused == (TARGETS[target] >= TARGETS["iOS18"])


NAMES = {
    "milbuild": ["input_ids", "attention_mask"],
    "hf": ["input_ids", "attention_mask"],
    "swift-transformers": ["inputIds", "attentionMask"],
}


@pytest.mark.parametrize("interface", NAMES)
def test_interfaces_without_a_cache(interface: str) -> None:
    """swift-transformers pads the ids to the longest call, marks what is real, and reads the scores at the last real one."""
    model = milbuild.build(
        checkpoint(), sequence_length=11, attention_mask=True, interface=interface, precision="float32"
    )
    ids, mask = np.zeros((1, 11), np.int32), np.zeros((1, 11), np.int32)
    ids[:, :7], mask[:, :7] = tokens(1, 7), 1
    scores = model.predict(dict(zip(NAMES[interface], (ids, mask), strict=True)))["logits"]
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[:, :7]})["logits"]
    assert difference(scores[:, :7], expected) <= 1e-5


@pytest.mark.all
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("length", [11, (4, 19), [4, 11]], ids=str)
@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_every_task_on_every_target(model_type: str, task: str, length, target: str, precision: str) -> None:
    folder = checkpoint(model_type, task)
    # Several calls make one figure, as above.
    inputs = [inputs_of(model_type, task, 3, 11, seed=seed) for seed in range(4)]
    for each in inputs:
        each.pop("token_type_ids", None)  # which a listed length has no room for before iOS 18
    options = {"sequence_length": length, "batch_size": 3, "attention_mask": False, "token_type_ids": False}
    model = milbuild.build(folder, task=task, target=target, precision=precision, postprocess=False, **options)
    for name, (error, noise) in compare(model, folder, task, *inputs).items():
        assert error <= 1e-5 if precision == "float32" else noise >= 55, name


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_every_module_output(model_type: str, task: str) -> None:
    """Every module of transformers whose output stands in the graph has its value there, under its name."""
    folder = checkpoint(model_type, task)
    inputs = {"input_ids": inputs_of(model_type, task, 1, 11)["input_ids"]}
    model = milbuild.build(folder, task=task, sequence_length=11, precision="float32", postprocess=False)
    check_module_outputs(model, folder, task, inputs, TABLE[model_type].module_outputs)


@pytest.mark.parametrize("model_type", TABLE)
def test_operations_are_as_recorded(model_type: str) -> None:
    assert counted(model_type) == TABLE[model_type].operations, f"python -m tests.helpers.operations {model_type}"


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ('ROW = Tiny("é",\n    operations=4 + 15 * 3,\n)\n', 'ROW = Tiny("é",\n    operations=48,\n)\n'),
        ("ROW = row(operations=(4 +\n 1), kind=TEXT)\n", "ROW = row(operations=(48), kind=TEXT)\n"),
    ],
)
def test_the_number_of_operations_is_written_into_a_row(source: str, after: str) -> None:
    assert written(source, 48) == after
    with pytest.raises(ValueError, match="no operations= of its own"):
        written(source.replace("operations", "others"), 48)


def operations(model: milbuild.Model) -> list:
    from milbuild.package.reader import Package

    return [op for op in Package(model.package_path).function().operations if op.type != "const"]
