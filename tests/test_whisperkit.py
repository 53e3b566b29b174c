"""The packages of argmaxinc/WhisperKit: names, shapes and types of its contract, and its decoding loop against transformers."""

import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from coremltools.converters.mil import Builder as mb
from coremltools.proto import FeatureTypes_pb2 as ft
from typer.testing import CliRunner

import milbuild
from milbuild import runtime
from milbuild.architectures.whisper import Whisper
from milbuild.caches import slots
from milbuild.caches.slots import SlotCache
from milbuild.cli.app import app
from milbuild.generation.session import Session
from milbuild.program import whisperkit
from milbuild.program.interfaces import INTERFACES
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, psnr, reference, tokens
from tests.test_spectrogram import SOUNDS, WORST

TASK = "speech-seq2seq"
WINDOW = 34 * 160  # samples that the tiny checkpoint has places for
HEADS = [[0, 1], [1, 0], [1, 2]]
TARGETS = ["iOS16", "iOS17", "iOS18", "iOS26"]
# The tiny checkpoint with the window and the places of Whisper's own.
SIZES = {"max_source_positions": 1500, "max_target_positions": 448, "num_mel_bins": 80}
END = 2


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="milbuild-tests-whisperkit-")


@functools.cache
def spoken(heads: bool = True, sizes: bool = False) -> Path:
    """A checkpoint with its feature extractor, and with the heads that tell a word's time."""
    flags: dict[str, Any] = SIZES if sizes else {}
    folder = Path(tempfile.mkdtemp(dir=_folder().name)) / "checkpoint"
    shutil.copytree(checkpoint("whisper", TASK, **flags), folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80 if sizes else 10)
    extractor.save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    del generation["_from_model_config"]
    if heads:
        generation["alignment_heads"] = HEADS
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def build(function: str, folder: Path | None = None, **options: Any) -> milbuild.Model:
    return milbuild.build(folder or spoken(), interface="whisperkit", function=function, **options)


def described(features: Any) -> dict[str, tuple[list[int], str]]:
    kinds = {ft.ArrayFeatureType.FLOAT16: "float16", ft.ArrayFeatureType.INT32: "int32"}
    return {
        feature.name: (list(feature.type.multiArrayType.shape), kinds[feature.type.multiArrayType.dataType])
        for feature in features
    }


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_the_contract(target: str, heads: bool, tmp_path: Path) -> None:
    """Of a Whisper with 24 features, 2 layers in the decoder and 61 tokens."""
    folder = spoken(heads, True)
    mel, encode, decode = (build(name, folder, target=target) for name in ("mel", "encode", "decode"))
    spectrogram, states = ([1, 80, 1, 3000], "float16"), ([1, 24, 1, 1500], "float16")
    cache, mask, new = ([1, 48, 1, 224], "float16"), ([1, 224], "float16"), ([1, 48, 1, 1], "float16")
    assert described(mel.interface.input) == {"audio": ([480_000], "float16")}
    assert described(mel.interface.output) == {"melspectrogram_features": spectrogram}
    assert described(encode.interface.input) == {"melspectrogram_features": spectrogram}
    assert described(encode.interface.output) == {"encoder_output_embeds": states}
    assert described(decode.interface.input) == {
        "input_ids": ([1], "int32"),
        "cache_length": ([1], "int32"),
        "key_cache": cache,
        "value_cache": cache,
        "kv_cache_update_mask": mask,
        "encoder_output_embeds": states,
        "decoder_key_padding_mask": mask,
    }
    assert described(decode.interface.output) == {
        "logits": ([1, 1, 61], "float16"),
        "key_cache_updates": new,
        "value_cache_updates": new,
        **({"alignment_heads_weights": ([1, 1500], "float16")} if heads else {}),
    }
    for model in (mel, encode, decode):
        assert not model.interface.state
        assert len(model.get_spec().description.functions) <= 1
    decode.save(tmp_path / "TextDecoder.mlpackage")
    # Where WhisperKit looks for a package that is not compiled (ModelUtilities.detectModelURL).
    assert (tmp_path / "TextDecoder.mlpackage/Data/com.apple.CoreML/model.mlmodel").is_file()


