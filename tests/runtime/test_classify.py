"""Classifiers, as coremltools converts them."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild import runtime
from milbuild.runtime import classify
from tests.runtime.harness import TARGETS, Fault, arrays, covers


def classifier(path: Path, shape: tuple[int, ...], labels: list[Any], opset: int = 8, named: str | None = None) -> Any:
    """A program that doubles its input and classifies by it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=TARGETS[opset])
    def program(x: Any) -> Any:
        return mb.mul(x=x, y=np.float32(2), name="doubled")

    config = ct.ClassifierConfig(labels, predicted_feature_name=named)
    model = ct.convert(
        program,
        classifier_config=config,
        minimum_deployment_target=TARGETS[opset],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(path / "c.mlpackage"))
    return runtime.load(path / "c.mlpackage")


@pytest.mark.parametrize("opset", [5, 7, 8])
@pytest.mark.parametrize("labels", [["cat", "dog", "ant"], [7, -3, 2**40]], ids=["str", "int"])
def test_classifiers_of_coremltools(tmp_path: Path, labels: list[Any], opset: int) -> None:
    model = classifier(tmp_path, (1, 3), labels, opset, named="animal")
    for best in range(3):
        x = np.float32([[0.25, -1, 0.5]])
        x[0, best] = 3
        result = model.predict({"x": x})
        assert result.pop("animal") == labels[best]
        (probabilities,) = result.values()
        assert probabilities == dict(zip(labels, (2 * x[0]).tolist(), strict=True))
        assert all(type(value) is float for value in probabilities.values())
        assert [type(label) for label in probabilities] == [type(label) for label in labels]


@covers("classify")
@given(probabilities=arrays((2, 3), low=0, high=1), kind=st.sampled_from(["str", "int", "tensor"]))
def test_labels(probabilities: np.ndarray, kind: str) -> None:
    """The label of the greatest probability, whatever the shape; of equal ones the first."""
    names: list[Any] = [f"label {place}" if kind == "str" else 10 - place for place in range(6)]
    classes = [torch.tensor(name) for name in names] if kind == "tensor" else names
    # Through the table of operations, where a fault would be.
    label, dictionary = registered()(probabilities=torch.tensor(probabilities), classes=classes)
    flat = probabilities.reshape(-1).tolist()
    assert dictionary == dict(zip(names, flat, strict=True))
    assert type(label) is type(names[0])
    assert label == names[flat.index(max(flat))]


def registered() -> Any:
    from milbuild.runtime.registry import OPERATIONS

    return OPERATIONS["classify"].function


def test_as_many_classes_as_probabilities() -> None:
    with pytest.raises(ValueError, match="2 classes for 3 probabilities"):
        classify.classify(torch.ones(3), ["a", "b"])


FAULTS: dict[str, list[Fault]] = {
    "classify": [
        ("values.argmax()", "values.argmin()"),
        ("values.argmax()", "(len(values) - 1 - values.flip(0).argmax())"),
        ("zip(labels, values.tolist(), strict=True)", "zip(labels, sorted(values.tolist()), strict=True)"),
        ("label.item() if isinstance(label, Tensor) else label", "str(label)"),
        ("label.item() if isinstance(label, Tensor) else label", "label"),
    ],
}

UNSEEN: dict[str, dict[str, str]] = {}
