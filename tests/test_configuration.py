"""Every field of a configuration class is read by its family, declared as not read, or pinned to one value."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import milbuild
from milbuild import architectures
from milbuild.builder import Config
from milbuild.layers.activation import ACTIVATIONS
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, reference, tokens
from tests.tiny import SIZES, TABLE


@pytest.mark.parametrize("model_type", TABLE)
def test_every_field_is_accounted_for(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    remember = Config.__getattr__

    def spy(self: Config, name: str) -> Any:
        value = remember(self, name)
        read.update(self.read)
        return value

    monkeypatch.setattr(Config, "__getattr__", spy)
    for task in architectures.SUPPORTED[model_type].tasks:
        milbuild.build(checkpoint(model_type, task), task=task, **SIZES[TABLE[model_type].kind])
    if architectures.SUPPORTED[model_type].decoder:
        milbuild.build(checkpoint(model_type), cache="state")
    family = architectures.find(model_type)
    config = type(transformers.AutoConfig.for_model(model_type))
    fields = {field.name for field in dataclasses.fields(config)}
    unaccounted = fields - read - set(family.not_read) - set(family.only) - set(architectures.NOT_READ)
    assert not unaccounted, "fields that no graph of this family looks at"
    superfluous = set(family.not_read) & (read | set(family.only))
    assert not superfluous, "declared as not read, and read"
    unknown = (set(family.not_read) | set(family.only)) - fields
    assert not unknown, "no such field"


def test_the_guard_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that transformers adds, or that a family stops reading, fails the test above."""
    monkeypatch.setattr(architectures.find("gpt2"), "not_read", ("summary_type",))
    with pytest.raises(AssertionError, match="no graph of this family"):
        test_every_field_is_accounted_for("gpt2", monkeypatch)


@pytest.mark.parametrize("model_type", TABLE)
def test_supported_tasks_are_the_heads_of_the_family(model_type: str) -> None:
    assert set(architectures.SUPPORTED[model_type].tasks) == set(architectures.find(model_type).heads)


def test_every_supported_type_is_in_the_table() -> None:
    assert set(architectures.SUPPORTED) == set(TABLE)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "n_layer": st.integers(1, 3),
            "n_head": st.sampled_from([1, 2, 3]),
            "n_inner": st.sampled_from([None, 8, 50]),
            "activation_function": st.sampled_from(sorted(ACTIVATIONS)),
            "layer_norm_epsilon": st.sampled_from([1e-12, 1e-5, 1e-3]),
            "scale_attn_weights": st.booleans(),
            "scale_attn_by_inverse_layer_idx": st.booleans(),
            "reorder_and_upcast_attn": st.booleans(),
            "tie_word_embeddings": st.booleans(),
        }
    ),
    st.integers(1, 29),
)
def test_any_configuration_equals_transformers(flags: dict[str, Any], count: int) -> None:
    folder = checkpoint(**flags)
    model = milbuild.build(folder, sequence_length=(1, 29), precision="float32")
    inputs = {"input_ids": tokens(1, count, seed=count)}
    expected = hf.forward(reference(folder), inputs)["logits"]
    assert np.ptp(expected) > 0.1
    assert difference(model.predict(inputs)["logits"], expected) <= 1e-5
