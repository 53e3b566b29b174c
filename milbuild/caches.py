"""Where keys and values live between calls, asked the same way in every family.

A cache has three members that families and layers use: `query_positions` and `key_positions`, which are known arrays or
values of the graph, and `update(layer, k, v)`. A slot that holds nothing for a query stands at `NOWHERE`, beyond every
position, so a causal mask never shows it.

Shapes: B batch, T tokens in this call, S key slots, L layers, H key/value heads, E width of a head.
"""

from typing import Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.layers.attention import Positions

NOWHERE = 2**30  # an int32 that no sequence reaches


class Cache(Protocol):
    """`query_positions`: (T,) or (B, T), of the tokens of this call; `key_positions`: (S,) or (B, S), of what they may see."""

    query_positions: Positions
    key_positions: Positions

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        """Keys and values of this call (B, H, T, E) -> all that its queries may see (B, H, S, E)."""
        ...


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

    def __init__(self, tokens: int | Var, attention_mask: Var | None = None) -> None:
        self.query_positions = count(tokens, "positions")
        self.key_positions: Positions = self.query_positions
        if attention_mask is not None:
            self.key_positions = hide(self.query_positions, attention_mask, "key_positions")

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        return k, v


class InputOutputCache:
    """Keys and values come in as inputs and go out as outputs; the attention mask says which slots hold something.

    Positions are counted over the slots that do, as transformers' generate derives them from the mask, so empty slots
    and left padding count for nothing. `whole` says what goes out: past and new (a growing past) or the new only, for
    the caller to store (a fixed past).
    """

    def __init__(self, past: list[tuple[Var, Var]], attention_mask: Var, tokens: int | Var, whole: bool) -> None:
        self.past, self.whole = past, whole
        self.present: list[tuple[Var, Var]] = []
        counted = mb.cumsum(x=attention_mask, axis=1, name="slots_filled")
        positions = mb.maximum(x=mb.sub(x=counted, y=1, name="slot_positions_raw"), y=0, name="slot_positions")
        self.key_positions: Positions = hide(positions, attention_mask, "key_positions")
        begin: list[int] | Var = [0, -tokens] if isinstance(tokens, int) else _last(tokens)
        self.query_positions: Positions = mb.slice_by_index(
            x=positions,
            begin=begin,
            end=[0, 0],
            begin_mask=[True, False],
            end_mask=[True, True],
            name="query_positions",
        )

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        past_k, past_v = self.past[layer]
        whole_k = mb.concat(values=[past_k, k], axis=2, name=f"layer_{layer}_keys")
        whole_v = mb.concat(values=[past_v, v], axis=2, name=f"layer_{layer}_values")
        self.present.append((whole_k, whole_v) if self.whole else (k, v))
        return whole_k, whole_v


class StateCache:
    """Keys and values live in two Core ML states (L, 1, H, slots, E) in float16, written in place.

    `begin` (1,) is the slot of the first new token. `reserved` slots at the front hold nothing, ever. With `end` (1,)
    only the slots before it are read, and `hidden` (1, 1, 1, end) is negative where one of them may not be seen.
    """

    def __init__(
        self,
        keys: Var,
        values: Var,
        begin: Var,
        tokens: int | Var,
        reserved: int = 0,
        end: Var | None = None,
        hidden: Var | None = None,
    ) -> None:
        self.states = [keys, values]
        self.current: list[Var | None] = [None, None]
        self.begin, self.reserved, self.end = begin, reserved, end
        self.slots = keys.shape[3]
        self.stop = mb.add(x=begin, y=_vector(tokens), name="position_end")
        first = mb.sub(x=begin, y=np.int32(reserved), name="position_first") if reserved else begin
        steps = count(tokens, "steps")
        known_one = isinstance(steps, np.ndarray) and len(steps) == 1
        self.query_positions: Positions = first if known_one else mb.add(x=first, y=steps, name="query_positions")
        held = np.arange(self.slots, dtype=np.int32) - reserved
        held[:reserved] = NOWHERE
        self.key_positions: Positions = held
        if end is not None and hidden is not None:
            held = mb.slice_by_index(x=held, begin=[0], end=end, name="slot_positions")
            flat = mb.reshape(x=hidden, shape=[1, -1], name="slots_hidden")
            seen = mb.cast(
                x=mb.greater_equal(x=flat, y=np.float16(0), name="slots_seen"), dtype="int32", name="slots_mask"
            )
            self.key_positions = hide(held, seen, "key_positions")

    def update(self, layer: int, k: Var, v: Var) -> tuple[Var, Var]:
        read = []
        for which, (name, new) in enumerate((("key_cache", k), ("value_cache", v))):
            read.append(self._update(which, f"layer_{layer}_{name}", layer, new))
        return read[0], read[1]

    def _update(self, which: int, name: str, layer: int, new: Var) -> Var:
        state = self.states[which]
        wide = new.dtype
        if wide != types.fp16:
            new = mb.cast(x=new, dtype="fp16", name=f"{name}_float16")
        cache = self.current[which] or mb.read_state(input=state, name=f"{name}_before")
        zero, one = np.array([0], np.int32), np.array([layer + 1], np.int32)
        # Heads and width are whole axes; their begin and end are masked and never looked at.
        place = {"begin_mask": [False, True, True, False, True], "end_mask": [False, True, True, False, True]}
        first = mb.concat(
            values=[np.array([layer], np.int32), zero, zero, self.begin, zero], axis=0, name=f"{name}_begin"
        )
        last = mb.concat(values=[one, zero, zero, self.stop, zero], axis=0, name=f"{name}_end")
        update = mb.expand_dims(x=new, axes=[0], name=f"{name}_new")
        cache = mb.slice_update(x=cache, update=update, begin=first, end=last, **place, name=f"{name}_updated")
        cache = mb.coreml_update_state(state=state, value=cache, name=f"{name}_after")
        self.current[which] = cache
        if self.end is None:
            slots = {"end": [layer + 1, 0, 0, 0, 0], "end_mask": [False, True, True, True, True]}
        else:
            stop = mb.concat(values=[one, zero, zero, self.end, zero], axis=0, name=f"{name}_read_end")
            slots = {"end": stop, "end_mask": [False, True, True, False, True]}
        squeeze = [True, False, False, False, False]
        read = mb.slice_by_index(
            x=cache, begin=[layer, 0, 0, 0, 0], squeeze_mask=squeeze, **slots, name=f"{name}_layer"
        )
        return read if wide == types.fp16 else mb.cast(x=read, dtype="fp32", name=f"{name}_layer_float32")


def _vector(tokens: int | Var) -> Var | np.ndarray:
    return (
        np.array([tokens], np.int32)
        if isinstance(tokens, int)
        else mb.expand_dims(x=tokens, axes=[0], name="tokens_vector")
    )


def _last(tokens: Var) -> Var:
    negative = mb.mul(x=_vector(tokens), y=np.int32(-1), name="tokens_negative")
    return mb.concat(values=[np.array([0], np.int32), negative], axis=0, name="tokens_begin")
