"""Models with an encoder and a decoder: what they read once, and what they answer token by token, against transformers."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, reject, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild import architectures
from milbuild.generation.rules import Rules
from milbuild.generation.sampling import Sampling, generate_tokens
from milbuild.generation.session import Session
from milbuild.program.function import Graph
from milbuild.validation import reference as hf
from milbuild.weights.generation_config import FIELDS, answer_start, ends
from tests.conftest import check_module_outputs, checkpoint, difference, examples, psnr, reference, tokens
from tests.tiny import SEQ2SEQ_MODELS

TASK = "text2text-generation"
TASKS = dict.fromkeys(SEQ2SEQ_MODELS, TASK) | {"whisper": "speech-seq2seq"}
FLAGS = [(name, flag) for name, tiny in SEQ2SEQ_MODELS.items() for flag in tiny.flags]
TASK_PAIRS = [
    (name, task) for name in SEQ2SEQ_MODELS for task in architectures.SUPPORTED[name].tasks if task != TASKS[name]
]
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
PAIRS = [(name, length) for name in SEQ2SEQ_MODELS for length in LENGTHS if name != "whisper" or length == "fixed"]
HOP = 160  # samples from one frame of a spectrogram to the next


def sizes(model_type: str, length: Any = 11) -> dict[str, Any]:
    """Options of a build: what its encoder reads."""
    if model_type == "whisper":
        frames = 2 * SEQ2SEQ_MODELS[model_type].config["max_source_positions"]
        return {"sequence_length": frames * HOP, "postprocess": False}
    return {"sequence_length": length}


def given(model_type: str, batch: int = 1, count: int = 11, **how: Any) -> dict[str, Any]:
    """What transformers' model takes."""
    found = texts(batch, count, **how)
    if model_type == "whisper":
        config = SEQ2SEQ_MODELS[model_type].config
        random = np.random.default_rng(how.get("seed", 0))
        shape = (batch, config["num_mel_bins"], 2 * config["max_source_positions"])
        answer = {"decoder_input_ids": found["decoder_input_ids"]} if "decoder_input_ids" in found else {}
        return {"input_features": random.normal(size=shape).astype(np.float32), **answer}
    return found


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
    session.read({name: value for name, value in inputs.items() if name != "decoder_input_ids"})
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
    task = "audio-classification" if flag == "weighted layers" else TASKS[model_type]
    folder = checkpoint(model_type, task, **SEQ2SEQ_MODELS[model_type].flags[flag])
    options = sizes(model_type) | {"batch_size": 3, "precision": precision}
    if task == "audio-classification":
        model = milbuild.build(folder, **options)
        calls = [given(model_type, 3, seed=seed) for seed in range(4)]
        expected = [hf.forward(reference(folder, task), inputs)["logits"] for inputs in calls]
        check(
            np.concatenate([model.predict(each)["logits"] for each in calls]), np.concatenate(expected), {}, precision
        )
        return
    inputs = given(model_type, 3, padded=True, answer=7)
    model = milbuild.build(folder, context_length=7, **options)
    expected = hf.forward(reference(folder, task), inputs)
    answer = {"decoder_input_ids": inputs.pop("decoder_input_ids")}
    read = model.function("encode").predict(inputs)
    seen: Any = ...
    if "attention_mask" in inputs:
        answer["encoder_attention_mask"] = inputs["attention_mask"]
        seen = inputs["attention_mask"].astype(bool)
    check(read["encoder_last_hidden_state"][seen], expected["encoder_last_hidden_state"][seen], options, precision)
    cross = {name: value for name, value in read.items() if name.startswith("cross")}
    check(model.function("decode").predict(answer | cross)["logits"], expected["logits"], options, precision)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize(("model_type", "length"), PAIRS)
def test_every_cache_equals_the_full_forward(model_type: str, length: str, name: str, precision: str) -> None:
    task = TASKS[model_type]
    folder, options = checkpoint(model_type, task), CACHES[name] | sizes(model_type, LENGTHS[length])
    if options.get("cache") == "state" and length != "fixed":
        with pytest.raises(milbuild.Error, match="a state has one size"):
            milbuild.build(folder, **options)
        return
    if length == "listed" and name == "none, listed":
        with pytest.raises(milbuild.Error, match="of which Core ML takes pairs only"):
            milbuild.build(folder, **options)
        return
    model = milbuild.build(folder, precision=precision, **options)
    for count in [4, 19] if length == "ranged" else [7, 11]:  # the shorter one of `fixed` is padded
        inputs = given(model_type, 1, count, answer=13, seed=count)
        expected = hf.forward(reference(folder, task), inputs)["logits"]
        for chunks in ([13], [1] * 13, [6, 1, 3, 3]):
            check(play(model, inputs, chunks), expected, options, precision)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"])
