"""YOLOS: ViT with tokens after its patches, each of which finds an object, and positions added between the layers, too.

Reference: transformers/models/yolos/modeling_yolos.py, where ViT's modules still have their old names.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.vit import ViT
from milbuild.heads.head import first_pooled, pooled_states
from milbuild.heads.images import detection
from milbuild.layers import image
from milbuild.layers.linear import add, constant
from milbuild.weights import Cursor, Tensor


class Yolos(ViT):
    also = ()
    unused_config = (
        *(*ViT.unused_config, "auxiliary_loss", "class_cost", "bbox_cost", "giou_cost"),  # training
        *("bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient"),  # training
    )
    spellings = (
        *ViT.spellings,  # transformers' own modules are still called as ViT's were
        (r"\bencoder\.mid_position_embeddings\b", "encoder.interpolation.mid_position_embeddings"),
    )
    ignored_weights = (r"pooler\.dense\.(weight|bias)",)
    heads = {
        "feature-extraction": pooled_states("pooler", first_pooled("pooler")),
        "object-detection": detection("class_labels_classifier", "bbox_predictor"),
    }

    def hidden_states(self, pixel_values: Var) -> Var:  # type: ignore[override]
        """(B, C, height, width) -> (B, T, D), after the final norm."""
        config, w, size = self.config, self.weights, image.sides(pixel_values)
        x = image.patches(pixel_values, w / "embeddings.patch_embeddings", config, self.width)
        x = self.embeddings(x, size, w / "embeddings")
        for i in range(config.num_hidden_layers):
            x = self.block(x, w / f"layers.{i}")
            if config.use_mid_position_embeddings and i + 1 < config.num_hidden_layers:
                between = w / f"between.{i}"
                x = add(x, constant(self.between(i, size), between, "positions"), between)
        return self.norm(x, w / "layernorm")

    def embeddings(self, x: Var, size: tuple[int, int], w: Cursor) -> Var:
        first = image.learned_tokens(w, self.first_tokens, self.width)
        last = w.tensor("detection_tokens", 1, self.config.num_detection_tokens, self.width)
        return image.add_position_embeddings(x, w, self.config, size, first, last)

    def between(self, i: int, size: tuple[int, int]) -> Tensor:
        """(1, T, D): what is added after layer `i`."""
        image.check_whole(self.config)
        old, new = image.patch_grid(self.config), image.patch_grid(self.config, size)
        shape = (1, 1 + old[0] * old[1] + self.config.num_detection_tokens, self.width)
        w, layers = self.weights / "encoder.interpolation", self.config.num_hidden_layers - 1
        table = w.tensor("mid_position_embeddings", layers, *shape).rows(i, i + 1).reshaped(*shape)
        return image.resampled(table, old, new)
