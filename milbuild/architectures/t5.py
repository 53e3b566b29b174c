"""T5 and its later versions (T5 1.1, FLAN): text to text.

Encoder and decoder without positions of their own: a bias by the distance of two tokens, made in the first layer of each for
all of them. RMS norms before each part of a block, no scale of the scores, gated or not.
Reference: transformers/models/t5/modeling_t5.py.

Shapes: those of encoder_decoder.py; D d_model, H num_heads, E d_kv.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.encoder_decoder import EncoderDecoder
from milbuild.caches import Cross
from milbuild.heads.head import states
from milbuild.heads.text import encoder_decoder_states, eos_pooled, per_token, span, tied
from milbuild.layers.attention import padding_mask
from milbuild.layers.blocks import feed_forward, gated_feed_forward, pre_norm
from milbuild.layers.linear import add
from milbuild.layers.normalization import rms_norm
from milbuild.layers.relative import Distances, relative_bias
from milbuild.weights import Cursor
from milbuild.weights.fields import Config, looks_backwards


class T5(EncoderDecoder):
    prefix = "transformer"
    also = ("decoder_start_token_id",)
    required_config = {"is_decoder": (False, "the encoder looks both ways")}
    unused_config = (
        *("dropout_rate", "classifier_dropout", "initializer_factor"),  # training
        "feed_forward_proj",  # transformers' class makes dense_act_fn and is_gated_act of it
        "pad_token_id",  # the mask says what is padding
    )
    ignored_weights = (
        "shared.weight",  # where encoder and decoder have tables of their own
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",  # of old checkpoints, never used
    )
    layer, qkv, out = "block.{}", ("q", "k", "v"), "o"
    attn = ("layer.0.layer_norm", "layer.0.SelfAttention", "layer.0")
    cross_attn = ("layer.1.layer_norm", "layer.1.EncDecAttention", "layer.1")
    mlp_in_encoder = ("layer.1.layer_norm", "layer.1.DenseReluDense", "layer.1")
    mlp_in_decoder = ("layer.2.layer_norm", "layer.2.DenseReluDense", "layer.2")
    order, bias, scale = staticmethod(pre_norm), (False, False, False), 1.0
    decoder_layers, decoder_heads, inner_fields = "num_decoder_layers", "num_heads", ("d_ff", "d_ff")
    encoder_tasks = ("text-encoding", "token-classification")
    heads = {
        "feature-extraction": encoder_decoder_states(),
        "text-encoding": states(),
        "text2text-generation": tied(
            "lm_head",
            to=EncoderDecoder.tables,
            scale=lambda config: config.d_model**-0.5 if config.scale_decoder_outputs else 1.0,
        ),
        "text-classification": eos_pooled("classification_head"),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    @staticmethod
    def longest(config: Config) -> tuple[None, None]:
        """No limit: far tokens share a bias."""
        return None, None

    @classmethod
    def head_width(cls, config: Config) -> int:
        return int(config.d_kv)

    def inner(self) -> int:
        return int(self.config.num_heads * self.config.d_kv)

    def encode(self, input_ids: Var) -> Var:
        """int32 (B, S) -> (B, S, D)."""
        w, mask = self.weights / "encoder", padding_mask(self.cache.attention_mask, self.weights / "encoder")
        bias = self.distances(w, both_ways=True)
        bias = bias if mask is None else add(bias, mask, w / "bias")
        return self.read(self.tokens(input_ids, w), w, bias)

    def hidden_states(self, decoder_input_ids: Var, cross: Cross) -> Var:
        """int32 (B, T) -> (B, T, D), after the final norm."""
        w = self.weights / "decoder"
        bias = self.distances(w, both_ways=False)
        return self.write(self.tokens(decoder_input_ids, w), w, bias, cross)

    def distances(self, w: Cursor, both_ways: bool) -> Var:
        config, cache = self.config, self.cache
        distances = Distances(config.relative_attention_num_buckets, config.relative_attention_max_distance, both_ways)
        table = w / "block.0.layer.0.SelfAttention.relative_attention_bias"
        keys = cache.query_positions if both_ways else cache.key_positions()
        backwards = not both_ways and looks_backwards(config)
        return relative_bias(cache.query_positions, keys, table, config.num_heads, distances, backwards)

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.layer_norm_epsilon)

    def end(self, x: Var, w: Cursor) -> Var:
        return self.norm(x, w / "final_layer_norm")

    def mlp(self, x: Var, w: Cursor, inner: int) -> Var:
        if self.config.is_gated_act:
            return gated_feed_forward(x, w, inner, self.width, self.config.dense_act_fn, ("wi_0", "act", "wi_1", "wo"))
        return feed_forward(x, w, inner, self.width, self.config.dense_act_fn, ("wi", "act", "wo"), bias=False)
