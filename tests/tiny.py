"""One table of small models, from which parity, cache, task, precision and interface tests, the guard of configuration
fields, tensor accounting and the bounds on operations follow.

Sizes are distinct everywhere, so that a transposed or mixed-up axis cannot pass: batch 3, tokens 7 or 11, heads 4, width
of a head 6, inner width 52, vocabulary 61, positions 29.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """`config`: what differs from the class's defaults; `flags`: variations, each tested in both precisions;
    `operations`: the most that are not constants, without a cache, in float16 for iOS 18; `landmarks`: modules that must be
    among those compared, `*` for every layer; `kind`: what it takes; `size`: (height, width) of pictures, in the tests."""

    model_type: str
    config: dict[str, Any]
    operations: int
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    landmarks: tuple[str, ...] = ()
    kind: str = "text"
    size: tuple[int, int] = (0, 0)

    @property
    def options(self) -> dict[str, Any]:
        """Of a build, small and with transformers' own outputs."""
        if self.kind != "pictures":
            lengths = {"sound": 431, "speech": 34 * 160}
            return {"sequence_length": lengths.get(self.kind, 7), "postprocess": self.kind != "speech"}
        return {"postprocess": False} | ({} if "image_size" in self.config else {"image_size": self.size})


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
    landmarks=(
        *(f"transformer.h.*{part}" for part in ("", ".attn", ".mlp", ".ln_1", ".ln_2")),
        "transformer.wte",
        "transformer.ln_f",
    ),
)

# What the Llama family has in common; some have no head_dim of their own.
_LLAMA = {
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
_WIDE = _LLAMA | {"head_dim": 10}
_BLOCK = (
    "",
    ".self_attn",
    ".mlp",
    ".input_layernorm",
    ".post_attention_layernorm",
    ".self_attn.o_proj",
    ".mlp.down_proj",
)
_DECODER = (*(f"model.layers.*{part}" for part in _BLOCK), "model.embed_tokens", "model.norm")
_PLAIN = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "as many key heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "large epsilon": {"rms_norm_eps": 1e-2},
    "tiny epsilon": {"rms_norm_eps": 1e-12},
    "relu": {"hidden_act": "relu"},
}
_BIASES = {"attention bias": {"attention_bias": True}}
_WINDOWS = {
    "window 5": {"use_sliding_window": True, "sliding_window": 5},
    "window 1": {"use_sliding_window": True, "sliding_window": 1},
    "window unused": {"use_sliding_window": False, "sliding_window": 5},
}


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


_ROPES = {
    "theta": _rope(rope_type="default", rope_theta=500.0),
    "linear": _rope(rope_type="linear", factor=2.5),
    "dynamic, longer than trained": _rope(rope_type="dynamic", factor=3.0) | {"max_position_embeddings": 7},
    "dynamic": _rope(rope_type="dynamic", factor=3.0),
    "yarn": _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=8),
    "yarn, all of it": _rope(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=8,
        beta_fast=8.0,
        beta_slow=2.0,
        mscale=0.7,
        mscale_all_dim=0.3,
    ),
    "yarn, factor given": _rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8, attention_factor=1.3, truncate=False
    ),
    "llama3": _rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
    ),
    "longrope, long": _rope(
        rope_type="longrope",
        factor=3.0,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.4],
        long_factor=[2.0, 2.1, 2.2, 2.3, 2.4],
        original_max_position_embeddings=10,
    ),
    "longrope, short": _rope(
        rope_type="longrope",
        factor=3.0,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.4],
        long_factor=[2.0, 2.1, 2.2, 2.3, 2.4],
        original_max_position_embeddings=20,
        attention_factor=0.9,
    ),
    "proportional": _rope(rope_type="proportional", partial_rotary_factor=0.6, factor=2.0),
}

