"""Activation functions (coremltools: ops/defs/iOS15/activation.py)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    """One value a channel, the second axis of x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


# The modes of gelu.
GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "EXACT": lambda x: (x * -math.sqrt(0.5)).erfc_().mul_(0.5).mul_(x),
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


@operation
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return F.leaky_relu(x, alpha).clamp(max=beta)


@operation
def elu(x: Tensor, alpha: float) -> Tensor:
    """torch's own, in 2.6, takes 1 from the exponential, which leaves few digits to what is just below 0."""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@operation
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """torch's exact one goes through oneDNN, whose kernels depend on the processor: with AVX-512 infinity becomes NaN and the
    largest number infinity, and far below 0 no two agree. The complement of erf keeps its digits there."""
    return GELU[mode](x)


@operation
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@operation
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


@operation
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * _per_channel(x, alpha))


@operation
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@operation
def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


@operation
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.tanh(x * beta) * alpha


@operation
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operation
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


@operation
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operation
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@operation
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return F.softplus(x * _per_channel(x, beta)) * _per_channel(x, alpha)


@operation
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@operation
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0)
