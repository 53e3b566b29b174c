"""OPT: a decoder with ReLU and learned positions that count from 2 what the mask shows.

Norms before each part of a block, or after it (350m, which is also narrower at both ends).
Reference: transformers/models/opt/modeling_opt.py.

Shapes: B batch, T tokens in this call, S key slots, D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.decoder import Decoder, Layer
from milbuild.heads.head import states
from milbuild.heads.text import last_token, span, tied
from milbuild.layers.attention import Positions, counted_positions, moved_positions
from milbuild.layers.blocks import feed_forward, post_norm, pre_norm
from milbuild.layers.linear import add, embedding, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor

FIRST = 2  # the table's row of the first token


class OPT(Decoder):
    prefix = "model"
    base, last_norm, out = "decoder", "final_layer_norm", "out_proj"
    unused_config = ("dropout", "attention_dropout", "layerdrop", "init_std")  # training
    heads = {
        "feature-extraction": states(),
        "text-generation": tied("lm_head", to="decoder.embed_tokens"),
        "text-classification": last_token("score"),
        "question-answering": span("qa_outputs"),
    }

    def embeddings(self, input_ids: Var, w: Cursor) -> Var:
        config, narrow, width = self.config, self.config.word_embed_proj_dim, self.config.hidden_size
        x = embedding(input_ids, w / "embed_tokens", config.vocab_size, narrow)
        x = x if narrow == width else linear(x, w / "project_in", width, bias=False)
        table = w / "embed_positions", config.max_position_embeddings + FIRST, width
        return add(x, embedding(self.positions(w), *table), w / "placed")

    def positions(self, w: Cursor) -> Positions:
        """Rows of the table: padding has the one before the first."""
        mask = self.cache.attention_mask
        if mask is not None:
            return counted_positions(mask, FIRST, w)
        return moved_positions(self.cache.query_positions, FIRST, w)

    def end(self, x: Var, w: Cursor) -> Var:
        """(B, T, D) -> (B, T, word_embed_proj_dim)."""
        config, narrow = self.config, self.config.word_embed_proj_dim
        x = super().end(x, w) if config.do_layer_norm_before and not config._remove_final_layer_norm else x
        return x if narrow == config.hidden_size else linear(x, w / "project_out", narrow, bias=False)

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, 1e-5, affine=self.config.layer_norm_elementwise_affine)

    def block(self, x: Var, w: Cursor, layer: Layer) -> Var:
        attn, first, second = w / "self_attn", w / "self_attn_layer_norm", w / "final_layer_norm"
        residual, total = (pre_norm, w) if self.config.do_layer_norm_before else (post_norm, w / "mlp_residual")
        x = residual(x, lambda x: self.norm(x, first), lambda x: self.attention(x, attn, layer), w / "residual")
        return residual(x, lambda x: self.norm(x, second), lambda x: self.mlp(x, w), total)

    def bias(self, where: str) -> bool:
        return bool(self.config.enable_bias)

    def mlp(self, x: Var, w: Cursor) -> Var:
        config = self.config
        inner, width, function = config.ffn_dim, config.hidden_size, config.activation_function
        return feed_forward(x, w, inner, width, function, bias=config.enable_bias)
