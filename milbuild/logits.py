"""What a checkpoint's generation_config.json asks of the next token, on scores: transformers' logits processors
(transformers/generation/logits_process.py), in its order (generation/utils.py, _get_logits_processor).
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

# The fields of generation_config.json that are honoured, and those that say where an answer begins and ends.
FIELDS = (
    *("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("repetition_penalty", "no_repeat_ngram_size", "min_length", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias"),
    *("min_new_tokens", "exponential_decay_length_penalty"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"),
    # of Whisper
    *("forced_decoder_ids", "is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id"),
    *("max_initial_timestamp_index", "prev_sot_token_id", "return_timestamps"),
    *("language", "task"),
)
# Those that say how long a transcript of a window is at most.
LENGTHS = ("max_length", "max_new_tokens")
METADATA_KEY = "milbuild.generation"


def _above(least: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and value > least


def _not(neutral: float) -> Callable[[Any], bool]:
    return lambda value: value != neutral


# Fields that are not honoured and change the text -> whether a value asks for anything.
UNDONE: dict[str, Callable[[Any], bool]] = {
    "num_beams": _above(1),
    "penalty_alpha": _above(0),
    "dola_layers": bool,
    "constraints": bool,
    "force_words_ids": bool,
    "guidance_scale": _not(1),
    "watermarking_config": bool,
    "stop_strings": bool,
    "max_time": bool,
    "token_healing": bool,
    "cache_implementation": lambda value: value == "quantized",  # keys and values of a few bits
    # of Whisper
    "condition_on_prev_tokens": bool,
}
# Those of sampling, which `do_sample` turns on.
SAMPLING: dict[str, Callable[[Any], bool]] = {
    "temperature": _not(1),
    "top_k": _above(0),
    "top_p": _not(1),
    "min_p": _above(0),
    "top_h": bool,
    "typical_p": _not(1),
    "epsilon_cutoff": _above(0),
    "eta_cutoff": _above(0),
}
# Fields that leave one text of greedy tokens as it is: how keys and values are stored, how fast tokens are guessed ahead, what is
# returned beside the text, what counts with beams only, and scores that are no numbers.
WITHOUT_EFFECT = (
    *("use_cache", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"),
    *("compile_config", "disable_compile", "continuous_batching_config"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "use_mtp"),
    *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    "return_dict_in_generate",
    *("early_stopping", "length_penalty", "diversity_penalty", "num_beam_groups"),
    *("renormalize_logits", "remove_invalid_values"),
    *("transformers_version", "_from_model_config"),
)
# Whisper skips a window that both of them call silent.
SILENCE = ("no_speech_threshold", "logprob_threshold")


def kept(generation: Mapping[str, Any]) -> str:
    """What of a generation_config.json goes into a package's metadata, as JSON: what is honoured, and what else it asks for."""
    found = {name: generation[name] for name in (*FIELDS, *LENGTHS, *SILENCE) if generation.get(name) is not None}
    found |= {name: generation[name] for name in UNDONE if _asks(generation, name, UNDONE)}
    if generation.get("do_sample") is True:
        found["do_sample"] = True
    found |= {name: generation[name] for name in SAMPLING if _asks(generation, name, SAMPLING)}
    return json.dumps(found, sort_keys=True)


def undone(generation: Mapping[str, Any], sampled: Collection[str] = (), speech: bool = False) -> str | None:
    """One line for what a generation configuration asks of a text and is not done; None where that is nothing.

    `sampled` names the fields of sampling that the user gave, who then samples; a sound's text is never sampled, as in
    transformers, which takes its temperatures from whoever calls it.
    """
    asked = [name for name in UNDONE if _asks(generation, name, UNDONE)]
    settings = [name for name in SAMPLING if _asks(generation, name, SAMPLING) and name not in sampled]
    if speech and all(generation.get(name) is not None for name in SILENCE):
        asked += SILENCE
    if not speech and sampled:
        asked += settings
    elif not speech and generation.get("do_sample") is True:
        asked += ["do_sample", *settings]
    if not asked:
        return None
    said = ", ".join(f"{name} {json.dumps(generation[name])}" for name in asked)
    return f"the checkpoint's generation configuration asks for what is not done here, and the text may differ: {said}"


def _asks(generation: Mapping[str, Any], name: str, table: Mapping[str, Callable[[Any], bool]]) -> bool:
    value = generation.get(name)
    return value is not None and table[name](value)


def of_package(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a package's metadata says of generating; nothing for packages of other tools."""
    found: dict[str, Any] = json.loads(metadata.get(METADATA_KEY, "{}"))
    return found


def ends(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """The token ids that end a text."""
    eos = generation.get("eos_token_id")
    return tuple(eos if isinstance(eos, list) else [] if eos is None else [eos])


class Rules:
    """The rules of a generation configuration for a sequence that begins with `begin` tokens and has at most `longest`.

    `given` is the text that is answered or gone on with, where there is one.
    """

    def __init__(
        self, generation: Mapping[str, Any], begin: int, longest: int, given: Sequence[int] | None = None
    ) -> None:
        self.generation, self.begin, self.longest, self.given = generation, begin, longest, given
        self.stop = list(ends(generation))
        self.biases = _biases(generation.get("sequence_bias"))
        # An end of the text that stands among them alone is no bad word.
        banned = [words for words in generation.get("bad_words_ids") or [] if words not in [[end] for end in self.stop]]
        self.banned = [(words, -np.inf) for words in banned]

    def __call__(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        """Scores (vocabulary,) of the token behind `sequence`, those that may not follow as minus infinity."""
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
    """Whisper's rules for when something is said, behind those of `Rules`: timestamps come in pairs, but before the end of the
    text, and never go back; one comes first, and comes wherever it is likelier that there is one than any other token.

    The sequence begins with `begin` tokens; `latest` is the last timestamp, which stands for the end of the window.
    Reference: WhisperTimeStampLogitsProcessor.
    """

    def __init__(self, generation: Mapping[str, Any], begin: int, latest: int) -> None:
        self.begin, self.latest = begin, latest
        self.marker = int(generation["no_timestamps_token_id"])
        self.first = self.marker + 1
        (self.stop, *_) = (*ends(generation), generation.get("bos_token_id"))
        self.initial = generation.get("max_initial_timestamp_index")

    def __call__(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        """Scores (vocabulary,) of the token behind `sequence`, those that may not follow as minus infinity."""
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
            # The second of a pair may be the same; what is said behind it takes time.
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
    """Tokens and what is added to the score of the last of them behind the others; as JSON has it, a list of pairs."""
    pairs = given.items() if isinstance(given, Mapping) else given or []
    return [(list(words), float(bias)) for words, bias in pairs]


def _biased(scores: np.ndarray, sequence: Sequence[int], biases: list[tuple[list[int], float]]) -> np.ndarray:
    for (*before, last), bias in biases:
        if not before or list(sequence[-len(before) :]) == before:
            scores[last] += bias
    return scores


def _repeated(sequence: Sequence[int], size: int, text: Sequence[int] | None = None) -> list[int]:
    """Tokens that would complete `size` tokens which stand in the sequence already, or in another text."""
    if len(sequence) + 1 < size:
        return []
    text = sequence if text is None else text
    end = tuple(sequence[len(sequence) - size + 1 :])
    starts = range(len(text) - size + 1)
    return [text[at + size - 1] for at in starts if tuple(text[at : at + size - 1]) == end]
