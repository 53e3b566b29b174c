"""Elementwise operations of one value, against numpy in float64, value by value."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

INFINITY = math.inf
INT32 = np.iinfo(np.int32)
# Zeros, halves (where rounding is decided), infinities, a denormal, numbers near the ends of float32.
EDGES = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3e38, -3e38]


def edged(low: float = -5, high: float = 5, ranks: tuple[int, int] = (1, 5)) -> st.SearchStrategy[np.ndarray]:
    """Small arrays of ordinary values and of EDGES."""
    ordinary = st.integers(0, 2**16).map(lambda n: low + (high - low) * n / 2**16)
    elements = st.one_of(ordinary, st.sampled_from(EDGES)).map(lambda value: float(np.float32(value)))
    return hnp.arrays(np.float32, hnp.array_shapes(min_dims=ranks[0], max_dims=ranks[1], max_side=3), elements=elements)


def each_close(result: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """As `close`, but a large value excuses no error of a small one."""
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=1e-35)


FORMULAS = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": np.vectorize(math.erf, otypes=[float]),
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "round": np.rint,  # 0.5 to 0 and 1.5 to 2: to the even one
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
# What is only defined between -1 and 1.
NARROW = ("acos", "asin", "atanh")


@covers(*FORMULAS)
@given(data=st.data())
def test_formulas(operation: str, data: Any) -> None:
    bound = 1.1 if operation in NARROW else 5
    x = data.draw(edged(-bound, bound))
    with np.errstate(all="ignore"):
        expected = np.float32(FORMULAS[operation](x.astype(np.float64)))
    each_close(run(operation, {"x": x}), expected)


@pytest.mark.parametrize("operation", FORMULAS)
def test_rank_0(operation: str) -> None:
    result = run_graph(lambda x: getattr(mb, operation)(x=mb.squeeze(x=x)), {"x": np.float32([0.4])})[0]
    close(result, np.float32(FORMULAS[operation](np.float64(np.float32(0.4)))))


@covers("abs", "sign", "square")
@given(x=arrays(dtype=np.int32, low=-46340, high=46340, ranks=(1, 3)))
def test_whole_numbers(operation: str, x: np.ndarray) -> None:
    result = run(operation, {"x": x})
    assert result.dtype == np.int32
    close(result, FORMULAS[operation](x.astype(np.int64)).astype(np.int32))


@covers("exp2")
@given(x=arrays(dtype=np.int32, low=-3, high=40, ranks=(1, 2)))
def test_exp2_of_whole_numbers(x: np.ndarray) -> None:
    """Truncated, and saturated at the end of int32."""
    expected = [min(2 ** int(n), INT32.max) if n >= 0 else 0 for n in x.reshape(-1)]
    result = run("exp2", {"x": x})
    assert result.dtype == np.int32
    close(result, np.reshape(np.int32(expected), x.shape))


@covers("abs", "square")
def test_whole_numbers_wrap(operation: str) -> None:
    lowest = np.int32([INT32.min])
    expected = {"abs": [INT32.min], "square": [0]}
    close(run(operation, {"x": lowest}), np.int32(expected[operation]))


WITH_EPSILON = {"inverse": np.reciprocal, "log": np.log, "rsqrt": lambda x: 1 / np.sqrt(x)}
EPSILONS = {"inverse": 1e-4, "log": 1e-45, "rsqrt": 1e-12}


@covers(*WITH_EPSILON)
@given(data=st.data())
def test_epsilon(operation: str, data: Any) -> None:
    """It is added before, in float32: among small values it is what counts, and zero and infinity are known."""
    epsilon = data.draw(st.none() | st.sampled_from([1e-12, 1e-4, 1e-2, 0.5]))
    small, ordinary = data.draw(arrays((3,), low=0, high=1e-6)), data.draw(arrays((2, 2), low=2, high=10))
    x = np.concatenate([small, ordinary.reshape(-1), np.float32([0, math.inf, math.nan])]).reshape(5, 2)
    with np.errstate(all="ignore"):
        shifted = np.float64(x + np.float32(EPSILONS[operation] if epsilon is None else epsilon))
        expected = np.float32(WITH_EPSILON[operation](shifted))
    constants = {} if epsilon is None else {"epsilon": np.float32(epsilon)}
    each_close(run(operation, {"x": x}, **constants), expected)


@covers(*WITH_EPSILON)
def test_epsilon_of_another_type(operation: str) -> None:
    """From iOS17 on epsilon may be float16 where x is float32."""
    x = np.float32([1e-3, 0.5, 3])
    result = run(operation, {"x": x}, opset=7, epsilon=np.float16(0.25))
    close(result, np.float32(WITH_EPSILON[operation](np.float64(x) + 0.25)))


@covers(*WITH_EPSILON)
def test_epsilon_left_out(operation: str) -> None:
    """coremltools writes its default into every program; others may leave it to the runtime."""
    x = np.float32([0, 1e-13, 1e-5])
    with np.errstate(all="ignore"):
        expected = np.float32(WITH_EPSILON[operation](np.float64(x + np.float32(EPSILONS[operation]))))
    each_close(OPERATIONS[operation].function(x=torch.from_numpy(x)).numpy(), expected)


@covers("inverse", "log", "rsqrt")
def test_below_zero(operation: str) -> None:
    x = np.float32([-1, -math.inf])
    with np.errstate(all="ignore"):
        close(run(operation, {"x": x}), np.float32(WITH_EPSILON[operation](np.float64(x) + EPSILONS[operation])))


@covers("clip")
@given(x=edged(), first=st.integers(-8, 8), second=st.integers(-8, 8))
def test_clip(x: np.ndarray, first: int, second: int) -> None:
    """Where alpha is above beta, which iOS15 admits, beta wins."""
    alpha, beta = np.float32(first / 2), np.float32(second / 2)
    opset = 8 if alpha < beta else 5
    each_close(run("clip", {"x": x}, opset=opset, alpha=alpha, beta=beta), np.minimum(np.maximum(x, alpha), beta))


@covers("threshold")
@given(x=edged(), alpha=st.integers(-8, 8))
def test_threshold(x: np.ndarray, alpha: int) -> None:
    each_close(run("threshold", {"x": x}, alpha=np.float32(alpha / 2)), np.maximum(x, np.float32(alpha / 2)))


@covers("threshold")
@given(x=arrays(dtype=np.int32, ranks=(1, 3)), alpha=st.integers(-8, 8))
def test_threshold_of_whole_numbers(x: np.ndarray, alpha: int) -> None:
    result = run("threshold", {"x": x}, alpha=np.int32(alpha))
    assert result.dtype == np.int32
    close(result, np.where(x < alpha, np.int32(alpha), x))


@covers("logical_not")
@given(x=arrays(dtype=np.bool_))
def test_logical_not(x: np.ndarray) -> None:
    result = run("logical_not", {"x": x})
    assert result.dtype == np.bool_
    close(result, ~x)


NUMPY = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32}


@covers("cast")
@given(
    x=hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=3),
        elements=st.one_of(
            st.integers(-1200, 1200).map(lambda n: n / 4),
            st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 1e-40, -1e20, 2.0**31, -(2.0**31), 65535.5]),
            st.floats(-70000, 70000, width=32),
        ),
    ),
    dtype=st.sampled_from(list(NUMPY)),
)
def test_floats_become_integers(x: np.ndarray, dtype: str) -> None:
    """Towards zero; the nearest number of the type where it has none; 0 for NaN."""
    ends = np.iinfo(NUMPY[dtype])
    expected = [
        0 if math.isnan(value) else max(ends.min, min(ends.max, math.trunc(max(-1e30, min(1e30, value)))))
        for value in x.reshape(-1).tolist()
    ]
    result = run("cast", {"x": x}, opset=7, dtype=dtype)
    assert result.dtype == np.int32
    close(result, np.reshape(np.int32(expected), x.shape))


@covers("cast")
@given(
    x=arrays(dtype=np.int32, low=INT32.min, high=INT32.max, ranks=(1, 3)) | arrays(dtype=np.int32, low=-300, high=300),
    dtype=st.sampled_from(list(NUMPY)),
)
def test_integers_become_narrower(x: np.ndarray, dtype: str) -> None:
    """They wrap, as numpy's do; what comes out is used by the next operation."""
    first, second = run_graph(lambda x: (y := mb.cast(x=x, dtype=dtype), mb.cast(x=y, dtype="fp32")), {"x": x}, opset=7)
    expected = x.astype(NUMPY[dtype])
    close(first, expected.astype(np.int32))
    close(second, expected.astype(np.float32))


