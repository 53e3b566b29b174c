"""What the rows of vit and its subclasses have in common."""

from tests.tiny import _vision

CONFIG = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 7,
}
FLAGS = {
    "plain": {},
    "no biases": {"qkv_bias": False},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "gray": {"num_channels": 1},
    **_vision.ACTIVATIONS,
}
BLOCK = ("", ".attention", ".mlp", ".layernorm_before", ".layernorm_after", ".mlp.activation_fn")
MODULE_OUTPUTS = (*(f"vit.layers.*{part}" for part in BLOCK), "vit.embeddings", "vit.embeddings.patch_embeddings")