LLAMA = Tiny(
    "llama",
    _WIDE | {"num_hidden_layers": 3},
    operations=6 + 31 * 3,
    flags={**_PLAIN, **_ROPES, **_BIASES, "mlp bias": {"mlp_bias": True}, "head width follows": {"head_dim": None}},
    landmarks=_DECODER,
)
MISTRAL = Tiny(
    "mistral",
    _WIDE | {"sliding_window": 5},
    operations=6 + 31 * 4,
    flags={**_PLAIN, "no window": {"sliding_window": None}, "window 1": {"sliding_window": 1}},
    landmarks=_DECODER,
)
QWEN2 = Tiny(
    "qwen2",
    _LLAMA | {"max_window_layers": 2},
    operations=6 + 31 * 4,
    flags={**_PLAIN, **_WINDOWS},
    landmarks=_DECODER,
)
QWEN3 = Tiny(
    "qwen3",
    _WIDE | {"max_window_layers": 2},
    operations=6 + 36 * 4,
    flags={**_PLAIN, **_WINDOWS, **_BIASES},
    landmarks=_DECODER,
)
SMOLLM3 = Tiny(
    "smollm3",
    _LLAMA | {"no_rope_layer_interval": 2},
    operations=6 + 31 * 4,
    flags={
        **_PLAIN,
        **_WINDOWS,
        **_BIASES,
        "mlp bias": {"mlp_bias": True},
        "chosen layers": {"no_rope_layers": [0, 1, 1, 0]},
    },
    landmarks=_DECODER,
)
GEMMA3 = Tiny(
    "gemma3_text",
    _WIDE
    | {
        "sliding_window": 5,
        "query_pre_attn_scalar": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
    },
    operations=7 + 45 * 4,
    flags={
        **{name: flag for name, flag in _PLAIN.items() if name != "relu"},
        **_BIASES,
        "relu": {"hidden_activation": "relu"},
        "two ropes": {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            }
        },
        "bounded scores": {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 3.0},
        "all layers see everything": {"layer_types": ["full_attention"] * 4},
    },
    landmarks=(*_DECODER, "model.layers.*.pre_feedforward_layernorm", "model.layers.*.post_feedforward_layernorm"),
)

_ENCODER = {
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
_ENCODER_FLAGS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "relu": {"hidden_act": "relu"},
    "gelu_new": {"hidden_act": "gelu_new"},
    "one token type": {"type_vocab_size": 1},
}
_PARTS = ("", ".attention", ".attention.self", ".intermediate", ".output")


def _encoder(model_type: str, prefix: str, operations: int, **config: Any) -> Tiny:
    return Tiny(
        model_type,
        _ENCODER | config,
        operations,
        _ENCODER_FLAGS | {"decoder": {"is_decoder": True}},
        (f"{prefix}.embeddings", *(f"{prefix}.encoder.layer.*{part}" for part in _PARTS)),
    )


BERT = _encoder("bert", "bert", operations=11 + 14 * 3)
# Positions of a RoBERTa begin behind the padding's, 5.
ROBERTA = _encoder("roberta", "roberta", operations=17 + 14 * 3, max_position_embeddings=35)
XLM_ROBERTA = _encoder("xlm-roberta", "roberta", operations=17 + 14 * 3, max_position_embeddings=35)
DISTILBERT = Tiny(
    "distilbert",
    {
        "vocab_size": 61,
        "dim": 24,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 52,
        "max_position_embeddings": 29,
        "pad_token_id": 5,
        "num_labels": 7,
    },
    operations=10 + 14 * 3,
    flags={"plain": {}, "untied": {"tie_word_embeddings": False}, "relu": {"activation": "relu"}},
    landmarks=(
        "distilbert.embeddings",
        *(f"distilbert.transformer.layer.*{part}" for part in ("", ".attention", ".ffn", ".sa_layer_norm")),
    ),
)
ALBERT = Tiny(
    "albert",
    # A layer that is called often makes all tokens alike: three calls of two groups, and no more.
    _ENCODER | {"embedding_size": 20, "num_hidden_groups": 2, "inner_group_num": 1, "num_hidden_layers": 3},
    operations=12 + 14 * 3,
    flags={
        **_ENCODER_FLAGS,
        "one group": {"num_hidden_groups": 1, "inner_group_num": 1},
        # Drawn together, the one that comes last leaves no group that nothing calls.
        "a group a layer": {"num_hidden_layers": 3, "num_hidden_groups": 3},
        "two layers a group": {"num_hidden_layers": 2, "num_hidden_groups": 2, "inner_group_num": 2},
    },
    # Its layers are called several times: no module's output is that of one of them.
    landmarks=("albert.embeddings", "albert.encoder.embedding_hidden_mapping_in"),
)

