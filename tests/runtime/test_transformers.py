"""Attention, against its documented formula in numpy's float64."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.harness import Fault, arrays, close, covers, run

SIDES = st.integers(1, 4)


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A row whose mask admits nothing gives zeros, which the formula leaves open: 0 / 0."""
    q, k, v = (array.astype(np.float64) for array in (query, key, value))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    highest = scores.max(-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = powers.sum(-1, keepdims=True)
    return np.float32(np.where(total == 0, 0, powers / np.where(total == 0, 1, total)) @ v)


def drawn(data: Any) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Arguments of ranks 3 to 5, and the shape of their scores."""
    batch = tuple(data.draw(st.lists(SIDES, min_size=1, max_size=3)))
    queries, keys, width, values = (data.draw(SIDES) for _ in range(4))
    shapes = {"query": (queries, width), "key": (keys, width), "value": (keys, values)}
    inputs = {name: data.draw(arrays(batch + shape, low=-2, high=2)) for name, shape in shapes.items()}
    return inputs, (*batch, queries, keys)


def mask_shape(data: Any, scores: tuple[int, ...]) -> tuple[int, ...]:
    """Any that broadcasts: of fewer axes, some of them 1."""
    start = data.draw(st.integers(0, len(scores) - 1))
    return (*(side if data.draw(st.booleans()) else 1 for side in scores[start:-1]), scores[-1])


@covers("scaled_dot_product_attention")
@given(data=st.data())
def test_without_a_mask(data: Any) -> None:
    inputs, _ = drawn(data)
    close(run("scaled_dot_product_attention", inputs), attention(**inputs, mask=None))


@covers("scaled_dot_product_attention")
@given(data=st.data())
def test_masks_of_truths(data: Any) -> None:
    """They say what takes part."""
    inputs, scores = drawn(data)
    mask = data.draw(arrays(mask_shape(data, scores), bool))
    close(run("scaled_dot_product_attention", {**inputs, "attn_mask": mask}), attention(**inputs, mask=mask))


@covers("scaled_dot_product_attention")
@given(data=st.data())
def test_masks_of_numbers(data: Any) -> None:
    """They are added, not scaled."""
    inputs, scores = drawn(data)
    shape = mask_shape(data, scores)
    mask = data.draw(arrays(shape, low=-3, high=3))
    mask = np.where(
        data.draw(arrays(shape, bool)), mask, data.draw(st.sampled_from([np.float32(-math.inf), np.float32(-20)]))
    )
    close(run("scaled_dot_product_attention", {**inputs, "attn_mask": mask}), attention(**inputs, mask=mask))


@covers("scaled_dot_product_attention")
def test_rows_that_may_look_at_nothing() -> None:
    rng = np.random.default_rng(0)
    truths = np.array([[True, False, True], [False] * 3, [False, True, False]])
    for batch in ((2,), (1, 2), (1, 1, 2)):
        inputs = {name: rng.normal(size=(*batch, 3, 4)).astype(np.float32) for name in ("query", "key", "value")}
        for mask in (truths, np.where(truths, 0, -math.inf).astype(np.float32)):
            result = run("scaled_dot_product_attention", {**inputs, "attn_mask": mask})
            assert not result[..., 1, :].any()
            close(result[..., 2, :], inputs["value"][..., 1, :])


@covers("scaled_dot_product_attention")
def test_the_mask_may_be_a_constant() -> None:
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(1, 2, 3, 4)).astype(np.float32) for name in ("query", "key", "value")}
    mask = np.tril(np.ones((3, 3), bool))
    close(run("scaled_dot_product_attention", inputs, attn_mask=mask), attention(**inputs, mask=mask))


FAULTS: dict[str, list[Fault]] = {
    "scaled_dot_product_attention": [
        ("query, key, value, attn_mask)", "key, query, value, attn_mask)"),
        ("query, key, value, attn_mask)", "query, key, value, attn_mask, scale=1.0)"),
        ("query, key, value, attn_mask)", "query, key, value, is_causal=True)"),
        ("query, key, value, attn_mask)", "query, key, value, None if attn_mask is None else attn_mask.float())"),
        ("query, key, value, attn_mask)", "query, key, value, None if attn_mask is None else attn_mask.bool())"),
        ("query, key, value, attn_mask)", "query, key, value, None if attn_mask is None else -attn_mask * 1.0)"),
        ("attn_mask.ndim == 1", "False"),
        ("attn_mask[None]", "attn_mask[:, None]"),
    ],
}


@pytest.mark.parametrize("where", ["query", "key", "value"])
@pytest.mark.parametrize("batch", [(1,), (1, 2), (2, 1, 3)], ids=len)
@pytest.mark.parametrize("masked", [False, True])
def test_a_nan_is_not_hidden(where: str, batch: tuple[int, ...], masked: bool) -> None:
    """Of a query in its own row, of keys and values in all: torch's kernel for queries without a mask has zeros there."""
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal((*batch, 3, 4), np.float32) for name in ("query", "key", "value")}
    inputs[where][..., 1, 2] = math.nan
    given = inputs | ({"attn_mask": np.zeros((3, 3), np.float32)} if masked else {})
    found = np.isnan(run("scaled_dot_product_attention", given))
    expected = np.zeros_like(found)
    expected[(..., 1, slice(None)) if where == "query" else (..., 2) if where == "value" else ...] = True
    np.testing.assert_array_equal(found, expected)