class TextDecoder:
    """What TextDecoder.swift keeps and feeds: prepareDecoderInputs, decodeText, updateKVCache, updateAlignmentWeights."""

    def __init__(self, model: milbuild.Model, states: np.ndarray, dtype: str) -> None:
        shapes = {feature.name: list(feature.type.multiArrayType.shape) for feature in model.interface.input}
        self.engine = runtime.load(model.package_path, None, "declared")
        self.states, slots = states, shapes["key_cache"][3]
        self.input_ids, self.cache_length = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self.key_cache, self.value_cache = (np.zeros(shapes["key_cache"], dtype) for _ in range(2))
        self.alignment = np.zeros((slots, shapes["encoder_output_embeds"][3]), dtype)
        self.update_mask = np.zeros((1, slots), np.int32)  # sic: Core ML makes float16 of it
        self.padding_mask = np.full((1, slots), -10_000, dtype)
        self.update_mask[0, 0], self.padding_mask[0, 0] = 1, 0

    def predict(self, token: int, place: int) -> dict[str, np.ndarray]:
        self.input_ids[0], self.cache_length[0] = token, place
        found: dict[str, np.ndarray] = self.engine.predict(
            {
                "input_ids": self.input_ids,
                "cache_length": self.cache_length,
                "key_cache": self.key_cache,
                "value_cache": self.value_cache,
                "kv_cache_update_mask": self.update_mask,
                "encoder_output_embeds": self.states,
                "decoder_key_padding_mask": self.padding_mask,
            }
        )
        return found

    def keep(self, outputs: dict[str, np.ndarray], place: int) -> None:
        self.key_cache[0, :, 0, place] = outputs["key_cache_updates"][0, :, 0, 0]
        self.value_cache[0, :, 0, place] = outputs["value_cache_updates"][0, :, 0, 0]
        self.padding_mask[0, place + 1] = 0
        self.update_mask[0, place], self.update_mask[0, place + 1] = 0, 1
        if "alignment_heads_weights" in outputs:
            self.alignment[place + 1] = outputs["alignment_heads_weights"][0]

    def decode(self, prompt: list[int], longest: int) -> tuple[list[int], np.ndarray]:
        """(the prompt and the most likely tokens behind it, the scores of every call)."""
        tokens, scores = list(prompt), []
        following = prompt[-1]
        for place in range(longest - 1):
            if place < len(prompt):
                following = tokens[place]
            outputs = self.predict(following, place)
            scores.append(outputs["logits"][0])
            following = int(outputs["logits"].argmax())
            if following == END and place >= len(prompt) - 1:
                break
            if place >= len(prompt) - 1:
                tokens.append(following)
            self.keep(outputs, place)
        return tokens, np.concatenate(scores)


def check(value: np.ndarray, expected: np.ndarray, precision: str, noise: float = 55) -> None:
    assert np.ptp(expected) > 0
    if precision == "float32":
        assert difference(value, expected) <= 1e-5
    else:
        assert psnr(value, expected) >= noise


