"""BART: text to text, and what it makes of a text for classes and answers.

Encoder and decoder of post-norm layers, learned positions whose table begins at row 2, a norm after the embeddings.
Reference: transformers/models/bart/modeling_bart.py.

Shapes: B batch, S tokens that the encoder reads, T tokens of the decoder in this call, D d_model, H heads, E = D / H.
"""

from collections.abc import Callable
from functools import partial

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.caches import Cache, Cross
from milbuild.heads.text import encoder_decoder_states, eos_pooled, span, tied
from milbuild.layers.attention import moved_positions, padding_mask
from milbuild.layers.blocks import cross_attention, cross_heads, feed_forward, self_attention
from milbuild.layers.linear import add, embedding, shared_embedding
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

FIRST = 2  # the table's row of the first token
EPSILON = 1e-5  # torch's own; the configuration has none
# The token embedding, by any of its names.
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


class Bart(Family):
    prefix = "model"
    required_config = {"is_decoder": (False, "the encoder looks both ways")}
    unused_config: tuple[str, ...] = (
        *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),  # training
        *("encoder_layerdrop", "decoder_layerdrop", "init_std"),
        *("pad_token_id", "forced_eos_token_id"),  # the mask says what is padding; for whoever generates
    )
    ignored_weights: tuple[str, ...] = (
        r"shared\.weight",  # where encoder and decoder have tables of their own
        r"(encoder|decoder)\.version",  # of fairseq's files
        "final_logits_bias",  # of the language model, where another task is built
    )
    key_bias = True
    language_head = tied("lm_head", to=TABLES, bias="final_logits_bias")
    heads = {
        "feature-extraction": encoder_decoder_states(),
        "text2text-generation": language_head,
        "fill-mask": language_head,
        "text-classification": eos_pooled("classification_head"),
        "question-answering": span("qa_outputs"),
    }

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        super().__init__(config, weights, cache)
        self.width = config.d_model
        self.states: list[Var] = []
        self.looks: list[tuple[Var, Var]] = []

    @staticmethod
    def longest(config: Config) -> tuple[int | None, int | None]:
        return config.max_position_embeddings, config.max_position_embeddings

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return True

    @staticmethod
    def num_layers(config: Config) -> int:
        return int(config.decoder_layers)

    @staticmethod
    def kv_heads(config: Config) -> int:
        return int(config.decoder_attention_heads)

    @staticmethod
    def head_width(config: Config) -> int:
        return int(config.d_model // config.decoder_attention_heads)

    def encode(self, input_ids: Var) -> Var:
        """int32 (B, S) -> (B, S, D)."""
        w = self.weights / "encoder"
        return self.read(self.embeddings(input_ids, w), w)

    def read(self, x: Var, w: Cursor) -> Var:
        """The encoder after its embeddings; `states` are what each layer gets, and what comes out."""
        mask, inner = padding_mask(self.cache.attention_mask, w), self.config.encoder_ffn_dim
        self.states = []
        for i in range(self.config.encoder_layers):
            self.states.append(x)
            layer = w / f"layers.{i}"
            x = self.residual(x, layer, "self_attn", partial(self.attention, mask=mask))
            x = self.residual(x, layer, "final", partial(self.mlp, inner=inner))
        self.states.append(self.end(x, w))
        return self.states[-1]

    def cross(self, hidden: Var, layer: int | None = None) -> tuple[Var, Var]:
        """The encoder's states (B, S, D) -> keys and values of all layers of the decoder, or of one, (B, layers * H, S, E)
        each."""
        heads, w = self.config.decoder_attention_heads, self.weights / "decoder"
        modules = [w / f"layers.{i}.encoder_attn" for i in range(self.config.decoder_layers)]
        w, modules = (w, modules) if layer is None else (modules[layer], modules[layer : layer + 1])
        return cross_heads(hidden, modules, self.width, heads, w, bias=(self.key_bias, True))

    def hidden_states(self, decoder_input_ids: Var, cross: Cross) -> Var:
        """int32 (B, T) -> (B, T, D)."""
        cache, w, inner = self.cache, self.weights / "decoder", self.config.decoder_ffn_dim
        x = self.embeddings(decoder_input_ids, w)
        mask = caches.mask(self.config, cache, w)
        seen = padding_mask(cross.attention_mask, w / "cross")
        for i, (k, v) in enumerate(zip(cross.keys, cross.values, strict=True)):
            layer = w / f"layers.{i}"
            x = self.residual(x, layer, "self_attn", partial(self.attention, mask=mask, i=i))
            x = self.residual(x, layer, "encoder_attn", partial(self.cross_attention, k=k, v=v, seen=seen))
            x = self.residual(x, layer, "final", partial(self.mlp, inner=inner))
        return self.end(x, w)

    def embeddings(self, ids: Var, w: Cursor) -> Var:
        config, rows = self.config, self.config.max_position_embeddings + FIRST
        table = self.weights.first(*TABLES), config.vocab_size, self.width, config.tie_word_embeddings
        x = shared_embedding(ids, w / "embed_tokens", *table, self.width**0.5 if config.scale_embedding else 1.0)
        places = embedding(
            moved_positions(self.cache.query_positions, FIRST, w), w / "embed_positions", rows, self.width
        )
        return self.norm(add(x, places, w / "placed"), w / "layernorm_embedding")

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, EPSILON)

    def residual(self, x: Var, w: Cursor, part: str, compute: Callable[[Var, Cursor], Var]) -> Var:
        """norm(x + part(x)): of attention, or of the MLP, which is no module of its own but for its norm (`final`)."""
        y = compute(x, w if part == "final" else w / part)
        return self.norm(add(x, y, w / f"{part}_layer_norm.sum"), w / f"{part}_layer_norm")

    def end(self, x: Var, w: Cursor) -> Var:
        """After the last layer: nothing."""
        return x

    def attention(self, x: Var, w: Cursor, mask: Var | None, i: int | None = None) -> Var:
        """Of the encoder, or of layer i of the decoder."""
        config, bias = self.config, [True, self.key_bias, True]
        heads = config.encoder_attention_heads if i is None else config.decoder_attention_heads
        return self_attention(
            x, w, self.width, heads, mask, None if i is None else partial(self.cache.update, i), bias=bias
        )

    def cross_attention(self, x: Var, w: Cursor, k: Var, v: Var, seen: Var | None) -> Var:
        """`looks` are each layer's queries and keys, for whoever asks where it looked."""
        y, q = cross_attention(x, w, self.width, self.config.decoder_attention_heads, (k, v), seen)
        self.looks.append((q, k))
        return y

    def mlp(self, x: Var, w: Cursor, inner: int) -> Var:
        return feed_forward(x, w, inner, self.width, self.config.activation_function)
