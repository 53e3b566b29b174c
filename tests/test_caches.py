"""Keys and values between calls: chunks at several offsets against one full forward pass, for every cache and interface."""

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

import milbuild
from milbuild import architectures, caches, runtime
from milbuild.caches import CacheSpec, Declared, Returned, cache
from milbuild.caches.io import InputOutputCache
from milbuild.generation.session import Session
from milbuild.program.interfaces import INTERFACES
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, psnr, reference, tokens
from tests.tiny import TEXT_MODELS

# Keys and values in a state are float16 whatever the rest is.
LIMITS = {"io": 1e-5, "state": 2e-3}

BUILDS = {
    "state": {"cache": "state"},
    "state, prefill 4": {"cache": "state", "prefill_length": 4},
    "state, prefill 1": {"cache": "state", "prefill_length": 1},
    "state, prefill of the context": {"cache": "state", "prefill_length": 29},
    "state, context 17": {"cache": "state", "context_length": 17, "prefill_length": 5},
    "state, ranged": {"cache": "state", "sequence_length": (1, 9)},
    "state, listed": {"cache": "state", "sequence_length": [1, 4, 8]},
    "state, iOS 26": {"cache": "state", "prefill_length": 4, "target": "iOS26"},
    "swift": {"cache": "state", "interface": "swift-transformers"},
    "swift, context 19": {"cache": "state", "interface": "swift-transformers", "context_length": 19},
    "io, fixed": {"cache": "io"},
    "io, fixed, prefill 4": {"cache": "io", "prefill_length": 4, "context_length": 23},
    "io, three a call": {"cache": "io", "sequence_length": 3, "context_length": 24},
    "io, fixed, iOS 15": {"cache": "io", "target": "iOS15"},
    "io, growing": {"cache": "io", "context_length": (1, 29)},
    "io, growing, prefill 4": {"cache": "io", "context_length": (1, 29), "prefill_length": 4},
    "io, growing, ranged": {"cache": "io", "context_length": (1, 29), "sequence_length": (1, 13)},
    "io, growing, ranged, iOS 15": {
        "cache": "io",
        "context_length": (1, 29),
        "sequence_length": (1, 13),
        "target": "iOS15",
    },
}
# Builds of a state and calls of several lengths are told that the Neural Engine does not plan them.
pytestmark = pytest.mark.filterwarnings("ignore:1 warning .state-flexible:milbuild.LintWarning")
PARTS = [[1] * 16, [16], [9, 1, 1, 5], [3, 13], [4, 4, 4, 4], [1, 15], [15, 1]]


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("name", BUILDS)
def test_any_parts_equal_one_forward_pass(name: str, parts: list[int]) -> None:
    session = _session(name, "float32")
    ids = tokens(16, seed=3)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]
    session.reset()
    scores = _feed(session, ids, parts)
    assert difference(scores, expected) <= LIMITS[session.plan.cache]


@pytest.mark.parametrize("name", BUILDS)
def test_float16(name: str) -> None:
    session = _session(name, "float16")
    ids = tokens(16, seed=4)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]
    session.reset()
    assert psnr(_feed(session, ids, [9, 1, 1, 5]), expected) >= 55


@pytest.mark.parametrize("name", ["state, prefill 4", "swift", "io, fixed, prefill 4", "io, growing, ranged"])
@pytest.mark.parametrize(
    "flags",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_weights": False, "tie_word_embeddings": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_flags_with_a_cache(name: str, flags: dict, precision: str) -> None:
    folder = checkpoint(**flags)
    session = Session(milbuild.build(folder, precision=precision, **BUILDS[name]))
    ids = tokens(16, seed=5)
    expected = hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]
    scores = _feed(session, ids, [9, 1, 1, 5])
    if precision == "float32":
        assert difference(scores, expected) <= LIMITS[session.plan.cache]
    else:
        assert psnr(scores, expected) >= 55


SOME = ["state, prefill 4", "state, ranged", "swift", "io, fixed, prefill 4", "io, growing, ranged"]
DECODERS = [(name, {}) for name in TEXT_MODELS if name != "gpt2" and architectures.SUPPORTED[name].decoder]
DECODERS += [(name, {"is_decoder": True}) for name in ("bert", "roberta")]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(("model_type", "flags"), DECODERS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_decoder(model_type: str, flags: dict[str, Any], name: str) -> None:
    """Up to the end of the context, so that rings run round; then float16."""
    folder = checkpoint(model_type, **flags)
    ids = tokens(29 if "swift" not in name else 28, seed=11)
    expected = hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]
    session = Session(milbuild.build(folder, precision="float32", **BUILDS[name]))
    count = min(len(ids), session.context)
    for parts in ([1] * count, [9, 1, 1, 5, count - 16], [count]):
        session.reset()
        assert difference(_feed(session, ids, parts), expected[:count]) <= LIMITS[session.plan.cache], parts
    session = Session(milbuild.build(folder, **BUILDS[name]))
    assert psnr(_feed(session, ids, [9, 1, 1, 5, count - 16]), expected[:count]) >= 55


