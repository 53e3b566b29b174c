"""ConvNeXT, and every checkpoint with its config schema: stages of depthwise convolutions, each with an MLP of its pixels.

Reference: transformers/models/convnext/modeling_convnext.py.

Shapes: B batch, C channels of a stage, H and W its height and width. Norms and MLPs see the channels last, (B, H, W, C). The
first stage stands between two norms: it keeps them last throughout, which saves two transposes.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import pooled, pooled_states
from milbuild.layers.blocks import feed_forward
from milbuild.layers.convolution import average, channels_first, channels_last, check_stages, convolution, pair
from milbuild.layers.linear import add, constant, mul
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor

EPSILON = 1e-6  # of every norm but the last


def pooler(family: Family, hidden: Var) -> Var:
    """(B, C, H, W) -> (B, C): the mean, normed."""
    w = family.weights / "layernorm"
    return layer_norm(average(hidden, w / "mean", keep=False), w, family.config.layer_norm_eps)


class ConvNext(Family):
    prefix = "convnext"
    unused_config = ("drop_path_rate", "_out_features", "_out_indices")  # training; backbones
    heads = {
        "feature-extraction": pooled_states("layernorm", pooler),
        "image-classification": pooled("classifier", pooler),
    }

    def hidden_states(self, pixel_values: Var) -> Var:
        """(B, C, height, width) -> (B, C, H, W) of the last stage."""
        config, w = self.config, self.weights
        check_stages(config, "num_stages", "hidden_sizes", "depths")
        patch, first = pair(config.patch_size, "patch_size"), config.hidden_sizes[0]
        x = convolution(pixel_values, w / "embeddings.patch_embeddings", first, patch, stride=patch)
        norm = w / "embeddings.layernorm"
        x = layer_norm(channels_last(x, norm / "pixels"), norm, EPSILON)
        for i in range(config.num_stages):
            x = self.stage(x, w / f"encoder.stages.{i}", i)
        return x if config.num_stages > 1 else channels_first(x, w / "encoder.picture")

    def stage(self, x: Var, w: Cursor, i: int) -> Var:
        """(B, C, H, W) -> (B, C, H, W); the first one has the channels last, as the second takes them."""
        if i > 0:
            down = w / "downsampling_layer"
            x = x if i == 1 else channels_last(x, down / "0.pixels")
            x = channels_first(layer_norm(x, down / "0", EPSILON, f"{(down / '0').name}_normed"), down / "0")
            x = convolution(x, down / "1", self.config.hidden_sizes[i], 2, stride=2)
        for j in range(self.config.depths[i]):
            x = self.block(x, w / f"layers.{j}", self.config.hidden_sizes[i], last=i == 0)
        return x

    def block(self, x: Var, w: Cursor, width: int, last: bool) -> Var:
        """`last`: x and what is given have their channels last."""
        y = channels_first(x, w / "picture") if last else x
        y = convolution(y, w / "dwconv", width, 7, padding=3, groups=width)
        y = layer_norm(channels_last(y, w / "pixels"), w / "layernorm", EPSILON)
        y = feed_forward(y, w, 4 * width, width, self.config.hidden_act, ("pwconv1", "act", "pwconv2"))
        if self.config.layer_scale_init_value > 0:
            # Not part of pwconv2's weight: a small scale of small numbers is nothing in float16.
            y = mul(y, constant(w.tensor("layer_scale_parameter", width), w, "layer_scale"), w / "scaled")
        return add(x, y if last else channels_first(y, w / "picture"), w)
