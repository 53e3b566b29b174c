"""What a checkpoint's generation_config.json asks of the next token, on scores: transformers' logits processors
(transformers/generation/logits_process.py), in its order (generation/utils.py, _get_logits_processor).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# The fields of generation_config.json that are honoured, and those that say where an answer begins and ends.
FIELDS = (
    *("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("repetition_penalty", "no_repeat_ngram_size", "min_length", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens"),
    # of Whisper
    *("forced_decoder_ids", "is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id"),
    *("max_initial_timestamp_index", "prev_sot_token_id", "return_timestamps"),
)
METADATA_KEY = "milbuild.generation"


def kept(generation: Mapping[str, Any]) -> str:
    """What of a generation_config.json goes into a package's metadata, as JSON."""
    return json.dumps({name: generation[name] for name in FIELDS if generation.get(name) is not None}, sort_keys=True)


def of_package(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a package's metadata says of generating; nothing for packages of other tools."""
    found: dict[str, Any] = json.loads(metadata.get(METADATA_KEY, "{}"))
    return found


def ends(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """The token ids that end a text."""
    eos = generation.get("eos_token_id")
    return tuple(eos if isinstance(eos, list) else [] if eos is None else [eos])


class Rules:
    """The rules of a generation configuration for a sequence that begins with `begin` tokens and has at most `longest`."""

    def __init__(self, generation: Mapping[str, Any], begin: int, longest: int) -> None:
        self.generation, self.begin, self.longest = generation, begin, longest
        self.stop = list(ends(generation))

    def __call__(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        """Scores (vocabulary,) of the token behind `sequence`, those that may not follow as minus infinity."""
        g, count = self.generation, len(sequence)
        scores = scores.astype(np.float32).copy()
        if (penalty := g.get("repetition_penalty") or 1.0) != 1.0:
            seen = np.unique(np.array(sequence, np.int64))
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        if size := g.get("no_repeat_ngram_size"):
            scores[_repeated(sequence, size)] = -np.inf
        if count < (g.get("min_length") or 0):
            scores[self.stop] = -np.inf
        first = g.get("forced_bos_token_id")
        if first is not None and count == 1:
            scores = _only(scores, first)
        last = g.get("forced_eos_token_id")
        if last is not None and count == self.longest - 1:
            scores = _only(scores, last)
        scores[list(g.get("suppress_tokens") or [])] = -np.inf
        begin = self.begin if self.begin > 1 or first is None else self.begin + 1
        if count == begin:
            scores[list(g.get("begin_suppress_tokens") or [])] = -np.inf
        return scores


def _only(scores: np.ndarray, tokens: int | list[int]) -> np.ndarray:
    only = np.full_like(scores, -np.inf)
    only[tokens] = 0
    return only


def _repeated(sequence: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete `size` tokens which stand in the sequence already."""
    if len(sequence) + 1 < size:
        return []
    end = tuple(sequence[len(sequence) - size + 1 :])
    starts = range(len(sequence) - size + 1)
    return [sequence[at + size - 1] for at in starts if tuple(sequence[at : at + size - 1]) == end]
