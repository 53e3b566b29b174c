"""The last step of a classifier (coremltools: ops/defs/iOS15/classify.py)."""

from typing import Any

from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The most probable label (the first of several), and the probability of each."""
    labels = [label.item() if isinstance(label, Tensor) else label for label in classes]
    values = probabilities.reshape(-1)
    if len(values) != len(labels):
        raise ValueError(f"{len(labels)} classes for {len(values)} probabilities")
    return labels[int(values.argmax())], dict(zip(labels, values.tolist(), strict=True))
