"""Keys and values of what an encoder read, made once for an input: what cross-attention looks at.

They travel from `encode` to `decode` as outputs and inputs, or in states of both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches.cache import Axis, Declared, Geometry, Returned
from milbuild.caches.state_tensor import empty, read_whole, write_whole

# For all layers of the decoder.
CROSS = ("cross_key_cache", "cross_value_cache")
KINDS = ("Keys", "Values")


class Cross(NamedTuple):
    """Keys and values of what an encoder read, for each layer of the decoder (B, H, S, E), and the mask of its tokens
    (B, S): what cross-attention looks at. They are worked out once for an input and travel as (B, L * H, S, E)."""

    keys: Sequence[Var]
    values: Sequence[Var]
    attention_mask: Var | None

    @classmethod
    def of(cls, keys: Var, values: Var, layers: int, attention_mask: Var | None) -> "Cross":
        return cls(of_layers(keys, layers, "cross_keys"), of_layers(values, layers, "cross_values"), attention_mask)


def of_layers(x: Var, layers: int, name: str) -> list[Var]:
    """(B, L * H, S, E) -> each layer's (B, H, S, E)."""
    return [x] if layers == 1 else list(mb.split(x=x, num_splits=layers, axis=1, name=name))


def declare(geometry: Geometry, source: Axis, dtype: str, batch: int = 1, in_state: bool = False) -> list[Declared]:
    """Inputs of `decode`, or with `in_state` states of both functions; `source` are the tokens that the encoder reads."""
    layers, heads, width, _ = geometry
    shape, described = ((batch, layers * heads, size, width) for size in (source.size, source.described))
    declared = []
    for name, what in zip(CROSS, KINDS, strict=True):
        if in_state:
            text = f"{what} of the text that `encode` read: 1, all layers' heads behind one another, tokens, width of a head."
            declared.append(Declared(name, "float16", shape, text, state=True))
        else:
            text = f"{what} of the text that was read, all layers' heads behind one another, as `encode` gave them."
            declared.append(Declared(name, dtype, shape, text, described, (2, source)))
    return declared


def outputs(keys: Var, values: Var) -> list[Returned]:
    """What `encode` gives for `decode`."""
    return [
        Returned(name, value, f"{what} of the text that was read, all layers' heads behind one another, for `decode`.")
        for name, what, value in zip(CROSS, KINDS, (keys, values), strict=True)
    ]


def store(inputs: Mapping[str, Var], keys: Var, values: Var, others: Sequence[str]) -> None:
    """What `encode` does where they are in states: it writes them, and empties `others`, the states of the decoder."""
    for name, value in zip(CROSS, (keys, values), strict=True):
        write_whole(inputs[name], value)
    for name in others:
        empty(inputs[name])


def load(inputs: Mapping[str, Var], layers: int, mask: Var | None, state_precision: str | None = None) -> Cross:
    """What `decode` reads, of states in the graph's precision if one is given; `mask`: of the encoder's tokens (B, S)."""
    keys, values = (inputs[name] for name in CROSS)
    if state_precision is not None:
        keys, values = (read_whole(state, state_precision) for state in (keys, values))
    return Cross.of(keys, values, layers, mask)
