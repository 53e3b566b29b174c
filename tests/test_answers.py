"""Models with an encoder and a decoder: what they read once, and what they answer token by token, against transformers."""

from typing import Any

import numpy as np
import pytest
import torch

import milbuild
from milbuild import architectures, logits
from milbuild.generation import Sampling, Session, answer_start, generate_tokens
from milbuild.validation import reference as hf
from tests.conftest import check_landmarks, checkpoint, difference, psnr, reference, tokens
from tests.tiny import ANSWERS

TASK = "text2text-generation"
FLAGS = [(name, flag) for name, tiny in ANSWERS.items() for flag in tiny.flags]
TASK_PAIRS = [(name, task) for name in ANSWERS for task in architectures.SUPPORTED[name].tasks if task != TASK]
CACHES = {
    "none": {"context_length": 13},
    "none, ranged": {"context_length": (1, 13)},
    "none, listed": {"context_length": [3, 13]},
    "io": {"cache": "io", "context_length": 13},
    "io, growing": {"cache": "io", "context_length": (1, 13)},
    "state": {"cache": "state", "context_length": 13},
    "io, prefill": {"cache": "io", "context_length": 13, "prefill_length": 4},
    "state, prefill": {"cache": "state", "context_length": 13, "prefill_length": 4},
}
LENGTHS = {"fixed": 11, "ranged": (4, 19), "listed": [7, 11]}


def texts(batch: int = 1, count: int = 11, *, padded: bool = False, answer: int = 0, seed: int = 0) -> dict[str, Any]:
    """What the encoder reads, each text with one end; with `padded` the later ones have padding behind them."""
    ids, mask = tokens(batch, count, seed=seed), np.ones((batch, count), np.int32)
    ids = np.where(ids == 2, 3, ids)
    ids[:, count // 2] = 2
    if padded:
        for row in range(1, batch):
            mask[row, count - row :] = 0
        ids = np.where(mask, ids, 5)
    found = {"input_ids": ids.astype(np.int32), "attention_mask": mask}
    return found | ({"decoder_input_ids": tokens(batch, answer, seed=seed + 1)} if answer else {})


def play(
    model: milbuild.Model, inputs: dict[str, Any], chunks: list[int], encoder: milbuild.Model | None = None
) -> Any:
    """Scores (1, n, V) of an answer that is fed in such parts."""
    session = Session(model, encoder)
    session.read({name: inputs[name] for name in ("input_ids", "attention_mask")})
    ids, at, rows = inputs["decoder_input_ids"][0].tolist(), 0, []
    for count in chunks:
        rows.append(session.feed(ids[at : at + count]))
        at += count
    return np.concatenate(rows)[None]


def bound(options: dict[str, Any], precision: str) -> tuple[float, float]:
    """The largest error over the range and the least PSNR that are allowed: keys and values in a state are float16."""
    if precision == "float16":
        return np.inf, 55
    return (2e-3 if options.get("cache") == "state" else 1e-5), 0


def check(value: np.ndarray, expected: np.ndarray, options: dict[str, Any], precision: str) -> None:
    error, noise = bound(options, precision)
    assert np.ptp(expected) > 0.05, "numbers that are all alike show nothing"
    assert difference(value, expected) <= error
    assert psnr(value, expected) >= noise


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("model_type", "flag"), FLAGS)
def test_flags(model_type: str, flag: str, precision: str) -> None:
    folder = checkpoint(model_type, TASK, **ANSWERS[model_type].flags[flag])
    inputs = texts(3, padded=True, answer=7)
    options = {"sequence_length": 11, "context_length": 7, "batch_size": 3, "precision": precision}
    model = milbuild.build(folder, **options)
    expected = hf.forward(reference(folder, TASK), inputs)
    read = model.function("encode").predict({name: inputs[name] for name in ("input_ids", "attention_mask")})
    seen = inputs["attention_mask"].astype(bool)
    check(read["encoder_last_hidden_state"][seen], expected["encoder_last_hidden_state"][seen], options, precision)
    cross = {name: value for name, value in read.items() if name.startswith("cross")}
    answer = {"decoder_input_ids": inputs["decoder_input_ids"], "encoder_attention_mask": inputs["attention_mask"]}
    check(model.function("decode").predict(answer | cross)["logits"], expected["logits"], options, precision)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("model_type", ANSWERS)
