"""One package at many lengths: whatever transformers works out of a sequence's length, its past or its size, at 1, 2, half,
trained, trained + 1 and the longest tokens, each against a model that has seen nothing before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import milbuild
from milbuild import architectures
from milbuild.architectures.decoder import Decoder
from milbuild.generation.session import Session
from milbuild.layers import rope
from milbuild.layers.rope import TYPES
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, inputs_of, psnr, tokens
from tests.tiny import AUDIO_MODELS, TABLE, TEXT_MODELS

TRAINED = 13
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4], "long_factor": [2.0, 2.7, 3.1, 4.3, 5.4]}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1000.0, **more}


DYNAMIC = _rope("dynamic", factor=3.0)
LONGROPE = _rope("longrope", factor=3.0, original_max_position_embeddings=TRAINED, **FACTORS)
ROPES = {
    "default": _rope("default"),
    "linear": _rope("linear", factor=2.5),
    "dynamic": DYNAMIC,
    "yarn": _rope("yarn", factor=3.0, original_max_position_embeddings=TRAINED),
    "longrope": LONGROPE,
    "longrope, factor given": LONGROPE | {"attention_factor": 0.8},
    "llama3": _rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=TRAINED
    ),
    "proportional": _rope("proportional", partial_rotary_factor=0.6, factor=2.0),
}
# Their angles change with the length of the call.
CHANGING = ("dynamic", "longrope", "longrope, factor given")
ROPED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gpt_neox")
GEMMA3 = {
    "full dynamic": {"full_attention": DYNAMIC, "sliding_attention": _rope("default")},
    "sliding dynamic": {"full_attention": _rope("linear", factor=2.0), "sliding_attention": DYNAMIC},
    "both": {"full_attention": LONGROPE, "sliding_attention": DYNAMIC},
}


def flags(model_type: str, name: str) -> dict[str, Any]:
    """Fields of a configuration: a rope of type dynamic stretches the trained context, of the others it is within the whole."""
    if model_type == "gemma3_text":
        return {"max_position_embeddings": TRAINED, "rope_parameters": GEMMA3[name]}
    parameters, wide = dict(ROPES[name]), TABLE[model_type].config.get("head_dim") is not None
    pairs = 5 if wide else 3
    if model_type == "gpt_neox":  # 4 features of 6
        parameters, pairs = {"partial_rotary_factor": 0.7} | parameters, 2
    for factors in FACTORS.keys() & parameters.keys():
        parameters[factors] = parameters[factors][:pairs]
    trained = TRAINED if name == "dynamic" else 3 * TRAINED
    return {"max_position_embeddings": trained, "rope_parameters": parameters}


def lengths(longest: int, trained: int) -> list[int]:
    return sorted({n for n in (1, 2, trained // 2, trained, trained + 1, longest) if 0 < n <= longest})


def at_every_length(folder: Path, task: str, inputs: dict[int, dict[str, np.ndarray]], **options: Any) -> None:
    """The longest first and the shortest again at the end: a package does not remember what it was called with. Errors are
    measured over the range of all calls together, since one of a single token may give a single number."""
    model = milbuild.build(folder, task=task, postprocess=False, **options)
    half = options.get("precision") == "float16"
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for count in [*sorted(inputs, reverse=True), min(inputs), max(inputs)]:
        expected = hf.forward(hf.load(folder, task), inputs[count])
        for name, value in model.predict(dict(inputs[count])).items():
            truth = expected[name]
            assert value.shape == truth.shape
            mask = inputs[count].get("attention_mask")
            if mask is not None and mask.shape == truth.shape[:2]:
                # A padded token whose window holds padding only sees nothing, where every implementation differs.
                value, truth = value[mask == 1], truth[mask == 1]
            found.setdefault(name, []).append((count, value.reshape(-1), truth.reshape(-1)))
    for name, calls in found.items():
        truths = np.concatenate([truth for _, _, truth in calls])
        assert np.ptp(truths) > 0.05
        if half:
            assert psnr(np.concatenate([value for _, value, _ in calls]), truths) >= 55, name
            continue
        for count, value, truth in calls:
            assert np.abs(value - truth).max() <= 1e-5 * np.ptp(truths), (count, name)


SLOW = pytest.mark.all
ROPE_CASES = [
    pytest.param(model_type, name, precision, marks=() if model_type == "llama" and precision == "float32" else SLOW)
    for model_type in ROPED
    for name in ROPES
    for precision in ("float32", "float16")
]
ROPE_CASES += [
    pytest.param("gemma3_text", name, precision, marks=() if precision == "float32" else SLOW)
    for name in GEMMA3
    for precision in ("float32", "float16")
]
ROPE_CASES += [pytest.param("llama", "dynamic", "float16"), pytest.param("llama", "longrope", "float16")]


def _rotates(family: type[Any]) -> bool:
    return issubclass(family, Decoder) and family.rotations is not Decoder.rotations


def test_every_rope_type_is_here() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert {parameters["rope_type"] for parameters in ROPES.values()} == set(TYPES) == {*ROPE_INIT_FUNCTIONS, "default"}
    roped = {name for name, tiny in TEXT_MODELS.items() if _rotates(architectures.find(name))}
    assert roped == {*ROPED, "gemma3_text"}


@pytest.mark.parametrize(("model_type", "name", "precision"), ROPE_CASES)
def test_ropes(model_type: str, name: str, precision: str) -> None:
    folder = checkpoint(model_type, **flags(model_type, name))
    inputs = {n: {"input_ids": tokens(1, n, seed=n)} for n in lengths(3 * TRAINED, TRAINED)}
    for length in ((1, 3 * TRAINED), list(inputs)):
        at_every_length(folder, "text-generation", inputs, sequence_length=length, precision=precision)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_angles_of_a_batch_with_padding(name: str) -> None:
    """Padding counts for the length, as in transformers, whose positions it has."""
    folder = checkpoint("llama", **flags("llama", name))
    ids, mask = tokens(3, 3 * TRAINED), np.ones((3, 3 * TRAINED), np.int32)
    mask[1, 5:] = 0
    inputs = {3 * TRAINED: {"input_ids": ids, "attention_mask": mask}}
    inputs[TRAINED] = {key: value[:, :TRAINED] for key, value in inputs[3 * TRAINED].items()}
    options = {"sequence_length": (1, 3 * TRAINED), "batch_size": 3, "attention_mask": True}
    at_every_length(folder, "text-generation", inputs, precision="float32", **options)


def test_one_length_is_constants() -> None:
    """A fixed length has the tables of that length, and so do many that end within the trained context."""
    for name in ("dynamic", "longrope"):
        folder = checkpoint("llama", **flags("llama", name))
        for length in (3 * TRAINED, TRAINED, (1, TRAINED)):
            model = milbuild.build(folder, sequence_length=length)
            (function,) = model.get_spec().mlProgram.functions.values()
            (block,) = function.block_specializations.values()
            assert not {"reduce_max", "floor", "cos"} & {op.type for op in block.operations}


# With a cache

BUILDS: dict[str, dict[str, Any]] = {
    "state": {"cache": "state"},
    "state, ranged": {"cache": "state", "sequence_length": (1, 3 * TRAINED)},
    "swift": {"cache": "state", "interface": "swift-transformers"},
    "io, fixed": {"cache": "io"},
    "io, prefill": {"cache": "io", "prefill_length": 8},
    "io, several a call": {"cache": "io", "sequence_length": 4},
    "io, growing": {"cache": "io", "context_length": (1, 3 * TRAINED), "sequence_length": (1, 2 * TRAINED)},
}
PARTS = ([TRAINED - 1, 1, 1, 1, 8], [TRAINED + 2, 1, 9, 1], [2, 2 * TRAINED, 1])


def cached(folder: Path, ids: np.ndarray, calls: list[int]) -> np.ndarray:
    """The scores of transformers' model, whose cache keeps the keys as each call has turned them."""
    model, found, at = hf.load(folder, "text-generation"), [], 0
    cache = DynamicCache(config=model.config)
    for count in calls:
        part = torch.from_numpy(ids[None, at : at + count]).long()
        with torch.no_grad():
            found.append(model(part, past_key_values=cache, use_cache=True).logits[0].float().numpy())
        at += count
    return np.concatenate(found)


