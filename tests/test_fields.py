"""Fields of config.json that no class declares: honoured as transformers honours them, without effect, or refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from packaging.version import Version

import milbuild
from milbuild import architectures
from milbuild.validation import reference as hf
from milbuild.weights import fields
from tests.conftest import checkpoint, difference, inputs_of, reference, tokens
from tests.helpers import config_reads, single_fields
from tests.tiny import TABLE

DECODERS = [name for name, entry in architectures.SUPPORTED.items() if entry.decoder]


def saying(folder: Path, **written: Any) -> Path:
    """A copy of a checkpoint whose config.json says something else."""
    target = folder.with_name(f"{folder.name}-{abs(hash(json.dumps(written, sort_keys=True)))}")
    if not target.exists():
        shutil.copytree(folder, target)
        config = json.loads((folder / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | written))
    return target


# What transformers reads


def test_the_table_has_every_field_that_transformers_shared_code_reads() -> None:
    """A new version that asks any configuration for one more fails here: say in milbuild/fields.py what becomes of it."""
    found = config_reads.shared()
    older = Version(transformers.__version__) < Version("5.23")
    assert len(found) > 30
    assert not found - set(fields.SHARED) - (config_reads.EARLIER if older else set()), (
        "transformers reads them; milbuild.weights.fields.SHARED does not say what becomes of them"
    )
    # The base class has it, as a property that makes a layer's configuration of it.
    assert older or not set(fields.SHARED) - found - {"per_layer_config"}, "nobody reads them any more"


@pytest.mark.parametrize("model_type", TABLE)
def test_families_name_what_their_model_reads_beside_its_class(model_type: str) -> None:
    # A width that lets transformers build what it then cannot run; training.
    nothing = {"embedding_size", "summary_last_dropout"}
    also = set(getattr(architectures.find(model_type), "also", ()))
    shared = {name for name in fields.SHARED if name not in also}
    assert config_reads.beside(model_type) - nothing - shared <= also


# is_causal


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("model_type", [*DECODERS, "bert"])
def test_is_causal_false_looks_both_ways(model_type: str, padded: bool) -> None:
    flags = {"is_decoder": True} if model_type == "bert" else {}
    window = {"qwen2": True, "qwen3": True, "smollm3": True}.get(model_type, False)
    flags |= {"use_sliding_window": True, "sliding_window": 2} if window else {}
    if model_type in ("mistral", "gemma3_text"):
        flags |= {"sliding_window": 2}
    for task in ("feature-extraction", "text-classification"):
        folder = checkpoint(model_type, task, **flags, is_causal=False)
        model = milbuild.build(
            folder, task=task, sequence_length=11, batch_size=3, precision="float32", postprocess=False
        )
        inputs = inputs_of(model_type, task, 3, 11, padded=True)
        inputs.pop("token_type_ids", None)
        assert "attention_mask" in {feature.name for feature in model.interface.input}
        if not padded:
            inputs["attention_mask"] = np.ones((3, 11), np.int32)
        expected = hf.forward(reference(folder, task), inputs)
        backwards = hf.forward(reference(checkpoint(model_type, task, **flags), task), inputs)
        real = inputs["attention_mask"][..., None] > 0 if task == "feature-extraction" else np.ones((3, 1), bool)
        for name, value in model.predict(inputs).items():
            if name not in ("last_hidden_state", "logits"):
                continue
            assert difference(np.where(real, value, 0), np.where(real, expected[name], 0)) <= 1e-5
            assert difference(np.where(real, backwards[name], 0), np.where(real, expected[name], 0)) > 1e-2


@pytest.mark.parametrize("attention_mask", [False, True])
@pytest.mark.parametrize("model_type", ["mistral", "gpt2"])
def test_is_causal_false_at_ranged_lengths(model_type: str, attention_mask: bool) -> None:
    flags = {"sliding_window": 2} if model_type == "mistral" else {}
    folder = checkpoint(model_type, "feature-extraction", **flags, is_causal=False)
    options = {"task": "feature-extraction", "precision": "float32", "attention_mask": attention_mask}
    model = milbuild.build(folder, sequence_length=(1, 29), **options)
    for count in (1, 6, 29):
        inputs = {"input_ids": tokens(1, count)}
        if attention_mask:
            inputs["attention_mask"] = (np.arange(count)[None] < max(1, count - 3)).astype(np.int32)
        expected = hf.forward(reference(folder, "feature-extraction"), inputs)["last_hidden_state"]
        value, real = model.predict(inputs)["last_hidden_state"], max(1, count - 3) if attention_mask else count
        assert difference(value[:, :real], expected[:, :real]) <= 1e-5


@pytest.mark.parametrize("value", [None, 0, "", []])
def test_is_causal_is_as_true_as_python_has_it(value: Any) -> None:
    folder = saying(checkpoint("llama", "feature-extraction"), is_causal=value)
    inputs = {"input_ids": tokens(1, 7)}
    model = milbuild.build(folder, sequence_length=7, precision="float32", task="feature-extraction")
    expected = hf.forward(hf.load(folder, "feature-extraction"), inputs)["last_hidden_state"]
    assert difference(model.predict(inputs)["last_hidden_state"], expected) <= 1e-5


@pytest.mark.parametrize("cache", ["io", "state"])
@pytest.mark.parametrize("model_type", [*DECODERS, "bert", "bart", "t5", "whisper"])
def test_is_causal_false_has_no_cache(model_type: str, cache: str) -> None:
    task = (
        architectures.SUPPORTED[model_type].tasks[0] if model_type in ("bart", "t5", "whisper") else "text-generation"
    )
    flags = {"is_decoder": True} if model_type == "bert" else {}
    folder = saying(checkpoint(model_type, task, **flags), is_causal=False)
    with pytest.raises(milbuild.Error, match="is_causal"):
        milbuild.build(folder, task=task, cache=cache)


@pytest.mark.parametrize("model_type", ["bart", "t5", "whisper"])
def test_is_causal_false_of_an_answer(model_type: str) -> None:
    assert single_fields.outcome(model_type, "feature-extraction", "is_causal", False) == "same"


# Leftovers


@pytest.mark.parametrize(
    ("written", "sees"),
    [
        ({"sliding_window": 4}, "sliding_window"),
        ({"attention_chunk_size": 4}, "attention_chunk_size"),
        ({"layer_types": ["sliding_attention"] * 3, "sliding_window": 4}, "sliding_window"),
    ],
)
def test_a_cache_that_would_forget_is_refused(written: dict[str, Any], sees: str) -> None:
    """transformers' cache takes such a field of any configuration; its model does not."""
    folder = saying(checkpoint("llama"), **written)
    with pytest.raises(milbuild.Error, match=sees):
        milbuild.build(folder, cache="state")
    assert milbuild.build(folder, sequence_length=7, lint=False).unread_fields == tuple(sorted(written))


