"""Keys and values in Core ML states, written in place."""

from collections.abc import Mapping, Sequence

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import cache
from milbuild.caches.cache import CacheSpec, Declared, Names, Returned, Shapes, as_vector, count, hide
from milbuild.caches.ring import Ring, slots_needed
from milbuild.caches.state_tensor import Corners, StateTensor
from milbuild.layers.attention import NOWHERE, Positions


def declare(spec: CacheSpec) -> list[Declared]:
    """The position, and the states: functions that share a state declare all of them, whatever they do with it
    (docs/core-ml.md)."""
    text = (
        f"Tokens already in the cache. With those of the call they are at most {spec.context}, the context: "
        "what is written past it is undefined."
    )
    position = [Declared(spec.names.position, "int32", (1,), text)] if spec.decodes else []
    return position + declare_states(spec, pairs(spec))


def declare_states(spec: CacheSpec, pairs: Mapping[int | None, tuple[int, int]]) -> list[Declared]:
    """States of keys and values for each of `pairs` (see there)."""
    _, heads, width, _ = spec.geometry
    declared = []
    for window, (layers, slots) in pairs.items():
        what = "zeros in a new state."
        if window is not None:
            what = f"a ring for the layers that see {window} tokens; {what}"
        text = f"Layers, 1, heads, slots, width of a head; {what}"
        shape = (layers, 1, heads, slots, width)
        declared += [Declared(name, "float16", shape, text, state=True) for name in state_names(spec.names, window)]
    return declared


def pairs(spec: CacheSpec) -> dict[int | None, tuple[int, int]]:
    """Window -> (layers, slots) of each pair of states; None is for layers that keep everything."""
    context = spec.context
    assert isinstance(context, int)
    found: dict[int | None, tuple[int, int]] = {}
    for window in spec.geometry.windows:
        slots = None if window is None else slots_needed(window, spec.calls, context)
        kind = window if slots else None
        found[kind] = (found.get(kind, (0, 0))[0] + 1, slots or context)
    return found


def state_names(names: Names, window: int | None) -> tuple[str, str]:
    """Those of the keys and values of layers with a window."""
    return (names.key, names.value) if window is None else (f"sliding_{names.key}", f"sliding_{names.value}")


class StateCache:
    """Keys and values live in Core ML states (L, 1, H, slots, E) in float16, written in place: one pair for the layers that
    see the whole sequence and, where fewer slots do, one for those with a window.

    `begin` (1,) is the slot of the first new token, `reserved` slots at the front hold nothing, ever. With `end` (1,) only
    the slots before it are read, and `hidden` (1, 1, 1, end) is negative where one of them may not be seen. Layers with a
    window share a ring (`Ring`) if `states` has a pair for it, else they keep everything.
    """

    attention_mask = None

    def __init__(
        self,
        states: dict[int | None, tuple[Var, Var]],
        layers: list[int | None],
        begin: Var,
        tokens: int | Var,
        longest: int,
        reserved: int = 0,
        end: Var | None = None,
        hidden: Var | None = None,
    ) -> None:
        self.longest = longest
        stop = mb.add(x=begin, y=as_vector(tokens), name="position_end")
        first = mb.sub(x=begin, y=np.int32(reserved), name="position_first") if reserved else begin
        steps = count(tokens, "steps")
        known_one = isinstance(steps, np.ndarray) and len(steps) == 1
        self.query_positions: Positions = first if known_one else mb.add(x=first, y=steps, name="query_positions")
        self.pairs: dict[int | None, _Slots | Ring] = {
            window: _Slots(*pair, begin, stop, reserved, end, hidden)
            if window is None
            else Ring(*pair, begin, stop, tokens)
            for window, pair in states.items()
        }
        self.layers = [window if window in self.pairs else None for window in layers]

    def key_positions(self, window: int | None = None) -> Positions:
        return self.pairs[window if window in self.pairs else None].positions()

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        window = self.layers[layer]
        return self.pairs[window].update(self.layers[:layer].count(window), f"layer_{layer}", k, v)


class _Slots:
    """A pair of states in which every token keeps the slot that it was given."""

    def __init__(
        self, keys: Var, values: Var, begin: Var, stop: Var, reserved: int, end: Var | None, hidden: Var | None
    ) -> None:
        corners: Corners = {}
        self.states = (StateTensor(keys, corners), StateTensor(values, corners))
        self.begin, self.stop, self.end = begin, stop, end
        held = np.arange(keys.shape[3], dtype=np.int32) - reserved
        held[:reserved] = NOWHERE
        self.held: Positions = held
        if end is not None and hidden is not None:
            held = mb.slice_by_index(x=held, begin=[0], end=end, name="slot_positions")
            flat = mb.reshape(x=hidden, shape=[1, -1], name="slots_hidden")
            seen = mb.greater_equal(x=flat, y=np.float16(0), name="slots_seen")
            self.held = hide(held, mb.cast(x=seen, dtype="int32", name="slots_mask"), "key_positions")

    def positions(self) -> Positions:
        return self.held

    def update(self, row: int, name: str, k: Var, v: Var) -> tuple[Var, Var]:
        pairs = zip(self.states, ((f"{name}_key_cache", k), (f"{name}_value_cache", v)), strict=True)
        key, value = [state.write(row, which, new, self.begin, self.stop, self.end) for state, (which, new) in pairs]
        return key, value


def make_cache(spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> StateCache:
    states = {}
    for window in pairs(spec):
        key, value = state_names(spec.names, window)
        states[window] = (inputs[key], inputs[value])
    windows = list(spec.geometry.windows)
    return StateCache(states, windows, inputs[spec.names.position], tokens, spec.longest)


def outputs(spec: CacheSpec, kept: StateCache) -> Sequence[Returned]:
    return ()


class Host(cache.Host):
    in_state = True

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        return {self.names.position: np.array([length], np.int32)}