def heard(seed: int = 0, frames: int = 34) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 10, frames)).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_decoding_loop_equals_the_full_forward(target: str, precision: str) -> None:
    """One sequence of all the places that the decoder has, and where its heads look."""
    options = {"target": target, "precision": precision}
    encode, decode = (build(name, **options) for name in ("encode", "decode"))
    truth = reference(spoken(), TASK)
    inputs = {"input_features": heard(), "decoder_input_ids": tokens(1, 29)}
    expected = hf.forward(truth, inputs)
    states = encode.predict({"melspectrogram_features": heard()[:, :, None]})["encoder_output_embeds"]
    check(states[:, :, 0].transpose(0, 2, 1), expected["encoder_last_hidden_state"], precision)
    loop = TextDecoder(decode, states, precision)
    ids = inputs["decoder_input_ids"][0].tolist()
    rows = []
    for place, token in enumerate(ids):
        outputs = loop.predict(token, place)
        rows.append(outputs["logits"][0])
        if place + 1 < len(ids):
            loop.keep(outputs, place)
    check(np.concatenate(rows)[None], expected["logits"], precision)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        looks = truth(**tensors | {"decoder_input_ids": tensors["decoder_input_ids"].long()}, output_attentions=True)
    mean = np.mean([looks.cross_attentions[layer][0, head].numpy() for layer, head in HEADS], axis=0)
    check(loop.alignment[1:], mean[:-1], precision)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_answers_are_those_of_transformers(precision: str) -> None:
    """transformers' own greedy search, without what Whisper's generation adds to it; a token more would fill its context."""
    encode, decode = (build(name, precision=precision) for name in ("encode", "decode"))
    truth = reference(spoken(), TASK)
    lengths = set()
    for seed in range(8):
        prompt = tokens(1 + seed % 4, seed=seed).tolist()
        states = encode.predict({"melspectrogram_features": heard(seed)[:, :, None]})["encoder_output_embeds"]
        found, _ = TextDecoder(decode, states, precision).decode(prompt, 29)
        with torch.no_grad():
            theirs = transformers.GenerationMixin.generate(
                truth,
                input_features=torch.from_numpy(heard(seed)),
                decoder_input_ids=torch.tensor([prompt]),
                do_sample=False,
                max_length=29,
                eos_token_id=END,
                pad_token_id=5,
            )[0].tolist()
        assert found == theirs[: len(found)]
        assert theirs[len(found) :] in ([], [END])
        lengths.add(len(found) - len(prompt))
    assert max(lengths) > 10, "answers that end at once show nothing"


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("sound", ["speech", "sweep", "loud noise", "quiet noise"])
def test_the_spectrogram(sound: str, precision: str) -> None:
    """WhisperKit's contract rounds the samples themselves to float16: what is rounded off a loud sample is louder than the
    quiet bands beside it. Of rounded samples the spectrogram is as exact as any in float16."""
    model = build("mel", spoken(sizes=True), precision=precision)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    samples = SOUNDS[sound](480_000)
    made = runtime.load(model.package_path, None, "declared").predict({"audio": samples.astype(precision)})
    made = made["melspectrogram_features"][:, :, 0]
    expected = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"]
    if precision == "float32":
        assert difference(made, expected) <= WORST
        return
    rounded = samples.astype(np.float16).astype(np.float32)
    own = extractor._np_extract_fbank_features(rounded[None], "cpu")
    if "noise" in sound:
        assert min(psnr(made, expected), psnr(made, own)) >= 70
    else:
        assert 60 <= psnr(made, expected) <= 70, "docs/whisperkit.md says so"
        assert psnr(made, own) >= 80


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_from_sound_to_scores(precision: str) -> None:
    mel, encode, decode = (build(name, precision=precision) for name in ("mel", "encode", "decode"))
    extractor = transformers.WhisperFeatureExtractor(feature_size=10)
    sound = SOUNDS["speech"](16000 + WINDOW)[16000:]
    features = extractor._np_extract_fbank_features(sound[None], "cpu")
    ids = tokens(1, 28)
    expected = hf.forward(reference(spoken(), TASK), {"input_features": features, "decoder_input_ids": ids})["logits"]
    data = mel.predict({"audio": sound})
    states = encode.predict(data)["encoder_output_embeds"]
    _, scores = TextDecoder(decode, states, precision).decode(ids[0].tolist(), 29)
    check(scores[None], expected, precision)


