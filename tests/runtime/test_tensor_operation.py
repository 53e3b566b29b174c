"""Whole tensors, against numpy and loops that follow the documentation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.errors import Error
from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

ANY = st.sampled_from([np.float32, np.int32, np.bool_])
NUMBERS = st.sampled_from([np.float32, np.int32])


def one_of(data: Any, **options: Any) -> dict[str, Any]:
    """Some of the parameters, each drawn from its strategy; the others keep their defaults."""
    chosen = {name: data.draw(st.none() | strategy) for name, strategy in options.items()}
    return {name: value for name, value in chosen.items() if value is not None}


# Sorting


def sorted_places(row: np.ndarray, ascending: bool) -> list[int]:
    """Of equal values the first comes first; Python's sort is stable."""
    return sorted(range(len(row)), key=lambda i: row[i] if ascending else -row[i])


@covers("argsort")
@given(data=st.data())
def test_argsort(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(NUMBERS), low=-3, high=3, ranks=(1, 4)))
    if data.draw(st.booleans()):
        x = np.round(x)  # so that many are equal
    options = one_of(data, axis=st.integers(-x.ndim, x.ndim - 1), ascending=st.booleans())
    expected = np.apply_along_axis(sorted_places, options.get("axis", -1), x, options.get("ascending", False))
    close(run("argsort", {"x": x}, **options), expected.astype(np.int32))


@covers("topk")
@given(data=st.data())
def test_topk(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(NUMBERS), low=-3, high=3, ranks=(1, 4)))
    if data.draw(st.booleans()):
        x = np.round(x)
    opset = data.draw(st.integers(5, 9))
    options = one_of(data, axis=st.integers(-x.ndim, x.ndim - 1), ascending=st.booleans())
    axis, ascending = options.get("axis", -1), options.get("ascending", False)
    options |= one_of(data, k=st.integers(1, x.shape[axis]) if opset < 7 else st.sampled_from([1, -1, x.shape[axis]]))
    if opset > 5:
        options |= one_of(data, sort=st.booleans(), return_indices=st.booleans())
    if opset > 6 and options.get("return_indices", True):
        options |= one_of(data, output_indices_dtype=st.sampled_from(["int32", "uint16"]))
    k = options.get("k", 1)
    if k == -1:  # coremltools itself declares an axis of -1
        results = OPERATIONS["topk"].function(x=torch.from_numpy(x), **options)
        results = [one.numpy() for one in (results if isinstance(results, tuple) else (results,))]
    else:
        results = run("topk", {"x": x}, opset=opset, **options)
        results = results if isinstance(results, list) else [results]
    places = np.apply_along_axis(sorted_places, axis, x, ascending)
    places = places.take(range(x.shape[axis] if k == -1 else k), axis)
    assert len(results) == (2 if options.get("return_indices", True) else 1)
    close(results[0], np.take_along_axis(x, places, axis))
    for indices in results[1:]:
        close(indices, places.astype(np.int32))


@covers("topk")
def test_topk_at_the_edges_of_numbers() -> None:
    inf, small = np.float32(np.inf), np.float32(1e-45)
    x = np.array([0, -0.0, -small, small, -inf, inf, 1, -1, 3e38, -3e38, 0], np.float32)
    order = [5, 8, 6, 3, 0, 1, 10, 2, 7, 9, 4]
    values, indices = run("topk", {"x": x}, k=11)
    assert indices.tolist() == order
    close(values, x[order])
    _, indices = run("topk", {"x": x}, k=11, ascending=True)
    assert indices.tolist() == [4, 9, 7, 2, 0, 1, 10, 3, 6, 8, 5]
    whole = np.array([2**31 - 1, -(2**31), 0, 2**31 - 2], np.int32)
    assert run("topk", {"x": whole}, k=4)[1].tolist() == [0, 3, 2, 1]
    for nan in (np.float32(np.nan), -np.float32(np.nan)):
        assert run("topk", {"x": np.array([1, nan, inf], np.float32)}, k=3)[1].tolist() == [1, 2, 0]


@covers("topk")
def test_topk_of_too_many() -> None:
    for k in (4, -2):
        with pytest.raises(ValueError, match=f"k is {k} of 3 entries"):
            OPERATIONS["topk"].function(x=torch.ones(3), k=k)


# Parts of a matrix, sums


