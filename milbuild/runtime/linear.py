"""Products with weights (coremltools: ops/defs/iOS15/linear.py). torch accumulates them in float32."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.elementwise_unary import cast
from milbuild.runtime.registry import operation


@operation
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.is_floating_point() == weight.is_floating_point():
        return F.linear(x, weight, bias)
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return product if x.is_floating_point() else cast(product, "int32")


@operation
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False, *, results: Any) -> Tensor:
    x = x.mT if transpose_x and x.ndim > 1 else x
    y = y.mT if transpose_y and y.ndim > 1 else y
    if x.is_floating_point() == y.is_floating_point():
        return torch.matmul(x, y)
    product = torch.matmul(x.float(), y.float())
    # The type of the argument that is no constant is the result's; which that is only the program knows.
    return cast(product, "int32") if results[0].dtype == "INT32" else product


@operation
def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)
