"""T5 and its later versions (T5 1.1, FLAN): text to text.

Encoder and decoder without positions of their own: a bias by the distance of two tokens, made in the first layer of each for
all of them. RMS norms in front, no scale of the scores, gated or not. Reference: transformers/models/t5/modeling_t5.py.

Shapes: B batch, S tokens that the encoder reads, T tokens of the decoder in this call, D d_model, H num_heads, E d_kv.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.caches import Cache, Cross
from milbuild.heads.head import states
from milbuild.heads.text import encoder_decoder_states, eos_pooled, per_token, span, tied
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, fused_heads, merge_heads, padding_mask, split_heads
from milbuild.layers.linear import add, embedding, fused_linear, linear, mul, tied_weight
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
        "shared.weight",  # where both halves have tables of their own
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
        w = self.weights / "decoder"
        layers = [w / f"block.{i}.layer.1.EncDecAttention" for i in range(self.config.num_decoder_layers)]
        keys, values = (
            fused_heads(hidden, [(each / name, self.inner) for each in layers], self.config.num_heads, w / title, False)
            for name, title in (("k", "cross_keys"), ("v", "cross_values"))
        )
        return keys, values

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
        rows, own = self.config.vocab_size, w / "embed_tokens"
        table = tied_weight(own, self.weights.first(*TABLES), rows, self.width, self.config.tie_word_embeddings)
        x = embedding(ids, own, rows, self.width, table=table)
        seen = None if cross is None else padding_mask(cross.attention_mask, w / "cross")
        for i in range(layers):
            x = self.block(x, w / f"block.{i}", i, bias, cross, seen)
        return self.norm(x, w / "final_layer_norm")

    def block(self, x: Var, w: Cursor, i: int, bias: Var, cross: Cross | None, seen: Var | None) -> Var:
        y = self.norm(x, w / "layer.0.layer_norm")
        x = add(x, self.attention(y, w / "layer.0.SelfAttention", i, bias, cross is not None), w / "layer.0")
        if cross is not None:
            y = self.norm(x, w / "layer.1.layer_norm")
            y = self.cross_attention(y, w / "layer.1.EncDecAttention", cross.keys[i], cross.values[i], seen)
            x = add(x, y, w / "layer.1")
        last = w / f"layer.{1 if cross is None else 2}"
        return add(x, self.mlp(self.norm(x, last / "layer_norm"), last / "DenseReluDense"), last)

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.layer_norm_epsilon)

    def attention(self, x: Var, w: Cursor, i: int, bias: Var, cached: bool) -> Var:
        x = fused_linear(x, [(w / name, self.inner) for name in ("q", "k", "v")], w, bias=False)
        q, k, v = split_heads(x, self.config.num_heads, w, parts=3)  # (B, H, T, E) each
        if cached:
            k, v = self.cache.update(i, k, v)  # (B, H, slots, E)
        return linear(merge_heads(attention(q, k, v, bias, 1.0, w), w), w / "o", self.width, bias=False)

    def cross_attention(self, x: Var, w: Cursor, k: Var, v: Var, seen: Var | None) -> Var:
        (q,) = split_heads(linear(x, w / "q", self.inner, bias=False), self.config.num_heads, w)
        return linear(merge_heads(attention(q, k, v, seen, 1.0, w), w), w / "o", self.width, bias=False)

    def mlp(self, x: Var, w: Cursor) -> Var:
        config = self.config
        gated = config.is_gated_act
        y = linear(x, w / ("wi_0" if gated else "wi"), config.d_ff, bias=False)
        y = activation(y, config.dense_act_fn, w / "act")
        if gated:
            y = mul(y, linear(x, w / "wi_1", config.d_ff, bias=False), w / "gated")
        return linear(y, w / "wo", self.width, bias=False)
