"""A sound file as samples: one channel, 16,000 a second, as speech models hear it."""

import importlib
import io
import math
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error

RATE = 16000
# Rates that a sound can have; what is beyond them is a damaged header.
LOWEST, HIGHEST = 1000, 768000
# The low-pass: zero crossings of its sinc on each side, Kaiser's beta (100 dB), and the share of the band that it keeps, so
# that it has fallen to nothing where the band ends.
CROSSINGS, BETA, KEPT = 64, 10.06, 0.955
# Outputs that are computed together: with fewer every sample is copied more often, with more there are more zeros to multiply.
TOGETHER = 256


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Samples (n,) from -1 to 1, float32, RATE a second; of several channels the mean.

    WAV files of 8, 16, 24 or 32 bits (PCM); other formats where the package soundfile is installed. Raises `Error`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise Error(f"there is no sound file {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Error(f"{path} cannot be read: {error.strerror}") from error
    try:
        samples, rate = _wave(data)
    except (wave.Error, EOFError, Error) as error:
        samples, rate = _other(path, error)
    if not LOWEST <= rate <= HIGHEST:
        raise Error(f"{path} has {rate} samples a second; known are {LOWEST} to {HIGHEST}")
    if not len(samples):
        raise Error(f"{path} has no sound in it")
    if not np.isfinite(samples).all():
        raise Error(f"{path} has samples that are no numbers")
    return resample(samples, rate)


def resample(samples: np.ndarray, rate: int, to: int = RATE) -> np.ndarray:
    """Samples (n,) of `rate` a second -> (m,) of `to` a second, float32; silence lies before and behind them.

    A sinc under a Kaiser window, at each output's own place between the inputs, so that nothing is rounded in time.
    """
    if rate == to:
        return np.asarray(samples, np.float32)
    common = math.gcd(rate, to)
    count = -(-len(samples) * to // rate)
    # `steps` inputs make `outputs` of them, over and over, at the same places between the inputs.
    times = -(-TOGETHER * common // to)
    steps, outputs = rate // common * times, to // common * times
    rounds = -(-count // outputs)
    cutoff = KEPT * min(1, to / rate)
    half = CROSSINGS / cutoff
    reach = math.ceil(half)
    room = (rounds - 1) * steps + math.ceil(outputs * rate / to) + 2 * reach + 1
    padded = np.zeros(room, np.float32)
    padded[reach : reach + min(len(samples), room - reach)] = samples[: room - reach]
    found = np.empty((rounds, outputs), np.float32)
    ends = np.linspace(0, 1, 2**14)
    window = np.i0(BETA * np.sqrt(1 - ends**2))
    for first in range(0, min(outputs, count), TOGETHER):
        at = np.arange(first, min(first + TOGETHER, outputs)) * rate / to
        begin = int(at[0])
        span = int(at[-1]) - begin + 2 * reach + 1
        away = (begin - reach + np.arange(span))[:, None] - at
        # From a table, which is as good as float32 and ten times as fast.
        weights = np.sinc(cutoff * away) * np.interp(np.abs(away) / half, ends, window, right=0)
        weights /= weights.sum(axis=0)
        near = np.lib.stride_tricks.sliding_window_view(padded[begin:], span)[::steps][:rounds]
        # matmul multiplies overlapping rows without BLAS; copied, they are as fast as others.
        found[:, first : first + len(at)] = np.ascontiguousarray(near) @ weights.astype(np.float32)
    return found.reshape(-1)[:count]


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
    hint = f"Make a WAV file of it: ffmpeg -i {path.name} -ac 1 -ar {RATE} -c:a pcm_s16le {path.stem}-16k.wav"
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except (ImportError, OSError):  # OSError: it is there without the library that it loads
        said = str(reason) or "it ends within its header"
        message = f"{path} is no WAV file of 8, 16, 24 or 32 bits: {said}"
        raise Error(message, f"{hint}, or install soundfile.") from reason
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise Error(f"{path} is no sound file that soundfile can read: {error}", hint) from error
    return samples.mean(axis=1), int(rate)
