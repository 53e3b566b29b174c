"""Keys and values as inputs of all slots, of which the caller says which is written and which are seen; one token a call.

WhisperKit's own: a sequence is in the last of four axes, (1, L * H * E, 1, S).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches import cache
from milbuild.caches.cache import Arrays, CacheSpec, Declared, Length, Names, Returned, Shapes
from milbuild.caches.cross import of_layers
from milbuild.errors import Error
from milbuild.layers.attention import NOWHERE, Positions
from milbuild.layers.linear import like

SLOT = "kv_cache_update_mask"
HIDDEN = "decoder_key_padding_mask"
UNSEEN = -10_000  # what WhisperKit's mask holds for a slot that is not seen
KINDS = ("key", "value")


def declare(spec: CacheSpec) -> list[Declared]:
    slots, names, (layers, heads, width, _) = spec.context, spec.names, spec.geometry
    assert isinstance(slots, int)
    declared = [Declared(names.position, "int32", (1,), "Tokens before this one: its place.")]
    for kind in KINDS:
        text = f"{kind.capitalize()}s of earlier tokens, all layers behind one another."
        declared.append(Declared(names.past.format(kind=kind), spec.dtype, (1, layers * heads * width, 1, slots), text))
    text = "1 for the slot of this token, 0 for the others. The caller stores there what the updates bring."
    declared.append(Declared(SLOT, spec.dtype, (1, slots), text))
    text = "0 for a slot that is seen, this token's too; -10000 for the others. Any negative number hides a slot."
    declared.append(Declared(HIDDEN, spec.dtype, (1, slots), text))
    return declared


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
            of_layers(mb.mul(x=x, y=kept, name=f"past_{kind}s_kept"), layers, f"past_{kind}s")
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


def make_cache(spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> SlotCache:
    names, (layers, heads, width, _) = spec.names, spec.geometry

    def past(kind: str) -> Var:
        """(1, L * H * E, 1, S) -> (1, L * H, S, E)."""
        x, shape = inputs[names.past.format(kind=kind)], [1, layers * heads, width, -1]
        x = mb.reshape(x=x, shape=shape, name=f"past_{kind}s_heads")
        return mb.transpose(x=x, perm=[0, 1, 3, 2], name=f"past_{kind}s_slots")

    pair = past("key"), past("value")
    return SlotCache(pair, layers, inputs[SLOT], inputs[HIDDEN], inputs[names.position], spec.longest)


def outputs(spec: CacheSpec, kept: SlotCache) -> Sequence[Returned]:
    """The call's keys and values of all layers, (1, L * H * E, 1, 1) each."""
    found = []
    for kind, new in zip(KINDS, zip(*kept.present, strict=True), strict=True):
        x = new[0] if len(new) == 1 else mb.concat(values=list(new), axis=1, name=f"new_{kind}s")
        x = mb.reshape(x=x, shape=[1, -1, 1, 1], name=f"new_{kind}s_spread")
        text = f"{kind.capitalize()}s of the token, all layers behind one another."
        found.append(Returned(spec.names.present.format(kind=kind), x, text))
    return found


class Host(cache.Host):
    """Keeps all slots of all layers, as WhisperKit does."""

    def __init__(self, names: Names, mask: str, context: Length | None) -> None:
        super().__init__(names, mask, context)
        self.past: dict[str, np.ndarray] = {}

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        assert isinstance(self.context, int)
        slots = np.arange(self.context)[None]
        self.past = self.past or {name: np.zeros(shapes[name], np.float32) for name in map(self._past, KINDS)}
        return {
            **self.past,
            self.names.position: np.array([length], np.int32),
            SLOT: (slots == length).astype(np.float32),
            HIDDEN: np.where(slots <= length, 0, UNSEEN).astype(np.float32),
        }

    def keep(self, shapes: Shapes, outputs: Arrays, length: int, size: int, count: int) -> None:
        for kind in KINDS:
            name = self.names.present.format(kind=kind)
            if name not in outputs:
                raise Error(f"the package was built without the output {name}")
            self.past[self._past(kind)][..., length] = outputs[name][..., 0]

    def _past(self, kind: str) -> str:
        return self.names.past.format(kind=kind)