@covers("band_part")
@given(data=st.data())
def test_band_part(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(ANY), low=1, high=9, ranks=(2, 4)))
    options = one_of(data, lower=st.integers(-2, 4), upper=st.integers(-2, 4))
    lower, upper = options.get("lower", -1), options.get("upper", -1)
    expected = x.copy()
    for m in range(x.shape[-2]):
        for n in range(x.shape[-1]):
            if not ((lower < 0 or m - n <= lower) and (upper < 0 or n - m <= upper)):
                expected[..., m, n] = 0
    close(run("band_part", {"x": x}, **options), expected)


@covers("band_part")
def test_nothing_is_left_outside_the_band() -> None:
    x = np.full((2, 2), np.inf, np.float32)
    close(run("band_part", {"x": x}, lower=0, upper=0), np.array([[np.inf, 0], [0, np.inf]], np.float32))


@covers("cumsum")
@given(data=st.data())
def test_cumsum(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(NUMBERS), ranks=(1, 4)))
    options = one_of(data, axis=st.integers(-1, x.ndim - 1), exclusive=st.booleans(), reverse=st.booleans())
    axis = options.get("axis", 0)
    expected = np.zeros(x.shape, np.float64)
    for i in range(x.shape[axis]):
        for j in range(x.shape[axis]):
            before = j >= i if options.get("reverse") else j <= i
            if before and not (options.get("exclusive") and i == j):
                expected.swapaxes(0, axis)[i] += x.swapaxes(0, axis)[j]
    close(run("cumsum", {"x": x}, **options), expected.astype(x.dtype))


@covers("cumsum")
def test_an_exclusive_sum_leaves_infinity_out() -> None:
    x = np.array([1, 2, np.inf], np.float32)
    close(run("cumsum", {"x": x}, exclusive=True), np.array([0, 1, 3], np.float32))


# Joining and splitting


@st.composite
def tensors(draw: Any, same: bool, ranks: tuple[int, int] = (1, 4)) -> tuple[list[np.ndarray], int]:
    """One to three tensors that differ at one axis at most, and that axis."""
    first = draw(arrays(dtype=draw(ANY), ranks=ranks))
    axis = draw(st.integers(0, first.ndim - 1))
    values = [first]
    for _ in range(draw(st.integers(0, 2))):
        shape = list(first.shape)
        shape[axis] = first.shape[axis] if same else draw(st.integers(1, 3))
        values.append(draw(arrays(tuple(shape), first.dtype)))
    return values, axis


def joined(operation: str, values: list[np.ndarray], **constants: Any) -> np.ndarray:
    inputs = {f"x{i}": value for i, value in enumerate(values)}
    (result,) = run_graph(lambda **x: getattr(mb, operation)(values=tuple(x.values()), **constants), inputs)
    return result


@covers("concat")
@given(data=st.data())
def test_concat(data: Any) -> None:
    options = one_of(data, interleave=st.booleans())
    values, axis = data.draw(tensors(same=options.get("interleave", False)))
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    expected = np.empty(shape, values[0].dtype)
    rows, first = np.moveaxis(expected, axis, 0), 0
    for i, value in enumerate(values):
        if options.get("interleave"):
            rows[i :: len(values)] = np.moveaxis(value, axis, 0)
        else:
            rows[first : first + value.shape[axis]] = np.moveaxis(value, axis, 0)
            first += value.shape[axis]
    given_axis = data.draw(st.sampled_from([axis, axis - len(shape)]))
    close(joined("concat", values, axis=given_axis, **options), expected)


@covers("concat")
def test_scalars_make_a_vector() -> None:
    x = np.array([5.0, 7.0], np.float32)

    def build(x: Any) -> Any:
        ends = [mb.squeeze(x=mb.slice_by_index(x=x, begin=[i], end=[i + 1]), axes=[0]) for i in (1, 0)]
        return mb.concat(values=ends, axis=0)

    close(run_graph(build, {"x": x})[0], np.array([7, 5], np.float32))


@covers("stack")
@given(data=st.data(), drawn=tensors(same=True))
def test_stack(data: Any, drawn: tuple[list[np.ndarray], int]) -> None:
    values, _ = drawn
    rank = values[0].ndim + 1
    axis = data.draw(st.integers(-rank, rank - 1))
    result = joined("stack", values, axis=axis)
    for i, value in enumerate(values):
        close(result.take(i, axis), value)
    assert result.shape[axis] == len(values)


