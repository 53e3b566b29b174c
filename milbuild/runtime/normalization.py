"""Normalizations (coremltools: ops/defs/iOS15/normalization.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


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