@pytest.mark.parametrize(
    ("model_type", "flags", "shapes"),
    [
        ("mistral", {}, {"sliding_key_cache": (4, 1, 2, 8, 10)}),
        ("mistral", {"sliding_window": None}, {"key_cache": (4, 1, 2, 29, 10)}),
        ("mistral", {"sliding_window": 26}, {"key_cache": (4, 1, 2, 29, 10)}),
        ("gemma3_text", {}, {"key_cache": (1, 1, 2, 29, 10), "sliding_key_cache": (3, 1, 2, 8, 10)}),
    ],
    ids=str,
)
def test_layers_with_a_window_need_its_slots_only(model_type: str, flags: Any, shapes: Any) -> None:
    model = milbuild.build(checkpoint(model_type, **flags), cache="state", prefill_length=4)
    states = {f.name: tuple(f.type.stateType.arrayType.shape) for f in model.interface.state}
    assert {name: shape for name, shape in states.items() if "key" in name} == shapes
    assert {name.replace("key", "value"): shape for name, shape in shapes.items()}.items() <= states.items()


@pytest.mark.all
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("flag", TEXT_MODELS["gpt2"].flags)
@pytest.mark.parametrize("name", BUILDS)
def test_every_flag_with_every_cache(name: str, flag: str, precision: str) -> None:
    folder = checkpoint(**TEXT_MODELS["gpt2"].flags[flag])
    session = Session(milbuild.build(folder, precision=precision, **BUILDS[name]))
    ids = tokens(16, seed=10)
    expected = hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]
    scores = _feed(session, ids, [9, 1, 1, 5])
    if precision == "float32":
        assert difference(scores, expected) <= LIMITS[session.plan.cache]
    else:
        assert psnr(scores, expected) >= 55


@pytest.mark.parametrize("name", ["state, prefill 4", "io, fixed, prefill 4", "io, growing", "io, growing, ranged"])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 16])
def test_logits_of_the_last_token_only(name: str, count: int) -> None:
    session = Session(milbuild.build(checkpoint(), precision="float32", logits="last", **BUILDS[name]))
    ids = tokens(17, seed=6)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]
    for row, part in ((count - 1, ids[:count]), (count, ids[count : count + 1])):
        assert difference(session.feed(part.tolist())[-1:], expected[row : row + 1]) <= LIMITS[session.plan.cache]


@pytest.mark.parametrize("name", BUILDS)
def test_the_whole_context_and_no_further(name: str) -> None:
    session = _session(name, "float32")
    session.reset()
    ids = tokens(session.context, seed=7)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]
    assert difference(_feed(session, ids, [session.context]), expected) <= LIMITS[session.plan.cache]
    with pytest.raises(milbuild.Error, match="do not fit into the context"):
        session.feed([1])


@pytest.mark.parametrize("name", ["state", "swift", "io, fixed", "io, growing"])
def test_hidden_states_with_a_cache(name: str) -> None:
    folder = checkpoint("gpt2", "feature-extraction")
    session = Session(milbuild.build(folder, task="feature-extraction", precision="float32", **BUILDS[name]))
    ids = tokens(12, seed=8)
    expected = hf.forward(reference(folder, "feature-extraction"), {"input_ids": ids[None]})["last_hidden_state"][0]
    assert difference(_feed(session, ids, [7, 1, 4]), expected) <= LIMITS[session.plan.cache]


def test_prefill_takes_few_calls() -> None:
    session = Session(milbuild.build(checkpoint(), cache="state", prefill_length=4))
    session.feed(tokens(14).tolist())
    assert session.calls == {"main": 0, "prefill": 4}


def test_states_are_independent_and_shared_between_functions() -> None:
    model = milbuild.build(checkpoint(), cache="state", prefill_length=4, precision="float32")
    prefill = model.function("prefill")
    one, two = model.make_state(), prefill.make_state()
    ids = tokens(2, 5)
    for state, row in ((one, ids[:1]), (two, ids[1:])):
        prefill.predict({"input_ids": row[:, :4], "position": np.int32([0])}, state)
    for state, row in ((one, ids[:1]), (two, ids[1:])):
        scores = model.predict({"input_ids": row[:, 4:], "position": np.int32([4])}, state)["logits"]
        expected = hf.forward(reference(checkpoint()), {"input_ids": row})["logits"][:, 4:]
        assert difference(scores, expected) <= 2e-3
    keys = one.read_state("key_cache")
    assert keys.shape == (3, 1, 4, 29, 6)
    assert (keys[:, :, :, :5] != 0).any(axis=-1).all()
    assert not keys[:, :, :, 5:].any()