@covers("cast")
@given(x=edged(ranks=(1, 3)))
def test_floats_become_truths(x: np.ndarray) -> None:
    """Everything but zeros is true, NaN as well."""
    result = run("cast", {"x": x}, dtype="bool")
    assert result.dtype == np.bool_
    close(result, x != 0)


@covers("cast")
@given(x=arrays(dtype=np.bool_, ranks=(1, 3)) | arrays(dtype=np.int32, low=-2, high=2, ranks=(1, 3)))
def test_truths_and_integers_become_anything(x: np.ndarray) -> None:
    kinds = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    results = run_graph(lambda x: [mb.cast(x=x, dtype=dtype) for dtype in kinds], {"x": x})
    for result, kind in zip(results, kinds.values(), strict=True):
        assert result.dtype == kind
        close(result, x.astype(kind))


@covers("cast")
@given(x=edged(-70000, 70000, ranks=(1, 3)))
def test_halves(x: np.ndarray) -> None:
    """float16 is rounded to, with infinities beyond 65504, in the declared precision; else not."""
    with np.errstate(over="ignore"):
        half = x.astype(np.float16).astype(np.float32)
    close(run("cast", {"x": x}, dtype="fp16", precision="declared"), half)
    for result in run_graph(lambda x: (mb.cast(x=x, dtype="fp16"), mb.cast(x=x, dtype="fp32")), {"x": x}):
        close(result, x)


