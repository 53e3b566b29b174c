"""Choosing, and lists (coremltools: ops/defs/iOS15/control_flow.py; cond and while_loop are the engine's)."""

import torch
from torch import Tensor

from milbuild.runtime.registry import moves


@moves
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)
