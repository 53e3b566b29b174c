"""From hidden states to a task's outputs: functions that families name in their `heads`.

A head is called with the family, what its `hidden_states` gave and the inputs by transformers' names, and returns outputs
by their names in transformers. `modules` are the modules beside the base model that it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.layers import audio, frames
from milbuild.layers.activation import activation
from milbuild.layers.attention import Positions
from milbuild.layers.linear import constant, like, linear, linear_from, tied_weight
from milbuild.weights import Computed, Cursor

Inputs = dict[str, Any]
# (family, hidden states) -> one vector for each text
Pool = Callable[[Any, Var], Var]
Outputs = dict[str, Var]


class Family(Protocol):
    """What a head needs to know of an architecture."""

    config: Any
    weights: Cursor
    cache: Cache


@dataclass(frozen=True)
class Head:
    """`modules` are the modules beside the base model that it reads, `table` those of the base model that a module `shares`
    its weight with, where config.json ties them."""

    modules: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[[Any, Any, Inputs], Outputs]
    shares: str = ""
    table: tuple[str, ...] = ()

    def __call__(self, family: Any, hidden: Any, inputs: Inputs) -> Outputs:
        return self.compute(family, hidden, inputs)


def states() -> Head:
    """No head: the base model's own output."""
    return Head((), ("last_hidden_state",), lambda family, hidden, inputs: {"last_hidden_state": hidden})


def encoder_decoder_states() -> Head:
    """No head: what both halves of the base model give."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        return {"last_hidden_state": hidden, "encoder_last_hidden_state": inputs["encoder_last_hidden_state"]}

    return Head((), ("last_hidden_state", "encoder_last_hidden_state"), compute)


def tied(
    module: str,
    to: str | tuple[str, ...],
    softcap: str | None = None,
    scale: Callable[[Any], float] | None = None,
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


def per_token(module: str, bias: str | None = None) -> Head:
    """(B, T, D) -> logits (B, T, labels). `bias`: the field that says whether it has one; it has if config.json does not."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        config, w = family.config, family.weights.root / module
        return {"logits": linear(hidden, w, config.num_labels, bias is None or bool(getattr(config, bias, True)))}

    return Head((module,), ("logits",), compute)


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
            pooled = last(hidden, f"{w.name}_last")
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


def pooled_states(module: str | None, pool: Pool) -> Head:
    """The base model's own outputs: hidden states, and what its pooler makes of them if the checkpoint has one; with None
    the pooler has no parameters."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        outputs = {"last_hidden_state": hidden}
        w = family.weights / (module or "")
        if module is None or "weight" in w or "dense.weight" in w:
            outputs["pooler_output"] = pool(family, hidden)
        return outputs

    return Head((), ("last_hidden_state", "pooler_output"), compute)


def pooled(module: str, pool: Pool, width: int | None = None, own: str | None = None) -> Head:
    """(B, T, D) -> logits (B, labels) of the one vector that `pool` makes of the text; `own` is a module that it reads."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        labels = family.config.num_labels if width is None else width
        return {"logits": linear(pool(family, hidden), family.weights.root / module, labels)}

    return Head((own or module, module), ("logits",), compute)


def choices(module: str, pool: Pool, own: str | None = None) -> Head:
    """Several texts a question, one behind the other (B * C, T, D) -> logits (B, C)."""

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w = family.weights.root / module
        scores = linear(pool(family, hidden), w, 1)
        return {"logits": mb.reshape(x=scores, shape=[-1, inputs["num_choices"]], name=f"{w.name}_choices")}

    return Head((own or module, module), ("logits",), compute)


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


class Speech(NamedTuple):
    """What the hidden states of a speech encoder are: `hidden` (B, T, D), the `features` (B, T, C) its convolutions make if
    they are an output, the `states` (B, T, D) before, between and behind its layers, and with a mask the frames of these that
    are no padding, `lengths` (B, 1). `behind` are (kernel, stride) of convolutions between the last state and `hidden`."""

    hidden: Var
    features: Var | None
    states: list[Var]
    lengths: Var | None
    behind: list[tuple[int, int]]


def speech_states() -> Head:
    """No head: what the base model gives."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        features = {} if speech.features is None else {"extract_features": speech.features}
        return {"last_hidden_state": speech.hidden, **features}

    return Head((), ("last_hidden_state", "extract_features"), compute)


def ctc(module: str) -> Head:
    """Frames (B, T, D) -> logits (B, T, V)."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        size = family.config.vocab_size
        if size is None:
            raise Error("config.json has no vocab_size, the number of tokens that ctc scores", "Add it.")
        return {"logits": linear(speech.hidden, family.weights.root / module, size)}

    return Head((module,), ("logits",), compute)


