"""Tensors that are made of others when they are saved: parts of fused weights, joined ones, folded norms; what numpy makes of
them, bit by bit, and no more memory than a piece takes."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from milbuild import Error
from milbuild.layers.audio import weight_norm
from milbuild.weights import Checkpoint, Computed, Cursor, Joined, Rowwise, Tensor, interleaved, safetensors, tensor
from tests.test_weights import BFLOAT16, HALF, SINGLE, as_numpy, same_bits

DTYPES = st.sampled_from([np.dtype(np.float64), SINGLE, BFLOAT16, HALF])
TARGETS = st.sampled_from([HALF, SINGLE, np.dtype(np.float64)])
QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def stored(array: np.ndarray, folder: Path) -> Tensor:
    """The array as a tensor of a file."""
    save_file({"before": np.zeros(3, np.int8), "t": array}, folder / "t.safetensors")
    return Tensor("t", "t", safetensors.read(folder / "t.safetensors")["t"])


def check(found: Tensor, expected: np.ndarray, target: np.dtype[Any]) -> None:
    assert found.shape == expected.shape
    pieces = [piece.copy() for piece in found.pieces(target)]
    assert all(piece.ndim == 1 for piece in pieces)
    same_bits(np.concatenate([*pieces, np.empty(0, target)]), as_numpy(expected, target))


@QUICK
@given(
    heads=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    width=st.integers(0, 20),
    dtype=DTYPES,
    target=TARGETS,
    held=st.sampled_from([1, 100, 1 << 20]),
    steps=st.lists(st.sampled_from(["T", "rows"]), max_size=3),
    data=st.data(),
)
def test_parts_of_a_fused_weight_are_what_numpy_gives(
    heads: int,
    sizes: list[int],
    width: int,
    dtype: np.dtype[Any],
    target: np.dtype[Any],
    held: int,
    steps: list[str],
    data: st.DataObject,
    tmp_path: Path,
) -> None:
    """Weights and, where `width` is 0, biases; from a file or not, transposed, some rows of them, and joined again."""
    array = numbers(heads * sum(sizes), *([width] if width else []), dtype=dtype)
    whole = stored(array, tmp_path) if data.draw(st.booleans()) else Tensor("t", "t", array)
    by_head = np.split(array.reshape(heads, sum(sizes), *array.shape[1:]), np.cumsum(sizes)[:-1], axis=1)
    expected = [part.reshape(-1, *array.shape[1:]) for part in by_head]
    found = interleaved(whole, heads, sizes)
    assert len({part.key for part in found}) == len(sizes)
    cases = [*zip(found, expected, strict=True), (Joined(*found), np.concatenate(expected))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor, "HELD", held)
        for part, values in cases:
            for step in steps:
                if step == "T":
                    part, values = part.T, values.T
                else:
                    start = data.draw(st.integers(0, len(values) - 1))
                    stop = data.draw(st.integers(start + 1, len(values)))
                    part, values = part.rows(start, stop), values[start:stop]
            check(part, values, target)
            if values.ndim == 2:
                check(Joined(part).reshaped(1, *values.shape), values[None], target)


def test_a_fused_weight_of_another_size() -> None:
    with pytest.raises(AssertionError, match="t has 12 rows, not 3 times 5"):
        interleaved(Tensor("t", "t", np.zeros((12, 2))), 3, [2, 3])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("heads", "sizes"), [(16, [40, 40, 40]), (1, [640, 640, 640]), (8, [160, 40, 40])])
def test_parts_take_no_more_memory_than_a_piece(heads: int, sizes: list[int], transposed: bool, tmp_path: Path) -> None:
    array = numbers(heads * sum(sizes), 4096)  # of 31 MB
    part = Joined(*interleaved(stored(array, tmp_path), heads, sizes))
    assert peak(part.T if transposed else part) < (25e6 if transposed else 3e6)


def peak(found: Tensor) -> int:
    """Bytes that numpy and Python hold at most while a tensor is written in float16."""
    tracemalloc.start()
    try:
        assert sum(piece.size for piece in found.pieces(HALF)) == np.prod(found.shape)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Worked out row by row


@QUICK
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    piece=st.sampled_from([1, 5, 64, 1 << 17]),
    dtype=DTYPES,
    target=TARGETS,
)
def test_what_is_computed_by_rows_is_what_is_computed_at_once(
    shape: list[int], piece: int, dtype: np.dtype[Any], target: np.dtype[Any]
) -> None:
    parts = [Tensor("a", "a", numbers(*shape, dtype=dtype)), Tensor("b", "b", numbers(shape[0], dtype=dtype))]

    def compute(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return values * (scale / 3).reshape(-1, *[1] * (values.ndim - 1))

    at_once = Computed("scaled", compute, tuple(shape), *parts)
    with pytest.MonkeyPatch.context() as patch:
        for module in (tensor, safetensors):
            patch.setattr(module, "PIECE", piece)
        check(Rowwise("scaled", compute, tuple(shape), *parts), at_once.data, target)


def test_computed_rows_take_no_more_memory_than_a_piece(tmp_path: Path) -> None:
    weight = stored(numbers(512, 512, 3, 3), tmp_path)  # of 9 MB
    by = Tensor("b", "b", numbers(512))
    folded = Rowwise("scaled", lambda w, b: w * b[:, None, None, None], weight.shape, weight, by)
    assert peak(folded) < 6e6
    same = Computed("scaled", lambda w, b: w * b[:, None, None, None], weight.shape, weight, by)
    assert peak(same) > 30e6


def test_computed_rows_say_what_overflows() -> None:
    weight, by = Tensor("w", "w", np.ones((5, 3), np.float32)), Tensor("b", "b", np.full(5, 7e4, np.float32))
    for kind in (Computed, Rowwise):
        folded = kind("scaled", lambda w, b: w * b[:, None], (5, 3), weight, by)
        with pytest.raises(Error, match=r"scaled of w, b: 15 of 15 values overflow float16, the largest is 70000"):
            list(folded.pieces(HALF))


@pytest.mark.parametrize("shape", [(24, 6, 7), (2, 300, 128), (1, 1, 1)])
def test_weight_norm_is_summed_in_one_order(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """Row by row, the length of v has the same bits as numpy's sum of it all."""
    g, v = numbers(1, 1, shape[-1]), numbers(*shape)
    path = "conv.parametrizations.weight."
    file = Checkpoint("c", tmp_path, {}, {f"{path}original0": g, f"{path}original1": v})
    wide = v.astype(np.float64)
    expected = g.astype(np.float64) * wide / np.sqrt(np.square(wide).sum((0, 1), keepdims=True))
    check(weight_norm(Cursor(file, SINGLE, "", "conv"), *shape), expected, np.dtype(np.float64))
