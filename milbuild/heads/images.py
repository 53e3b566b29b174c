"""Heads of models of images, which several of them have."""

from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.heads.head import Family, Head, Inputs, Outputs
from milbuild.layers import image
from milbuild.layers.activation import activation
from milbuild.layers.convolution import convolution, convolution_norm
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


def segmentation(module: str, epsilon: float) -> Head:
    """Stages, each patches (B, N, D) and how many of them are below and beside each other -> logits (B, labels, H, W) of all of
    them, as large as the first. SegFormer's; `epsilon` is its batch norm's."""

    def compute(family: Any, stages: list[tuple[Var, tuple[int, int]]], inputs: Inputs) -> Outputs:
        width, w = family.config.decoder_hidden_size, family.weights.root / module
        parts = []
        for i, (patches, grid) in enumerate(stages):
            x = linear(patches, w / f"linear_projections.{i}.proj", width)
            x = image.feature_map(x, grid, w / f"pictures.{i}")
            parts.append(image.resized(x, stages[0][1], (w / f"resized.{i}").name))
        x = image.joined_channels(parts[::-1], w / "stages")
        x = convolution_norm(x, w / "linear_fuse", w / "batch_norm", width, 1, epsilon)
        x = activation(x, "relu", w / "activation")
        return {"logits": convolution(x, w / "classifier", family.config.num_labels, 1)}

    return Head((module,), ("logits",), compute)


def _mlp(x: Var, w: Cursor, inner: int, width: int) -> Var:
    """(..., D) -> (..., width) by three layers, as DETR predicts boxes."""
    for i in range(2):
        x = activation(linear(x, w / f"layers.{i}", inner), "relu", w / f"layers.{i}.relu")
    return linear(x, w / "layers.2", width)
