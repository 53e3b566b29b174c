"""Whisper: speech to text.

BART with norms before each part of a layer and after the last one, keys without a bias, and an encoder that reads a log-mel
spectrogram through two convolutions. Reference: transformers/models/whisper/modeling_whisper.py.

Shapes: B batch, M mel bands, N frames of the spectrogram, S = N / 2 what the encoder makes of them, D d_model.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bart import Bart
from milbuild.heads.audio import of_encoder_states, pooled_frames
from milbuild.heads.text import encoder_decoder_states, tied
from milbuild.layers.activation import activation
from milbuild.layers.audio import add_position_embeddings, convolution, transposed
from milbuild.layers.blocks import pre_norm
from milbuild.layers.linear import add, embedding
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

TRAINING = """activation_dropout apply_spec_augment attention_dropout decoder_layerdrop dropout encoder_layerdrop init_std
mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob""".split()


class Whisper(Bart):
    required_config = {}
    unused_config = (
        *TRAINING,
        "scale_embedding",  # transformers' decoder does not look at it either
        *("pad_token_id", "suppress_tokens", "begin_suppress_tokens", "median_filter_width"),  # for whoever generates
        "decoder_start_token_id",
    )
    ignored_weights = ()
    encoder_tasks = ("audio-classification",)
    order, bias = staticmethod(pre_norm), (True, False, True)
    attn = ("self_attn_layer_norm", "self_attn", "residual.self_attn")
    cross_attn = ("encoder_attn_layer_norm", "encoder_attn", "residual.encoder_attn")
    mlp_in_encoder = mlp_in_decoder = ("final_layer_norm", "", "")
    heads = {
        "speech-seq2seq": tied("proj_out", to="decoder.embed_tokens"),
        "feature-extraction": encoder_decoder_states(),
        "audio-classification": of_encoder_states(pooled_frames("projector", "classifier")),
    }

    @staticmethod
    def longest(config: Config) -> tuple[int | None, int | None]:
        """Of the encoder frames of the spectrogram, of the decoder tokens."""
        return 2 * config.max_source_positions, config.max_target_positions

    @staticmethod
    def bidirectional(config: Config) -> bool:
        """Without padding: transformers reads silence there."""
        return False

    def encode(self, input_features: Var) -> Var:
        """(B, M, N) -> (B, S, D)."""
        w, config, x = self.weights / "encoder", self.config, input_features
        for name, bands, stride in (("conv1", config.num_mel_bins, 1), ("conv2", self.width, 2)):
            weight = (w / name).tensor("weight", self.width, bands, 3)
            x = convolution(x, w / name, weight, True, stride=stride, padding=(1, 1))
            x = activation(x, "gelu", w / f"{name}.activation")
        x = transposed(x, w / "turned")
        x = add_position_embeddings(x, w / "embed_positions", config.max_source_positions, w / "placed")
        return self.read(x, w, None)

    def embeddings(self, ids: Var, w: Cursor) -> Var:
        config = self.config
        x = embedding(ids, w / "embed_tokens", config.vocab_size, self.width)
        places = embedding(self.cache.query_positions, w / "embed_positions", config.max_target_positions, self.width)
        return add(x, places, w / "placed")

    def end(self, x: Var, w: Cursor) -> Var:
        return self.norm(x, w / "layer_norm")
