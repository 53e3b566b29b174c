"""A second layout, of the Neural Engine: (B, D, 1, T), products as 1x1 convolutions, attention head by head.

What GPT-2 needs of it and no more. Keys and values are (B, H, S, E), so that every kind of cache stores them as it does.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.layers import attention, linear, normalization
from milbuild.layers.layout import PLAIN, Layout, key
from milbuild.weights import Computed, Cursor


def _conv1d(x: Var, w: Cursor, width: int) -> Var:
    stored, shape = w.tensor("weight", x.shape[1], width), (width, x.shape[1], 1, 1)
    weight = Computed("as a convolution", lambda values: values.T.reshape(shape), shape, stored)
    bias = linear.constant(w.tensor("bias", width), w, "bias")
    return mb.conv(x=x, weight=linear.constant(weight, w, "weight"), bias=bias, name=w.name)


def _embedding(ids: Any, w: Cursor, rows: int, width: int) -> Var:
    if isinstance(ids, np.ndarray):
        known = w.tensor("weight", rows, width).rows(int(ids[0]), int(ids[-1]) + 1)
        shape = (1, width, 1, len(ids))
        return linear.constant(
            Computed("tokens last", lambda values: values.T.reshape(shape), shape, known), w, "weight"
        )
    x = PLAIN.functions[key(linear.embedding)](ids, w, rows, width)  # (T, D) or (B, T, D)
    x = mb.transpose(x=x, perm=[1, 0] if x.rank == 2 else [0, 2, 1], name=f"{w.name}_channels_first")
    return mb.expand_dims(x=x, axes=[0, 2] if x.rank == 2 else [2], name=f"{w.name}_wide")


def _layer_norm(x: Var, w: Cursor, epsilon: float) -> Var:
    gamma, beta = (linear.constant(w.tensor(name, x.shape[1]), w, name) for name in ("weight", "bias"))
    return mb.layer_norm(x=x, axes=[1], gamma=gamma, beta=beta, epsilon=linear.like(x, epsilon), name=w.name)


def _split_heads(x: Var, heads: int, w: Cursor, parts: int) -> list[Var]:
    """(B, 3 D, 1, T) -> queries (B, D, 1, T), keys and values (B, H, T, E)."""
    q, *rest = mb.split(x=x, num_splits=parts, axis=1, name=f"{w.name}_parts")
    batch, width, _, tokens = q.shape
    shape = [batch, heads, width // heads, tokens if isinstance(tokens, int) else -1]
    rest = [mb.reshape(x=each, shape=shape, name=f"{each.name}_heads") for each in rest]
    return [q, *(mb.transpose(x=each, perm=[0, 1, 3, 2], name=f"{each.name}_tokens_first") for each in rest)]


def _attention(q: Var, k: Var, v: Var, mask: Var | None, scale: float, w: Cursor, upcast: bool = False) -> Var:
    def heads(x: Var, axis: int, name: str) -> list[Var]:
        """Of each head (B, E, T) of queries, (B, S, E) of keys and values."""
        parts = mb.split(x=x, num_splits=k.shape[1], axis=1, name=f"{w.name}_{name}")
        return [mb.squeeze(x=part, axes=[axis], name=f"{part.name}_head") for part in parts]

    found = []
    q = mb.mul(x=q, y=linear.like(q, scale), name=f"{w.name}_query_scaled")
    for q_, k_, v_ in zip(heads(q, 2, "q"), heads(k, 1, "k"), heads(v, 1, "v"), strict=True):
        scores = mb.matmul(x=k_, y=q_, name=f"{q_.name}_scores")  # (B, S, T)
        scores = scores if mask is None else mb.add(x=scores, y=mask, name=f"{q_.name}_masked")
        shares = mb.softmax(x=scores, axis=1, name=f"{q_.name}_shares")
        y = mb.matmul(x=v_, y=shares, transpose_x=True, name=f"{q_.name}_values")  # (B, E, T)
        found.append(mb.expand_dims(x=y, axes=[2], name=f"{q_.name}_wide"))
    return mb.concat(values=found, axis=1, name=f"{w.name}_attention")


def _position_mask(query: Any, keys: Any, w: Cursor, *rest: Any) -> Var | None:
    """(S, T) or (B, S, T)."""
    mask = PLAIN.functions[key(attention.position_mask)](query, keys, w, *rest)
    if mask is None or mask.rank == 2:
        return mask and mb.transpose(x=mask, perm=[1, 0], name=f"{w.name}_mask_keys_first")
    return mb.transpose(
        x=mb.squeeze(x=mask, axes=[1], name=f"{w.name}_mask_rows"), perm=[0, 2, 1], name=f"{w.name}_keys_first"
    )


def _last_tokens(x: Var, name: str) -> Var:
    keep = [True, True, True]
    begin, end = [0, 0, 0, -1], [0, 0, 0, 0]
    return mb.slice_by_index(x=x, begin=begin, end=end, begin_mask=[*keep, False], end_mask=[*keep, True], name=name)


def _plain(x: Var) -> Var:
    x = mb.squeeze(x=x, axes=[2], name=f"{x.name}_flat")
    return mb.transpose(x=x, perm=[0, 2, 1], name=f"{x.name}_tokens_first")


NEURAL_ENGINE = Layout(
    "neural engine",
    {
        linear.conv1d: _conv1d,
        linear.embedding: _embedding,
        normalization.layer_norm: _layer_norm,
        attention.split_heads: _split_heads,
        attention.attention: _attention,
        attention.merge_heads: lambda x, w: x,
        attention.position_mask: _position_mask,
        linear.last_tokens: _last_tokens,
        linear.plain: _plain,
    },
)
