"""Attention: heads, masks, and the product itself in the form that the target has."""

from typing import Any, TypeAlias

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.block import curr_opset_version

from milbuild.errors import Error
from milbuild.layers.layout import layer
from milbuild.layers.linear import fused_linear, like
from milbuild.weights import Cursor

# What a hidden slot gets added to its score. Minus infinity makes NaN of a row with no visible slot and is not safe on
# every compute unit; e**-1e4 is 0 in every precision (docs/core-ml.md, masks).
HIDDEN = -1e4

# Where a slot stands that holds nothing for a query: beyond every position, and further off than any window.
NOWHERE = 2**30  # an int32 that no sequence reaches

# int32, known when the graph is built or a value of the graph.
Positions: TypeAlias = Var | np.ndarray


@layer
def split_heads(x: Var, heads: int, w: Cursor, parts: int | list[int] = 1) -> list[Var]:
    """(B, T, parts * H * E) -> `parts` times (B, H, T, E); with a list, of so many heads each instead of H."""
    batch, tokens, width = x.shape
    sizes = [heads] * parts if isinstance(parts, int) else parts
    if heads < 1 or width % sum(sizes):
        each = width // parts if isinstance(parts, int) else width
        said = f"{each} features (hidden_size) do not divide into {heads} heads (num_attention_heads)"
        raise Error(f"{w.path}: {said}", "Look into config.json.")
    # One reshape and one transpose for all parts: query, key and value heads follow one another.
    x = mb.reshape(x=x, shape=[batch, _known(tokens), sum(sizes), width // sum(sizes)], name=f"{w.name}_heads")
    x = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{w.name}_heads_first")
    if len(sizes) == 1:
        return [x]
    split = {"num_splits": len(sizes)} if len(set(sizes)) == 1 else {"split_sizes": sizes}
    return list(mb.split(x=x, **split, axis=1, name=f"{w.name}_split"))


@layer
def interleaved_heads(x: Var, groups: int, sizes: list[int], w: Cursor) -> list[Var]:
    """(B, T, groups * sum(sizes) * E) -> for each size (B, groups * size, T, E): of a product whose weight has the heads of
    one group after those of another, each with so many of queries, keys and values.

    Needed by GPT-NeoX, Bloom, DeBERTa ([1, 1, 1] for each head), Falcon ([H / K, 1, 1] for each head of keys) and CodeGen (four
    groups of queries, values and keys), whose weights need not be put in another order.
    """
    batch, tokens, width = x.shape
    each = width // (groups * sum(sizes))
    x = mb.reshape(x=x, shape=[batch, _known(tokens), groups, width // groups], name=f"{w.name}_groups")
    x = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{w.name}_groups_first")
    parts = mb.split(x=x, split_sizes=[size * each for size in sizes], axis=-1, name=f"{w.name}_split")
    heads = []
    for i, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        if size > 1:
            part = mb.reshape(x=part, shape=[batch * groups, _known(tokens), size, each], name=f"{w.name}_heads_{i}")
            part = mb.transpose(x=part, perm=[0, 2, 1, 3], name=f"{w.name}_heads_first_{i}")
            part = mb.reshape(
                x=part, shape=[batch, groups * size, _known(tokens), each], name=f"{w.name}_heads_merged_{i}"
            )
        heads.append(part)
    return heads


def fused_heads(x: Var, parts: list[tuple[Cursor, int]], heads: int, w: Cursor, bias: bool = True) -> Var:
    """(B, S, D) -> (B, parts * H, S, E): the heads of several modules, of H each, as one product of what they all read."""
    x = fused_linear(x, parts, w, bias)
    return split_heads(x, heads * len(parts), w)[0]


@layer
def merge_heads(x: Var, w: Cursor) -> Var:
    """(B, H, T, E) -> (B, T, H * E)."""
    batch, heads, tokens, each = x.shape
    x = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{w.name}_tokens_first")
    return mb.reshape(x=x, shape=[batch, _known(tokens), heads * each], name=f"{w.name}_merged")


def causal_mask(query: Positions, key: Positions, w: Cursor, window: int | None = None, groups: int = 1) -> Var | None:
    """`position_mask` of a model that looks backwards: with a `window` so many tokens, itself included."""
    return position_mask(query, key, w, None if window is None else window - 1, 0, groups)


@layer
def position_mask(
    query: Positions, key: Positions, w: Cursor, before: int | None, after: int | None, groups: int = 1
) -> Var | None:
    """What is added to the scores, from the positions of queries and keys (a cache's): 0 where a key is at most `before`
    tokens before the query and at most `after` after it (None: however many); `HIDDEN` elsewhere; (T, S), or (B, 1, T, S).
    None when every query sees every key. `groups`: for grouped heads, whose queries follow one another, the rows
    so many times.

    A slot that holds nothing is at `NOWHERE`, so comparisons of positions serve all caches, and padding.
    """
    name = f"{w.name}_mask" if before is None else f"{w.name}_mask_{before}"
    if isinstance(query, np.ndarray) and isinstance(key, np.ndarray):
        visible = key[None, :] < NOWHERE if after is None else key[None, :] <= query[:, None] + after
        visible = np.broadcast_to(visible, (len(query), len(key)))
        if before is not None:
            visible = visible & (key[None, :] >= query[:, None] - before)
        if visible.all():
            return None
        visible = np.tile(visible, (groups if len(query) > 1 else 1, 1))
        return mb.const(val=np.where(visible, 0, HIDDEN).astype(w.dtype), name=name)
    if isinstance(key, Var) and key.rank == 2:
        key = mb.expand_dims(x=key, axes=[1, 2], name=f"{name}_key_positions")
    if before is None and after is None:
        # The same for every query.
        here = mb.less(x=key, y=np.int32(NOWHERE), name=f"{name}_here")
        return _hidden(mb.cast(x=here, dtype=_float(w), name=f"{name}_visible_float"), name, w)
    query = _rows(_repeated(query, groups, f"{name}_query"), f"{name}_query_positions")
    bounds = []
    if after is None:
        bounds.append(mb.less(x=key, y=np.int32(NOWHERE), name=f"{name}_here"))
    else:
        last = mb.add(x=query, y=np.int32(after), name=f"{name}_last") if after else query
        bounds.append(mb.less_equal(x=key, y=last, name=f"{name}_past"))
    if before is not None:
        first = mb.sub(x=query, y=np.int32(before), name=f"{name}_first")
        bounds.append(mb.greater_equal(x=key, y=first, name=f"{name}_near"))
    visible = bounds[0] if len(bounds) == 1 else mb.logical_and(x=bounds[0], y=bounds[1], name=f"{name}_visible")
    # By arithmetic: mb.select infers its shape from the two values alone, not from the condition.
    return _hidden(mb.cast(x=visible, dtype=_float(w), name=f"{name}_visible_float"), name, w)


@layer
def padding_mask(attention_mask: Var | None, w: Cursor) -> Var | None:
    """int32 (B, S), 1 for a token and 0 for padding -> what is added to the scores of a model that looks both ways,
    (B, 1, 1, S); None without a mask."""
    if attention_mask is None:
        return None
    name = f"{w.name}_mask"
    mask = mb.cast(x=attention_mask, dtype=_float(w), name=f"{name}_float")
    return _hidden(mb.expand_dims(x=mask, axes=[1, 2], name=f"{name}_keys"), name, w)


def moved_positions(positions: Positions, by: int, w: Cursor) -> Positions:
    """Positions as rows of a table whose first token is in row `by`."""
    if isinstance(positions, np.ndarray):
        return positions + by
    return mb.add(x=positions, y=np.int32(by), name=f"{w.name}_positions")


def real_tokens(ids: Var, pad: int, w: Cursor) -> Var:
    """int32 (B, T) -> int32 (B, T): 0 where the id is `pad`, 1 elsewhere."""
    other = mb.not_equal(x=ids, y=np.int32(pad), name=f"{w.name}_real")
    return mb.cast(x=other, dtype="int32", name=f"{w.name}_ones")


def counted_positions(real: Var, first: int, w: Cursor, before: Positions | None = None) -> Var:
    """int32 (B, T), 1 for a token and 0 for padding -> (B, T): the tokens count from `first`, padding stands one before it.
    `before` are the positions of the call in its sequence, of which the first says how many tokens there were already."""
    x = mb.cumsum(x=real, axis=1, name=f"{w.name}_counted")
    if isinstance(before, Var):
        begin, size = [0] * before.rank, [-1] * (before.rank - 1) + [1]
        start = mb.slice_by_size(x=before, begin=begin, size=size, name=f"{w.name}_before")
        x = mb.add(x=x, y=start, name=f"{w.name}_places")
    x = mb.mul(x=x, y=real, name=f"{w.name}_filled")
    return mb.add(x=x, y=np.int32(first - 1), name=f"{w.name}_positions")


def _hidden(visible: Var, name: str, w: Cursor) -> Var:
    """1 and 0 -> 0 and HIDDEN."""
    return mb.mul(x=mb.sub(x=visible, y=w.dtype.type(1), name=f"{name}_hidden"), y=w.dtype.type(-HIDDEN), name=name)


def _float(w: Cursor) -> str:
    return "fp16" if w.dtype == np.float16 else "fp32"


def _repeated(positions: Positions, groups: int, name: str) -> Positions:
    """Query positions for each group of heads: (T,) -> (groups * T,), (B, T) -> (B, groups * T)."""
    if groups == 1 or positions.shape[-1] == 1:
        return positions
    if isinstance(positions, np.ndarray):
        return np.tile(positions, groups)
    return mb.tile(x=positions, reps=[1] * (positions.rank - 1) + [groups], name=f"{name}_repeated")


@layer
def attention(q: Var, k: Var, v: Var, mask: Var | None, scale: float, w: Cursor, upcast: bool = False) -> Var:
    """softmax(q k^T scale + mask) v: (B, H, T, E), (B, K, S, E), (B, K, S, E) -> (B, H, T, E).

    Fused from iOS 18 on. With `upcast` scores and softmax are computed in float32 whatever the graph's precision is.
    Where several queries share a head of keys (H / K of them) they follow one another as if they were tokens, which
    repeats nothing; the mask then has their rows (`groups` of `causal_mask`).
    """
    batch, heads, tokens, width = q.shape
    if heads != k.shape[1]:
        shape = [batch, k.shape[1], heads // k.shape[1] * tokens if isinstance(tokens, int) else -1, width]
        q = mb.reshape(x=q, shape=shape, name=f"{w.name}_query_groups")
        y = attention(q, k, v, mask, scale, w / "groups", upcast)
        return mb.reshape(x=y, shape=[batch, heads, _known(tokens), y.shape[-1]], name=f"{w.name}_attention")
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
