"""An encoder and a decoder of layers whose parts, attention, cross-attention and an MLP, have a norm each; each step is a
method: a model class names its modules and overrides what differs.

Shapes: B batch, S tokens that the encoder reads, T tokens of the decoder in this call, D d_model, H heads, E width of a head.
"""

from collections.abc import Callable
from functools import partial

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.caches import Cross
from milbuild.layers.attention import padding_mask
from milbuild.layers.blocks import QKV, Update, cross_attention, cross_heads, post_norm, self_attention
from milbuild.layers.linear import shared_embedding
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

Paths = tuple[str, str, str]  # in a layer: of a part's norm, of its module, and of its sum with what came in


class EncoderDecoder(Family):
    tables = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")  # the token embedding, by any of its names
    layer, qkv, out = "layers.{}", QKV, "out_proj"
    attn: Paths
    cross_attn: Paths
    mlp_in_encoder: Paths
    mlp_in_decoder: Paths
    order = staticmethod(post_norm)  # of a part and its norm
    bias: tuple[bool, bool, bool] = (True, True, True)  # of queries, keys and values
    scale: float | None = None  # of scores, E**-0.5 by default
    decoder_layers, decoder_heads = "decoder_layers", "decoder_attention_heads"  # fields
    inner_fields = ("encoder_ffn_dim", "decoder_ffn_dim")
    norm: Callable[[Var, Cursor], Var]
    mlp: Callable[..., Var]
    states: list[Var]  # of the encoder: what each layer gets, and what comes out
    looks: list[tuple[Var, Var]]  # each layer's queries and keys of cross-attention, for whoever asks where it looked

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return True

    @classmethod
    def num_layers(cls, config: Config) -> int:
        return int(getattr(config, cls.decoder_layers))

    @classmethod
    def kv_heads(cls, config: Config) -> int:
        return int(getattr(config, cls.decoder_heads))

    @classmethod
    def head_width(cls, config: Config) -> int:
        return int(config.d_model // cls.kv_heads(config))

    def read(self, x: Var, w: Cursor, mask: Var | None) -> Var:
        """The encoder after its embeddings."""
        config, self.states = self.config, []
        for i in range(config.num_hidden_layers):
            self.states.append(x)
            layer, inner = w / self.layer.format(i), getattr(config, self.inner_fields[0])
            x = self.part(x, layer, self.attn, partial(self.attention, heads=config.num_attention_heads, mask=mask))
            x = self.part(x, layer, self.mlp_in_encoder, partial(self.mlp, inner=inner))
        self.states.append(self.end(x, w))
        return self.states[-1]

    def cross(self, hidden: Var, layer: int | None = None) -> tuple[Var, Var]:
        """Encoder's states (B, S, D) -> keys and values of all layers of the decoder, or of one, (B, layers * H, S, E) each."""
        w, count, heads = self.weights / "decoder", self.num_layers(self.config), self.kv_heads(self.config)
        modules = [w / self.layer.format(i) / self.cross_attn[1] for i in range(count)]
        w, modules = (w, modules) if layer is None else (modules[layer], modules[layer : layer + 1])
        return cross_heads(hidden, modules, self.inner(), heads, w, self.qkv[1:], self.bias[1:])

    def write(self, x: Var, w: Cursor, mask: Var | None, cross: Cross) -> Var:
        """The decoder after its embeddings."""
        seen, heads = padding_mask(cross.attention_mask, w / "cross"), self.kv_heads(self.config)
        inner, self.looks = getattr(self.config, self.inner_fields[1]), []
        for i, keys in enumerate(zip(cross.keys, cross.values, strict=True)):
            layer, update = w / self.layer.format(i), partial(self.cache.update, i)
            x = self.part(x, layer, self.attn, partial(self.attention, heads=heads, mask=mask, update=update))
            x = self.part(x, layer, self.cross_attn, partial(self.cross_attention, keys=keys, seen=seen))
            x = self.part(x, layer, self.mlp_in_decoder, partial(self.mlp, inner=inner))
        return self.end(x, w)

    def tokens(self, ids: Var, w: Cursor, scale: float = 1.0) -> Var:
        """int32 (B, T) -> (B, T, D)."""
        config = self.config
        table = self.weights.first(*self.tables), config.vocab_size, self.width, config.tie_word_embeddings
        return shared_embedding(ids, w / "embed_tokens", *table, scale)

    def part(self, x: Var, w: Cursor, paths: Paths, compute: Callable[[Var, Cursor], Var]) -> Var:
        norm, module, total = paths
        return self.order(x, lambda y: self.norm(y, w / norm), lambda y: compute(y, w / module), w / total)

    def end(self, x: Var, w: Cursor) -> Var:
        """After the last layer: nothing."""
        return x

    def inner(self) -> int:
        return self.width  # H * E

    def attention(self, x: Var, w: Cursor, heads: int, mask: Var | None, update: Update | None = None) -> Var:
        options = self.qkv, w / self.out, self.inner(), list(self.bias), self.scale
        return self_attention(x, w, self.width, heads, mask, update, *options)

    def cross_attention(self, x: Var, w: Cursor, keys: tuple[Var, Var], seen: Var | None) -> Var:
        options = (self.qkv[0], self.out), self.inner(), self.bias[0], self.scale
        y, q = cross_attention(x, w, self.width, self.kv_heads(self.config), keys, seen, *options)
        self.looks.append((q, keys[0]))
        return y
