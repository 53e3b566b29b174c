"""Keys and values as inputs and outputs: a fixed past, whose new keys and values the caller stores, or one that grows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, get_new_symbol

from milbuild.caches import cache
from milbuild.caches.cache import (
    Arrays,
    CacheSpec,
    Declared,
    Dimension,
    Length,
    Names,
    Returned,
    Shapes,
    as_vector,
    hide,
)
from milbuild.errors import Error
from milbuild.layers.attention import Positions

KINDS = ("key", "value")


def grows(context: Length | None) -> bool:
    """Whether the past is as long as the sequence: a context that is a range."""
    return not isinstance(context, int)


def declare(spec: CacheSpec) -> list[Declared]:
    context, names, (layers, heads, width, _) = spec.context, spec.names, spec.geometry
    shortest, longest = spec.tokens.ends
    described: Dimension
    slots_described: Dimension
    if isinstance(context, int):
        past: Any = context - longest
        described, slots, slots_described = past, context, context
        text = (
            f"{past} slots for keys and values of earlier tokens; {spec.mask} says which are filled. "
            "The caller stores what `present` brings."
        )
    else:
        assert context is not None
        past, slots = get_new_symbol(), get_new_symbol()
        described = (1, max(1, context[1] - shortest))
        slots_described = (1 + shortest, max(context[1], 1 + longest))
        text = f"Keys and values of earlier tokens. The first call passes one slot of zeros with {spec.mask} 0."
    mask = (
        "For the slots of the past, then the tokens of the call: 1 where there is one, 0 for empty slots and padding."
    )
    declared = [Declared(spec.mask, "int32", (1, slots), mask, (1, slots_described))]
    for layer in range(layers):
        for kind in KINDS:
            name = names.past.format(layer=layer, kind=kind)
            shape = (1, heads, past, width)
            declared.append(Declared(name, spec.dtype, shape, f"Layer {layer}. {text}", (1, heads, described, width)))
    return declared


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
        begin: list[int] | Var = [0, -tokens] if isinstance(tokens, int) else _end(tokens)
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


def _end(tokens: Var) -> Var:
    """The place before the last so many slots, counted from the end."""
    negative = mb.mul(x=as_vector(tokens), y=np.int32(-1), name="tokens_negative")
    return mb.concat(values=[np.array([0], np.int32), negative], axis=0, name="tokens_begin")


def make_cache(spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> InputOutputCache:
    def past(layer: int, kind: str) -> Var:
        return inputs[spec.names.past.format(layer=layer, kind=kind)]

    pairs = [(past(layer, "key"), past(layer, "value")) for layer in range(spec.geometry.layers)]
    return InputOutputCache(pairs, inputs[spec.mask], tokens, spec.longest, grows(spec.context))


def outputs(spec: CacheSpec, kept: InputOutputCache) -> Sequence[Returned]:
    what = "Past and new" if kept.whole else "New"
    return [
        Returned(spec.names.present.format(layer=layer, kind=kind), value, f"{what} {kind}s of layer {layer}.")
        for layer, pair in enumerate(kept.present)
        for kind, value in zip(KINDS, pair, strict=True)
    ]


class Host(cache.Host):
    """Keeps the keys and values of the sequence so far, by the names of the inputs that they go into."""

    def __init__(self, names: Names, mask: str, context: Length | None) -> None:
        super().__init__(names, mask, context)
        self.past: dict[str, np.ndarray] = {}

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        slots = self._slots(length, size)
        mask = np.zeros((1, slots + size), np.int32)
        mask[:, :length] = mask[:, slots : slots + count] = 1
        data = {self.mask: mask}
        for past, present in self._pairs(shapes):
            _, heads, _, width = shapes[past]
            data[past] = np.zeros((1, heads, slots, width), np.float32)
            if length and past not in self.past:
                raise Error(f"the package was built without the output {present}, which the next call needs")
            if length:
                data[past][:, :, :length] = self.past[past]
        return data

    def keep(self, shapes: Shapes, outputs: Arrays, length: int, size: int, count: int) -> None:
        for past, present in self._pairs(shapes):
            if present in outputs:
                new = outputs[present][:, :, self._slots(length, size) if grows(self.context) else 0 :]
                before = [self.past[past]] if length else []
                self.past[past] = np.concatenate([*before, new[:, :, :count]], axis=2)

    def _slots(self, length: int, size: int) -> int:
        """Those of the past in a call of `size` places. Core ML has no empty arrays."""
        return self.context - size if isinstance(self.context, int) else max(1, length)

    def _pairs(self, shapes: Shapes) -> Iterator[tuple[str, str]]:
        """The input of each layer's keys and values, and the output that goes there in the next call."""
        for layer in range(len(shapes)):
            for kind in KINDS:
                past, present = (each.format(layer=layer, kind=kind) for each in (self.names.past, self.names.present))
                if past in shapes:
                    yield past, present
