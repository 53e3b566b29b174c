"""Products with weights (coremltools: ops/defs/iOS15/linear.py). torch accumulates them in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation


@operation
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


@operation
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)
