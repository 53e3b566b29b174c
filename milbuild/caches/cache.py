"""What every kind of cache shares: what families ask of one, what a kind is told and says, positions and masks.

Shapes: B batch, T tokens in this call, S key slots, L layers, H key/value heads, E width of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, get_new_symbol

from milbuild.layers.attention import NOWHERE, Positions, causal_mask, position_mask
from milbuild.weights import Cursor
from milbuild.weights.fields import Config, looks_backwards

# A number of tokens: fixed, (lowest, highest), or one of a list; and what a description says of an axis.
Length = int | tuple[int, int] | list[int]
Dimension = int | tuple[int, int]
# By the names that inputs and outputs have without renaming.
Shapes = Mapping[str, Sequence[int]]
Arrays = Mapping[str, np.ndarray]


class Cache(Protocol):
    """`query_positions`: (T,) or (B, T), of the tokens of this call. `attention_mask`: (B, T) where a whole sequence comes
    with one. `longest`: no sequence has more tokens."""

    query_positions: Positions
    attention_mask: Var | None
    longest: int

    def key_positions(self, window: int | None = None) -> Positions:
        """(S,) or (B, S): the positions of the keys that `update` gives a layer with this window (None: without one)."""
        ...

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        """Keys and values of this call (B, H, T, E) -> all that its queries may see (B, H, S, E)."""
        ...


@dataclass(frozen=True)
class Axis:
    """Tokens, or samples of audio: as they were asked for, and as the program has them, a number or a symbol."""

    length: Length
    size: Any

    @classmethod
    def of(cls, length: Length) -> "Axis":
        return cls(length, length if isinstance(length, int) else get_new_symbol())

    @property
    def described(self) -> Dimension:
        return self.length if isinstance(self.length, int) else self.ends

    @property
    def ends(self) -> tuple[int, int]:
        """The shortest and the longest."""
        return ends(self.length)


def ends(length: Length) -> tuple[int, int]:
    """The shortest and the longest of a length."""
    return (length, length) if isinstance(length, int) else (min(length), max(length))


class Geometry(NamedTuple):
    """Of the keys and values that a model keeps: layers, key/value heads, the width of a head, and how many tokens each layer
    sees, itself included (None: all)."""

    layers: int = 0
    heads: int = 0
    width: int = 0
    windows: Sequence[int | None] = ()

    @classmethod
    def of(cls, family: "Keeps", config: Config) -> "Geometry":
        layers = family.num_layers(config)
        return cls(layers, family.kv_heads(config), family.head_width(config), family.windows(config)[:layers])


class Keeps(Protocol):
    """What a model class says of the keys and values that it keeps (architectures.family)."""

    def num_layers(self, config: Config) -> int: ...
    def kv_heads(self, config: Config) -> int: ...
    def head_width(self, config: Config) -> int: ...
    def windows(self, config: Config) -> list[int | None]: ...


class Names(Protocol):
    """What a consumer calls the inputs, outputs and states of a cache (program.interfaces.Interface)."""

    @property
    def attention_mask(self) -> str: ...
    @property
    def position(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def past(self) -> str: ...
    @property
    def present(self) -> str: ...


@dataclass(frozen=True)
class CacheSpec:
    """What a kind is told of the function that it is in.

    `tokens` are those of a call, `calls` the longest call of each function of the package (they share states), `context` the
    tokens that fit. `mask` is the name of the mask over slots and tokens, `dtype` that of floats at the interface. A function
    that `decodes` goes on with a sequence; others only declare the states that they share with it.
    """

    geometry: Geometry
    names: Names
    mask: str
    dtype: str
    tokens: Axis
    calls: Sequence[int]
    context: Length | None
    decodes: bool = True

    @property
    def longest(self) -> int:
        """No sequence has more tokens."""
        return max(self.tokens.ends[1], 0 if self.context is None else ends(self.context)[1])


def slots_mask(names: Names, with_encoder: bool) -> str:
    """What the mask over slots and tokens is called: attention_mask is the encoder's where there is one."""
    return "decoder_attention_mask" if with_encoder else names.attention_mask


class Declared(NamedTuple):
    """An input, or a state, that a function has for a cache. `shape` is the program's, with symbols for what is open, and
    `described` what the description says; `along` says which axis is one of tokens."""

    name: str
    dtype: str
    shape: Sequence[Any]
    text: str
    described: Sequence[Dimension] | None = None  # as shape
    along: tuple[int, Axis] | None = None
    state: bool = False


class Returned(NamedTuple):
    """A value that a function gives back for the caller to keep, and its description without the shape."""

    name: str
    value: Var
    text: str


class Host:
    """What a caller does between the calls of one sequence: nothing, unless a kind says otherwise.

    `whole`: every call is the sequence from its first token on. `in_state`: Core ML holds what is kept.
    """

    whole = False
    in_state = False

    def __init__(self, names: Names, mask: str, context: Length | None) -> None:
        self.names, self.mask, self.context = names, mask, context

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        """What a call is given beside its token ids: `length` tokens came before, and of its `size` places the first `count`
        hold a token. `shapes` are those of the function's inputs."""
        return {}

    def keep(self, shapes: Shapes, outputs: Arrays, length: int, size: int, count: int) -> None:
        """Stores what later calls need of the outputs of that call."""


def mask(config: Config, cache: Cache, w: Cursor, window: int | None = None, groups: int = 1) -> Var | None:
    """A decoder's mask, as transformers' create_causal_mask and create_sliding_window_causal_mask make it: for `is_causal`
    false of a window to both sides, whose ends count."""
    query, key = cache.query_positions, cache.key_positions(window)
    if looks_backwards(config):
        return causal_mask(query, key, w, window, groups)
    return position_mask(query, key, w, window, window, groups)


def count(tokens: int | Var, name: str) -> Positions:
    """0, 1, ..., tokens - 1, of a number that is known or, in a ranged function, is a value of the graph."""
    if isinstance(tokens, int):
        return np.arange(tokens, dtype=np.int32)
    return mb.range_1d(start=0, end=tokens, step=1, name=name)


def hide(positions: Positions, mask: Var, name: str) -> Var:
    """Positions (T,) or (B, T) whose mask (B, T) is 0 moved to `NOWHERE`, the others, whose mask is 1, as they are."""
    empty = mb.sub(x=np.int32(1), y=mask, name=f"{name}_empty")
    return mb.maximum(x=positions, y=mb.mul(x=empty, y=np.int32(NOWHERE), name=f"{name}_away"), name=name)


def as_vector(tokens: int | Var) -> Var | np.ndarray:
    """A number of tokens, known or a value of the graph, as (1,)."""
    if isinstance(tokens, int):
        return np.array([tokens], np.int32)
    return mb.expand_dims(x=tokens, axes=[0], name="tokens_vector")


def size_of(x: Var, axis: int, name: str) -> Var:
    """The length of an axis that is not known before the call, as an int32 scalar."""
    return mb.gather(x=mb.shape(x=x, name=f"{name}_shape"), indices=axis, axis=0, name=name)