@covers("split")
@given(data=st.data())
def test_split(data: Any) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    even = data.draw(st.booleans())
    sizes = sizes[:1] * len(sizes) if even else sizes
    shape = data.draw(st.lists(st.integers(1, 3), max_size=3))
    axis = data.draw(st.integers(0, len(shape)))
    x = data.draw(arrays((*shape[:axis], sum(sizes), *shape[axis:]), data.draw(ANY)))
    forms: list[dict[str, Any]] = [{"split_sizes": sizes}, {"split_sizes": sizes, "num_splits": len(sizes)}]
    options = data.draw(st.sampled_from(forms + [{"num_splits": len(sizes)}] * even))
    results = run("split", {"x": x}, axis=data.draw(st.sampled_from([axis, axis - x.ndim])), **options)
    first = 0
    for result, size in zip(results if isinstance(results, list) else [results], sizes, strict=True):
        close(result, x[(slice(None),) * axis + (slice(first, first + size),)])
        first += size


@covers("split")
def test_parts_that_do_not_add_up() -> None:
    for options in ({"num_splits": 2}, {"split_sizes": [1, 1]}, {"split_sizes": [2, 2]}):
        with pytest.raises((ValueError, RuntimeError), match=r"equal parts|sum exactly"):
            OPERATIONS["split"].function(x=torch.ones(3), axis=0, **options)


@covers("tile")
@given(data=st.data())
def test_tile(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(ANY), ranks=(1, 4)))
    reps = data.draw(st.lists(st.integers(1, 3), min_size=x.ndim, max_size=x.ndim))
    if data.draw(st.booleans()):
        result = run("tile", {"x": x}, reps=reps)
    else:
        result = run("tile", {"x": x, "reps": np.array(reps, np.int32)})
    close(result, np.tile(x, reps))


@covers("tile")
def test_wrong_repetitions() -> None:
    for reps in ([2], [1, 1, 2], [-2, 1]):
        with pytest.raises(ValueError, match="2 axes cannot be repeated"):
            OPERATIONS["tile"].function(x=torch.ones(1, 3), reps=reps)


@covers("tile")
@given(
    wanted=st.sampled_from([(4, 3, -1), (-1, 3, 5), (4, -1, 5), (-1, -1, -1)]),
    divide=st.sampled_from(["real_div", "floor_div"]),
)
def test_an_axis_that_is_kept(wanted: tuple[int, ...], divide: str) -> None:
    """`x.expand(4, 3, -1)` as coremltools wrote it until 8: the wanted shape divided by the tensor's, -1 / 5 and -1 / 1 too."""

    def build(x: Any, wanted: Any) -> Any:
        return mb.tile(x=x, reps=getattr(mb, divide)(x=wanted, y=mb.shape(x=x)))

    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    expected = torch.from_numpy(x).expand(*wanted)
    for opset in (5, 8):
        close(run_graph(build, {"x": x, "wanted": np.array(wanted, np.int32)}, opset=opset)[0], expected)


# Making tensors

VALUES = st.sampled_from([np.float32(2.5), np.int32(-3), np.bool_(True)])


@covers("fill")
@given(data=st.data())
def test_fill(data: Any) -> None:
    shape = np.array(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)), np.int32)
    options = one_of(data, value=VALUES)
    expected = np.full(shape, options.get("value", np.float32(0)))
    # The shape as an input, and as a constant.
    result = run("fill", {"shape": shape}, **options)
    assert result.dtype == expected.dtype
    close(result, expected)
    close(run_graph(lambda x: mb.fill(shape=shape, **options), {"x": shape})[0], expected)


@covers("fill_like")
@given(data=st.data())
def test_fill_like(data: Any) -> None:
    reference = data.draw(arrays(dtype=data.draw(ANY), ranks=(1, 4)))
    options = one_of(data, value=VALUES)
    expected = np.full(reference.shape, options.get("value", np.float32(0)))
    result = run("fill_like", {"ref_tensor": reference}, opset=data.draw(st.integers(6, 9)), **options)
    assert result.dtype == expected.dtype
    close(result, expected)


