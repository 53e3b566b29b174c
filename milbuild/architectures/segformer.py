"""SegFormer, and every checkpoint with its config schema: stages of ever coarser patches, all of which the segmentation reads.

Pre-norm encoder whose keys and values are fewer than its queries; a depthwise convolution in the MLP tells places apart.
Reference: transformers/models/segformer/modeling_segformer.py.

Shapes: B batch, N patches of a stage (H x W), D its hidden_size, S patches that are keys, E the width of a head.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import Head, Inputs, Outputs, pooled
from milbuild.heads.images import segmentation
from milbuild.layers import image
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.convolution import check_stages, convolution
from milbuild.layers.linear import add, fused_linear, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor

STAGES = ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios")
EPSILON = 1e-5  # of every norm, whatever layer_norm_eps says

Stage = tuple[Var, tuple[int, int]]  # patches (B, N, D), and how many of them are below and beside each other, (H, W)


def last(family: Family, stages: list[Stage]) -> Var:
    """(B, D, H, W) of the last stage so far."""
    return image.feature_map(*stages[-1], family.weights / f"stages.{len(stages) - 1}")


def states(family: Family, stages: list[Stage], inputs: Inputs) -> Outputs:
    return {"last_hidden_state": last(family, stages) if family.config.reshape_last_stage else stages[-1][0]}


class Segformer(Family):
    prefix = "segformer"
    unused_config = (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"),  # training
        *("drop_path_rate", "semantic_loss_ignore_index"),  # training
        "layer_norm_eps",  # transformers' own model does not read it
    )
    spellings = (
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
    heads = {
        "feature-extraction": Head((), ("last_hidden_state",), states),
        # (B, D), of the last stage
        "image-classification": pooled(
            "classifier", lambda of, stages: image.mean_token(stages[-1][0], of.weights / "mean")
        ),
        "semantic-segmentation": segmentation("decode_head", EPSILON),
    }

    def hidden_states(self, pixel_values: Var) -> list[Stage]:
        """(B, C, height, width) -> the stages, the first of them the finest."""
        check_stages(self.config, "num_encoder_blocks", *STAGES)
        stages: list[Stage] = []
        for i in range(self.config.num_encoder_blocks):
            stages.append(self.stage(last(self, stages) if stages else pixel_values, self.weights / f"stages.{i}", i))
        return stages

    def stage(self, x: Var, w: Cursor, i: int) -> Stage:
        width, size, stride = self.config.hidden_sizes[i], self.config.patch_sizes[i], self.config.strides[i]
        patches = w / "patch_embeddings"
        x = convolution(x, patches / "proj", width, size, stride=stride, padding=size // 2)
        grid = image.sides(x)
        x = layer_norm(image.tokens(x, patches / "tokens"), patches / "layer_norm", EPSILON)
        for j in range(self.config.depths[i]):
            x = self.block(x, grid, w / f"blocks.{j}", i)
        return layer_norm(x, w / "layer_norm", EPSILON), grid

    def block(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        y = layer_norm(x, w / "layernorm_before", EPSILON)
        x = add(x, self.attention(y, grid, w / "attention", i), w / "residual")
        return add(x, self.mlp(layer_norm(x, w / "layernorm_after", EPSILON), grid, w / "mlp", i), w)

    def attention(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        width, heads = self.config.hidden_sizes[i], self.config.num_attention_heads[i]
        read = self.reduced(x, grid, w / "sequence_reduction", i)
        (q,) = split_heads(linear(x, w / "q_proj", width), heads, w / "query")  # (B, heads, N, E)
        parts = [(w / name, width) for name in ("k_proj", "v_proj")]
        k, v = split_heads(fused_linear(read, parts, w / "keys"), heads, w / "keys", parts=2)  # (B, heads, S, E) each
        y = attention(q, k, v, None, (width // heads) ** -0.5, w)
        return linear(merge_heads(y, w), w / "o_proj", width)

    def reduced(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        """(B, N, D) -> (B, S, D): squares of patches as one."""
        width, ratio = self.config.hidden_sizes[i], self.config.sr_ratios[i]
        if ratio == 1:
            return x
        x = convolution(image.feature_map(x, grid, w / "picture"), w / "sequence_reduction", width, ratio, stride=ratio)
        return layer_norm(image.tokens(x, w / "tokens"), w / "layer_norm", EPSILON)

    def mlp(self, x: Var, grid: tuple[int, int], w: Cursor, i: int) -> Var:
        width, inner = self.config.hidden_sizes[i], int(self.config.hidden_sizes[i] * self.config.mlp_ratios[i])
        x = image.feature_map(linear(x, w / "fc1", inner), grid, w / "picture")
        x = image.tokens(convolution(x, w / "dwconv.dwconv", inner, 3, padding=1, groups=inner), w / "dwconv")
        return linear(activation(x, self.config.hidden_act, w / "activation_fn"), w / "fc2", width)
