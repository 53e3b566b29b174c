"""Qwen 2 and 2.5: Llama with biases on queries, keys and values alone, and a window in some layers if the configuration says so.

Reference: transformers/models/qwen2/modeling_qwen2.py.
"""

from milbuild.architectures.llama import Llama


class Qwen2(Llama):
    also: tuple[str, ...] = ("head_dim",)  # which transformers' attention reads, though the class has none
    # The window's fields are what transformers makes layer_types of.
    unused_config: tuple[str, ...] = ("attention_dropout", "use_sliding_window", "max_window_layers")

    def bias(self, where: str) -> bool:
        return where == "qkv"
