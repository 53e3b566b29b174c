"""Where keys and values live between calls, asked the same way in every family.

A cache has four members that families and layers use: `query_positions` and `key_positions(window)`, known arrays or
values of the graph, `update(layer, k, v)`, and `attention_mask`. A slot that holds nothing for a query has the position
`NOWHERE`, beyond every other, so a causal mask never shows it.

A kind of cache is a file with three sides, what it declares, what the graph does, and what a caller does between calls, and
a line in `KINDS`. Which kind serves `cache="state"` for which consumer is said by the consumer's interface
(program.interfaces.INTERFACES).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from coremltools.converters.mil.mil import Var

from milbuild.caches import io, none, ranged, slots, state
from milbuild.caches.cache import Cache, CacheSpec, Declared, Geometry, Host, Returned, mask
from milbuild.caches.cross import Cross

__all__ = [
    "KINDS",
    "Cache",
    "CacheSpec",
    "Cross",
    "Declared",
    "Geometry",
    "Host",
    "Kind",
    "Returned",
    "mask",
]


class Kind(Protocol):
    """What the file of a kind defines; `Host` is a subclass of `cache.Host`."""

    @property
    def Host(self) -> type[Host]: ...

    def declare(self, spec: CacheSpec) -> list[Declared]:
        """Inputs and states of the function, in their order."""
        ...

    def make_cache(self, spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> Any:
        """The `Cache` over the tokens of a call, whose values `inputs` are in the graph's precision (but for states)."""
        ...

    def outputs(self, spec: CacheSpec, kept: Any) -> Sequence[Returned]:
        """What the function gives back, once the graph has used the cache."""
        ...


KINDS: dict[str, Kind] = {"none": none, "io": io, "state": state, "ranged": ranged, "slots": slots}