def test_a_mask_and_a_position_of_the_callers_own() -> None:
    """What is seen is what the padding mask shows, wherever the token stands; the new key takes the marked slot."""
    decode = build("decode", precision="float32")
    random = np.random.default_rng(3)
    states = random.normal(size=(1, 24, 1, 17)).astype(np.float32)
    loop = TextDecoder(decode, states, "float32")
    for place, token in enumerate([7, 8, 9]):
        loop.keep(loop.predict(token, place), place)
    plain = loop.predict(10, 3)["logits"]
    # The same four tokens in other slots, the others full of noise.
    order = [4, 11, 2, 20]
    moved = TextDecoder(decode, states, "float32")
    moved.key_cache[:], moved.value_cache[:] = random.normal(size=(2, *moved.key_cache.shape))
    moved.padding_mask[:], moved.update_mask[:] = -10_000, 0
    for place, slot in enumerate(order[:3]):
        moved.key_cache[..., slot], moved.value_cache[..., slot] = (
            loop.key_cache[..., place],
            loop.value_cache[..., place],
        )
    moved.padding_mask[0, order], moved.update_mask[0, order[3]] = 0, 1
    assert difference(moved.predict(10, 3)["logits"], plain) <= 1e-5
    moved.padding_mask[0, 0] = 0
    assert difference(moved.predict(10, 3)["logits"], plain) > 1e-3
    assert difference(loop.predict(10, 5)["logits"], plain) > 1e-3


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("function", ["mel", "encode", "decode"])
def test_validate(function: str, precision: str) -> None:
    """Each package by itself."""
    model = build(function, precision=precision)
    report = milbuild.validate(model, spoken())
    assert report.passed, report
    outputs = {
        "mel": {"melspectrogram_features"},
        "encode": {"encoder_output_embeds"},
        "decode": {"logits", "alignment_heads_weights"},
    }
    assert {row.output for row in report.rows} == outputs[function]
    modules = [output.module for output in report.drift.outputs] if report.drift else ()
    halves = {half for half in ("encoder", "decoder") if any(name.startswith(f"model.{half}.") for name in modules)}
    assert halves == {"mel": set(), "encode": {"encoder"}, "decode": {"decoder"}}[function]
    with pytest.raises(milbuild.Error, match="compared by itself"):
        milbuild.validate(model, spoken(), encoder=model)


def test_validate_with_names_of_ones_own() -> None:
    changes: dict[str, Any] = {"logits": "scores", "alignment_heads_weights": None}
    model = build("decode", inputs={"input_ids": "token"}, outputs=changes, precision="float32")
    report = milbuild.validate(model, spoken())
    assert report.passed
    assert {row.output for row in report.rows} == {"logits"}
    model = build("decode", outputs={"value_cache_updates": None})
    with pytest.raises(milbuild.Error, match="built without the output value_cache_updates"):
        milbuild.validate(model, spoken())


def test_what_generates_refuses_them() -> None:
    """WhisperKit does that; neither half fits another interface's."""
    plain = milbuild.build(checkpoint("whisper", TASK), function="decode", sequence_length=WINDOW, postprocess=False)
    for function in INTERFACES["whisperkit"].packages:
        with pytest.raises(milbuild.Error, match="is for whisperkit, which runs it itself"):
            Session(build(function))
        with pytest.raises(milbuild.Error, match="is for whisperkit, which runs it itself"):
            Session(plain, build(function))


def test_a_shorter_window_and_cache() -> None:
    options: dict[str, Any] = {"sequence_length": 10 * 320, "context_length": 9, "precision": "float32"}
    encode, decode, mel = (build(name, **options) for name in ("encode", "decode", "mel"))
    assert mel.interface.output[0].type.multiArrayType.shape == [1, 10, 1, 20]
    assert encode.interface.output[0].type.multiArrayType.shape == [1, 24, 1, 10]
    shapes = {feature.name: feature.type.multiArrayType.shape for feature in decode.interface.input}
    assert shapes["key_cache"] == [1, 48, 1, 9]
    for model in (encode, decode, mel):
        assert milbuild.validate(model, spoken()).passed


