"""Configurations at the edge are built, or refused by the field's name; what other tasks have is in nobody's way."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.numpy import load_file

import milbuild
from milbuild import architectures
from milbuild.tasks import TASKS
from tests.conftest import checkpoint
from tests.tiny import TABLE


def attempt(model_type: str, field: str, value: int, folder: Path) -> None:
    """Builds and validates a model with a field of 0 or 1, or what its config.json alone says where transformers has none."""
    task = architectures.SUPPORTED[model_type].tasks[0]
    try:
        config = transformers.AutoConfig.for_model(model_type, **TABLE[model_type].config | {field: value})
        torch.manual_seed(0)
        getattr(transformers, TASKS[task].auto).from_config(config).save_pretrained(folder)
    except Exception:  # noqa: BLE001 -- whatever transformers makes of it
        shutil.copytree(checkpoint(model_type, task), folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {field: value}))
    try:
        model = milbuild.build(folder, task=task, precision="float32", **TABLE[model_type].options)
        milbuild.validate(model, folder)
    except milbuild.Error:
        pass


FOUND = [
    ("llama", "num_attention_heads", 1),
    ("llama", "num_key_value_heads", 0),
    ("llama", "head_dim", 1),
    ("llama", "vocab_size", 1),
    ("llama", "num_hidden_layers", 0),
    ("bart", "decoder_layers", 0),
    ("t5", "num_decoder_layers", 0),
    ("t5", "relative_attention_num_buckets", 1),
    ("t5", "relative_attention_max_distance", 0),
    ("whisper", "decoder_layers", 0),
    ("wav2vec2", "num_conv_pos_embedding_groups", 0),
]
ALL = [
    (model_type, field, value)
    for model_type, row in TABLE.items()
    for field, given in transformers.AutoConfig.for_model(model_type, **row.config).to_dict().items()
    for value in (0, 1)
    if type(given) is int and given != value
]


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [*FOUND, *(pytest.param(*each, marks=pytest.mark.all) for each in ALL if each not in FOUND)],
)
def test_a_field_of_none_or_one_is_built_or_refused(model_type: str, field: str, value: int, tmp_path: Path) -> None:
    attempt(model_type, field, value, tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_bias_of_a_token_classifier_is_the_configurations(model_type: str, bias: bool, tmp_path: Path) -> None:
    folder = checkpoint(model_type, "token-classification", token_classification_bias=bias)
    assert ("score.bias" in load_file(folder / "model.safetensors")) == bias
    report = milbuild.validate(milbuild.build(folder, sequence_length=7, precision="float32"), folder)
    assert report.passed, str(report)


def test_the_second_head_of_double_heads_is_in_nobodys_way(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("gpt2", **TABLE["gpt2"].config | {"num_labels": 1})
    transformers.GPT2DoubleHeadsModel(config).save_pretrained(tmp_path)
    assert any("multiple_choice_head" in name for name in load_file(tmp_path / "model.safetensors"))
    model = milbuild.build(tmp_path, task="text-generation", sequence_length=7, precision="float32")
    assert milbuild.validate(model, tmp_path).passed


def test_delays_are_read_by_the_task_that_has_them(tmp_path: Path) -> None:
    for task, fails in (("ctc", False), ("audio-classification", False), ("audio-xvector", True)):
        folder = shutil.copytree(checkpoint("wav2vec2", task), tmp_path / task)
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        config["tdnn_kernel"] = [*config["tdnn_kernel"], 3]
        (folder / "config.json").write_text(json.dumps(config))
        if fails:
            with pytest.raises(milbuild.Error, match="of several lengths"):
                milbuild.build(folder, sequence_length=431)
        else:
            milbuild.build(folder, sequence_length=431)
