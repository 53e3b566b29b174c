"""Which kernels torch and oneDNN choose for a processor does not show: every activation, elementwise function of one value,
normalization, reduction and product at zeros, infinities, NaN and the ends of float32 and float16, in the sizes at which
kernels change over to their remainders, against the formula in float64 that is rounded to float32 where the runtime's is.

The libraries read their settings once, so each setting is a process, which answers all questions.
"""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from milbuild.runtime import (  # these register their operations
    activation,
    conv,
    elementwise_unary,
    linear,
    normalization,
    reduction,
    transformers,
)
from milbuild.runtime.registry import OPERATIONS

SIZES = (1, 2, 7, 8, 16, 17, 64)
FLOAT32, FLOAT16 = np.finfo(np.float32), np.finfo(np.float16)
POSITIVE = [
    0,
    math.inf,
    FLOAT32.max,
    FLOAT32.tiny,
    FLOAT32.smallest_subnormal,
    FLOAT16.max,
    FLOAT16.tiny,
    FLOAT16.smallest_subnormal,
]
EDGES = [sign * float(value) for value in POSITIVE for sign in (1, -1)] + [math.nan]
ORDINARY = [1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 12.0, -12.0, 90.0, -90.0]

# What the libraries may choose: (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY); None: the best that the processor has.
LOWEST = ("SSE41", "default")
SETTINGS = [(isa, aten) for isa in (None, "AVX2", "SSE41") for aten in (None, "default")]


def _f32(x: Any) -> np.ndarray:
    """Rounded to float32, as a float64 array again."""
    return np.asarray(x, np.float64).astype(np.float32).astype(np.float64)


A, B = float(np.float32(0.3)), 0.5  # alpha and beta, wherever an operation has them
erf, erfc = (np.vectorize(function, otypes=[float]) for function in (math.erf, math.erfc))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


class Case(NamedTuple):
    """`run` gets a tensor (3, N), `expected` the same values in float64. `error`: of the expected value, or of the largest
    in its row where `row` says so, `scale` being the least that this is held to be. Not `largest`: the squares or scores of
    float32's largest numbers are infinite on the way, and it is not said what becomes of them."""

    operation: str
    run: Callable[[torch.Tensor], torch.Tensor]
    expected: Callable[[np.ndarray], Any]
    row: bool = False
    error: float = 1e-5
    scale: float = 0
    largest: bool = True


