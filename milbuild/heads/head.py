"""From hidden states to a task's outputs: what a head is, and those that models of text and of images have.

A head is called with the family, what its `hidden_states` gave and the inputs by transformers' names, and returns outputs
by their names in transformers. `modules` are the modules beside the base model that it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from coremltools.converters.mil.mil import Var

from milbuild.caches import Cache
from milbuild.layers.activation import activation
from milbuild.layers.layout import PLAIN, use
from milbuild.layers.linear import first_token, linear, plain
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

Inputs = dict[str, Any]
Outputs = dict[str, Var]
# (family, hidden states) -> one vector for each text or image
Pool = Callable[[Any, Var], Var]


class Family(Protocol):
    """What a head needs to know of an architecture."""

    config: Config
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
        """Heads read (B, T, D), whatever layout the model is in."""
        hidden = plain(hidden)
        with use(PLAIN):
            return self.compute(family, hidden, inputs)


def states() -> Head:
    """No head: the base model's own output."""
    return Head((), ("last_hidden_state",), lambda family, hidden, inputs: {"last_hidden_state": hidden})


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


def first_pooled(
    module: str,
    dense: str = "dense",
    function: str = "tanh",
    act: str = "activation",
    root: bool = False,
    width: str = "hidden_size",
    field: str | None = None,
) -> Pool:
    """(B, T, D) -> (B, D): a product of the first token's state, and its activation. `dense` and `act` are modules of
    `module`, which is one beside the base model if it is at the `root`; `width` is a field of the configuration, and so is
    `field`, where one names the function."""

    def pool(family: Family, hidden: Var) -> Var:
        w, config = (family.weights.root if root else family.weights) / module, family.config
        x = linear(first_token(hidden, w), w / dense, getattr(config, width))
        return activation(x, function if field is None else getattr(config, field), w / act)

    return pool
