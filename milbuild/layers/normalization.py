"""Normalizations."""

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.layers.linear import constant, like
from milbuild.weights import Cursor

# float16 has no number between 0 and 6e-8: a smaller epsilon would become 0, and a constant row would divide by it.
SMALLEST_EPSILON = 1e-7


def layer_norm(x: Var, w: Cursor, epsilon: float) -> Var:
    """(..., D) -> (..., D), over the last axis, with the scale and shift of `w`."""
    width = x.shape[-1]
    if x.dtype == types.fp16:
        epsilon = max(epsilon, SMALLEST_EPSILON)
    gamma, beta = (constant(w.tensor(name, width), w, name) for name in ("weight", "bias"))
    return mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=like(x, epsilon), name=w.name)
