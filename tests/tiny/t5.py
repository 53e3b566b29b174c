from tests.tiny import _seq2seq
from tests.tiny._row import SEQ2SEQ, Tiny

ROW = Tiny(
    "t5",
    _seq2seq.CONFIG
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
    operations=217,
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
    module_outputs=tuple(
        f"transformer.{part}"
        for part in (
            *(f"encoder.block.*{x}" for x in ("", ".layer.*", ".layer.*.layer_norm", ".layer.*.SelfAttention")),
            *(f"decoder.block.*{x}" for x in ("", ".layer.*", ".layer.*.layer_norm", ".layer.*.SelfAttention")),
            *("encoder.block.*.layer.*.DenseReluDense", "decoder.block.*.layer.*.DenseReluDense"),
            *("decoder.block.*.layer.*.EncDecAttention", "encoder.final_layer_norm", "decoder.final_layer_norm"),
        )
    ),
    kind=SEQ2SEQ,
    in_files={
        "feature-extraction": (
            "shared.weight",
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        )
    },
)