FAULTS: dict[str, list[Fault]] = {
    "abs": [("torch.abs(x)", "x"), ("torch.abs(x)", "torch.relu(x)"), ("torch.abs(x)", "-x")],
    "acos": [("torch.acos", "torch.asin"), ("torch.acos(x)", "torch.acos(-x)"), ("torch.acos", "torch.cos")],
    "asin": [("torch.asin", "torch.acos"), ("torch.asin(x)", "torch.asin(-x)"), ("torch.asin", "torch.sin")],
    "atan": [("torch.atan", "torch.tan"), ("torch.atan(x)", "torch.atan(-x)"), ("torch.atan", "torch.tanh")],
    "atanh": [("torch.atanh", "torch.tanh"), ("torch.atanh(x)", "torch.atanh(-x)"), ("torch.atanh", "torch.atan")],
    "cast": [
        (".clamp(low, high)", ""),
        ("nan_to_num(0,", "nan_to_num(1,"),
        ("nan_to_num(0, high, low)", "nan_to_num(0, low, high)"),
        ("x.double()", "x"),
        ("x.double()", "x.double().round()"),
        ("x.double()", "x.double().floor()"),
        ("x.to(kind).to(torch.int32)", "x.to(torch.int32)"),
        ("x.to(kind).to(torch.int32)", "x.clamp(torch.iinfo(kind).min, torch.iinfo(kind).max).to(torch.int32)"),
        ('"uint8": torch.uint8', '"uint8": torch.int8'),
        ('"int8": torch.int8', '"int8": torch.uint8'),
        ('"uint16": torch.uint16', '"uint16": torch.int16'),
        ('"int16": torch.int16', '"int16": torch.int32'),
        ("x.bool()", "x > 0"),
        ("x.bool()", "x.nan_to_num(0).bool()"),
        ("x.bool()", "x"),
        ("x.float()", "x"),
        ("x.float()", "x.half().float()"),
        ('("fp16", "fp32")', '("fp32",)'),
    ],
    "ceil": [("torch.ceil", "torch.floor"), ("torch.ceil", "torch.round"), ("torch.ceil", "torch.trunc")],
    "clip": [
        ("clamp(alpha, beta)", "clamp(beta, alpha)"),
        ("clamp(alpha, beta)", "clamp(min=alpha)"),
        ("clamp(alpha, beta)", "clamp(max=beta)"),
        ("clamp(alpha, beta)", "clamp(max=beta).clamp(min=alpha)"),
        ("clamp(alpha, beta)", "nan_to_num().clamp(alpha, beta)"),
    ],
    "cos": [("torch.cos", "torch.sin"), ("torch.cos(x)", "-torch.cos(x)"), ("torch.cos", "torch.cosh")],
    "cosh": [("torch.cosh", "torch.sinh"), ("torch.cosh", "torch.cos"), ("torch.cosh", "torch.exp")],
    "erf": [("torch.erf", "torch.erfc"), ("torch.erf", "torch.tanh"), ("torch.erf(x)", "torch.erf(-x)")],
    "exp": [("torch.exp", "torch.expm1"), ("torch.exp", "torch.exp2"), ("torch.exp(x)", "torch.exp(-x)")],
    "exp2": [
        ("torch.exp2(x) if", "torch.exp(x) if"),
        ("torch.exp2(x.double())", "torch.exp(x.double())"),
        ('cast(torch.exp2(x.double()), "int32")', "torch.exp2(x.double())"),
        ('cast(torch.exp2(x.double()), "int32")', "1 << x"),
    ],
    "floor": [("torch.floor", "torch.ceil"), ("torch.floor", "torch.round"), ("torch.floor", "torch.trunc")],
    "inverse": [("1e-4", "1e-5"), ("x + epsilon", "x - epsilon"), ("torch.reciprocal(x + epsilon)", "1 / x + epsilon")],
    "log": [("1e-45", "1e-12"), ("x + epsilon", "x.clamp(min=epsilon)"), ("torch.log(x", "torch.log2(x")],
    "logical_not": [
        ("torch.logical_not(x)", "x"),
        ("torch.logical_not(x)", "x.int()"),
        ("torch.logical_not(x)", "torch.zeros_like(x)"),
    ],
    "round": [
        ("torch.round(x)", "torch.floor(x + 0.5)"),
        ("torch.round(x)", "torch.trunc(x)"),
        ("torch.round(x)", "torch.sign(x) * torch.floor(x.abs() + 0.5)"),
    ],
    "rsqrt": [
        ("1e-12", "1e-13"),
        ("torch.rsqrt", "torch.sqrt"),
        ("torch.rsqrt(x + epsilon)", "1 / (x.sqrt() + epsilon)"),
    ],
    "sign": [
        ("torch.sign(x))", "torch.where(x > 0, 1, -1).to(x.dtype))"),
        ("torch.where(x != x, x, torch.sign(x))", "torch.sign(x)"),
        ("torch.sign(x))", "-torch.sign(x))"),
    ],
    "sin": [("torch.sin", "torch.cos"), ("torch.sin(x)", "torch.sin(-x)"), ("torch.sin", "torch.sinh")],
    "sinh": [("torch.sinh", "torch.cosh"), ("torch.sinh", "torch.sin"), ("torch.sinh", "torch.expm1")],
    "sqrt": [("torch.sqrt(x)", "torch.sqrt(x.abs())"), ("torch.sqrt", "torch.rsqrt"), ("torch.sqrt(x)", "x")],
    "square": [("torch.square(x)", "x + x"), ("torch.square(x)", "x * x.abs()"), ("torch.square(x)", "x.float() ** 2")],
    "tan": [("torch.tan", "torch.tanh"), ("torch.tan", "torch.atan"), ("torch.tan(x)", "torch.tan(-x)")],
    "tanh": [("torch.tanh", "torch.tan"), ("torch.tanh", "torch.erf"), ("torch.tanh(x)", "torch.tanh(-x)")],
    "threshold": [
        ("torch.maximum", "torch.minimum"),
        ("torch.maximum(x, alpha)", "torch.where(x > alpha, x, 0)"),
        ("torch.maximum(x, alpha)", "x.clamp(min=float(alpha))"),
        ("torch.maximum(x, alpha)", "torch.where(x >= alpha, x, alpha)"),
    ],
}
