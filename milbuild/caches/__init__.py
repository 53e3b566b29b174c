"""Where keys and values live between calls, asked the same way in every family.

A cache has four members that families and layers use: `query_positions` and `key_positions(window)`, known arrays or
values of the graph, `update(layer, k, v)`, and `attention_mask`. A slot that holds nothing for a query stands at
`NOWHERE`, beyond every position, so a causal mask never shows it.

Shapes: B batch, T tokens in this call, S key slots, L layers, H key/value heads, E width of a head.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.errors import Error
from milbuild.layers.attention import NOWHERE, Positions, causal_mask, position_mask
from milbuild.layers.linear import like
from milbuild.weights import Cursor
from milbuild.weights.fields import looks_backwards


class Cache(Protocol):
    """`query_positions`: (T,) or (B, T), of the tokens of this call. `attention_mask`: (B, T) where a whole sequence comes
    with one. `longest`: no sequence has more tokens."""

    query_positions: Positions
    attention_mask: Var | None
    longest: int

    def key_positions(self, window: int | None = None) -> Positions:
        """(S,) or (B, S): where the keys stand that a layer with this window (None: without one) gets of `update`."""
        ...

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        """Keys and values of this call (B, H, T, E) -> all that its queries may see (B, H, S, E)."""
        ...


class Cross(NamedTuple):
    """Keys and values of what an encoder read, for each layer of the decoder (B, H, S, E), and the mask of its tokens
    (B, S): what cross-attention looks at. They are worked out once for an input and travel as (B, L * H, S, E)."""

    keys: Sequence[Var]
    values: Sequence[Var]
    attention_mask: Var | None

    @classmethod
    def of(cls, keys: Var, values: Var, layers: int, attention_mask: Var | None) -> "Cross":
        return cls(_parts(keys, layers, "cross_keys"), _parts(values, layers, "cross_values"), attention_mask)


def _parts(x: Var, layers: int, name: str) -> list[Var]:
    """(B, L * H, S, E) -> each layer's (B, H, S, E)."""
    return [x] if layers == 1 else list(mb.split(x=x, num_splits=layers, axis=1, name=name))


def shape(config: Any) -> tuple[int, int, int]:
    """(layers, key/value heads, width of a head) of a configuration, by transformers' own names for them; the decoder's
    of one that has an encoder as well."""
    layers = next(
        getattr(config, name)
        for name in ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
        if hasattr(config, name)
    )
    if hasattr(config, "decoder_attention_heads"):
        heads = shared = config.decoder_attention_heads
    else:
        heads = config.num_attention_heads
        shared = getattr(config, "num_key_value_heads", None) or heads
    return layers, shared, getattr(config, "head_dim", None) or config.hidden_size // heads


def windows(config: Any) -> list[int | None]:
    """How many tokens each layer sees, itself included; None for all: by `layer_types`, else by `sliding_window` alone.
    Raises `Error` for a layer that sees nothing, or of a kind that no graph is written for."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * shape(config)[0]
    if strange := sorted({kind for kind in kinds if kind not in ("full_attention", "sliding_attention")}):
        known = "full_attention and sliding_attention"
        raise Error(f"layer_types of config.json has {', '.join(strange)}; the graph is written for {known}")
    if "sliding_attention" in kinds:
        if window is None:
            raise Error("layer_types of config.json has sliding_attention, and sliding_window says no number of tokens")
        if window < (1 if looks_backwards(config) else 0):
            raise Error(f"sliding_window is {window} in config.json: a token would not even see itself")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def mask(config: Any, cache: "Cache", w: Cursor, window: int | None = None, groups: int = 1) -> Var | None:
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


class NoCache:
    """Every call is a whole sequence. Positions count from the first slot, padded or not, as transformers' forward does."""

    def __init__(self, tokens: int | Var, longest: int, attention_mask: Var | None = None, name: str = "") -> None:
        self.query_positions = count(tokens, f"{name}positions")
        self.attention_mask, self.longest = attention_mask, longest
        self._keys: Positions | None = None

    def key_positions(self, window: int | None = None) -> Positions:
        if self._keys is None:
            mask = self.attention_mask
            self._keys = self.query_positions if mask is None else hide(self.query_positions, mask, "key_positions")
        return self._keys

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        return k, v