def test_a_window_as_wide_as_the_context_forgets_nothing() -> None:
    folder = saying(checkpoint("llama"), sliding_window=29)
    assert milbuild.build(folder, cache="state").unread_fields == ("sliding_window",)


def test_what_nobody_reads_is_named() -> None:
    written = {
        "auto_map": {"AutoModel": "x.Y"},
        "max_window_layers": 3,
        "rope_theta": 1.0,
        "prefix": None,
        "pruned_heads": {},
    }
    model = milbuild.build(
        saying(checkpoint("llama"), position_embedding_type="absolute", **written), sequence_length=7
    )
    assert model.unread_fields == ("max_window_layers",)
    assert milbuild.build(checkpoint("llama"), sequence_length=7).unread_fields == ()


@pytest.mark.parametrize("field", [name for name, (effect, _) in fields.SHARED.items() if effect == fields.REFUSED])
def test_refused_fields_are_named(field: str) -> None:
    folder = saying(checkpoint("llama"), **{field: {"0": {"sliding_window": 3}}})
    with pytest.raises(milbuild.Error, match=f"{field}|is quantized"):
        milbuild.build(folder)


# The property


@pytest.mark.parametrize("model_type", TABLE)
def test_shared_fields_alone_are_as_transformers_has_them(model_type: str) -> None:
    """Those that count and those of leftovers with one value each; the test below has all of them."""
    chosen: dict[str, Any] = {"is_causal": False, "sliding_window": 3, "head_dim": 4, "partial_rotary_factor": 0.5}
    chosen |= {"token_classification_bias": False, "attention_chunk_size": 3}
    for name, value in chosen.items():
        task = "feature-extraction"
        if name == "token_classification_bias":
            task = "token-classification"
            if task not in architectures.SUPPORTED[model_type].tasks:
                continue
        found = single_fields.outcome(model_type, task, name, value)
        assert found in ("same", "refused") or found.startswith("illegal"), f"{name} = {value!r}: {found}"


FOUND = [
    *[("bert", "num_attention_heads", -1), ("bert", "type_vocab_size", 0), ("roberta", "pad_token_id", None)],
    *[("smollm3", "no_rope_layers", [1, 0, 1, 0, 0]), ("gemma3_text", "query_pre_attn_scalar", -1)],
    *[("albert", "num_hidden_groups", 4), ("albert", "num_attention_heads", 5), ("albert", "num_hidden_layers", 0)],
    *[("t5", "num_decoder_layers", -1), ("t5", "relative_attention_max_distance", -1), ("bart", "decoder_layers", -1)],
    *[("whisper", "max_source_positions", 1), ("whisper", "max_target_positions", 0), ("gpt2", "n_positions", 1)],
    *[("yolos", "patch_size", 9), ("convnext", "num_stages", 1), ("segformer", "num_encoder_blocks", 1)],
]


@pytest.mark.parametrize(("model_type", "name", "value"), FOUND)
def test_a_value_that_no_graph_has_is_refused_by_its_field(model_type: str, name: str, value: Any) -> None:
    found = single_fields.outcome(model_type, single_fields.BODY, name, value)
    assert found in ("same", "refused"), found


@pytest.mark.filterwarnings("ignore")  # of what torch and transformers think of such values
@pytest.mark.all
@pytest.mark.parametrize("model_type", TABLE)
def test_every_field_alone_is_as_transformers_has_it(model_type: str) -> None:
    wrong, tried = {}, 0
    for task in architectures.SUPPORTED[model_type].tasks:
        for name in single_fields.fields_of(model_type, task):
            for value in single_fields.values(model_type, name):
                found = single_fields.outcome(model_type, task, name, value)
                tried += found in ("same", "refused")
                if found not in ("same", "refused") and not found.startswith("illegal"):
                    wrong[f"{task}: {name} = {value!r}"] = found
    assert tried > 200
    assert not wrong