_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 52,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 7,
}
_ACTIVATIONS = {function: {"hidden_act": function} for function in ("relu", "gelu_new", "quick_gelu")}
_VIT_FLAGS = {
    "plain": {},
    "no biases": {"qkv_bias": False},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "gray": {"num_channels": 1},
    **_ACTIVATIONS,
}
_VIT_BLOCK = ("", ".attention", ".mlp", ".layernorm_before", ".layernorm_after", ".mlp.activation_fn")
_VIT_PARTS = (*(f"vit.layers.*{part}" for part in _VIT_BLOCK), "vit.embeddings", "vit.embeddings.patch_embeddings")
VIT = Tiny(
    "vit",
    _VIT,
    operations=9 + 15 * 3,
    flags={
        **_VIT_FLAGS,
        "pooler": {"pooler_output_size": 20, "pooler_act": "relu"},
        "another stride": {"encoder_stride": 4},
        "trained on oblongs": {"image_size": (24, 40)},
        "oblong patches": {"patch_size": (8, 4)},
    },
    landmarks=(*_VIT_PARTS, "vit.layernorm"),
    kind="pictures",
    size=(32, 32),
)

CONVNEXT = Tiny(
    "convnext",
    {
        "num_stages": 3,
        "hidden_sizes": [12, 20, 28],
        "depths": [2, 1, 3],
        "patch_size": 4,
        "image_size": [56, 40],
        "layer_scale_init_value": 0.1,
        "num_labels": 7,
    },
    operations=4 + 2 * 4 + 9 * 6,
    flags={
        "plain": {},
        "no layer scale": {"layer_scale_init_value": 0.0},
        "gray": {"num_channels": 1},
        "oblong patches": {"patch_size": (4, 2)},
        "one stage": {"num_stages": 1, "hidden_sizes": [12], "depths": [2]},
        "large epsilon": {"layer_norm_eps": 1e-1},
        **_ACTIVATIONS,
    },
    landmarks=(
        "convnext.embeddings.patch_embeddings",
        "convnext.embeddings.layernorm",
        "convnext.encoder.stages.*",
        "convnext.encoder.stages.*.downsampling_layer.*",
        *(f"convnext.encoder.stages.*.layers.*{part}" for part in ("", ".dwconv", ".layernorm", ".act", ".pwconv2")),
        "convnext.layernorm",
    ),
    kind="pictures",
    size=(56, 40),
)

RESNET = Tiny(
    "resnet",
    {"embedding_size": 10, "hidden_sizes": [12, 20, 28], "depths": [2, 1, 3], "num_labels": 7},
    operations=4 + 7 * 6 + 3,
    flags={
        "plain": {},
        "basic": {"layer_type": "basic"},
        "smaller from the first stage": {"downsample_in_first_stage": True},
        "smaller in the first convolution": {"downsample_in_bottleneck": True},
        "basic, smaller from the first stage": {"layer_type": "basic", "downsample_in_first_stage": True},
        "as wide as the stem": {"embedding_size": 12},
        "gray": {"num_channels": 1},
        "gelu": {"hidden_act": "gelu"},
    },
    landmarks=(
        "resnet.embedder",
        *(
            f"resnet.encoder.stages.*{part}"
            for part in ("", ".layers.*", ".layers.*.layer.*", ".layers.*.shortcut.normalization")
        ),
        "resnet.encoder.stages.*.layers.*.layer.*.normalization",
    ),
    kind="pictures",
    size=(64, 40),
)

_CONVOLUTION = ("", ".normalization", ".activation")
MOBILENET_V2 = Tiny(
    "mobilenet_v2",
    {
        "depth_multiplier": 0.1,
        "depth_divisible_by": 3,
        "min_depth": 5,
        "expand_ratio": 2.5,
        "image_size": [70, 45],
        "num_labels": 7,
    },
    operations=5 + 16 * 6 + 3,
    flags={
        "plain": {},
        "padding of torch": {"tf_padding": False},
        "every channel multiplied": {"finegrained_output": False, "depth_multiplier": 0.13},
        "as wide as published": {"depth_multiplier": 1.0, "depth_divisible_by": 8, "min_depth": 8, "expand_ratio": 6.0},
        "stem with an expansion": {"first_layer_is_expansion": False},
        "stride 16": {"output_stride": 16},
        "stride 8": {"output_stride": 8},
        "stride 8, padding of torch": {"output_stride": 8, "tf_padding": False},
        "large epsilon": {"layer_norm_eps": 1e-1},
        "gray": {"num_channels": 1},
        "relu": {"hidden_act": "relu"},
    },
    landmarks=(
        *(f"mobilenet_v2.conv_stem{part}" for part in ("", ".first_conv", ".conv_3x3", ".reduce_1x1")),
        *(f"mobilenet_v2.layer.*{part}" for part in ("", ".expand_1x1", ".reduce_1x1")),
        *(f"mobilenet_v2.layer.*.conv_3x3{part}" for part in _CONVOLUTION),
    ),
    kind="pictures",
    size=(70, 45),
)

