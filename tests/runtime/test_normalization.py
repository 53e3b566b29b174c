"""Normalizations, against their formulas in numpy, in float64. Values are as small as epsilon, so that it matters."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, axes, close, covers, run


def small(data: Any, ranks: tuple[int, int]) -> np.ndarray:
    """Some far from zero, some about the root of the default epsilon."""
    x = data.draw(arrays(low=-1, high=1, ranks=ranks))
    scale, shift = data.draw(st.sampled_from([(1, 0), (0.003, 0), (0.1, 1), (10, -3)]))
    return np.float32(x * scale + shift)


def some(data: Any, shape: tuple[int, ...], *names: str) -> dict[str, Any]:
    """Some of these parameters, and an epsilon or none."""
    chosen = [name for name in names if data.draw(st.booleans())]
    found = {name: data.draw(arrays(shape, low=-2, high=2)) for name in chosen}
    epsilon = data.draw(st.sampled_from([None, 1e-3, 0.5]))
    return found if epsilon is None else found | {"epsilon": epsilon}


def scaled(y: np.ndarray, parameters: dict[str, Any], shape: Any) -> np.ndarray:
    if "gamma" in parameters:
        y = y * parameters["gamma"].reshape(shape)
    if "beta" in parameters:
        y = y + parameters["beta"].reshape(shape)
    return y.astype(np.float32)


def whitened(x: np.ndarray, where: tuple[int, ...], epsilon: float) -> np.ndarray:
    """With a mean of zero and a variance (the biased one) of one."""
    x = x.astype(np.float64)
    x = x - x.mean(where, keepdims=True)
    return x / np.sqrt((x * x).mean(where, keepdims=True) + epsilon)


def agree(result: np.ndarray, expected: np.ndarray, x: np.ndarray, parameters: dict[str, Any]) -> None:
    """As far as float32 can: what is rounded is the mean, and it is divided by a deviation of at least epsilon's root."""
    assert result.shape == expected.shape
    rounding = 3e-7 * np.abs(x).max() / np.sqrt(parameters.get("epsilon", 1e-5))
    rounding *= np.abs(parameters.get("gamma", np.ones(1))).max()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=rounding)


@covers("batch_norm")
@given(data=st.data())
def test_batch_norm(data: Any) -> None:
    x, opset = small(data, (3, 5)), data.draw(st.sampled_from([5, 7, 8]))
    channels = [x.shape[1]] + [1] * (x.ndim - 2)
    mean, variance = (data.draw(arrays(x.shape[1], low=low, high=high)) for low, high in ((-1, 1), (0, 0.002)))
    parameters = some(data, x.shape[1:2], "gamma", "beta")
    deviation = np.sqrt(variance.astype(np.float64) + parameters.get("epsilon", 1e-5)).reshape(channels)
    expected = scaled((x - mean.reshape(channels)) / deviation, parameters, channels)
    close(run("batch_norm", {"x": x}, opset=opset, mean=mean, variance=variance, **parameters), expected)


@covers("instance_norm")
@given(data=st.data())
def test_instance_norm(data: Any) -> None:
    x, opset = small(data, (3, 4)), data.draw(st.sampled_from([5, 7, 8]))
    parameters = some(data, x.shape[1:2], "gamma", "beta")
    expected = whitened(x, tuple(range(2, x.ndim)), parameters.get("epsilon", 1e-5))
    expected = scaled(expected, parameters, [x.shape[1]] + [1] * (x.ndim - 2))
    agree(run("instance_norm", {"x": x}, opset=opset, **parameters), expected, x, parameters)


@covers("l2_norm")
@given(data=st.data())
def test_l2_norm(data: Any) -> None:
    x, opset = small(data, (3, 5)), data.draw(st.sampled_from([5, 7, 8]))
    x = x * np.float32(data.draw(st.sampled_from([1, 0.01])))
    parameters = some(data, ())
    y = x.astype(np.float64)
    squares = np.einsum("...chw,...chw->...", y, y)[..., None, None, None]
    expected = y / np.sqrt(squares + parameters.get("epsilon", 1e-6))
    close(run("l2_norm", {"x": x}, opset=opset, **parameters), np.float32(expected))


@covers("layer_norm")
@given(data=st.data())
def test_layer_norm(data: Any) -> None:
    """gamma and beta have the axes in the order of x, in whatever order `axes` names them."""
    x, opset = small(data, (1, 5)), data.draw(st.sampled_from([5, 7, 8]))
    trailing = [list(range(-n, 0)) for n in range(1, x.ndim + 1)]
    chosen = data.draw(axes(x.ndim) | st.sampled_from(trailing))
    where = tuple(sorted(axis % x.ndim for axis in chosen))
    names = data.draw(st.sampled_from([[], ["gamma"], ["gamma", "beta"]]))  # coremltools takes no beta without gamma
    parameters = some(data, ()) | {
        name: data.draw(arrays(tuple(x.shape[axis] for axis in where), low=-2, high=2)) for name in names
    }
    shape = [n if axis in where else 1 for axis, n in enumerate(x.shape)]
    expected = scaled(whitened(x, where, parameters.get("epsilon", 1e-5)), parameters, shape)
    agree(run("layer_norm", {"x": x}, opset=opset, axes=chosen, **parameters), expected, x, parameters)


