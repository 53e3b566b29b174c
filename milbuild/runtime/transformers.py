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
    if attn_mask is None:
        # torch 2.6 to 2.14 give zeros for a NaN in a query (findings/attention_of_nan.sh), which would hide it from all behind.
        lost = query.isnan().any(-1, keepdim=True)
        found = found.masked_fill(lost, math.nan) if lost.any() else found
    return found
