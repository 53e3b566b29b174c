"""Reading and writing by index, against loops that follow the documentation index by index."""

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

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from([np.float32, np.int32])


def indices_for(size: int, shape: tuple[int, ...], least: int | None = None) -> st.SearchStrategy[np.ndarray]:
    return arrays(shape, np.int32, low=-size if least is None else least, high=size - 1)


def split_inputs(**arguments: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model takes no scalars: they are constants of the program."""
    inputs = {name: value for name, value in arguments.items() if value.ndim}
    return inputs, {name: value[()] for name, value in arguments.items() if not value.ndim}


# Gathering


def gathered(x: np.ndarray, indices: np.ndarray, axis: int, batch_dims: int) -> np.ndarray:
    inner = indices.ndim - batch_dims
    out = np.empty((*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :]), x.dtype)
    for place in np.ndindex(out.shape):
        index = indices[place[:batch_dims] + place[axis : axis + inner]]
        out[place] = x[(*place[:axis], index, *place[axis + inner :])]
    return out


@covers("gather")
@given(data=st.data())
def test_gather(data: Any) -> None:
    x = data.draw(arrays(data.draw(SHAPES), data.draw(DTYPES)))
    axis = data.draw(st.integers(0, x.ndim - 1))
    batch_dims = data.draw(st.integers(0, axis))
    shape = (*x.shape[:batch_dims], *data.draw(st.lists(st.integers(1, 3), max_size=2)))
    opset = data.draw(st.integers(6, 9))
    indices = data.draw(indices_for(x.shape[axis], shape))
    given_axis = data.draw(st.sampled_from([axis, axis - x.ndim]))
    inputs, constants = split_inputs(x=x, indices=indices)
    result = run("gather", inputs, opset=opset, axis=given_axis, batch_dims=batch_dims, **constants)
    assert result.dtype == x.dtype
    close(result, gathered(x, indices, axis, batch_dims))


@covers("gather")
def test_gather_of_rows() -> None:
    x, indices = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([[3, 0], [-1, 2]], np.int32)
    for opset in (5, 6, 7, 8, 9):
        close(run("gather", {"x": x, "indices": indices}, opset=opset), x[indices])
    close(run("gather", {"x": x}, indices=np.int32(2)), x[2])
    close(run("gather", {"x": x, "indices": np.array([1, 3], np.int32)}, validate_indices=True), x[[1, 3]])


def gathered_nd(x: np.ndarray, indices: np.ndarray, batch_dims: int) -> np.ndarray:
    depth = indices.shape[-1]
    out = np.empty((*indices.shape[:-1], *x.shape[batch_dims + depth :]), x.dtype)
    for place in np.ndindex(indices.shape[:-1]):
        out[place] = x[place[:batch_dims] + tuple(indices[place])]
    return out


@st.composite
def nd_indices(draw: Any, sizes: tuple[int, ...], outer: tuple[int, ...], least: int | None = None) -> np.ndarray:
    columns = [draw(indices_for(size, outer, least)) for size in sizes]
    return np.stack(columns, axis=-1) if columns else np.empty((*outer, 0), np.int32)


@covers("gather_nd")
@given(data=st.data())
def test_gather_nd(data: Any) -> None:
    x = data.draw(arrays(data.draw(SHAPES), data.draw(DTYPES)))
    batch_dims = data.draw(st.integers(0, x.ndim - 1))
    depth = data.draw(st.integers(1, x.ndim - batch_dims))
    outer = (*x.shape[:batch_dims], *data.draw(st.lists(st.integers(1, 3), max_size=2)))
    indices = data.draw(nd_indices(x.shape[batch_dims : batch_dims + depth], outer))
    # Without a batch there are programs of iOS15, too.
    opset = data.draw(st.integers(6 if batch_dims else 5, 9))
    constants = {"batch_dims": batch_dims} if opset > 5 else {}
    close(run("gather_nd", {"x": x, "indices": indices}, opset=opset, **constants), gathered_nd(x, indices, batch_dims))


@covers("gather_along_axis")
@given(data=st.data())
def test_gather_along_axis(data: Any) -> None:
    x = data.draw(arrays(data.draw(SHAPES), data.draw(DTYPES)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shape = list(x.shape)
    shape[axis] = data.draw(st.integers(1, 5))
    indices = data.draw(indices_for(x.shape[axis], tuple(shape)))
    expected = np.empty(shape, x.dtype)
    for place in np.ndindex(*shape):
        source = list(place)
        source[axis] = indices[place]
        expected[place] = x[tuple(source)]
    close(
        run("gather_along_axis", {"x": x, "indices": indices}, opset=data.draw(st.integers(5, 9)), axis=axis), expected
    )


@covers("gather_along_axis")
def test_gather_along_the_first_axis() -> None:
    x, indices = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 0], [0, 0]], np.int32)
    close(run("gather_along_axis", {"x": x, "indices": indices}), [[3, 2], [1, 2]])


@covers("gather", "gather_along_axis", "gather_nd")
def test_reading_outside(operation: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    shape = (2, 4) if operation == "gather_along_axis" else (2, 1)
    for wrong in (3, 100, -4):
        indices = np.zeros(shape, np.int32)
        indices[-1, -1] = wrong
        with pytest.raises(Error, match=rf"the index {wrong} is outside of 3 entries"):
            run(operation, {"x": x, "indices": indices}, opset=8)
    last = np.full(shape, -1, np.int32)
    run(operation, {"x": x, "indices": last}, validate_indices=False)
    with pytest.raises(Error, match=r"the index -1 is outside of 3 entries"):
        run(operation, {"x": x, "indices": last}, validate_indices=True)


@covers("gather", "gather_along_axis", "gather_nd")
def test_nothing_to_read(operation: str) -> None:
    shape = {"gather": (0,), "gather_along_axis": (0, 4), "gather_nd": (0, 1)}[operation]
    result = OPERATIONS[operation].function(x=torch.ones(3, 4), indices=torch.zeros(shape, dtype=torch.int32))
    assert result.shape == (0, 4)


@covers("gather", "gather_along_axis", "gather_nd")
def test_no_silent_broadcast_in_reading(operation: str) -> None:
    """coremltools refuses these unless lengths are known at the call only."""
    x, indices = torch.ones(3, 4), torch.zeros((1, 2), dtype=torch.int32)
    more = {} if operation == "gather_along_axis" else {"batch_dims": 1}
    if operation == "gather":
        more["axis"] = 1
    with pytest.raises(ValueError, match=r"batch axes|differ"):
        OPERATIONS[operation].function(x=x, indices=indices, **more)
    if operation == "gather":
        with pytest.raises(ValueError, match="batch axes"):
            OPERATIONS[operation].function(x=x, indices=torch.zeros((3, 2), dtype=torch.int32), axis=0, batch_dims=1)


# Scattering

MODES = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new if isinstance(old, float) else int(old / new),
    "max": max,
    "min": min,
}


def scattered(data: np.ndarray, mode: str, targets: dict[tuple[int, ...], Any], updates: np.ndarray) -> np.ndarray:
    """One update after the other; `targets`: place in `updates` -> place in `data`."""
    result = data.astype(object if data.dtype.kind == "i" else np.float64)
    for place, target in targets.items():
        result[target] = MODES[mode](result[target], updates[place].item())
    return result.astype(data.dtype)


@st.composite
def numbers(draw: Any, shape: tuple[int, ...], mode: str, whole: bool) -> np.ndarray:
    """Of a size with which products and quotients of several stay small; nothing divides by 0."""
    if whole:
        values = draw(arrays(shape, np.int32, low=-9, high=9))
        return np.where(values == 0, 3, values) if mode == "div" else values
    return draw(arrays(shape, low=0.5, high=2)) * np.float32(draw(st.sampled_from([1, -1])))


def run_scatter(
    operation: str, data: Any, values: np.ndarray, indices: np.ndarray, shape: Any, places: Any, **more: Any
):
    mode = data.draw(st.sampled_from([None, *MODES]))
    updates = data.draw(numbers(shape, mode or "add", values.dtype == np.int32))
    constants = more if mode is None else more | {"mode": mode}
    inputs = {"data": values, "indices": indices, "updates": updates}
    result = run(operation, inputs, opset=5 if indices.min() < 0 else data.draw(st.integers(5, 9)), **constants)
    assert result.dtype == values.dtype
    close(result, scattered(values, mode or "add", {place: places(place) for place in np.ndindex(*shape)}, updates))


@st.composite
def values_and_axis(draw: Any) -> tuple[np.ndarray, int]:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
    values = draw(numbers(shape, "add", draw(st.booleans())))
    return values, draw(st.integers(0, len(shape) - 1))


LEAST = st.sampled_from([None, 0])


@covers("scatter")
@given(data=st.data(), drawn=values_and_axis(), least=LEAST)
def test_scatter(data: Any, drawn: tuple[np.ndarray, int], least: int | None) -> None:
    values, axis = drawn
    indices = data.draw(
        indices_for(values.shape[axis], tuple(data.draw(st.lists(st.integers(1, 3), min_size=1))[:2]), least)
    )
    inner = indices.ndim
    shape = (*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :])

    def places(place: tuple[int, ...]) -> Any:
        return (*place[:axis], indices[place[axis : axis + inner]], *place[axis + inner :])

    given_axis = data.draw(st.sampled_from([axis, axis - values.ndim]))
    run_scatter("scatter", data, values, indices, shape, places, axis=given_axis)


@covers("scatter_along_axis")
@given(data=st.data(), drawn=values_and_axis(), least=LEAST)
def test_scatter_along_axis(data: Any, drawn: tuple[np.ndarray, int], least: int | None) -> None:
    values, axis = drawn
    shape = (*values.shape[:axis], data.draw(st.integers(1, 4)), *values.shape[axis + 1 :])
    indices = data.draw(indices_for(values.shape[axis], shape, least))

    def places(place: tuple[int, ...]) -> Any:
        return (*place[:axis], indices[place], *place[axis + 1 :])

    given_axis = data.draw(st.sampled_from([axis, axis - values.ndim]))
    run_scatter("scatter_along_axis", data, values, indices, shape, places, axis=given_axis)


@covers("scatter_nd")
@given(data=st.data(), drawn=values_and_axis(), least=LEAST)
def test_scatter_nd(data: Any, drawn: tuple[np.ndarray, int], least: int | None) -> None:
    values, depth = drawn[0], drawn[1] + 1
    outer = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    indices = data.draw(nd_indices(values.shape[:depth], outer, least))

    def places(place: tuple[int, ...]) -> Any:
        return (*indices[place[: len(outer)]], *place[len(outer) :])

    run_scatter("scatter_nd", data, values, indices, (*outer, *values.shape[depth:]), places)


@covers("scatter_nd")
def test_a_mask_that_is_nowhere_true() -> None:
    """x[mask] = value as coremltools 9 converts it: the value is repeated as often as the mask is true, maybe 0 times."""

    def build(x: Any, mask: Any) -> Any:
        indices = mb.non_zero(x=mask)
        wanted = mb.slice_by_index(x=mb.shape(x=indices), begin=[0], end=[1])
        reps = mb.cast(x=mb.real_div(x=wanted, y=[1]), dtype="int32")
        return mb.scatter_nd(data=x, indices=indices, updates=mb.tile(x=np.float32([-1]), reps=reps), mode="update")

    x = np.arange(1, 7, dtype=np.float32)
    for mask in (np.zeros(6), np.eye(6)[2], np.ones(6)):
        expected = np.where(mask > 0, np.float32(-1), x)
        for opset in (6, 8):
            close(run_graph(build, {"x": x, "mask": mask.astype(np.int32)}, opset=opset)[0], expected)


SCATTERS = ("scatter", "scatter_along_axis", "scatter_nd")


def one_dimension(operation: str, indices: list[int]) -> np.ndarray:
    return np.array(indices, np.int32).reshape((-1, 1) if operation == "scatter_nd" else -1)


@covers(*SCATTERS)
def test_every_mode_where_an_index_stands_twice(operation: str) -> None:
    start, updates = np.array([2, 7, 8], np.float32), np.array([4, 1, 2, 5], np.float32)
    whole = {"update": [2, 5, 2], "add": [2, 13, 14], "sub": [2, 1, 2], "mul": [2, 35, 64], "div": [2, 1, 1]}
    whole |= {"max": [2, 7, 8], "min": [2, 1, 2]}
    inputs = {"indices": one_dimension(operation, [2, 1, 2, 1])}
    for mode, expected in whole.items():
        result = run(operation, inputs | {"data": start, "updates": updates}, mode=mode)
        close(result, np.array(expected, np.float32) if mode != "div" else start / [1, 5, 8])
        integers = {"data": start.astype(np.int32), "updates": updates.astype(np.int32)}
        close(run(operation, inputs | integers, mode=mode), np.array(expected, np.int32))


@covers(*SCATTERS)
def test_whole_numbers_are_divided_towards_zero(operation: str) -> None:
    inputs = {"data": np.array([-7, 7], np.int32), "updates": np.array([2, 2], np.int32)}
    close(run(operation, inputs, indices=one_dimension(operation, [0, 1]), mode="div"), np.array([-3, 3], np.int32))


@covers(*SCATTERS)
def test_writing_outside(operation: str) -> None:
    for opset, wrong in ((5, -4), (5, 3), (6, -4), (7, -1), (8, -1), (8, 3), (9, -4)):
        inputs = {"data": np.zeros(3, np.float32), "updates": np.ones(2, np.float32)}
        inputs["indices"] = one_dimension(operation, [0, wrong])
        with pytest.raises(Error, match=rf"the index {wrong} is outside of 3 entries"):
            run(operation, inputs, opset=opset)
    for opset in (5, 6):
        inputs["indices"] = one_dimension(operation, [0, -1])
        close(run(operation, inputs, opset=opset), np.array([1, 0, 1], np.float32))


@covers(*SCATTERS)
def test_no_silent_broadcast_in_writing(operation: str) -> None:
    def call(indices: torch.Tensor, updates: torch.Tensor) -> Any:
        return OPERATIONS[operation].function(data=torch.zeros(3, 4), indices=indices, updates=updates, opset=8)

    wanted = {"scatter": (2,), "scatter_along_axis": (2, 4), "scatter_nd": (2, 1)}[operation]
    indices = torch.zeros(wanted, dtype=torch.int32)
    assert call(indices, torch.ones(2, 4)).tolist()[0] == [2, 2, 2, 2]
    for wrong in ((1, 4), (2, 1), (3, 4), (4,), ()):
        with pytest.raises(ValueError, match=r"the updates' shape should be \(2, 4\)"):
            call(indices, torch.ones(wrong))
    if operation == "scatter_along_axis":
        with pytest.raises(ValueError, match="differ elsewhere than at axis 0"):
            call(indices[:, :1], torch.ones(2, 1))


@covers(*SCATTERS)
def test_an_unknown_mode(operation: str) -> None:
    inputs = {"data": np.zeros(3, np.float32), "updates": np.ones(1, np.float32)}
    with pytest.raises(Error, match="the mode 'xor' is unknown"):
        run(operation, inputs, indices=one_dimension(operation, [0]), mode="xor")


SCATTERED: list[Fault] = [
    ("opset < 7", "True"),
    ("opset < 7", "False"),
    ("opset < 7", "opset < 8"),
    ("data.scatter(axis, index, updates)", "data.scatter_add(axis, index, updates)"),
    ('"amax"', '"amin"'),
    ("-updates if", "updates if"),
    ('"trunc"', '"floor"'),
    ("torch.ones_like(data)", "torch.full_like(data, 2)"),
    ('"mul": "prod"', '"mul": "sum"'),
    ("high >= size or", "high > size or"),
]

FAULTS: dict[str, list[Fault]] = {
    "gather": [
        ("not validate_indices", "True"),
        ("axis < batch_dims", "False"),
        ("indices.shape[batch_dims:]", "indices.shape[1:]"),
        ("if batch != x.shape[:batch_dims]:", "if False:"),
        ("[1] * (axis - batch_dims)", "[1] * axis"),
        ("chosen.reshape(-1)", "chosen.reshape(-1).flip(0)"),
        ("low < (-size if negative else 0)", "False"),
        ("indices + size, indices", "indices + 1, indices"),
        ("if not indices.numel():", "if False:"),
    ],
    "gather_along_axis": [
        ("not validate_indices", "True"),
        ("x.shape[axis]", "x.shape[0]"),
        ("torch.gather(x, axis", "torch.gather(x, 0"),
        ("_same_but_for(axis, x, indices)", "pass"),
    ],
    "gather_nd": [
        ("not validate_indices", "True"),
        ("rows * size + ", "rows + "),
        ("* count\n", "* 0\n"),
        ("if batch != indices.shape[:batch_dims]:", "if False:"),
        ("x.shape[batch_dims:end]), not", "x.shape[: end - batch_dims]), not"),
    ],
    "scatter": [
        *SCATTERED,
        ("data.shape[axis], opset", "data.shape[0], opset"),
        ("if updates.shape != (*before, *indices.shape, *after):", "if False:"),
    ],
    "scatter_along_axis": [
        *SCATTERED,
        ("data.shape[axis], opset", "data.shape[0], opset"),
        ("_same_but_for(axis, data, indices)", "pass"),
        ("if updates.shape != indices.shape:", "if False:"),
    ],
    "scatter_nd": [
        *SCATTERED,
        ("rows * size + ", "rows + "),
        ("if updates.shape != indices.shape[:-1] + data.shape[depth:]:", "if False:"),
        ("data.shape[:depth]), opset", "data.shape[-depth:]), opset"),
    ],
}

# Faults that cannot be seen, and why.
UNSEEN: dict[str, dict[str, str]] = {
    name: {"validate_indices ignored": "an index outside is an error with and without it"} for name in SCATTERS
}
