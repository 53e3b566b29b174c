"""A layout is chosen by context, and no model class is written for one."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milbuild
from milbuild.generation.session import Session
from milbuild.layers import layout, linear
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, reference, tokens
from tests.neural_engine import NEURAL_ENGINE

FILES = sorted((Path(milbuild.__file__).parent / "architectures").glob("[a-z]*.py"))


def _operations(model: milbuild.Model) -> set[str]:
    functions = model.get_spec().mlProgram.functions.values()
    return {op.type for function in functions for op in next(iter(function.block_specializations.values())).operations}


@pytest.mark.parametrize("target", ["iOS15", "iOS18"])
@pytest.mark.parametrize("length", [11, (1, 29)], ids=str)
def test_gpt2_in_the_layout_of_the_neural_engine_equals_transformers(length: Any, target: str) -> None:
    inputs, folder = {"input_ids": tokens(1, 11)}, checkpoint()
    options = {"sequence_length": length, "precision": "float32", "target": target}
    with layout.use(NEURAL_ENGINE):
        model = milbuild.build(folder, **options)
    expected = hf.forward(reference(folder), inputs)["logits"]
    assert difference(model.predict(inputs)["logits"], expected) <= 1e-5
    assert {"conv", "layer_norm"} <= _operations(model)
    assert "conv" not in _operations(milbuild.build(folder, **options))


@pytest.mark.parametrize(("cache", "limit"), [("io", 1e-5), ("state", 2e-3)])
def test_its_keys_and_values_are_cached_like_others(cache: str, limit: float) -> None:
    ids, folder = tokens(12), checkpoint()
    with layout.use(NEURAL_ENGINE):
        model = milbuild.build(folder, cache=cache, context_length=20, prefill_length=5, precision="float32")
    session = Session(model)
    scores = np.concatenate([session.feed(part.tolist()) for part in (ids[:5], ids[5:])])
    assert difference(scores, hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]) <= limit


def test_scores_of_the_last_token_alone() -> None:
    inputs, folder = {"input_ids": tokens(1, 11)}, checkpoint()
    with layout.use(NEURAL_ENGINE):
        model = milbuild.build(folder, sequence_length=11, precision="float32", logits="last")
    expected = hf.forward(reference(folder), inputs)["logits"][:, -1:]
    assert difference(model.predict(inputs)["logits"], expected) <= 1e-5


def test_a_function_that_a_layout_lacks_is_named() -> None:
    said = "the layout neural engine has no function for normalization.rms_norm$"
    with layout.use(NEURAL_ENGINE), pytest.raises(milbuild.Error, match=said):
        milbuild.build(checkpoint("llama"), sequence_length=7)
    assert layout._current.get() is layout.PLAIN


def test_the_rest_of_a_layout_is_another_one() -> None:
    def double(x: Any, w: Any, width: int, bias: bool = True) -> Any:
        return width

    doubled = layout.Layout("doubled", {linear.linear: double}, rest=layout.PLAIN)
    with layout.use(doubled):
        assert linear.linear(None, None, 7) == 7  # type: ignore[arg-type]
        assert doubled.functions["linear.conv1d"] is layout.PLAIN.functions["linear.conv1d"]
    assert layout.PLAIN.functions["linear.linear"] is not double


def test_model_classes_name_no_axis() -> None:
    """By the builder, by a number, or by asking a value for its shape."""
    wrong = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import) and any(alias.asname == "mb" for alias in node.names):
                wrong.append(f"{file.name}:{node.lineno} imports the builder")
            if isinstance(node, ast.keyword) and node.arg in ("axis", "axes", "perm"):
                wrong.append(f"{file.name}:{node.value.lineno} names an axis by a number")
            if isinstance(node, ast.Attribute) and node.attr in ("shape", "rank"):
                wrong.append(f"{file.name}:{node.lineno} reads a shape")
    assert len(FILES) > 20
    assert not wrong
