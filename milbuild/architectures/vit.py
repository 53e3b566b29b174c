"""ViT, and every checkpoint with its config schema: an image's patches as tokens, after one that is for the whole.

Pre-norm encoder that looks both ways, learned positions.
Reference: transformers/models/vit/modeling_vit.py.

Shapes: B batch, N patches, T tokens (N + 1), D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import pooled, pooled_states
from milbuild.heads.images import reconstruction
from milbuild.layers import encoder, image
from milbuild.layers.linear import add, first_token
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


class ViT(Family):
    prefix = "vit"
    also: tuple[str, ...] = ("head_dim",)  # which transformers' attention reads, though the class has none
    unused_config: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # training
    ignored_weights: tuple[str, ...] = (r"embeddings\.mask_token", r"pooler\.dense\.(weight|bias)")
    first_tokens: tuple[str, ...] = ("cls_token",)  # learned, before the patches

    def hidden_states(self, pixel_values: Var, bool_masked_pos: Var | None) -> Var:
        """(B, C, height, width), int32 (B, N) -> (B, T, D), after the final norm."""
        w, each = self.weights, self.weights / "embeddings"
        x = image.patches(pixel_values, each / "patch_embeddings", self.config, self.width)
        if bool_masked_pos is not None:
            x = image.masked(x, bool_masked_pos, each.tensor("mask_token", 1, 1, self.width), each)
        x = self.embeddings(x, image.sides(pixel_values), each)
        for i in range(self.config.num_hidden_layers):
            x = self.block(x, w / f"layers.{i}")
        return self.norm(x, w / "layernorm")

    def embeddings(self, x: Var, size: tuple[int, int], w: Cursor) -> Var:
        """The patches (B, N, D) of an image of (height, width) -> (B, T, D), after the learned tokens, with positions."""
        image.check_square(self.config, size)
        first = image.learned_tokens(w, self.first_tokens, self.width)
        return image.add_position_embeddings(x, w, self.config, size, first)

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def block(self, x: Var, w: Cursor) -> Var:
        x = add(x, self.attention(self.norm(x, w / "layernorm_before"), w / "attention"), w / "residual")
        return add(x, self.mlp(self.norm(x, w / "layernorm_after"), w / "mlp"), w)

    def attention(self, x: Var, w: Cursor) -> Var:
        config, heads = self.config, self.config.num_attention_heads
        names, each = ("q_proj", "k_proj", "v_proj", "o_proj"), getattr(config, "head_dim", self.width // heads)
        return encoder.self_attention(x, w, names, heads, self.width, each=each, bias=config.qkv_bias)

    def mlp(self, x: Var, w: Cursor) -> Var:
        names = "fc1", "activation_fn", "fc2"
        return encoder.feed_forward(x, w, names, self.config.intermediate_size, self.config.hidden_act, self.width)

    def pooler(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, pooler_output_size), of the first token."""
        return encoder.pooler(hidden, self.weights / "pooler", self.config.pooler_output_size, self.config.pooler_act)

    def first(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, D)."""
        return first_token(hidden, self.weights / "whole")

    heads = {
        "feature-extraction": pooled_states("pooler", pooler),
        "image-classification": pooled("classifier", first),
        "masked-im": reconstruction("decoder"),
    }
