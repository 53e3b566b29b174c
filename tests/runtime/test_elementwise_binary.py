"""Elementwise operations of two values, against numpy."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph
from tests.runtime.test_elementwise_unary import EDGES, INT32, each_close


def _pow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For one exponent of 0.5 numpy takes the root, which is NaN of -inf, where C's pow, and numpy's of several, gives inf."""
    return np.power(*(each.copy() for each in np.broadcast_arrays(x, y)))


ARITHMETIC = {
    "add": np.add,
    "floor_div": np.floor_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "pow": _pow,
    "real_div": np.divide,
    "sub": np.subtract,
}
COMPARISONS = {
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "not_equal": np.not_equal,
}
LOGIC = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
ALL = ARITHMETIC | COMPARISONS | LOGIC
# Few and round, so that x and y are often equal and quotients often whole.
FEW = [n / 2 for n in range(-8, 9)] + EDGES
SHAPES = hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=5, max_side=3)


def pairs(dtype: Any, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Two arrays that broadcast, of ranks 1 to 5 each (a program's input has an axis)."""
    shapes = SHAPES.map(lambda both: [shape or (1,) for shape in both.input_shapes])
    return shapes.flatmap(lambda both: st.tuples(*(hnp.arrays(dtype, shape, elements=elements) for shape in both)))


@covers(*ARITHMETIC)
@given(both=pairs(np.float32, st.sampled_from(FEW).map(lambda value: float(np.float32(value)))))
def test_arithmetic(operation: str, both: Any) -> None:
    """In float32: what overflows is infinite."""
    x, y = both
    with np.errstate(all="ignore"):
        expected = ARITHMETIC[operation](x, y)
    each_close(run(operation, {"x": x, "y": y}), expected)


@covers("mod", "floor_div", "real_div")
def test_quotients_beyond_float32(operation: str) -> None:
    """Wherever in a vector they are."""
    x, y = np.full(20, -2.5, np.float32), np.full(20, 1e-40, np.float32)
    with np.errstate(all="ignore"):
        each_close(run(operation, {"x": x, "y": y}), ARITHMETIC[operation](x, y))


@covers(*ARITHMETIC)
@given(x=arrays((2, 1, 3)), y=arrays((4, 1)))
def test_ordinary_arithmetic(operation: str, x: np.ndarray, y: np.ndarray) -> None:
    x, y = (np.abs(x) + 1, y / 2) if operation == "pow" else (x, np.where(np.abs(y) < 0.1, np.float32(1), y))
    close(run(operation, {"x": x, "y": y}), ARITHMETIC[operation](x, y))


@covers(*COMPARISONS)
@given(both=pairs(np.float32, st.sampled_from(FEW).map(lambda value: float(np.float32(value)))))
def test_comparisons(operation: str, both: Any) -> None:
    x, y = both
    result = run(operation, {"x": x, "y": y})
    assert result.dtype == np.bool_
    close(result, COMPARISONS[operation](x, y))


@covers(*COMPARISONS)
@given(both=pairs(np.int32, st.integers(-2, 2) | st.sampled_from([INT32.max, INT32.max - 1, INT32.min])))
def test_comparisons_of_integers(operation: str, both: Any) -> None:
    """Exactly: float32 does not tell 2147483647 from the next integer."""
    x, y = both
    result = run(operation, {"x": x, "y": y})
    assert result.dtype == np.bool_
    close(result, COMPARISONS[operation](x, y))


@covers(*LOGIC)
@given(both=pairs(np.bool_, st.booleans()))
def test_logic(operation: str, both: Any) -> None:
    x, y = both
    result = run(operation, {"x": x, "y": y})
    assert result.dtype == np.bool_
    close(result, LOGIC[operation](x, y))


def wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def towards_zero(x: int, y: int) -> int:
    quotient = abs(x) // abs(y)
    return quotient if (x < 0) == (y < 0) else -quotient


def power(x: int, y: int) -> int:
    """The whole part of x^y: of a fraction nothing; of 1 / 0 nothing, too."""
    return x**y if y >= 0 else {1: 1, -1: -1 if y % 2 else 1}.get(x, 0)


# On Python's integers, which know no end.
WHOLE = {
    "add": lambda x, y: x + y,
    "floor_div": lambda x, y: x // y if y else 0,
    "maximum": max,
    "minimum": min,
    "mod": lambda x, y: x % y if y else 0,
    "mul": lambda x, y: x * y,
    "pow": power,
    "real_div": lambda x, y: towards_zero(x, y) if y else 0,
    "sub": lambda x, y: x - y,
}


@covers(*WHOLE)
@given(both=pairs(np.int32, st.integers(-9, 9) | st.sampled_from([INT32.max, 2**24 + 1])))
@example(both=(np.int32([7, -7, 7, -7, 1, 0]), np.int32([2, 2, -2, -2, 0, 0])))
def test_integers(operation: str, both: Any) -> None:
    """Quotients are whole, rounded down by floor_div and towards zero by real_div; by zero they are 0, and nothing remains.

    What is too large for int32 wraps."""
    x, y = both
    if operation == "pow":
        y = np.clip(y, -9, 9)
    result = run(operation, {"x": x, "y": y})
    assert result.dtype == np.int32
    expected = [wrapped(WHOLE[operation](int(a), int(b))) for a, b in np.broadcast(x, y)]
    close(result, np.reshape(np.int32(expected), np.broadcast_shapes(x.shape, y.shape)))


LOWEST = """
import torch
from milbuild.runtime.elementwise_binary import floor_div, mod, real_div
x = torch.full((9,), -2147483648, dtype=torch.int32)
for y in torch.full_like(x, -1), torch.tensor(-1, dtype=torch.int32):
    print(*(int(divide(x, y)[0]) for divide in (real_div, floor_div, mod)))
"""


def test_the_lowest_integer_by_minus_one() -> None:
    """x86 stops a process that divides them, hence one of its own. The quotient wraps."""
    process = subprocess.run([sys.executable, "-c", LOWEST], capture_output=True, text=True)
    assert process.stdout == "-2147483648 -2147483648 0\n" * 2, process.stderr


@pytest.mark.parametrize("operation", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_rank_0(operation: str, dtype: Any) -> None:
    if (dtype == np.bool_) != (operation in LOGIC):
        return
    x, y = np.array([7]).astype(dtype), np.array([2]).astype(dtype)
    result = run_graph(lambda x, y: getattr(mb, operation)(x=mb.squeeze(x=x), y=mb.squeeze(x=y)), {"x": x, "y": y})[0]
    whole = operation == "real_div" and dtype == np.int32
    close(result, np.asarray(3 if whole else ALL[operation](x[0], y[0])))
    assert result.dtype == (np.bool_ if operation in COMPARISONS else dtype)


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_constants(operation: str) -> None:
    """Either side may be a number of the program."""
    x = np.float32([[1.5, 2, 4]])
    close(run(operation, {"x": x}, y=np.float32(2)), ARITHMETIC[operation](x, np.float32(2)))
    close(run(operation, {"y": x}, x=np.float32(2)), ARITHMETIC[operation](np.float32(2), x))


def test_halves_overflow_where_they_are_declared() -> None:
    x = np.float16([60000, 1])
    close(run("add", {"x": x, "y": x}, precision="declared"), np.float32([math.inf, 2]))
    close(run("add", {"x": x, "y": x}), np.float32([120000, 2]), 1e-3)


FAULTS: dict[str, list[Fault]] = {
    "add": [("x + y", "x - y"), ("x + y", "x * y"), ("x + y", "x.float() + y.float()")],
    "equal": [
        ("torch.eq", "torch.ge"),
        ("torch.eq(x, y)", "torch.eq(x.float(), y.float())"),
        ("torch.eq", "torch.isclose"),
    ],
    "floor_div": [
        ('_divide(x, y, "floor")', '_divide(x, y, "trunc")'),
        ('_divide(x, y, "floor")', "torch.div(x, y)"),
        ('_divide(x, y, "floor")', 'torch.div(x.float(), y, rounding_mode="floor").int()'),
        ('torch.div(x, y, rounding_mode="floor")', 'torch.div(x, y, rounding_mode="trunc")'),
        ('torch.div(x, y, rounding_mode="floor")', "torch.floor(x / y)"),
        ("(y == 0) | (y == -1)", "(y == -1)"),
        ("special, x * y,", "special, x,"),
    ],
    "greater": [("torch.gt", "torch.ge"), ("torch.gt", "torch.lt"), ("torch.gt(x, y)", "~torch.le(x, y)")],
    "greater_equal": [("torch.ge", "torch.gt"), ("torch.ge", "torch.le"), ("torch.ge(x, y)", "~torch.lt(x, y)")],
    "less": [("torch.lt", "torch.le"), ("torch.lt", "torch.gt"), ("torch.lt(x, y)", "torch.lt(x.float(), y.float())")],
    "less_equal": [("torch.le", "torch.lt"), ("torch.le", "torch.ge"), ("torch.le(x, y)", "~torch.gt(x, y)")],
    "logical_and": [
        ("torch.logical_and", "torch.logical_or"),
        ("torch.logical_and", "torch.logical_xor"),
        ("torch.logical_and(x, y)", "x * 1 * y"),
    ],
    "logical_or": [
        ("torch.logical_or", "torch.logical_and"),
        ("torch.logical_or", "torch.logical_xor"),
        ("torch.logical_or(x, y)", "x * 1 + y"),
    ],
    "logical_xor": [
        ("torch.logical_xor", "torch.logical_or"),
        ("torch.logical_xor(x, y)", "x == y"),
        ("torch.logical_xor(x, y)", "x & ~y"),
    ],
    "maximum": [
        ("torch.maximum", "torch.minimum"),
        ("torch.maximum(x, y)", "torch.fmax(x, y)"),
        ("torch.maximum(x, y)", "x + y"),
    ],
    "minimum": [
        ("torch.minimum", "torch.maximum"),
        ("torch.minimum(x, y)", "torch.fmin(x, y)"),
        ("torch.minimum(x, y)", "x * y"),
    ],
    "mod": [
        ("torch.remainder(x.double", "torch.fmod(x.double"),
        ("torch.remainder(x, ", "torch.fmod(x, "),
        ("torch.where(y.abs() <= 1, 1, y)", "y"),
        ("torch.remainder(x.double(), y.double()).float()", "torch.remainder(x, torch.where(y == 0, 1, y))"),
        ("torch.remainder(x.double(), y.double()).float()", "torch.remainder(x, y)"),
        ("torch.remainder(x, ", "torch.remainder(x.float(), "),
    ],
    "mul": [("x * y", "x + y"), ("x * y", "x / y"), ("x * y", "(x.double() * y).to(x.dtype)")],
    "not_equal": [
        ("torch.ne", "torch.eq"),
        ("torch.ne", "torch.gt"),
        ("torch.ne(x, y)", "torch.ne(x.float(), y.float())"),
    ],
    "pow": [
        ("torch.pow(x, y)", "torch.pow(y, x)"),
        ("torch.pow(x, y)", "torch.pow(x.abs(), y)"),
        ("torch.pow(x, y)", "torch.pow(x.float(), y.float())"),
        ("torch.pow(x, y)", "torch.float_power(x, y).to(x.dtype)"),
    ],
    "real_div": [
        ('_divide(x, y, "trunc")', '_divide(x, y, "floor")'),
        ('_divide(x, y, "trunc")', "torch.div(x, y)"),
        ('_divide(x, y, "trunc")', "torch.div(x, y).int()"),
        ("else torch.div(x, y)", 'else torch.div(x, y, rounding_mode="trunc")'),
        ("torch.where(special, 1, y)", "y"),
        ("special, x * y,", "special, x,"),
    ],
    "sub": [("x - y", "y - x"), ("x - y", "x + y"), ("x - y", "(x.float() - y)")],
}
