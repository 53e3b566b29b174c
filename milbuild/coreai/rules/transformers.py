"""Attention as one operation (coremltools: ops/defs/iOS18/transformers.py)."""

import math

import numpy as np
from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import rule
from milbuild.coreai.rules.linear import swapped
from milbuild.coreai.rules.values import dtype, like, rank, signed, sizes, where


@rule
def scaled_dot_product_attention(query: Value, key: Value, value: Value, attn_mask: Value | None = None) -> Value:
    """Scores, softmax and sum; a query that may look at nothing gets zeros, as PyTorch has it."""
    (width,) = sizes(query, [rank(query) - 1], "the scale of the scores")
    scores = ai.broadcasting_batch_matmul(query, swapped(key))
    scores = ai.broadcasting_mul(scores, like(scores, 1 / math.sqrt(width)))
    last = np.int32(rank(scores) - 1)
    if attn_mask is None:
        return ai.broadcasting_batch_matmul(ai.softmax(scores, last), value)
    if dtype(attn_mask) == np.bool_:
        scores = where(attn_mask, scores, like(scores, -math.inf))
    else:
        scores = ai.broadcasting_add(scores, attn_mask)
    # Of a row of -inf alone softmax gives NaN.
    largest = ai.reduce_max(scores, signed([rank(scores) - 1]))
    nothing = ai.broadcasting_equal(largest, like(scores, -math.inf))
    weights = where(nothing, like(scores, 0), ai.softmax(where(nothing, like(scores, 0), scores), last))
    return ai.broadcasting_batch_matmul(weights, value)
