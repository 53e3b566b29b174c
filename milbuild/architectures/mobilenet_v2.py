"""MobileNet V2, and every checkpoint with its config schema: inverted residuals, and DeepLab's head for segmentation.

Like ResNet's, but the middle convolution of a block sees each channel by itself.
Reference: transformers/models/mobilenet_v2/modeling_mobilenet_v2.py.

Shapes: B batch, C channels of a layer, H and W its height and width.
"""

from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import Head, Inputs, Outputs, pooled
from milbuild.layers import image
from milbuild.layers.activation import activation
from milbuild.layers.convolution import average, convolution, convolution_norm, divisible, tensorflow_padding
from milbuild.layers.linear import add
from milbuild.weights import Cursor

# Of the layers, before the multiplier, and by how much their depthwise convolution makes the image smaller.
CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
LAST, DEEPLAB = 1280, 256


def segmentation(family: "MobileNetV2", hidden: Var, inputs: Inputs) -> Outputs:
    """The last layer's states, before the final convolution -> logits (B, labels, H, W)."""
    w = family.weights.root / "segmentation_head"

    def layer(x: Var, w: Cursor) -> Var:
        return family.convolution(x, w, DEEPLAB, 1, "relu", epsilon=1e-5)

    # The mean of the whole image, the same everywhere.
    mean = layer(average(hidden, w / "avg_pool"), w / "conv_pool")
    mean = image.spread(mean, image.sides(hidden), w / "stretched")
    x = layer(image.joined_channels([mean, layer(hidden, w / "conv_aspp")], w / "both"), w / "conv_projection")
    return {"logits": convolution(x, w / "classifier.convolution", family.config.num_labels, 1)}


def pooler(family: Family, last: Var) -> Var:
    """(B, C', H, W) -> (B, C')."""
    return average(last, family.weights / "pooler", keep=False)


def states(family: "MobileNetV2", hidden: Var, inputs: Inputs) -> Outputs:
    last = family.last(hidden)
    return {"last_hidden_state": last, "pooler_output": pooler(family, last)}


class MobileNetV2(Family):
    prefix = "mobilenet_v2"
    unused_config = ("classifier_dropout_prob", "semantic_loss_ignore_index")  # training
    ignored_weights = (r".*\.num_batches_tracked", r"conv_1x1\..*")  # the last: of the other tasks
    heads = {
        "feature-extraction": Head((), ("last_hidden_state", "pooler_output"), states),
        "image-classification": pooled("classifier", lambda family, hidden: pooler(family, family.last(hidden))),
        "semantic-segmentation": Head(("segmentation_head",), ("logits",), segmentation),
    }

    def hidden_states(self, pixel_values: Var) -> Var:
        """(B, C, height, width) -> (B, C, H, W) of the last layer."""
        first, *channels = (self.times(self.config.depth_multiplier, count) for count in (32, *CHANNELS))
        x = self.stem(pixel_values, self.weights / "conv_stem", first, channels[0])
        smaller, dilation = 2, 1
        for i, (before, width, stride) in enumerate(zip(channels, channels[1:], STRIDES, strict=False)):
            # Small enough: from here on the kernels grow, each time from the next layer on.
            full = smaller == self.config.output_stride
            x = self.block(x, self.weights / f"layer.{i}", before, width, *((1, dilation) if full else (stride, 1)))
            smaller, dilation = (smaller, dilation * stride) if full else (smaller * stride, dilation)
        return x

    def times(self, factor: float, channels: int) -> int:
        return divisible(round(channels * factor), self.config.depth_divisible_by, self.config.min_depth)

    def stem(self, x: Var, w: Cursor, inner: int, width: int) -> Var:
        x = self.convolution(x, w / "first_conv", inner, 3, stride=2)
        if not self.config.first_layer_is_expansion:
            x = self.convolution(x, w / "expand_1x1", inner, 1)
        x = self.convolution(x, w / "conv_3x3", inner, 3, groups=inner)
        return self.convolution(x, w / "reduce_1x1", width, 1, "linear")

    def block(self, x: Var, w: Cursor, before: int, width: int, stride: int, dilation: int) -> Var:
        inner = self.times(self.config.expand_ratio, before)
        y = self.convolution(x, w / "expand_1x1", inner, 1)
        y = self.convolution(y, w / "conv_3x3", inner, 3, stride=stride, dilation=dilation, groups=inner)
        y = self.convolution(y, w / "reduce_1x1", width, 1, "linear")
        return add(x, y, w) if stride == 1 and before == width else y

    def convolution(self, x: Var, w: Cursor, width: int, kernel: int, function: str | None = None, **how: Any) -> Var:
        """With its norm, and the configuration's activation unless another is named."""
        how = {"epsilon": self.config.layer_norm_eps} | how
        stride, dilation = how.get("stride", 1), how.get("dilation", 1)
        tensorflow = self.config.tf_padding
        how["padding"] = tensorflow_padding(x, kernel, stride, dilation) if tensorflow else (kernel - 1) // 2 * dilation
        x = convolution_norm(x, w / "convolution", w / "normalization", width, kernel, **how)
        return activation(x, function or self.config.hidden_act, w / "activation")

    def last(self, hidden: Var) -> Var:
        """(B, C, H, W) -> (B, C', H, W): the final convolution, which segmentation does without."""
        factor, fine = self.config.depth_multiplier, self.config.finegrained_output
        width = LAST if fine and factor < 1 else self.times(factor, LAST)
        return self.convolution(hidden, self.weights / "conv_1x1", width, 1)
