"""ALiBi: scores that sink with the distance between query and key, by a slope for each head (arXiv:2108.12409).

Needed by Bloom and MPT (transformers/models/bloom/modeling_bloom.py, transformers/models/mpt/modeling_mpt.py), which add
slope x key position: the same for the softmax, since a row's constant is nothing to it. Here it is slope x (key position -
query position), whose numbers are small where they count: 0.5 x 2000 is no number that float16 could tell from the next.
"""

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.layers.attention import Positions, causal_mask
from milbuild.layers.layout import layer
from milbuild.weights import Cursor


def slopes(heads: int, largest: float = 8.0) -> np.ndarray:
    """(H,), float64: 2 to the powers of -`largest` / P, twice that, ..., for the next power of two P of heads; of more than
    there are heads every second one comes first. MPT's configuration says `largest` (alibi_bias_max); Bloom's is 8."""
    power = 1 << (heads - 1).bit_length()
    all_ = 2.0 ** (-largest / power * np.arange(1, power + 1))
    return all_ if power == heads else np.concatenate([all_[1::2], all_[::2]])[:heads]


@layer
def alibi_mask(query: Positions, key: Positions, slopes: np.ndarray, w: Cursor) -> Var:
    """Positions of queries and keys, int32 (T,) or (B, T) and (S,) or (B, S), and the slopes (H,) -> what is added to the
    scores of a causal model, (1, H, T, S), or (B, H, T, S): the bias, and the mask of what stands after a query."""
    name, reach = f"{w.name}_alibi", int(min(2.0**30, float(np.finfo(w.dtype).max)))
    each = slopes.astype(w.dtype).reshape(1, -1, 1, 1)
    # A slot that holds nothing is far after every query: no distance, since float16 has no number for it.
    if isinstance(query, np.ndarray) and isinstance(key, np.ndarray):
        apart = np.clip(key[None, :].astype(np.int64) - query[:, None], -reach, 0).astype(w.dtype)
        bias = mb.mul(x=mb.const(val=apart[None, None], name=f"{name}_distances"), y=each, name=name)
    else:
        if isinstance(key, Var) and key.rank == 2:
            place: Positions = mb.expand_dims(x=key, axes=[1, 2], name=f"{name}_keys")
        else:
            place = key
        if isinstance(query, np.ndarray):
            row: Positions = query[:, None]
        else:
            row = mb.expand_dims(x=query, axes=[1] if query.rank == 1 else [1, 3], name=f"{name}_queries")
        apart = mb.sub(x=place, y=row, name=f"{name}_apart")  # (T, S), or (B, 1, T, S)
        apart = mb.maximum(x=apart, y=np.int32(-reach), name=f"{name}_farthest")
        apart = mb.minimum(x=apart, y=np.int32(0), name=f"{name}_before")
        apart = mb.cast(x=apart, dtype="fp16" if w.dtype == np.float16 else "fp32", name=f"{name}_distances")
        bias = mb.mul(x=apart, y=each, name=name)
    mask = causal_mask(query, key, w)
    return bias if mask is None else mb.add(x=bias, y=mask, name=f"{name}_masked")
