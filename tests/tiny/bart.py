from tests.tiny import _bart, _seq2seq
from tests.tiny._row import SEQ2SEQ, Tiny

ROW = Tiny(
    "bart",
    _seq2seq.CONFIG
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
    operations=162,
    flags={
        "plain": {},
        "scaled embedding": {"scale_embedding": True},
        "relu": {"activation_function": "relu"},
        "tanh gelu": {"activation_function": "gelu_new"},
        "untied": {"tie_word_embeddings": False},
        "one layer of the decoder": {"decoder_layers": 1},
    },
    module_outputs=(*_bart.LAYERS, "model.encoder.layernorm_embedding", "model.decoder.layernorm_embedding"),
    kind=SEQ2SEQ,
    in_files={
        "feature-extraction": (
            "shared.weight",
            "encoder.version",
            "decoder.version",
            "final_logits_bias",
        )
    },
)