@pytest.mark.filterwarnings("ignore:1 warning .state-flexible:milbuild.LintWarning")
@pytest.mark.filterwarnings(
    "ignore:.past_key_values. is deprecated:FutureWarning"
)  # the name that transformers 5.0 knows
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("llama", "dynamic"),
        ("llama", "longrope"),
        *(pytest.param("gemma3_text", name, marks=SLOW) for name in GEMMA3),
        *(pytest.param(each, name, marks=SLOW) for each in ROPED[1:] for name in ("dynamic", "longrope")),
    ],
)
def test_caches(model_type: str, name: str, build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call turns its tokens by the sequence's length so far, its own tokens included."""
    folder = checkpoint(model_type, **flags(model_type, name))
    session, calls = Session(milbuild.build(folder, precision="float32", **BUILDS[build])), []
    before = session._feed
    monkeypatch.setattr(session, "_feed", lambda *call: (calls.append(len(call[2])), before(*call))[1])
    for parts in PARTS:
        session.reset()
        calls.clear()
        ids, at, found = tokens(sum(parts), seed=sum(parts)), 0, []
        for count in parts:
            found.append(session.feed(ids[at : at + count].tolist()))
            at += count
        assert sum(calls) == sum(parts)
        expected = cached(folder, ids, calls)
        assert difference(np.concatenate(found), expected) <= (1e-5 if session.plan.cache == "io" else 2e-3)


@pytest.mark.filterwarnings("ignore:1 warning .state-flexible:milbuild.LintWarning")
@pytest.mark.parametrize("build", ["none", "state", "io, fixed", "io, prefill", "io, growing"])
@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_validate_calls_the_model_as_the_package_is_called(
    name: str, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the trained context a correct package passes; one whose angles are those of the longest sequence does not."""
    folder = checkpoint("llama", **flags("llama", name))
    options = BUILDS.get(build, {"sequence_length": 3 * TRAINED}) | {"precision": "float32"}
    report = milbuild.validate(milbuild.build(folder, **options), folder)
    assert report.passed, report
    assert max(row.max_rel for row in report.rows) < (2e-3 if build == "state" else 1e-5)
    if build == "none":
        return
    with monkeypatch.context() as patch:
        patch.setattr(rope, "settled", lambda parameters, config: None)
        wrong = milbuild.build(folder, **options)
    assert not milbuild.validate(wrong, folder).passed


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
@pytest.mark.parametrize(
    "options", [{"prefill_length": 8}, {"sequence_length": 4}, {"sequence_length": [1, 4]}], ids=str
)
def test_padding_that_nothing_tells_is_refused(name: str, options: dict[str, Any]) -> None:
    """A call into a state may end in padding, which would count for the length."""
    folder = checkpoint("llama", **flags("llama", name))
    with pytest.raises(milbuild.Error, match=f"beyond {TRAINED} tokens the rope") as caught:
        milbuild.build(folder, cache="state", **options)
    assert "cache io" in str(caught.value.hint)
    within = milbuild.build(folder, cache="state", context_length=TRAINED, lint=False, **options)
    assert Session(within).context == TRAINED
    milbuild.build(checkpoint("llama", **flags("llama", "yarn")), cache="state", lint=False, **options)


# Whatever else depends on the length


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        pytest.param(name, task, marks=() if number == 0 else SLOW)
        for name in TEXT_MODELS
        for number, task in enumerate(t for t in architectures.SUPPORTED[name].tasks if t != "multiple-choice")
    ],
)
def test_texts(model_type: str, task: str, masked: bool) -> None:
    """Position tables and their offsets, masks, windows. Beyond the last row of a table there is no token."""
    folder = checkpoint(model_type, task)
    inputs = {}
    for n in (1, 2, 14, 28, 29):
        inputs[n] = inputs_of(model_type, task, 1, n, seed=n)
        if masked:
            inputs[n]["attention_mask"] = np.ones((1, n), np.int32)
            inputs[n]["attention_mask"][:, max(1, 2 * n // 3) :] = 0
            inputs[n]["input_ids"][:, max(1, 2 * n // 3) :] = 5  # padding, which no classifier takes for the last token
    typed = "token_type_ids" in inputs[1] or None
    options = {"attention_mask": masked, "token_type_ids": typed, "precision": "float32"}
    at_every_length(folder, task, inputs, sequence_length=(1, 29), **options)
    with pytest.raises(milbuild.Error, match="the checkpoint's context ends at 29 tokens"):
        milbuild.build(folder, task=task, sequence_length=(1, 30))


@pytest.mark.parametrize(("model_type", "longest"), [("t5", 61), ("bart", 29)])
@pytest.mark.parametrize("masked", [False, True])
def test_answers(model_type: str, longest: int, masked: bool) -> None:
    """Relative buckets beyond the farthest distance, 17 tokens, and the position tables of both halves, each of any length."""
    folder = checkpoint(model_type, "feature-extraction")
    model = milbuild.build(
        folder,
        task="feature-extraction",
        sequence_length=(1, longest),
        context_length=(1, 27),
        attention_mask=masked,
        precision="float32",
    )
    for source, answer in (
        (longest, 1),
        (1, 27),
        (2, 2),
        (longest // 2, 13),
        (17, 18),
        (18, 17),
        (longest, 27),
        (1, 1),
    ):
        inputs = {"input_ids": tokens(1, source, seed=source), "decoder_input_ids": tokens(1, answer, seed=answer)}
        if masked:
            inputs["attention_mask"] = np.ones((1, source), np.int32)
            inputs["attention_mask"][:, max(1, source * 2 // 3) :] = 0
        expected = hf.forward(hf.load(folder, "feature-extraction"), inputs)
        for name, value in model.predict(dict(inputs)).items():
            assert difference(value, expected[name]) <= 1e-5, (name, source, answer)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model_type", AUDIO_MODELS)
@pytest.mark.parametrize(
    "flag", ["plain", pytest.param("all of XLS-R", marks=SLOW), pytest.param("odd positions", marks=SLOW)]
)
def test_sounds(model_type: str, flag: str, masked: bool) -> None:
    """Frames, their masks, norms over time and the convolution that places them, from one frame on."""
    folder = checkpoint(model_type, "ctc", **AUDIO_MODELS[model_type].flags[flag])
    shortest = architectures.find(model_type).shortest(hf.load(folder, "ctc").config, "ctc")
    inputs = {}
    for n in (shortest + 20, shortest + 21, 215, 431, 432, 900):
        inputs[n] = {"input_values": np.random.default_rng(n).standard_normal((1, n), np.float32)}
        if masked:
            inputs[n]["attention_mask"] = np.ones((1, n), np.int32)
            inputs[n]["attention_mask"][:, max(shortest, n * 2 // 3) :] = 0
    options = {"sequence_length": (min(inputs), 900), "attention_mask": masked, "precision": "float32"}
    at_every_length(folder, "ctc", inputs, **options)
