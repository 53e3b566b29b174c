"""Audio: convolutions over time, and their norms.

Inside a convolution the layout is (B, C, T): batch, channels, time; outside it is (B, T, D), as everywhere.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.activation import activation
from milbuild.layers.layout import layer
from milbuild.layers.linear import add, constant, like, linear, mul, split
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Computed, Cursor, Rowwise, Tensor
from milbuild.weights.fields import Config

EPSILON = 1e-5  # torch's own, which group norms and the norms between convolutions keep


def convolution(
    x: Var,
    w: Cursor,
    weight: Tensor,
    bias: bool,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    dilation: int = 1,
) -> Var:
    """(B, C, T) -> (B, D, T'), with a weight (D, C / groups, kernel); `padding`: zeros before and after."""
    around: dict[str, Any] = {"pad_type": "valid"}
    if any(padding):
        around = {"pad_type": "custom", "pad": list(padding)}
    if bias:
        around["bias"] = constant(w.tensor("bias", weight.shape[0]), w, "bias")
    return mb.conv(
        x=x,
        weight=constant(weight, w, "weight"),
        strides=[stride],
        groups=groups,
        dilations=[dilation],
        name=w.name,
        **around,
    )


@layer
def transposed(x: Var, w: Cursor) -> Var:
    """(B, C, T) -> (B, T, C), and back."""
    return mb.transpose(x=x, perm=[0, 2, 1], name=w.name)


@layer
def add_position_embeddings(x: Var, table: Cursor, rows: int, w: Cursor) -> Var:
    """(B, T, D) -> (B, T, D): each frame with its row of the table (rows, D), as the output of `w`."""
    embeddings = table.tensor("weight", rows, x.shape[2]).rows(0, x.shape[1])
    return add(x, constant(embeddings, table, "weight"), w)


def weight_norm(w: Cursor, *shape: int) -> Tensor:
    """The weight (D, C, kernel) that torch's weight_norm over the kernel makes: v scaled to the length g at each place."""

    w = w / "parametrizations.weight"
    lengths, directions = w.tensor("original0", 1, 1, shape[-1]), w.tensor("original1", *shape)

    @functools.cache
    def scale() -> tuple[np.ndarray, np.ndarray]:
        """g and the length of v, (kernel,) each."""
        total = np.zeros(shape[-1])
        for rows in directions.bands(1):
            total = np.concatenate([total[None], np.square(rows[0])]).sum(0)
        return lengths.values(np.dtype(np.float64)).reshape(-1), np.sqrt(total)

    def fold(v: np.ndarray) -> Any:
        g, length = scale()
        return g * v / length

    return Rowwise("weight norm", fold, shape, directions)


@layer
def batch_norm(x: Var, w: Cursor, epsilon: float = EPSILON) -> Var:
    """(B, T, D) -> (B, T, D), with the running mean and variance as one product and one sum.

    They are not folded into a convolution after it: the zeros that it pads with are not shifted.
    """
    shape = (x.shape[-1],)
    parts = [w.tensor(name, *shape) for name in ("weight", "bias", "running_mean", "running_var")]

    def scale(gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Any:
        return gamma / np.sqrt(variance + epsilon)

    def shift(gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Any:
        return beta - mean * gamma / np.sqrt(variance + epsilon)

    by = constant(Computed("scale", scale, shape, *parts), w, "scale")
    to = constant(Computed("shift", shift, shape, *parts), w, "shift")
    return mb.add(x=mb.mul(x=x, y=by, name=f"{w.name}_scaled"), y=to, name=w.name)


def instance_norm(x: Var, w: Cursor) -> Var:
    """(B, C, T) -> (B, C, T), each channel by itself over time: a group norm of as many groups as channels.

    One operation of Core ML, which sums in float32: float16 loses a sum over thousands of steps.
    """
    gamma, beta = (constant(w.tensor(name, x.shape[1]), w, name) for name in ("weight", "bias"))
    return mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=like(x, EPSILON), name=w.name)


def sizes(config: Config) -> list[tuple[int, int]]:
    """(kernel, stride) of the convolutions that make frames of samples."""
    return list(zip(config.conv_kernel, config.conv_stride, strict=True))


def delays(config: Config) -> list[tuple[int, int, int]]:
    """(width, kernel, dilation) of the convolutions over frames that tell a speaker."""
    fields = config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation
    if len({len(field) for field in fields}) != 1:
        raise Error(
            f"tdnn_dim, tdnn_kernel and tdnn_dilation are of several lengths: {fields}", "Look into config.json."
        )
    return list(zip(*fields, strict=True))


def spanned(config: Config) -> int:
    """How many frames those convolutions need to make one."""
    return 1 + sum((kernel - 1) * dilation for _, kernel, dilation in delays(config))


def adapter_sizes(config: Config) -> list[tuple[int, int]]:
    """(kernel, stride) of the convolutions that leave fewer frames, less the kernel's padding; none without an adapter."""
    each = [(config.adapter_kernel_size - 2, config.adapter_stride)] * config.num_adapter_layers
    return each if config.add_adapter else []


def features(x: Var, w: Cursor, config: Config) -> Var:
    """Samples (B, S) -> (B, T, C) by a row of convolutions, whose `feat_extract_norm` is that of each channel over time in
    the first (group) or that of each step in all (layer)."""
    steps, last = config.feat_extract_norm == "layer", len(config.conv_dim) - 1
    if config.feat_extract_norm not in ("group", "layer"):
        raise Error(f"feat_extract_norm is {config.feat_extract_norm!r}; it must be group or layer")
    x = mb.expand_dims(x=x, axes=[1], name=f"{w.name}_channel")
    for i, width in enumerate(config.conv_dim):
        at = w / f"conv_layers.{i}"
        weight = (at / "conv").tensor("weight", width, x.shape[1], config.conv_kernel[i])
        x = convolution(x, at / "conv", weight, config.conv_bias, stride=config.conv_stride[i])
        if steps:
            x = layer_norm(transposed(x, at / "turned"), at / "layer_norm", EPSILON)
        elif i == 0:
            x = instance_norm(x, at / "layer_norm")
        x = activation(x, config.feat_extract_activation, at / "activation")
        if steps and i < last:
            x = transposed(x, at)
    return x if steps else transposed(x, w / "turned")


def positions(x: Var, w: Cursor, config: Config, weight: Callable[..., Tensor]) -> Var:
    """(B, T, D) -> (B, T, D): what a frame's neighbours say of its place, by a convolution whose `weight` is read so.

    An even kernel sees one more of those before it.
    """
    size, width, groups = config.num_conv_pos_embeddings, x.shape[-1], config.num_conv_pos_embedding_groups
    around, conv = (size // 2, size - 1 - size // 2), w / "conv"
    x = transposed(x, w / "channels")
    x = convolution(x, conv, weight(conv, width, width // groups, size), True, padding=around, groups=groups)
    return transposed(activation(x, config.feat_extract_activation, w / "activation"), w)


def bottleneck(x: Var, w: Cursor, width: int) -> Var:
    """(B, T, D) -> (B, T, D) through fewer features: what adapts an attention block to a language."""
    y = linear(layer_norm(x, w / "norm", EPSILON), w / "linear_1", width)
    return linear(activation(y, "relu", w / "act_fn"), w / "linear_2", x.shape[-1])


def adapter(x: Var, w: Cursor, config: Config, width: int) -> Var:
    """(B, T, D) -> (B, T', width): gated convolutions, one after the other, which leave fewer frames."""
    if width != x.shape[-1]:
        x = layer_norm(linear(x, w / "proj", width), w / "proj_layer_norm", EPSILON)
    x = transposed(x, w / "channels")
    for i in range(config.num_adapter_layers):
        x = _gated(x, w / f"layers.{i}", config.adapter_kernel_size, config.adapter_stride)
    return transposed(x, w)


def _gated(x: Var, w: Cursor, kernel: int, stride: int) -> Var:
    """(B, C, T) -> (B, C, T'): a convolution to twice the channels, of which the second half gates the first."""
    width = x.shape[1]
    weight = (w / "conv").tensor("weight", 2 * width, width, kernel)
    x = convolution(x, w / "conv", weight, True, stride=stride, padding=(1, 1))
    value, gate = split(x, [width, width], w, "channels")
    return mul(value, activation(gate, "sigmoid", w / "gate"), w)


def time_delay(x: Var, w: Cursor, width: int, kernel: int, dilation: int) -> Var:
    """(B, C, T) -> (B, width, T'): a linear layer (width, kernel * C) over neighbouring steps, as a convolution."""
    channels, at = x.shape[1], w / "kernel"

    def steps_last(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(-1, kernel, channels).transpose(0, 2, 1)

    stored = at.tensor("weight", width, kernel * channels)
    weight = Rowwise("steps last", steps_last, (width, channels, kernel), stored)
    return activation(convolution(x, at, weight, True, dilation=dilation), "relu", w / "activation")
