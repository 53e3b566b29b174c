"""Layers and computed weights by themselves, where a whole model would not come to the point."""

from pathlib import Path

import numpy as np
import pytest
import torch

from milbuild import runtime
from milbuild.errors import Error
from milbuild.layers.normalization import rms_norm
from milbuild.weights import Checkpoint, Computed, Cursor, Joined, Tensor
from tests.test_runtime import program

WIDTH = 48


@pytest.mark.parametrize("scale", [1e-2, 1.0, 300.0, 10_000.0])
def test_rms_norm_in_float16(scale: float, tmp_path: Path) -> None:
    """Squares of more than 255 overflow float16; the norm of activations of 10,000 does not."""
    random = np.random.default_rng(0)
    weight, x = random.normal(1, 0.3, WIDTH).astype(np.float16), random.normal(size=(1, 5, WIDTH)) * scale
    x = np.clip(x, -60_000, 60_000).astype(np.float16)
    w = Cursor(Checkpoint("c", tmp_path, {}, {"norm.weight": weight}), np.dtype(np.float16), "", "norm")
    path = program(tmp_path, lambda x: [rms_norm(x, w, 1e-6)], {"x": x.shape})
    normed = runtime.load(path).predict({"x": x})["norm"]
    wide = torch.from_numpy(x.astype(np.float64))
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * torch.from_numpy(weight.astype(np.float64))
    assert np.abs(normed - expected.numpy()).max() <= 2e-3 * expected.abs().max()


ONE = Tensor("one", "one", np.arange(6, dtype=np.float32).reshape(2, 3))
TWO = Tensor("two", "two", np.full((1, 3), 9, np.float16))


def test_joined_tensors_are_read_one_by_one() -> None:
    joined = Joined(ONE, TWO)
    assert (joined.shape, joined.name) == ((3, 3), "joined of one, two")
    expected = np.concatenate([ONE.data, TWO.data])
    for dtype in (np.float16, np.float32):
        pieces = [piece.copy() for piece in joined.pieces(np.dtype(dtype))]
        assert len(pieces) == 2
        assert np.array_equal(np.concatenate(pieces).reshape(3, 3), expected.astype(dtype))
    assert np.array_equal(joined.T.values(), expected.T)
    assert np.array_equal(joined.rows(1, 3).values(), expected[1:])
    assert joined.key != Joined(TWO, ONE).key


def test_computed_tensors_are_worked_out_in_float64() -> None:
    seen = []

    def compute(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        seen.append((one.dtype, two.dtype))
        return one + two

    computed = Computed("the sum", compute, (2, 3), ONE, TWO)
    assert not seen, "nothing is worked out before it is asked for"
    assert np.array_equal(computed.values(), ONE.data + 9)
    assert seen == [(np.float64, np.float64)]
    assert computed.key != Computed("the difference", compute, (2, 3), ONE, TWO).key
    assert computed.key == Computed("the sum", compute, (2, 3), ONE, TWO).key


def test_computed_tensors_are_checked() -> None:
    with pytest.raises(AssertionError, match=r"the sum of one has the shape \(2, 3\), not \(3, 2\)"):
        Computed("the sum", lambda one: one, (3, 2), ONE).values()
    huge = Computed("the product", lambda one: one * 1e6, (2, 3), ONE)
    with pytest.raises(Error, match="the product of one: 5 of 6 values overflow float16"):
        huge.values(np.dtype(np.float16))
