"""What the rows of the text encoders have in common."""

from typing import Any

from tests.tiny._row import Tiny

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "max_position_embeddings": 29,
    "type_vocab_size": 3,
    "pad_token_id": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 7,
}
FLAGS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "relu": {"hidden_act": "relu"},
    "gelu_new": {"hidden_act": "gelu_new"},
    "one token type": {"type_vocab_size": 1},
}
IN_FILES = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias")
PARTS = ("", ".attention", ".attention.self", ".intermediate", ".output")


def encoder(model_type: str, prefix: str, operations: int, **config: Any) -> Tiny:
    return Tiny(
        model_type,
        CONFIG | config,
        operations,
        FLAGS | {"decoder": {"is_decoder": True}},
        (f"{prefix}.embeddings", *(f"{prefix}.encoder.layer.*{part}" for part in PARTS)),
        in_files={"fill-mask": IN_FILES},
    )