@covers("range_1d")
@given(data=st.data())
def test_range(data: Any) -> None:
    whole = data.draw(st.booleans())
    number = st.integers(-20, 20) if whole else st.integers(-160, 160).map(lambda n: n / 8)  # exact in float32
    start, end, step = data.draw(number), data.draw(number), data.draw(number.filter(bool))
    kind = np.int32 if whole else np.float32
    expected = np.array([start + i * step for i in range(max(0, math.ceil((end - start) / step)))], kind)

    def build(x: Any) -> Any:
        values = {}
        for i, (name, value) in enumerate((("start", start), ("end", end), ("step", step))):
            constant = data.draw(st.booleans())
            values[name] = kind(value) if constant else mb.slice_by_index(x=x, begin=[i], end=[i], squeeze_mask=[True])
        return mb.range_1d(**values)

    if len(expected):
        result = run_graph(build, {"x": np.array([start, end, step], kind)})[0]
        assert result.dtype == kind
        close(result, expected)


@covers("range_1d")
def test_the_length_of_a_range_of_constants() -> None:
    """coremltools declares it by its own arithmetic in float32, where 0.6 / 0.1 is 6 exactly."""
    result = run_graph(lambda x: mb.range_1d(start=0.0, end=0.6, step=0.1), {"x": np.zeros(1, np.float32)})[0]
    close(result, np.arange(6, dtype=np.float32) / 10)


@covers("range_1d")
def test_a_range_of_nothing() -> None:
    for kind, dtype in ((np.int32, torch.int32), (np.float32, torch.float32)):

        def call(*numbers: int, kind: Any = kind) -> torch.Tensor:
            start, end, step = (torch.tensor(kind(number)) for number in numbers)
            return OPERATIONS["range_1d"].function(start=start, end=end, step=step)

        assert call(3, 3, 1).shape == (0,)
        assert call(3, 3, 1).dtype == dtype
        with pytest.raises((RuntimeError, OverflowError, ValueError)):
            call(0, 3, 0)
    assert OPERATIONS["range_1d"].function(
        start=torch.tensor(3.0), end=torch.tensor(0.0), step=torch.tensor(1.0)
    ).shape == (0,)


@covers("shape")
@given(x=arrays(dtype=np.float32))
def test_shape(x: np.ndarray) -> None:
    result = run("shape", {"x": x})
    assert result.dtype == np.int32
    close(result, np.array(x.shape, np.int32))


@covers("identity")
@given(data=st.data())
def test_identity(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(ANY)))
    result = run("identity", {"x": x})
    assert result.dtype == x.dtype
    close(result, x)


@covers("identity")
def test_identity_of_a_list() -> None:
    def build(x: Any) -> Any:
        ls = mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(3,)), index=1, value=x)
        return mb.list_read(ls=mb.identity(x=ls), index=1)

    x = np.array([1, 2, 3], np.float32)
    close(run_graph(build, {"x": x})[0], x)


