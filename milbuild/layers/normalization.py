"""Normalizations."""

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.layers.layout import layer
from milbuild.layers.linear import constant, like
from milbuild.weights import Computed, Cursor, Joined

# float16 has no number between 0 and 6e-8: a smaller epsilon would become 0, and a constant row would divide by it.
SMALLEST_EPSILON = 1e-7


@layer
def layer_norm(x: Var, w: Cursor, epsilon: float, name: str | None = None, affine: bool = True) -> Var:
    """(..., D) -> (..., D), over the last axis, with the scale and shift of `w`, whose name it bears by default; without
    `affine` it has none."""
    width = x.shape[-1]
    if x.dtype == types.fp16:
        epsilon = max(epsilon, SMALLEST_EPSILON)
    parameters = (("gamma", "weight"), ("beta", "bias")) if affine else ()
    values = {which: constant(w.tensor(parameter, width), w, parameter) for which, parameter in parameters}
    return mb.layer_norm(x=x, axes=[-1], epsilon=like(x, epsilon), name=name or w.name, **values)


@layer
def rms_norm(x: Var, w: Cursor, epsilon: float, offset: float = 0.0) -> Var:
    """(..., D) -> (..., D): x / sqrt(mean(x^2) + epsilon) * (weight + offset), over the last axis.

    As a layer norm of (x, -x), whose mean is 0 and whose variance is the mean of squares: one operation of Core ML, which
    sums in float32, where squares of more than 255 would overflow float16 (docs/core-ml.md, norms).
    """
    width = x.shape[-1]
    weight = w.tensor("weight", width)
    if offset:
        weight = Computed(f"{offset:g} +", lambda values: values + offset, (width,), weight)
    gamma = constant(Joined(weight, weight), w, "weight")
    return _half(_doubled_norm(x, w.name, epsilon, gamma), w.name)


@layer
def rms_norm_heads(x: Var, parts: list[tuple[Cursor, int]], w: Cursor, epsilon: float, offset: float = 0.0) -> Var:
    """(B, H, T, E) -> (B, H, T, E): `rms_norm` of each head by itself, with the weight (E,) of a module for so many heads."""
    width = x.shape[-1]

    def rows(*weights: np.ndarray) -> np.ndarray:
        counts = [count for _, count in parts]
        return np.concatenate([np.tile(v + offset, (n, 1)) for v, n in zip(weights, counts, strict=True)])[:, None]

    recipe = f"{offset:g} + for {', '.join(str(count) for _, count in parts)} heads"
    shape = (sum(count for _, count in parts), 1, width)
    weight = Computed(recipe, rows, shape, *(part.tensor("weight", width) for part, _ in parts))
    y = _half(_doubled_norm(x, f"{w.name}_norm", epsilon), f"{w.name}_norm")
    return mb.mul(x=y, y=constant(weight, w, "norm_weight"), name=f"{w.name}_normed")


def _doubled_norm(x: Var, name: str, epsilon: float, gamma: Var | None = None) -> Var:
    epsilon = max(epsilon, SMALLEST_EPSILON) if x.dtype == types.fp16 else epsilon
    doubled = mb.concat(
        values=[x, mb.mul(x=x, y=like(x, -1.0), name=f"{name}_negative")], axis=-1, name=f"{name}_doubled"
    )
    scale = {} if gamma is None else {"gamma": gamma}
    return mb.layer_norm(x=doubled, axes=[-1], epsilon=like(x, epsilon), name=f"{name}_both", **scale)


def _half(x: Var, name: str) -> Var:
    width = x.shape[-1] // 2
    return mb.slice_by_index(
        x=x,
        begin=[0] * x.rank,
        end=[0] * (x.rank - 1) + [width],
        begin_mask=[True] * x.rank,
        end_mask=[True] * (x.rank - 1) + [False],
        name=name,
    )


def group_norm(x: Var, w: Cursor, groups: int, epsilon: float) -> Var:
    """(B, C, T) or (B, C, H, W) -> the same: each group of C / groups channels over all its places, then the scale and shift
    of each channel. As torch.nn.GroupNorm; needed by Moonshine (one group), DETR's masks, MaskFormer and BiT.

    One operation of Core ML takes mean and variance, which sums in float32: float16 loses a sum over thousands of places.
    """
    shape = [size if isinstance(size, int) else -1 for size in x.shape]
    y = mb.reshape(x=x, shape=[shape[0], groups, -1], name=f"{w.name}_groups")
    epsilon = max(epsilon, SMALLEST_EPSILON) if x.dtype == types.fp16 else epsilon
    y = mb.instance_norm(x=y, epsilon=like(x, epsilon), name=f"{w.name}_normed")
    y = mb.reshape(x=y, shape=shape, name=f"{w.name}_channels")
    each = (shape[1], *[1] * (x.rank - 2))
    scale, shift = (constant(w.tensor(name, shape[1]).reshaped(*each), w, name) for name in ("weight", "bias"))
    return mb.add(x=mb.mul(x=y, y=scale, name=f"{w.name}_scaled"), y=shift, name=w.name)
