"""Heads of models of text: of all tokens, of one, of pairs, and over the vocabulary."""

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.heads.head import Family, Head, Inputs, Outputs, Pool
from milbuild.layers.activation import activation
from milbuild.layers.attention import Positions
from milbuild.layers.linear import last_tokens, like, linear, linear_from, tied_weight
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


def encoder_decoder_states() -> Head:
    """No head: what the encoder and the decoder of the base model give."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        return {"last_hidden_state": hidden, "encoder_last_hidden_state": inputs["encoder_last_hidden_state"]}

    return Head((), ("last_hidden_state", "encoder_last_hidden_state"), compute)


def tied(
    module: str,
    to: str | tuple[str, ...],
    softcap: str | None = None,
    scale: Callable[[Config], float] | None = None,
    bias: str | None = None,
) -> Head:
    """(B, T, D) -> logits (B, T, V) with the token embedding's own table, unless the checkpoint brings another; it is that of
    the module `to`, the first of several that the file has.

    `softcap` is the field of the configuration that bounds the scores, if it is set; `scale` a number that the
    configuration says the states are multiplied by; `bias` a buffer (1, V) of the whole model, which files may lack.
    """

    tables = (to,) if isinstance(to, str) else to

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w, config = family.weights.root / module, family.config
        table = family.weights.first(*tables)
        weight = tied_weight(w, table, config.vocab_size, hidden.shape[-1], config.tie_word_embeddings)
        factor = 1.0 if scale is None else scale(config)
        if factor != 1:
            hidden = mb.mul(x=hidden, y=like(hidden, factor), name=f"{w.name}_scaled_states")
        if bias is not None and bias in family.weights.root:
            shift = family.weights.root.tensor(bias, 1, config.vocab_size).reshaped(config.vocab_size)
            logits = linear_from(hidden, family.weights.root / bias, weight, shift)
        else:
            logits = linear_from(hidden, w, weight)
        cap = None if softcap is None else getattr(config, softcap)
        return {"logits": logits if cap is None else softcapped(logits, cap, w / "softcap")}

    return Head((module,), ("logits",), compute, module, tables)


def language_model(
    module: str,
    dense: str,
    norm: str,
    decoder: str = "decoder",
    to: str = "embeddings.word_embeddings",
    *,
    function: str = "hidden_act",
    act: str | None = None,
    width: str = "hidden_size",
    bias: str = "bias",
) -> Head:
    """(B, T, D) -> logits (B, T, V) through a layer of its own and the token embedding's table, with a bias.

    `dense`, `norm`, `decoder` and `act` are modules of `module` (transformers has none for a function that no field names);
    `function` and `width` are fields of the configuration, or the function itself. The decoder has its own bias or that of
    `module`; the checkpoint may have either.
    """

    def compute(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
        config, w, table = family.config, family.weights.root / module, family.weights / to
        inner = getattr(config, width)
        chosen = function if act is None else getattr(config, function)
        x = activation(linear(hidden, w / dense, inner), chosen, w / (act or f"{dense}.activation"))
        x = family.norm(x, w / norm)
        rows, d = config.vocab_size, w / decoder
        holder, name = (d, "bias") if "bias" in d else (w, bias)
        weight = tied_weight(d, table, rows, inner, config.tie_word_embeddings)
        both = "bias" in d and bias in w
        if both:
            w.tensor(bias, rows)  # a second copy
        return {"logits": linear_from(x, d, weight, holder.tensor(name, rows))}

    first = module or decoder
    beside = () if module else tuple(part for part in (dense, norm, act) if part is not None)
    shares = f"{module}.{decoder}".strip(".")
    return Head((first, *beside), ("logits",), compute, shares, (to,))


def last_token(module: str) -> Head:
    """(B, T, D) -> logits (B, labels) of the last token that is not padding, as transformers' causal classifiers pool.

    The last token of the row where the configuration names no `pad_token_id`, which serves a single sequence only.
    """

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w, pad = family.weights.root / module, family.config.pad_token_id
        if pad is None:
            if hidden.shape[0] != 1:
                hint = "Name it in config.json (pad_token_id), or build with batch size 1."
                raise Error("text-classification of a batch needs a padding token, and config.json names none", hint)
            pooled = last_tokens(hidden, f"{w.name}_last")
        else:
            pooled = _pick(hidden, _last_of(inputs["input_ids"], pad, family.cache.query_positions, w.name), w.name)
        logits = linear(pooled, w, family.config.num_labels, bias=False)
        return {"logits": mb.squeeze(x=logits, axes=[1], name=f"{w.name}_pooled")}

    return Head((module,), ("logits",), compute)


def eos_pooled(module: str) -> Head:
    """(B, T, D) -> logits (B, labels) of the last end of a text among the input's ids, as encoder-decoders classify."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w, config, end = family.weights.root / module, family.config, family.config.eos_token_id
        if not isinstance(end, int):
            raise Error(f"eos_token_id is {end!r}; text-classification reads the score of the one that ends a text")
        ended = mb.equal(x=inputs["input_ids"], y=np.int32(end), name=f"{w.name}_ends")
        x = _pick(hidden, _last_where(ended, family.cache.query_positions, w.name), w.name)
        x = activation(linear(x, w / "dense", config.d_model), "tanh", w / "activation")
        logits = linear(x, w / "out_proj", config.num_labels)
        return {"logits": mb.squeeze(x=logits, axes=[1], name=f"{w.name}_pooled")}

    return Head((module,), ("logits",), compute)


