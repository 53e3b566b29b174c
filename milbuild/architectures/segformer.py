"""SegFormer, and every checkpoint with its config schema: stages of ever coarser patches, all of which the segmentation reads.

Pre-norm encoder whose keys and values are fewer than its queries; a depthwise convolution in the MLP tells places apart.
Reference: transformers/models/segformer/modeling_segformer.py.

Shapes: B batch, N patches of a stage (H x W), D its hidden_size, S patches that are keys, E the width of a head.
"""

from typing import Any

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import Cache
from milbuild.heads import Head, Inputs, Outputs, pooled
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.convolution import check_stages, convolution, convolution_norm
from milbuild.layers.image import picture, resized, tokens
from milbuild.layers.linear import add, fused_linear, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor

STAGES = ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios")
EPSILON = 1e-5  # of every norm, whatever layer_norm_eps says


# Patches, (B, N, D), and how they stand in the picture, (H, W).
Stage = tuple[Var, tuple[int, int]]


def segmentation(family: "Segformer", stages: list[Stage], inputs: Inputs) -> Outputs:
    """Every stage, as large as the first -> logits (B, labels, H, W)."""
    width, w = family.config.decoder_hidden_size, family.weights.root / "decode_head"
    parts = []
    for i, (patches, grid) in enumerate(stages):
        x = linear(patches, w / f"linear_projections.{i}.proj", width)
        parts.append(resized(picture(x, grid, w / f"pictures.{i}"), stages[0][1], (w / f"resized.{i}").name))
    x = mb.concat(values=parts[::-1], axis=1, name=f"{w.name}_stages")
    x = convolution_norm(x, w / "linear_fuse", w / "batch_norm", width, 1, EPSILON)
    x = activation(x, "relu", w / "activation")
    return {"logits": convolution(x, w / "classifier", family.config.num_labels, 1)}


class Segformer:
    prefix = "segformer"
    required_config: dict[str, tuple[Any, str]] = {}
    unused_config: tuple[str, ...] = (
        *(
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout_prob",
            "drop_path_rate",
        ),  # training
        *("semantic_loss_ignore_index", "layer_norm_eps"),  # training; transformers' own model does not read it
    )
    spellings: tuple[tuple[str, str], ...] = (
        (r"\bencoder\.(patch_embeddings|layer_norm)\.(\d+)", r"stages.\2.\1"),
        (r"\bencoder\.block\.(\d+)", r"stages.\1.blocks"),
        (r"\battention\.self\.(q|k|v)(uery|ey|alue)\b", r"attention.\1_proj"),
        (r"\battention\.self\.sr\b", "attention.sequence_reduction.sequence_reduction"),
        (r"\battention\.self\.layer_norm\b", "attention.sequence_reduction.layer_norm"),
        (r"\battention\.output\.dense\b", "attention.o_proj"),
        (r"\bmlp\.dense([12])\b", r"mlp.fc\1"),
        (r"\blayer_norm_1\b", "layernorm_before"),
        (r"\blayer_norm_2\b", "layernorm_after"),
        (r"\bdecode_head\.linear_c\b", "decode_head.linear_projections"),
    )
    ignored_weights: tuple[str, ...] = ()

    def __init__(self, config: Any, weights: Cursor, cache: Cache) -> None:
        self.config, self.weights, self.cache = config, weights, cache
        check_stages(config, "num_encoder_blocks", *STAGES)

    def hidden_states(self, pixel_values: Var) -> list[Stage]:
        """(B, C, height, width) -> the stages, the first of them the finest."""
        stages: list[Stage] = []
        for i in range(self.config.num_encoder_blocks):
            x = self.picture(stages) if stages else pixel_values
            stages.append(self.stage(x, self.weights / f"stages.{i}", i))
        return stages

    def stage(self, x: Var, w: Cursor, i: int) -> Stage:
        width, size, stride = self.config.hidden_sizes[i], self.config.patch_sizes[i], self.config.strides[i]
        patches = w / "patch_embeddings"
        x = convolution(x, patches / "proj", width, size, stride=stride, padding=size // 2)
        grid = (x.shape[2], x.shape[3])
        x = layer_norm(tokens(x, patches / "tokens"), patches / "layer_norm", EPSILON)
        for j in range(self.config.depths[i]):
            x = self.block(x, grid, w / f"blocks.{j}", i)
        return layer_norm(x, w / "layer_norm", EPSILON), grid

    def block(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        y = layer_norm(x, w / "layernorm_before", EPSILON)
        x = add(x, self.attention(y, grid, w / "attention", i), w / "residual")
        return add(x, self.mlp(layer_norm(x, w / "layernorm_after", EPSILON), grid, w / "mlp", i), w)

    def attention(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        width, heads, ratio = x.shape[2], self.config.num_attention_heads[i], self.config.sr_ratios[i]
        kv = x if ratio == 1 else self.reduced(x, grid, w / "sequence_reduction", ratio)
        (q,) = split_heads(linear(x, w / "q_proj", width), heads, w / "query")  # (B, heads, N, E)
        parts = [(w / name, width) for name in ("k_proj", "v_proj")]
        k, v = split_heads(fused_linear(kv, parts, w / "keys"), heads, w / "keys", parts=2)  # (B, heads, S, E) each
        y = attention(q, k, v, None, (width // heads) ** -0.5, w)
        return linear(merge_heads(y, w), w / "o_proj", width)

    def reduced(self, x: Var, grid: tuple[int, int], w: Cursor, ratio: int) -> Var:
        """(B, N, D) -> (B, S, D): squares of patches as one."""
        x = convolution(picture(x, grid, w / "picture"), w / "sequence_reduction", x.shape[2], ratio, stride=ratio)
        return layer_norm(tokens(x, w / "tokens"), w / "layer_norm", EPSILON)

    def mlp(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        width, inner = x.shape[2], int(x.shape[2] * self.config.mlp_ratios[i])
        x = picture(linear(x, w / "fc1", inner), grid, w / "picture")
        x = tokens(convolution(x, w / "dwconv.dwconv", inner, 3, padding=1, groups=inner), w / "dwconv")
        return linear(activation(x, self.config.hidden_act, w / "activation_fn"), w / "fc2", width)

    def states(self, stages: list[Stage], inputs: Inputs) -> Outputs:
        return {"last_hidden_state": self.picture(stages) if self.config.reshape_last_stage else stages[-1][0]}

    def picture(self, stages: list[Stage]) -> Var:
        """(B, D, H, W) of the last stage so far."""
        return picture(*stages[-1], self.weights / f"stages.{len(stages) - 1}")

    def mean(self, stages: list[Stage]) -> Var:  # (B, D)
        return mb.reduce_mean(x=stages[-1][0], axes=[1], keep_dims=False, name=(self.weights / "mean").name)

    heads = {
        "feature-extraction": Head((), ("last_hidden_state",), states),
        "image-classification": pooled("classifier", mean),
        "semantic-segmentation": Head(("decode_head",), ("logits",), segmentation),
    }
