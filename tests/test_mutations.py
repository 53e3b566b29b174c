"""The parity tests can fail: each of these faults, put into a layer, a cache or a family, must break them.

A fault that passes would mean that the tests do not look at what it breaks.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from safetensors.torch import load_file, save_file

import milbuild
from milbuild import caches
from milbuild.architectures import decoder, gpt2, t5, whisper
from milbuild.generation.session import Session
from milbuild.heads import text
from milbuild.layers import activation, attention, linear, normalization, relative
from milbuild.layers.layout import PLAIN, key
from milbuild.lowering import passes
from milbuild.validation import reference as hf
from milbuild.weights.tensor import Tensor
from tests.conftest import checkpoint, difference, reference, tokens
from tests.test_answers import TASKS, play, sizes
from tests.test_answers import given as encoder_inputs

Patch = Callable[[pytest.MonkeyPatch], None]


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Patch:
    return lambda patch: patch.setattr(owner, name, wrap(getattr(owner, name)))


def _layer(function: Any, wrap: Callable[[Any], Any]) -> Patch:
    """Another body of a layer function, for every model class that calls it."""
    name = key(function)
    return lambda patch: patch.setitem(PLAIN.functions, name, wrap(PLAIN.functions[name]))


def _mask_shows_the_next(original: Any) -> Any:
    return lambda query, key, w, *rest: original(query + 1, key, w, *rest)


def _mask_hides_itself(original: Any) -> Any:
    return lambda query, key, w, *rest: original(np.maximum(query - 1, 0), key, w, *rest)


def _no_mask(original: Any) -> Any:
    return lambda query, key, w, *rest: None


def _window(original: Any) -> Any:
    """Only the last three keys are visible: a sliding window where there is none."""

    def windowed(query: Any, key: Any, w: Any, *rest: Any) -> Any:
        visible = (key[None] <= query[:, None]) & (key[None] > query[:, None] - 3)
        return mb.const(val=np.where(visible, 0, -1e4).astype(w.dtype))

    return windowed


def _other_epsilon(original: Any) -> Any:
    return lambda x, w, epsilon: original(x, w, epsilon * 10)


def _no_transposition(original: Any) -> Any:
    # Square matrices only: others would not fit.
    return property(
        lambda self: Tensor(self.name, self.key, self.data) if self.shape[0] == self.shape[1] else original.fget(self)
    )


def _no_bias(original: Any) -> Any:
    def wrong(x: Any, weight: Tensor, w: Any, width: int, bias: bool) -> Any:
        if bias:
            w.tensor("bias", width)  # it counts as read: not the accounting, the numbers must tell
        return original(x, weight, w, width, False)

    return wrong


def _exact_gelu(table: Any) -> Any:
    return table | {"gelu_new": table["gelu"]}


def _head_of_positions(original: Any) -> Any:
    """The head tied to the wrong table."""

    def wrong(x: Any, w: Any, tensor: Tensor) -> Any:
        return original(x, w, Tensor(tensor.name, tensor.key + "?", tensor.data[::-1]))

    return wrong


def _positions_from_one(original: Any) -> Any:
    return lambda tokens, name: original(tokens, name) + 1


def _always_fused_scale(original: Any) -> Any:
    return lambda self, i: super(gpt2.GPT2, self).scale(i)


def _no_residual(original: Any) -> Any:
    return lambda x, y, w: y if w.path.endswith(".residual") else original(x, y, w)


def _keys_are_values(original: Any) -> Any:
    def wrong(self: Any, layer: int, k: Any, v: Any) -> Any:
        keys, _ = original(self, layer, k, v)
        return keys, keys

    return wrong


def _writes_one_slot_late(original: Any) -> Any:
    def wrong(self: Any, row: int, name: str, new: Any, begin: Any, stop: Any, end: Any) -> Any:
        late, later = (mb.add(x=place, y=np.int32(1)) for place in (begin, stop))
        return original(self, row, name, new, late, later, end)

    return wrong


def _writes_first_layer_only(original: Any) -> Any:
    return lambda self, row, *rest: original(self, 0, *rest)


def _ring_is_short(original: Any) -> Any:
    return lambda window, calls, context: original(window - 1, calls, context)


def _ring_never_turns(original: Any) -> Any:
    return lambda self: self._numbers()


def _present_is_past(original: Any) -> Any:
    def wrong(self: Any, layer: int, k: Any, v: Any) -> Any:
        whole = original(self, layer, k, v)
        self.present[-1] = (v, k)
        return whole

    return wrong


def _empty_slots_are_seen(original: Any) -> Any:
    return lambda positions, mask, name: positions


def _first_token(original: Any) -> Any:
    return lambda input_ids, pad, steps, name: mb.mul(x=original(input_ids, pad, steps, name), y=np.int32(0))


FORWARD = {
    "mask shows the next token": _replace(caches.cache, "causal_mask", _mask_shows_the_next),
    "mask hides the token itself": _replace(caches.cache, "causal_mask", _mask_hides_itself),
    "no mask": _replace(caches.cache, "causal_mask", _no_mask),
    "a window": _replace(caches.cache, "causal_mask", _window),
    "epsilon": _layer(normalization.layer_norm, _other_epsilon),
    "square matrices not transposed": _replace(Tensor, "T", _no_transposition),
    "no biases": _replace(linear, "_linear", _no_bias),
    "exact GELU for tanh": lambda patch: patch.setattr(activation, "ACTIVATIONS", _exact_gelu(activation.ACTIVATIONS)),
    "head tied to another table": _layer(linear.linear_from, _head_of_positions),
    "positions count from 1": _replace(caches.none, "count", _positions_from_one),
    "no residual": _replace(decoder, "add", _no_residual),
}
CACHED = {
    "state: writes one slot late": ("state", _replace(caches.state_tensor.StateTensor, "write", _writes_one_slot_late)),
    "state: every layer writes the first's slots": (
        "state",
        _replace(caches.state_tensor.StateTensor, "write", _writes_first_layer_only),
    ),
    "state: values are keys": ("state", _replace(caches.state.StateCache, "update", _keys_are_values)),
    "io: values are keys": ("io", _replace(caches.io.InputOutputCache, "update", _keys_are_values)),
    "io: keys and values swapped on the way out": (
        "io",
        _replace(caches.io.InputOutputCache, "update", _present_is_past),
    ),
    "io: empty slots are seen": ("io", _replace(caches.io, "hide", _empty_slots_are_seen)),
}


def _error(folder: Any) -> float:
    inputs = {"input_ids": tokens(3, 11)}
    model = milbuild.build(folder, sequence_length=11, batch_size=3, precision="float32")
    return difference(model.predict(inputs)["logits"], hf.forward(reference(folder), inputs)["logits"])


@pytest.mark.parametrize("fault", FORWARD)
def test_a_fault_in_the_graph_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint()
    assert _error(folder) <= 1e-5
    FORWARD[fault](monkeypatch)
    assert _error(folder) > 1e-5


@pytest.mark.parametrize("flags", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}], ids=str)
def test_a_wrong_scale_is_seen(flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    _replace(gpt2.GPT2, "scale", _always_fused_scale)(monkeypatch)
    assert _error(checkpoint(**flags)) > 1e-5


@pytest.mark.parametrize("fault", CACHED)
def test_a_fault_in_a_cache_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, break_it = CACHED[fault]
    ids = tokens(12)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]

    def error() -> float:
        session = Session(milbuild.build(checkpoint(), cache=cache, context_length=20, precision="float32"))
        return difference(np.concatenate([session.feed(part.tolist()) for part in (ids[:5], ids[5:])]), expected)

    limit = 2e-3 if cache == "state" else 1e-5
    assert error() <= limit
    break_it(monkeypatch)
    assert error() > limit


def _buckets_of_the_other_side(original: Any) -> Any:
    return lambda self, distance: original(self, -distance)


def _layers_in_reverse(original: Any) -> Any:
    def wrong(keys: Any, values: Any, layers: int, mask: Any) -> Any:
        cross = original(keys, values, layers, mask)
        return cross._replace(keys=cross.keys[::-1])

    return wrong


def _encoder_padding_is_seen(original: Any) -> Any:
    return lambda mask, w: None if w.path.endswith("cross") else original(mask, w)


# Model type, and what is broken: in the halves of an encoder-decoder, or between them.
HALVES: dict[str, tuple[str, Patch]] = {
    "t5: distances of the other side": ("t5", _replace(relative.Distances, "bucket", _buckets_of_the_other_side)),
    "t5: the encoder's buckets as the decoder's": (
        "t5",
        _replace(t5.T5, "distances", lambda original: lambda self, w, both_ways: original(self, w, False)),
    ),
    "t5: scores are scaled": (
        "t5",
        _layer(attention.attention, lambda original: lambda q, k, v, m, scale, w: original(q, k, v, m, 10**-0.5, w)),
    ),
    "t5: padding of the encoder is seen": ("t5", _layer(attention.padding_mask, _encoder_padding_is_seen)),
    "t5: cross-attention of other layers": ("t5", _replace(caches.Cross, "of", _layers_in_reverse)),
    "bart: padding of the encoder is seen": ("bart", _layer(attention.padding_mask, _encoder_padding_is_seen)),
    "bart: cross-attention of other layers": ("bart", _replace(caches.Cross, "of", _layers_in_reverse)),
    "bart: positions from the table's first row": ("bart", _replace(caches.none, "count", _positions_from_one)),
    "bart: epsilon": ("bart", _layer(normalization.layer_norm, _other_epsilon)),
    "bart: no bias of the scores": (
        "bart",
        _layer(linear.linear_from, lambda original: lambda x, w, weight, bias=None: original(x, w, weight)),
    ),
    "whisper: tanh GELU in the stem": (
        "whisper",
        _replace(whisper, "activation", lambda original: lambda x, name, w: original(x, "gelu_new", w)),
    ),
    "whisper: no norm at the end": (
        "whisper",
        _replace(whisper.Whisper, "end", lambda original: lambda self, x, w: (original(self, x, w), x)[1]),
    ),
    "whisper: cross-attention of other layers": ("whisper", _replace(caches.Cross, "of", _layers_in_reverse)),
}


@pytest.mark.parametrize("fault", HALVES)
def test_a_fault_between_encoder_and_decoder_is_seen(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, break_it = HALVES[fault]
    folder = checkpoint(model_type, TASKS[model_type])
    if fault == "bart: no bias of the scores":
        folder = shutil.copytree(folder, tmp_path / "bart")
        # a buffer, which is zero at the beginning and not perturbed
        tensors = load_file(folder / "model.safetensors")
        tensors["final_logits_bias"] = torch.linspace(-1, 1, 61)[None]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    inputs = encoder_inputs(model_type, 1, 7, answer=7)
    expected = hf.forward(reference(folder, TASKS[model_type]), inputs)["logits"]

    def error() -> float:
        model = milbuild.build(folder, context_length=7, precision="float32", **sizes(model_type))
        return difference(play(model, inputs, [7]), expected)

    assert error() <= 1e-5
    break_it(monkeypatch)
    assert error() > 1e-5


@pytest.mark.parametrize(
    "break_it",
    [
        _replace(caches.state, "slots_needed", _ring_is_short),
        _replace(caches.ring.Ring, "positions", _ring_never_turns),
    ],
    ids=["one slot too few", "slots keep their first positions"],
)
def test_a_fault_in_a_ring_is_seen(break_it: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, folder = tokens(29), checkpoint("mistral")
    expected = hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]

    def error() -> float:
        session = Session(milbuild.build(folder, cache="state", prefill_length=4, precision="float32"))
        return difference(session.feed(ids.tolist()), expected)

    assert error() <= 2e-3
    break_it(monkeypatch)
    assert error() > 2e-3


def test_pooling_the_wrong_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint("gpt2", "text-classification")
    inputs = {"input_ids": tokens(3, 11)}
    inputs["input_ids"][1, 6:] = 5
    _replace(text, "_last_of", _first_token)(monkeypatch)
    model = milbuild.build(folder, sequence_length=11, batch_size=3, precision="float32", postprocess=False)
    expected = hf.forward(reference(folder, "text-classification"), inputs)["logits"]
    assert difference(model.predict(inputs)["logits"], expected) > 1e-5


def test_without_its_passes_a_program_carries_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    def size() -> int:
        return milbuild.build(checkpoint(), sequence_length=11).weight_bytes

    lean = size()
    monkeypatch.setattr(passes, "PASSES", ())
    assert size() > lean


def test_a_normalization_with_a_vanishing_epsilon_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 an epsilon of 1e-12 is 0: a constant row would be divided by zero."""
    with milbuild_function() as x:
        w = _FakeCursor()
        safe = normalization.layer_norm(x, w, 1e-12)
        assert safe.op.epsilon.val > 0
        monkeypatch.setattr(normalization, "SMALLEST_EPSILON", 0.0)
        assert normalization.layer_norm(x, w, 1e-12).op.epsilon.val == 0


def milbuild_function() -> Any:
    import contextlib

    from coremltools.converters.mil.mil import Function, types

    @contextlib.contextmanager
    def opened() -> Any:
        with Function({"x": mb.placeholder((1, 4), types.fp16)}, opset_version=ct.target.iOS18) as function:
            yield function.inputs["x"]

    return opened()


class _FakeCursor:
    name, dtype = "norm", np.dtype(np.float16)

    def tensor(self, name: str, *shape: int) -> Tensor:
        return Tensor(name, name, np.ones(shape, np.float32))
