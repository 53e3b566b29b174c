"""Tensors of files that no graph reads: every model type is built of a file that has those that files of the hub have."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild import architectures
from tests.conftest import checkpoint
from tests.tiny import TABLE

_BERT = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias")
_LLAMA = ("rotary_emb.inv_freq", "layers.1.self_attn.rotary_emb.inv_freq")
_WAV2VEC2 = ("masked_spec_embed", "layer_weights")
# (task, names without the base model's prefix): a list of its own, so that no table of a class can be emptied unseen.
# Where they come from: buffers that transformers registered once (position_ids, inv_freq, attn.bias), heads and poolers of
# classes that have no task here, training's own, and what transformers itself ignores (_keys_to_ignore_on_load_unexpected).
IN_FILES = {
    "albert": ("fill-mask", (*_BERT[:2], "pooler.weight", "pooler.bias", "sop_classifier.classifier.weight")),
    "bart": ("feature-extraction", ("shared.weight", "encoder.version", "decoder.version", "final_logits_bias")),
    "bert": ("fill-mask", _BERT),
    "convnext": ("image-classification", ()),
    "distilbert": ("fill-mask", ("embeddings.position_ids",)),
    "gemma3_text": ("text-generation", _LLAMA),
    "gpt2": ("text-generation", ("h.0.attn.bias", "h.2.attn.masked_bias", "multiple_choice_head.summary.weight")),
    "hubert": ("ctc", (*_WAV2VEC2, "encoder.pos_conv_embed.batch_norm.num_batches_tracked")),
    "llama": ("text-generation", _LLAMA),
    "mistral": ("text-generation", _LLAMA),
    "mobilenet_v2": (
        "semantic-segmentation",
        ("conv_stem.first_conv.normalization.num_batches_tracked", "conv_1x1.convolution.weight"),
    ),
    "opt": ("text-generation", ()),
    "qwen2": ("text-generation", _LLAMA),
    "qwen3": ("text-generation", _LLAMA),
    "resnet": ("image-classification", ("embedder.embedder.normalization.num_batches_tracked",)),
    "roberta": ("fill-mask", _BERT),
    "segformer": ("semantic-segmentation", ()),
    "smollm3": ("text-generation", _LLAMA),
    "t5": (
        "feature-extraction",
        ("shared.weight", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ),
    "vit": ("image-classification", ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")),
    "wav2vec2": (
        "ctc",
        (
            *_WAV2VEC2,
            *("quantizer.codevectors", "quantizer.weight_proj.bias", "project_hid.weight", "project_q.bias"),
            *("objective.weight", "feature_extractor.weight", "feature_extractor.bias"),
        ),
    ),
    "whisper": ("speech-seq2seq", ()),
    "xlm-roberta": ("fill-mask", _BERT),
    "yolos": ("object-detection", ("pooler.dense.weight", "pooler.dense.bias")),
}


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_every_pattern_has_an_example(model_type: str) -> None:
    _, names = IN_FILES[model_type]
    for pattern in architectures.find(model_type).ignored_weights:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


@pytest.mark.parametrize("model_type", [model_type for model_type, (_, names) in IN_FILES.items() if names])
@pytest.mark.parametrize("prefixed", [False, True])
def test_what_files_have_besides_is_ignored(
    model_type: str, prefixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, names = IN_FILES[model_type]
    family = architectures.find(model_type)
    keys = [f"{family.prefix}.{name}" if prefixed else name for name in names]
    shutil.copytree(checkpoint(model_type, task), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tables = [key for key in tensors if key.removeprefix(f"{family.prefix}.") == "shared.weight"]
    for key in tables:  # of an encoder and a decoder, which may have tables of their own
        shared = tensors.pop(key)
        for half in ("encoder", "decoder"):
            tensors[key.replace("shared", f"{half}.embed_tokens")] = shared
    save_file(tensors | {key: np.zeros(3, np.float32) for key in keys}, tmp_path / "model.safetensors")
    options = {"task": task} | TABLE[model_type].options
    milbuild.build(tmp_path, **options)
    monkeypatch.setattr(family, "ignored_weights", ())
    with pytest.raises(milbuild.Error, match="tensors that its architecture does not use") as error:
        milbuild.build(tmp_path, **options)
    assert set(keys) <= set(error.value.message.split(": ", 1)[1].split(", "))
