"""What generation_config.json asks of the next token, against transformers' own `generate` on the same scores."""

from typing import Any

import numpy as np
import pytest

from milbuild.generation.rules import Rules
from milbuild.weights import generation_config
from tests.tiny import TABLE

PROMPT = [1, 4, 6, 9, 11, 4, 6]
NEW = 16


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TABLE["llama"].config)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _greedy(model: Any, rules: Any) -> list[int]:
    import torch

    sequence = list(PROMPT)
    while len(sequence) < len(PROMPT) + NEW:
        with torch.no_grad():
            scores = model(torch.tensor([sequence])).logits[0, -1].numpy()
        sequence.append(int(rules(scores, sequence).argmax()))
        if sequence[-1] in rules.stop:
            break
    return sequence


# Where a text begins, and what is Whisper's: tests of answers and of speech.
ELSEWHERE = {"decoder_start_token_id", "bos_token_id", "pad_token_id", "forced_bos_token_id", "language", "task"} | set(
    generation_config.FIELDS[generation_config.FIELDS.index("forced_decoder_ids") :]
)


@pytest.mark.parametrize("field", [*(name for name in generation_config.FIELDS if name not in ELSEWHERE), "plain"])
def test_each_field_does_what_it_does_in_transformers(field: str, model: Any) -> None:
    """Made of what the model says without the field, so that each changes the text."""
    import torch

    base = {"bos_token_id": 1, "pad_token_id": 5}
    plain = _greedy(model, Rules(base, len(PROMPT), len(PROMPT) + NEW, PROMPT))
    said = plain[len(PROMPT) :]
    fields: dict[str, dict[str, Any]] = {
        "plain": {},
        "eos_token_id": {"eos_token_id": [said[3], said[5]]},
        "repetition_penalty": {"repetition_penalty": 3.0},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "min_length": {"min_length": len(PROMPT) + 9, "eos_token_id": said[3]},
        "forced_eos_token_id": {"forced_eos_token_id": said[-1] - 1},
        "suppress_tokens": {"suppress_tokens": said[:2]},
        "begin_suppress_tokens": {"begin_suppress_tokens": said[:1]},
        "bad_words_ids": {"bad_words_ids": [[said[2]], [*said[4:6]], [said[8], said[8]], [60]], "eos_token_id": 60},
        "sequence_bias": {"sequence_bias": [[[said[0]], -9.0], [[PROMPT[-1], 20], 50.0], [[said[5], 20], -50.0]]},
        "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": said[3]},
        "exponential_decay_length_penalty": {"exponential_decay_length_penalty": [2, 2.5], "eos_token_id": 60},
        "encoder_repetition_penalty": {"encoder_repetition_penalty": 9.0},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1, "suppress_tokens": said[:4]},
    }
    generation = base | fields[field]
    kept = generation_config.of_package({generation_config.METADATA_KEY: generation_config.kept(generation)})
    ours = _greedy(model, Rules(kept, len(PROMPT), len(PROMPT) + NEW, PROMPT))
    model.generation_config = type(model.generation_config)(**generation)
    truth = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW, do_sample=False)[0].tolist()
    assert ours == truth
    if field not in ("plain", "encoder_no_repeat_ngram_size"):
        assert ours != plain, "a field that changes nothing proves nothing"


def test_the_prompt_is_what_an_encoder_s_rules_are_of() -> None:
    """Without a text that is answered, as with sounds, they do nothing, as in transformers."""
    rules = Rules({"encoder_repetition_penalty": 9.0, "encoder_no_repeat_ngram_size": 1}, 1, 9)
    scores = np.array([0.5, -0.5, 2.0], np.float32)
    assert rules(scores, [1]).tolist() == scores.tolist()
    rules = Rules({"encoder_no_repeat_ngram_size": 2}, 1, 9, [2, 0, 1, 2])
    assert rules(scores, [0]).tolist() == [0.5, float("-inf"), 2.0]


