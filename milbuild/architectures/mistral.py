"""Mistral: Llama whose layers may all see a window of tokens only; no biases anywhere.

Reference: transformers/models/mistral/modeling_mistral.py.
"""

from milbuild.architectures.llama import Llama


class Mistral(Llama):
    unused_config = ("attention_dropout",)
    spellings = ()

    def bias(self, where: str) -> bool:
        return False
