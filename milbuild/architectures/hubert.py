"""HuBERT: wav2vec 2.0 without adapters, whose features go out with no norm, or under a batch norm of their positions.

Reference: transformers/models/hubert/modeling_hubert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.wav2vec2 import TRAINING, Wav2Vec2
from milbuild.heads import Speech
from milbuild.layers import sound
from milbuild.layers.linear import linear
from milbuild.weights import Cursor, Tensor


class Hubert(Wav2Vec2):
    prefix = "hubert"
    not_read = tuple(TRAINING)
    ignored = ("masked_spec_embed", "layer_weights", r"encoder\.pos_conv_embed\.batch_norm\.num_batches_tracked")
    heads = {task: Wav2Vec2.heads[task] for task in ("feature-extraction", "ctc", "audio-classification")}

    def projection(self, x: Var, w: Cursor) -> tuple[Var, Var | None]:
        x = self.norm(x, w / "layer_norm") if self.config.feat_proj_layer_norm else x
        return linear(x, w / "projection", self.width), None

    def position_weight(self, w: Cursor, *shape: int) -> Tensor:
        plain = self.config.conv_pos_batch_norm
        return w.tensor("weight", *shape) if plain else super().position_weight(w, *shape)

    def shifted(self, x: Var, w: Cursor) -> Var:
        return sound.batch_norm(x, w) if self.config.conv_pos_batch_norm else x

    def adapted(self, speech: Speech, w: Cursor) -> Speech:
        return speech
