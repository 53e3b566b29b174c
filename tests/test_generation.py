"""Choosing tokens and writing text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import milbuild
from milbuild.generation.sampling import Sampling, generate_tokens
from milbuild.generation.session import Session
from milbuild.generation.text import TextStream
from tests.conftest import checkpoint, reference


class Letters:
    """A tokenizer as simple as can be: a token for each of 59 characters behind two special ones."""

    eos_token_id = 2

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 64 + 2 for c in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(int(i) + 64 - 2) for i in ids if i > 2)


def test_greedy_is_the_likeliest() -> None:
    assert Sampling().choose(np.float32([0, 3, 3, 1])) == 1, "the first of equals, as torch's argmax"


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_top_k_leaves_the_k_likeliest(scores: list[float], k: int, seed: int) -> None:
    chosen = Sampling(temperature=1.5, top_k=k, seed=seed).choose(np.float32(scores))
    assert sorted(scores, reverse=True)[:k][-1] <= scores[chosen]


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    scores = np.log(np.float32([0.5, 0.3, 0.15, 0.05]))
    drawn = {Sampling(temperature=1.0, top_p=0.75, seed=seed).choose(scores) for seed in range(200)}
    assert drawn == {0, 1}
    assert {Sampling(temperature=1.0, top_p=1e-6, seed=seed).choose(scores) for seed in range(20)} == {0}


def test_sampling_follows_the_probabilities() -> None:
    sampling = Sampling(temperature=1.0, seed=0)
    scores = np.log(np.float32([0.6, 0.3, 0.1]))
    counts = np.bincount([sampling.choose(scores) for _ in range(4000)], minlength=3) / 4000
    assert np.allclose(counts, [0.6, 0.3, 0.1], atol=0.03)


def test_a_seed_repeats_itself() -> None:
    model = milbuild.build(checkpoint(), cache="state", prefill_length=4)
    texts = {milbuild.generate(model, Letters(), "ABC", temperature=2.0, seed=7, max_new_tokens=12) for _ in range(3)}
    other = milbuild.generate(model, Letters(), "ABC", temperature=2.0, seed=8, max_new_tokens=12)
    assert len(texts) == 1
    assert texts != {other}


@pytest.mark.parametrize(
    "options",
    [{"cache": "state", "prefill_length": 4}, {"sequence_length": (1, 29)}, {"sequence_length": 29, "batch_size": 2}],
)
def test_text_is_that_of_transformers(options: dict) -> None:
    import torch

    model = milbuild.build(checkpoint(), precision="float32", **options)
    stream = TextStream(model, Letters(), "HELLO", max_new_tokens=15)
    pieces = list(stream)
    ids = torch.tensor([Letters().encode("HELLO")])
    whole = reference(checkpoint()).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=15, eos_token_id=2, pad_token_id=2
    )[0]
    expected = Letters().decode(whole.tolist()[5:])
    assert "".join(pieces) == expected
    assert stream.speed()["prompt_tokens"] == 5


def test_it_stops_at_the_end_of_text() -> None:
    session = Session(milbuild.build(checkpoint(), cache="state", precision="float32"))
    free = list(generate_tokens(session, [7, 8, 9], 12, (), Sampling()))
    session.reset()
    stop = free[4]
    assert list(generate_tokens(session, [7, 8, 9], 12, (stop,), Sampling())) == free[: free.index(stop)]


def test_a_prompt_and_its_text_stay_within_the_context() -> None:
    model = milbuild.build(checkpoint(), cache="state", context_length=8)
    with pytest.raises(milbuild.Error, match="the prompt has 9 tokens, the context 8"):
        TextStream(model, Letters(), "A" * 9)
    with pytest.raises(milbuild.Error, match="leaves 1 to 4"):
        TextStream(model, Letters(), "A" * 5, max_new_tokens=5)
    stream = TextStream(model, Letters(), "A" * 5)
    stream.stop = ()
    "".join(stream)
    assert len(stream.tokens) == 4, "the last token is written but not fed"
    assert len("".join(TextStream(model, Letters(), "A" * 8))) <= 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_wrong_sampling_is_refused(options: dict, text: str) -> None:
    with pytest.raises(milbuild.Error, match=text):
        Sampling(**options)


def test_a_package_for_another_task_writes_nothing() -> None:
    model = milbuild.build(checkpoint("gpt2", "token-classification"), task="token-classification", sequence_length=8)
    with pytest.raises(milbuild.Error, match="token-classification"):
        TextStream(model, Letters(), "A")


def test_an_output_that_the_next_call_needs() -> None:
    """A package without it serves for one call."""
    session = Session(milbuild.build(checkpoint(), cache="io", outputs={"present_key_values_1_key": None}))
    session.feed([3])
    with pytest.raises(milbuild.Error, match="without the output present_key_values_1_key, which the next call needs"):
        session.feed([4])
