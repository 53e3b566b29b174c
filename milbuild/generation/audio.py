"""An audio file as samples: one channel, 16,000 a second, as speech models take it.

Plain WAV files of that rate are read by Python's wave module, so that what ffmpeg writes needs no extra; soundfile reads other
formats and soxr resamples, both of the extra `audio`.
"""

import importlib
import io
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error

RATE = 16000
# Rates that audio can have; what is beyond them is a damaged header.
LOWEST, HIGHEST = 1000, 768000
EXTRA = "pip install 'milbuild[audio]'"


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Samples (n,) from -1 to 1, float32, RATE a second; of several channels the mean.

    WAV files of 8, 16, 24 or 32 bits (PCM); with the extra `audio` other formats and other rates. Raises `Error`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise Error(f"there is no audio file {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Error(f"{path} cannot be read: {error.strerror}") from error
    try:
        samples, rate = _wave(data)
    except (wave.Error, EOFError, Error) as error:
        samples, rate = _other(path, error)
    if not LOWEST <= rate <= HIGHEST:
        raise Error(f"{path} has {rate} samples a second; it must be {LOWEST} to {HIGHEST}")
    if not np.isfinite(samples).all():
        raise Error(f"{path} has samples that are no numbers")
    try:
        found = resample(samples, rate)
    except ImportError as error:
        message = f"{path} has {rate} samples a second, and without the package soxr only {RATE} are read"
        raise Error(message, f"{EXTRA}, or {_ffmpeg(path)}.") from error
    if not len(found):
        raise Error(f"{path} has no samples")
    return found


def resample(samples: np.ndarray, rate: int, to: int = RATE) -> np.ndarray:
    """Samples (n,) of `rate` a second -> (m,) of `to` a second, float32, by soxr at its highest quality. Raises `ImportError`."""
    if rate == to:
        return np.asarray(samples, np.float32)
    soxr: Any = importlib.import_module("soxr")
    return np.asarray(soxr.resample(np.asarray(samples, np.float32), rate, to, "VHQ"), np.float32)


def _wave(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        content = file.readframes(file.getnframes())
    if not 1 <= width <= 4:
        raise Error(f"its samples have {8 * width} bits")
    # A file that was cut off ends with its last whole frame.
    parts = np.frombuffer(content[: len(content) // (width * channels) * width * channels], np.uint8).reshape(-1, width)
    whole = np.zeros((len(parts), 4), np.uint8)
    whole[:, 4 - width :] = parts
    if width == 1:
        whole[:, 3] ^= 0x80  # these alone count from 0
    samples = whole.view("<i4").reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return samples / np.float32(2**31), rate


def _other(path: Path, reason: Exception) -> tuple[np.ndarray, int]:
    """What is no plain WAV file, by soundfile. Raises `Error`."""
    hint = _ffmpeg(path)
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except (ImportError, OSError):  # OSError: it is there without the library that it loads
        said = str(reason) or "it ends within its header"
        message = f"{path} is no WAV file of 8, 16, 24 or 32 bits: {said}"
        raise Error(message, f"{EXTRA}, or {hint}.") from reason
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise Error(
            f"{path} is no audio file that soundfile can read: {error}", f"{hint[0].upper()}{hint[1:]}."
        ) from error
    return samples.mean(axis=1), int(rate)


def _ffmpeg(path: Path) -> str:
    return f"make a WAV file of it: ffmpeg -i {path.name} -ac 1 -ar {RATE} -c:a pcm_s16le {path.stem}-16k.wav"
