"""Cases of models with an encoder and a decoder: what is read, and an answer at random fed to it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from milbuild.generation.session import Session
from milbuild.program.lengths import Length
from milbuild.program.plan import ANSWER, AUDIO, Plan
from milbuild.validation import reference
from milbuild.validation.material import Material

CALLS = 4  # with other texts or sounds each, where a call gives few numbers
LONGEST = 48  # tokens of an answer that is played: enough for some prefills and decodes

Arrays = dict[str, np.ndarray]


def whole_calls(plan: Plan, truth: Any, material: Material) -> Iterator[tuple[str, Arrays, Any]]:
    """(name, transformers' inputs, what the package gets for input_features) of packages that answer in one call."""
    rows = CALLS * plan.batch_size
    for name, inputs, sound in reading(plan, truth, material, rows):
        if plan.context_length is not None:
            length = max(_lengths(plan.context_length))
            inputs = inputs | {"decoder_input_ids": random_ids(truth, (rows, length), material)}
        yield f"{rows} x {name}", inputs, sound


def sequences(plan: Plan, truth: Any, material: Material) -> Iterator[tuple[str, Arrays, Any, list[int]]]:
    """(name, transformers' inputs, the package's sound, how many tokens each feed takes) of packages with `decode`."""
    tokens = min(max(_lengths(plan.context_length or ANSWER)), LONGEST)
    for name, inputs, sound in reading(plan, truth, material, plan.batch_size):
        ids = random_ids(truth, (plan.batch_size, tokens), material)
        ways = {f"answer of {tokens}": [tokens]}
        if plan.cache != "none":
            ways[f"answer of {tokens} one by one"] = [1] * tokens
        for way, chunks in ways.items():
            yield f"{name}, {way}", inputs | {"decoder_input_ids": ids}, sound, chunks


def play(session: Session, plan: Plan, inputs: Arrays, sound: Any, chunks: list[int]) -> Arrays:
    """What the encoder and the decoder give, by transformers' names: of a batch the scores of its first answer."""
    outputs = read(session, inputs, sound)
    ids, found, at = inputs["decoder_input_ids"], [], 0
    for count in chunks:
        found.append(session.feed(ids[0, at : at + count].tolist()))
        at += count
    return outputs | {"logits": np.concatenate(found)[None, scored(plan, chunks)]}


def read(session: Session, inputs: Arrays, sound: Any) -> Arrays:
    """What the encoder gives of what it reads."""
    given = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    outputs = session.read(given if sound is None else {AUDIO: sound})
    return {name: value for name, value in outputs.items() if name == "encoder_last_hidden_state"}


def scored(plan: Plan, chunks: list[int]) -> np.ndarray:
    """The tokens whose scores are known: with those of a call's last one only, the last of each feed."""
    return np.cumsum(chunks) - 1 if plan.logits == "last" else np.arange(sum(chunks))


def reading(plan: Plan, truth: Any, material: Material, rows: int) -> Iterator[tuple[str, Arrays, np.ndarray | None]]:
    """What the encoder reads: texts of the longest, the shortest and a padded length, or sounds."""
    assert plan.sequence_length is not None
    if truth.main_input_name == "input_features":
        yield from _sounds(plan, truth, material, rows)
        return
    for count in sorted({min(_lengths(plan.sequence_length)), max(_lengths(plan.sequence_length))}):
        ids = material.ids(truth.config.vocab_size, rows, count)
        if isinstance(end := truth.config.eos_token_id, int):
            # One end in each text, where those that classify look.
            ids[ids == end] = (end + 1) % truth.config.vocab_size
            ids[:, count // 2] = end
        mask = np.ones_like(ids)
        name = f"{count} tokens{material.whose}"
        yield name, {"input_ids": ids, **({"attention_mask": mask} if plan.attention_mask else {})}, None
        if plan.attention_mask and count > 2:
            mask = mask.copy()
            mask[:, count - count // 3 :] = 0
            yield f"{name}, a third of them padding", {"input_ids": ids, "attention_mask": mask}, None


def _sounds(plan: Plan, truth: Any, material: Material, rows: int) -> Iterator[tuple[str, Arrays, np.ndarray | None]]:
    samples = plan.sequence_length
    assert isinstance(samples, int)
    if not plan.postprocess:
        shape = (rows, truth.config.num_mel_bins, samples // material.hop)
        yield f"{shape[2]} frames{material.whose}", {"input_features": material.features(*shape)}, None
        return
    for part in (1, 2):
        # With zeros behind it in the second sound.
        sound = np.zeros((rows, samples), np.float32)
        sound[:, : samples // part] = material.samples(rows, samples // part)
        features = {"input_features": reference.spectrogram(material.extractor, sound)}
        yield f"{samples // part} of {samples} samples{material.whose}", features, sound


def _lengths(length: Length) -> list[int]:
    return [length] if isinstance(length, int) else list(length)


def random_ids(truth: Any, shape: tuple[int, ...], material: Material) -> np.ndarray:
    return material.random.integers(0, truth.config.vocab_size, shape, np.int32)
