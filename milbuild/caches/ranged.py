"""Keys and values in Core ML states, prefilled and decoded through one function of ranged length, whose position is a mask.

The mask has a slot for each token so far, those of the call too, and one more: the first, which stays empty. It is the
contract of huggingface/swift-transformers, Sources/Models/LanguageModel.swift.
"""

from collections.abc import Mapping

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, get_new_symbol

from milbuild.caches import cache
from milbuild.caches.cache import CacheSpec, Declared, Shapes, size_of
from milbuild.caches.state import StateCache, declare_states, outputs

__all__ = ["Host", "declare", "make_cache", "outputs"]

RESERVED = 1  # slots that stay empty


def declare(spec: CacheSpec) -> list[Declared]:
    assert isinstance(spec.context, int)
    names, slots = spec.names, spec.context + RESERVED
    text = (
        f"One slot more than there are tokens in the sequence so far, at most {slots}; the first slot stays empty. "
        "Negative hides a slot; order in time is the graph's own affair."
    )
    mask = Declared(names.position, "float16", (1, 1, 1, get_new_symbol()), text, (1, 1, 1, (2, slots)))
    return [mask, *declare_states(spec, {None: (spec.geometry.layers, slots)})]


def make_cache(spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> StateCache:
    names = spec.names
    mask, pair = inputs[names.position], (inputs[names.key], inputs[names.value])
    end = mb.expand_dims(x=size_of(mask, 3, "slots"), axes=[0], name="slots_end")
    begin = mb.sub(x=end, y=tokens, name="slots_begin")
    windows = list(spec.geometry.windows)
    return StateCache({None: pair}, windows, begin, tokens, spec.longest, RESERVED, end, mask)


class Host(cache.Host):
    in_state = True

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        return {self.names.position: np.zeros((1, 1, 1, length + size + RESERVED), np.float16)}
