"""One table of small models, from which parity, cache, task, precision and interface tests, the guard of configuration
fields, tensor accounting and the bounds on operations follow.

Sizes are distinct everywhere, so that a transposed or mixed-up axis cannot pass: batch 3, tokens 7 or 11, heads 4, width
of a head 6, inner width 52, vocabulary 61, positions 29.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """`config`: what differs from the class's defaults; `flags`: variations, each tested in float32; `operations`: the
    most that are not constants, without a cache, in float16 for iOS 18."""

    model_type: str
    config: dict[str, Any]
    operations: int
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)


GPT2 = Tiny(
    "gpt2",
    {
        "vocab_size": 61,
        "n_positions": 29,
        "n_embd": 24,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 52,
        "pad_token_id": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_labels": 7,
    },
    operations=4 + 15 * 3,
    flags={
        "plain": {},
        "n_inner none": {"n_inner": None},
        "no score scale": {"scale_attn_weights": False},
        "scale by layer": {"scale_attn_by_inverse_layer_idx": True},
        "both scales off and by layer": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
        "upcast": {"reorder_and_upcast_attn": True},
        "upcast and by layer": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
        "untied": {"tie_word_embeddings": False},
        "large epsilon": {"layer_norm_epsilon": 1e-2},
        "tiny epsilon": {"layer_norm_epsilon": 1e-12},
    },
)

TABLE = {tiny.model_type: tiny for tiny in (GPT2,)}