def op(name: str, *arguments: Any, **named: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: OPERATIONS[name].function(x, *arguments, **named)


def _channels(name: str, *values: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The three rows are three channels."""
    return lambda x: OPERATIONS[name].function(x[None], *(torch.full((3,), value) for value in values))[0]


ONE_BY_ONE = [
    Case("clamped_relu", op("clamped_relu", A, 2.0), lambda x: np.minimum(2, np.where(x >= 0, x, A * x))),
    Case("elu", op("elu", A), lambda x: np.where(x > 0, x, A * np.expm1(x))),
    Case("gelu", op("gelu"), lambda x: x * 0.5 * erfc(-x * math.sqrt(0.5))),
    Case(
        "gelu",  # which leaves few digits to what is far below 0
        op("gelu", "TANH_APPROXIMATION"),
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        error=2e-5,
    ),
    Case("gelu", op("gelu", "SIGMOID_APPROXIMATION"), lambda x: x * _sigmoid(1.702 * x)),
    Case("leaky_relu", op("leaky_relu", A), lambda x: np.where(x >= 0, x, A * x)),
    Case("linear_activation", op("linear_activation", A, B), lambda x: x * A + B),
    Case("prelu", _channels("prelu", A), lambda x: np.where(x > 0, x, A * x)),
    Case("relu", op("relu"), lambda x: np.maximum(x, 0)),
    Case("relu6", op("relu6"), lambda x: np.clip(x, 0, 6)),
    Case("scaled_tanh", op("scaled_tanh", A, B), lambda x: A * np.tanh(B * x)),
    Case("sigmoid", op("sigmoid"), _sigmoid),
    Case("sigmoid_hard", op("sigmoid_hard", A, B), lambda x: np.clip(A * x + B, 0, 1)),
    Case("silu", op("silu"), lambda x: x * _sigmoid(x)),
    Case("softplus", op("softplus"), _softplus),
    Case("softplus_parametric", _channels("softplus_parametric", A, B), lambda x: A * _softplus(B * x)),
    Case("softsign", op("softsign"), lambda x: x / (1 + np.abs(x))),
    Case("thresholded_relu", op("thresholded_relu", A), lambda x: np.where(x >= A, x, 0)),
    Case("cast", op("cast", "fp32"), lambda x: x),
    Case("cast", op("cast", "int32"), lambda x: np.nan_to_num(np.clip(np.trunc(x), -(2**31), 2**31 - 1)).astype(int)),
    Case("cast", op("cast", "bool"), lambda x: x != 0),
    Case("abs", op("abs"), np.abs),
    Case("acos", op("acos"), np.arccos),
    Case("asin", op("asin"), np.arcsin),
    Case("atan", op("atan"), np.arctan),
    Case("atanh", op("atanh"), np.arctanh),
    Case("ceil", op("ceil"), np.ceil),
    Case("clip", op("clip", -A, B), lambda x: np.clip(x, -A, B)),
    Case("cos", op("cos"), np.cos),
    Case("cosh", op("cosh"), np.cosh),
    Case("erf", op("erf"), erf),
    Case("exp", op("exp"), np.exp),
    Case("exp2", op("exp2"), np.exp2),
    Case("floor", op("floor"), np.floor),
    Case("inverse", op("inverse"), lambda x: 1 / _f32(x + 1e-4)),
    Case("log", op("log"), lambda x: np.log(_f32(x + 1e-45))),
    Case("logical_not", lambda x: OPERATIONS["logical_not"].function(x.bool()), lambda x: x == 0),
    Case("round", op("round"), np.rint),
    Case("rsqrt", op("rsqrt"), lambda x: 1 / np.sqrt(_f32(x + 1e-12))),
    Case("sign", op("sign"), np.sign),
    Case("sin", op("sin"), np.sin),
    Case("sinh", op("sinh"), np.sinh),
    Case("sqrt", op("sqrt"), np.sqrt),
    Case("square", op("square"), np.square),
    Case("tan", op("tan"), np.tan),
    Case("tanh", op("tanh"), np.tanh),
    Case("threshold", op("threshold", torch.tensor(A)), lambda x: np.maximum(x, A)),
]


def _weight(*shape: int) -> np.ndarray:
    """Small numbers, none of them 0, which would make NaN of infinity; halves of whole numbers, exact in any type."""
    return ((np.arange(math.prod(shape)) * 5 % 8 - 3.5) / 2).reshape(shape)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


class Result(NamedTuple):
    dtype: str = "FLOAT32"


def _sum(x: np.ndarray, axis: int = -1, keepdims: bool = False) -> np.ndarray:
    """Of each partial sum only the whole one is rounded: no question here has one that is too large on the way to another."""
    return _f32(np.sum(x, axis, keepdims=keepdims))


def _norm(x: np.ndarray, scale: float = 1, offset: float = 0) -> np.ndarray:
    centered = x - _f32(_sum(x, keepdims=True) / x.shape[-1])
    variance = _f32(_sum(_f32(centered**2), keepdims=True) / x.shape[-1])
    return centered / np.sqrt(variance + 1e-5) * scale + offset


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    top = x.max(-1)
    shift = np.where(np.isinf(top), 0, top)
    return np.log(np.exp(x - shift[:, None]).sum(-1)) + shift


def _attention(x: np.ndarray) -> np.ndarray:
    """x as the queries of four keys and values. Scores of minus infinity alone give zeros, as where all is masked."""
    other = _weight(4, x.shape[-1])
    scores = _f32(_f32(x @ other.T) / math.sqrt(x.shape[-1]))
    return np.where((scores == -math.inf).all(-1, keepdims=True), 0, _softmax(scores) @ other)


def _product(name: str, *arguments: Any, **named: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """With the weight (N, 5), in the place that the operation has for it."""
    return lambda x: OPERATIONS[name].function(x, _tensor(_weight(x.shape[-1], 5)), *arguments, **named)


OVER_ROWS = [
    Case("softmax", op("softmax"), _softmax),
    Case("reduce_argmax", op("reduce_argmax"), lambda x: x.argmax(-1)),
    Case("reduce_argmin", op("reduce_argmin"), lambda x: x.argmin(-1)),
    Case("reduce_l1_norm", op("reduce_l1_norm", [-1]), lambda x: _sum(np.abs(x))),
    Case("reduce_l2_norm", op("reduce_l2_norm", [-1]), lambda x: np.sqrt(_sum(_f32(x * x)))),
    Case("reduce_log_sum", op("reduce_log_sum", [-1]), lambda x: np.log(_sum(x)), row=True),
    Case("reduce_log_sum_exp", op("reduce_log_sum_exp", [-1]), _log_sum_exp, row=True),
    Case("reduce_max", op("reduce_max", [-1]), lambda x: x.max(-1)),
    Case("reduce_mean", op("reduce_mean", [-1]), lambda x: _sum(x) / x.shape[-1], row=True),
    Case("reduce_min", op("reduce_min", [-1]), lambda x: x.min(-1)),
    Case("reduce_prod", op("reduce_prod", [-1]), lambda x: np.prod(x, -1)),
    Case("reduce_sum", op("reduce_sum", [-1]), _sum, row=True),
    Case("reduce_sum_square", op("reduce_sum_square", [-1]), lambda x: _sum(_f32(x * x))),
    Case("layer_norm", op("layer_norm", [-1]), _norm, row=True, largest=False),
    Case(
        "layer_norm",
        lambda x: OPERATIONS["layer_norm"].function(x, [-1], torch.full(x.shape[1:], 1.5), torch.full(x.shape[1:], B)),
        lambda x: _norm(x, 1.5, B),
        row=True,
        largest=False,
    ),
    Case("layer_norm", lambda x: OPERATIONS["layer_norm"].function(x.T, [0]).T, _norm, row=True),
    Case("instance_norm", _channels("instance_norm", 1.5, B), lambda x: _norm(x, 1.5, B), row=True, largest=False),
    Case(
        "batch_norm",
        _channels("batch_norm", A, 2.0, 1.5, B),
        lambda x: _f32(x - A) / math.sqrt(2 + 1e-5) * 1.5 + B,
        row=True,
    ),
    Case(
        "l2_norm",
        lambda x: OPERATIONS["l2_norm"].function(x[:, :, None, None])[..., 0, 0],
        lambda x: x * _f32(1 / np.sqrt(_f32(_sum(_f32(x * x), keepdims=True) + 1e-6))),
    ),
    Case(
        "local_response_norm",
        lambda x: OPERATIONS["local_response_norm"].function(x[:, :, None, None], 1)[..., 0, 0],
        lambda x: x / _f32(1 + 1e-4 * _f32(x * x)) ** 0.75,
    ),
    Case("matmul", _product("matmul", results=[Result()]), lambda x: x @ _weight(x.shape[-1], 5), row=True),
    Case(
        "matmul",
        lambda x: OPERATIONS["matmul"].function(x, _tensor(_weight(x.shape[-1])), results=[Result()]),
        lambda x: x @ _weight(x.shape[-1]),
        row=True,
    ),
    Case(
        "linear",
        lambda x: OPERATIONS["linear"].function(x, _tensor(_weight(x.shape[-1], 5).T), torch.full((5,), B)),
        lambda x: x @ _weight(x.shape[-1], 5) + B,
        row=True,
    ),
    Case(
        "einsum",
        lambda x: OPERATIONS["einsum"].function(
            [x[None, :, None], _tensor(_weight(x.shape[-1], 5))[None, :, None]], "nchw,nwhu->nchu"
        )[0, :, 0],
        lambda x: x @ _weight(x.shape[-1], 5),
        row=True,
    ),
    Case(
        "conv",  # each row a text, its values the channels
        lambda x: OPERATIONS["conv"].function(x[:, :, None], _tensor(_weight(x.shape[-1], 5).T)[..., None])[..., 0],
        lambda x: x @ _weight(x.shape[-1], 5),
        row=True,
    ),
    Case(
        "scaled_dot_product_attention",
        lambda x: OPERATIONS["scaled_dot_product_attention"].function(
            x[None], *[_tensor(_weight(4, x.shape[-1]))[None]] * 2
        )[0],
        _attention,
        row=True,
        scale=1,
        largest=False,
    ),
]
CASES = ONE_BY_ONE + OVER_ROWS


def questions(case: Case) -> Iterator[np.ndarray]:
    """Arrays (3, N): a row full of an edge or with one, the others ordinary. What runs over rows is asked nothing whose answer
    depends on the order of its sum: of different edges, or of largest numbers that its terms could lift to infinity."""
    for size in SIZES:
        plain = (np.arange(3 * size) * 7 % 23 - 9.5).reshape(3, size) / 13.5
        for number, edge in enumerate(EDGES):
            if abs(edge) == FLOAT32.max and not case.largest:
                continue
            full, one = plain.copy(), plain.copy()
            full[1], one[1, [0, size // 2, size - 1][number % 3]] = edge, edge
            if abs(edge) != FLOAT32.max or not case.row or case.operation.startswith("reduce_"):
                yield full.astype(np.float32)
            yield one.astype(np.float32)
        if case in ONE_BY_ONE:
            yield np.resize(np.float32(EDGES + ORDINARY), (3, size))


def answers(path: str) -> None:
    """Writes the result of every case on each of its questions, and the kernels that torch says it uses."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"kernels": np.asarray(torch.backends.cpu.get_cpu_capability())}
    with torch.inference_mode():
        for number, case in enumerate(CASES):
            found[str(number)] = _answer(case)
    np.savez(path, **found)


def _answer(case: Case) -> np.ndarray:
    results = [case.run(torch.from_numpy(x)).reshape(3, -1).double() for x in questions(case)]
    return torch.cat(results, 1).numpy()


def _disagreements(case: Case, results: np.ndarray, half: bool) -> list[Any]:
    found, at = [], 0
    for x in questions(case):
        with np.errstate(all="ignore"):
            wanted = np.asarray(case.expected(x.astype(np.float64)), np.float64).reshape(3, -1)
            wanted = wanted.astype(np.float32)
            wanted = (wanted.astype(np.float16) if half else wanted).astype(np.float64)
        result = results[:, at : at + wanted.shape[1]]
        at += wanted.shape[1]
        if half:
            with np.errstate(over="ignore"):
                result = result.astype(np.float32).astype(np.float16).astype(np.float64)
        # A kernel may lose numbers near float32's smallest normal one: silu of -90 does, whose exponential is infinity.
        error, least = (2**-10, 2**-24) if half else (case.error, 1e-37)
        with np.errstate(invalid="ignore"):
            finite = np.where(np.isfinite(wanted), np.abs(wanted), 0)
            scale = finite.max(1, keepdims=True, initial=case.scale) if case.row else finite
            allowed = error * scale + least
            right = (result == wanted) | (np.isnan(result) & np.isnan(wanted)) | (np.abs(result - wanted) <= allowed)
        for place in np.argwhere(~right)[:2]:
            found.append((x[place[0]], result[tuple(place)], wanted[tuple(place)]))
    assert at == results.shape[1]
    return found


@pytest.mark.parametrize(
    "setting",
    [pytest.param(each, marks=[] if each in (LOWEST, (None, None)) else [pytest.mark.all]) for each in SETTINGS],
    ids=lambda setting: " and ".join(str(name or "best") for name in setting),
)
def test_edges(setting: tuple[str | None, str | None], tmp_path: Path) -> None:
    names = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {name: value for name, value in zip(names, setting, strict=True) if value}
    script = "import sys; from tests.runtime.test_processors import answers; answers(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "answers.npz")],
        cwd=Path(__file__).parents[2],
        env=environment,
        check=True,
    )
    found = np.load(tmp_path / "answers.npz")
    # The second is torch 2.6's name.
    assert (str(found["kernels"]) in ("DEFAULT", "NO AVX")) == (setting[1] == "default")
    wrong = {
        f"{number} {case.operation} {'float16' if half else 'float32'}": places[:3]
        for number, case in enumerate(CASES)
        for half in (False, True)
        if (places := _disagreements(case, found[str(number)], half))
    }
    assert not wrong


def test_every_operation_is_asked() -> None:
    groups = {module.__name__ for module in (activation, elementwise_unary, linear, normalization, reduction)}
    known = {name for name, kernel in OPERATIONS.items() if kernel.function.__module__ in groups}
    assert known <= {case.operation for case in CASES}
    assert conv.__name__ == OPERATIONS["conv"].function.__module__
    assert transformers.__name__ == OPERATIONS["scaled_dot_product_attention"].function.__module__


KERNELS = {
    "gelu": lambda x, mode="EXACT": torch.where(x.isinf(), math.nan, x * 0.5 * torch.erfc(-x * math.sqrt(0.5))),
    "relu": lambda x: x.clamp(min=0).nan_to_num(0),
    "exp": lambda x: x.exp().clamp(max=FLOAT32.max),
    "reduce_sum": lambda x, axes: x[:, :16].sum(-1),
    "linear": lambda x, weight, bias: torch.nan_to_num(x) @ weight.T + bias,
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("operation", KERNELS)
def test_a_kernel_that_differs_is_seen(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is what oneDNN's gelu makes of infinity with AVX-512."""
    monkeypatch.setitem(OPERATIONS, operation, dataclasses.replace(OPERATIONS[operation], function=KERNELS[operation]))
    case = next(case for case in CASES if case.operation == operation)
    assert _disagreements(case, _answer(case), half=False)
