"""Real trained checkpoints, which lie beside the project where it is developed."""

import json

import numpy as np
import pytest
import torch

import milbuild
from milbuild.generation import Sampling, Session, generate_tokens
from milbuild.validation import reference as hf
from tests.conftest import reference, shared

NEW = 200
PROMPTS = range(3)


def _expected(number: int) -> tuple[list[int], list[int]]:
    """(prompt, 200 tokens of transformers' generate behind it): greedy, float32, past the end of text as well."""
    folder = shared("capp-gpt2")
    example = json.loads((folder / "expected.json").read_text())["examples"][number]
    prompt = example["input_ids"]
    truth = reference(folder)
    ids = torch.tensor([prompt])
    whole = truth.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW,
        min_new_tokens=None,
        eos_token_id=None,
        pad_token_id=None,
    )[0].tolist()
    assert whole[: len(example["output_ids"])] == example["output_ids"]
    return prompt, whole[len(prompt) :]


@pytest.mark.parametrize("number", PROMPTS)
@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": (1, 256)},
        {"cache": "io", "context_length": 256, "prefill_length": 4},
        {"cache": "io", "context_length": (1, 256)},
    ],
    ids=["none", "io", "io, growing"],
)
def test_greedy_text_is_that_of_transformers(number: int, options: dict) -> None:
    prompt, expected = _expected(number)
    session = Session(milbuild.build(shared("capp-gpt2"), precision="float32", **options))
    assert list(generate_tokens(session, prompt, NEW, (), Sampling())) == expected


@pytest.mark.parametrize("number", PROMPTS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tokens_with_a_state_under_teacher_forcing(number: int, precision: str) -> None:
    prompt, expected = _expected(number)
    session = Session(milbuild.build(shared("capp-gpt2"), cache="state", prefill_length=4, precision=precision))
    chosen = [int(session.feed(prompt)[-1].argmax())]
    chosen += [int(session.feed([token])[-1].argmax()) for token in expected[:-1]]
    assert np.mean(np.array(chosen) == np.array(expected)) >= 0.995


def test_float16_on_real_weights() -> None:
    folder = shared("capp-gpt2")
    report = milbuild.validate(milbuild.build(folder, sequence_length=64), folder)
    assert report.passed
    assert report.verdict == "passed"
    assert {row.backend for row in report.rows} >= {"float32", "declared"}


def test_the_reference_is_not_ours() -> None:
    """transformers' own forward gives the tokens that the checkpoint's publisher recorded."""
    folder = shared("capp-gpt2")
    example = json.loads((folder / "expected.json").read_text())["examples"][0]
    logits = hf.forward(reference(folder), {"input_ids": np.int32([example["output_ids"]])})["logits"][0]
    start = len(example["input_ids"]) - 1
    assert logits[start:-1].argmax(-1).tolist() == example["output_ids"][start + 1 :]
