"""Calls of models with an encoder and a decoder: what the encoder reads, and random token ids fed to the decoder."""

from collections.abc import Iterator

import numpy as np

from milbuild.generation.session import Session
from milbuild.program.plan import ANSWER, AUDIO
from milbuild.validation import reference
from milbuild.validation.comparison import Arrays, Comparison, lengths

CALLS = 4  # with another text or recording each, where a call gives few numbers
LONGEST = 48  # tokens that the decoder is fed: enough for some prefills and decodes

# (the case's name, transformers' inputs, what the package gets for input_features)
Inputs = tuple[str, Arrays, np.ndarray | None]


def whole_calls(comparison: Comparison) -> Iterator[Inputs]:
    """Of packages that run encoder and decoder in one call."""
    plan, rows = comparison.plan, CALLS * comparison.plan.batch_size
    for name, inputs, audio in encoder_inputs(comparison, rows):
        if plan.context_length is not None:
            length = max(lengths(plan.context_length))
            inputs = inputs | {"decoder_input_ids": random_ids(comparison, (rows, length))}
        yield f"{rows} x {name}", inputs, audio


def sequences(comparison: Comparison) -> Iterator[tuple[Inputs, list[int]]]:
    """Of packages with `decode`: the inputs, and how many tokens each feed takes."""
    plan = comparison.plan
    tokens = min(max(lengths(plan.context_length or ANSWER)), LONGEST)
    for name, inputs, audio in encoder_inputs(comparison, plan.batch_size):
        ids = random_ids(comparison, (plan.batch_size, tokens))
        ways = {f"answer of {tokens}": [tokens]}
        if plan.cache != "none":
            ways[f"answer of {tokens} one by one"] = [1] * tokens
        for way, chunks in ways.items():
            yield (f"{name}, {way}", inputs | {"decoder_input_ids": ids}, audio), chunks


def run(
    session: Session, comparison: Comparison, inputs: Arrays, audio: np.ndarray | None, chunks: list[int]
) -> Arrays:
    """The outputs of encoder and decoder by transformers' names: of a batch the scores of its first row."""
    outputs = encode(session, inputs, audio)
    ids, scores, at = inputs["decoder_input_ids"], [], 0
    for count in chunks:
        scores.append(session.feed(ids[0, at : at + count].tolist()))
        at += count
    return outputs | {"logits": np.concatenate(scores)[None, comparison.scored(chunks)]}


def encode(session: Session, inputs: Arrays, audio: np.ndarray | None) -> Arrays:
    """Runs the encoder; its hidden states, if the package has them as an output."""
    given = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    outputs = session.read(given if audio is None else {AUDIO: audio})
    return {name: value for name, value in outputs.items() if name == "encoder_last_hidden_state"}


def encoder_inputs(comparison: Comparison, rows: int) -> Iterator[Inputs]:
    """What the encoder reads: texts of the longest, the shortest and a padded length, or audio."""
    plan, config = comparison.plan, comparison.config
    assert plan.sequence_length is not None
    if comparison.main_input == "input_features":
        yield from _audio(comparison, rows)
        return
    for count in sorted({min(lengths(plan.sequence_length)), max(lengths(plan.sequence_length))}):
        ids = comparison.samples.ids(config.vocab_size, rows, count)
        if isinstance(end := config.eos_token_id, int):
            # One end-of-sequence token in each text, where classification heads look.
            ids[ids == end] = (end + 1) % config.vocab_size
            ids[:, count // 2] = end
        mask = np.ones_like(ids)
        name = f"{count} tokens{comparison.samples.origin}"
        yield name, {"input_ids": ids, **({"attention_mask": mask} if plan.attention_mask else {})}, None
        if plan.attention_mask and count > 2:
            mask = mask.copy()
            mask[:, count - count // 3 :] = 0
            yield f"{name}, a third of them padding", {"input_ids": ids, "attention_mask": mask}, None


def _audio(comparison: Comparison, rows: int) -> Iterator[Inputs]:
    samples, length = comparison.samples, comparison.plan.sequence_length
    assert isinstance(length, int)
    if not comparison.plan.postprocess:
        shape = (rows, comparison.config.num_mel_bins, length // samples.hop)
        yield f"{shape[2]} frames{samples.origin}", {"input_features": samples.features(*shape)}, None
        return
    for part in (1, 2):
        # The second recording is padded with zeros.
        audio = np.zeros((rows, length), np.float32)
        audio[:, : length // part] = samples.waveform(rows, length // part)
        features = {"input_features": reference.spectrogram(samples.extractor, audio)}
        yield f"{length // part} of {length} samples{samples.origin}", features, audio


def random_ids(comparison: Comparison, shape: tuple[int, ...]) -> np.ndarray:
    return comparison.samples.random.integers(0, comparison.config.vocab_size, shape, np.int32)
