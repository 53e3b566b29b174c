"""The log-mel spectrogram against WhisperFeatureExtractor."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from milbuild import runtime
from milbuild.errors import Error
from milbuild.layers.spectrogram import log_mel, mel_filters
from milbuild.weights import Checkpoint, Cursor
from tests.conftest import difference, psnr
from tests.helpers.espeak import speech
from tests.test_runtime import program

WORDS = "The quick brown fox jumps over the lazy dog, and seven ships sail to a far shore."
LENGTHS = [201, 320, 1601, 16000, 30 * 16000]


def sweep(count: int) -> np.ndarray:
    """A tone that rises from 50 to 7900 Hz."""
    time = np.arange(count) / 16000
    turns = (50 + (7900 - 50) / 2 * time / time[-1]) * time
    return (0.5 * np.sin(2 * np.pi * turns)).astype(np.float32)


def spoken(count: int) -> np.ndarray:
    """The words, padded with silence or cut."""
    samples = speech(WORDS)[:count]
    return np.pad(samples, (0, count - len(samples)))


def noise(count: int, loud: float) -> np.ndarray:
    return (loud * np.random.default_rng(0).standard_normal(count)).astype(np.float32)


SOUNDS: dict[str, Any] = {
    "speech": spoken,
    "sweep": sweep,
    "silence": lambda count: np.zeros(count, np.float32),
    "quiet noise": lambda count: noise(count, 1e-4),
    "loud noise": lambda count: noise(count, 0.3),
}


def player(folder: Path, processor: dict[str, Any], shape: tuple[Any, ...], precision: str = "float32") -> Any:
    """The layer as a package that stands in the folder, played by the runtime."""
    w = Cursor(Checkpoint("c", folder, {}, {}), np.dtype(precision), "", "input_features")
    return runtime.load(
        program(folder, lambda samples: [log_mel(samples, processor, w)], {"samples": shape}, dtype="float32"),
        precision="declared",
    )


# The largest error of the range. How large it is depends on the order in which a kernel adds 400 numbers: of a tone that
# rises, 2.1e-5 with AVX-512 and 5.5e-5 with the kernels for the oldest processors, which add them one after the other. The
# extractor's own path in float32 is up to 3.8e-5 from that in float64.
WORST = 1e-4


def check(made: np.ndarray, expected: np.ndarray, worst: float = WORST) -> None:
    """Beside a tone or a voice stand bands that are 80 decibels below it, where the rounding of float32 shows: 1e-7 of the
    tone is 1e-3 of them, and a decade is a quarter of what comes out. On average errors are 10 to 300 times smaller."""
    assert difference(made, expected) <= worst
    assert np.abs(made - expected).mean() <= 1e-6


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("count", LENGTHS)
def test_the_spectrogram_is_that_of_transformers(sound: str, bands: int, count: int, tmp_path: Path) -> None:
    """Against the extractor's numpy path, in float64; with torch installed its default is another, in float32."""
    extractor, samples = WhisperFeatureExtractor(feature_size=bands), SOUNDS[sound](count)[None]
    expected = extractor._np_extract_fbank_features(samples, "cpu")
    made = player(tmp_path, extractor.to_dict(), samples.shape).predict({"samples": samples})["input_features"]
    assert made.shape == expected.shape == (1, bands, count // 160)
    assert made.dtype == np.float32
    if sound == "silence":
        assert np.ptp(expected) == 0
        assert np.abs(made - expected).max() <= 1e-6
    else:
        check(made, expected, 1e-5 if "noise" in sound else WORST)
        check(
            extractor._torch_extract_fbank_features(samples, "cpu"), expected
        )  # what is allowed is no more than its own


@pytest.mark.parametrize("bands", [80, 128])
def test_the_whole_extractor(bands: int, tmp_path: Path) -> None:
    """As it is called, on its path in float32: it pads speech to 30 seconds, and makes of these what the graph does."""
    extractor, samples = WhisperFeatureExtractor(feature_size=bands), speech(WORDS)
    expected = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"]
    given = np.pad(samples, (0, 480_000 - len(samples)))[None]
    made = player(tmp_path, extractor.to_dict(), given.shape).predict({"samples": given})["input_features"]
    assert made.shape == (1, bands, 3000)
    check(made, expected)


def test_rows_are_sounds_of_their_own(tmp_path: Path) -> None:
    """The quiet one is not lifted to what is below the loud one."""
    extractor = WhisperFeatureExtractor()
    samples = np.stack([sweep(8000), noise(8000, 1e-4), np.zeros(8000, np.float32)])
    expected = extractor._np_extract_fbank_features(samples, "cpu")
    made = player(tmp_path, extractor.to_dict(), samples.shape).predict({"samples": samples})["input_features"]
    check(made, expected)


def test_any_length_of_a_range(tmp_path: Path) -> None:
    extractor = WhisperFeatureExtractor()
    engine = player(tmp_path, extractor.to_dict(), (1, (201, 4000)))
    for count in (201, 319, 320, 321, 1600, 1759, 4000):
        samples = noise(count, 0.3)[None]
        expected = extractor._np_extract_fbank_features(samples, "cpu")
        assert difference(engine.predict({"samples": samples})["input_features"], expected) <= 1e-5, count


def test_float16_is_given_and_not_computed_in(tmp_path: Path) -> None:
    """The same to the last bit but for the cast, so that what is 80 decibels below the loudest keeps its 11 bits."""
    extractor, samples = WhisperFeatureExtractor(), sweep(16000)[None]
    made = [
        player(tmp_path, extractor.to_dict(), samples.shape, precision).predict({"samples": samples})["input_features"]
        for precision in ("float32", "float16")
    ]
    np.testing.assert_array_equal(made[0].astype(np.float16), made[1].astype(np.float16))
    assert psnr(made[1], extractor._np_extract_fbank_features(samples, "cpu")) >= 75


def test_it_takes_eleven_operations(tmp_path: Path) -> None:
    engine = player(tmp_path, WhisperFeatureExtractor().to_dict(), (1, 16000))
    kinds = " ".join(op.type for op in engine.function.operations if op.type != "const")
    assert kinds == "expand_dims pad conv square conv maximum log linear_activation reduce_max sub maximum"


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("bands", [1, 40, 80, 128])
@pytest.mark.parametrize("bins", [3, 201, 256, 257])
def test_the_filters_are_those_of_transformers(bands: int, bins: int, rate: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some bands have no bin
        expected = mel_filter_bank(bins, bands, 0.0, 8000.0, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(bands, bins, rate), expected.T, rtol=1e-9, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(4, 90),
    data=st.data(),
    bands=st.integers(1, 30),
    rate=st.sampled_from([4000, 8000, 16000, 44100]),
    more=st.integers(1, 300),
)
def test_any_sizes(
    size: int, data: st.DataObject, bands: int, rate: int, more: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Odd transforms, frames with gaps and without, bands that no bin falls into, any sampling rate."""
    assume(mel_filters(bands, size // 2 + 1, rate).any())
    hop = data.draw(st.integers(1, size // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor = WhisperFeatureExtractor(bands, rate, hop, n_fft=size)
    samples = noise(size // 2 + more, 0.3)[None]
    expected = extractor._np_extract_fbank_features(samples, "cpu")
    engine = player(tmp_path_factory.mktemp("any"), extractor.to_dict(), samples.shape)
    made = engine.predict({"samples": samples})["input_features"]
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 1e-5 * max(1, np.ptp(expected))


SAID = {"feature_size": 80, "hop_length": 160, "n_fft": 400, "sampling_rate": 16000}


@pytest.mark.parametrize(
    ("processor", "count", "message"),
    [
        ({}, 16000, "the checkpoint has no feature extractor that says how a sound becomes a spectrogram"),
        ({"sampling_rate": 16000}, 16000, "feature_size is None, hop_length is None, n_fft is None"),
        (SAID | {"n_fft": 400.5}, 16000, "does not say how a sound becomes a spectrogram: n_fft is 400.5"),
        (SAID | {"feature_size": True}, 16000, "feature_size is True"),
        (SAID | {"hop_length": 0}, 16000, "hop_length is 0"),
        (SAID | {"hop_length": 201}, 16000, "hop_length is 201 and n_fft 400; known is a hop_length of at most half"),
        (
            SAID | {"n_fft": 4, "hop_length": 1, "feature_size": 1, "sampling_rate": 44100},
            16000,
            "nothing is heard with n_fft 4",
        ),
        (SAID | {"dither": 1e-4}, 16000, "the checkpoint's feature extractor adds noise: dither is 0.0001"),
        (
            SAID | {"feature_extractor_type": "Speech2TextFeatureExtractor"},
            16000,
            "the checkpoint's feature extractor is Speech2TextFeatureExtractor; known is WhisperFeatureExtractor",
        ),
        (SAID, 200, "a sound of 200 samples has no spectrogram with n_fft 400\n\nhint: It needs 201 samples."),
    ],
)
def test_refusals(processor: dict[str, Any], count: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        player(tmp_path, processor, (1, count))
    assert message in str(caught.value)


def test_a_wrong_graph_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these is what one would get wrong, and the tolerances are far below it."""
    extractor, samples = WhisperFeatureExtractor(), sweep(16000)[None]
    expected = extractor._np_extract_fbank_features(samples, "cpu")

    def error() -> float:
        made = player(tmp_path, extractor.to_dict(), samples.shape).predict({"samples": samples})["input_features"]
        return difference(made, expected)

    assert error() <= 5e-5
    pad = mb.pad
    with monkeypatch.context() as patched:
        patched.setattr(mb, "pad", lambda mode, **given: pad(mode="replicate", **given))
        assert error() > 1e-3
    with monkeypatch.context() as patched:
        patched.setattr("milbuild.layers.spectrogram.RANGE", 7.99)
        assert error() > 1e-3
    with monkeypatch.context() as patched:
        patched.setattr("milbuild.layers.spectrogram.HIGHEST", 7990.0)
        assert error() > 1e-3
    hann = np.hanning(400)  # symmetric: its last is its first
    cos = np.cos
    with monkeypatch.context() as patched:
        patched.setattr(np, "cos", lambda x: 1 - 2 * hann if x.shape == (400,) else cos(x))
        assert error() > 1e-3
