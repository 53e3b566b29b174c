from tests.tiny._row import Tiny

ROW = Tiny(
    "opt",
    {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 52,
        "max_position_embeddings": 29,
        "word_embed_proj_dim": 24,
        "pad_token_id": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_labels": 7,
    },
    operations=3 + 15 * 3,
    flags={
        "plain": {},
        "untied": {"tie_word_embeddings": False},
        "norms after": {"do_layer_norm_before": False},
        "narrow ends": {"word_embed_proj_dim": 20},
        "norms after, narrow ends": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
        "no final norm": {"_remove_final_layer_norm": True},
        "no biases": {"enable_bias": False},
        "norms without parameters": {"layer_norm_elementwise_affine": False},
        "gelu": {"activation_function": "gelu"},
    },
    module_outputs=(
        *(
            f"model.decoder.layers.*{part}"
            for part in ("", ".self_attn", ".self_attn_layer_norm", ".self_attn.out_proj")
        ),
        "model.decoder.embed_tokens",
        "model.decoder.final_layer_norm",
    ),
)
