"""Validation of models with an encoder and a decoder: what is read at random, and an answer at random fed to it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from milbuild import architectures
from milbuild.generation import Session
from milbuild.options import ANSWER, AUDIO, Length, Plan, hop_length
from milbuild.validation import reference

CALLS = 4  # with other texts or sounds each, where a call gives few numbers
LONGEST = 48  # tokens of an answer that is played: enough for some prefills and decodes

Inputs = dict[str, np.ndarray]


def whole_calls(
    plan: Plan, truth: Any, extractor: Any, random: np.random.Generator
) -> Iterator[tuple[str, Inputs, Any]]:
    """(name, transformers' inputs, what the package gets for input_features) of packages that answer in one call."""
    rows = CALLS * plan.batch_size
    for name, inputs, sound in reading(plan, truth, extractor, random, rows):
        if plan.context_length is not None:
            length = max(_lengths(plan.context_length))
            inputs = inputs | {"decoder_input_ids": random_ids(truth, (rows, length), random)}
        yield f"{rows} x {name}", inputs, sound


def sequences(
    plan: Plan, truth: Any, extractor: Any, random: np.random.Generator
) -> Iterator[tuple[str, Inputs, Any, list[int]]]:
    """(name, transformers' inputs, the package's sound, how many tokens each feed takes) of packages with `decode`."""
    tokens = min(max(_lengths(plan.context_length or ANSWER)), LONGEST)
    for name, inputs, sound in reading(plan, truth, extractor, random, plan.batch_size):
        ids = random_ids(truth, (plan.batch_size, tokens), random)
        ways = {f"answer of {tokens}": [tokens]}
        if plan.cache != "none":
            ways[f"answer of {tokens} one by one"] = [1] * tokens
        for way, chunks in ways.items():
            yield f"{name}, {way}", inputs | {"decoder_input_ids": ids}, sound, chunks


def play(session: Session, inputs: Inputs, sound: Any, chunks: list[int]) -> dict[str, np.ndarray]:
    """What the encoder and the decoder give, by transformers' names: of a batch the scores of its first answer; rows that
    the package does not score are NaN."""
    read = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    if sound is not None:
        read = {AUDIO: sound}
    outputs = {name: value for name, value in session.read(read).items() if name == "encoder_last_hidden_state"}
    ids, rows, at = inputs["decoder_input_ids"], [], 0
    for count in chunks:
        rows.append(session.feed(ids[0, at : at + count].tolist()))
        at += count
    return outputs | {"logits": np.concatenate(rows)[None]}


def reading(
    plan: Plan, truth: Any, extractor: Any, random: np.random.Generator, rows: int
) -> Iterator[tuple[str, Inputs, np.ndarray | None]]:
    """What the encoder reads: texts of the longest, the shortest and a padded length, or sounds."""
    assert plan.sequence_length is not None
    if architectures.takes(architectures.find(truth.config.model_type))[0] == "input_features":
        yield from _sounds(plan, truth, extractor, random, rows)
        return
    for count in sorted({min(_lengths(plan.sequence_length)), max(_lengths(plan.sequence_length))}):
        ids = random_ids(truth, (rows, count), random)
        if isinstance(end := truth.config.eos_token_id, int):
            # One end in each text, where those that classify look.
            ids[ids == end] = (end + 1) % truth.config.vocab_size
            ids[:, count // 2] = end
        mask = np.ones_like(ids)
        yield f"{count} tokens", {"input_ids": ids, **({"attention_mask": mask} if plan.attention_mask else {})}, None
        if plan.attention_mask and count > 2:
            mask = mask.copy()
            mask[:, count - count // 3 :] = 0
            yield f"{count} tokens, a third of them padding", {"input_ids": ids, "attention_mask": mask}, None


def _sounds(
    plan: Plan, truth: Any, extractor: Any, random: np.random.Generator, rows: int
) -> Iterator[tuple[str, Inputs, np.ndarray | None]]:
    samples = plan.sequence_length
    assert isinstance(samples, int)
    if not plan.postprocess:
        hop = hop_length({} if extractor is None else {"hop_length": extractor.hop_length})
        shape = (rows, truth.config.num_mel_bins, samples // hop)
        yield f"{shape[2]} frames", {"input_features": random.normal(size=shape).astype(np.float32)}, None
        return
    for part in (1, 2):
        # A tone that wanders, as voices do, with zeros behind it in the second sound.
        sound = np.zeros((rows, samples), np.float32)
        count = samples // part
        steps = random.uniform(0.01, 0.2, (rows, count // 100 + 1)).repeat(100, axis=1)[:, :count]
        sound[:, :count] = 0.3 * np.sin(np.cumsum(steps, axis=1)) + 0.01 * random.normal(size=(rows, count))
        features = reference.spectrogram(extractor, sound)
        yield f"{count} of {samples} samples", {"input_features": features}, sound


def _lengths(length: Length) -> list[int]:
    return [length] if isinstance(length, int) else list(length)


def random_ids(truth: Any, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    return random.integers(0, truth.config.vocab_size, shape, np.int32)
