"""Every activation function of transformers' ACT2FN (transformers/activations.py)."""

from collections.abc import Callable

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.errors import Error
from milbuild.layers.linear import like
from milbuild.weights import Cursor


def activation(x: Var, function: str, w: Cursor) -> Var:
    """x -> function(x), elementwise; `w` is the module of the activation, which for prelu and xielu has parameters."""
    if function not in ACTIVATIONS:
        raise Error(f"there is no activation function {function!r}; there are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[function](x, w)


def _gelu(mode: str) -> Callable[[Var, Cursor], Var]:
    return lambda x, w: mb.gelu(x=x, mode=mode, name=w.name)


def _gelu_10(x: Var, w: Cursor) -> Var:
    y = mb.gelu(x=x, mode="EXACT", name=f"{w.name}_gelu")
    return mb.clip(x=y, alpha=like(x, -10.0), beta=like(x, 10.0), name=w.name)


def _hardswish(x: Var, w: Cursor) -> Var:
    gate = mb.sigmoid_hard(x=x, alpha=like(x, 1 / 6), beta=like(x, 0.5), name=f"{w.name}_gate")
    return mb.mul(x=x, y=gate, name=w.name)


def _laplace(x: Var, w: Cursor) -> Var:
    slope = 1 / (0.282095 * 2**0.5)
    y = mb.mul(x=mb.sub(x=x, y=like(x, 0.707107), name=f"{w.name}_centred"), y=like(x, slope), name=f"{w.name}_scaled")
    y = mb.add(x=mb.erf(x=y, name=f"{w.name}_erf"), y=like(x, 1.0), name=f"{w.name}_shifted")
    return mb.mul(x=y, y=like(x, 0.5), name=w.name)


def _mish(x: Var, w: Cursor) -> Var:
    gate = mb.tanh(x=mb.softplus(x=x, name=f"{w.name}_softplus"), name=f"{w.name}_gate")
    return mb.mul(x=x, y=gate, name=w.name)


def _relu2(x: Var, w: Cursor) -> Var:
    y = mb.relu(x=x, name=f"{w.name}_relu")
    return mb.mul(x=y, y=y, name=w.name)


def _prelu(x: Var, w: Cursor) -> Var:
    # mb.prelu wants a slope for each channel of axis 1; torch's module has one for all.
    slope = w.tensor("weight", 1).values().item()
    return mb.leaky_relu(x=x, alpha=like(x, slope), name=w.name)


def _xielu(x: Var, w: Cursor) -> Var:
    alpha_p, alpha_n, beta, epsilon = (float(w.tensor(name, *shape).values().reshape(())) for name, shape in XIELU)
    alpha_p, alpha_n = float(np.logaddexp(0, alpha_p)), beta + float(np.logaddexp(0, alpha_n))  # softplus
    linear = mb.mul(x=x, y=like(x, beta), name=f"{w.name}_linear")
    square = mb.mul(x=mb.mul(x=x, y=x, name=f"{w.name}_square"), y=like(x, alpha_p), name=f"{w.name}_positive")
    decay = mb.exp(x=mb.minimum(x=x, y=like(x, epsilon), name=f"{w.name}_minimum"), name=f"{w.name}_exp")
    decay = mb.sub(x=mb.sub(x=decay, y=like(x, 1.0), name=f"{w.name}_expm1"), y=x, name=f"{w.name}_decay")
    decay = mb.mul(x=decay, y=like(x, alpha_n), name=f"{w.name}_negative")
    chosen = mb.select(
        cond=mb.greater(x=x, y=like(x, 0.0), name=f"{w.name}_sign"), a=square, b=decay, name=f"{w.name}_chosen"
    )
    return mb.add(x=chosen, y=linear, name=w.name)


def _sqrtsoftplus(x: Var, w: Cursor) -> Var:
    # In float32: log(1 + exp(x)) ends in infinity from 11.1 on in float16 and in 0 below -7.6, where its root is 0.02.
    wide = x.dtype == types.fp32
    y = x if wide else mb.cast(x=x, dtype="fp32", name=f"{w.name}_float32")
    y = mb.softplus(x=y, name=f"{w.name}_softplus")
    if wide:
        return mb.sqrt(x=y, name=w.name)
    return mb.cast(x=mb.sqrt(x=y, name=f"{w.name}_root"), dtype="fp16", name=w.name)


XIELU = (("alpha_p", (1,)), ("alpha_n", (1,)), ("beta", ()), ("eps", ()))

ACTIVATIONS: dict[str, Callable[[Var, Cursor], Var]] = {
    "gelu": _gelu("EXACT"),
    "gelu_10": _gelu_10,
    "gelu_accurate": _gelu("TANH_APPROXIMATION"),
    "gelu_fast": _gelu("TANH_APPROXIMATION"),
    "gelu_new": _gelu("TANH_APPROXIMATION"),
    "gelu_python": _gelu("EXACT"),
    "gelu_python_tanh": _gelu("TANH_APPROXIMATION"),
    "gelu_pytorch_tanh": _gelu("TANH_APPROXIMATION"),
    "hardswish": _hardswish,
    "laplace": _laplace,
    "leaky_relu": lambda x, w: mb.leaky_relu(x=x, alpha=like(x, 0.01), name=w.name),
    "linear": lambda x, w: x,
    "mish": _mish,
    "prelu": _prelu,
    "quick_gelu": _gelu("SIGMOID_APPROXIMATION"),
    "relu": lambda x, w: mb.relu(x=x, name=w.name),
    "relu2": _relu2,
    "relu6": lambda x, w: mb.relu6(x=x, name=w.name),
    "sigmoid": lambda x, w: mb.sigmoid(x=x, name=w.name),
    "silu": lambda x, w: mb.silu(x=x, name=w.name),
    "sqrtsoftplus": _sqrtsoftplus,
    "swish": lambda x, w: mb.silu(x=x, name=w.name),
    "tanh": lambda x, w: mb.tanh(x=x, name=w.name),
    "xielu": _xielu,
}