_SEGFORMER_BLOCK = ("", ".attention", ".attention.sequence_reduction", ".mlp", ".mlp.dwconv", ".layernorm_after")
SEGFORMER = Tiny(
    "segformer",
    {
        "num_encoder_blocks": 3,
        "hidden_sizes": [12, 20, 28],
        "depths": [2, 1, 2],
        "sr_ratios": [4, 2, 1],
        "patch_sizes": [7, 3, 5],
        "strides": [4, 2, 2],
        "num_attention_heads": [1, 2, 4],
        "mlp_ratios": [3, 4, 2],
        "decoder_hidden_size": 22,
        "num_labels": 7,
    },
    operations=5 * 3 + 27 * 5 + 5 * 3 + 2,
    flags={
        "plain": {},
        "nothing reduced": {"sr_ratios": [1, 1, 1]},
        "gray": {"num_channels": 1},
        # The only shape in which transformers' own decoder takes such states: as many patches as features, both a square.
        "last stage as patches": {
            "reshape_last_stage": False,
            "hidden_sizes": [12, 20, 16],
            "image_size": [64, 64],
        },
        **_ACTIVATIONS,
    },
    landmarks=(
        *(f"segformer.stages.*.blocks.*{part}" for part in _SEGFORMER_BLOCK),
        "segformer.stages.*.patch_embeddings",
        "segformer.stages.*.layer_norm",
    ),
    kind="pictures",
    size=(64, 96),
)
YOLOS = Tiny(
    "yolos",
    {name: value for name, value in _VIT.items() if name != "encoder_stride"}
    | {"image_size": [24, 40], "num_detection_tokens": 6},
    operations=9 + 16 * 3,
    flags={
        **_VIT_FLAGS,
        "positions at the beginning only": {"use_mid_position_embeddings": False},
    },
    # transformers has no module for its MLP.
    landmarks=(*(part.replace(".mlp.activation_fn", ".mlp.fc1") for part in _VIT_PARTS if part[-4:] != ".mlp"),),
    kind="pictures",
    size=(24, 40),
)