def test_every_cache_equals_the_full_forward(model_type: str, length: str, name: str, precision: str) -> None:
    folder, options = checkpoint(model_type, TASK), CACHES[name] | {"sequence_length": LENGTHS[length]}
    if options.get("cache") == "state" and length != "fixed":
        with pytest.raises(milbuild.Error, match="a state has one size"):
            milbuild.build(folder, **options)
        return
    model = milbuild.build(folder, precision=precision, **options)
    sizes = [4, 19] if length == "ranged" else [7, 11]  # the shorter one of `fixed` is padded
    for count in sizes:
        inputs = texts(1, count, answer=13, seed=count)
        expected = hf.forward(reference(folder, TASK), inputs)["logits"]
        for chunks in ([13], [1] * 13, [6, 1, 3, 3]):
            check(play(model, inputs, chunks), expected, options, precision)


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"])
@pytest.mark.parametrize("cache", ["none", "io", "state"])
@pytest.mark.parametrize("model_type", ANSWERS)
def test_two_packages(model_type: str, cache: str, target: str) -> None:
    folder = checkpoint(model_type, TASK)
    options = {"sequence_length": 11, "context_length": 13, "cache": cache, "target": target, "precision": "float32"}
    if target in ("iOS15", "iOS16", "iOS17"):
        with pytest.raises(milbuild.Error, match="needs iOS18"):
            milbuild.build(folder, **options)
        if cache == "state":
            return
    encode, decode = (milbuild.build(folder, function=name, **options) for name in ("encode", "decode"))
    assert "state" not in [feature.type.WhichOneof("Type") for feature in encode.interface.input]
    inputs = texts(1, 9, answer=13)
    expected = hf.forward(reference(folder, TASK), inputs)["logits"]
    check(play(decode, inputs, [5] + [1] * 8, encode), expected, options, "float32")


def test_packages_that_do_not_belong_together() -> None:
    folder = checkpoint("bart", TASK)
    whole = milbuild.build(folder, sequence_length=11, context_length=13)
    encode = milbuild.build(folder, sequence_length=11, context_length=13, function="encode")
    decode = milbuild.build(folder, sequence_length=7, context_length=13, function="decode")
    for model, encoder, message in [
        (encode, None, "the function encode only"),
        (decode, None, "the function decode only"),
        (whole, encode, "takes no other one"),
        (decode, whole, "not built with function encode"),
        (decode, encode, "differ in sequence_length"),
    ]:
        with pytest.raises(milbuild.Error, match=message):
            Session(model, encoder)
    session = Session(whole)
    with pytest.raises(milbuild.Error, match="read nothing yet"):
        session.feed([1])
    with pytest.raises(milbuild.Error, match="the encoder takes 11"):
        session.read({"input_ids": np.zeros((1, 12), np.int32)})


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tasks_of_a_padded_batch(model_type: str, task: str, length: str, precision: str) -> None:
    folder, own = checkpoint(model_type, task), task == "feature-extraction"
    options = {"sequence_length": LENGTHS[length], "batch_size": 3, "precision": precision, "postprocess": False}
    model = milbuild.build(folder, task=task, **options, **({"context_length": 7} if own else {}))
    # A classifier gives few numbers in a call: the noise of some more makes a figure.
    calls = [texts(3, padded=True, answer=7 if own else 0, seed=seed) for seed in range(0, 8, 2)]
    expected = [hf.forward(reference(folder, task), inputs) for inputs in calls]
    given = [model.predict(inputs) for inputs in calls]
    assert given[0].keys() <= expected[0].keys()
    for name, first in given[0].items():
        seen = calls[0]["attention_mask"].astype(bool) if first.shape[:2] == (3, 11) else ...
        value, truth = (np.concatenate([each[name][seen] for each in found]) for found in (given, expected))
        check(value, truth, options, precision)


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_every_landmark(model_type: str, task: str) -> None:
    folder, own = checkpoint(model_type, task), task == "feature-extraction"
    options = {"sequence_length": 11, "postprocess": False} | ({"context_length": 7} if own else {})
    model = milbuild.build(folder, task=task, precision="float32", **options)
    wanted = tuple(
        module
        for module in ANSWERS[model_type].landmarks
        if "decoder" not in module or task not in architectures.find(model_type).encoder_tasks
    )
    check_landmarks(model, folder, task, texts(1, answer=7 if own else 0), wanted)


