from tests.tiny._row import Tiny

ROW = Tiny(
    "gpt_neox",
    {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 52,
        "max_position_embeddings": 29,
        "num_labels": 7,
        "pad_token_id": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.7},
    },
    operations=89,
    flags={
        "plain": {},
        "relu": {"hidden_act": "relu"},
        "gelu_new": {"hidden_act": "gelu_new"},
        "large epsilon": {"layer_norm_eps": 0.01},
        "tiny epsilon": {"layer_norm_eps": 1e-12},
        "tied": {"tie_word_embeddings": True},
        "one after the other": {"use_parallel_residual": False},
        "no attention bias": {"attention_bias": False},
        "whole heads rotated": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
        },
        "linear": {
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.5,
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.7,
            }
        },
    },
    module_outputs=(
        "gpt_neox.layers.*",
        "gpt_neox.layers.*.input_layernorm",
        "gpt_neox.layers.*.post_attention_layernorm",
        "gpt_neox.layers.*.attention",
        "gpt_neox.layers.*.mlp",
        "gpt_neox.embed_in",
        "gpt_neox.final_layer_norm",
    ),
    in_files={"text-generation": ("rotary_emb.inv_freq", "layers.1.attention.masked_bias", "layers.1.attention.bias")},
)
