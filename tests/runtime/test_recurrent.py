"""Recurrent layers, against torch's where it has them, and against plain loops written from the formulas of the documentation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from milbuild.errors import Error
from milbuild.runtime import recurrent
from tests.runtime.harness import Fault, arrays, close, covers, run

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")

FUNCTIONS = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 0.5 * (1 + np.tanh(x / 2)),  # the same, and exp of a large number overflows
    "hard_sigmoid": lambda x: np.minimum(1, np.maximum(0, 0.2 * x + 0.5)),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}
names = st.sampled_from(sorted(FUNCTIONS))
opsets = st.sampled_from([5, 7, 8, 9])


def drawn(data: Any, *shape: int) -> np.ndarray:
    return data.draw(arrays(shape, low=-1.5, high=1.5))


def sizes(data: Any) -> tuple[int, int, int, int]:
    """Time steps, sequences side by side, width of the input, width of the state."""
    return data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))


def in_order(steps: list[np.ndarray], output_sequence: bool) -> np.ndarray:
    return np.stack(steps if output_sequence else steps[-1:])


def bounded(*expected: Any) -> tuple[Any, ...]:
    """Gates that are no gates (linear, relu) let a state grow with every step; what leaves float32 is no comparison."""
    assume(all(np.abs(wanted).max(initial=0) < 1e6 for wanted in expected))
    return expected


def matching(results: list[np.ndarray], expected: tuple[Any, ...]) -> None:
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        close(result, np.float32(wanted), 1e-4)


@covers("rnn")
@given(data=st.data())
def test_rnn(data: Any) -> None:
    s, b, n, h = sizes(data)
    x, state = drawn(data, s, b, n), drawn(data, b, h)
    weights = {"weight_ih": drawn(data, h, n), "weight_hh": drawn(data, h, h)}
    if data.draw(st.booleans()):
        weights["bias"] = drawn(data, h)
    chosen = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "direction": st.sampled_from(["forward", "reverse"]),
                "output_sequence": st.booleans(),
                "activation": names,
            },
        )
    )
    act = FUNCTIONS[chosen.get("activation", "tanh")]
    now, steps = state.astype(np.float64), []
    for t in reversed(range(s)) if chosen.get("direction") == "reverse" else range(s):
        now = act(x[t] @ weights["weight_ih"].T + now @ weights["weight_hh"].T + weights.get("bias", 0))
        steps.append(now)
    results = run("rnn", {"x": x, "initial_h": state}, opset=data.draw(opsets), **weights, **chosen)
    matching(results, bounded(in_order(steps, chosen.get("output_sequence", False)), now))


@covers("gru")
@given(data=st.data())
def test_gru(data: Any) -> None:
    """o_t = activation(W_io x_t + b_io + W_ho (r_t * h_t-1)): the reset gate works on the state, before the product."""
    s, b, n, h = sizes(data)
    x, state = drawn(data, s, b, n), drawn(data, b, h)
    weights = {"weight_ih": drawn(data, 3 * h, n), "weight_hh": drawn(data, 3 * h, h)}
    opset = data.draw(opsets)
    if data.draw(st.booleans()):
        weights["bias"] = drawn(data, 3 * h)
    if opset >= 8 and data.draw(st.booleans()):
        weights["input_bias"] = drawn(data, 3 * h)
    chosen = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "direction": st.sampled_from(["forward", "reverse"]),
                "output_sequence": st.booleans(),
                "recurrent_activation": names,
                "activation": names,
                **({"reset_after": st.booleans()} if opset >= 8 else {}),
            },
        )
    )
    gate, act = FUNCTIONS[chosen.get("recurrent_activation", "sigmoid")], FUNCTIONS[chosen.get("activation", "tanh")]
    w_ir, w_io, w_iz = np.split(weights["weight_ih"].astype(np.float64), 3)
    w_hr, w_ho, w_hz = np.split(weights["weight_hh"].astype(np.float64), 3)
    b_hr, b_ho, b_hz = np.split(weights.get("bias", np.zeros(3 * h)), 3)
    b_ir, b_io, b_iz = np.split(weights.get("input_bias", np.zeros(3 * h)), 3)
    now, steps = state.astype(np.float64), []
    for t in reversed(range(s)) if chosen.get("direction") == "reverse" else range(s):
        rows = []
        for i in range(b):  # one sequence after the other
            r = gate(w_ir @ x[t, i] + b_ir + w_hr @ now[i] + b_hr)
            z = gate(w_iz @ x[t, i] + b_iz + w_hz @ now[i] + b_hz)
            hidden = r * (w_ho @ now[i] + b_ho) if chosen.get("reset_after") else w_ho @ (r * now[i]) + b_ho
            o = act(w_io @ x[t, i] + b_io + hidden)
            rows.append((1 - z) * o + z * now[i])
        now = np.stack(rows)
        steps.append(now)
    results = run("gru", {"x": x, "initial_h": state}, opset=opset, **weights, **chosen)
    matching(results, bounded(in_order(steps, chosen.get("output_sequence", False)), now))


@covers("gru")
def test_gru_of_torch() -> None:
    """torch resets after the product, and has two biases."""
    torch.manual_seed(0)
    layer = torch.nn.GRU(5, 4)
    x, state = torch.randn(6, 2, 5), torch.randn(1, 2, 4)
    weights = {
        name: np.concatenate([np.split(getattr(layer, theirs).detach().numpy(), 3)[i] for i in (0, 2, 1)])
        for name, theirs in {
            "weight_ih": "weight_ih_l0",
            "weight_hh": "weight_hh_l0",
            "bias": "bias_hh_l0",
            "input_bias": "bias_ih_l0",
        }.items()
    }
    inputs = {"x": x.numpy(), "initial_h": state[0].numpy()}
    expected, last = layer(x, state)
    results = run("gru", inputs, reset_after=True, output_sequence=True, **weights)
    matching(results, (expected.detach().numpy(), last[0].detach().numpy()))


def lstm_loop(
    x: np.ndarray, state: np.ndarray, cell: np.ndarray, weights: dict[str, np.ndarray], how: dict[str, Any]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """One direction, over the steps of x as they come."""
    gate = FUNCTIONS[how.get("recurrent_activation", "sigmoid")]
    inner, act = FUNCTIONS[how.get("cell_activation", "tanh")], FUNCTIONS[how.get("activation", "tanh")]
    h = weights["weight_hh"].shape[1]
    (w_ii, w_if, w_io, w_iz), (w_hi, w_hf, w_ho, w_hz) = (
        np.split(weights[name].astype(np.float64), 4) for name in ("weight_ih", "weight_hh")
    )
    b_i, b_f, b_o, b_z = np.split(weights.get("bias", np.zeros(4 * h)), 4)
    p_i, p_f, p_o = np.split(weights.get("peephole", np.zeros(3 * h)), 3)
    steps = []
    for at in x:
        new_state, new_cell = np.empty_like(state, np.float64), np.empty_like(cell, np.float64)
        for row in range(len(at)):
            v, s, c = at[row], state[row], cell[row]
            i = gate(w_ii @ v + w_hi @ s + b_i + p_i * c)
            f = gate(w_if @ v + w_hf @ s + b_f + p_f * c)
            z = inner(w_iz @ v + w_hz @ s + b_z)
            c = f * c + i * z
            if "clip" in how:
                c = np.clip(c, -how["clip"], how["clip"])
            o = gate(w_io @ v + w_ho @ s + b_o + p_o * c)
            new_state[row], new_cell[row] = o * act(c), c
        state, cell = new_state, new_cell
        steps.append(state)
    return steps, state, cell


def lstm_weights(data: Any, n: int, h: int) -> dict[str, np.ndarray]:
    weights = {"weight_ih": drawn(data, 4 * h, n), "weight_hh": drawn(data, 4 * h, h)}
    if data.draw(st.booleans()):
        weights["bias"] = drawn(data, 4 * h)
    if data.draw(st.booleans()):
        weights["peephole"] = drawn(data, 3 * h)
    return weights


settings = st.fixed_dictionaries(
    {},
    optional={
        "output_sequence": st.booleans(),
        "recurrent_activation": names,
        "cell_activation": names,
        "activation": names,
        "clip": st.sampled_from([np.float32(0.25), np.float32(1)]),
    },
)


@covers("lstm")
@given(data=st.data())
def test_lstm(data: Any) -> None:
    s, b, n, h = sizes(data)
    x, state, cell = drawn(data, s, b, n), drawn(data, b, h), drawn(data, b, h)
    weights, how = lstm_weights(data, n, h), data.draw(settings)
    direction = data.draw(st.sampled_from(["forward", "reverse"]))
    steps, *last = lstm_loop(x[::-1] if direction == "reverse" else x, state, cell, weights, how)
    inputs = {"x": x, "initial_h": state, "initial_c": cell}
    spelled = how if direction == "forward" else how | {"direction": direction}
    results = run("lstm", inputs, opset=data.draw(opsets), **weights, **spelled)
    matching(results, bounded(in_order(steps, how.get("output_sequence", False)), *last))


@covers("lstm")
@given(data=st.data())
def test_lstm_in_both_directions(data: Any) -> None:
    s, b, n, h = sizes(data)
    x, state, cell = drawn(data, s, b, n), drawn(data, b, 2 * h), drawn(data, b, 2 * h)
    there, back, how = lstm_weights(data, n, h), lstm_weights(data, n, h), data.draw(settings)
    steps, *last = lstm_loop(x, state[:, :h], cell[:, :h], there, how)
    steps_back, *last_back = lstm_loop(x[::-1], state[:, h:], cell[:, h:], back, how)
    if how.get("output_sequence"):
        y = np.concatenate([np.stack(steps), np.stack(steps_back)[::-1]], 2)
    else:
        y = np.concatenate([steps[-1], steps_back[-1]], 1)[None]
    both = [np.concatenate(pair, 1) for pair in zip(last, last_back, strict=True)]
    results = run(
        "lstm",
        {"x": x, "initial_h": state, "initial_c": cell},
        opset=data.draw(opsets),
        direction="bidirectional",
        **there,
        **{f"{name}_back": value for name, value in back.items()},
        **how,
    )
    matching(results, (y, *both))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_of_torch(bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.LSTM(5, 4, bidirectional=bidirectional)
    x, state, cell = (torch.randn(*shape) for shape in [(6, 2, 5), *[(1 + bidirectional, 2, 4)] * 2])

    def weight(name: str) -> np.ndarray:
        i, f, z, o = np.split(getattr(layer, name).detach().numpy(), 4)
        return np.concatenate([i, f, o, z])

    def side_by_side(value: torch.Tensor) -> np.ndarray:
        return np.concatenate(list(value.detach().numpy()), 1)

    weights = {}
    for ours, theirs in {"": "", "_back": "_reverse"}.items() if bidirectional else {"": ""}.items():
        weights["weight_ih" + ours] = weight(f"weight_ih_l0{theirs}")
        weights["weight_hh" + ours] = weight(f"weight_hh_l0{theirs}")
        weights["bias" + ours] = weight(f"bias_ih_l0{theirs}") + weight(f"bias_hh_l0{theirs}")
    inputs = {"x": x.numpy(), "initial_h": side_by_side(state), "initial_c": side_by_side(cell)}
    expected, (h, c) = layer(x, (state, cell))
    direction = "bidirectional" if bidirectional else "forward"
    results = run("lstm", inputs, direction=direction, output_sequence=True, **weights)
    matching(results, (expected.detach().numpy(), side_by_side(h), side_by_side(c)))


def test_what_cannot_be_is_said() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="activation is 'swish'"):
        recurrent.rnn(one[None], one, one, one, activation="swish")
    with pytest.raises(ValueError, match="direction is 'bidirectional'"):
        recurrent.rnn(one[None], one, one, one, direction="bidirectional")
    four, two = torch.ones(4, 1), torch.ones(1, 2)
    with pytest.raises(ValueError, match="weight_ih_back"):
        recurrent.lstm(one[None], two, two, four, four, direction="bidirectional")


@covers("rnn", "gru", "lstm")
def test_states_of_other_rows_than_the_batch(operation: str) -> None:
    """As coremltools converts a packed sequence: ten rows of zeros for a batch of three."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    gates = {"rnn": 1, "gru": 3, "lstm": 4}[operation]
    x, row, other = normal(10, 3, 5), normal(1, 2), normal(1, 2)
    weights = {"weight_ih": normal(gates * 2, 5), "weight_hh": normal(gates * 2, 2)}

    def results(state: np.ndarray, cell: np.ndarray) -> Any:
        inputs = {"x": x, "initial_h": state} | ({"initial_c": cell} if operation == "lstm" else {})
        return run(operation, inputs, output_sequence=True, **weights)

    expected = results(np.repeat(row, 3, 0), np.repeat(other, 3, 0))
    for rows in (10, 2, 1):
        matching(results(np.repeat(row, rows, 0), np.repeat(other, rows, 0)), expected)
    unequal = np.repeat(row, 10, 0) + np.eye(10, 2, dtype=np.float32)
    with pytest.raises(Error, match="an initial state of 10 rows for a batch of 3"):
        results(unequal, unequal)
    if operation == "lstm":
        with pytest.raises(Error, match="an initial state of 10 rows for a batch of 3"):
            results(np.repeat(row, 3, 0), unequal)


