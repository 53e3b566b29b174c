"""Speech as text: sound files, resampling, and transcripts token by token as transformers' Whisper generates them."""

import functools
import json
import re
import shutil
import struct
import sys
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

import milbuild
from milbuild.cli import app
from milbuild.cli import generate as generate_command
from milbuild.generation import audio
from milbuild.generation.rules import Timestamps
from milbuild.generation.speech import Transcript, segments
from milbuild.generation.text import TextStream
from tests.conftest import checkpoint as tiny
from tests.helpers.command_line import CommandLine, assert_refused
from tests.tiny import TABLE

# A vocabulary in Whisper's order: text, the end, the beginning, languages, tasks, marks, timestamps of 17 states.
EOS, START, LANGUAGES = 40, 41, {"<|en|>": 42, "<|de|>": 43, "<|ru|>": 44}
TASKS = {"translate": 45, "transcribe": 46}
MARKER, TIMES = 50, 18
VOCABULARY = MARKER + 1 + TIMES
WINDOW = 34 * 160
GENERATION: dict[str, Any] = {
    "decoder_start_token_id": START,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
    "no_timestamps_token_id": MARKER,
    "max_initial_timestamp_index": 5,
    "prev_sot_token_id": 48,
    "return_timestamps": False,
    "max_length": 29,
    "suppress_tokens": [1, 7, *range(START, MARKER)],
    "begin_suppress_tokens": [3, EOS],
}
ENGLISH = {"is_multilingual": False, "forced_decoder_ids": [[1, MARKER]]}
MANY: dict[str, Any] = {"is_multilingual": True, "lang_to_id": LANGUAGES, "task_to_id": TASKS}
OLD = MANY | {"forced_decoder_ids": [[1, None], [2, TASKS["transcribe"]]]}
PROCESSOR = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 10, "hop_length": 160, "n_fft": 400,
             "sampling_rate": 16000, "chunk_length": 30, "padding_value": 0.0}  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", *LANGUAGES, *(f"<|{task}|>" for task in TASKS)]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json of words; timestamps are no part of it, as in Whisper's first tokenizers."""
    words = {f"w{number}": number for number in range(EOS)} | {word: EOS + at for at, word in enumerate(SPECIAL)}
    added = [
        {"id": words[word], "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for word in SPECIAL
    ]  # fmt: skip
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    return {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="milbuild-tests-speech-")


def checkpoint(seed: int = 0, **generation: Any) -> Path:
    """A checkpoint whose generation_config.json has these fields besides GENERATION's."""
    return _checkpoint(seed, json.dumps(GENERATION | generation))


@functools.cache
def _checkpoint(seed: int, generation: str) -> Path:
    folder = Path(_folder().name) / str(len(list(Path(_folder().name).iterdir())))
    fields = TABLE["whisper"].config | {
        "vocab_size": VOCABULARY,
        "pad_token_id": EOS,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }
    fields["decoder_start_token_id"] = START
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "embed_positions" in name else 0.5
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(generation)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def noise(windows: float, seed: int = 0) -> np.ndarray:
    """Noise that changes its loudness from frame to frame."""
    random, count = np.random.default_rng(seed), int(windows * WINDOW)
    loud = np.repeat(random.uniform(0.003, 0.3, count // 160 + 1), 160)[:count]
    return (random.standard_normal(count) * loud).astype(np.float32)


@functools.cache
def build(folder: Path, **options: Any) -> milbuild.Model:
    return milbuild.build(folder, precision="float32", **options)


@functools.cache
def loaded(folder: Path, states: int) -> tuple[Any, Any]:
    """transformers' model, its encoder cut to so many states, and feature extractor."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    if states < 17:
        places = model.model.encoder.embed_positions
        places.weight = torch.nn.Parameter(places.weight[:states], requires_grad=False)
        places.num_embeddings = model.config.max_source_positions = states
    return model, transformers.WhisperFeatureExtractor.from_pretrained(folder)


def theirs(folder: Path, audio: np.ndarray, *, states: int = 17, windowed: bool = False, **options: Any) -> Any:
    """transformers' segments. With fewer `states` its encoder is cut to a shorter window, and it may say no time behind it;
    `windowed` lets it hear each window by itself."""
    model, extractor = loaded(folder, states)
    frames = 2 * states
    if states < 17:
        beyond = range(MARKER + 1 + states + 1, VOCABULARY)
        options["suppress_tokens"] = [*model.generation_config.suppress_tokens, *beyond]

    def hear(samples: np.ndarray) -> torch.Tensor:
        padded = np.pad(samples, (0, max(0, frames * 160 - len(samples))))
        made = extractor(padded, truncation=False, padding="longest", sampling_rate=16000, return_tensors="pt")
        return made.input_features

    features = hear(audio)
    if windowed:
        features[:, :, :frames] = hear(audio[: frames * 160])
    with pytest.MonkeyPatch.context() as patch:
        if windowed:
            segment = lambda seek, **_: hear(audio[int(seek) * 160 : (int(seek) + frames) * 160])  # noqa: E731
            patch.setattr(model, "_get_input_segment", segment)
        found = model.generate(features, return_segments=True, **options)["segments"][0]
    return [(float(each["start"]), float(each["end"]), each["tokens"].tolist()) for each in found]


def ours(package: Any, folder: Path, audio: Any, **options: Any) -> list[tuple[float, float, list[int]]]:
    return [(each.start, each.end, each.tokens) for each in Transcript(package, str(folder), audio, **options)]


def assert_equal(found: list[tuple[float, float, list[int]]], expected: list[tuple[float, float, list[int]]]) -> None:
    assert [tokens for _, _, tokens in found] == [tokens for _, _, tokens in expected]
    assert np.allclose([each[:2] for each in found], [each[:2] for each in expected])


# Transcripts

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # fields of generation_config.json, options of ours, options of transformers
    "English only": (ENGLISH, {}, {}),
    "many languages, heard": (MANY, {}, {}),
    "many languages, heard, forced ids of old": (OLD, {}, {}),
    "a language": (OLD, {"language": "de"}, {"language": "de"}),
    "a language by its name": (MANY, {"language": "Russian"}, {"language": "Russian"}),
    "a translation": (OLD, {"translate": True}, {"task": "translate"}),
    "a translation from a language": (MANY, {"translate": True, "language": "<|ru|>"},
                                      {"task": "translate", "language": "ru"}),
    "written down": (MANY | {"language": "de", "task": "transcribe"}, {}, {}),
    "nothing suppressed": (ENGLISH | {"suppress_tokens": None, "begin_suppress_tokens": None}, {}, {}),
    "other rules": (ENGLISH | {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}, {}, {}),
    "times when asked for nothing": (ENGLISH | {"return_timestamps": True}, {}, {}),
    "any first time": (ENGLISH | {"max_initial_timestamp_index": None}, {}, {}),
    "few tokens": (ENGLISH, {"max_new_tokens": 9}, {"max_new_tokens": 9}),
}  # fmt: skip


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_transformers(name: str, timestamps: bool) -> None:
    fields, options, options_of_theirs = CASES[name]
    given = options_of_theirs | ({"return_timestamps": True} if timestamps else {})
    for seed, windows in ((0, 1.0), (1, 0.6)):
        folder, audio = checkpoint(seed, **fields), noise(windows, seed)
        package = build(folder, cache="io", postprocess=False)
        expected = theirs(folder, audio, **given)
        assert len({token for _, _, tokens in expected for token in tokens}) > 2, (
            "tokens that are all alike show nothing"
        )
        assert_equal(ours(package, folder, audio, timestamps=timestamps, **options), expected)


@pytest.mark.parametrize("seed", [0, 2, 4, 5])
def test_long_sounds(seed: int) -> None:
    folder = checkpoint(seed % 3, **(OLD if seed > 2 else ENGLISH))
    package, audio = build(folder, cache="io", postprocess=False), noise(2.5, seed)
    expected = theirs(folder, audio, return_timestamps=True)
    assert len(expected) >= 3
    assert_equal(ours(package, folder, audio, timestamps=True), expected)
    assert_equal(ours(package, folder, audio), expected)


BUILDS: dict[str, dict[str, Any]] = {
    "no cache": {},
    "no cache, ranged": {"context_length": (1, 29), "logits": "last"},
    "io, prefill": {"cache": "io", "prefill_length": 4, "logits": "last"},
    "io, growing": {"cache": "io", "context_length": (1, 29)},
    "state": {"cache": "state"},
    "state, prefill": {"cache": "state", "prefill_length": 3, "logits": "last"},
}


@pytest.mark.parametrize(("name", "raw"), [*((name, False) for name in BUILDS), ("no cache", True), ("state", True)])
def test_every_cache(name: str, raw: bool) -> None:
    """Packages of plain samples hear each window by itself."""
    folder, audio = checkpoint(2, **OLD), noise(1.7, 2)
    package = build(folder, postprocess=not raw, **BUILDS[name])
    transcript = Transcript(package, str(folder), audio, timestamps=True)
    expected = theirs(folder, audio, windowed=not raw, return_timestamps=True)
    assert_equal([(each.start, each.end, each.tokens) for each in transcript], expected)
    assert transcript.heard_language() in ("en", "de", "ru")
    assert ("prefill" in name) == (transcript.session.calls.get("prefill", 0) > 0)


@pytest.mark.parametrize("cache", ["none", "io", "state"])
def test_two_packages(cache: str) -> None:
    folder, audio = checkpoint(2, **OLD), noise(1.7, 1)
    encode, decode = (build(folder, cache=cache, function=name) for name in ("encode", "decode"))
    expected = theirs(folder, audio, windowed=True, return_timestamps=True)
    assert_equal(ours(decode, folder, audio, encoder=encode), expected)


@pytest.mark.parametrize("raw", [False, True])
def test_shorter_windows(raw: bool) -> None:
    for seed, states in ((0, 10), (2, 16)):
        folder, audio = checkpoint(seed, **ENGLISH), noise(1.5, seed)
        package = build(folder, cache="io", postprocess=not raw, sequence_length=states * 320)
        expected = theirs(folder, audio, states=states, windowed=not raw, return_timestamps=True)
        assert_equal(ours(package, folder, audio, timestamps=True), expected)


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        (ENGLISH, {}, [START, MARKER]),
        (ENGLISH, {"timestamps": True}, [START]),
        (MANY, {}, [START, "heard", MARKER]),
        (OLD, {}, [START, "heard", 46, MARKER]),
        (OLD, {"timestamps": True}, [START, "heard", 46]),
        (OLD, {"translate": True}, [START, "heard", 45, MARKER]),
        (OLD, {"language": "en"}, [START, 42, 46, MARKER]),
        (MANY, {"language": "GERMAN", "translate": True}, [START, 43, 45, MARKER]),
        (MANY | {"language": "ru", "task": "translate"}, {}, [START, 44, 45, MARKER]),
        (MANY | {"forced_decoder_ids": [[1, 44], [2, 46], [3, MARKER]]}, {}, [START, 44, 46, MARKER]),
        ({"no_timestamps_token_id": None}, {}, [START]),
    ],
)
def test_the_beginning(fields: dict[str, Any], options: dict[str, Any], expected: list[Any]) -> None:
    folder = checkpoint(0, **fields)
    transcript = Transcript(build(folder, cache="io", postprocess=False), str(folder), noise(1), **options)
    list(transcript)
    if "heard" in expected:
        model, extractor = loaded(folder, 17)
        features = extractor(noise(1), truncation=False, padding="longest", sampling_rate=16000, return_tensors="pt")
        heard = int(model.detect_language(features.input_features)[0])
        expected = [heard if each == "heard" else each for each in expected]
        assert LANGUAGES[f"<|{transcript.heard_language()}|>"] == heard
    assert transcript.start == expected


def test_the_most_tokens() -> None:
    """What is asked for, else what generation_config.json says, else what the context leaves."""
    for fields, options, most in [
        ({}, {}, 27),
        ({}, {"timestamps": True}, 28),
        ({"max_length": 7}, {}, 7),
        ({"max_new_tokens": 5, "max_length": 7}, {}, 5),
        ({"max_length": 7}, {"max_new_tokens": 9}, 9),
    ]:
        folder = checkpoint(0, **ENGLISH, **fields)
        assert Transcript(build(folder, cache="io"), str(folder), noise(1), **options).most == most


def test_text_is_that_of_the_tokens() -> None:
    folder = checkpoint(0, **ENGLISH)
    package, audio = build(folder, cache="io"), noise(1.5)
    parts = list(Transcript(package, str(folder), audio))
    words = [[f"w{token}" for token in part.tokens if token < EOS] for part in parts]
    assert [part.text for part in parts] == [" ".join(each) for each in words]
    assert milbuild.transcribe(package, str(folder), audio) == "".join(part.text for part in parts).strip()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.warns(UserWarning, match="the tokenizer has 51 tokens, and the package knows 69"):
        said = milbuild.transcribe(package, tokens, audio)
    assert said == milbuild.transcribe(package, str(folder), audio)


@pytest.mark.parametrize("fields", [{}, {"max_initial_timestamp_index": None}, {"eos_token_id": None}])
def test_timestamp_rules_are_those_of_transformers(fields: dict[str, Any]) -> None:
    generation = GENERATION | fields
    config = transformers.GenerationConfig(**generation)
    known = {name: value for name, value in generation.items() if value is not None}
    random = np.random.default_rng(0)
    theirs = transformers.WhisperTimeStampLogitsProcessor(config, begin_index=2)
    ours = Timestamps(known, 2, TIMES - 1)
    for _ in range(300):
        count, kinds = random.integers(0, 7), random.integers(0, 2, 7)
        new = [int(random.integers(MARKER + 1, VOCABULARY) if kind else random.integers(EOS)) for kind in kinds[:count]]
        scores = 3 * random.standard_normal(VOCABULARY, np.float32)
        scores[MARKER + 1 :] += random.choice([-9, -4, 0])
        sequence = [START, 46, *new]
        expected = theirs(torch.tensor([sequence]), torch.from_numpy(scores)[None])[0].numpy()
        assert np.array_equal(ours(scores, sequence), expected)
    assert np.isneginf(Timestamps(known, 2, 9)(scores, sequence)[MARKER + 11 :]).all(), "behind the window"


def test_segments_are_those_of_transformers() -> None:
    cut = transformers.WhisperForConditionalGeneration._retrieve_segment
    random, first = np.random.default_rng(0), 51
    for _ in range(500):
        kinds = random.integers(0, 3, random.integers(0, 9))
        tokens = [int(random.integers(first + 1, first + 18) if kind else random.integers(40)) for kind in kinds]
        frames = int(random.integers(1, 18)) * 2
        expected, used = cut(
            seek_sequence=torch.tensor(tokens, dtype=torch.long),
            seek_outputs=[None],
            time_offset=torch.zeros(1, dtype=torch.float64),
            timestamp_begin=first,
            seek_num_frames=[frames],
            time_precision=1.0,
            time_precision_features=0.5,
            input_stride=2,
            prev_idx=0,
            idx=0,
            return_token_timestamps=False,
            decoder_input_ids=torch.zeros(1, 3),
        )
        found, covered = segments(tokens, first, frames)
        assert [(float(start), float(end), part) for start, end, part in found] == [
            (float(each["start"]), float(each["end"]), each["tokens"].tolist()) for each in expected
        ]
        assert covered == int(used)


def test_the_same_window_is_not_heard_for_ever() -> None:
    assert segments([51, 51, 3], 51, 34) == ([(0, 0, [51, 51])], 34)


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        (ENGLISH, {"language": "en"}, "for English only"),
        (ENGLISH, {"translate": True}, "for English only"),
        ({}, {"language": "en"}, "has no lang_to_id"),
        ({}, {"translate": True}, "task_to_id in generation_config.json knows none"),
        (MANY, {"language": "klingon"}, "knows de, en, ru"),
        (MANY, {"language": "french"}, "knows de, en, ru"),
        (MANY, {"max_new_tokens": 27}, "after 3 tokens the context of 29 leaves 1 to 26"),
        (MANY, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"no_timestamps_token_id": None}, {"timestamps": True}, "timestamps is set"),
        (MANY | {"forced_decoder_ids": [[1, None], [3, 46]]}, {}, "leaves out place 2"),
        (MANY, {"audio": np.zeros(5, np.int16)}, "type int16"),
        (MANY, {"audio": np.zeros((5, 2))}, "shape (5, 2)"),
        (MANY, {"audio": np.zeros(0)}, "shape (0,)"),
        (MANY, {"audio": np.full(5, np.nan)}, "not finite numbers"),
        (MANY, {"audio": "nowhere.wav"}, "there is no audio file nowhere.wav"),
    ],
)
def test_what_cannot_be_written_down(fields: dict[str, Any], options: dict[str, Any], words: str) -> None:
    folder = checkpoint(0, **fields)
    with pytest.raises(milbuild.Error) as caught:
        Transcript(build(folder, cache="io"), str(folder), **({"audio": noise(1)} | options))
    assert words in str(caught.value)


def test_packages_and_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    folder = checkpoint(0, no_timestamps_token_id=None)
    with pytest.raises(milbuild.Error, match="longer than the window of 0\\.34 seconds"):
        Transcript(build(folder, cache="io"), str(folder), noise(1.1))
    raw = build(folder, cache="io", postprocess=False)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(milbuild.Error, match="a tokenizer makes none"):
        Transcript(raw, tokens, noise(1))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"feature_size": 11}))
    with pytest.raises(
        milbuild.Error, match="makes 11 bands and 34 frames of 5440 samples; the package takes 10 bands"
    ):
        Transcript(raw, str(other), noise(1))
    (other / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"sampling_rate": 16002}))
    with pytest.raises(milbuild.Error, match="refuses the audio"):
        Transcript(raw, str(other), noise(1))
    (other / "preprocessor_config.json").unlink()
    with pytest.raises(milbuild.Error, match="other has no feature extractor"):
        Transcript(raw, str(other), noise(1))
    text = milbuild.build(tiny("bart", "text2text-generation"), sequence_length=11, cache="io", context_length=13)
    with pytest.raises(milbuild.Error, match="for text2text-generation, not for speech"):
        Transcript(text, str(folder), noise(1))
    with pytest.raises(milbuild.Error, match="not for text-generation") as caught:
        TextStream(raw, str(folder), "w1")
    assert "--audio" in str(caught.value)


# Sound files


def write(path: Path, samples: np.ndarray, width: int, rate: int = 16000) -> Path:
    """Samples (n,) or (n, channels) from -1 to 1 as a WAV file of so many bytes a sample."""
    whole = np.clip(np.round(samples * 2.0 ** (8 * width - 1)), -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)
    parts = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes((parts ^ 0x80 if width == 1 else parts).tobytes())
    return path


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wave_files(width: int, channels: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-1, 0.99, (777, channels))
    samples[0], samples[1] = -1, 0.5
    samples = samples[:, 0] if channels == 1 else samples
    found = audio.read(write(tmp_path / "a.wav", samples, width))
    expected = samples if channels == 1 else samples.mean(axis=1)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 2.0 ** (-8 * width) * 1.01 + 1e-7


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_an_ideal_sine(rate: int) -> None:
    for frequency in (50, 1000, 3300, 7000):
        if frequency > 0.45 * rate:
            continue
        found = audio.resample(np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32), rate)
        assert len(found) == 16000
        expected = np.sin(2 * np.pi * frequency * np.arange(16000) / 16000)
        # At its ends the sine begins out of silence.
        # soxr's own error: at 44100 and 22050 Hz it grows with the frequency, to 7.5e-4 of a tone of 7000 Hz.
        assert np.abs(found - expected)[200:-200].max() < (2e-5 if frequency < 7000 else 1e-3), frequency


@pytest.mark.parametrize(("rate", "frequency"), [(48000, 8000), (44100, 11000), (96000, 30000), (32000, 9000)])
def test_resampling_leaves_nothing_beyond_the_band(rate: int, frequency: int) -> None:
    found = audio.resample(np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32), rate)
    assert np.abs(found)[200:-200].max() < 2e-5


@pytest.mark.parametrize("count", [1, 2, 441, 442, 1000])
def test_resampling_keeps_the_place_and_the_length(count: int) -> None:
    for rate in (8000, 16000, 44100, 47999):
        assert abs(len(audio.resample(np.ones(count, np.float32), rate)) - count * 16000 / rate) <= 0.5
    pulse = np.zeros(4410, np.float32)
    pulse[2205] = 1
    assert audio.resample(pulse, 44100).argmax() == 800


def test_resampling_a_file(tmp_path: Path) -> None:
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    found = audio.read(write(tmp_path / "a.wav", sine, 3, rate=22050))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(found - expected)[200:-200].max() < 2e-5


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain WAV file of 16 kHz needs none; others say what to install, and what to do without it."""
    for name in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(audio.read(write(tmp_path / "a.wav", noise(1), 2))) == len(noise(1))
    write(tmp_path / "b.wav", noise(1), 2, rate=44100)
    (tmp_path / "c.flac").write_bytes(b"fLaC")
    for file, said in ("b.wav", "has 44100 samples a second"), ("c.flac", "is no WAV file"):
        with pytest.raises(milbuild.Error, match=said) as error:
            audio.read(tmp_path / file)
        assert (error.value.hint or "").startswith(
            "pip install 'milbuild[audio]', or make a WAV file of it: ffmpeg -i "
        )


@pytest.mark.parametrize(("suffix", "subtype"), [("flac", "PCM_24"), ("wav", "FLOAT"), ("ogg", "VORBIS")])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_formats_that_soundfile_reads(suffix: str, subtype: str, rate: int, tmp_path: Path) -> None:
    """Of two channels, whose mean is what soundfile and soxr give by themselves."""
    import soundfile
    import soxr

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4410, 2))
    soundfile.write(tmp_path / f"a.{suffix}", samples, rate, subtype=subtype)
    decoded = soundfile.read(tmp_path / f"a.{suffix}", dtype="float32")[0].mean(axis=1)
    expected = decoded if rate == 16000 else soxr.resample(decoded, rate, 16000, "VHQ")
    found = audio.read(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(found, expected)
    if suffix != "ogg" and rate == 16000:
        assert np.abs(found - samples.mean(axis=1)).max() < 2e-7


def spoiled(tmp_path: Path, change: Callable[[bytearray], Any]) -> Path:
    path = write(tmp_path / "a.wav", noise(1), 2)
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)
    return path


RUBBISH: dict[str, tuple[Callable[[bytearray], Any], str]] = {
    "empty": (lambda data: bytearray(b"\0") * 0 or data.clear(), "within its header"),
    "text": (lambda data: bytearray(b"I am no sound, I am a text."), "RIFF"),
    "MP3": (lambda data: bytearray(b"ID3\4\0\0" + bytes(300)), "RIFF"),
    "no data": (lambda data: data[:36], "data chunk"),
    "cut in its header": (lambda data: data[:20], "within its header"),
    "floats": (lambda data: data.__setitem__(slice(20, 22), struct.pack("<H", 3)), "unknown format: 3"),
    "no channels": (lambda data: data.__setitem__(slice(22, 24), bytes(2)), "channels"),
    "no rate": (lambda data: data.__setitem__(slice(24, 28), bytes(4)), "0 samples a second"),
    "a rate of a million": (lambda data: data.__setitem__(slice(24, 28), struct.pack("<I", 10**6)), "1000000 samples"),
    "64 bits": (lambda data: data.__setitem__(slice(34, 36), struct.pack("<H", 64)), "64 bits"),
    "nothing in it": (lambda data: data.__setitem__(slice(40, 44), bytes(4)), "has no samples"),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    change, words = RUBBISH[name]
    with pytest.raises(milbuild.Error, match=words) as caught:
        audio.read(spoiled(tmp_path, change))
    assert str(tmp_path / "a.wav") in caught.value.message
    if "samples a second" not in words and "samples" not in words and "no samples" not in words:
        assert "ffmpeg -i a.wav" in str(caught.value.hint)


def test_a_file_that_was_cut_off_ends_with_its_last_frame(tmp_path: Path) -> None:
    assert len(audio.read(spoiled(tmp_path, lambda data: data[: 44 + 2 * 1000 + 1]))) == 1000


def test_other_formats_are_left_to_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Soundfile:
        @staticmethod
        def read(path: Path, dtype: str, always_2d: bool) -> tuple[np.ndarray, int]:
            if path.read_bytes() != b"flac":
                raise RuntimeError("Format not recognised.")
            return np.full((800, 2), (0.25, 0.5), np.float32), 8000

    monkeypatch.setitem(sys.modules, "soundfile", Soundfile)
    (tmp_path / "a.flac").write_bytes(b"flac")
    found = audio.read(tmp_path / "a.flac")
    assert len(found) == 1600
    assert np.allclose(found[200:-200], 0.375, atol=1e-5)
    (tmp_path / "b.flac").write_bytes(b"blob")
    with pytest.raises(milbuild.Error, match="no audio file that soundfile can read: Format not recognised"):
        audio.read(tmp_path / "b.flac")
    with pytest.raises(milbuild.Error, match="there is no audio file"):
        audio.read(tmp_path)


# The command line


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint `c`, packages of it, whole and in halves, and a sound of one and a half windows at 8000 a second."""
    folder = tmp_path_factory.mktemp("spoken")
    shutil.copytree(checkpoint(2, **OLD), folder / "c")
    build(folder / "c", cache="io").save(folder / "w.mlpackage")
    for half in ("encode", "decode"):
        build(folder / "c", cache="io", postprocess=False, function=half).save(folder / f"{half}.mlpackage")
    write(folder / "a.wav", noise(0.75), 2, rate=8000)
    return folder


def generate(*arguments: Any) -> Any:
    """`milbuild generate` in this process."""
    result = CliRunner().invoke(app.app, ["generate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_command(spoken: Path, command: CommandLine) -> None:
    """Text to stdout, notes to stderr."""
    parts = list(Transcript(spoken / "w.mlpackage", spoken / "c", spoken / "a.wav"))
    assert len(parts) > 2
    result = command("generate", "w.mlpackage", "--audio", "a.wav", cwd=spoken)
    assert (result.code, result.out) == (0, "".join(part.text for part in parts).strip() + "\n")
    assert re.fullmatch(r"0\.5 s of audio at [\d.,]+ a second, \d+ tokens at [\d,]+ a second\n", result.err)


def test_lines_with_times(spoken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(spoken / "w.mlpackage", spoken / "c", spoken / "a.wav", timestamps=True)
    generate_command._transcribe(transcript, "a.wav", timestamps=True, as_json=False)
    lines, parts = capsys.readouterr().out.splitlines(), list(transcript)
    for line, part in zip(lines, parts, strict=True):
        assert line == f"[00:{part.start:05.2f} -> 00:{part.end:05.2f}] {part.text.strip()}"
    assert [generate_command._clock(seconds) for seconds in (0, 59.999, 3723.5)] == ["00:00.00", "01:00.00", "62:03.50"]


def test_command_for_machines(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(spoken)
    options = ("--audio", "a.wav", "--language", "de", "--translate", "--max-new-tokens", "20", "--json")
    result = generate("decode.mlpackage", "--encoder", "encode.mlpackage", *options)
    assert result.stderr == "The package takes input_features: transformers' WhisperFeatureExtractor makes them\n"
    found, asked = json.loads(result.stdout), {"language": "de", "translate": True, "max_new_tokens": 20}
    halves = {"package": spoken / "decode.mlpackage", "encoder": spoken / "encode.mlpackage"}
    parts = list(Transcript(tokenizer=spoken / "c", audio=spoken / "a.wav", **halves, **asked))
    assert (found["audio"], found["language"]) == ("a.wav", "de")
    assert found["text"] == "".join(part.text for part in parts).strip()
    assert [each["text"] for each in found["segments"]] == [part.text for part in parts]
    assert [each["start"] for each in found["segments"]] == [round(part.start, 2) for part in parts]
    assert found["sound_seconds"] == pytest.approx(0.51, abs=0.001)
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (("w.mlpackage",), "nothing to write about", "--audio"),
        (("w.mlpackage", "--prompt", "Hello", "--audio", "a.wav"), "both a prompt and audio", "One of them"),
        (
            ("w.mlpackage", "--prompt", "Hello", "--translate", "--language", "en"),
            "--language, --translate belongs",
            "--audio",
        ),
        (("w.mlpackage", "--audio", "a.wav", "--seed", "0"), "--seed belongs to text", None),
        (("w.mlpackage", "--audio", "b.wav"), "no audio file b.wav", None),
        (("w.mlpackage", "--audio", "c/config.json"), "is no audio file that soundfile can read", "ffmpeg"),
        (("w.mlpackage", "--audio", "a.wav", "--language", "xx"), "'xx'; the checkpoint knows de", None),
        (("decode.mlpackage", "--audio", "a.wav"), "the function decode only", "--encoder"),
        (("w.mlpackage", "--prompt", "Hello"), "for speech-seq2seq, not for text-generation", "--audio"),
    ],
)
def test_command_refuses(
    arguments: tuple[str, ...], words: str, hint: str | None, spoken: Path, command: CommandLine
) -> None:
    assert_refused(command("generate", *arguments, cwd=spoken), words, hint=hint)


def test_command_answers_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer alone, from one package or two."""
    shutil.copytree(tiny("t5", "text2text-generation"), tmp_path / "c")
    generation = tmp_path / "c" / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"num_beams": 4, "length_penalty": 2.0}))
    words = {f"w{number}": number for number in range(61)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    written = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    (tmp_path / "c" / "tokenizer.json").write_text(json.dumps(written))
    (tmp_path / "c" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    options = {"sequence_length": 11, "cache": "io", "context_length": 13, "precision": "float32"}
    milbuild.build(tmp_path / "c", **options).save(tmp_path / "t.mlpackage")
    for half in ("encode", "decode"):
        milbuild.build(tmp_path / "c", function=half, **options).save(tmp_path / f"{half}.mlpackage")
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "c").eval()
    ids = torch.tensor([[9, 8, 7]])
    expected = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, num_beams=1)[0]
    text = " ".join(f"w{token}" for token in expected[1:].tolist() if token != 2)
    monkeypatch.chdir(tmp_path)
    for package in (["t.mlpackage"], ["decode.mlpackage", "--encoder", "encode.mlpackage"]):
        result = generate(*package, "--prompt", "w9 w8 w7", "--max-new-tokens", "6")
        assert result.stdout == f"{text}\n"
        (note, _) = result.stderr.splitlines()
        assert note.startswith("note: ")
        assert note.endswith(": num_beams 4"), "what is not done is said, in a line"
        result = generate(*package, "--prompt", "w9 w8 w7", "--max-new-tokens", "6", "--json")
        assert [f"note: {said}" for said in json.loads(result.stdout)["warnings"]] == [note]
    with pytest.warns(UserWarning, match="num_beams 4"):
        assert milbuild.generate("t.mlpackage", tmp_path / "c", "w9 w8 w7", max_new_tokens=6) == text


def test_frames_of_another_length_are_refused(tmp_path: Path) -> None:
    """Every time in the transcript would be wrong."""
    folder = shutil.copytree(tiny("whisper", "speech-seq2seq"), tmp_path / "c")
    (folder / "preprocessor_config.json").write_text(json.dumps({"hop_length": 80}))
    model = milbuild.build(folder, cache="io", postprocess=False)
    with pytest.raises(milbuild.Error, match="17 states of a window of 2720 samples"):
        Transcript(model, folder, np.zeros(2720, np.float32))