def test_positions_of_hf_come_from_the_mask() -> None:
    """Left padding and holes in a fixed past count for nothing, as in transformers' generate."""
    import torch

    truth = reference(checkpoint())
    model = milbuild.build(checkpoint(), cache="io", context_length=20, sequence_length=7, precision="float32")
    ids = tokens(1, 7)
    mask = np.zeros((1, 20), np.int32)
    mask[:, 15:] = 1  # two tokens of the call are padding
    zeros = {
        feature.name: np.zeros(tuple(feature.type.multiArrayType.shape), np.float32)
        for feature in model.interface.input
        if feature.name.startswith("past")
    }
    first = model.predict({"input_ids": ids, "attention_mask": mask, **zeros})
    positions = torch.tensor([[0, 0, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        expected = truth(
            torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask[:, 13:]),
            position_ids=positions,
            use_cache=False,
        ).logits.numpy()
    assert difference(first["logits"][:, 2:], expected[:, 2:]) <= 1e-5

    # The next call finds them scattered over the slots of the past.
    slots = [11, 0, 5, 7, 2]  # the oldest token first: order among the slots must be that of time
    slots = sorted(slots)
    past = {name: array.copy() for name, array in zeros.items()}
    mask = np.zeros((1, 20), np.int32)
    mask[:, slots] = mask[:, 13:] = 1
    for name in past:
        past[name][:, :, slots] = first[name.replace("past_", "present_")][:, :, 2:]
    again = tokens(1, 7, seed=1)
    second = model.predict({"input_ids": again, "attention_mask": mask, **past})["logits"]
    whole = hf.forward(truth, {"input_ids": np.concatenate([ids[:, 2:], again], axis=1)})["logits"][:, 5:]
    assert difference(second, whole) <= 1e-5


def test_a_growing_past_begins_with_one_masked_slot() -> None:
    model = milbuild.build(
        checkpoint(), cache="io", context_length=(1, 29), sequence_length=(1, 9), precision="float32"
    )
    shapes = {
        f.name: [(s.lowerBound, s.upperBound) for s in f.type.multiArrayType.shapeRange.sizeRanges]
        for f in model.interface.input
    }
    assert shapes["past_key_values_0_key"] == [(1, 1), (4, 4), (1, 28), (6, 6)]
    ids = tokens(1, 6)
    past = {name: np.zeros((1, 4, 1, 6), np.float32) for name in shapes if name.startswith("past")}
    outputs = model.predict({"input_ids": ids, "attention_mask": np.int32([[0, 1, 1, 1, 1, 1, 1]]), **past})
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids})["logits"]
    assert difference(outputs["logits"], expected) <= 1e-5
    assert outputs["present_key_values_2_value"].shape == (1, 4, 7, 6)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_calls_of_swift_transformers(precision: str) -> None:
    """LanguageModelWithStatefulKVCache: the prompt whole, then the last token of a growing sequence, zero masks throughout."""
    model = milbuild.build(checkpoint(), cache="state", interface="swift-transformers", precision=precision)
    names = {feature.name: feature.type.multiArrayType for feature in model.interface.input}
    assert list(names) == ["inputIds", "causalMask"]
    sizes = names["inputIds"].shapeRange.sizeRanges
    assert [(s.lowerBound, s.upperBound) for s in sizes] == [(1, 1), (1, 29)]
    assert [feature.name for feature in model.interface.state] == ["keyCache", "valueCache"]
    assert model.user_defined_metadata["co.huggingface.exporters.name"]
    state = model.make_state()
    sequence = tokens(9, seed=2).tolist()
    truth = reference(checkpoint())
    chosen = []
    for step in range(15):
        new = sequence if step == 0 else sequence[-1:]
        mask = np.zeros((1, 1, 1, len(sequence) + 1), np.float16)
        scores = model.predict({"inputIds": np.int32([new]), "causalMask": mask}, state)["logits"]
        assert scores.shape == (1, len(new), 61)
        expected = hf.forward(truth, {"input_ids": np.int32([sequence])})["logits"][:, -len(new) :]
        if precision == "float32":
            assert difference(scores, expected) <= 2e-3
        else:
            assert psnr(scores, expected) >= 55
        chosen.append(int(scores[0, -1].argmax()))
        sequence.append(int(expected[0, -1].argmax()))
    assert chosen == sequence[9:]


def test_a_causal_mask_of_swift_transformers_can_hide_slots() -> None:
    model = milbuild.build(checkpoint(), cache="state", interface="swift-transformers", precision="float32")
    ids = tokens(1, 6)
    mask = np.zeros((1, 1, 1, 7), np.float16)
    mask[..., 2] = -np.inf  # the second token
    scores = model.predict({"inputIds": ids, "causalMask": mask}, model.make_state())["logits"]
    expected = hf.forward(
        reference(checkpoint()), {"input_ids": ids, "attention_mask": np.int32([[1, 0, 1, 1, 1, 1]])}
    )["logits"]
    assert difference(scores[:, 2:], expected[:, 2:]) <= 2e-3