# Of 431 samples three convolutions make 21 frames; of 30 one.
_SPEECH = {
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
_SPEECH_FLAGS = {
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
_SPEECH_LAYER = ("", ".attention", ".feed_forward", ".layer_norm", ".final_layer_norm", ".attention.out_proj")


def _speech(model_type: str, flags: dict[str, dict[str, Any]], **config: Any) -> Tiny:
    parts = ("feature_extractor.conv_layers.*", "feature_projection.projection", "encoder.pos_conv_embed")
    layers = (f"encoder.layers.*{part}" for part in _SPEECH_LAYER)
    landmarks = tuple(f"{model_type}.{part}" for part in (*parts, *layers))
    return Tiny(model_type, _SPEECH | config, 17 + 15 * 3, _SPEECH_FLAGS | flags, landmarks, "sound")


WAV2VEC2 = _speech(
    "wav2vec2",
    {
        "adapter": {"add_adapter": True},
        "adapter, narrower": {"add_adapter": True, "output_hidden_size": 16, "num_adapter_layers": 2},
        "adapter, another step": {
            "add_adapter": True,
            "adapter_kernel_size": 4,
            "adapter_stride": 3,
            "num_adapter_layers": 1,
        },
        "attention adapters": {"adapter_attn_dim": 9, "do_stable_layer_norm": True},
        "attention adapters unused": {"adapter_attn_dim": 9},
    },
    tdnn_dim=[18, 16, 22],
    tdnn_kernel=[3, 2, 1],
    tdnn_dilation=[1, 2, 1],
    xvector_output_dim=19,
)
HUBERT = _speech(
    "hubert",
    {
        "no norm of features": {"feat_proj_layer_norm": False},
        "batch norm": {"conv_pos_batch_norm": True},
        "batch norm, odd positions": {"conv_pos_batch_norm": True, "num_conv_pos_embeddings": 7},
    },
)

OPT = Tiny(
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
        "norms behind": {"do_layer_norm_before": False},
        "narrow ends": {"word_embed_proj_dim": 20},
        "norms behind, narrow ends": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
        "no final norm": {"_remove_final_layer_norm": True},
        "no biases": {"enable_bias": False},
        "norms without parameters": {"layer_norm_elementwise_affine": False},
        "gelu": {"activation_function": "gelu"},
    },
    landmarks=(
        *(
            f"model.decoder.layers.*{part}"
            for part in ("", ".self_attn", ".self_attn_layer_norm", ".self_attn.out_proj")
        ),
        "model.decoder.embed_tokens",
        "model.decoder.final_layer_norm",
    ),
)

_ANSWERS = {"vocab_size": 61, "pad_token_id": 5, "eos_token_id": 2, "decoder_start_token_id": 5, "num_labels": 7}
T5 = Tiny(
    "t5",
    _ANSWERS
    | {
        "d_model": 24,
        "d_kv": 10,
        "d_ff": 52,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 9,
        "relative_attention_max_distance": 17,
    },
    operations=92 + 129,
    flags={
        "plain": {},
        "gated gelu": {"feed_forward_proj": "gated-gelu"},
        "gated silu": {"feed_forward_proj": "gated-silu"},
        "no scale of scores": {"scale_decoder_outputs": False},
        "as many layers": {"num_decoder_layers": None},
        "buckets": {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
        "large epsilon": {"layer_norm_epsilon": 1e-2},
        "tiny epsilon": {"layer_norm_epsilon": 1e-12},
    },
    landmarks=tuple(
        f"transformer.{part}"
        for part in (
            *(f"encoder.block.*{x}" for x in ("", ".layer.*", ".layer.*.layer_norm", ".layer.*.SelfAttention")),
            *(f"decoder.block.*{x}" for x in ("", ".layer.*", ".layer.*.layer_norm", ".layer.*.SelfAttention")),
            *("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense"),
            *("decoder.block.*.layer.*.EncDecAttention", "encoder.final_layer_norm", "decoder.final_layer_norm"),
        )
    ),
    kind="answers",
)

_BART_LAYERS = (
    *(
        f"model.{half}.layers.*{part}"
        for half in ("encoder", "decoder")
        for part in ("", ".self_attn", ".self_attn_layer_norm", ".fc1", ".fc2", ".final_layer_norm")
    ),
    *("model.decoder.layers.*.encoder_attn", "model.decoder.layers.*.encoder_attn_layer_norm"),
)
BART = Tiny(
    "bart",
    _ANSWERS
    | {
        "d_model": 24,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 52,
        "decoder_ffn_dim": 44,
        "max_position_embeddings": 29,
        "forced_eos_token_id": 2,
    },
    operations=68 + 98,
    flags={
        "plain": {},
        "scaled embedding": {"scale_embedding": True},
        "relu": {"activation_function": "relu"},
        "tanh gelu": {"activation_function": "gelu_new"},
        "untied": {"tie_word_embeddings": False},
        "one layer of the decoder": {"decoder_layers": 1},
    },
    landmarks=(*_BART_LAYERS, "model.encoder.layernorm_embedding", "model.decoder.layernorm_embedding"),
    kind="answers",
)

WHISPER = Tiny(
    "whisper",
    _ANSWERS
    | {
        "bos_token_id": 1,
        "d_model": 24,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 52,
        "decoder_ffn_dim": 44,
        "num_mel_bins": 10,
        "max_source_positions": 17,
        "max_target_positions": 29,
        "begin_suppress_tokens": None,
        "classifier_proj_size": 14,
    },
    operations=68 + 93,
    flags={
        "plain": {},
        "relu": {"activation_function": "relu"},
        "untied": {"tie_word_embeddings": False},
        "scaled embedding": {"scale_embedding": True},
        "weighted layers": {"use_weighted_layer_sum": True},
    },
    landmarks=(
        *_BART_LAYERS,
        *("model.encoder.conv1", "model.encoder.conv2", "model.encoder.layer_norm", "model.decoder.layer_norm"),
    ),
    kind="speech",
)

_DECODERS = (GPT2, OPT, LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, GEMMA3)
_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ALBERT)
_PICTURES = (VIT, CONVNEXT, RESNET, MOBILENET_V2, SEGFORMER, YOLOS)
TABLE = {tiny.model_type: tiny for tiny in (*_DECODERS, *_ENCODERS, *_PICTURES, WAV2VEC2, HUBERT, T5, BART, WHISPER)}
TEXTS = {name: tiny for name, tiny in TABLE.items() if tiny.kind == "text"}
PICTURES = {name: tiny for name, tiny in TABLE.items() if tiny.kind == "pictures"}
ANSWERS = {name: tiny for name, tiny in TABLE.items() if tiny.kind in ("answers", "speech")}
SOUNDS = {name: tiny for name, tiny in TABLE.items() if tiny.kind == "sound"}
