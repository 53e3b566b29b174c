"""Random numbers: their distribution, and what a seed does. Every test of a distribution has a fixed seed."""

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milbuild.runtime import random
from tests.runtime.harness import Fault, covers, run

COUNT = 20_000
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5)
PLAIN: dict[str, dict[str, Any]] = {  # any arguments of each operation of a shape
    "random_bernoulli": {"prob": np.float32(0.5)},
    "random_normal": {"mean": np.float32(0), "stddev": np.float32(1)},
    "random_uniform": {"low": np.float32(0), "high": np.float32(1)},
}


def spread_like(values: np.ndarray, cumulative: Any) -> None:
    """Kolmogorov and Smirnov: as many values up to each place as the distribution says; 1.95 / sqrt(n) is one in a thousand."""
    ordered = np.sort(values.reshape(-1).astype(np.float64))
    expected = np.array([cumulative(value) for value in ordered])
    ranks = np.arange(len(ordered) + 1) / len(ordered)
    apart = max(np.abs(expected - ranks[1:]).max(), np.abs(expected - ranks[:-1]).max())
    assert apart < 1.95 / math.sqrt(len(ordered)), apart


@covers(*PLAIN)
@given(shape=shapes, seed=st.integers(0, 2**31 - 1))
def test_shapes(operation: str, shape: list[int], seed: int) -> None:
    """The shape is known when the program is built, or only at the call; the seed decides."""
    wanted = np.array(shape, np.int32)
    fixed = run(operation, {}, shape=wanted, seed=np.int32(seed), **PLAIN[operation])
    late = run(operation, {"shape": wanted}, seed=np.int32(seed), **PLAIN[operation])
    assert fixed.shape == late.shape == tuple(shape)
    assert fixed.dtype == np.float32
    np.testing.assert_array_equal(fixed, late)


@covers(*PLAIN)
def test_seeds(operation: str) -> None:
    def draw(seed: int | None) -> np.ndarray:
        chosen = {} if seed is None else {"seed": np.int32(seed)}
        return run(operation, {}, shape=np.array([200], np.int32), **chosen, **PLAIN[operation])

    np.testing.assert_array_equal(draw(0), draw(0))
    torch.manual_seed(0)  # torch's own numbers have no part in it, with a seed or without
    first = draw(None)
    torch.manual_seed(0)
    for one, other in [(draw(0), draw(1)), (draw(-1), draw(-1)), (first, draw(None))]:
        assert not np.array_equal(one, other)


@covers("random_bernoulli")
def test_bernoulli() -> None:
    for prob in (0.0, 0.2, None, 1.0):
        chosen = {} if prob is None else {"prob": np.float32(prob)}
        values = run("random_bernoulli", {}, shape=np.array([COUNT], np.int32), seed=np.int32(3), **chosen)
        wanted = 0.5 if prob is None else prob
        assert values.dtype == np.float32
        assert set(values.tolist()) <= {0.0, 1.0}
        assert abs(values.mean() - wanted) <= 3.3 * math.sqrt(wanted * (1 - wanted) / COUNT)


