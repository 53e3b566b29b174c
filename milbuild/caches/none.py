"""No cache: every call is a whole sequence."""

from collections.abc import Mapping, Sequence

import numpy as np
from coremltools.converters.mil.mil import Var

from milbuild.caches import cache
from milbuild.caches.cache import CacheSpec, Declared, Returned, Shapes, count, hide
from milbuild.layers.attention import Positions


def declare(spec: CacheSpec) -> list[Declared]:
    return []


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


def make_cache(spec: CacheSpec, inputs: Mapping[str, Var], tokens: int | Var) -> NoCache:
    return NoCache(tokens, spec.longest, inputs.get(spec.mask))


def outputs(spec: CacheSpec, kept: NoCache) -> Sequence[Returned]:
    return ()


class Host(cache.Host):
    whole = True

    def inputs(self, shapes: Shapes, length: int, size: int, count: int) -> dict[str, np.ndarray]:
        if self.mask not in shapes:
            return {}
        mask = np.ones((shapes[self.mask][0], size), np.int32)
        mask[0, length + count :] = 0
        return {self.mask: mask}
