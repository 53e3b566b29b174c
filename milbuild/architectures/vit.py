"""ViT, and every checkpoint with its config schema: an image's patches as tokens, after one that is for the whole.

Pre-norm encoder that looks both ways, learned positions.
Reference: transformers/models/vit/modeling_vit.py.

Shapes: B batch, N patches, T tokens (N + 1), D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import first_pooled, pooled, pooled_states
from milbuild.heads.images import reconstruction, whole_image
from milbuild.layers import image
from milbuild.layers.blocks import feed_forward, self_attention
from milbuild.layers.linear import add
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


class ViT(Family):
    prefix = "vit"
    also: tuple[str, ...] = ("head_dim",)  # which transformers' attention reads, though the class has none
    unused_config: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # training
    spellings: tuple[tuple[str, str], ...] = (
        (r"\bencoder\.layer\.", "layers."),
        (r"\battention\.attention\.(q|k|v)(uery|ey|alue)\b", r"attention.\1_proj"),
        (r"\battention\.output\.dense\b", "attention.o_proj"),
        (r"\bintermediate\.dense\b", "mlp.fc1"),
        (r"\bintermediate\.intermediate_act_fn\b", "mlp.activation_fn"),
        (r"\b(layers\.\d+)\.output\.dense\b", r"\1.mlp.fc2"),
    )
    ignored_weights: tuple[str, ...] = (r"embeddings\.mask_token", r"pooler\.dense\.(weight|bias)")
    first_tokens: tuple[str, ...] = ("cls_token",)  # learned, before the patches
    heads = {
        "feature-extraction": pooled_states(
            "pooler", first_pooled("pooler", width="pooler_output_size", field="pooler_act")
        ),
        "image-classification": pooled("classifier", whole_image),
        "masked-im": reconstruction("decoder"),
    }

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
        inner, bias = heads * getattr(config, "head_dim", self.width // heads), [config.qkv_bias] * 3
        return self_attention(x, w, self.width, heads, None, inner=inner, bias=bias, out=w / "o_proj")

    def mlp(self, x: Var, w: Cursor) -> Var:
        return feed_forward(x, w, self.config.intermediate_size, self.width, self.config.hidden_act)
