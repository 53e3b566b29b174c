"""Recurrent layers (coremltools: ops/defs/iOS15/recurrent.py, iOS17/recurrent.py, iOS18/recurrent.py).

With direction reverse the results are in the order of computation, the last time step first; those of the backward
direction of a bidirectional lstm are in the order of time. coremltools' own tests have it so.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from milbuild.runtime.registry import operation

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,  # its factors are no parameters of these operations: both 1
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
ACTIVATIONS["sigmoid_hard"] = ACTIVATIONS["hard_sigmoid"]  # as rnn's documentation spells it


@operation
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    gate, act = _activation(recurrent_activation), _activation(activation)
    # The formula of the documentation reads r * (W h), coremltools' tests compute W (r * h): that is reset_after = False.
    weight_o = weight_hh.chunk(3)[1]
    bias_o = None if bias is None else bias.chunk(3)[1]
    h, states = _rows(initial_h, x), []
    for step in F.linear(_steps(x, direction), weight_ih, input_bias):
        r_in, o_in, z_in = step.chunk(3, -1)
        r_h, o_h, z_h = F.linear(h, weight_hh, bias).chunk(3, -1)
        r, z = gate(r_in + r_h), gate(z_in + z_h)
        o = act(o_in + (r * o_h if reset_after else F.linear(r * h, weight_o, bias_o)))
        h = (1 - z) * o + z * h
        states.append(h)
    return (torch.stack(states) if output_sequence else h[None]), h


@operation
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    gate, cell, act = (_activation(name) for name in (recurrent_activation, cell_activation, activation))
    initial_h, initial_c = _rows(initial_h, x), _rows(initial_c, x)

    def pass_over(
        x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor | None, peephole: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        p_i, p_f, p_o = (0.0, 0.0, 0.0) if peephole is None else peephole.chunk(3)
        states = []
        for step in F.linear(x, w_ih, bias):
            i, f, o, z = (step + F.linear(h, w_hh)).chunk(4, -1)
            c = gate(f + p_f * c) * c + gate(i + p_i * c) * cell(z)
            if clip is not None:
                c = c.clamp(-clip, clip)
            h = gate(o + p_o * c) * act(c)
            states.append(h)
        return (torch.stack(states) if output_sequence else h[None]), h, c

    if direction != "bidirectional":
        return pass_over(_steps(x, direction), initial_h, initial_c, weight_ih, weight_hh, bias, peephole)
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm has weight_ih_back and weight_hh_back")
    h, h_back = initial_h.chunk(2, -1)
    c, c_back = initial_c.chunk(2, -1)
    there = pass_over(x, h, c, weight_ih, weight_hh, bias, peephole)
    y, *last = pass_over(x.flip(0), h_back, c_back, weight_ih_back, weight_hh_back, bias_back, peephole_back)
    y, h, c = (torch.cat(both, -1) for both in zip(there, (y.flip(0), *last), strict=True))
    return y, h, c


@operation
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    act, h, states = _activation(activation), _rows(initial_h, x), []
    for step in F.linear(_steps(x, direction), weight_ih, bias):
        h = act(step + F.linear(h, weight_hh))
        states.append(h)
    return (torch.stack(states) if output_sequence else h[None]), h


def _steps(x: Tensor, direction: str) -> Tensor:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction is {direction!r}; it must be forward or reverse, or for lstm bidirectional")
    return x.flip(0) if direction == "reverse" else x


def _rows(state: Tensor, x: Tensor) -> Tensor:
    """An initial state with a row for each of the batch.

    coremltools checks no number of rows, and converts torch's packed sequences to a state of zeros with as many rows as there are
    time steps. Its test of them has Core ML give torch's numbers, so Core ML runs that; equal rows do not tell which it takes.
    """
    batch = x.shape[1]
    if len(state) == batch:
        return state
    if not len(state) or not torch.equal(state, state[:1].expand_as(state)):
        raise ValueError(
            f"an initial state of {len(state)} rows for a batch of {batch}: which of them Core ML takes is not known, "
            "so only equal ones are accepted"
        )
    return state[:1].expand(batch, -1)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name.lower() not in ACTIVATIONS:
        raise ValueError(f"the activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name.lower()]
