"""ResNet (v1.5), and every checkpoint with its config schema: convolutions with residuals, batch norms folded into them.

Reference: transformers/models/resnet/modeling_resnet.py.

Shapes: B batch, C channels of a stage, H and W its height and width.
"""

from functools import partial
from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.head import pooled, pooled_states
from milbuild.layers.activation import activation
from milbuild.layers.convolution import average, check_stages, convolution_norm, max_pool
from milbuild.layers.linear import add
from milbuild.weights import Cursor

EPSILON = 1e-5  # torch's batch norm
REDUCTION = 4  # of a bottleneck


def pooler(family: Family, hidden: Var, keep: bool = True) -> Var:
    """(B, C, H, W) -> (B, C, 1, 1), or (B, C)."""
    return average(hidden, family.weights / "pooler", keep)


class ResNet(Family):
    prefix = "resnet"
    ignored_weights = (r".*\.num_batches_tracked",)
    heads = {
        "feature-extraction": pooled_states(None, pooler),
        "image-classification": pooled("classifier.1", partial(pooler, keep=False)),
    }

    def hidden_states(self, pixel_values: Var) -> Var:
        """(B, C, height, width) -> (B, C, H, W) of the last stage."""
        config, w, before = self.config, self.weights, self.config.embedding_size
        check_stages(config, "depths", "hidden_sizes")
        x = self.convolution(pixel_values, w / "embedder.embedder", before, 7, 2, config.hidden_act)
        x = max_pool(x, w / "embedder.pooler", 3, stride=2, padding=1)
        for i, (depth, width) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
            for j in range(depth):
                stride = 2 if j == 0 and (i > 0 or config.downsample_in_first_stage) else 1
                x, before = self.block(x, w / f"encoder.stages.{i}.layers.{j}", before, width, stride), width
        return x

    def convolution(self, x: Var, w: Cursor, width: int, kernel: int, stride: int, function: str) -> Var:
        how: dict[str, Any] = {"stride": stride, "padding": kernel // 2}
        x = convolution_norm(x, w / "convolution", w / "normalization", width, kernel, EPSILON, **how)
        return activation(x, function, w / "activation")

    def block(self, x: Var, w: Cursor, before: int, width: int, stride: int) -> Var:
        """Convolutions with ReLU between them, whatever `hidden_act` says, beside a shortcut."""
        inner, steps = width // REDUCTION, (stride, 1) if self.config.downsample_in_bottleneck else (1, stride)
        layers = [(width, 3, stride), (width, 3, 1)]
        if self.config.layer_type == "bottleneck":
            layers = [(inner, 1, steps[0]), (inner, 3, steps[1]), (width, 1, 1)]
        y = x
        for i, (channels, kernel, step) in enumerate(layers):
            function = "relu" if i + 1 < len(layers) else "linear"
            y = self.convolution(y, w / f"layer.{i}", channels, kernel, step, function)
        if before != width or stride != 1:
            x = self.convolution(x, w / "shortcut", width, 1, stride, "linear")
        return activation(add(y, x, w / "residual"), self.config.hidden_act, w / "activation")
