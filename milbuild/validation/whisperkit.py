"""Validation of WhisperKit's three packages, each by itself: its inputs are what transformers' model gives up to there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from milbuild.caches import slots
from milbuild.program.interfaces import INTERFACES
from milbuild.program.plan import AUDIO, Plan
from milbuild.program.whisperkit import LOOKS
from milbuild.validation import reference, seq2seq
from milbuild.validation.backend import Backend
from milbuild.validation.cases import Case
from milbuild.validation.comparison import Arrays, Comparison


@dataclass
class _Call:
    """`data` are the package's inputs without its cache. `ids` are fed one by one to a decoder with a `cache` of so many
    features and slots."""

    plan: Plan
    data: Arrays
    ids: tuple[int, ...] = ()
    cache: tuple[int, int] = (0, 0)

    def run(self, backend: Backend) -> Arrays:
        """The outputs, of a decoder for all tokens; the cache is kept as WhisperKit keeps it."""
        if not self.ids:
            return self.plan.from_package(backend.predict(self.plan.to_package(self.data)))
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
            outputs = self.plan.from_package(backend.predict(self.plan.to_package(data)))
            host.keep(shapes, outputs, place, 1, 1)
            kept = {names.present.format(kind=kind) for kind in slots.KINDS}
            rows.append({name: value for name, value in outputs.items() if name not in kept})
        return {name: np.concatenate([row[name] for row in rows], axis=-2) for name in rows[0]}


def cases(comparison: Comparison, alignment_heads: list[tuple[int, int]]) -> Iterator[Case]:
    """Of one package; `alignment_heads` are the (layer, head) whose attention tells when a word is said."""
    plan, truth, names = comparison.plan, comparison.truth, comparison.interface
    assert isinstance(plan.context_length, int)
    count = min(plan.context_length, seq2seq.LONGEST)
    mel = comparison if plan.function == "mel" else comparison.by(replace(plan, postprocess=False))
    for name, inputs, audio in seq2seq.encoder_inputs(mel, 1):
        features = inputs["input_features"][:, :, None]
        inputs = inputs | {"decoder_input_ids": seq2seq.random_ids(comparison, (1, count))}
        if plan.function == "mel":
            assert audio is not None
            yield _case(name, inputs, _Call(plan, {AUDIO: audio[0]}), {names.input_features: features})
            continue
        expected = reference.forward(truth, inputs)
        states = expected["encoder_last_hidden_state"].transpose(0, 2, 1)[:, :, None]
        if plan.function == "encode":
            call = _Call(plan, {names.input_features: features})
            yield _case(name, inputs, call, {names.encoder_last_hidden_state: states})
            continue
        if alignment_heads:
            weights = reference.cross_attentions(truth, inputs)
            expected[LOOKS] = np.mean([weights[layer][0, head] for layer, head in alignment_heads], axis=0)
        layers, heads, width, _ = comparison.geometry
        ids, sizes = tuple(inputs["decoder_input_ids"][0].tolist()), (layers * heads * width, plan.context_length)
        call = _Call(plan, {names.encoder_last_hidden_state: states}, ids, sizes)
        yield _case(f"{name}, answer of {count} one by one", inputs, call, expected)


def _case(name: str, inputs: Arrays, call: _Call, expected: Arrays) -> Case:
    return Case(name, inputs, call.run, lambda: expected)
