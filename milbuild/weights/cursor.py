"""Where in the checkpoint a family is: a path that reads tensors and names operations."""

import re
from typing import Any

import numpy as np

from milbuild.weights.checkpoint import Checkpoint
from milbuild.weights.tensor import Tensor


class Cursor:
    """A module of the model by its path, as transformers names it: `weights / "h.0" / "attn"`.

    `dtype` is the floating-point type the graph is authored in; families never look at it, layers do.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: np.dtype[Any], prefix: str, path: str = "") -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.prefix = prefix
        self.path = path

    def __truediv__(self, part: str) -> "Cursor":
        return Cursor(self.checkpoint, self.dtype, self.prefix, f"{self.path}.{part}" if self.path else part)

    @property
    def root(self) -> "Cursor":
        """The whole model, where the heads stand beside the base model."""
        return Cursor(self.checkpoint, self.dtype, self.prefix)

    @property
    def name(self) -> str:
        """The path as the name of an operation: `transformer.h.0.attn` -> `transformer_h_0_attn`."""
        return re.sub(r"\W", "_", self.path)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The parameter `name` of this module, not read yet, which must have `shape` (see `Checkpoint.tensor`)."""
        return self.checkpoint.tensor(f"{self.path}.{name}", shape, self.prefix)

    def __contains__(self, name: str) -> bool:
        return self.checkpoint.has(f"{self.path}.{name}", self.prefix)

    def equals(self, other: "Cursor", name: str) -> bool:
        """Whether both modules' parameters of that name are the same bytes; then this one counts as read."""
        mine, theirs = f"{self.path}.{name}", f"{other.path}.{name}"
        if not self.checkpoint.same(mine, theirs, self.prefix):
            return False
        self.checkpoint.mark_read(mine, self.prefix)
        return True
