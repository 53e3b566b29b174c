"""From a Hugging Face checkpoint to tensors by their names in the file, none of them read before it is written out."""

from milbuild.weights.checkpoint import Checkpoint
from milbuild.weights.cursor import Cursor
from milbuild.weights.tensor import Computed, Joined, Rowwise, Tensor, Unread, interleaved, zeros

__all__ = ["Checkpoint", "Computed", "Cursor", "Joined", "Rowwise", "Tensor", "Unread", "interleaved", "zeros"]