def per_frame(module: str) -> Head:
    """Frames (B, T, D) -> logits (B, T, labels)."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        _refuse_adapter(family.config, "audio-frame-classification")
        return {"logits": linear(_weighted(family, speech), family.weights.root / module, family.config.num_labels)}

    return Head((module,), ("logits",), compute)


def pooled_frames(projector: str, module: str) -> Head:
    """Frames (B, T, D) -> logits (B, labels) of their mean, without padding."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        _refuse_adapter(family.config, "audio-classification")
        w, root = family.weights.root / projector, family.weights.root
        x = linear(_weighted(family, speech), w, family.config.classifier_proj_size)
        x = frames.mean(x, _seen(x, speech.lengths, root / "pooled"), root / "pooled")
        return {"logits": linear(x, root / module, family.config.num_labels)}

    return Head((projector, module), ("logits",), compute)


def of_encoder_states(head: Head) -> Head:
    """A head for frames on the states of an encoder that has a decoder elsewhere, and no padding."""

    def compute(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
        return head(family, Speech(hidden, None, family.states, None, []), inputs)

    return Head(head.modules, head.outputs, compute)


def xvector() -> Head:
    """Frames (B, T, D) -> embeddings (B, X) and logits (B, X): convolutions over time, their mean and deviation, two
    products."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        config, root = family.config, family.weights.root
        x = linear(_weighted(family, speech), root / "projector", config.tdnn_dim[0])
        x = audio.transposed(x, root / "tdnn.channels")
        for i, layer in enumerate(audio.delays(config)):
            x = audio.time_delay(x, root / f"tdnn.{i}", *layer)
        x, lengths = audio.transposed(x, root / "tdnn.turned"), speech.lengths
        if lengths is not None:
            # As transformers counts them: as if nothing were dilated.
            counted = [*speech.behind, *((kernel, 1) for kernel in config.tdnn_kernel)]
            lengths = frames.lengths(lengths, counted, root / "tdnn.lengths")
        x = frames.mean_and_deviation(x, _seen(x, lengths, root / "pooled"), root / "pooled")
        embeddings = linear(x, root / "feature_extractor", config.xvector_output_dim)
        return {
            "logits": linear(embeddings, root / "classifier", config.xvector_output_dim),
            "embeddings": embeddings,
        }

    return Head(("projector", "tdnn", "classifier"), ("logits", "embeddings"), compute)


def _seen(x: Var, lengths: Var | None, w: Cursor) -> Var | None:
    return None if lengths is None else frames.visible(lengths, x, w / "seen")


def _refuse_adapter(config: Any, task: str) -> None:
    if getattr(config, "add_adapter", False):
        raise Error(f"{task} has no model with add_adapter: true", "transformers has none either.")


def _weighted(family: Family, speech: Speech) -> Var:
    """The last state, or with use_weighted_layer_sum all of them by the softmax of their learned weights."""
    if not family.config.use_weighted_layer_sum:
        return speech.hidden

    def softmax(values: np.ndarray) -> Any:
        shares = np.exp(values - values.max())
        return (shares / shares.sum()).reshape(1, -1, 1, 1)

    w, count = family.weights.root / "layer_weights", len(speech.states)
    shares = Computed("softmax", softmax, (1, count, 1, 1), family.weights.root.tensor("layer_weights", count))
    x = mb.stack(values=speech.states, axis=1, name=f"{w.name}_states")
    x = mb.mul(x=x, y=constant(shares, w, "shares"), name=f"{w.name}_shared")
    return mb.reduce_sum(x=x, axes=[1], keep_dims=False, name=w.name)


def softcapped(x: Var, cap: float, w: Cursor) -> Var:
    """cap * tanh(x / cap)."""
    y = mb.tanh(x=mb.mul(x=x, y=like(x, 1 / cap), name=f"{w.name}_in"), name=f"{w.name}_tanh")
    return mb.mul(x=y, y=like(x, cap), name=w.name)


def last(hidden: Var, name: str) -> Var:
    """(B, T, D) -> (B, 1, D), the last token of this call."""
    if hidden.shape[1] == 1:
        return hidden
    return mb.slice_by_index(
        x=hidden,
        begin=[0, -1, 0],
        end=[0, 0, 0],
        begin_mask=[True, False, True],
        end_mask=[True, True, True],
        name=name,
    )


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
