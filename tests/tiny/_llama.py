"""What the rows of llama and its subclasses have in common; some types have no head_dim of their own."""

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 52,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 29,
    "pad_token_id": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 7,
}
WITH_HEAD_DIM = CONFIG | {"head_dim": 10}
BLOCK = (
    "",
    ".self_attn",
    ".mlp",
    ".input_layernorm",
    ".post_attention_layernorm",
    ".self_attn.o_proj",
    ".mlp.down_proj",
)
MODULE_OUTPUTS = (*(f"model.layers.*{part}" for part in BLOCK), "model.embed_tokens", "model.norm")
IN_FILES = ("rotary_emb.inv_freq", "layers.1.self_attn.rotary_emb.inv_freq")
FLAGS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "as many key heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "large epsilon": {"rms_norm_eps": 1e-2},
    "tiny epsilon": {"rms_norm_eps": 1e-12},
    "relu": {"hidden_act": "relu"},
}
ATTENTION_BIAS = {"attention bias": {"attention_bias": True}}
WINDOWS = {
    "window 5": {"use_sliding_window": True, "sliding_window": 5},
    "window 1": {"use_sliding_window": True, "sliding_window": 1},
    "window unused": {"use_sliding_window": False, "sliding_window": 5},
}
