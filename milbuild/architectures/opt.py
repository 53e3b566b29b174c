"""OPT: GPT-2's skeleton with ReLU, separate projections and positions that count from 2 what the mask shows.

Norms in front of each half, or behind it (350m, which is also narrower at both ends).
Reference: transformers/models/opt/modeling_opt.py.

Shapes: B batch, T tokens in this call, S key slots, D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.caches import Cache
from milbuild.heads.head import states
from milbuild.heads.text import last_token, span, tied
from milbuild.layers.activation import activation
from milbuild.layers.attention import (
    Positions,
    attention,
    counted_positions,
    merge_heads,
    moved_positions,
    split_heads,
)
from milbuild.layers.linear import add, embedding, fused_linear, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

FIRST = 2  # the table's row of the first token


class OPT(Family):
    prefix = "model"
    unused_config = ("dropout", "attention_dropout", "layerdrop", "init_std")  # training
    heads = {
        "feature-extraction": states(),
        "text-generation": tied("lm_head", to="decoder.embed_tokens"),
        "text-classification": last_token("score"),
        "question-answering": span("qa_outputs"),
    }

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        super().__init__(config, weights, cache)
        self.width = config.hidden_size

    def hidden_states(self, input_ids: Var) -> Var:
        """int32 (B, T) -> (B, T, word_embed_proj_dim)."""
        config, cache, w = self.config, self.cache, self.weights / "decoder"
        narrow = config.word_embed_proj_dim
        x = embedding(input_ids, w / "embed_tokens", config.vocab_size, narrow)
        if narrow != self.width:
            x = linear(x, w / "project_in", self.width, bias=False)
        rows = config.max_position_embeddings + FIRST
        x = add(x, embedding(self.positions(w), w / "embed_positions", rows, self.width), w / "placed")
        mask = caches.mask(config, cache, w)
        for i in range(config.num_hidden_layers):
            x = self.block(x, w / f"layers.{i}", i, mask)
        if config.do_layer_norm_before and not config._remove_final_layer_norm:
            x = self.norm(x, w / "final_layer_norm")
        return x if narrow == self.width else linear(x, w / "project_out", narrow, bias=False)

    def positions(self, w: Cursor) -> Positions:
        """Rows of the table: padding has the one before the first."""
        mask = self.cache.attention_mask
        if mask is not None:
            return counted_positions(mask, FIRST, w)
        return moved_positions(self.cache.query_positions, FIRST, w)

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, 1e-5, affine=self.config.layer_norm_elementwise_affine)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        before = self.config.do_layer_norm_before
        y = self.norm(x, w / "self_attn_layer_norm") if before else x
        x = add(x, self.attention(y, w / "self_attn", i, mask), w / "residual")
        x = x if before else self.norm(x, w / "self_attn_layer_norm")
        y = self.mlp(self.norm(x, w / "final_layer_norm") if before else x, w)
        return add(x, y, w) if before else self.norm(add(x, y, w / "mlp_residual"), w / "final_layer_norm")

    def attention(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        heads, bias = self.config.num_attention_heads, self.config.enable_bias
        x = fused_linear(x, [(w / name, self.width) for name in ("q_proj", "k_proj", "v_proj")], w, bias)
        q, k, v = split_heads(x, heads, w, parts=3)  # (B, H, T, E) each
        k, v = self.cache.update(i, k, v)  # (B, H, S, E)
        y = attention(q, k, v, mask, (self.width // heads) ** -0.5, w)
        return linear(merge_heads(y, w), w / "out_proj", self.width, bias)

    def mlp(self, x: Var, w: Cursor) -> Var:
        bias = self.config.enable_bias
        x = activation(
            linear(x, w / "fc1", self.config.ffn_dim, bias), self.config.activation_function, w / "activation_fn"
        )
        return linear(x, w / "fc2", self.width, bias)