def test_names_of_activations() -> None:
    """The documentation of rnn writes sigmoid_hard, that of lstm hard_sigmoid; large letters are allowed."""
    x = torch.linspace(-4, 4, 9).reshape(1, 9, 1)
    one, zero = torch.ones(1, 1), torch.zeros(9, 1)
    first, second = (recurrent.rnn(x, zero, one, one, activation=name)[0] for name in ("sigmoid_hard", "HARD_SIGMOID"))
    assert torch.equal(first, second)
    close(first.numpy(), np.clip(0.2 * x.numpy() + 0.5, 0, 1))


FAULTS: dict[str, list[Fault]] = {
    "rnn": [
        ("h = act(step + F.linear(h, weight_hh))", "h = act(step)"),
        ("_steps(x, direction)", "x"),
        ("F.linear(h, weight_hh)", "F.linear(h, weight_hh.T)"),
        ("else h[None]", "else states[0][None]"),
        ("torch.stack(states)", "torch.stack(states[::-1])"),
    ],
    "gru": [
        ("weight_hh.chunk(3)[1]", "weight_hh.chunk(3)[2]"),
        ("bias.chunk(3)[1]", "bias.chunk(3)[0]"),
        ("r_in, o_in, z_in =", "z_in, o_in, r_in ="),
        ("F.linear(r * h, weight_o, bias_o)", "r * o_h"),
        ("h = (1 - z) * o + z * h", "h = z * o + (1 - z) * h"),
        ("F.linear(h, weight_hh, bias)", "F.linear(initial_h, weight_hh, bias)"),
        ("_steps(x, direction)", "x"),
        ("weight_ih, input_bias", "weight_ih, None"),
        ("_rows(initial_h, x)", "initial_h"),
        ("(0.2 * x + 0.5)", "(x / 6 + 0.5)"),
    ],
    "lstm": [
        ("i, f, o, z =", "i, f, z, o ="),
        ("gate(i + p_i * c)", "gate(i + p_f * c)"),
        ("gate(f + p_f * c)", "gate(f + p_i * c)"),
        ("gate(o + p_o * c)", "gate(o)"),
        ("cell(z)", "act(z)"),
        ("* act(c)", "* cell(c)"),
        ("c = c.clamp(-clip, clip)", "z = z.clamp(-clip, clip)"),
        ("c.clamp(-clip, clip)", "c.clamp(max=clip)"),
        ("x.flip(0), h_back", "x, h_back"),
        ("(y.flip(0), *last)", "(y, *last)"),
        ("h, h_back =", "h_back, h ="),
        ("c, c_back =", "c_back, c ="),
        ("bias_back, peephole_back)", "bias, peephole_back)"),
        ("_steps(x, direction)", "x"),
        ("_rows(initial_h, x),", "initial_h,"),
        ("_rows(initial_c, x)", "initial_c"),
    ],
}
