"""Validation of WhisperKit's three packages, each by itself: what stands before it in the row is transformers'."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milbuild.caches import Geometry, slots
from milbuild.program.interfaces import INTERFACES
from milbuild.program.plan import AUDIO, Plan
from milbuild.program.whisperkit import LOOKS
from milbuild.validation import answers, reference
from milbuild.validation.backend import Player
from milbuild.validation.cases import Case
from milbuild.validation.material import Material

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
        features, places = self.cache
        names = INTERFACES[self.plan.interface]
        shapes = {names.past.format(kind=kind): (1, features, 1, places) for kind in slots.KINDS}
        host, rows = slots.Host(names, "", places), []
        for place, token in enumerate(self.ids):
            data = {
                **self.data,
                names.decoder_input_ids: np.array([token], np.int32),
                **host.inputs(shapes, place, 1, 1),
            }
            outputs = self.plan.from_package(player.predict(self.plan.to_package(data)))
            host.keep(shapes, outputs, place, 1, 1)
            kept = {names.present.format(kind=kind) for kind in slots.KINDS}
            rows.append({name: value for name, value in outputs.items() if name not in kept})
        return {name: np.concatenate([row[name] for row in rows], axis=-2) for name in rows[0]}


def cases(
    plan: Plan, truth: Any, material: Material, geometry: Geometry, chosen: list[tuple[int, int]]
) -> Iterator[Case]:
    """Of the package that was built by `plan`, whose heads that tell a word's time are `chosen`."""
    names = INTERFACES[plan.interface]
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
        layers, heads, width, _ = geometry
        ids, sizes = tuple(inputs["decoder_input_ids"][0].tolist()), (layers * heads * width, plan.context_length)
        call = _Call(plan, {names.encoder_last_hidden_state: states}, ids, sizes)
        yield _case(f"{name}, answer of {count} one by one", inputs, call, expected)


def _case(name: str, inputs: Arrays, call: _Call, expected: Arrays) -> Case:
    return Case(name, inputs, call.play, lambda: expected)
