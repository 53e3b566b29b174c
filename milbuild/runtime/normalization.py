"""Normalizations (coremltools: ops/defs/iOS15/normalization.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """torch's folds the mean into one offset, which loses digits where it is far from zero and the variance small."""
    channels = [-1] + [1] * (x.ndim - 2)
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    y = (x - mean.reshape(channels)) * scale.reshape(channels)
    return y if beta is None else y + beta.reshape(channels)


@operation
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """torch has one, too, but it refuses spatial axes of one element."""
    y = F.layer_norm(x, x.shape[2:], eps=epsilon)
    channels = [-1] + [1] * (x.ndim - 2)
    y = y if gamma is None else y * gamma.reshape(channels)
    return y if beta is None else y + beta.reshape(channels)


@operation
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes; those before them are a batch."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operation
def layer_norm(
    x: Tensor,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    where = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    if where == list(range(x.ndim - len(where), x.ndim)):
        return F.layer_norm(x, x.shape[where[0] :], gamma, beta, epsilon)
    shape = [x.shape[axis] if axis in where else 1 for axis in range(x.ndim)]
    variance, mean = torch.var_mean(x, where, correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


@operation
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Over `size` adjacent channels; an even size reaches one further to those before (as in coremltools' tests)."""
    return F.local_response_norm(x, size, alpha, beta, k)