class InputOutputCache:
    """Keys and values come in as inputs and go out as outputs; the attention mask says which slots hold something.

    Positions are counted over the slots that do, as transformers' generate derives them from the mask, so empty slots
    and left padding count for nothing. `whole` says what goes out: past and new (a growing past) or the new only, for
    the caller to store (a fixed past).
    """

    attention_mask = None  # it is for the slots, and part of the positions

    def __init__(
        self, past: list[tuple[Var, Var]], attention_mask: Var, tokens: int | Var, longest: int, whole: bool
    ) -> None:
        self.past, self.whole, self.longest = past, whole, longest
        self.present: list[tuple[Var, Var]] = []
        counted = mb.cumsum(x=attention_mask, axis=1, name="slots_filled")
        positions = mb.maximum(x=mb.sub(x=counted, y=1, name="slot_positions_raw"), y=0, name="slot_positions")
        self._keys = hide(positions, attention_mask, "key_positions")
        begin: list[int] | Var = [0, -tokens] if isinstance(tokens, int) else _last(tokens)
        self.query_positions: Positions = mb.slice_by_index(
            x=positions,
            begin=begin,
            end=[0, 0],
            begin_mask=[True, False],
            end_mask=[True, True],
            name="query_positions",
        )

    def key_positions(self, window: int | None = None) -> Positions:
        return self._keys

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        past_k, past_v = self.past[layer]
        whole_k = mb.concat(values=[past_k, k], axis=2, name=f"layer_{layer}_keys")
        whole_v = mb.concat(values=[past_v, v], axis=2, name=f"layer_{layer}_values")
        self.present.append((whole_k, whole_v) if self.whole else (k, v))
        return whole_k, whole_v


