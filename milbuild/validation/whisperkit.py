"""Validation of WhisperKit's three packages, each by itself: what stands before it in the row is transformers'."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milbuild import caches
from milbuild.errors import Error
from milbuild.program.options import AUDIO, INTERFACES, Plan
from milbuild.program.whisperkit import HIDDEN, LOOKS, SLOT
from milbuild.validation import answers, reference
from milbuild.validation.backend import Player
from milbuild.validation.cases import Case
from milbuild.validation.material import Material

UNSEEN = -10_000  # what WhisperKit's mask holds for a slot that is not seen

Arrays = dict[str, np.ndarray]


@dataclass
class _Call:
    """`data` is the package's but for its cache. `ids` are fed one by one to a decoder with a `cache` of so many features and
    slots."""

    plan: Plan
    data: Arrays
    ids: tuple[int, ...] = ()
    cache: tuple[int, int] = (0, 0)

    def play(self, player: Player) -> Arrays:
        """What comes out, of a decoder for all tokens; the cache is kept as WhisperKit keeps it."""
        if not self.ids:
            return self.plan.from_package(player.predict(self.plan.to_package(self.data)))
        past, rows = self._empty(), []
        for place in range(len(self.ids)):
            outputs = self.plan.from_package(player.predict(self.plan.to_package(self._step(place, past))))
            for kind, cache in zip(("key", "value"), past.values(), strict=True):
                name = self._names.present.format(kind=kind)
                if name not in outputs:
                    raise Error(f"the package was built without the output {name}")
                cache[..., place] = outputs.pop(name)[..., 0]
            rows.append(outputs)
        return {name: np.concatenate([row[name] for row in rows], axis=-2) for name in rows[0]}

    @property
    def _names(self) -> Any:
        return INTERFACES[self.plan.interface]

    def _empty(self) -> Arrays:
        features, slots = self.cache
        shape = (1, features, 1, slots)
        return {self._names.past.format(kind=kind): np.zeros(shape, np.float32) for kind in ("key", "value")}

    def _step(self, place: int, past: Arrays) -> Arrays:
        slots = np.arange(self.cache[1])[None]
        return {
            **self.data,
            **past,
            self._names.decoder_input_ids: np.array([self.ids[place]], np.int32),
            self._names.position: np.array([place], np.int32),
            SLOT: (slots == place).astype(np.float32),
            HIDDEN: np.where(slots <= place, 0, UNSEEN).astype(np.float32),
        }


def cases(plan: Plan, truth: Any, material: Material, chosen: list[tuple[int, int]]) -> Iterator[Case]:
    """Of the package that was built by `plan`, whose heads that tell a word's time are `chosen`."""
    names, config = INTERFACES[plan.interface], truth.config
    assert isinstance(plan.context_length, int)
    count = min(plan.context_length, answers.LONGEST)
    heard = plan if plan.function == "mel" else replace(plan, postprocess=False)
    for name, inputs, sound in answers.reading(heard, truth, material, 1):
        features = inputs["input_features"][:, :, None]
        inputs = inputs | {"decoder_input_ids": answers.random_ids(truth, (1, count), material)}
        if plan.function == "mel":
            assert sound is not None
            yield _case(name, inputs, _Call(plan, {AUDIO: sound[0]}), {names.input_features: features})
            continue
        expected = reference.forward(truth, inputs)
        states = expected["encoder_last_hidden_state"].transpose(0, 2, 1)[:, :, None]
        if plan.function == "encode":
            call = _Call(plan, {names.input_features: features})
            yield _case(name, inputs, call, {names.encoder_last_hidden_state: states})
            continue
        if chosen:
            shares = reference.cross_attentions(truth, inputs)
            expected[LOOKS] = np.mean([shares[layer][0, head] for layer, head in chosen], axis=0)
        layers, heads, width = caches.shape(config)
        ids, sizes = tuple(inputs["decoder_input_ids"][0].tolist()), (layers * heads * width, plan.context_length)
        call = _Call(plan, {names.encoder_last_hidden_state: states}, ids, sizes)
        yield _case(f"{name}, answer of {count} one by one", inputs, call, expected)


def _case(name: str, inputs: Arrays, call: _Call, expected: Arrays) -> Case:
    return Case(name, inputs, call.play, lambda: expected)
