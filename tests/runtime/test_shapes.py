"""What a program declares of a shape, and what may come of it: an extent that it does not know promises nothing."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, get_new_symbol, types
from hypothesis import given, settings
from hypothesis import strategies as st

from milbuild import runtime
from milbuild.errors import Error
from milbuild.runtime.engine import _fits
from tests.runtime.harness import TARGETS, save


def run(build: Callable[[Any], Any], x: np.ndarray, known: tuple[bool, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The result of `build` for an input of whose extents the program knows some, and the shape that it declares."""
    shape = [size if given else get_new_symbol() for size, given in zip(x.shape, known, strict=True)]
    with Function({"x": mb.placeholder(shape, types.fp32)}, opset_version=TARGETS[8]) as function:
        y = build(function.inputs["x"])
        function.set_outputs([y])
    with tempfile.TemporaryDirectory() as folder:
        model = runtime.load(save(function, Path(folder) / "x.mlpackage"), keep=[y.op.name])
        model.predict({"x": x})
    return model.kept[y.op.name], tuple(size if isinstance(size, int | np.integer) else None for size in y.shape)


SHAPED: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "squeeze": (lambda x: mb.squeeze(x=x), lambda x: x.squeeze()),
    "squeeze, then exp": (lambda x: mb.exp(x=mb.squeeze(x=x)), lambda x: np.exp(x.squeeze())),
    "squeeze, then itself": (lambda x: mb.mul(x=mb.squeeze(x=x), y=mb.squeeze(x=x)), lambda x: x.squeeze() ** 2),
    "squeeze, then more axes": (
        lambda x: mb.expand_dims(x=mb.squeeze(x=x), axes=[0, 1]),
        lambda x: x.squeeze()[None, None],
    ),
    "squeeze, then a sum": (
        lambda x: mb.reduce_sum(x=mb.squeeze(x=x), axes=[0], keep_dims=True),
        lambda x: x.squeeze().sum(0, keepdims=True),
    ),
    "squeeze, then itself after": (
        lambda x: mb.concat(values=[mb.squeeze(x=x)] * 2, axis=0),
        lambda x: np.concatenate([x.squeeze()] * 2),
    ),
    "squeeze of an axis": (lambda x: mb.squeeze(x=x, axes=[1]), lambda x: x[:, 0] if x.shape[1] == 1 else x),
}


@pytest.mark.parametrize("known", [(False,) * 4, (True, False, True, False)], ids=str)
@pytest.mark.parametrize("name", SHAPED)
def test_an_axis_of_unknown_extent_may_go(name: str, known: tuple[bool, ...]) -> None:
    build, expected = SHAPED[name]
    for shape in ((2, 1, 3, 1), (2, 5, 3, 4)):
        x = np.random.default_rng(0).random(shape, np.float32)
        np.testing.assert_allclose(run(build, x, known)[0], expected(x), rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_coremltools_declares_of_a_squeeze_fits(data: Any) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=5))
    known = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    axes = data.draw(st.none() | st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    gone = [axis for axis in range(x.ndim) if x.shape[axis] == 1 and (axes is None or axis in axes)]
    result, declared = run(lambda x: mb.squeeze(x=x, **({} if axes is None else {"axes": axes})), x, tuple(known))
    np.testing.assert_array_equal(result, x.squeeze(tuple(gone)))
    assert _fits(result.shape, declared)


@pytest.mark.parametrize(
    ("shape", "declared", "fits"),
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (2, 4), False),
        ((2, 3), (3, 2), False),
        ((2, 3), (2, 3, 1), False),
        ((2, 3, 1), (2, 3), False),
        ((), (), True),
        ((1,), (), False),
        ((), (1,), False),
        ((2, 3), (None, 3), True),
        ((2, 3), (None, 4), False),
        ((3,), (None, 3), True),
        ((2,), (None, 3), False),
        ((2, 3), (2, None, None, 3), True),
        ((2, 3), (2, None, 4, None), False),
        ((3, 2), (2, None, 3), False),
        ((2, 3), (None, 2, None, 3, None), True),
        ((), (None,), True),
        ((2, 3), (None,) * 4, True),
        ((2, 3, 4), (None, None), True),
        ((2, 3, 4), (None, 4), False),
    ],
    ids=str,
)
def test_what_is_known_stands_there_in_its_order(
    shape: tuple[int, ...], declared: tuple[int | None, ...], fits: bool
) -> None:
    assert _fits(shape, declared) is fits


def test_a_size_that_is_known_is_held_to() -> None:
    """Three numbers where the program declares four, after an axis that it does not know."""
    symbol = get_new_symbol()
    with Function({"x": mb.placeholder((symbol, 3), types.fp32)}, opset_version=TARGETS[8]) as function:
        y = mb.exp(x=function.inputs["x"], name="y")
        y._sym_type = types.tensor(types.fp32, (symbol, 4))
        function.set_outputs([y])
    with tempfile.TemporaryDirectory() as folder:
        model = runtime.load(save(function, Path(folder) / "x.mlpackage"))
        with pytest.raises(Error, match=r"gave y the shape \(2, 3\); the program declares \(\?, 4\)"):
            model.predict({"x": np.ones((2, 3), np.float32)})
