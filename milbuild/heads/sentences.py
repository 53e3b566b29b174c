"""One vector of a whole text, as the modules of sentence-transformers make it of hidden states.

Reference: sentence_transformers 6.2, modules Pooling, Dense, LayerNorm and Normalize.

Shapes: B batch, T tokens, D width of a hidden state.
"""

from collections.abc import Sequence

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.layers.activation import activation
from milbuild.layers.attention import NOWHERE, Positions
from milbuild.layers.linear import add, first_token, last_tokens, like, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.sentence_transformers import Step, function_of

LOWEST = -6e4  # float16 ends at -65504


def pooled(
    hidden: Var, positions: Positions, mask: Var | None, prompt: Var | None, modes: Sequence[str], w: Cursor
) -> Var:
    """(B, T, D) -> (B, modes * D): what each mode makes of the tokens, joined in this order.

    `positions` (T,) are the tokens' places, `mask` int32 (B, T) is 0 for padding, wherever it stands; the first `prompt` (1,)
    tokens of a text count for nothing, but weightedmean still counts from the text's beginning.
    """
    if mask is None and prompt is None:
        found = [_of_all(hidden, positions, mode, w / mode) for mode in modes]
    else:
        given = _ones(positions, w) if mask is None else mask
        first, shown = _first(given, positions, w / "first"), given
        if prompt is not None:
            begin = mb.add(x=first, y=prompt, name=f"{w.name}_begin")
            behind = mb.greater_equal(x=positions, y=begin, name=f"{w.name}_behind_prompt")
            behind = mb.cast(x=behind, dtype="int32", name=f"{w.name}_behind")
            shown = mb.mul(x=given, y=behind, name=f"{w.name}_shown")
        found = [_of_shown(hidden, positions, first, shown, mode, w / mode) for mode in modes]
    return found[0] if len(found) == 1 else mb.concat(values=found, axis=-1, name=f"{w.name}_joined")


def after_pooling(x: Var, steps: Sequence[Step], w: Cursor) -> Var:
    """(B, D) -> (B, D'): the modules after a pooling, one after the other; `w` is the repository."""
    for step in steps:
        at = w / step.path
        if step.kind == "Normalize":
            x = normalized(x, at)
        elif step.kind == "LayerNorm":
            x = layer_norm(x, at / "norm", 1e-5)
        else:
            x = _dense(x, step, at)
    return x


def normalized(x: Var, w: Cursor) -> Var:
    """(B, D) of length 1; 0 stays."""
    wide = x.dtype
    # Squares of some dozens overflow float16.
    x = x if wide == types.fp32 else mb.cast(x=x, dtype="fp32", name=f"{w.name}_float32")
    length = mb.reduce_l2_norm(x=x, axes=[-1], keep_dims=True, name=f"{w.name}_length")
    x = mb.real_div(x=x, y=mb.maximum(x=length, y=np.float32(1e-12), name=f"{w.name}_at_least"), name=f"{w.name}_unit")
    return x if wide == types.fp32 else mb.cast(x=x, dtype="fp16", name=f"{w.name}_float16")


def _dense(x: Var, step: Step, w: Cursor) -> Var:
    config, width = step.config, step.config["out_features"]
    y = linear(x, w / "linear", width, bias=config.get("bias", True))
    y = activation(y, function_of(step.path, config), w / "activation_function")
    if config.get("use_residual"):
        y = add(y, x if x.shape[-1] == width else linear(x, w / "residual", width, bias=False), w)
    return y


def _of_all(hidden: Var, positions: Positions, mode: str, w: Cursor) -> Var:
    """What a mode makes of texts without padding and prompt."""
    if mode == "cls":
        return first_token(hidden, w)
    if mode == "last":
        return mb.squeeze(x=last_tokens(hidden, f"{w.name}_token"), axes=[1], name=w.name)
    if mode == "mean":
        return mb.reduce_mean(x=hidden, axes=[1], name=w.name)
    if mode == "max":
        return mb.reduce_max(x=hidden, axes=[1], name=w.name)
    if isinstance(positions, Var):
        ones = _ones(positions, w)
        return _weighed(hidden, _weights(ones, None, positions, mode, w), w)
    count = len(positions)
    weights = positions + 1.0 if mode == "weightedmean" else np.full(count, count**0.5)
    return _weighed(hidden, (weights / weights.sum() * (1 if mode == "weightedmean" else count**0.5))[None], w)


