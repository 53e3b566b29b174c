"""Attention: heads, masks, and the product itself in the form that the target has."""

from typing import Any, TypeAlias

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.block import curr_opset_version

from milbuild.errors import Error
from milbuild.layers.linear import like
from milbuild.weights import Cursor

# What a hidden slot gets added to its score. Minus infinity makes NaN of a row with no visible slot and is not safe on
# every compute unit; e**-1e4 is 0 in every precision (core-ml-facts N4 to N6).
HIDDEN = -1e4

# int32, known when the graph is built or a value of the graph.
Positions: TypeAlias = Var | np.ndarray


def split_heads(x: Var, heads: int, w: Cursor, parts: int = 1) -> list[Var]:
    """(B, T, parts * H * E) -> `parts` times (B, H, T, E)."""
    batch, tokens, width = x.shape
    if heads < 1 or width % (parts * heads):
        raise Error(f"{w.path}: {width // parts} features do not divide into {heads} heads", "Look into config.json.")
    # One reshape and one transpose for all parts: query, key and value heads stand behind one another.
    x = mb.reshape(x=x, shape=[batch, _known(tokens), parts * heads, width // (parts * heads)], name=f"{w.name}_heads")
    x = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{w.name}_heads_first")
    return [x] if parts == 1 else list(mb.split(x=x, num_splits=parts, axis=1, name=f"{w.name}_split"))


def merge_heads(x: Var, w: Cursor) -> Var:
    """(B, H, T, E) -> (B, T, H * E)."""
    batch, heads, tokens, each = x.shape
    x = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{w.name}_tokens_first")
    return mb.reshape(x=x, shape=[batch, _known(tokens), heads * each], name=f"{w.name}_merged")


def causal_mask(query: Positions, key: Positions, w: Cursor) -> Var | None:
    """What is added to the scores, from the positions of queries and keys (a cache's): 0 where a key stands at or before
    the query, `HIDDEN` elsewhere; (T, S), or (B, 1, T, S). None when every query sees every key.

    A slot that holds nothing has a position beyond every query, so one comparison serves all caches.
    """
    if isinstance(query, np.ndarray) and isinstance(key, np.ndarray):
        visible = key[None, :] <= query[:, None]
        return (
            None if visible.all() else mb.const(val=np.where(visible, 0, HIDDEN).astype(w.dtype), name=f"{w.name}_mask")
        )
    query = _rows(query, f"{w.name}_query_positions")
    if isinstance(key, Var) and key.rank == 2:
        key = mb.expand_dims(x=key, axes=[1, 2], name=f"{w.name}_key_positions")
    visible = mb.less_equal(x=key, y=query, name=f"{w.name}_visible")
    # By arithmetic: mb.select infers its shape from the two values alone, not from the condition.
    visible = mb.cast(x=visible, dtype="fp16" if w.dtype == np.float16 else "fp32", name=f"{w.name}_visible_float")
    hidden = mb.sub(x=visible, y=w.dtype.type(1), name=f"{w.name}_hidden")
    return mb.mul(x=hidden, y=w.dtype.type(-HIDDEN), name=f"{w.name}_mask")


def attention(q: Var, k: Var, v: Var, mask: Var | None, scale: float, w: Cursor, upcast: bool = False) -> Var:
    """softmax(q k^T scale + mask) v: (B, H, T, E), (B, H, S, E), (B, H, S, E) -> (B, H, T, E).

    Fused from iOS 18 on. With `upcast` scores and softmax are computed in float32 whatever the graph's precision is.
    """
    if upcast and q.dtype == types.fp16:
        q, k = (mb.cast(x=x, dtype="fp32", name=f"{w.name}_{name}_float32") for x, name in ((q, "query"), (k, "key")))
        mask = None if mask is None else mb.cast(x=mask, dtype="fp32", name=f"{w.name}_mask_float32")
    elif curr_opset_version() >= ct.target.iOS18:
        standard = q.shape[-1] ** -0.5  # the operation has no scale of its own
        if scale != standard:
            q = mb.mul(x=q, y=like(q, scale / standard), name=f"{w.name}_query_scaled")
        arguments = {} if mask is None else {"attn_mask": mask}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, name=f"{w.name}_attention", **arguments)
    # Scaled before the product, so that large scores do not overflow float16.
    if scale != 1:
        q = mb.mul(x=q, y=like(q, scale), name=f"{w.name}_query_scaled")
    scores = mb.matmul(x=q, y=k, transpose_y=True, name=f"{w.name}_scores")
    if mask is not None:
        scores = mb.add(x=scores, y=mask, name=f"{w.name}_scores_masked")
    probabilities = mb.softmax(x=scores, axis=-1, name=f"{w.name}_probabilities")
    if probabilities.dtype != v.dtype:
        probabilities = mb.cast(x=probabilities, dtype="fp16", name=f"{w.name}_probabilities_float16")
    return mb.matmul(x=probabilities, y=v, name=f"{w.name}_attention")


def _known(tokens: Any) -> int:
    """A number of tokens as mb.reshape takes it: -1 where a ranged function leaves it open."""
    return tokens if isinstance(tokens, int) else -1


def _rows(positions: Positions, name: str) -> Positions:
    """Query positions as a column beside the keys' row: (T,) -> (T, 1); (B, T) -> (B, 1, T, 1)."""
    if isinstance(positions, np.ndarray):
        return positions[:, None]
    return mb.expand_dims(x=positions, axes=[1] if positions.rank == 1 else [1, 3], name=name)