class SlotCache:
    """Keys and values come in as inputs, all slots and all layers (1, L * H, S, E), and those of the call's one token stand in
    the slot that `slot` (1, S) is 1 for, 0 elsewhere. They go out alone, for the caller to store.

    What is seen is for the caller to say too: `hidden` (1, S) is negative where a slot is not. The position counts for the
    token's place only.
    """

    attention_mask = None

    def __init__(self, past: tuple[Var, Var], layers: int, slot: Var, hidden: Var, position: Var, longest: int) -> None:
        self.query_positions: Positions = position
        self.longest = longest
        self.present: list[tuple[Var, Var]] = []
        away = mb.cast(x=mb.less(x=hidden, y=like(hidden, 0), name="slots_hidden"), dtype="int32", name="slots_away")
        self._keys = mb.mul(x=away, y=np.int32(NOWHERE), name="key_positions")
        self._slot = mb.expand_dims(x=slot, axes=[1, 3], name="slot_new")
        kept = mb.sub(x=like(slot, 1), y=self._slot, name="slots_kept")
        self._past = [
            _parts(mb.mul(x=x, y=kept, name=f"past_{kind}s_kept"), layers, f"past_{kind}s")
            for kind, x in zip(("key", "value"), past, strict=True)
        ]

    def key_positions(self, window: int | None = None) -> Positions:
        return self._keys

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        self.present.append((k, v))
        key, value = (
            mb.add(
                x=past[layer],
                y=mb.mul(x=new, y=self._slot, name=f"layer_{layer}_new_{kind}s"),
                name=f"layer_{layer}_{kind}s",
            )
            for kind, new, past in zip(("key", "value"), (k, v), self._past, strict=True)
        )
        return key, value


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
        stop = mb.add(x=begin, y=_vector(tokens), name="position_end")
        first = mb.sub(x=begin, y=np.int32(reserved), name="position_first") if reserved else begin
        steps = count(tokens, "steps")
        known_one = isinstance(steps, np.ndarray) and len(steps) == 1
        self.query_positions: Positions = first if known_one else mb.add(x=first, y=steps, name="query_positions")
        self.pairs: dict[int | None, _Straight | Ring] = {
            window: _Straight(*pair, begin, stop, reserved, end, hidden)
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


class _Straight:
    """A pair of states in which every token keeps the slot that it was given."""

    def __init__(
        self, keys: Var, values: Var, begin: Var, stop: Var, reserved: int, end: Var | None, hidden: Var | None
    ) -> None:
        corners: _Corners = {}
        self.states = (_State(keys, corners), _State(values, corners))
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


class Ring:
    """A pair of states for layers that see a window: the token at position p is in the slot p modulo the slots, which are
    as many as the window and the longest call but one (`ring`)."""

    def __init__(self, keys: Var, values: Var, begin: Var, stop: Var, tokens: int | Var) -> None:
        corners: _Corners = {}
        self.states = (_State(keys, corners), _State(values, corners))
        self.slots, self.tokens = keys.shape[3], tokens
        self.begin, self.stop = begin, stop
        self._positions: Var | None = None
        self._place: tuple[Var, Var] | None = None

    def positions(self) -> Positions:
        """Of the last token that each slot was written for; `NOWHERE` where there was none."""
        if self._positions is None:
            last = mb.sub(x=self.stop, y=np.int32(1), name="ring_last")
            back = mb.mod(
                x=mb.sub(x=last, y=self._numbers(), name="ring_to_last"), y=np.int32(self.slots), name="ring_age"
            )
            held = mb.sub(x=last, y=back, name="ring_held")
            empty = mb.cast(x=mb.less(x=held, y=np.int32(0), name="ring_empty"), dtype="int32", name="ring_empty_slots")
            away = mb.mul(x=empty, y=np.int32(NOWHERE), name="ring_away")
            self._positions = mb.add(x=held, y=away, name="ring_positions")
        return self._positions

    def update(self, row: int, name: str, k: Var, v: Var) -> tuple[Var, Var]:
        pairs = zip(self.states, ((f"{name}_key_cache", k), (f"{name}_value_cache", v)), strict=True)
        key, value = [self._write(state, row, which, new) for state, (which, new) in pairs]
        return key, value

    def _write(self, state: "_State", row: int, name: str, new: Var) -> Var:
        first, second = self._places()
        if self.tokens == 1:
            return state.write(row, name, new, first, second, None)
        # More tokens may run over the ring's end: every slot takes its token of this call or keeps what it has.
        new, wide = _narrow(new, name)
        fresh = mb.gather(x=new, indices=first, axis=2, name=f"{name}_fresh")
        kept = state.layer(row, name, None)
        return state.write_layer(row, name, mb.select(cond=second, a=fresh, b=kept, name=f"{name}_merged"), wide)

    def _places(self) -> tuple[Var, Var]:
        """For one token its slot and the one behind it; for more, which token of the call each slot would take, (slots,),
        and whether it takes one, (slots, 1)."""
        if self._place is None:
            slots = np.int32(self.slots)
            if self.tokens == 1:
                slot = mb.mod(x=self.begin, y=slots, name="ring_slot")
                self._place = slot, mb.add(x=slot, y=np.int32(1), name="ring_slot_end")
            else:
                step = mb.mod(
                    x=mb.sub(x=self._numbers(), y=self.begin, name="ring_from_first"), y=slots, name="ring_step"
                )
                count_ = np.int32(self.tokens) if isinstance(self.tokens, int) else self.tokens
                taken = mb.less(x=step, y=count_, name="ring_taken")
                most = mb.sub(x=count_, y=np.int32(1), name="ring_most") if isinstance(count_, Var) else count_ - 1
                token = mb.minimum(x=step, y=most, name="ring_token")
                self._place = token, mb.expand_dims(x=taken, axes=[1], name="ring_taken_rows")
        return self._place

    def _numbers(self) -> np.ndarray:
        return np.arange(self.slots, dtype=np.int32)


def ring(window: int, calls: list[int], context: int) -> int | None:
    """The slots of a ring for layers with a window, where a call has so many tokens; None if the context needs no more.

    The first token of a call sees its window when the last one has been written, and a padded call writes in vain.
    """
    slots = window + max(calls) - 1
    return slots if slots < context else None


# Where slices of a pair of states begin and end, by row and slot: what is written for keys serves values, too.
_Corners = dict[tuple[int, Var], Var]


class _State:
    """One state and its value so far in this call."""

    def __init__(self, state: Var, corners: _Corners) -> None:
        self.state, self.corners = state, corners
        self.value: Var | None = None

    def _corner(self, row: int, slot: Var, name: str) -> Var:
        """A place in the state: heads and width are whole axes, whose begin and end are masked and never looked at."""
        if (row, slot) not in self.corners:
            zero, at = np.array([0], np.int32), np.array([row], np.int32)
            self.corners[row, slot] = mb.concat(values=[at, zero, zero, slot, zero], axis=0, name=name)
        return self.corners[row, slot]

    def write(self, row: int, name: str, new: Var, begin: Var, stop: Var, end: Var | None) -> Var:
        """Puts the tokens of a call (1, H, T, E) into the slots from `begin` to `stop`, and reads the layer."""
        new, wide = _narrow(new, name)
        first, last = self._corner(row, begin, f"{name}_begin"), self._corner(row + 1, stop, f"{name}_end")
        place = {"begin_mask": [False, True, True, False, True], "end_mask": [False, True, True, False, True]}
        update = mb.expand_dims(x=new, axes=[0], name=f"{name}_new")
        value = mb.slice_update(
            x=self._now(name), update=update, begin=first, end=last, **place, name=f"{name}_updated"
        )
        self.value = mb.coreml_update_state(state=self.state, value=value, name=f"{name}_after")
        return _widened(self.layer(row, name, end), name, wide)

    def write_layer(self, row: int, name: str, whole: Var, wide: Any) -> Var:
        """Replaces all slots of a layer (1, H, slots, E), and gives them back."""
        update = mb.expand_dims(x=whole, axes=[0], name=f"{name}_new")
        masks = [False, True, True, True, True]
        value = mb.slice_update(
            x=self._now(name),
            update=update,
            begin=[row, 0, 0, 0, 0],
            end=[row + 1, 0, 0, 0, 0],
            begin_mask=masks,
            end_mask=masks,
            name=f"{name}_updated",
        )
        self.value = mb.coreml_update_state(state=self.state, value=value, name=f"{name}_after")
        return _widened(whole, name, wide)

    def layer(self, row: int, name: str, end: Var | None) -> Var:
        """The slots of a layer (1, H, S, E), those before `end` only if it is given."""
        if end is None:
            slots = {"end": [row + 1, 0, 0, 0, 0], "end_mask": [False, True, True, True, True]}
        else:
            stop = self._corner(row + 1, end, f"{name}_read_end")
            slots = {"end": stop, "end_mask": [False, True, True, False, True]}
        squeeze = [True, False, False, False, False]
        return mb.slice_by_index(
            x=self._now(name), begin=[row, 0, 0, 0, 0], squeeze_mask=squeeze, **slots, name=f"{name}_layer"
        )

    def _now(self, name: str) -> Var:
        if self.value is None:
            self.value = mb.read_state(input=self.state, name=f"{name}_before")
        return self.value


def write_whole(state: Var, value: Var) -> None:
    """Puts a value into a state of its own."""
    narrow, _ = _narrow(value, f"{state.name}_new")
    mb.coreml_update_state(state=state, value=narrow, name=f"{state.name}_after")


def read_whole(state: Var, precision: str) -> Var:
    """What a state of its own holds, in the graph's precision."""
    value = mb.read_state(input=state, name=f"{state.name}_before")
    return value if precision == "float16" else mb.cast(x=value, dtype="fp32", name=f"{state.name}_float32")


def empty(state: Var) -> None:
    """Zeros in a state, whatever stands there: a comparison that is never true, so that not even NaN remains."""
    before = mb.read_state(input=state, name=f"{state.name}_before")
    never = mb.less(x=before, y=before, name=f"{state.name}_never")
    zeros = mb.cast(x=never, dtype="fp16", name=f"{state.name}_zeros")
    mb.coreml_update_state(state=state, value=zeros, name=f"{state.name}_empty")


def _narrow(new: Var, name: str) -> tuple[Var, Any]:
    """A value in the float16 of states, and the type it had."""
    return (new if new.dtype == types.fp16 else mb.cast(x=new, dtype="fp16", name=f"{name}_float16")), new.dtype


def _widened(value: Var, name: str, wide: Any) -> Var:
    return value if wide == types.fp16 else mb.cast(x=value, dtype="fp32", name=f"{name}_layer_float32")


def _vector(tokens: int | Var) -> Var | np.ndarray:
    return (
        np.array([tokens], np.int32)
        if isinstance(tokens, int)
        else mb.expand_dims(x=tokens, axes=[0], name="tokens_vector")
    )


def _last(tokens: Var) -> Var:
    negative = mb.mul(x=_vector(tokens), y=np.int32(-1), name="tokens_negative")
    return mb.concat(values=[np.array([0], np.int32), negative], axis=0, name="tokens_begin")