_sessions: dict[tuple[str, str], Session] = {}


def _session(name: str, precision: str) -> Session:
    if (name, precision) not in _sessions:
        _sessions[name, precision] = Session(milbuild.build(checkpoint(), precision=precision, **BUILDS[name]))
    return _sessions[name, precision]


def _feed(session: Session, ids: np.ndarray, parts: list[int]) -> np.ndarray:
    rows, at = [], 0
    for count in parts:
        rows.append(session.feed(ids[at : at + count].tolist()))
        at += count
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ["state", "state, ranged", "swift", "io, fixed", "io, growing, ranged"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma3_text"])
def test_every_module_output_at_every_step(model_type: str, name: str) -> None:
    """Each module's output, call by call, is the slice of the whole pass that the call's tokens stand for."""
    model = milbuild.build(checkpoint(model_type), precision="float32", **BUILDS[name])
    ids = tokens(1, 12, seed=9)
    truth = reference(checkpoint(model_type))
    with hf.modules(truth) as expected:
        hf.forward(truth, {"input_ids": ids})
    engine = runtime.load(model.package_path)
    names = hf.module_outputs(expected, [op.name for op in engine.function.operations if op.type != "const"])
    engine.keep_only(names.values())
    session = Session(model)
    session.models["main"].use(engine)
    session.reset()
    compared = 0
    for part in (ids[0, :5], ids[0, 5:6], ids[0, 6:]):
        for token in [part] if session.plan.sequence_length != 1 else part[:, None]:
            at = session.length
            session.feed(token.tolist())
            if session.length - at != len(token):
                continue
            for module, operation in names.items():
                value, whole = engine.kept[operation], expected[module]
                if value.ndim == 3 and value.shape[1:] == (len(token), whole.shape[-1]):
                    error = np.abs(value - whole[:, at : at + len(token)]).max() / np.ptp(whole)
                    assert error <= LIMITS[session.plan.cache], (module, at)
                    compared += 1
    assert compared >= 3 * 30


def _joined() -> types.SimpleNamespace:
    """A kind of cache that nobody has: keys and values of all layers in one input, as they are in one output."""
    names = ("everything_before", "everything_new")

    def declare(spec: CacheSpec) -> list[Declared]:
        (layers, heads, width, _), slots = spec.geometry, spec.context - spec.tokens.ends[1]
        shape = (1, 2 * layers * heads, slots, width)
        mask = Declared(spec.mask, "int32", (1, spec.context), "1 for what is there.")
        return [mask, Declared(names[0], spec.dtype, shape, "Keys and values of earlier tokens.")]

    def make_cache(spec: CacheSpec, inputs: Any, tokens: Any) -> InputOutputCache:
        parts = mb.split(x=inputs[names[0]], num_splits=2 * spec.geometry.layers, axis=1)
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        return InputOutputCache(pairs, inputs[spec.mask], tokens, spec.longest, False)

    def outputs(spec: CacheSpec, kept: InputOutputCache) -> list[Returned]:
        new = mb.concat(values=[each for pair in kept.present for each in pair], axis=1)
        return [Returned(names[1], new, "Keys and values of the tokens.")]

    class Host(cache.Host):
        def inputs(self, shapes: Any, length: int, size: int, count: int) -> dict[str, np.ndarray]:
            batch, features, slots, width = shapes[names[0]]
            if not length:
                self.before = np.zeros((batch, features, self.context, width), np.float32)
            mask = np.zeros((1, self.context), np.int32)
            mask[:, :length] = mask[:, slots : slots + count] = 1
            return {names[0]: self.before[:, :, :slots], self.mask: mask}

        def keep(self, shapes: Any, outputs: Any, length: int, size: int, count: int) -> None:
            self.before[:, :, length : length + count] = outputs[names[1]][:, :, :count]

    return types.SimpleNamespace(declare=declare, make_cache=make_cache, outputs=outputs, Host=Host)


def test_a_new_kind_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(caches.KINDS, "joined", _joined())
    monkeypatch.setitem(INTERFACES, "hf", dataclasses.replace(INTERFACES["hf"], caches={"io": "joined"}))
    ids = tokens(16, seed=12)
    expected = hf.forward(reference(checkpoint()), {"input_ids": ids[None]})["logits"][0]
    session = Session(milbuild.build(checkpoint(), cache="io", precision="float32", prefill_length=4))
    for parts in PARTS:
        session.reset()
        assert difference(_feed(session, ids, parts), expected) <= 1e-5
    assert session.calls["prefill"]