# What each asks for, as generation_config.json has it.
ASKED: dict[str, Any] = {
    **{"num_beams": 4, "penalty_alpha": 0.6, "dola_layers": "low", "constraints": [[3]], "force_words_ids": [[3]]},
    **{"guidance_scale": 1.5, "watermarking_config": {"bias": 9.0}, "stop_strings": ["."], "max_time": 2.5},
    **{"token_healing": True, "cache_implementation": "quantized", "condition_on_prev_tokens": True},
    **{"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "top_h": 0.4, "typical_p": 0.5},
    **{"epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4},
}
NEUTRAL: dict[str, Any] = {
    **{"num_beams": 1, "penalty_alpha": 0.0, "dola_layers": None, "constraints": None, "force_words_ids": None},
    **{"guidance_scale": 1.0, "watermarking_config": None, "stop_strings": [], "max_time": None},
    **{"token_healing": False, "cache_implementation": "static", "condition_on_prev_tokens": False},
    **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "top_h": None, "typical_p": 1.0},
    **{"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "do_sample": False},
}


def test_every_field_of_transformers_is_done_or_said_or_without_effect() -> None:
    import transformers

    tables = (
        generation_config.FIELDS,
        generation_config.LENGTHS,
        generation_config.UNDONE,
        generation_config.SAMPLING,
        generation_config.WITHOUT_EFFECT,
        ("do_sample",),
    )
    known = [name for table in tables for name in table]
    assert set(vars(transformers.GenerationConfig())) <= set(known)
    assert len(known) == len(set(known)), "a field has one of them"


@pytest.mark.parametrize("field", [*generation_config.UNDONE, *generation_config.SAMPLING])
def test_what_is_not_done_is_said(field: str) -> None:
    """From the package's metadata, and only where it asks for anything."""

    def package(generation: dict[str, Any]) -> dict[str, Any]:
        return generation_config.of_package({generation_config.METADATA_KEY: generation_config.kept(generation)})

    assert generation_config.undone(package(NEUTRAL)) is None
    assert generation_config.undone(package(NEUTRAL), ["temperature"]) is None
    sampled = field in generation_config.SAMPLING
    asked = package({**NEUTRAL, field: ASKED[field]})
    if sampled:
        assert generation_config.undone(asked) is None, "greedy, as transformers without do_sample"
        assert generation_config.undone(asked, [field]) is None, "the user gave it"
        assert field in (generation_config.undone(package({**asked, "do_sample": True})) or "")
    assert f"{field} " in (generation_config.undone(asked, ["seed"] if sampled else []) or "")


def test_sampling_is_said_where_the_likeliest_token_is_taken() -> None:
    asked = {"do_sample": True, "temperature": 0.6, "top_p": 1.0}
    assert (generation_config.undone(asked) or "").endswith(": do_sample true, temperature 0.6")
    assert generation_config.undone(asked, ["temperature"]) is None
    assert generation_config.undone(asked, speech=True) is None, "transformers' Whisper takes it from its caller alone"
    silence = {"no_speech_threshold": 0.6, "logprob_threshold": -1.0}
    assert (generation_config.undone(silence, speech=True) or "").endswith(
        ": no_speech_threshold 0.6, logprob_threshold -1.0"
    )
    assert generation_config.undone({"no_speech_threshold": 0.6}, speech=True) is None, (
        "transformers skips nothing by it alone"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"early_stopping": True, "length_penalty": 2.0, "diversity_penalty": 0.0, "num_beam_groups": 1},
        {"renormalize_logits": True, "remove_invalid_values": True},
        {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2, "num_assistant_tokens": 5},
        {"use_cache": False, "low_memory": True, "return_dict_in_generate": False, "output_scores": True},
        {"cache_implementation": "static", "temperature": 0.3, "top_k": 3, "top_p": 0.2, "typical_p": 0.2},
        {"is_assistant": True, "assistant_confidence_threshold": 0.0},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_what_is_not_said_changes_nothing_in_transformers(fields: dict[str, Any], model: Any) -> None:
    import torch

    base = {"bos_token_id": 1, "pad_token_id": 5, "eos_token_id": 60}
    plain = _greedy(model, Rules(base, len(PROMPT), len(PROMPT) + NEW, PROMPT))
    assert generation_config.undone(fields) is None
    model.generation_config = type(model.generation_config)(**base, **fields)
    ids = torch.tensor([PROMPT])
    truth = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)[0].tolist()
    assert truth == plain
