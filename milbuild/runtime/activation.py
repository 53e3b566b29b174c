"""Activation functions (coremltools: ops/defs/iOS15/activation.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, x * alpha), torch.tensor(beta))


@operation
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@operation
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operation
def leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    return torch.where(x >= 0, x, x * alpha)


@operation
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@operation
def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


@operation
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operation
def sigmoid_hard(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


@operation
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operation
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros(()))


@operation
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)
