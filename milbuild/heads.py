"""From hidden states to a task's outputs: functions that families name in their `heads`.

A head is called with the family, what its `hidden_states` gave and the inputs by transformers' names, and returns outputs
by their names in transformers. `modules` are the modules beside the base model that it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.layers.attention import Positions
from milbuild.layers.linear import like, linear, tied_linear
from milbuild.weights import Cursor

Inputs = dict[str, Any]
Outputs = dict[str, Var]


class Family(Protocol):
    """What a head needs to know of an architecture."""

    config: Any
    weights: Cursor
    cache: Cache


@dataclass(frozen=True)
class Head:
    modules: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[[Family, Any, Inputs], Outputs]

    def __call__(self, family: Any, hidden: Any, inputs: Inputs) -> Outputs:
        return self.compute(family, hidden, inputs)


def hidden_states() -> Head:
    """No head: the base model's own output."""
    return Head((), ("last_hidden_state",), lambda family, hidden, inputs: {"last_hidden_state": hidden})


def tied(module: str, to: str, softcap: str | None = None) -> Head:
    """(B, T, D) -> logits (B, T, V) with the token embedding's own table, unless the checkpoint brings another.

    As transformers ties: a head that the file has and that differs is used whatever the configuration says; one that is
    missing is the embedding's, if `tie_word_embeddings` says so. `softcap` is the field of the configuration that bounds
    the scores, if it is set.
    """

    def compute(family: Family, hidden: Var, inputs: Inputs) -> Outputs:
        w, table = family.weights.root / module, family.weights / to
        rows, width, shares = family.config.vocab_size, hidden.shape[-1], family.config.tie_word_embeddings
        if "weight" in w:
            shares = shares and w.equals(table, "weight")
        elif not shares:
            hint = "transformers would make up random numbers. Save the checkpoint with its head, or set tie_word_embeddings."
            raise Error(f"the checkpoint has no {w.path}.weight, and config.json says tie_word_embeddings: false", hint)
        weight = table.tensor("weight", rows, width) if shares else w.tensor("weight", rows, width)
        logits = tied_linear(hidden, w, weight)
        cap = None if softcap is None else getattr(family.config, softcap)
        return {"logits": logits if cap is None else capped(logits, cap, w / "softcap")}

    return Head((module,), ("logits",), compute)


def per_token(module: str) -> Head:
    """(B, T, D) -> logits (B, T, labels)."""
    return Head(
        (module,),
        ("logits",),
        lambda family, hidden, inputs: {
            "logits": linear(hidden, family.weights.root / module, family.config.num_labels)
        },
    )


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


def capped(x: Var, cap: float, w: Cursor) -> Var:
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
    real = mb.cast(
        x=mb.not_equal(x=input_ids, y=np.int32(pad), name=f"{name}_real"), dtype="int32", name=f"{name}_real_steps"
    )
    places = mb.mul(x=real, y=steps, name=f"{name}_places")
    return mb.reduce_max(x=places, axes=[1], keep_dims=True, name=f"{name}_last")


def _pick(hidden: Var, index: Var, name: str) -> Var:
    """(B, T, D), (B, 1) -> (B, 1, D)."""
    index = mb.expand_dims(x=index, axes=[2], name=f"{name}_index")
    index = mb.tile(x=index, reps=[1, 1, hidden.shape[-1]], name=f"{name}_indices")
    return mb.gather_along_axis(x=hidden, indices=index, axis=1, name=f"{name}_token")