def _of_shown(hidden: Var, positions: Positions, first: Var, shown: Var, mode: str, w: Cursor) -> Var:
    """What a mode makes of the tokens that are `shown` (B, T)."""
    if mode == "max":
        mask = mb.expand_dims(x=_like(hidden, shown, w / "shown_float"), axes=[2], name=f"{w.name}_mask")
        away = mb.mul(
            x=mb.sub(x=mask, y=like(hidden, 1), name=f"{w.name}_hidden"), y=like(hidden, -LOWEST), name=f"{w.name}_away"
        )
        # Products first: what is in padding, however large, becomes LOWEST itself.
        x = mb.add(x=mb.mul(x=hidden, y=mask, name=f"{w.name}_kept"), y=away, name=f"{w.name}_seen")
        return mb.reduce_max(x=x, axes=[1], name=w.name)
    return _weighed(hidden, _weights(shown, first, positions, mode, w), w)


def _weights(shown: Var, first: Var | None, positions: Positions, mode: str, w: Cursor) -> Var:
    """float32 (B, T): the share that each token has in the vector. In float32, since float16 counts no further than 2048."""
    if mode in ("cls", "last"):
        at = _first(shown, positions, w / "place") if mode == "cls" else _last(shown, positions, w / "place")
        chosen = mb.cast(x=mb.equal(x=positions, y=at, name=f"{w.name}_chosen"), dtype="fp32", name=f"{w.name}_one")
        if mode == "cls":
            return chosen
        # Nothing where nothing is shown.
        return mb.mul(x=chosen, y=mb.cast(x=shown, dtype="fp32", name=f"{w.name}_float"), name=f"{w.name}_weights")
    weights = mb.cast(x=shown, dtype="fp32", name=f"{w.name}_float")
    if mode == "weightedmean":
        places = mb.add(x=positions, y=np.int32(1), name=f"{w.name}_counted")
        places = places if first is None else mb.sub(x=places, y=first, name=f"{w.name}_places")
        places = mb.cast(x=places, dtype="fp32", name=f"{w.name}_places_float")
        weights = mb.mul(x=weights, y=places, name=f"{w.name}_weighted")
    total = mb.reduce_sum(x=weights, axes=[1], keep_dims=True, name=f"{w.name}_total")
    total = mb.maximum(x=total, y=np.float32(1e-9), name=f"{w.name}_at_least")
    if mode == "mean_sqrt_len_tokens":
        total = mb.sqrt(x=total, name=f"{w.name}_root")
    return mb.real_div(x=weights, y=total, name=f"{w.name}_weights")


def _weighed(hidden: Var, weights: Var | np.ndarray, w: Cursor) -> Var:
    """(B, T, D), (B, T) -> (B, D). Shares of the tokens, not their sum: that of hundreds is coarse in float16."""
    if isinstance(weights, np.ndarray):
        shares = mb.const(val=np.asarray(weights[:, None], w.dtype), name=f"{w.name}_shares")
    else:
        shares = mb.expand_dims(x=_like(hidden, weights, w / "weights_float16"), axes=[1], name=f"{w.name}_shares")
    return mb.squeeze(x=mb.matmul(x=shares, y=hidden, name=f"{w.name}_sum"), axes=[1], name=w.name)


def _first(mask: Var, positions: Positions, w: Cursor) -> Var:
    """int32 (B, T) -> (B, 1): the first place that is 1; 0 where none is."""
    gap = mb.sub(x=np.int32(1), y=mask, name=f"{w.name}_gaps")
    places = mb.add(x=mb.mul(x=gap, y=np.int32(NOWHERE), name=f"{w.name}_away"), y=positions, name=f"{w.name}_places")
    found = mb.reduce_min(x=places, axes=[1], keep_dims=True, name=f"{w.name}_earliest")
    some = mb.reduce_max(x=mask, axes=[1], keep_dims=True, name=f"{w.name}_some")
    return mb.mul(x=found, y=some, name=w.name)


def _last(mask: Var, positions: Positions, w: Cursor) -> Var:
    """int32 (B, T) -> (B, 1): the last place that is 1; 0 where none is."""
    return mb.reduce_max(x=mb.mul(x=mask, y=positions, name=f"{w.name}_places"), axes=[1], keep_dims=True, name=w.name)


def _ones(positions: Positions, w: Cursor) -> Var:
    """int32 (1, T): 1 for each place."""
    if isinstance(positions, np.ndarray):
        return mb.const(val=np.ones((1, len(positions)), np.int32), name=f"{w.name}_all")
    none = mb.mul(x=mb.expand_dims(x=positions, axes=[0], name=f"{w.name}_row"), y=np.int32(0), name=f"{w.name}_none")
    return mb.add(x=none, y=np.int32(1), name=f"{w.name}_all")


def _like(hidden: Var, x: Var, w: Cursor) -> Var:
    """Numbers in the type of the hidden states."""
    return x if x.dtype == hidden.dtype else mb.cast(x=x, dtype=types.builtin_to_string(hidden.dtype), name=w.name)