@covers("flatten2d")
@given(data=st.data())
def test_flatten2d(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(ANY)))
    options = one_of(data, axis=st.integers(-x.ndim, x.ndim))
    axis = options.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    close(run("flatten2d", {"x": x}, **options), x.reshape(rows, x.size // rows))


@covers("non_zero")
@given(data=st.data())
def test_non_zero(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(ANY), low=-1, high=1, ranks=(1, 3)))
    expected = [place for place in np.ndindex(x.shape) if x[place] != 0]
    result = run("non_zero", {"x": np.round(x) if x.dtype == np.float32 else x})
    expected = [place for place in np.ndindex(x.shape) if np.round(x[place].astype(np.float32)) != 0]
    assert result.dtype == np.int32
    close(result, np.array(expected, np.int32).reshape(-1, x.ndim))


@covers("one_hot")
@given(data=st.data())
def test_one_hot(data: Any) -> None:
    size = data.draw(st.integers(1, 5))
    indices = data.draw(arrays(dtype=np.int32, low=0, high=size - 1, ranks=(1, 3)))
    options = one_of(data, axis=st.integers(-indices.ndim - 1, indices.ndim))
    pairs = st.sampled_from(
        [(np.float32(2.5), np.float32(-1)), (np.int32(4), np.int32(9)), (np.bool_(False), np.bool_(True))]
    )
    on, off = np.int32(1), np.int32(0)
    if data.draw(st.booleans()):
        on, off = data.draw(pairs)
        options |= {"on_value": on, "off_value": off}
    expected = np.full((*indices.shape, size), off)
    for place in np.ndindex(indices.shape):
        expected[(*place, indices[place])] = on
    result = run("one_hot", {"indices": indices}, one_hot_vector_size=np.int32(size), **options)
    assert result.dtype == expected.dtype
    close(result, np.moveaxis(expected, -1, options.get("axis", -1)))


@covers("one_hot")
def test_one_hot_of_a_size_that_the_call_tells() -> None:
    def build(indices: Any, size: Any) -> Any:
        return mb.one_hot(indices=indices, one_hot_vector_size=mb.squeeze(x=size, axes=[0]), on_value=3, off_value=7)

    inputs = {"indices": np.array([2, 0], np.int32), "size": np.array([3], np.int32)}
    close(run_graph(build, inputs)[0], np.array([[7, 7, 3], [3, 7, 7]], np.int32))


@covers("one_hot")
def test_one_hot_outside() -> None:
    for wrong in (4, -1):
        with pytest.raises(Error, match="an index is outside of 4 places"):
            run("one_hot", {"indices": np.array([0, wrong], np.int32)}, one_hot_vector_size=4)


# Padding


def padded(x: np.ndarray, sides: list[tuple[int, int]], mode: str, value: float) -> np.ndarray:
    shape = [before + size + after for size, (before, after) in zip(x.shape, sides, strict=True)]
    result = np.empty(shape, x.dtype)
    for place in np.ndindex(*shape):
        source = [p - before for p, (before, _) in zip(place, sides, strict=True)]
        inside = all(0 <= s < size for s, size in zip(source, x.shape, strict=True))
        for axis, size in enumerate(x.shape):
            while mode == "reflect" and not 0 <= source[axis] < size:
                source[axis] = -source[axis] if source[axis] < 0 else 2 * (size - 1) - source[axis]
            source[axis] = min(max(source[axis], 0), size - 1)
        result[place] = x[tuple(source)] if inside or mode != "constant" else value
    return result


@covers("pad")
@given(data=st.data())
def test_pad(data: Any) -> None:
    x = data.draw(arrays(ranks=(1, 4)))
    options = one_of(data, mode=st.sampled_from(["constant", "reflect", "replicate"]), constant_val=st.just(1.5))
    mode = options.get("mode", "constant")
    most = {"constant": 3, "reflect": -1, "replicate": 0}
    sides = [(0, 0)] * x.ndim
    first = data.draw(st.integers(0, x.ndim - 1))
    for axis in range(first, x.ndim):
        side = st.integers(0, 3 if mode == "constant" else min(3, x.shape[axis] + most[mode]))
        sides[axis] = (data.draw(side), data.draw(side))
    expected = padded(x, sides, mode, options.get("constant_val", 0))
    whole = np.array(sides, np.int32).reshape(-1)
    if data.draw(st.booleans()):
        close(run("pad", {"x": x}, pad=whole[2 * first :], **options), expected)
    else:
        close(run("pad", {"x": x, "pad": whole}, **options), expected)


@covers("pad")
def test_padding_that_there_is_not() -> None:
    x = np.ones((2, 3), np.float32)
    for pad, mode, text in (
        ([0, 0, 0, 3], "reflect", "reflect takes up to 2 at axis 1, not 0 and 3"),
        ([3, 0, 0, 0], "replicate", "replicate takes up to 2 at axis 0, not 3 and 0"),
        ([0, 0, -1, 0], "constant", "the padding is"),
        ([0, 0, -1, 0], "replicate", "the padding is"),
    ):
        with pytest.raises(Error, match=text):
            run("pad", {"x": x, "pad": np.array(pad, np.int32)}, mode=mode)
    for pad, mode, text in (([1] * 6, "constant", "the padding is"), ([1, 1], "wrap", "the mode 'wrap' is unknown")):
        with pytest.raises(ValueError, match=text):
            OPERATIONS["pad"].function(x=torch.ones(2, 3), pad=pad, mode=mode)


# Boxes


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    shared = 1.0
    for i in (0, 1):
        high = min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2)
        shared *= max(0.0, high - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2))
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared else 0.0


def suppressed(boxes: np.ndarray, scores: np.ndarray, iou: float, least: float, most: int, each: bool) -> list[int]:
    """The boxes (rows) that are kept: the best, then the best of those that overlap with none of the kept, ..."""
    best = scores.max(axis=1)
    kinds = scores.argmax(axis=1)
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -best[i]):
        hidden = any(overlap(boxes[i], boxes[j]) > iou and (not each or kinds[i] == kinds[j]) for j in kept)
        if best[i] >= least and not hidden:
            kept.append(i)
    return kept[:most] or [int(best.argmax())]


