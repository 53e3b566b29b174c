"""A learned bias for each head and distance between two tokens, added to the scores (T5, section 2.1 of arXiv:1910.10683)."""

import math
from dataclasses import dataclass

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.layers.attention import HIDDEN, Positions, causal_mask
from milbuild.layers.layout import layer
from milbuild.layers.linear import constant
from milbuild.weights import Computed, Cursor, Joined


@dataclass(frozen=True)
class Distances:
    """How distances share `buckets` biases: near ones have one each, farther ones by the logarithm up to `longest`, which
    all beyond it share. `both_ways`: half of them are for what comes after a token; else it sees only what is before it."""

    buckets: int
    longest: int
    both_ways: bool

    def bucket(self, distance: np.ndarray) -> np.ndarray:
        """Of key position - query position, as transformers' T5Attention._relative_position_bucket."""
        count, first = self.buckets, np.zeros_like(distance)
        if self.both_ways:
            count //= 2
            first = np.where(distance > 0, count, 0)
            distance = np.abs(distance)
        else:
            distance = np.maximum(-distance, 0)
        exact = count // 2
        with np.errstate(divide="ignore"):
            # In float32, as torch has it: a bucket's border may fall on a whole number.
            share = np.log(distance.astype(np.float32) / np.float32(exact)) / np.float32(math.log(self.longest / exact))
            far = exact + np.where(distance < exact, 0, share * np.float32(count - exact)).astype(np.int64)
        return first + np.where(distance < exact, distance, np.minimum(far, count - 1))


@layer
def relative_bias(
    query: Positions, key: Positions, w: Cursor, heads: int, distances: Distances, backwards: bool = False
) -> Var:
    """Positions of queries and keys (a cache's) -> what is added to the scores, (1, H, T, S), by the table of `w`, (buckets,
    H); with `backwards` later keys are hidden in it. Known positions make a constant of it."""
    table = w.tensor("weight", distances.buckets, heads)
    recipe = f"bias by distance, {distances},"
    if isinstance(query, np.ndarray) and isinstance(key, np.ndarray):
        apart = key[None, :].astype(np.int64) - query[:, None]
        hidden = np.where(apart > 0, HIDDEN, 0) if backwards else np.zeros(apart.shape)

        place = distances.bucket(apart)

        def of_head(i: int) -> Computed:
            def known(values: np.ndarray) -> np.ndarray:
                return np.where(hidden < 0, HIDDEN, values[:, i][place])[None]

            return Computed(f"{recipe} {span}, head {i}", known, (1, *apart.shape), table)

        span = f"{query[0]} to {query[-1]} at {key[0]} to {key[-1]}"
        # Head by head, so that no more than one of them is ever in memory.
        return constant(Joined(*map(of_head, range(heads))).reshaped(1, heads, *apart.shape), w, "bias")

    # One row for each distance that has a bias of its own; those beyond share the outermost.
    reach = np.arange(-distances.longest, distances.longest + 1)

    def rows(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[distances.bucket(reach)].T)

    by_distance = constant(Computed(recipe, rows, (heads, len(reach)), table), w, "by_distance")
    name = w.name
    positions, keys = query, key
    rank = max(each.rank if isinstance(each, Var) else 1 for each in (query, key))
    query = _row(query, -1, rank, f"{name}_query")
    key = _row(key, -2, rank, f"{name}_key")
    apart = mb.sub(x=key, y=query, name=f"{name}_apart")
    longest = np.int32(distances.longest)
    place = mb.maximum(x=mb.minimum(x=apart, y=longest, name=f"{name}_nearest"), y=-longest, name=f"{name}_clipped")
    place = mb.add(x=place, y=longest, name=f"{name}_place")
    bias = mb.gather(x=by_distance, indices=place, axis=1, name=f"{name}_bias")  # (H, T, S), or (H, B, T, S)
    if rank == 1:
        bias = mb.expand_dims(x=bias, axes=[0], name=f"{name}_bias_heads")
    else:
        bias = mb.transpose(x=bias, perm=[1, 0, 2, 3], name=f"{name}_bias_heads")
    mask = causal_mask(positions, keys, w) if backwards else None
    return bias if mask is None else mb.add(x=bias, y=mask, name=f"{name}_bias_masked")


def _row(positions: Positions, axis: int, rank: int, name: str) -> Positions:
    """(T,) or (B, T) -> (..., T, 1) or (..., 1, T)."""
    if isinstance(positions, np.ndarray):
        positions = np.expand_dims(positions, axis)
        return positions if rank == 1 else positions[None]
    axes = [axis % (positions.rank + 1)] if positions.rank == rank else [0, axis % (positions.rank + 2)]
    return mb.expand_dims(x=positions, axes=axes, name=f"{name}_positions")