@pytest.mark.parametrize("cache", ["none", "io", "state"])
@pytest.mark.parametrize("model_type", SEQ2SEQ_MODELS)
def test_two_packages(model_type: str, cache: str, target: str, precision: str) -> None:
    folder = checkpoint(model_type, TASKS[model_type])
    options = {"context_length": 13, "cache": cache, "target": target, "precision": precision} | sizes(model_type)
    if target in ("iOS15", "iOS16", "iOS17"):
        with pytest.raises(milbuild.Error, match="needs iOS18"):
            milbuild.build(folder, **options)
        if cache == "state":
            return
    encode, decode = (milbuild.build(folder, function=name, **options) for name in ("encode", "decode"))
    assert "state" not in [feature.type.WhichOneof("Type") for feature in encode.interface.input]
    inputs = given(model_type, 1, 9, answer=13)
    expected = hf.forward(reference(folder, TASKS[model_type]), inputs)["logits"]
    check(play(decode, inputs, [5] + [1] * 8, encode), expected, options, precision)


@pytest.mark.parametrize("model_type", SEQ2SEQ_MODELS)
def test_one_part_is_built_of_its_own_tensors(model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph, of a file that has nothing else: the other part's tensors may be there, in both parts together every one is
    read, and one that no part has is refused by that part."""
    folder, task = checkpoint(model_type, TASKS[model_type]), TASKS[model_type]
    options = sizes(model_type) | {"context_length": 13, "task": task}
    tensors = load_file(folder / "model.safetensors")
    prefix = architectures.find(model_type).prefix
    graphs: list[Graph] = []
    read, real = {}, Graph.function
    monkeypatch.setattr(Graph, "function", lambda self: (graphs.append(self), real(self))[1])
    for part in ("encode", "decode"):
        graphs.clear()
        milbuild.build(folder, function=part, **options)
        assert len(graphs) == 1
        read[part] = set(graphs[0].checkpoint.read)
        shutil.copytree(folder, tmp_path / part)
        (tmp_path / part / "model.safetensors").unlink()
        save_file({name: tensors[name] for name in read[part]}, tmp_path / part / "model.safetensors")
        milbuild.build(tmp_path / part, function=part, **options).save(tmp_path / f"{part}.mlpackage")
        strange = f"{prefix}.{part}r.strange.weight"
        save_file(tensors | {strange: np.zeros(3, np.float32)}, tmp_path / part / "model.safetensors")
        with pytest.raises(milbuild.Error, match=rf"does not use: .*{re.escape(strange)}"):
            milbuild.build(tmp_path / part, function=part, **options)
        assert tensors.keys() - read[part]
    assert not tensors.keys() - read["encode"] - read["decode"] - {"final_logits_bias"}


def test_packages_that_do_not_belong_together() -> None:
    folder = checkpoint("bart", TASK)
    whole = milbuild.build(folder, sequence_length=11, context_length=13)
    encode = milbuild.build(folder, sequence_length=11, context_length=13, function="encode")
    decode = milbuild.build(folder, sequence_length=7, context_length=13, function="decode")
    for model, encoder, message in [
        (encode, None, "the function encode only"),
        (decode, None, "the function decode only"),
        (whole, encode, "takes no separate encoder"),
        (decode, whole, "not built with function encode"),
        (decode, encode, "differ in sequence_length"),
    ]:
        with pytest.raises(milbuild.Error, match=message):
            Session(model, encoder)
    session = Session(whole)
    with pytest.raises(milbuild.Error, match="the encoder has not run yet"):
        session.feed([1])
    with pytest.raises(milbuild.Error, match="the encoder takes 11"):
        session.read({"input_ids": np.zeros((1, 12), np.int32)})


@pytest.mark.parametrize(
    ("model_type", "task", "length"),
    [(name, task, length) for name, task in TASK_PAIRS for other, length in PAIRS if other == name],
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tasks_of_a_padded_batch(model_type: str, task: str, length: str, precision: str) -> None:
    folder, own = checkpoint(model_type, task), task == "feature-extraction"
    options = sizes(model_type, LENGTHS[length]) | {"batch_size": 3, "precision": precision, "postprocess": False}
    model = milbuild.build(folder, task=task, **options, **({"context_length": 7} if own else {}))
    # A classifier gives few numbers in a call: the noise of some more makes a figure.
    calls = [given(model_type, 3, padded=True, answer=7 if own else 0, seed=seed) for seed in range(0, 8, 2)]
    expected = [hf.forward(reference(folder, task), inputs) for inputs in calls]
    found = [model.predict(inputs) for inputs in calls]
    assert found[0].keys() <= expected[0].keys()
    for name, first in found[0].items():
        padded = "attention_mask" in calls[0] and first.shape[:2] == (3, 11)
        seen = calls[0]["attention_mask"].astype(bool) if padded else ...
        value, truth = (np.concatenate([each[name][seen] for each in side]) for side in (found, expected))
        check(value, truth, options, precision)


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
def test_every_module_output(model_type: str, task: str) -> None:
    folder, own = checkpoint(model_type, task), task == "feature-extraction"
    options = sizes(model_type) | {"postprocess": False} | ({"context_length": 7} if own else {})
    model = milbuild.build(folder, task=task, precision="float32", **options)
    wanted = tuple(
        module
        for module in SEQ2SEQ_MODELS[model_type].module_outputs
        if "decoder" not in module or task not in architectures.find(model_type).encoder_tasks
    )
    check_module_outputs(model, folder, task, given(model_type, 1, answer=7 if own else 0), wanted)


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
@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_answers_are_those_of_transformers(model_type: str, name: str) -> None:
    folder = checkpoint(model_type, TASK)
    truth = reference(folder, TASK)
    rules = {"decoder_start_token_id": 5, "eos_token_id": 2, "pad_token_id": 5, **RULES[name]}
    model = milbuild.build(folder, sequence_length=11, cache="io", context_length=25, precision="float32")
    for seed in range(6):
        inputs = texts(1, 9, seed=seed)
        tensors = {key: torch.from_numpy(value).long() for key, value in inputs.items()}
        fields = dict.fromkeys(FIELDS) | rules
        fields = {key: value for key, value in fields.items() if hasattr(truth.generation_config, key)}
        theirs = truth.generate(**tensors, do_sample=False, max_new_tokens=20, **fields)[0].tolist()
        session = Session(model)
        session.read(inputs)
        start = [answer_start(rules)]
        chosen = generate_tokens(session, start, 20, ends(rules), Sampling(), Rules(rules, 1, 1 + 20))
        ours = start + list(chosen)
        assert ours == theirs[: len(ours)]
        assert theirs[len(ours) :] in ([], [2]), "only the end of the text, which we do not give out"


def test_a_config_that_names_no_first_token(tmp_path: Path) -> None:
    """T5Config has no such field of its own: a text is answered from any token, one that is shifted is refused in words."""

    def unnamed(task: str) -> Path:
        folder = shutil.copytree(checkpoint("t5", task), tmp_path / task)
        config = json.loads((folder / "config.json").read_text())
        del config["decoder_start_token_id"]
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    with pytest.raises(milbuild.Error, match="names no decoder_start_token_id"):
        milbuild.build(unnamed("text-classification"), sequence_length=11)
    folder = unnamed("text2text-generation")
    milbuild.build(folder, sequence_length=11, precision="float32").save(tmp_path / "t.mlpackage")
    assert milbuild.validate(tmp_path / "t.mlpackage", folder).passed


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
        ({"sequence_length": [7, 11], "function": "decode", "target": "iOS17"}, "more than one input with listed"),
    ]:
        with pytest.raises(milbuild.Error, match=message):
            milbuild.build(folder, **options)
    whisper = checkpoint("whisper", "speech-seq2seq")
    for options, message in [
        ({"sequence_length": (320, 640)}, "one number of samples"),
        ({"sequence_length": 35 * 160}, "a multiple of 320"),
        ({"sequence_length": 36 * 160}, "5440 is the longest window"),
        ({"attention_mask": True}, "it has no attention_mask"),
        ({"context_length": 30}, "answers end at 29"),
        ({}, "no feature extractor that says how its spectrogram is made"),
    ]:
        with pytest.raises(milbuild.Error, match=message):
            milbuild.build(whisper, **options)
    with pytest.raises(milbuild.Error, match="is one whole"):
        milbuild.build(checkpoint(), function="encode")


@pytest.mark.parametrize("positions", [16, 5])
def test_a_shorter_window(positions: int, tmp_path: Path) -> None:
    """As a model that was trained with fewer places hears it."""
    folder = checkpoint("whisper", "speech-seq2seq")
    truth = copy.deepcopy(reference(folder, "speech-seq2seq"))
    encoder = truth.model.encoder
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:positions])
    encoder.config.max_source_positions = positions
    inputs = given("whisper", answer=13)
    inputs["input_features"] = inputs["input_features"][:, :, : 2 * positions]
    expected = hf.forward(truth, inputs)["logits"]
    model = milbuild.build(
        folder,
        sequence_length=2 * positions * HOP,
        cache="io",
        context_length=13,
        precision="float32",
        postprocess=False,
    )
    check(play(model, inputs, [5] + [1] * 8), expected, {}, "float32")


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("task", ["speech-seq2seq", "audio-classification"])
def test_sound_is_heard_in_the_package(task: str, precision: str, tmp_path: Path) -> None:
    """With the feature extractor in the graph: samples go in, shorter sounds with zeros behind."""
    folder = shutil.copytree(checkpoint("whisper", task), tmp_path / "checkpoint")
    extractor = transformers.WhisperFeatureExtractor(feature_size=10, chunk_length=1)
    extractor.n_samples, window = 34 * HOP, 34 * HOP
    extractor.nb_max_frames = 34
    extractor.save_pretrained(folder)
    model = milbuild.build(folder, precision=precision, **({} if task != "speech-seq2seq" else {"context_length": 13}))
    random, truth = np.random.default_rng(0), reference(checkpoint("whisper", task), task)
    values, expected = [], []
    for count in (window, window, window // 2, window // 3):
        sound = np.zeros((1, window), np.float32)
        sound[0, :count] = 0.3 * np.sin(np.cumsum(random.uniform(0, 2, count))) * random.uniform(0, 1, count)
        inputs = {"input_features": extractor(sound[0], sampling_rate=16000, return_tensors="np")["input_features"]}
        if task == "speech-seq2seq":
            inputs["decoder_input_ids"] = tokens(1, 13)
            values.append(play(model, {"audio": sound} | {"decoder_input_ids": tokens(1, 13)}, [13]))
            expected.append(hf.forward(truth, inputs)["logits"])
        else:
            values.append(np.array([list(model.predict({"audio": sound})["probabilities"].values())]))
            expected.append(hf.postprocessed(task, hf.forward(truth, inputs), truth.config)["probabilities"])
    check(np.concatenate(values), np.concatenate(expected), {}, precision)


@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.all)])
@pytest.mark.parametrize("model_type", SEQ2SEQ_MODELS)
def test_validate(model_type: str, precision: str, tmp_path: Path) -> None:
    folder = checkpoint(model_type, TASKS[model_type])
    for options in (
        {"context_length": 13},
        {"context_length": 13, "batch_size": 2},
        {"cache": "io", "context_length": (1, 13)},
        {"cache": "state", "context_length": 13, "prefill_length": 4},
    ):
        options |= sizes(model_type) | {"precision": precision}
        report = milbuild.validate(milbuild.build(folder, **options), folder)
        assert report.passed, report
        assert {row.output for row in report.rows} == {"logits", "encoder_last_hidden_state"}
        assert report.drift is not None
        halves = {
            half
            for half in ("encoder", "decoder")
            if any(half in module for module in [output.module for output in report.drift.outputs])
        }
        assert halves == {"encoder", "decoder"}
    decode = milbuild.build(folder, function="decode", **options)
    encode = milbuild.build(folder, function="encode", **options | {"prefill_length": None})
    assert milbuild.validate(decode, folder, encoder=encode).passed
    for task in architectures.SUPPORTED[model_type].tasks:
        if task == TASKS[model_type]:
            continue
        own = {"context_length": 7} if task == "feature-extraction" else {}
        model = milbuild.build(checkpoint(model_type, task), task=task, precision=precision, **own, **sizes(model_type))
        report = milbuild.validate(model, checkpoint(model_type, task))
        assert report.passed, report
        assert report.drift is not None


# Drawn, not picked: any of a family's variations together, and lengths. What transformers itself refuses is no configuration.
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@hypothesis_given(st.data())
def test_any_variations_together_equal_transformers(data: st.DataObject) -> None:
    model_type, task = data.draw(st.sampled_from([*TASK_PAIRS, *TASKS.items()]))
    rows = SEQ2SEQ_MODELS[model_type].flags
    names = data.draw(st.lists(st.sampled_from(sorted(rows)), min_size=1, max_size=4, unique=True))
    flags: dict[str, Any] = {}
    for name in names:
        flags |= rows[name]
    count, answer = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 20))
    own = task in (TASKS[model_type], "feature-extraction")
    inputs = given(model_type, 2, count, padded=data.draw(st.booleans()), answer=answer if own else 0, seed=count)
    try:
        folder = checkpoint(model_type, task, **flags)
        expected = hf.forward(reference(folder, task), inputs)
    except (ValueError, RuntimeError, AssertionError, milbuild.Error):
        reject()
    options = sizes(model_type, count) | {"batch_size": 2, "precision": "float32", "postprocess": False}
    model = milbuild.build(folder, task=task, **options, **({"context_length": answer} if own else {}))
    if task == TASKS[model_type]:
        decoded = {"decoder_input_ids": inputs.pop("decoder_input_ids")}
        read = model.function("encode").predict(inputs)
        decoded |= {name: value for name, value in read.items() if name.startswith("cross")}
        if "attention_mask" in inputs:
            decoded["encoder_attention_mask"] = inputs["attention_mask"]
        found = model.function("decode").predict(decoded)
    else:
        found = model.predict(inputs)
    for name, value in found.items():
        if np.ptp(expected[name]) > 0.05:
            assert difference(value, expected[name]) <= 1e-5, name
