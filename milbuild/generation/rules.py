"""The rules of a generation_config.json on the scores of the next token: transformers' logits processors
(transformers/generation/logits_process.py), in its order (generation/utils.py, _get_logits_processor).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milbuild.weights.generation_config import ends


class Rules:
    """The rules of a generation configuration for a sequence that begins with `begin` tokens and has at most `longest`.

    `given` is the text that is answered or continued, where there is one.
    """

    def __init__(
        self, generation: Mapping[str, Any], begin: int, longest: int, given: Sequence[int] | None = None
    ) -> None:
        self.generation, self.begin, self.longest, self.given = generation, begin, longest, given
        self.stop = list(ends(generation))
        self.biases = _biases(generation.get("sequence_bias"))
        # As in transformers, an end of the text that is listed alone is no bad word.
        banned = [words for words in generation.get("bad_words_ids") or [] if words not in [[end] for end in self.stop]]
        self.banned = [(words, -np.inf) for words in banned]

    def __call__(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        """Scores (vocabulary,) of the token after `sequence`, minus infinity for those that may not follow."""
        g, count = self.generation, len(sequence)
        scores = _biased(scores.astype(np.float32).copy(), sequence, self.biases)
        if self.given is not None and (favour := g.get("encoder_repetition_penalty") or 1.0) != 1.0:
            seen = np.unique(np.array(self.given, np.int64))
            scores[seen] = np.where(scores[seen] < 0, scores[seen] / favour, scores[seen] * favour)
        if (penalty := g.get("repetition_penalty") or 1.0) != 1.0:
            seen = np.unique(np.array(sequence, np.int64))
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        if size := g.get("no_repeat_ngram_size"):
            scores[_repeated(sequence, size)] = -np.inf
        if self.given is not None and (size := g.get("encoder_no_repeat_ngram_size")):
            scores[_repeated(sequence, size, self.given)] = -np.inf
        scores = _biased(scores, sequence, self.banned)
        if count < (g.get("min_length") or 0) or count - self.begin < (g.get("min_new_tokens") or 0):
            scores[self.stop] = -np.inf
        first = g.get("forced_bos_token_id")
        if first is not None and count == 1:
            scores = _only(scores, first)
        last = g.get("forced_eos_token_id")
        if last is not None and count == self.longest - 1:
            scores = _only(scores, last)
        start, factor = g.get("exponential_decay_length_penalty") or (0, 1.0)
        if factor != 1.0 and (late := count - self.begin - start) > 0:
            scores[self.stop] += np.abs(scores[self.stop]) * np.float32(factor**late - 1)
        scores[list(g.get("suppress_tokens") or [])] = -np.inf
        begin = self.begin if self.begin > 1 or first is None else self.begin + 1
        if count == begin:
            scores[list(g.get("begin_suppress_tokens") or [])] = -np.inf
        return scores


class Timestamps:
    """Whisper's rules for timestamps, applied after those of `Rules`: they come in pairs, except before the end of the text,
    and never decrease; the first token is one, and so is any for which all timestamps together are likelier than every other
    token.

    The sequence begins with `begin` tokens; `latest` is the last timestamp, the end of the window.
    Reference: WhisperTimeStampLogitsProcessor.
    """

    def __init__(self, generation: Mapping[str, Any], begin: int, latest: int) -> None:
        self.begin, self.latest = begin, latest
        self.marker = int(generation["no_timestamps_token_id"])
        self.first = self.marker + 1
        (self.stop, *_) = (*ends(generation), generation.get("bos_token_id"))
        self.initial = generation.get("max_initial_timestamp_index")

    def __call__(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        """Scores (vocabulary,) of the token after `sequence`, minus infinity for those that may not follow."""
        first, new = self.first, sequence[self.begin :]
        scores = scores.copy()
        scores[self.marker] = -np.inf
        scores[first + self.latest + 1 :] = -np.inf
        last = bool(new) and new[-1] >= first
        before = len(new) < 2 or new[-2] >= first
        if last:
            scores[slice(first, None) if before else slice(self.stop)] = -np.inf
        times = [token for token in new if token >= first]
        if times:
            # The second of a pair may equal the first; what is said between them takes time.
            scores[first : times[-1] + (0 if last and not before else 1)] = -np.inf
        if not new:
            scores[:first] = -np.inf
            if self.initial is not None:
                scores[first + self.initial + 1 :] = -np.inf
        likeliest, highest = scores[first:].max(), scores[:first].max()
        if likeliest > -np.inf and likeliest + np.log(np.exp(scores[first:] - likeliest).sum()) > highest:
            scores[:first] = -np.inf
        return scores


def _only(scores: np.ndarray, tokens: int | list[int]) -> np.ndarray:
    only = np.full_like(scores, -np.inf)
    only[tokens] = 0
    return only


def _biases(given: Any) -> list[tuple[list[int], float]]:
    """Tokens, and what is added to the score of the last of them after the others; in JSON a list of pairs."""
    pairs = given.items() if isinstance(given, Mapping) else given or []
    return [(list(words), float(bias)) for words, bias in pairs]


def _biased(scores: np.ndarray, sequence: Sequence[int], biases: list[tuple[list[int], float]]) -> np.ndarray:
    for (*before, last), bias in biases:
        if not before or list(sequence[-len(before) :]) == before:
            scores[last] += bias
    return scores


def _repeated(sequence: Sequence[int], size: int, text: Sequence[int] | None = None) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that the sequence, or another text, has already."""
    if len(sequence) + 1 < size:
        return []
    text = sequence if text is None else text
    end = tuple(sequence[len(sequence) - size + 1 :])
    starts = range(len(text) - size + 1)
    return [text[at + size - 1] for at in starts if tuple(text[at : at + size - 1]) == end]
