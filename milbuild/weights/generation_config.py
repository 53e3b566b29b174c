"""What a checkpoint's generation_config.json says: which of its fields are honoured, what a package keeps of it, and what it
asks for that is not done."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from milbuild.errors import Error

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


def answer_start(generation: Mapping[str, Any]) -> int:
    """The token that a decoder after an encoder begins with. Raises `Error`."""
    start = generation.get("decoder_start_token_id", generation.get("bos_token_id"))
    if isinstance(start, list):
        start = start[0]
    if start is None:
        raise Error(
            "neither generation_config.json nor config.json names a decoder_start_token_id",
            "The decoder begins with it.",
        )
    return int(start)
