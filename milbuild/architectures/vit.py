"""ViT, and every checkpoint with its config schema: a picture's patches as tokens, behind one that stands for the whole.

Pre-norm encoder that looks both ways, learned positions.
Reference: transformers/models/vit/modeling_vit.py.

Shapes: B batch, N patches, T tokens (N + 1), D hidden_size, H num_attention_heads, E = D / H.
"""

from typing import Any

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.heads import Head, Inputs, Outputs, pooled, pooled_states
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.convolution import convolution, pair
from milbuild.layers.image import add_position_embeddings, picture, resampled, tokens
from milbuild.layers.linear import add, constant, first_token, fused_linear, linear, split
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


def reconstruction(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
    """(B, T, D) -> reconstruction (B, C, height, width): the pixels behind each patch."""
    config, w = family.config, family.weights.root / "decoder"
    height, width = family.grid(inputs["pixel_values"].shape[2:])
    if height != width:
        raise Error(f"masked-im reconstructs squares, and the picture has {height} x {width} patches")
    patches = split(hidden, [1, height * width], w / "tokens")[1]
    x = picture(patches, (height, width), w / "grid")
    x = convolution(x, w / "0", config.encoder_stride**2 * config.num_channels, 1)
    return {"reconstruction": mb.pixel_shuffle(x=x, upscale_factor=config.encoder_stride, name=(w / "1").name)}


class ViT:
    prefix = "vit"
    also: tuple[str, ...] = ("head_dim",)  # which transformers' attention reads, though the class has none
    required_config: dict[str, tuple[Any, str]] = {}
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

    def __init__(self, config: Any, weights: Cursor, cache: Cache) -> None:
        self.config, self.weights, self.cache = config, weights, cache
        self.width = config.hidden_size

    def hidden_states(self, pixel_values: Var, bool_masked_pos: Var | None) -> Var:
        """(B, C, height, width), int32 (B, N) -> (B, T, D), after the final norm."""
        w = self.weights
        x = self.patches(pixel_values, w / "embeddings.patch_embeddings")
        if bool_masked_pos is not None:
            x = self.masked(x, bool_masked_pos, w / "embeddings")
        x = self.embeddings(x, pixel_values.shape[2:], w / "embeddings")
        for i in range(self.config.num_hidden_layers):
            x = self.block(x, w / f"layers.{i}")
        return self.norm(x, w / "layernorm")

    def grid(self, size: Any) -> tuple[int, int]:
        """How many patches stand below and beside each other in a picture of (height, width)."""
        patch = pair(self.config.patch_size, "patch_size")
        return size[0] // patch[0], size[1] // patch[1]

    def patches(self, pixel_values: Var, w: Cursor) -> Var:
        patch = pair(self.config.patch_size, "patch_size")
        return tokens(convolution(pixel_values, w / "projection", self.width, patch, stride=patch), w)

    def masked(self, x: Var, mask: Var, w: Cursor) -> Var:
        """A token of its own in the place of the patches that are masked."""
        hidden = mb.cast(
            x=mb.expand_dims(x=mask, axes=[2], name=f"{w.name}_mask"), dtype="bool", name=f"{w.name}_hidden"
        )
        token = constant(w.tensor("mask_token", 1, 1, self.width), w, "mask_token")
        return mb.select(cond=hidden, a=token, b=x, name=f"{w.name}_masked")

    def embeddings(self, x: Var, size: Any, w: Cursor) -> Var:
        trained = pair(self.config.image_size, "image_size")
        old, new = self.grid(trained), self.grid(size)
        table = w.tensor("position_embeddings", 1, 1 + old[0] * old[1], self.width)
        if tuple(size) != trained:
            if old[0] != old[1]:
                hint = f"Build it with image_size {trained[0]}x{trained[1]}."
                raise Error(f"positions of {old[0]} x {old[1]} patches are no square that could be resampled", hint)
            table = resampled(table, old, new)
        return add_position_embeddings(x, table, w, w.tensor("cls_token", 1, 1, self.width))

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def block(self, x: Var, w: Cursor) -> Var:
        x = add(x, self.attention(self.norm(x, w / "layernorm_before"), w / "attention"), w / "residual")
        return add(x, self.mlp(self.norm(x, w / "layernorm_after"), w / "mlp"), w)

    def attention(self, x: Var, w: Cursor) -> Var:
        heads = self.config.num_attention_heads
        each = getattr(self.config, "head_dim", self.width // heads)
        parts = [(w / name, heads * each) for name in ("q_proj", "k_proj", "v_proj")]
        q, k, v = split_heads(fused_linear(x, parts, w, self.config.qkv_bias), heads, w, parts=3)  # (B, H, T, E) each
        y = attention(q, k, v, None, each**-0.5, w)
        return linear(merge_heads(y, w), w / "o_proj", self.width)

    def mlp(self, x: Var, w: Cursor) -> Var:
        x = linear(x, w / "fc1", self.config.intermediate_size)
        return linear(activation(x, self.config.hidden_act, w / "activation_fn"), w / "fc2", self.width)

    def pooler(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, pooler_output_size), of the first token."""
        return self.of_first(hidden, self.config.pooler_output_size, self.config.pooler_act)

    def of_first(self, hidden: Var, width: int, function: str) -> Var:
        w = self.weights / "pooler"
        return activation(linear(first_token(hidden, w), w / "dense", width), function, w / "activation")

    def first(self, hidden: Var) -> Var:
        return first_token(hidden, self.weights / "whole")

    heads = {
        "feature-extraction": pooled_states("pooler", pooler),
        "image-classification": pooled("classifier", first),
        "masked-im": Head(("decoder",), ("reconstruction",), reconstruction),
    }