@pytest.mark.parametrize("model_type", ANSWERS)
def test_operations_stay_few(model_type: str) -> None:
    model = milbuild.build(checkpoint(model_type, TASK), sequence_length=11, cache="state", context_length=13)
    from milbuild.package.reader import Package

    package = Package(model.package_path)
    counts = [
        len([op for op in package.function(name).operations if op.type != "const"]) for name in ("encode", "decode")
    ]
    assert sum(counts) <= ANSWERS[model_type].operations, counts


def test_a_new_text_begins_with_empty_states() -> None:
    """`encode` clears what an answer left, even NaN."""
    model = milbuild.build(checkpoint("bart", TASK), sequence_length=11, context_length=13, cache="state")
    encode, inputs = model.function("encode"), texts(1)
    state = encode.make_state()
    for name in ("key_cache", "value_cache"):
        state.write_state(name, np.full_like(state.read_state(name), np.nan))
    encode.predict(inputs, state)
    assert not state.read_state("key_cache").any()
    assert state.read_state("cross_key_cache").any()


RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "repetition penalty": {"repetition_penalty": 1.7},
    "no repeated pairs": {"no_repeat_ngram_size": 2},
    "no repeated tokens": {"no_repeat_ngram_size": 1},
    "a least length": {"min_length": 9},
    "first and last": {"forced_bos_token_id": 17, "forced_eos_token_id": 2},
    "suppressed": {"suppress_tokens": [6, 7, 8, 20, 40], "begin_suppress_tokens": [1, 2, 17, 33]},
    "all": {
        "repetition_penalty": 0.8,
        "no_repeat_ngram_size": 3,
        "min_length": 5,
        "forced_bos_token_id": 17,
        "forced_eos_token_id": 2,
        "suppress_tokens": list(range(20, 40)),
        "begin_suppress_tokens": list(range(6, 16)),
    },
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("model_type", ANSWERS)
def test_answers_are_those_of_transformers(model_type: str, name: str) -> None:
    folder = checkpoint(model_type, TASK)
    truth = reference(folder, TASK)
    rules = {"decoder_start_token_id": 5, "eos_token_id": 2, "pad_token_id": 5, **RULES[name]}
    model = milbuild.build(folder, sequence_length=11, cache="io", context_length=25, precision="float32")
    for seed in range(6):
        inputs = texts(1, 9, seed=seed)
        given = {key: torch.from_numpy(value).long() for key, value in inputs.items()}
        fields = dict.fromkeys(logits.FIELDS) | rules
        fields = {key: value for key, value in fields.items() if hasattr(truth.generation_config, key)}
        theirs = truth.generate(**given, do_sample=False, max_new_tokens=20, **fields)[0].tolist()
        session = Session(model)
        session.read(inputs)
        start = [answer_start(rules)]
        chosen = generate_tokens(session, start, 20, logits.ends(rules), Sampling(), logits.Rules(rules, 1, 1 + 20))
        ours = start + list(chosen)
        assert ours == theirs[: len(ours)]
        assert theirs[len(ours) :] in ([], [2]), "only the end of the text, which we do not give out"


def test_wrong_options_are_refused() -> None:
    folder = checkpoint("bart", TASK)
    for options, message in [
        ({"context_length": 30}, "answers end at 29"),
        ({"sequence_length": 30}, "context ends at 29"),
        ({"interface": "swift-transformers", "cache": "state"}, "no encoder beside its decoder"),
        ({"function": "main"}, "function is 'main'"),
        ({"function": "encode", "cache": "io", "prefill_length": 4}, "for the decoder"),
        ({"task": "fill-mask", "function": "encode"}, "fill-mask does not have"),
        ({"task": "fill-mask", "context_length": 7}, "fill-mask gives none"),
        ({"cache": "state", "context_length": (1, 13)}, "it is one number"),
        ({"cache": "io", "context_length": 13, "prefill_length": 14}, "to the context of 13"),
    ]:
        with pytest.raises(milbuild.Error, match=message):
            milbuild.build(folder, **options)
    with pytest.raises(milbuild.Error, match="is one whole"):
        milbuild.build(checkpoint(), function="encode")
