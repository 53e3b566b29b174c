"""Layers that see a window: as many slots as the window needs, written round and round."""

from collections.abc import Sequence

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.caches.state_tensor import Corners, StateTensor, narrow
from milbuild.layers.attention import NOWHERE, Positions


class Ring:
    """A pair of states for layers that see a window: the token at position p is in the slot p modulo the slots, which are
    as many as the window and the longest call but one (`slots_needed`)."""

    def __init__(self, keys: Var, values: Var, begin: Var, stop: Var, tokens: int | Var) -> None:
        corners: Corners = {}
        self.states = (StateTensor(keys, corners), StateTensor(values, corners))
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

    def _write(self, state: StateTensor, row: int, name: str, new: Var) -> Var:
        first, second = self._places()
        if self.tokens == 1:
            return state.write(row, name, new, first, second, None)
        # More tokens may run over the ring's end: every slot takes its token of this call or keeps what it has.
        new, wide = narrow(new, name)
        fresh = mb.gather(x=new, indices=first, axis=2, name=f"{name}_fresh")
        kept = state.layer(row, name, None)
        return state.write_layer(row, name, mb.select(cond=second, a=fresh, b=kept, name=f"{name}_merged"), wide)

    def _places(self) -> tuple[Var, Var]:
        """For one token its slot and the one after it; for more, which token of the call each slot would take, (slots,),
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


def slots_needed(window: int, calls: Sequence[int], context: int) -> int | None:
    """The slots of a ring for layers with a window, where a call has so many tokens; None if the context needs no more.

    The first token of a call sees its window when the last one has been written, and a padded call writes in vain.
    """
    slots = window + max(calls) - 1
    return slots if slots < context else None
