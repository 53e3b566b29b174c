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

    def __init__(
        self, checkpoint: Checkpoint, dtype: np.dtype[Any], prefix: str, path: str = "", label: str | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.prefix = prefix
        self.path = path
        self.label = path if label is None else label

    def __truediv__(self, part: str) -> "Cursor":
        path, label = (f"{before}.{part}".strip(".") for before in (self.path, self.label))
        return Cursor(self.checkpoint, self.dtype, self.prefix, path, label)

    def called(self, other: "Cursor") -> "Cursor":
        """The same module under the name of `other`: for one that is in several places."""
        return Cursor(self.checkpoint, self.dtype, self.prefix, self.path, other.label)

    def first(self, *parts: str) -> "Cursor":
        """The first of these modules whose weight the file has: one table has several names. The first of all if it has none."""
        return next((self / part for part in parts if "weight" in self / part), self / parts[0])

    @property
    def root(self) -> "Cursor":
        """The whole model, where the heads stand beside the base model."""
        return Cursor(self.checkpoint, self.dtype, self.prefix)

    @property
    def name(self) -> str:
        """The path as the name of an operation: `transformer.h.0.attn` -> `transformer_h_0_attn`."""
        return re.sub(r"\W", "_", self.label)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The parameter `name` of this module, not read yet, which must have `shape` (see `Checkpoint.tensor`)."""
        return self.checkpoint.tensor(f"{self.path}.{name}".strip("."), shape, self.prefix)

    def expect(self, name: str, reason: str) -> None:
        """Keeps why this module has to have the parameter `name` (see `Checkpoint.expect`)."""
        self.checkpoint.expect(f"{self.path}.{name}".strip("."), reason)

    def __contains__(self, name: str) -> bool:
        return self.checkpoint.has(f"{self.path}.{name}".strip("."), self.prefix)

    def equals(self, other: "Cursor", name: str) -> bool:
        """Whether both modules' parameters of that name are the same bytes; then this one counts as read."""
        mine, theirs = f"{self.path}.{name}", f"{other.path}.{name}"
        if not self.checkpoint.same(mine, theirs, self.prefix):
            return False
        self.checkpoint.mark_read(mine, self.prefix)
        return True
