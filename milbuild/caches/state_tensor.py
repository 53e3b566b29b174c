"""A Core ML state in a graph: read and written slot by slot, or as a whole. States are float16, whatever the graph computes in.

Shapes: L layers, H key/value heads, S slots, E width of a head, T tokens in this call.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

# Where slices of a pair of states begin and end, by row and slot: what is written for keys serves values, too.
Corners = dict[tuple[int, Var], Var]


class StateTensor:
    """One state and its value so far in this call."""

    def __init__(self, state: Var, corners: Corners) -> None:
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
        new, wide = narrow(new, name)
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
    new, _ = narrow(value, f"{state.name}_new")
    mb.coreml_update_state(state=state, value=new, name=f"{state.name}_after")


def read_whole(state: Var, precision: str) -> Var:
    """What a state of its own holds, in the graph's precision."""
    value = mb.read_state(input=state, name=f"{state.name}_before")
    return value if precision == "float16" else mb.cast(x=value, dtype="fp32", name=f"{state.name}_float32")


def empty(state: Var) -> None:
    """Zeros in a state, whatever is there: a comparison that is never true, so that not even NaN remains."""
    before = mb.read_state(input=state, name=f"{state.name}_before")
    never = mb.less(x=before, y=before, name=f"{state.name}_never")
    zeros = mb.cast(x=never, dtype="fp16", name=f"{state.name}_zeros")
    mb.coreml_update_state(state=state, value=zeros, name=f"{state.name}_empty")


def narrow(new: Var, name: str) -> tuple[Var, Any]:
    """A value in the float16 of states, and the type it had."""
    return (new if new.dtype == types.fp16 else mb.cast(x=new, dtype="fp16", name=f"{name}_float16")), new.dtype


def _widened(value: Var, name: str, wide: Any) -> Var:
    return value if wide == types.fp16 else mb.cast(x=value, dtype="fp32", name=f"{name}_layer_float32")