@covers("layer_norm")
def test_layer_norm_by_hand() -> None:
    """Over the first axis, the variance of 1, 3 is 1, and 3 more make 4: half of the deviation, 1, stays."""
    x = np.float32([[1, 10], [3, 14]])
    close(run("layer_norm", {"x": x}, axes=[0], epsilon=3.0), np.float32([[-0.5, -2 / 7**0.5], [0.5, 2 / 7**0.5]]))
    gamma, beta = np.float32([2, 4]), np.float32([1, 0])
    result = run("layer_norm", {"x": x}, axes=[-2], epsilon=3.0, gamma=gamma, beta=beta)
    close(result, np.float32([[0, -4 / 7**0.5 + 1], [2, 8 / 7**0.5]]))


@covers("layer_norm")
def test_layer_norm_over_all() -> None:
    """Without axes, which coremltools documents and cannot build."""
    result = OPERATIONS["layer_norm"].function(x=torch.tensor([[1.0, 3.0], [5.0, 7.0]]), epsilon=4.0)
    close(result.numpy(), np.float32([[-1, -1 / 3], [1 / 3, 1]]))


@covers("local_response_norm")
@given(data=st.data())
def test_local_response_norm(data: Any) -> None:
    """An even number of channels begins one more before than it ends after."""
    x, opset = small(data, (3, 4)), data.draw(st.sampled_from([5, 7, 8]))
    size = data.draw(st.integers(1, 5))
    optional = {
        name: value
        for name, value in (
            ("alpha", data.draw(st.sampled_from([0.5, 2.0]))),
            ("beta", data.draw(st.sampled_from([0.5, 2.0]))),
            ("k", data.draw(st.sampled_from([0.5, 2.0]))),
        )
        if data.draw(st.booleans())
    }
    expected = np.zeros(x.shape)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c - size // 2 + size].astype(np.float64)
        total = optional.get("k", 1.0) + optional.get("alpha", 1e-4) / size * (near**2).sum(1)
        expected[:, c] = x[:, c] / total ** optional.get("beta", 0.75)
    close(run("local_response_norm", {"x": x}, opset=opset, size=size, **optional), np.float32(expected))


@covers("batch_norm", "instance_norm", "l2_norm", "layer_norm", "local_response_norm")
def test_two_precisions(operation: str) -> None:
    """From iOS17 on parameters may be wider than x: in float16 this epsilon, and this alpha, would be zero."""
    x = np.float16([[[[1e-4, 3e-4]], [[0, 2e-4]]]])
    tiny = np.float32(1e-8)
    y, w = x.astype(np.float64), np.float32([1, 1])
    if operation == "batch_norm":
        constants, expected = {"mean": w * 0, "variance": w * 0, "epsilon": tiny}, y / 1e-4
    elif operation == "local_response_norm":
        constants, expected = {"size": 1, "alpha": tiny, "k": tiny}, y / (1e-8 + 1e-8 * y * y) ** 0.75
    elif operation == "l2_norm":
        constants, expected = {"epsilon": tiny}, y / np.sqrt((y * y).sum() + 1e-8)
    else:
        constants, expected = {"epsilon": tiny}, whitened(x, (2, 3), 1e-8)
        if operation == "layer_norm":
            constants["axes"] = [2, 3]
    result = run(operation, {"x": x}, opset=7, precision="declared", **constants)
    close(result, np.float32(expected), 2e-3)


FAULTS: dict[str, list[Fault]] = {
    "batch_norm": [
        ("variance + epsilon", "variance.square() + epsilon"),
        ("(x - mean.reshape(channels))", "x"),
        ("variance + epsilon", "variance + max(epsilon, 1e-4)"),
        ("y + beta.reshape(channels)", "y - beta.reshape(channels)"),
        ("scale * gamma", "gamma"),
    ],
    "instance_norm": [
        ("x.shape[2:]", "x.shape[1:]"),
        ("F.layer_norm(x, x.shape[2:], eps=epsilon)", "F.instance_norm(x, eps=epsilon)"),
        ("y * gamma.reshape(channels)", "y + gamma.reshape(channels)"),
        ("y + beta.reshape(channels)", "y - beta.reshape(channels)"),
    ],
    "l2_norm": [
        ("(-3, -2, -1)", "(-2, -1)"),
        ("torch.rsqrt(", "torch.reciprocal("),
        ("keepdim=True) + epsilon)", "keepdim=True)) + 0 * epsilon"),
        ("x.square()", "x.abs()"),
    ],
    "layer_norm": [
        ("correction=0", "correction=1"),
        ("gamma, beta, epsilon)", "gamma, beta)"),
        ("torch.rsqrt(variance + epsilon)", "torch.rsqrt(variance)"),
        ("axis in where else 1", "axis not in where else 1"),
        ("y + beta.reshape(shape)", "y"),
        ("y * gamma.reshape(shape)", "y"),
    ],
    "local_response_norm": [
        ("F.local_response_norm(x, size, alpha,", "F.local_response_norm(x, size, alpha * size,"),
        ("F.local_response_norm(x, size, alpha,", "F.local_response_norm(x, size + 1 - size % 2, alpha,"),
        (
            "F.local_response_norm(x, size, alpha, beta, k)",
            "F.local_response_norm(x.flip(1), size, alpha, beta, k).flip(1)",
        ),
        ("alpha, beta, k)", "alpha, beta, 1.0)"),
    ],
}