@covers("random_normal")
def test_normal() -> None:
    for chosen in ({}, {"mean": np.float32(3), "stddev": np.float32(0.5)}, {"mean": np.float32(-2)}):
        values = run("random_normal", {}, shape=np.array([COUNT // 4, 4], np.int32), seed=np.int32(5), **chosen)
        center, width = (float(chosen.get(*default)) for default in (("mean", 0), ("stddev", 1)))
        spread_like(values, NormalDist(center, width).cdf)


@covers("random_normal")
def test_normal_without_width() -> None:
    shape = np.array([2, 1, 3], np.int32)
    values = run("random_normal", {}, shape=shape, mean=np.float32(1), stddev=np.float32(0))
    np.testing.assert_array_equal(values, np.ones((2, 1, 3)))


def cumulative(low: float, high: float) -> Any:
    return lambda x: (x - low) / (high - low)


@covers("random_uniform")
def test_uniform() -> None:
    for chosen in ({}, {"low": np.float32(-3), "high": np.float32(5)}, {"high": np.float32(0.25)}):
        values = run("random_uniform", {}, shape=np.array([COUNT], np.int32), seed=np.int32(5), **chosen)
        low, high = (float(chosen.get(*default)) for default in (("low", 0), ("high", 1)))
        spread_like(values, cumulative(low, high))
        assert low <= values.min()
        assert values.max() < high


@covers("random_uniform")
def test_the_upper_end_is_excluded() -> None:
    """The largest of many numbers would be rounded to `high`, in float16 above all."""
    for low, high, kind in itertools.product([0, 1000, -2, 2], [0, 1001, 2], [np.float16, np.float32]):
        if low > high:
            continue
        ends, shape = {"low": kind(low), "high": kind(high)}, np.array([COUNT], np.int32)
        values = run("random_uniform", {}, shape=shape, seed=np.int32(1), precision="declared", **ends)
        assert low <= values.min()
        assert values.max() < high or low == values.max() == high
        np.testing.assert_array_equal(values, values.astype(kind))


@covers("random_categorical")
@given(data=st.data())
def test_categorical_shapes(data: Any) -> None:
    """Rows that leave no choice: one class has all the probability."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    sure = data.draw(st.lists(st.integers(0, shape[-1] - 1), min_size=math.prod(shape[:-1]), max_size=10**6))
    sure = np.array(sure[: math.prod(shape[:-1])]).reshape(shape[:-1])
    one_hot = np.eye(shape[-1], dtype=np.float32)[sure]
    chosen = data.draw(
        st.fixed_dictionaries({}, optional={"size": st.integers(1, 5), "mode": st.sampled_from(["logits", "probs"])})
    )
    # A probability of 1 is one of 3, too: they need not sum to one.
    x = 3 * one_hot if chosen.get("mode") == "probs" else 200 * one_hot - 7
    result = run("random_categorical", {"x": x}, **chosen)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.repeat(sure[..., None], chosen.get("size", 1), -1))


@covers("random_categorical")
def test_categorical() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) + 3
    for mode, x in ((None, logits), ("logits", logits), ("probs", 2 * probabilities)):
        chosen = {} if mode is None else {"mode": mode}
        inputs = {"x": x.astype(np.float32)}
        drawn = run("random_categorical", inputs, size=np.int32(COUNT), seed=np.int32(2), **chosen)
        for row, wanted in zip(drawn, probabilities, strict=True):
            shares = np.bincount(row.astype(int), minlength=3) / COUNT
            assert (np.abs(shares - wanted) <= 3.3 * np.sqrt(wanted * (1 - wanted) / COUNT)).all()


@covers("random_categorical")
def test_categorical_seeds() -> None:
    x = np.zeros((2, 5), np.float32)

    def draw(seed: int) -> np.ndarray:
        return run("random_categorical", {"x": x}, size=np.int32(50), seed=np.int32(seed))

    np.testing.assert_array_equal(draw(0), draw(0))
    for one, other in [(0, 1), (-1, -1)]:
        assert not np.array_equal(draw(one), draw(other))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="mode is 'weights'"):
        random.random_categorical(torch.ones(3), "weights")


FAULTS: dict[str, list[Fault]] = {
    "random_bernoulli": [
        ("< prob", "> prob"),
        ("< prob).float()", "< prob)"),
        ("< prob", "< prob + 0.03"),
        ("return generator.manual_seed(seed)", "return generator"),
    ],
    "random_categorical": [
        ('torch.softmax(rows, -1) if mode == "logits" else rows', "torch.softmax(rows, -1)"),
        ("torch.softmax(rows, -1)", "torch.sigmoid(rows)"),
        ("torch.softmax(rows, -1)", "torch.softmax(rows, 0)"),
        ("drawn.float()", "(drawn.float() % 2)"),
        ("    generator.seed()", "    generator.manual_seed(0)"),
    ],
    "random_normal": [
        ("mean + stddev *", "stddev + mean *"),
        ("stddev * torch.randn", "stddev**2 * torch.randn"),
        ("torch.randn(", "torch.rand("),
        ("return generator.manual_seed(seed)", "return generator"),
        ("    generator.seed()", "    generator.manual_seed(0)"),
    ],
    "random_uniform": [
        ("(high - low) *", "high *"),
        ("torch.rand(", "torch.randn("),
        ("return torch.minimum(drawn, last.float())", "return drawn"),
        ("torch.float16 if", "torch.float32 if"),
        ("return generator.manual_seed(seed)", "return generator"),
    ],
}
