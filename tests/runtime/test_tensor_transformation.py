"""Shapes and slices, against numpy's and loops that follow the documentation."""

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.errors import Error
from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, axes, close, covers, run, run_graph

ANY = st.sampled_from([np.float32, np.int32, np.bool_])
SMALL = st.integers(1, 3)


@st.composite
def tensors(draw: Any, least: int = 1, most: int = 4) -> np.ndarray:
    return draw(arrays(dtype=draw(ANY), ranks=(least, most)))


def as_input_or_constant(data: Any, operation: str, x: np.ndarray, opset: int = 8, **vectors: list[int]) -> np.ndarray:
    """The small vectors are inputs of the program, or constants of it."""
    values = {name: np.array(vector, np.int32) for name, vector in vectors.items()}
    inputs = {name: value for name, value in values.items() if data.draw(st.booleans())}
    constants = {name: value for name, value in values.items() if name not in inputs}
    return run(operation, {"x": x} | inputs, opset=opset, **constants)


# Blocks of channels, of batches, and of places


@st.composite
def blocks(draw: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """A tensor of (n, c, h * b, w * b), and the same as (n, b * b * c, h, w): the place in the block, then the channel."""
    n, c, h, w, b = draw(SMALL), draw(SMALL), draw(SMALL), draw(SMALL), draw(st.integers(2, 3))
    large = draw(arrays((n, c, h * b, w * b)))
    deep = np.empty((n, b * b * c, h, w), np.float32)
    for i in range(b):
        for j in range(b):
            first = (i * b + j) * c
            deep[:, first : first + c] = large[:, :, i::b, j::b]
    return large, deep, b


@covers("depth_to_space", "space_to_depth")
@given(drawn=blocks())
def test_depth_and_space(operation: str, drawn: tuple[np.ndarray, np.ndarray, int]) -> None:
    large, deep, b = drawn
    x, expected = (deep, large) if operation == "depth_to_space" else (large, deep)
    close(run(operation, {"x": x}, block_size=b), expected)


@covers("depth_to_space", "space_to_depth", "pixel_shuffle")
def test_the_example_of_the_neural_network_format(operation: str) -> None:
    deep = np.arange(1, 17, dtype=np.float32).reshape(1, 8, 1, 2)
    large = np.array([[[[1, 5, 2, 6], [9, 13, 10, 14]], [[3, 7, 4, 8], [11, 15, 12, 16]]]], np.float32)
    shuffled = np.array([[[[1, 3, 2, 4], [5, 7, 6, 8]], [[9, 11, 10, 12], [13, 15, 14, 16]]]], np.float32)
    if operation == "depth_to_space":
        close(run(operation, {"x": deep}, block_size=2), large)
    elif operation == "space_to_depth":
        close(run(operation, {"x": large}, block_size=2), deep)
    else:
        close(run(operation, {"x": deep}, upscale_factor=2), shuffled)


@covers("pixel_shuffle", "pixel_unshuffle")
@given(data=st.data())
def test_pixels(operation: str, data: Any) -> None:
    n, c, h, w, f = (data.draw(SMALL) for _ in range(5))
    large = data.draw(arrays((n, c, h * f, w * f)))
    deep = np.empty((n, c * f * f, h, w), np.float32)
    for channel in range(c):
        for i in range(f):
            for j in range(f):
                deep[:, channel * f * f + i * f + j] = large[:, channel, i::f, j::f]
    if operation == "pixel_shuffle":
        close(run(operation, {"x": deep}, upscale_factor=f), large)
    else:
        close(run(operation, {"x": large}, downscale_factor=np.uint32(f)), deep)


@covers("space_to_batch", "batch_to_space")
@given(data=st.data())
def test_batches(operation: str, data: Any) -> None:
    """Batch i * n + b holds what is at place i of every block of example b."""
    n, c, h, w, high, wide = (data.draw(SMALL) for _ in range(6))
    whole = data.draw(arrays((n, c, h * high, w * wide)))
    top, bottom = (data.draw(st.integers(0, (h * high - 1) // 2)) for _ in range(2))
    left, right = (data.draw(st.integers(0, (w * wide - 1) // 2)) for _ in range(2))
    edge = [[top, bottom], [left, right]]
    inner = np.ix_(range(n), range(c), range(top, h * high - bottom), range(left, w * wide - right))
    batches = np.empty((high * wide * n, c, h, w), np.float32)

    def fold(x: np.ndarray) -> np.ndarray:
        for place in range(high * wide):
            batches[place * n : (place + 1) * n] = x[:, :, place // wide :: high, place % wide :: wide]
        return batches

    if operation == "batch_to_space":
        close(run(operation, {"x": fold(whole)}, block_shape=[high, wide], crops=edge), whole[inner])
    else:
        framed = np.zeros_like(whole)
        framed[inner] = whole[inner]
        close(run(operation, {"x": whole[inner]}, block_shape=[high, wide], paddings=edge), fold(framed))


@covers("batch_to_space")
def test_a_batch_that_makes_no_blocks() -> None:
    with pytest.raises(ValueError, match="a batch of 3 does not make blocks of 2 x 1"):
        OPERATIONS["batch_to_space"].function(x=torch.ones(3, 1, 1, 1), block_shape=[2, 1], crops=[0, 0, 0, 0])


# Shapes


@covers("expand_dims")
@given(data=st.data(), x=tensors())
def test_expand_dims(data: Any, x: np.ndarray) -> None:
    count = data.draw(st.integers(1, 3))
    rank = x.ndim + count
    chosen = data.draw(st.permutations(range(rank)))[:count]
    shape, rest = [], list(x.shape)
    for axis in range(rank):
        shape.append(1 if axis in chosen else rest.pop(0))
    close(
        run("expand_dims", {"x": x}, axes=[data.draw(st.sampled_from([a, a - rank])) for a in chosen]),
        x.reshape(shape),
    )


@covers("squeeze")
@given(data=st.data())
def test_squeeze(data: Any) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=5))
    x = data.draw(arrays(tuple(shape), data.draw(ANY)))
    chosen = data.draw(st.none() | axes(x.ndim))
    gone = range(x.ndim) if chosen is None else {axis % x.ndim for axis in chosen}
    expected = x.reshape([size for axis, size in enumerate(shape) if size != 1 or axis not in gone])
    close(run("squeeze", {"x": x}, **({} if chosen is None else {"axes": chosen})), expected)


@covers("transpose")
@given(data=st.data(), x=tensors())
def test_transpose(data: Any, x: np.ndarray) -> None:
    perm = data.draw(st.permutations(range(x.ndim)))
    expected = np.empty([x.shape[axis] for axis in perm], x.dtype)
    for place in np.ndindex(expected.shape):
        expected[place] = x[tuple(place[perm.index(axis)] for axis in range(x.ndim))]
    given_perm = [data.draw(st.sampled_from([axis, axis - x.ndim])) for axis in perm]
    close(run("transpose", {"x": x}, perm=given_perm), expected)


@st.composite
def shapes_of(draw: Any, count: int) -> list[int]:
    """A shape of so many elements."""
    shape = [count]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(shape) - 1))
        part = draw(st.sampled_from([n for n in range(1, shape[at] + 1) if shape[at] % n == 0]))
        shape[at : at + 1] = [part, shape[at] // part]
    return shape


@covers("reshape")
@given(data=st.data(), x=tensors())
def test_reshape(data: Any, x: np.ndarray) -> None:
    target = data.draw(shapes_of(x.size))
    opset = data.draw(st.integers(5, 9))
    asked = list(target)
    if data.draw(st.booleans()):
        asked[data.draw(st.integers(0, len(asked) - 1))] = -1
    for i in range(len(asked)):
        # Where a 0 gives the same.
        j = i if opset < 7 else i + x.ndim - len(asked)
        same = x.ndim == len(asked) if opset < 7 else True
        if same and asked[i] == (x.shape[j] if j >= 0 else 1) and data.draw(st.booleans()):
            asked[i] = 0
    close(as_input_or_constant(data, "reshape", x, opset=opset, shape=asked), x.reshape(target))


@covers("reshape")
def test_what_0_keeps() -> None:
    def reshaped(x: np.ndarray, shape: list[int], opset: int) -> tuple[int, ...]:
        return run("reshape", {"x": x, "shape": np.array(shape, np.int32)}, opset=opset).shape

    x = np.ones((2, 50), np.float32)
    for opset in (7, 8, 9):
        assert reshaped(x, [1, 0, -1, 0], opset) == (1, 1, 2, 50)
        assert reshaped(np.ones((4, 3, 2), np.float32), [-1, 0], opset) == (12, 2)
        assert reshaped(np.ones((4, 3, 2), np.float32), [0, -1, 1], opset) == (4, 6, 1)
    for opset in (5, 6):
        assert reshaped(x, [0, 10, 5], opset) == (2, 10, 5)
        assert reshaped(np.ones((4, 3, 2), np.float32), [0, -1], opset) == (4, 6)
        with pytest.raises(Error, match="out of range"):
            reshaped(x, [1, 10, 0], opset)


@covers("reshape_like")
@given(data=st.data(), x=tensors())
def test_reshape_like(data: Any, x: np.ndarray) -> None:
    target = data.draw(shapes_of(x.size))
    inputs, begins, ends, masks = {"x": x}, [], [], []
    while target:
        taken = data.draw(st.integers(1, len(target)))
        before = data.draw(st.lists(SMALL, max_size=2))
        to_end = data.draw(st.booleans())
        after = [] if to_end else data.draw(st.lists(SMALL, max_size=2))
        shape = [*before, *target[:taken], *after]
        inputs[f"r{len(begins)}"] = np.zeros(shape, np.int32)
        begins.append(np.int32(len(before) - data.draw(st.sampled_from([0, len(shape)]))))
        ends.append(np.int32(data.draw(st.integers(-3, 3)) if to_end else len(before) + taken))
        masks.append(np.bool_(to_end))
        target = target[taken:]

    def build(x: Any, **references: Any) -> Any:
        references = tuple(references.values())
        return mb.reshape_like(x=x, ref_tensors=references, begins=begins, ends=ends, end_masks=masks)

    expected = x.reshape(
        [
            size
            for i, (begin, end, mask) in enumerate(zip(begins, ends, masks, strict=True))
            for size in inputs[f"r{i}"].shape[begin : None if mask else end]
        ]
    )
    close(run_graph(build, inputs, opset=data.draw(st.integers(6, 9)))[0], expected)


# Order


@covers("reverse")
@given(data=st.data(), x=tensors())
def test_reverse(data: Any, x: np.ndarray) -> None:
    chosen = data.draw(st.none() | axes(x.ndim))
    flipped = range(x.ndim) if chosen is None else {axis % x.ndim for axis in chosen}
    expected = x[tuple(slice(None, None, -1 if axis in flipped else 1) for axis in range(x.ndim))]
    close(run("reverse", {"x": x}, **({} if chosen is None else {"axes": chosen})), expected)


@covers("reverse_sequence")
@given(data=st.data(), x=tensors(least=2))
def test_reverse_sequence(data: Any, x: np.ndarray) -> None:
    sequence, batch = data.draw(st.permutations(range(x.ndim)))[:2]
    lengths = data.draw(arrays((x.shape[batch],), np.int32, low=0, high=x.shape[sequence]))
    expected = x.copy()
    rows, source = np.moveaxis(expected, (batch, sequence), (0, 1)), np.moveaxis(x, (batch, sequence), (0, 1))
    for i, length in enumerate(lengths):
        for j in range(length):
            rows[i, j] = source[i, length - 1 - j]
    options = {"seq_axis": sequence, "batch_axis": batch}
    options = {key: data.draw(st.sampled_from([axis, axis - x.ndim])) for key, axis in options.items()}
    options = {key: axis for key, axis in options.items() if axis or data.draw(st.booleans())}
    close(run("reverse_sequence", {"x": x, "lengths": lengths}, **options), expected)


@covers("reverse_sequence")
def test_wrong_sequences() -> None:
    x = np.zeros((2, 3), np.float32)
    for lengths in ([1, 4], [-1, 2], [1, 2, 3]):
        with pytest.raises(Error, match=r"should be 2 numbers up to 3"):
            run("reverse_sequence", {"x": x, "lengths": np.array(lengths, np.int32)}, seq_axis=1)
    with pytest.raises(Error, match="both the sequence's and the batch's"):
        run("reverse_sequence", {"x": x, "lengths": np.array([1, 2], np.int32)})


@covers("sliding_windows")
@given(data=st.data())
def test_sliding_windows(data: Any) -> None:
    x = data.draw(arrays(dtype=data.draw(st.sampled_from([np.float32, np.int32])), ranks=(1, 4)))
    axis = data.draw(st.integers(0, x.ndim - 1))
    size = data.draw(st.integers(1, x.shape[axis]))
    stride = data.draw(st.none() | st.integers(1, 3))
    starts = range(0, x.shape[axis] - size + 1, stride or 1)
    expected = np.stack([x.take(range(start, start + size), axis) for start in starts], axis)
    given_axis = data.draw(st.sampled_from([axis, axis - x.ndim]))
    options = {} if stride is None else {"stride": stride}
    close(run("sliding_windows", {"x": x}, axis=given_axis, size=size, **options), expected)


# Slices


@st.composite
def slices(
    draw: Any, shape: tuple[int, ...], strict: bool = False
) -> tuple[dict[str, list[Any]], Any, tuple[int, ...]]:
    """Begins, ends and the rest of a slice; numpy's index for it, and the axes that go away after it.

    coremltools declares other lengths than numpy's for some slices of one element, and for one that goes backwards beyond
    the beginning; it refuses some empty ones. Those are left out here, and run below where nothing is declared.
    """
    known: dict[str, list[Any]] = {
        name: [] for name in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }
    index, gone = [], []
    for axis, size in enumerate(shape):
        edge = st.integers(-size - 2, size + 2)
        first, last, step = draw(edge), draw(edge), draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        open_first, open_last, squeezed = (draw(st.sampled_from([False, False, True])) for _ in range(3))
        if squeezed:
            first = max(-size, min(first, size - 1))
            gone.append(axis)
            one = 0 if open_first else first % size
            index.append(slice(one, one + 1))
        else:
            cut = slice(None if open_first else first, None if open_last else last, step)
            declared = (size > 1 or -1 <= first <= 0) and (step > 0 or open_last or last >= -size)
            if not range(size)[cut] or not declared:
                first, last, step, open_first, open_last = 0, size, 1, False, False
                cut = slice(None)
            index.append(cut)
        for name, value in zip(known, (first, last, step, open_first, open_last, squeezed), strict=True):
            known[name].append(value)
    if all(step == 1 for step in known["stride"]) and draw(st.booleans()):
        del known["stride"]
    for name in ("begin_mask", "end_mask", "squeeze_mask"):
        if not any(known[name]) and draw(st.booleans()):
            del known[name]
    return known, tuple(index), tuple(gone)


def with_edges(data: Any, known: dict[str, list[Any]]) -> tuple[dict[str, np.ndarray], dict[str, list[Any]]]:
    """Begin and end as inputs of the program or as constants of it; the rest is constant always."""
    inputs = {name: np.array(known[name], np.int32) for name in ("begin", "end") if data.draw(st.booleans())}
    return inputs, {name: value for name, value in known.items() if name not in inputs}


@covers("slice_by_index")
@given(data=st.data(), x=tensors())
def test_slice_by_index(data: Any, x: np.ndarray) -> None:
    known, index, gone = data.draw(slices(x.shape))
    inputs, constants = with_edges(data, known)
    close(run("slice_by_index", {"x": x} | inputs, **constants), x[index].squeeze(gone))


@covers("slice_update")
@given(data=st.data())
def test_slice_update(data: Any) -> None:
    kind = data.draw(ANY)
    x = data.draw(arrays(dtype=kind, ranks=(1, 4)))
    known, index, gone = data.draw(slices(x.shape))
    if len(gone) == x.ndim:
        return  # coremltools refuses updates of rank 0
    inputs, constants = with_edges(data, known)
    update = data.draw(arrays(x[index].squeeze(gone).shape, kind))
    expected = x.copy()
    expected[index] = np.expand_dims(update, gone)
    close(run("slice_update", {"x": x, "update": update} | inputs, **constants), expected)


def call(operation: str, x: torch.Tensor, *others: torch.Tensor, **constants: Any) -> torch.Tensor:
    names = ("x", "update")
    return OPERATIONS[operation].function(**dict(zip(names, (x, *others), strict=False)), **constants)


@covers("slice_by_index", "slice_update")
def test_every_slice_of_a_line(operation: str) -> None:
    """All begins and ends around five elements, and the empty slices that coremltools does not build."""
    line = np.arange(5, dtype=np.float32)
    edges = range(-7, 8)
    for step in (1, 2, -1, -2, -3, 7, -7):
        for first in edges:
            for last in edges:
                cut = slice(first, last, step)
                known = {"begin": [first], "end": [last], "stride": [step]}
                if operation == "slice_by_index":
                    assert call(operation, torch.from_numpy(line), **known).tolist() == line[cut].tolist()
                    continue
                expected = line.copy()
                expected[cut] = -1 - np.arange(len(line[cut]))
                update = torch.from_numpy(-1 - np.arange(len(line[cut]), dtype=np.float32))
                assert call(operation, torch.from_numpy(line), update, **known).tolist() == expected.tolist()


@covers("slice_by_index", "slice_update")
def test_slices_that_there_are_not(operation: str) -> None:
    x, updates = torch.arange(6.0).reshape(2, 3), [torch.ones(2)] if operation == "slice_update" else []
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for dimension 1 with size 3"):
            call(operation, x, *updates, begin=[0, wrong], end=[2, 0], squeeze_mask=[False, True])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        call(operation, x, *updates, begin=[0], end=[1])
    with pytest.raises(ValueError, match="zero"):
        call(operation, x, *updates, begin=[0, 0], end=[1, 1], stride=[1, 0])


@covers("slice_update")
def test_an_update_is_not_broadcast() -> None:
    for shape in ((1,), (1, 2), (3, 2), ()):
        with pytest.raises(ValueError, match=r"the slice has the shape \(2,\)"):
            call("slice_update", torch.zeros(4), torch.ones(shape), begin=[1], end=[3])


@covers("slice_update")
def test_the_tensor_that_is_updated_stays_as_it_is() -> None:
    x = torch.zeros(4)
    assert call("slice_update", x, torch.ones(2), begin=[1], end=[3]).tolist() == [0, 1, 1, 0]
    assert x.tolist() == [0, 0, 0, 0]
    y = call("slice_update", x, torch.ones(2), begin=[1], end=[3], in_place=True)
    assert x.tolist() == y.tolist() == [0, 1, 1, 0]


@covers("slice_update")
def test_what_is_moved_within_itself() -> None:
    """The update is a part of what it updates: in place, neither may overwrite the other."""
    for begin, part in ((0, slice(1, None)), (1, slice(0, -1))):
        x = torch.arange(5.0)
        moved = x[part].tolist()
        y = call("slice_update", x, x[part], begin=[begin], end=[begin + 4], in_place=True)
        assert y[begin : begin + 4].tolist() == moved
    x = torch.arange(4.0)
    backward = {"begin": [-1], "end": [-5], "stride": [-1], "in_place": True}
    assert call("slice_update", x, x, **backward).tolist() == [3, 2, 1, 0]


@covers("slice_by_size")
@given(data=st.data(), x=tensors())
def test_slice_by_size(data: Any, x: np.ndarray) -> None:
    begin, size, index = [], [], []
    for length in x.shape:
        first = data.draw(st.integers(0, length - 1))
        count = data.draw(st.integers(1, length - first))
        index.append(slice(first, first + count))
        size.append(data.draw(st.sampled_from([count, -1])) if first + count == length else count)
        # coremltools declares a wrong shape for a negative begin that is constant.
        begin.append(first)
    mirrored = [
        first - length if data.draw(st.booleans()) else first for first, length in zip(begin, x.shape, strict=True)
    ]
    if mirrored != begin:
        inputs = {"x": x, "begin": np.array(mirrored, np.int32)}
        close(run("slice_by_size", inputs, size=size), x[tuple(index)])
    else:
        close(as_input_or_constant(data, "slice_by_size", x, begin=begin, size=size), x[tuple(index)])


@covers("slice_by_size")
def test_more_than_there_is() -> None:
    x = torch.zeros(2, 3)
    for begin, size in (([0, 1], [2, 3]), ([0, 4], [2, -1]), ([0, -4], [2, 1]), ([0, 0], [2, -2]), ([2, 0], [1, 3])):
        with pytest.raises(IndexError, match=r"is outside of [23] entries at axis [01]"):
            call("slice_by_size", x, begin=begin, size=size)
    assert call("slice_by_size", x, begin=[0, 3], size=[2, 0]).shape == (2, 0)


SLICES: list[Fault] = [
    ("0 if from_start else first)\n            continue", "first)\n            continue"),
    ("None if from_start", "0 if from_start"),
    ("None if to_end", "size if to_end"),
    ("places = places[::-1]", "pass"),
    ("reversed_axes.append(rank)", "reversed_axes.append(len(slices))"),
    ("stride or [1] * x.ndim", "[1] * x.ndim"),
]

FAULTS: dict[str, list[Fault]] = {
    "batch_to_space": [
        ("permute(2, 3, 4, 0, 5, 1)", "permute(2, 3, 4, 1, 5, 0)"),
        ("high, wide = block_shape", "wide, high = block_shape"),
        ("top, bottom, left, right = crops", "bottom, top, left, right = crops"),
        ("if n % (high * wide):", "if False:"),
        ("top, bottom, left, right = crops", "left, right, top, bottom = crops"),
    ],
    "depth_to_space": [
        ("reshape(n, b, b, channels", "reshape(n, channels, b, b"),
        ("permute(0, 3, 4, 1, 5, 2)", "permute(0, 3, 4, 2, 5, 1)"),
        ("permute(0, 3, 4, 1, 5, 2)", "permute(0, 3, 1, 4, 2, 5)"),
    ],
    "expand_dims": [
        ("axis % rank", "axis % x.ndim"),
        ("rank = x.ndim + len(axes)", "rank = x.ndim + 1"),
        ("sorted(", "list("),
    ],
    "pixel_shuffle": [
        ("functional.pixel_shuffle(x, upscale_factor)", "depth_to_space(x, upscale_factor)"),
        ("x, up", "x.flip(1), up"),
        ("x, up", "x.mT, up"),
    ],
    "pixel_unshuffle": [
        ("functional.pixel_unshuffle(x, downscale_factor)", "space_to_depth(x, downscale_factor)"),
        ("x, down", "x.flip(1), down"),
        ("x, down", "x.mT, down"),
    ],
    "reshape": [
        ("opset < 7", "opset < 8"),
        ("opset < 7", "opset < 6"),
        ("len(shape) - x.ndim", "max(0, x.ndim - len(shape))"),
        ("max(0, x.ndim - len(shape)) :", "0:"),
        ("[1] * (", "[2] * ("),
        ("if 0 not in shape", "if True"),
    ],
    "reshape_like": [("None if free", "0 if free"), ("int(begin) :", "0 :"), ("else int(end)", "else None")],
    "reverse": [
        ("if axes is None", "if not axes or len(axes) > 1"),
        ("x.ndim))", "x.ndim - 1))"),
        ("x.flip", "x.roll(1, 0).flip"),
    ],
    "reverse_sequence": [
        ("if sequence == batch:", "if False:"),
        (" - 1\n", "\n"),
        ("places > last", "places >= last - 1"),
        (" or int(lengths.min()) < 0", ""),
        (" or int(lengths.max()) > size", ""),
        ("axis == batch", "axis == sequence"),
        ("lengths.shape != (x.shape[batch],) or ", ""),
    ],
    "slice_by_index": [*SLICES, (".flip(reversed_axes)", "")],
    "slice_by_size": [
        ("first + length if", "first if"),
        ("count == -1", "count == -2"),
        ("length - start if", "length if"),
        ("if not 0 <= start <= start + wanted <= length:", "if False:"),
    ],
    "slice_update": [
        *SLICES,
        ("update = update.flip(reversed_axes)", "pass"),
        ("x if in_place else x.clone()", "x"),
        ("x if in_place else x.clone()", "x.clone()"),
        ("if y[where].shape != update.shape:", "if False:"),
        ("update = update.clone()", "pass"),
    ],
    "sliding_windows": [
        ("axis % x.ndim + 1", "axis % x.ndim"),
        ("axis % x.ndim + 1", "axis + 1"),
        ("size, stride", "size, 1"),
    ],
    "space_to_batch": [
        ("permute(3, 5, 0, 1, 2, 4)", "permute(0, 3, 5, 1, 2, 4)"),
        ("permute(3, 5, 0, 1, 2, 4)", "permute(5, 3, 0, 1, 2, 4)"),
        ("[left, right, top, bottom]", "[right, left, top, bottom]"),
        ("[left, right, top, bottom]", "[top, bottom, left, right]"),
        ("high, wide = block_shape", "wide, high = block_shape"),
    ],
    "space_to_depth": [
        ("permute(0, 3, 5, 1, 2, 4)", "permute(0, 5, 3, 1, 2, 4)"),
        ("permute(0, 3, 5, 1, 2, 4)", "permute(0, 1, 3, 5, 2, 4)"),
        ("h // b, b, w", "b, h // b, w"),
    ],
    "squeeze": [("axes is None", "True"), ("x.squeeze() if", "x if"), ("x.squeeze(axes)", "x.squeeze(axes[:1])")],
    "transpose": [
        ("permute(perm)", "permute(perm[::-1])"),
        ("x.permute(perm)", "x"),
        ("x.permute(perm)", "x.permute([perm.index(a) for a in range(x.ndim)])"),
    ],
}

# Faults that cannot be seen, and why.
UNSEEN: dict[str, dict[str, str]] = {}
