"""Activation functions, against their documented formulas in numpy's float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.runtime.activation import gelu
from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph
from tests.runtime.test_elementwise_unary import each_close, edged


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _log_of_one_and_exp(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "clamped_relu": lambda x, alpha, beta: np.minimum(beta, np.where(x >= 0, x, alpha * x)),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "linear_activation": lambda x, alpha, beta: x * alpha + beta,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "sigmoid": _sigmoid,
    "sigmoid_hard": lambda x, alpha, beta: np.minimum(np.maximum(alpha * x + beta, 0), 1),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _log_of_one_and_exp,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "thresholded_relu": lambda x, alpha: np.where(x >= alpha, x, 0),
}
PARAMETERS = {name: formula.__code__.co_varnames[1:] for name, formula in FORMULAS.items()}
SUMS = ("linear_activation", "sigmoid_hard")  # here what is small is lost beside what is large
WITH_ALPHA = [name for name, parameters in PARAMETERS.items() if "alpha" in parameters]


@covers(*FORMULAS)
@given(data=st.data())
def test_formulas(operation: str, data: Any) -> None:
    x = data.draw(edged(-10, 10))
    constants = {
        name: np.float32(data.draw(st.sampled_from([-2, -0.3, 0.01, 0.2, 0.5, 1, 3])))
        for name in PARAMETERS[operation]
        if name in ("alpha", "beta")
    }
    with np.errstate(all="ignore"):
        exact = {name: np.float64(value) for name, value in constants.items()}
        expected = np.float32(FORMULAS[operation](x.astype(np.float64), **exact))
    compare = close if operation in SUMS else each_close
    compare(run(operation, {"x": x}, **constants), expected)


@pytest.mark.parametrize("operation", FORMULAS)
def test_rank_0(operation: str) -> None:
    constants = {name: np.float32(0.25) for name in PARAMETERS[operation] if name in ("alpha", "beta")}
    x = np.float32([-0.4])
    result = run_graph(lambda x: getattr(mb, operation)(x=mb.squeeze(x=x), **constants), {"x": x})[0]
    close(result, np.float32(FORMULAS[operation](np.float64(x[0]), **constants)))


@covers(*WITH_ALPHA)
def test_constants_of_another_type(operation: str) -> None:
    """From iOS17 on alpha and beta may be float16 where x is float32."""
    x = np.float32([-3, -0.1, 0.1, 3])
    constants = {name: np.float16(0.25) for name in PARAMETERS[operation] if name in ("alpha", "beta")}
    expected = FORMULAS[operation](x.astype(np.float64), **dict.fromkeys(constants, 0.25))
    close(run(operation, {"x": x}, opset=7, **constants), np.float32(expected))


MODES = {
    "EXACT": lambda x: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "SIGMOID_APPROXIMATION": lambda x: x * _sigmoid(1.702 * x),
}


@covers("gelu")
@given(x=arrays((2, 3), low=-6, high=2), mode=st.none() | st.sampled_from(list(MODES)))
def test_gelu(x: np.ndarray, mode: str | None) -> None:
    """Within an error that is small beside 1: the formula itself leaves few digits to numbers far below 0."""
    x[0, 0] = 1
    constants = {} if mode is None else {"mode": mode}
    close(run("gelu", {"x": x}, **constants), np.float32(MODES[mode or "EXACT"](x.astype(np.float64))))


@covers("gelu")
def test_gelu_of_edges() -> None:
    x = np.float32([0, -0.0, math.inf, math.nan, 1e-40, 1e20])
    for mode, formula in MODES.items():
        with np.errstate(all="ignore"):
            each_close(run("gelu", {"x": x}, mode=mode), np.float32(formula(x.astype(np.float64))))


def test_the_modes_of_gelu_differ() -> None:
    """By more than what the tests forgive, or they would not tell them apart."""
    exact, tanh, sigmoid = (formula(np.float64([1.0])) for formula in MODES.values())
    assert min(abs(exact - tanh), abs(exact - sigmoid), abs(tanh - sigmoid)) > 1e-4


@covers("prelu")
@given(data=st.data())
def test_prelu(data: Any) -> None:
    """Each channel has its own alpha; in ranks 3 and 5 coremltools admits equal ones only."""
    rank = data.draw(st.sampled_from([3, 4, 5]))
    x = data.draw(edged(ranks=(rank, rank)))
    alpha = data.draw(arrays((x.shape[1],), low=-2, high=2))
    alpha = alpha if rank == 4 else np.full_like(alpha, alpha[0])
    slopes = alpha.reshape(1, -1, *[1] * (rank - 2)).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = np.float32(np.where(x > 0, x, x * slopes))
    each_close(run("prelu", {"x": x}, alpha=alpha), expected)


@covers("softplus_parametric")
@given(data=st.data())
def test_softplus_parametric(data: Any) -> None:
    x = data.draw(arrays(ranks=(3, 5)))
    alpha, beta = (data.draw(arrays((x.shape[1],), low=-3, high=3)) for _ in range(2))
    a, b = (values.reshape(1, -1, *[1] * (x.ndim - 2)).astype(np.float64) for values in (alpha, beta))
    close(run("softplus_parametric", {"x": x}, alpha=alpha, beta=beta), np.float32(a * _log_of_one_and_exp(b * x)))


@covers("prelu", "softplus_parametric")
def test_channels_of_another_type(operation: str) -> None:
    x = np.float32([[[[-1.5]], [[-2]], [[0.5]]]])
    half = np.float16([0.25, 0.5, 2])
    constants = {"alpha": half} if operation == "prelu" else {"alpha": half, "beta": half}
    slopes = half.astype(np.float64).reshape(1, 3, 1, 1)
    expected = {
        "prelu": np.where(x > 0, x, slopes * x),
        "softplus_parametric": slopes * _log_of_one_and_exp(slopes * x),
    }
    close(run(operation, {"x": x}, opset=7, **constants), np.float32(expected[operation]))


@covers("softmax")
@given(data=st.data())
def test_softmax(data: Any) -> None:
    x = data.draw(arrays(low=-30, high=30)) * np.float32(data.draw(st.sampled_from([1, 0.1, 1e4])))
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    where = -1 if axis is None else axis
    powers = np.exp(x.astype(np.float64) - x.max(where, keepdims=True))
    constants = {} if axis is None else {"axis": axis}
    close(run("softmax", {"x": x}, **constants), np.float32(powers / powers.sum(where, keepdims=True)))


@covers("softmax")
def test_softmax_of_infinities() -> None:
    """What is minus infinity gets nothing; where nothing else is there, the result is no number."""
    x = np.float32([[0, -math.inf, 0], [-math.inf] * 3, [0, math.nan, 0]])
    close(run("softmax", {"x": x}), np.float32([[0.5, 0, 0.5], [math.nan] * 3, [math.nan] * 3]))


@covers("gelu", "softmax")
def test_parameters_left_out(operation: str) -> None:
    """coremltools writes its defaults into every program; others may leave them to the runtime."""
    x = np.float32([[1, 2, 4], [-1, 0, 1]])
    powers = np.exp(x.astype(np.float64))
    expected = (
        powers / powers.sum(-1, keepdims=True) if operation == "softmax" else MODES["EXACT"](x.astype(np.float64))
    )
    close(OPERATIONS[operation].function(x=torch.from_numpy(x)).numpy(), np.float32(expected))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(KeyError, match="TANH"):
        gelu(torch.zeros(1), "TANH")


FAULTS: dict[str, list[Fault]] = {
    "clamped_relu": [
        (".clamp(max=beta)", ""),
        (".clamp(max=beta)", ".clamp(min=beta)"),
        ("F.leaky_relu(x, alpha)", "F.leaky_relu(x, beta)"),
        ("F.leaky_relu(x, alpha).clamp(max=beta)", "F.leaky_relu(x.clamp(max=beta), alpha)"),
    ],
    "elu": [
        ("alpha * torch.expm1(x)", "torch.expm1(x)"),
        ("torch.expm1(x)", "torch.expm1(x / alpha)"),
        ("expm1", "exp"),
    ],
    "gelu": [
        ("1.702", "1.7"),
        ("torch.sigmoid(1.702 * x)", "torch.sigmoid(x)"),
        ('F.gelu(x, approximate="tanh")', "F.gelu(x)"),
        ("(x * -math.sqrt(0.5)).erfc_().mul_(0.5).mul_(x)", 'F.gelu(x, approximate="tanh")'),
        ("-math.sqrt(0.5)", "-0.5"),
        ('mode: str = "EXACT"', 'mode: str = "TANH_APPROXIMATION"'),
    ],
    "leaky_relu": [
        ("F.leaky_relu(x, alpha)", "F.leaky_relu(x)"),
        ("F.leaky_relu", "F.elu"),
        ("F.leaky_relu(x, alpha)", "torch.maximum(x, x * alpha)"),
    ],
    "linear_activation": [("+ beta", "- beta"), ("x * alpha + beta", "x * beta + alpha"), (" + beta", "")],
    "prelu": [
        ("_per_channel(x, alpha)", "alpha[0]"),
        ("_per_channel(x, alpha)", "_per_channel(x, alpha.flip(0))"),
        ("x > 0", "x < 0"),
        ("torch.where(x > 0, x, x * _per_channel(x, alpha))", "x * _per_channel(x, alpha)"),
    ],
    "relu": [("torch.relu(x)", "x.abs()"), ("torch.relu(x)", "x"), ("torch.relu(x)", "x.clamp(0, 6)")],
    "relu6": [("clamp(0, 6)", "clamp(0)"), ("clamp(0, 6)", "clamp(max=6)"), ("clamp(0, 6)", "clamp(0, 1)")],
    "scaled_tanh": [
        ("torch.tanh(x * beta) * alpha", "torch.tanh(x * alpha) * beta"),
        (" * alpha", ""),
        ("x * beta", "x + beta"),
    ],
    "sigmoid": [
        ("torch.sigmoid", "torch.tanh"),
        ("torch.sigmoid(x)", "torch.sigmoid(-x)"),
        ("torch.sigmoid", "torch.erf"),
    ],
    "sigmoid_hard": [
        ("clamp(0, 1)", "clamp(0)"),
        ("clamp(0, 1)", "clamp(max=1)"),
        ("x * alpha + beta", "x * beta + alpha"),
        ("clamp(0, 1)", "clamp(0, 6)"),
    ],
    "silu": [("F.silu", "F.gelu"), ("F.silu", "F.mish"), ("F.silu", "F.relu")],
    "softmax": [
        ("torch.softmax(x, axis)", "torch.softmax(x, 0)"),
        ("axis: int = -1", "axis: int = 0"),
        ("torch.softmax", "torch.log_softmax"),
        ("torch.softmax(x, axis)", "x.exp() / x.exp().sum(axis, True)"),
    ],
    "softplus": [
        ("F.softplus(x)", "torch.log(1 + torch.exp(x))"),
        ("F.softplus(x)", "F.softplus(x, 1, 5)"),
        ("F.softplus(x)", "F.softplus(-x)"),
    ],
    "softplus_parametric": [
        ("_per_channel(x, beta)", "_per_channel(x, alpha)"),
        ("* _per_channel(x, alpha)", "* _per_channel(x, beta)"),
        ("_per_channel(x, beta)", "beta[0]"),
        ("* _per_channel(x, alpha)", "* alpha[-1]"),
        ("[1] * (x.ndim - 2)", "[1] * 2"),
    ],
    "softsign": [("F.softsign", "torch.tanh"), ("F.softsign(x)", "x / (1 + x)"), ("F.softsign", "F.tanhshrink")],
    "thresholded_relu": [
        ("x >= alpha", "x > alpha"),
        ("x >= alpha", "x < alpha"),
        ("torch.where(x >= alpha, x, 0)", "torch.where(x >= alpha, x, alpha)"),
        ("torch.where(x >= alpha, x, 0)", "x.clamp(min=alpha)"),
    ],
}
