"""YOLOS: ViT with tokens behind its patches, each of which finds an object, and positions added between the layers, too.

Reference: transformers/models/yolos/modeling_yolos.py, where ViT's modules still have their old names.
"""

from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild.architectures.vit import ViT
from milbuild.errors import Error
from milbuild.heads import Head, Inputs, Outputs, pooled_states
from milbuild.layers.activation import activation
from milbuild.layers.convolution import pair
from milbuild.layers.image import add_position_embeddings, resampled
from milbuild.layers.linear import add, constant, linear, split
from milbuild.weights import Computed, Cursor, Tensor


def detection(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
    """(B, T, D) -> logits (B, objects, labels + 1), of which the last is no object, and pred_boxes (B, objects, 4)."""
    found, root = family.config.num_detection_tokens, family.weights.root
    objects = split(hidden, [hidden.shape[1] - found, found], root / "objects")[1]
    boxes = mlp(objects, root / "bbox_predictor", 4)
    return {
        "logits": mlp(objects, root / "class_labels_classifier", family.config.num_labels + 1),
        "pred_boxes": activation(boxes, "sigmoid", root / "object_boxes"),
    }


def mlp(x: Var, w: Cursor, width: int) -> Var:
    for i in range(2):
        x = activation(linear(x, w / f"layers.{i}", x.shape[2]), "relu", w / f"layers.{i}.relu")
    return linear(x, w / "layers.2", width)


class Yolos(ViT):
    also: tuple[str, ...] = ()
    unused_config = (
        *ViT.unused_config,
        *("auxiliary_loss", "class_cost", "bbox_cost", "giou_cost"),  # training
        *("bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient"),  # training
    )
    spellings = (
        *ViT.spellings,  # transformers' own modules are still called as ViT's were
        (r"\bencoder\.mid_position_embeddings\b", "encoder.interpolation.mid_position_embeddings"),
    )
    ignored_weights = (r"pooler\.dense\.(weight|bias)",)

    def hidden_states(self, pixel_values: Var) -> Var:  # type: ignore[override]
        """(B, C, height, width) -> (B, T, D), after the final norm."""
        config, w, size = self.config, self.weights, pixel_values.shape[2:]
        x = self.embeddings(self.patches(pixel_values, w / "embeddings.patch_embeddings"), size, w / "embeddings")
        for i in range(config.num_hidden_layers):
            x = self.block(x, w / f"layers.{i}")
            if config.use_mid_position_embeddings and i + 1 < config.num_hidden_layers:
                between = w / f"between.{i}"
                x = add(x, constant(self.between(i, size), between, "positions"), between)
        return self.norm(x, w / "layernorm")

    def embeddings(self, x: Var, size: Any, w: Cursor) -> Var:
        found, width = self.config.num_detection_tokens, self.width
        table = self.positions(w.tensor("position_embeddings", 1, self.places(), width), size)
        return add_position_embeddings(
            x, table, w, w.tensor("cls_token", 1, 1, width), w.tensor("detection_tokens", 1, found, width)
        )

    def between(self, i: int, size: Any) -> Tensor:
        """(1, T, D): what is added behind layer `i`. Raises `Error` where patches are left over, which the rows of
        transformers' table count, while its model expects whole ones."""
        image, patch = pair(self.config.image_size, "image_size"), pair(self.config.patch_size, "patch_size")
        rows, columns = self.grid(image)
        if image[0] * image[1] // (patch[0] * patch[1]) != rows * columns:
            raise Error(
                f"a picture of {image[0]}x{image[1]} (image_size) has no whole number of patches of {patch[0]}x{patch[1]} "
                "(patch_size), with which transformers' model has no positions between its layers",
                "Look into config.json.",
            )
        layers, shape = self.config.num_hidden_layers - 1, (1, self.places(), self.width)
        w = self.weights / "encoder.interpolation"
        table = w.tensor("mid_position_embeddings", layers, *shape).rows(i, i + 1)
        return self.positions(Computed("the layer's", lambda values: values[0], shape, table), size)

    def places(self) -> int:
        rows, columns = self.grid(pair(self.config.image_size, "image_size"))
        return 1 + rows * columns + int(self.config.num_detection_tokens)

    def positions(self, table: Tensor, size: Any) -> Tensor:
        return resampled(table, self.grid(pair(self.config.image_size, "image_size")), self.grid(size))

    def pooler(self, hidden: Var) -> Var:
        return self.of_first(hidden, self.width, "tanh")

    heads = {
        "feature-extraction": pooled_states("pooler", pooler),
        "object-detection": Head(("class_labels_classifier", "bbox_predictor"), ("logits", "pred_boxes"), detection),
    }