@covers("non_maximum_suppression")
@given(data=st.data())
def test_boxes(data: Any) -> None:
    batch, count, classes = (data.draw(st.integers(1, most)) for most in (2, 6, 3))
    # Corners on a coarse grid overlap by ratios of small numbers, far from the thresholds.
    boxes = data.draw(arrays((batch, count, 4), np.int32, low=0, high=3)).astype(np.float32)
    boxes[..., 2:] += data.draw(st.sampled_from([0, 1]))
    scores = data.draw(arrays((batch, count, classes), np.int32, low=-4, high=4)).astype(np.float32)
    iou, most = data.draw(st.sampled_from([0.0, 0.13, 0.37, 0.99])), data.draw(st.integers(1, 7))
    options = one_of(data, per_class_suppression=st.booleans())
    least = data.draw(st.sampled_from([-9.0, -0.5, 1.0, 9.0]))
    opset = data.draw(st.integers(5, 9))
    known = {"iou_threshold": np.float32(iou), "max_boxes": most} | options
    if opset < 7:
        known["score_threshold"] = np.float32(least)
        results = run("non_maximum_suppression", {"boxes": boxes, "scores": scores}, opset=opset, **known)
    else:
        least = -math.inf
        columns = {"boxes": boxes.transpose(0, 2, 1).copy(), "scores": scores.transpose(0, 2, 1).copy()}
        results = run("non_maximum_suppression", columns, opset=opset, **known)
        results[:2] = [result.transpose(0, 2, 1) for result in results[:2]]
    assert len(results) == (4 if opset < 7 else 3)
    for b in range(batch):
        kept = suppressed(boxes[b], scores[b], iou, least, most, options.get("per_class_suppression", False))
        rest = most - len(kept)
        close(results[0][b], np.concatenate([boxes[b, kept], np.zeros((rest, 4), np.float32)]))
        close(results[1][b], np.concatenate([scores[b, kept], np.zeros((rest, classes), np.float32)]))
        close(results[2][b], np.array(kept + [-1] * rest, np.int32))
        if opset < 7:
            assert results[3].dtype == np.int32
            assert results[3][b] == len(kept)


@covers("non_maximum_suppression")
def test_boxes_of_several_classes() -> None:
    """Two boxes on one place, of different classes, and one that scores exactly the threshold."""
    boxes = np.array([[[1, 1, 2, 2], [1, 1, 2, 2], [9, 9, 1, 1], [5, 5, 1, 1]]], np.float32)
    scores = np.array([[[3, 0], [0, 2], [1, 0], [0.5, 0]]], np.float32)
    known = {"iou_threshold": np.float32(0.5), "score_threshold": np.float32(1), "max_boxes": 4}
    for each, expected in ((True, [0, 1, 2, -1]), (False, [0, 2, -1, -1])):
        inputs = {"boxes": boxes, "scores": scores}
        results = run("non_maximum_suppression", inputs, opset=6, per_class_suppression=each, **known)
        assert results[2].tolist() == [expected]