def choices(module: str, pool: Pool, own: str | None = None) -> Head:
    """Several texts a question, one after the other (B * C, T, D) -> logits (B, C)."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w = family.weights.root / module
        scores = linear(pool(family, hidden), w, 1)
        return {"logits": mb.reshape(x=scores, shape=[-1, inputs["num_choices"]], name=f"{w.name}_choices")}

    return Head((own or module, module), ("logits",), compute)


def per_token(module: str, bias: str | None = None) -> Head:
    """(B, T, D) -> logits (B, T, labels). `bias`: the field that says whether it has one; it has if config.json does not."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        config, w = family.config, family.weights.root / module
        return {"logits": linear(hidden, w, config.num_labels, bias is None or bool(getattr(config, bias, True)))}

    return Head((module,), ("logits",), compute)


def span(module: str) -> Head:
    """(B, T, D) -> start_logits (B, T), end_logits (B, T)."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w = family.weights.root / module
        start, end = mb.split(x=linear(hidden, w, 2), num_splits=2, axis=-1, name=f"{w.name}_split")
        return {
            "start_logits": mb.squeeze(x=start, axes=[-1], name=f"{w.name}_start"),
            "end_logits": mb.squeeze(x=end, axes=[-1], name=f"{w.name}_end"),
        }

    return Head((module,), ("start_logits", "end_logits"), compute)


def softcapped(x: Var, cap: float, w: Cursor) -> Var:
    """cap * tanh(x / cap)."""
    y = mb.tanh(x=mb.mul(x=x, y=like(x, 1 / cap), name=f"{w.name}_in"), name=f"{w.name}_tanh")
    return mb.mul(x=y, y=like(x, cap), name=w.name)


def _last_of(input_ids: Var, pad: int, steps: Positions, name: str) -> Var:
    """(B, T), (T,) -> (B, 1): the step of the last id that is not `pad`; 0 where all are."""
    return _last_where(mb.not_equal(x=input_ids, y=np.int32(pad), name=f"{name}_real"), steps, name)


def _last_where(true: Var, steps: Positions, name: str) -> Var:
    """bool (B, T), (T,) -> (B, 1): the last step that is true; 0 where none is."""
    real = mb.cast(x=true, dtype="int32", name=f"{name}_real_steps")
    places = mb.mul(x=real, y=steps, name=f"{name}_places")
    return mb.reduce_max(x=places, axes=[1], keep_dims=True, name=f"{name}_last")


def _pick(hidden: Var, index: Var, name: str) -> Var:
    """(B, T, D), (B, 1) -> (B, 1, D)."""
    index = mb.expand_dims(x=index, axes=[2], name=f"{name}_index")
    index = mb.tile(x=index, reps=[1, 1, hidden.shape[-1]], name=f"{name}_indices")
    return mb.gather_along_axis(x=hidden, indices=index, axis=1, name=f"{name}_token")
