"""Every field of a configuration class is read by its family, declared as not read, or pinned to one value."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

import milbuild
from milbuild import architectures
from milbuild.layers.activation import ACTIVATIONS
from milbuild.validation import reference as hf
from milbuild.weights.fields import Config
from tests.conftest import checkpoint, difference, examples, inputs_of, pytest_collection_modifyitems, reference, tokens
from tests.tiny import TABLE, TEXT_MODELS


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
        milbuild.build(checkpoint(model_type, task), task=task, **TABLE[model_type].options)
    if architectures.SUPPORTED[model_type].decoder:
        milbuild.build(checkpoint(model_type), cache="state")
    family = architectures.find(model_type)
    config = type(transformers.AutoConfig.for_model(model_type))
    fields = {field.name for field in dataclasses.fields(config)}
    unaccounted = (
        fields - read - set(family.unused_config) - set(family.required_config) - set(architectures.UNUSED_CONFIG)
    )
    assert not unaccounted, "fields that no graph of this family looks at"
    superfluous = set(family.unused_config) & (read | set(family.required_config))
    assert not superfluous, "declared as not read, and read"
    unknown = (set(family.unused_config) | set(family.required_config)) - fields
    assert not unknown, "no such field"


def test_the_guard_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that transformers adds, or that a family stops reading, fails the test above."""
    monkeypatch.setattr(architectures.find("gpt2"), "unused_config", ("summary_type",))
    with pytest.raises(AssertionError, match="no graph of this family"):
        test_every_field_is_accounted_for("gpt2", monkeypatch)


@pytest.mark.parametrize("model_type", TABLE)
def test_supported_tasks_are_the_heads_of_the_family(model_type: str) -> None:
    assert set(architectures.SUPPORTED[model_type].tasks) == set(architectures.find(model_type).heads)


@pytest.mark.parametrize("model_type", ["bert", "albert"])
def test_one_model_type_is_chosen_by_its_exact_name(model_type: str, request: pytest.FixtureRequest) -> None:
    """pytest --model-type bert, which `make family` is: neither ALBERT's tests nor those of no model type."""
    items, left_out = list(request.session.items), list[pytest.Item]()
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: "bert", hook=hook), items)  # type: ignore[arg-type]
    assert (request.node in items) == (model_type == "bert")
    assert len(items) + len(left_out) == len(request.session.items)
    assert all("[bert" in item.nodeid or "-bert" in item.nodeid for item in items)


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


# Drawn, not picked: any of a family's variations together. What transformers itself refuses is no configuration.
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_variations_together_equal_transformers(data: st.DataObject) -> None:
    model_type = data.draw(st.sampled_from([name for name in TEXT_MODELS if name != "gpt2"]))
    row = TABLE[model_type]
    names = data.draw(st.lists(st.sampled_from(sorted(row.flags)), min_size=1, max_size=4, unique=True))
    flags: dict[str, Any] = {}
    for name in names:
        flags |= row.flags[name]
    task = data.draw(st.sampled_from(architectures.SUPPORTED[model_type].tasks))
    count = data.draw(st.integers(1, 20))
    family = architectures.find(model_type)
    try:
        folder = checkpoint(model_type, task, **flags)
        truth = reference(folder, task)
        config = truth.config
        assume(count <= family.longest(config))
        inputs = inputs_of(model_type, task, 2, count, seed=count)
        if "token_type_ids" in inputs:
            inputs["token_type_ids"] %= flags.get("type_vocab_size", row.config["type_vocab_size"])
        expected = hf.forward(truth, inputs)
    except (ValueError, RuntimeError, AssertionError, milbuild.Error):
        reject()
    options = {"token_type_ids": True} if "token_type_ids" in inputs else {}
    model = milbuild.build(
        folder,
        task=task,
        sequence_length=count,
        batch_size=2,
        precision="float32",
        attention_mask=False,
        postprocess=False,
        **options,
    )
    for name, value in model.predict(inputs).items():
        if np.ptp(expected[name]) > 0.05:
            assert difference(value, expected[name]) <= 1e-5, name
