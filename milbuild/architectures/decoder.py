"""A decoder of blocks, each step of which is a method: a model class names its modules and overrides what differs.

Shapes: B batch, T tokens in this call, S key slots, D hidden_size, H query heads, K key/value heads, E width of a head.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.blocks import QKV, groups
from milbuild.layers.linear import add, embedding, fused_linear, linear
from milbuild.layers.rope import Rotation
from milbuild.weights import Cursor


class Layer(NamedTuple):
    """What a layer gets beside the states: its number, and what layers share, made before the first of them."""

    i: int
    mask: Var | None
    rotation: Rotation | None


class Decoder(Family):
    # Paths of modules: under the base model, under `base`, and under a layer.
    base, tokens, layer, last_norm = "", "embed_tokens", "layers.{}", "norm"
    first_norm, attn = "input_layernorm", "self_attn"
    second_norm, ffn, out = "post_attention_layernorm", "mlp", "o_proj"

    norm: Callable[[Var, Cursor], Var]
    mlp: Callable[[Var, Cursor], Var]

    def hidden_states(self, input_ids: Var) -> Var:
        """int32 (B, T) -> (B, T, D), after the final norm."""
        w, windows = self.weights / self.base, self.windows(self.config)
        x = self.embeddings(input_ids, w)
        masks = {window: self.mask(window, w) for window in dict.fromkeys(windows)}
        rotations = self.rotations(w / "rotary_emb")
        for i in range(self.config.num_hidden_layers):
            x = self.block(x, w / self.layer.format(i), Layer(i, masks[windows[i]], rotations[i]))
        return self.end(x, w)

    def embeddings(self, input_ids: Var, w: Cursor) -> Var:
        return embedding(input_ids, w / self.tokens, self.config.vocab_size, self.config.hidden_size)

    def mask(self, window: int | None, w: Cursor) -> Var | None:
        shared = groups(self.config.num_attention_heads, self.kv_heads(self.config))
        return caches.mask(self.config, self.cache, w, window, shared)

    def rotations(self, w: Cursor) -> list[Rotation | None]:
        """Of each layer; None for one without rotary positions."""
        return [None] * self.config.num_hidden_layers

    def end(self, x: Var, w: Cursor) -> Var:
        return self.norm(x, w / self.last_norm)

    def block(self, x: Var, w: Cursor, layer: Layer) -> Var:
        x = add(x, self.attention(self.norm(x, w / self.first_norm), w / self.attn, layer), w / "residual")
        return add(x, self.mlp(self.norm(x, w / self.second_norm), w / self.ffn), w)

    def attention(self, x: Var, w: Cursor, layer: Layer) -> Var:
        q, k, v = self.qkv(x, w, layer)  # (B, H, T, E), (B, K, T, E) twice
        k, v = self.cache.update(layer.i, k, v)  # (B, K, S, E)
        y = attention(q, k, v, layer.mask, self.scale(layer.i), w, upcast=self.upcast())
        return self.output(merge_heads(y, w), w)

    def qkv(self, x: Var, w: Cursor, layer: Layer) -> Sequence[Var]:
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        return split_heads(fused_linear(x, [(w / name, width) for name in QKV], w, self.bias("qkv")), heads, w, parts=3)

    def output(self, x: Var, w: Cursor) -> Var:
        return linear(x, w / self.out, self.config.hidden_size, self.bias("o"))

    def bias(self, where: str) -> bool:
        """Whether the attention's "qkv" or "o" products have one."""
        return True

    def scale(self, i: int) -> float:
        """Of the scores of layer i."""
        return float(self.head_width(self.config) ** -0.5)

    def upcast(self) -> bool:
        """Whether scores and softmax are in float32, whatever the graph's precision is."""
        return False
