from tests.tiny._row import Tiny

ROW = Tiny(
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
    operations=48,
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
    module_outputs=(
        *(f"transformer.h.*{part}" for part in ("", ".attn", ".mlp", ".ln_1", ".ln_2")),
        "transformer.wte",
        "transformer.ln_f",
    ),
    in_files={
        "text-generation": (
            "h.0.attn.bias",
            "h.2.attn.masked_bias",
            "multiple_choice_head.summary.weight",
        )
    },
)
