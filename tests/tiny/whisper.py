from tests.tiny import _bart, _seq2seq
from tests.tiny._row import SPEECH_SEQ2SEQ, Tiny

ROW = Tiny(
    "whisper",
    _seq2seq.CONFIG
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
    operations=157,
    flags={
        "plain": {},
        "relu": {"activation_function": "relu"},
        "untied": {"tie_word_embeddings": False},
        "scaled embedding": {"scale_embedding": True},
        "weighted layers": {"use_weighted_layer_sum": True},
    },
    module_outputs=(
        *_bart.LAYERS,
        *("model.encoder.conv1", "model.encoder.conv2", "model.encoder.layer_norm", "model.decoder.layer_norm"),
    ),
    kind=SPEECH_SEQ2SEQ,
)
