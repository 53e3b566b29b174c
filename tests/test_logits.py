"""What generation_config.json asks of the next token, against transformers' own `generate` on the same scores."""

from typing import Any

import numpy as np
import pytest

from milbuild import logits
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
    logits.FIELDS[logits.FIELDS.index("forced_decoder_ids") :]
)


@pytest.mark.parametrize("field", [*(name for name in logits.FIELDS if name not in ELSEWHERE), "plain"])
def test_each_field_does_what_it_does_in_transformers(field: str, model: Any) -> None:
    """Made of what the model says without the field, so that each changes the text."""
    import torch

    base = {"bos_token_id": 1, "pad_token_id": 5}
    plain = _greedy(model, logits.Rules(base, len(PROMPT), len(PROMPT) + NEW, PROMPT))
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
    kept = logits.of_package({logits.METADATA_KEY: logits.kept(generation)})
    ours = _greedy(model, logits.Rules(kept, len(PROMPT), len(PROMPT) + NEW, PROMPT))
    model.generation_config = type(model.generation_config)(**generation)
    truth = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW, do_sample=False)[0].tolist()
    assert ours == truth
    if field not in ("plain", "encoder_no_repeat_ngram_size"):
        assert ours != plain, "a field that changes nothing proves nothing"


def test_the_prompt_is_what_an_encoder_s_rules_are_of() -> None:
    """Without a text that is answered, as with sounds, they do nothing, as in transformers."""
    rules = logits.Rules({"encoder_repetition_penalty": 9.0, "encoder_no_repeat_ngram_size": 1}, 1, 9)
    scores = np.array([0.5, -0.5, 2.0], np.float32)
    assert rules(scores, [1]).tolist() == scores.tolist()
    rules = logits.Rules({"encoder_no_repeat_ngram_size": 2}, 1, 9, [2, 0, 1, 2])
    assert rules(scores, [0]).tolist() == [0.5, float("-inf"), 2.0]