FAULTS: dict[str, list[Fault]] = {
    "argsort": [("not ascending", "ascending"), ("stable=True", "stable=False"), ("dim=axis", "dim=-1")],
    "band_part": [("tril(upper)", "tril(upper - 1)"), ("triu(-lower)", "triu(lower)"), ("upper >= 0", "upper > 0")],
    "concat": [
        (".flatten(axis, axis + 1)", ".transpose(axis, axis + 1).flatten(axis, axis + 1)"),
        ("axis %= values[0].ndim", "pass"),
        ("value[None]", "value"),
        (", axis)", ", 0)"),
    ],
    "cumsum": [
        ("x.flip(axis) if reverse", "x if reverse"),
        ("total.flip(axis) if reverse", "total if reverse"),
        ("if exclusive:", "if exclusive and not reverse:"),
        ("dtype=x.dtype", "dtype=torch.int32"),
    ],
    "fill": [
        ("value.reshape(())", "value.float().reshape(())"),
        ("expand(shape)", "expand(shape[::-1])"),
        ("value.res", "NOTHING.res"),
    ],
    "fill_like": [
        ("value.res", "NOTHING.res"),
        ("ref_tensor.shape", "ref_tensor.shape[::-1]"),
        ("value.reshape", "value.float().reshape"),
    ],
    "flatten2d": [
        ("x.shape[axis:]", "x.shape[axis - 1 :]"),
        ("x.shape[:axis]", "x.shape[: axis + 1]"),
        ("x.reshape", "x.flip(0).reshape"),
    ],
    "identity": [("return x", "return x[:1]"), ("return x", "return x[::-1] if isinstance(x, list) else x")],
    "non_maximum_suppression": [
        ("opset >= 7:\n        boxes", "opset >= 8:\n        boxes"),
        (".amax(-1)", ".mean(-1)"),
        ("scores.argmax(-1)", "scores.argmin(-1)"),
        (">= score_threshold", "> score_threshold"),
        ("alive[0] = True", "pass"),
        ("> iou_threshold", ">= iou_threshold"),
        ("== kinds[first]", "!= kinds[first]"),
        ("alive[first] = False", "break"),
        ("index, 1), 0)", "index, 1), 1)"),
        ("max_boxes), -1)", "max_boxes), -2)"),
        ("boxes[:, 2:] / 2, boxes[:, :2]", "boxes[:, 2:], boxes[:, :2]"),
        (".clamp(min=0).prod(-1)", ".prod(-1)"),
        (" - shared\n", "\n"),
        ("stable=True)", "stable=True).flip(-1)"),
    ],
    "non_zero": [("torch.nonzero(x)", "torch.nonzero(x).flip(0)"), ("torch.nonzero(x)", "torch.nonzero(x).T")],
    "one_hot": [
        (".movedim(-1, axis)", ""),
        ("on_value, off_value)", "off_value, on_value)"),
        ("int(indices.min()) < 0 or", ""),
        (" or int(indices.max()) >= one_hot_vector_size", ""),
    ],
    "pad": [
        ("reversed(sides)", "sides"),
        ("value=constant_val", "value=0"),
        ("size - 1)", "size)"),
        ("2 * inside - places", "inside"),
        ("first < 0 or ", ""),
        (" or min(pad, default=0) < 0", ""),
        ('"reflect": 1', '"reflect": 0'),
        ('"replicate": 0', '"replicate": -1'),
        ("enumerate(sides, first)", "enumerate(sides)"),
    ],
    "range_1d": [
        ("math.ceil", "math.floor"),
        ("max(0, count)", "count"),
        ("float((end - start) / step)", "(float(end) - float(start)) / float(step)"),
        ("start.reshape(()) + ", ""),
        ("int(end), int(step)", "int(end) + 1, int(step)"),
        ("int(step), dtype=start.dtype", "int(step), dtype=torch.float32"),
    ],
    "shape": [("x.shape,", "x.shape[::-1],"), ("torch.int32", "torch.int64")],
    "split": [
        ("if split_sizes is not None:", "if False:"),
        ("if rest:", "if False:"),
        ("split_sizes, axis)", "split_sizes, 0)"),
        ("size, axis)", "size, 0)"),
    ],
    "stack": [("values, axis", "values[::-1], axis"), ("values, axis", "values, 0")],
    "tile": [
        ("wide.repeat(rest)", "wide"),
        ("if max(rest) == 1", "if False"),
        ("rep if size == 1 else size", "size"),
        ("len(reps) != x.ndim or", ""),
        (" or min(reps) < -1", ""),
        ("rep if rep > 0 else 1", "max(rep, 0)"),
    ],
    "topk": [
        ("places if ascending", "size - 1 - places if ascending"),
        ("else size - 1 - places", "else places"),
        ("not ascending", "ascending"),
        ("size if k == -1 else k", "abs(k)"),
        ("if not -1 <= k <= size:", "if False:"),
        ("bits ^ 0x7FFFFFFF", "bits"),
        ("x + 0.0", "x"),
        ("torch.where(x.isnan(), torch.nan, x + 0.0)", "(x + 0.0)"),
        ("x.ndim - 1 - axis % x.ndim", "x.ndim - 1 - axis"),
    ],
}

# Faults that cannot be seen, and why.
UNSEEN: dict[str, dict[str, str]] = {
    "argsort": {"'stable=True' -> 'stable=False'": "torch sorts few values in a stable way without being asked to"},
    "tile": {"'if max(rest) == 1' -> 'if False'": "it saves a copy"},
    "topk": {
        "sort ignored": "without it no order is promised; the runtime always sorts",
        "output_indices_dtype ignored": "int32 and uint16 hold the same positions, which leave the runtime as int32",
    },
}
