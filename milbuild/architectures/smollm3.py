"""SmolLM3: Llama with layers that have no rotary positions, one in four by default, which may see a window only.

Reference: transformers/models/smollm3/modeling_smollm3.py.
"""

from milbuild.architectures.llama import Llama
from milbuild.errors import Error
from milbuild.layers.rope import Rotation
from milbuild.weights import Cursor


class SmolLM3(Llama):
    also = ("head_dim",)  # which transformers' attention reads, though the class has none
    unused_config = ("attention_dropout", "use_sliding_window", "no_rope_layer_interval")

    def rotations(self, w: Cursor) -> list[Rotation | None]:
        # 1 in no_rope_layers means: with them.
        used = self.config.no_rope_layers
        if len(used) < self.config.num_hidden_layers:
            raise Error(
                f"no_rope_layers of config.json has {len(used)} entries for {self.config.num_hidden_layers} layers"
            )
        return [r if each else None for r, each in zip(super().rotations(w), used, strict=False)]
