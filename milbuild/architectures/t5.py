"""T5 and its later versions (T5 1.1, FLAN): text to text.

Encoder and decoder without positions of their own: a bias by the distance of two tokens, made in the first layer of each for
all of them. RMS norms before each part of a block, no scale of the scores, gated or not.
Reference: transformers/models/t5/modeling_t5.py.

Shapes: B batch, S tokens that the encoder reads, T tokens of the decoder in this call, D d_model, H num_heads, E d_kv.
"""

from collections.abc import Callable
from functools import partial

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.caches import Cache, Cross
from milbuild.heads.head import states
from milbuild.heads.text import encoder_decoder_states, eos_pooled, per_token, span, tied
from milbuild.layers.attention import padding_mask
from milbuild.layers.blocks import (
    cross_attention,
    cross_heads,
    feed_forward,
    gated_feed_forward,
    pre_norm,
    self_attention,
)
from milbuild.layers.linear import add, shared_embedding
from milbuild.layers.normalization import rms_norm
from milbuild.layers.relative import Distances, relative_bias
from milbuild.weights import Cursor
from milbuild.weights.fields import Config, looks_backwards

# The token embedding, by any of its names.
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


class T5(Family):
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
    encoder_tasks = ("text-encoding", "token-classification")
    heads = {
        "feature-extraction": encoder_decoder_states(),
        "text-encoding": states(),
        "text2text-generation": tied(
            "lm_head", to=TABLES, scale=lambda config: config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
        ),
        "text-classification": eos_pooled("classification_head"),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        super().__init__(config, weights, cache)
        self.width, self.inner = config.d_model, config.num_heads * config.d_kv

    @staticmethod
    def longest(config: Config) -> tuple[None, None]:
        """No limit: far tokens share a bias."""
        return None, None

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return True

    @staticmethod
    def num_layers(config: Config) -> int:
        return int(config.num_decoder_layers)

    def encode(self, input_ids: Var) -> Var:
        """int32 (B, S) -> (B, S, D)."""
        w, mask = self.weights / "encoder", padding_mask(self.cache.attention_mask, self.weights / "encoder")
        bias = self.bias(w, both_ways=True)
        bias = bias if mask is None else add(bias, mask, w / "bias")
        return self.stack(input_ids, w, self.config.num_layers, bias, None)

    def cross(self, hidden: Var) -> tuple[Var, Var]:
        """The encoder's states (B, S, D) -> keys and values of all layers of the decoder, (B, layers * H, S, E) each."""
        w, heads = self.weights / "decoder", self.config.num_heads
        modules = [w / f"block.{i}.layer.1.EncDecAttention" for i in range(self.config.num_decoder_layers)]
        return cross_heads(hidden, modules, self.inner, heads, w, ("k", "v"), (False, False))

    def hidden_states(self, decoder_input_ids: Var, cross: Cross) -> Var:
        """int32 (B, T) -> (B, T, D), after the final norm."""
        w = self.weights / "decoder"
        bias = self.bias(w, both_ways=False)
        return self.stack(decoder_input_ids, w, self.config.num_decoder_layers, bias, cross)

    def bias(self, w: Cursor, both_ways: bool) -> Var:
        config, cache = self.config, self.cache
        distances = Distances(config.relative_attention_num_buckets, config.relative_attention_max_distance, both_ways)
        table = w / "block.0.layer.0.SelfAttention.relative_attention_bias"
        keys = cache.query_positions if both_ways else cache.key_positions()
        backwards = not both_ways and looks_backwards(config)
        return relative_bias(cache.query_positions, keys, table, config.num_heads, distances, backwards)

    def stack(self, ids: Var, w: Cursor, layers: int, bias: Var, cross: Cross | None) -> Var:
        config = self.config
        table = self.weights.first(*TABLES), config.vocab_size, self.width, config.tie_word_embeddings
        x = shared_embedding(ids, w / "embed_tokens", *table)
        seen = None if cross is None else padding_mask(cross.attention_mask, w / "cross")
        for i in range(layers):
            x = self.block(x, w / f"block.{i}.layer", i, bias, cross, seen)
        return self.norm(x, w / "final_layer_norm")

    def block(self, x: Var, w: Cursor, i: int, bias: Var, cross: Cross | None, seen: Var | None) -> Var:
        """Of the encoder, without a `cross`, or of the decoder."""
        x = self.residual(x, w / "0", "SelfAttention", partial(self.attention, i=i, bias=bias))
        if cross is not None:
            keys = cross.keys[i], cross.values[i]
            x = self.residual(x, w / "1", "EncDecAttention", partial(self.cross_attention, keys=keys, seen=seen))
        return self.residual(x, w / ("1" if cross is None else "2"), "DenseReluDense", self.mlp)

    def residual(self, x: Var, w: Cursor, part: str, compute: Callable[[Var, Cursor], Var]) -> Var:
        return pre_norm(x, lambda x: self.norm(x, w / "layer_norm"), lambda y: compute(y, w / part), w)

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.layer_norm_epsilon)

    def attention(self, x: Var, w: Cursor, i: int, bias: Var) -> Var:
        names, out, update = ("q", "k", "v"), w / "o", partial(self.cache.update, i)
        sizes = self.width, self.config.num_heads
        return self_attention(x, w, *sizes, bias, update, names=names, out=out, inner=self.inner, bias=False, scale=1.0)

    def cross_attention(self, x: Var, w: Cursor, keys: tuple[Var, Var], seen: Var | None) -> Var:
        heads, names = self.config.num_heads, ("q", "o")
        return cross_attention(
            x, w, self.width, heads, keys, seen, names=names, inner=self.inner, bias=False, scale=1.0
        )[0]

    def mlp(self, x: Var, w: Cursor) -> Var:
        config = self.config
        sizes = config.d_ff, self.width, config.dense_act_fn
        if config.is_gated_act:
            return gated_feed_forward(x, w, *sizes, ("wi_0", "act", "wi_1", "wo"))
        return feed_forward(x, w, *sizes, ("wi", "act", "wo"), bias=False)
