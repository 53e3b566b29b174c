"""Heads of models of images, which several of them have."""

from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.heads.head import Family, Head, Inputs, Outputs
from milbuild.layers import image
from milbuild.layers.activation import activation
from milbuild.layers.convolution import convolution
from milbuild.layers.linear import first_token, linear, split
from milbuild.weights import Cursor


def whole_image(family: Family, hidden: Var) -> Var:
    """(B, T, D) -> (B, D), the first token, which is for the whole image."""
    return first_token(hidden, family.weights / "whole")


def reconstruction(module: str) -> Head:
    """One token, then those of patches (B, T, D) -> reconstruction (B, C, height, width): the pixels of each patch."""

    def compute(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
        config, w = family.config, family.weights.root / module
        height, width = image.patch_grid(config, image.sides(inputs["pixel_values"]))
        if height != width:
            raise Error(f"masked-im reconstructs squares, and the image has {height} x {width} patches")
        x = image.feature_map(split(hidden, [1, height * width], w / "tokens")[1], (height, width), w / "grid")
        x = convolution(x, w / "0", config.encoder_stride**2 * config.num_channels, 1)
        return {"reconstruction": image.pixel_shuffle(x, config.encoder_stride, w / "1")}

    return Head((module,), ("reconstruction",), compute)


def detection(classes: str, boxes: str) -> Head:
    """Tokens (B, T, D), of which the last `num_detection_tokens` are objects -> logits (B, objects, labels + 1), of which the
    last is no object, and pred_boxes (B, objects, 4)."""

    def compute(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
        config, root = family.config, family.weights.root
        height, width = image.patch_grid(config, image.sides(inputs["pixel_values"]))
        objects = split(hidden, [1 + height * width, config.num_detection_tokens], root / "objects")[1]
        found = _mlp(objects, root / boxes, family.width, 4)
        return {
            "logits": _mlp(objects, root / classes, family.width, config.num_labels + 1),
            "pred_boxes": activation(found, "sigmoid", root / "object_boxes"),
        }

    return Head((classes, boxes), ("logits", "pred_boxes"), compute)


def _mlp(x: Var, w: Cursor, inner: int, width: int) -> Var:
    """(..., D) -> (..., width) by three layers, as DETR predicts boxes."""
    for i in range(2):
        x = activation(linear(x, w / f"layers.{i}", inner), "relu", w / f"layers.{i}.relu")
    return linear(x, w / "layers.2", width)
