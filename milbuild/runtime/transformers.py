"""Attention as one operation (coremltools: ops/defs/iOS18/transformers.py)."""

import math

import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """A query that may look at nothing gets zeros, as PyTorch has it."""
    if attn_mask is not None and attn_mask.ndim == 1:
        attn_mask = attn_mask[None]  # torch wants an axis of the queries
    found = F.scaled_dot_product_attention(query, key, value, attn_mask)
    if attn_mask is None and (found == 0).all(-1).any():
        # torch 2.6 to 2.14 give zeros where scores are NaN (findings/attention_of_nan.sh), which would hide it.
        scores: Tensor = query @ key.mT * query.shape[-1] ** -0.5
        nothing = (scores == -math.inf).all(-1, keepdim=True)
        found = scores.softmax(-1).masked_fill(nothing, 0) @ value
    return found
