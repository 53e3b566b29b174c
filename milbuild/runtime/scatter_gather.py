"""Gathering by index (coremltools: ops/defs/iOS15/scatter_gather.py)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import moves


def _inside(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front. Raises IndexError for one outside, where Core ML's result is undefined."""
    indices = torch.where(indices < 0, indices + size, indices).long()
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise IndexError(f"an index is outside of {size} rows")
    return indices


@moves
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise ValueError("gather with batch_dims is not known yet")
    indices = _inside(indices, x.shape[axis])
    taken = torch.index_select(x, axis, indices.reshape(-1))
    axis %= x.ndim
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@moves
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    return torch.gather(x, axis, _inside(indices, x.shape[axis]))
