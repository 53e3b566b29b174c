"""What the rows of wav2vec 2.0 and its subclasses have in common."""

from typing import Any

from tests.tiny._row import AUDIO, Tiny

# Of 431 samples three convolutions make 21 frames; of 30 one.
CONFIG = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "conv_dim": [10, 12, 14],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 3,
    "classifier_proj_size": 17,
    "num_labels": 7,
    "pad_token_id": 5,
}
FLAGS = {
    "plain": {},
    "layer norms": {"feat_extract_norm": "layer"},
    "biases": {"conv_bias": True},
    "layer norms and biases": {"feat_extract_norm": "layer", "conv_bias": True},
    "norms first": {"do_stable_layer_norm": True},
    "all of XLS-R": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    "odd positions": {"num_conv_pos_embeddings": 7},
    "one group of positions": {"num_conv_pos_embedding_groups": 1},
    "other activations": {"feat_extract_activation": "relu", "hidden_act": "gelu_new"},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "tiny epsilon": {"layer_norm_eps": 1e-12},
    "one convolution": {"conv_dim": [11], "conv_kernel": [20], "conv_stride": [16]},
    "no gaps": {"conv_kernel": [5, 2, 2]},
    "without SpecAugment": {"mask_time_prob": 0.0},
}
IN_FILES = ("masked_spec_embed", "layer_weights")
LAYER = ("", ".attention", ".feed_forward", ".layer_norm", ".final_layer_norm", ".attention.out_proj")


def row(model_type: str, flags: dict[str, dict[str, Any]], in_files: dict[str, tuple[str, ...]], **config: Any) -> Tiny:
    parts = ("feature_extractor.conv_layers.*", "feature_projection.projection", "encoder.pos_conv_embed")
    layers = (f"encoder.layers.*{part}" for part in LAYER)
    module_outputs = tuple(f"{model_type}.{part}" for part in (*parts, *layers))
    return Tiny(model_type, CONFIG | config, 17 + 15 * 3, FLAGS | flags, module_outputs, AUDIO, in_files=in_files)
