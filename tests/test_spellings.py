"""Names of tensors in files, held against transformers' own table of renames (conversion_mapping.py) in both directions.

The table cannot be read when a build needs it, since its module imports torch: families say their `spellings` themselves.
"""

import functools

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from milbuild import architectures
from milbuild.tasks import TASKS
from milbuild.weights.checkpoint import RENAMES, Spellings, modern
from tests.conftest import checkpoint
from tests.tiny import TABLE

# Spellings that no tensor of transformers needs, neither as it writes it today nor as its table says it was called before.
_WITHOUT_WEIGHTS = {r"\bintermediate\.intermediate_act_fn\b": "a module without weights, whose output is compared"}
OWN = {"vit": _WITHOUT_WEIGHTS, "yolos": _WITHOUT_WEIGHTS}


def spellings(model_type: str) -> Spellings:
    return tuple(getattr(architectures.find(model_type), "spellings", ()))


@functools.cache
def names(model_type: str) -> dict[str, tuple[set[str], list[tuple[str, str, str]]]]:
    """Of each task what transformers calls the tensors, and (that name, an older one, by which rename) of those that have any:
    by every rename of its table alone, and by all together."""
    found = {}
    for task in architectures.SUPPORTED[model_type].tasks:
        fields = TABLE[model_type].config | ({"num_labels": 2} if task == "question-answering" else {})
        with torch.device("meta"):
            auto = getattr(transformers, TASKS[task].auto)
            model = auto.from_config(transformers.AutoConfig.for_model(model_type, **fields))
        now = set(model.state_dict())
        transforms = get_model_conversion_mapping(model)
        assert all(isinstance(each, WeightRenaming) for each in transforms), "a tensor that is made of others"
        older = []
        for said, way in [("all", transforms), *((str(each), [each]) for each in transforms)]:
            back = [each.reverse_transform() for each in reversed(way)]
            for name in sorted(now):
                old = functools.reduce(_renamed, back, name)
                # What transformers itself does not take back was never written so.
                if old != name and functools.reduce(_renamed, way, old) == name:
                    older.append((name, old, said))
        found[task] = now, older
    return found


def _renamed(name: str, transform: WeightRenaming) -> str:
    return str(transform.rename_source_key(name)[0])


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_every_older_name_of_transformers_is_read(model_type: str) -> None:
    ours = (*RENAMES, *spellings(model_type))
    for task, (_, older) in names(model_type).items():
        assert [each for each in older if modern(each[1], ours) != modern(each[0], ours)] == [], task


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_what_transformers_writes_is_read(model_type: str) -> None:
    """Under the names that the model's own get, of which no two become one."""
    ours = (*RENAMES, *spellings(model_type))
    for task, (now, _) in names(model_type).items():
        with safe_open(checkpoint(model_type, task) / "model.safetensors", "np") as file:
            written = set(file.keys())
        assert written
        assert {modern(name, ours) for name in written} <= {modern(name, ours) for name in now}, task
        assert len({modern(name, ours) for name in now}) == len(now)


def needed(ours: Spellings, keys: set[str]) -> set[str]:
    """The patterns without which one of the names comes out otherwise."""
    left = {pattern: tuple(each for each in ours if each[0] != pattern) for pattern, _ in ours}
    return {pattern for pattern, rest in left.items() if any(modern(key, rest) != modern(key, ours) for key in keys)}


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_spellings_are_transformers_but_for_those_that_say_why(model_type: str) -> None:
    ours, known = spellings(model_type), names(model_type).values()
    keys = set().union(*(now for now, _ in known)) | {old for _, older in known for _, old, _ in older}
    assert {pattern for pattern, _ in ours} - needed(ours, keys) == OWN.get(model_type, {}).keys()


def test_the_spellings_of_all_types_are_transformers() -> None:
    old = {old for model_type in ("bert", "wav2vec2") for _, older in names(model_type).values() for _, old, _ in older}
    assert needed(RENAMES, old) == {pattern for pattern, _ in RENAMES}


# As files of the hub have them, from before transformers renamed its modules.
@pytest.mark.parametrize(
    ("model_type", "file", "new"),
    [
        ("bert", "bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("vit", "vit.encoder.layer.0.attention.attention.query.weight", "vit.layers.0.attention.q_proj.weight"),
        ("vit", "encoder.layer.11.output.dense.bias", "layers.11.mlp.fc2.bias"),
        ("yolos", "vit.encoder.mid_position_embeddings", "vit.encoder.interpolation.mid_position_embeddings"),
        (
            "segformer",
            "segformer.encoder.block.2.1.attention.self.sr.weight",
            "segformer.stages.2.blocks.1.attention.sequence_reduction.sequence_reduction.weight",
        ),
        ("segformer", "segformer.encoder.layer_norm.3.bias", "segformer.stages.3.layer_norm.bias"),
        (
            "wav2vec2",
            "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        ),
        ("qwen2", "transformer.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("mistral", "transformer.layers.0.mlp.up_proj.weight", "transformer.layers.0.mlp.up_proj.weight"),
    ],
)
def test_names_of_the_hub(model_type: str, file: str, new: str) -> None:
    assert modern(file, (*RENAMES, *spellings(model_type))) == new
    assert modern(new, (*RENAMES, *spellings(model_type))) == new
