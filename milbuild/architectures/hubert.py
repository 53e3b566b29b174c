"""HuBERT: wav2vec 2.0 without adapters, whose features go out with no norm, or under a batch norm of their positions.

Reference: transformers/models/hubert/modeling_hubert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.wav2vec2 import TRAINING, Wav2Vec2
from milbuild.heads.audio import Speech
from milbuild.layers import audio, frames
from milbuild.layers.linear import linear
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class Hubert(Wav2Vec2):
    prefix = "hubert"
    also = ("adapter_attn_dim", "add_adapter")  # which transformers' code reads, though the class has none
    unused_config = tuple(TRAINING)
    ignored_weights = (
        "masked_spec_embed",
        "layer_weights",
        r"encoder\.pos_conv_embed\.batch_norm\.num_batches_tracked",
    )
    heads = {task: Wav2Vec2.heads[task] for task in ("feature-extraction", "ctc", "audio-classification")}

    @staticmethod
    def shortest(config: Config, task: str) -> int:
        return frames.needed(1, reversed(audio.sizes(config)))

    def projection(self, x: Var, w: Cursor) -> tuple[Var, Var | None]:
        x = self.norm(x, w / "layer_norm") if self.config.feat_proj_layer_norm else x
        return linear(x, w / "projection", self.width), None

    def positions(self, x: Var, w: Cursor) -> Var:
        if not self.config.conv_pos_batch_norm:
            return super().positions(x, w)
        x = audio.batch_norm(x, w / "batch_norm")
        return audio.positions(x, w, self.config, lambda conv, *shape: conv.tensor("weight", *shape))

    def adapted(self, speech: Speech, w: Cursor) -> Speech:
        return speech
