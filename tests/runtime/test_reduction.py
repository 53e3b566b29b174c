"""Reductions, against numpy in float64."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.harness import Fault, arrays, axes, close, covers, run

FORMULAS = {
    "reduce_l1_norm": lambda x, **k: np.sum(np.abs(x), **k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.sum(x * x, **k)),
    "reduce_log_sum": lambda x, **k: np.log(np.sum(x, **k)),
    "reduce_log_sum_exp": lambda x, **k: np.log(np.sum(np.exp(x), **k)),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **k: np.sum(x * x, **k),
}


@covers(*FORMULAS)
@given(data=st.data())
def test_reductions(operation: str, data: Any) -> None:
    # A logarithm's argument is positive; a product of a thousand values stays finite.
    low, high = {"reduce_log_sum": (0.5, 4), "reduce_prod": (-1.05, 1.05)}.get(operation, (-4, 4))
    x = data.draw(arrays(low=low, high=high))
    chosen = data.draw(st.none() | axes(x.ndim))
    keep = data.draw(st.booleans())
    where = None if chosen is None else tuple(chosen)
    expected = FORMULAS[operation](x.astype(np.float64), axis=where, keepdims=keep)
    constants = {} if chosen is None else {"axes": chosen}
    result = run(operation, {"x": x}, **constants, keep_dims=keep)
    if operation.startswith("reduce_log"):
        # Beside 0 a logarithm has as much absolute error as elsewhere: what counts is that of its argument.
        result, expected = np.exp(result), np.exp(expected)
    close(result, np.float32(expected))


@covers("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
@given(x=arrays(dtype=np.int32, low=-3, high=3, ranks=(2, 3)), keep=st.booleans())
def test_whole_numbers(operation: str, x: np.ndarray, keep: bool) -> None:
    result = run(operation, {"x": x}, axes=[0], keep_dims=keep)
    assert result.dtype == np.int32
    close(result, FORMULAS[operation](x, axis=0, keepdims=keep).astype(np.int32))


@covers("reduce_argmax", "reduce_argmin")
@given(data=st.data())
def test_positions(operation: str, data: Any) -> None:
    """The first of several equal values counts."""
    x = data.draw(arrays(dtype=data.draw(st.sampled_from([np.float32, np.int32])), low=-3, high=3))
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    keep = data.draw(st.booleans())
    first = {"reduce_argmax": np.argmax, "reduce_argmin": np.argmin}[operation]
    expected = first(x, axis=-1 if axis is None else axis, keepdims=keep)
    constants = {} if axis is None else {"axis": axis}
    close(run(operation, {"x": x}, **constants, keep_dims=keep), expected)


FAULTS: dict[str, list[Fault]] = {
    "reduce_argmax": [("torch.argmax(", "torch.argmin(")],
    "reduce_argmin": [("torch.argmin(", "torch.argmax(")],
    "reduce_l1_norm": [("x.abs()", "x")],
    "reduce_l2_norm": [(".sqrt()", ".abs()")],
    "reduce_log_sum": [(".log()", ".log1p()")],
    "reduce_log_sum_exp": [("torch.logsumexp", "torch.sum")],
    "reduce_max": [("amax", "amin")],
    "reduce_mean": [("torch.mean", "torch.sum")],
    "reduce_min": [("amin", "amax")],
    "reduce_prod": [("torch.prod", "torch.sum")],
    "reduce_sum": [("torch.sum", "torch.prod")],
    "reduce_sum_square": [("x * x", "x + x")],
}

# Faults that cannot be seen, and why.
UNSEEN: dict[str, dict[str, str]] = {
    name: {"output_dtype ignored": "int32 and uint16 hold the same positions, which leave the runtime as int32"}
    for name in ("reduce_argmax", "reduce_argmin")
}
