"""Qwen 3: Qwen 2 without its biases and with an RMS norm over each head of queries and keys.

Reference: transformers/models/qwen3/modeling_qwen3.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.qwen2 import Qwen2
from milbuild.layers.normalization import rms_norm_heads
from milbuild.weights import Cursor


class Qwen3(Qwen2):
    also: tuple[str, ...] = ()

    def bias(self, where: str) -> bool:
        return where != "mlp" and bool(self.config.attention_bias)

    def head_norms(self, qk: Var, w: Cursor) -> Var:
        return rms_norm_heads(qk, self.normed_heads(w), w, self.config.rms_norm_eps)

    def normed_heads(self, w: Cursor) -> list[tuple[Cursor, int]]:
        return [(w / "q_norm", self.config.num_attention_heads), (w / "k_norm", self.config.num_key_value_heads)]