def test_spectrograms_are_heard_without_a_feature_extractor() -> None:
    """AudioEncoder and TextDecoder need none."""
    bare = checkpoint("whisper", TASK)
    for function in ("encode", "decode"):
        model = milbuild.build(bare, interface="whisperkit", function=function, precision="float32")
        assert milbuild.validate(model, bare).passed
    with pytest.raises(milbuild.Error, match="no feature extractor that says how its spectrogram is made"):
        milbuild.build(bare, interface="whisperkit", function="mel")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"function": None}, "whisperkit takes a package for each function, and function is none"),
        ({"function": "main"}, "function is 'main'; it must be one of mel, encode, decode"),
        ({"cache": "state"}, "whisperkit has no cache state; it has io"),
        ({"cache": "none"}, "whisperkit has no cache none; it has io"),
        ({"prefill_length": 4}, "it has no prefill_length"),
        ({"batch_size": 2}, "one recording at a time, and batch_size is 2"),
        ({"context_length": (1, 9)}, "a cache of one size, and context_length is 1:9"),
        ({"context_length": 30}, "the checkpoint's answers end at 29 tokens"),
        ({"postprocess": False}, "it has no raw tensors"),
        ({"attention_mask": True}, "it has no attention_mask"),
        ({"target": "iOS15"}, "needs iOS16, and the target is iOS15"),
        ({"task": "feature-extraction"}, "is for speech-seq2seq, not feature-extraction"),
        ({"interface": "milbuild", "function": "mel"}, "function is 'mel'; it must be one of encode, decode"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(milbuild.Error) as error:
        milbuild.build(spoken(), **{"interface": "whisperkit", "function": "decode"} | options)
    assert words in error.value.message


def test_other_models_are_refused() -> None:
    with pytest.raises(milbuild.Error, match="is for speech-seq2seq, not text-generation"):
        milbuild.build(checkpoint(), interface="whisperkit", function="decode")


@pytest.mark.parametrize("heads", [[[0, 3]], [[2, 0]], [[0, -1]], [0, 1], [["0", 1]], 3], ids=str)
def test_heads_that_are_none(heads: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(spoken(), tmp_path / "c")
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
    with pytest.raises(milbuild.Error, match="alignment_heads"):
        build("decode", folder)


def _no_slot(self: Any, layer: int, k: Any, v: Any) -> Any:
    self.present.append((k, v))
    return self._past[0][layer], self._past[1][layer]


def _slot_keeps(original: Any) -> Any:
    """The new keys are added to what stands in their slot."""

    def update(self: Any, layer: int, k: Any, v: Any) -> Any:
        key, value = original(self, layer, k, v)
        return key, mb.add(x=value, y=self._past[1][layer])

    return update


def _swapped(original: Any) -> Any:
    def outputs(layout: Any, kept: Any) -> Any:
        key, value = original(layout, kept)
        return [key._replace(value=value.value), value._replace(value=key.value)]

    return outputs


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the new key is not seen": lambda patch: patch.setattr(SlotCache, "update", _no_slot),
    "values count twice": lambda patch: patch.setattr(SlotCache, "update", _slot_keeps(SlotCache.update)),
    "everything is seen": lambda patch: patch.setattr(
        SlotCache, "key_positions", lambda self, window=None: mb.mul(x=self._keys, y=np.int32(0))
    ),
    "keys are kept as values": lambda patch: patch.setattr(slots, "outputs", _swapped(slots.outputs)),
    "another head": lambda patch: patch.setattr(
        whisperkit, "alignment_heads", lambda checkpoint, geometry: [(0, 1), (1, 0), (1, 1)]
    ),
    "keys of the sound are its values": lambda patch: patch.setattr(
        Whisper, "cross", lambda self, hidden, layer=None, made=Whisper.cross: made(self, hidden, layer)[::-1]
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        model = build("decode", precision="float32")
        model.package_path  # noqa: B018 -- saved while the fault is in
    assert not milbuild.validate(model, spoken()).passed


def test_the_commands_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They make the folder that WhisperKit loads; without a function none is made, and the answer names the three."""
    document = (Path(__file__).parents[1] / "docs" / "whisperkit.md").read_text()
    commands = re.findall(r"^milbuild (build .*)$", document, re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / re.findall(r"^mkdir (\S+)$", document, re.MULTILINE)[0]).mkdir()
    runner = CliRunner()
    for command in commands:
        arguments = command.replace("openai/whisper-tiny", str(spoken())).split()
        assert runner.invoke(app, arguments).exit_code == 0
    names = sorted(path.name for path in (tmp_path / "whisper-tiny").iterdir())
    assert names == sorted(f"{name}.mlpackage" for name in INTERFACES["whisperkit"].packages.values())
    result = runner.invoke(app, ["validate", "whisper-tiny/TextDecoder.mlpackage", str(spoken()), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (0, "passed")
    with pytest.raises(milbuild.Error, match=r"MelSpectrogram\.mlpackage") as error:
        milbuild.build(spoken(), interface="whisperkit")
    assert "AudioEncoder.mlpackage" in str(error.value)
    assert "TextDecoder.mlpackage" in str(error.value)
