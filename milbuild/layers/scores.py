"""Attention whose scores are changed before the softmax, which Core ML's fused operation can't do."""

from collections.abc import Callable

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.layers.layout import layer
from milbuild.layers.linear import constant, like
from milbuild.weights import Cursor


@layer
def softcapped_attention(q: Var, k: Var, v: Var, mask: Var | None, scale: float, cap: float, w: Cursor) -> Var:
    """softmax(cap tanh(q k^T scale / cap) + mask) v: (B, H, T, E), (B, K, S, E), (B, K, S, E) -> (B, H, T, E).

    No score is above `cap`. Needed by Gemma 2 (transformers/models/gemma2/modeling_gemma2.py, eager_attention_forward).
    """

    def probabilities(scores: Var) -> Var:
        scores = mb.tanh(x=scores, name=f"{w.name}_scores_tanh")
        scores = mb.mul(x=scores, y=like(scores, cap), name=f"{w.name}_scores_capped")
        return mb.softmax(x=_masked(scores, mask, w), axis=-1, name=f"{w.name}_probabilities")

    return _attention(q, k, v, scale / cap, w, probabilities)


@layer
def sink_attention(q: Var, k: Var, v: Var, mask: Var | None, scale: float, w: Cursor) -> Var:
    """softmax(q k^T scale + mask) v, where each head's learned logit `sinks` (H,) of `w` takes its share of the softmax and
    gives nothing for it: (B, H, T, E), (B, K, S, E), (B, K, S, E) -> (B, H, T, E).

    Needed by gpt-oss (transformers/models/gpt_oss/modeling_gpt_oss.py, eager_attention_forward).
    """
    heads, shared = q.shape[1], k.shape[1]
    sinks = constant(w.tensor("sinks", heads).reshaped(1, heads, 1, 1), w, "sinks")
    # As a column for the scores of any number of tokens: one of the queries' own, emptied.
    column = mb.slice_by_size(x=q, begin=[0] * 4, size=[-1, -1, -1, 1], name=f"{w.name}_column")
    column = mb.mul(x=column, y=like(q, 0.0), name=f"{w.name}_column_empty")
    column = _grouped(mb.add(x=column, y=sinks, name=f"{w.name}_column_of_sinks"), shared, f"{w.name}_column_groups")

    def probabilities(scores: Var) -> Var:
        both = mb.concat(values=[_masked(scores, mask, w), column], axis=-1, name=f"{w.name}_scores_and_sinks")
        both = mb.softmax(x=both, axis=-1, name=f"{w.name}_shares")
        whole = [True] * 4
        return mb.slice_by_index(
            x=both,
            begin=[0] * 4,
            end=[0, 0, 0, -1],
            begin_mask=whole,
            end_mask=[*whole[1:], False],
            name=f"{w.name}_probabilities",
        )

    return _attention(q, k, v, scale, w, probabilities)


def _attention(q: Var, k: Var, v: Var, scale: float, w: Cursor, probabilities: Callable[[Var], Var]) -> Var:
    """`probabilities` makes them of the scores, (B, K, H / K * T, S): where queries share a head of keys they stand after
    one another as if they were tokens, as in `attention`, and so do the rows of the mask."""
    batch, heads, tokens, _ = q.shape
    x = _grouped(q, k.shape[1], f"{w.name}_query_groups")
    x = mb.mul(x=x, y=like(x, scale), name=f"{w.name}_query_scaled")
    scores = mb.matmul(x=x, y=k, transpose_y=True, name=f"{w.name}_scores")
    if heads == k.shape[1]:
        return mb.matmul(x=probabilities(scores), y=v, name=f"{w.name}_attention")
    y = mb.matmul(x=probabilities(scores), y=v, name=f"{w.name}_groups_attention")
    shape = [batch, heads, tokens if isinstance(tokens, int) else -1, v.shape[-1]]
    return mb.reshape(x=y, shape=shape, name=f"{w.name}_attention")


def _grouped(x: Var, shared: int, name: str) -> Var:
    """(B, H, T, E) -> (B, K, H / K * T, E)."""
    batch, heads, tokens, width = x.shape
    if heads == shared:
        return x
    rows = heads // shared * tokens if isinstance(tokens, int) else -1
    return mb.reshape(x=x, shape=[batch, shared, rows, width], name=name)


def _masked(scores: Var, mask: Var | None, w: Cursor) -> Var:
    return scores if mask is None else mb.add(x=scores, y=mask, name=f"{w.name}_scores_masked")
