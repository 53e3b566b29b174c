"""The log-mel spectrogram that Whisper hears, of plain samples.

Reference: transformers/models/whisper/feature_extraction_whisper.py. What it does to samples that it has padded or cut is here;
padding and cutting, to chunk_length seconds, are not.
Shapes: B batch, N samples, T = N // hop_length frames, K what is read of their transform, M mel bands (feature_size).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.weights import Cursor

FIELDS = ("feature_size", "hop_length", "n_fft", "sampling_rate")
HIGHEST = 8000.0  # where the extractor's last band ends, whatever the sampling rate
FLOOR = 1e-10  # powers below count as this
RANGE = 8.0  # what lies more decades of power below the loudest of the whole sound is lifted to there


def log_mel(x: Var, processor: Mapping[str, Any], w: Cursor) -> Var:
    """Samples (B, N), float32 -> (B, M, T), in the graph's type, as WhisperFeatureExtractor makes it of these N.

    It computes in float32 in every graph: float16 has no number as small as 1e-10, and what it rounds off a loud sample, 66
    decibels below it, is louder than the quietest that is heard here, 80 below the loudest. So the samples must come in
    float32, too.
    """
    bands, hop, size, rate = _sizes(processor)
    half = size // 2
    if isinstance(x.shape[1], int) and x.shape[1] <= half:
        raise Error(
            f"a sound of {x.shape[1]} samples has no spectrogram with n_fft {size}", f"It needs {half + 1} samples."
        )
    filters = mel_filters(bands, half + 1, rate)
    heard = np.flatnonzero(filters.any(0))  # the others would be multiplied by 0: 0 and 8000 Hz, and what is above
    if not len(heard):
        raise Error(
            f"nothing is heard with n_fft {size} at {rate} Hz: none of its frequencies lies in a band (feature_size {bands})",
            "Look into the checkpoint's preprocessor_config.json.",
        )
    # Multiples of a turn are taken off in integers, so that every angle is as exact as the first.
    angles = 2 * np.pi / size * (np.outer(heard, np.arange(size)) % size)
    window = 0.5 - 0.5 * np.cos(2 * np.pi / size * np.arange(size))
    transform = np.concatenate([np.cos(angles), np.sin(angles)]) * window
    y = mb.expand_dims(x=x, axes=[1], name=f"{w.name}_channel")
    # A frame stands around its middle, at every multiple of hop_length. The extractor makes one more and drops it; without
    # the last samples of the padding it does not come to be.
    y = mb.pad(x=y, pad=[0, 0, 0, 0, half, half - hop], mode="reflect", name=f"{w.name}_padded")
    y = mb.conv(
        x=y, weight=_kernel(transform[:, None], w, "transform"), strides=[hop], pad_type="valid", name=f"{w.name}_parts"
    )
    y = mb.square(x=y, name=f"{w.name}_powers")  # (B, K, T): of cosines, behind them of sines; the filters add them
    both = np.concatenate([filters[:, heard]] * 2, axis=1)
    y = mb.conv(x=y, weight=_kernel(both[..., None], w, "filters"), pad_type="valid", name=f"{w.name}_bands")
    y = mb.maximum(x=y, y=np.float32(FLOOR), name=f"{w.name}_audible")
    y = mb.log(x=y, name=f"{w.name}_log")
    # (log10 + 4) / 4; the range shrinks with it.
    y = mb.linear_activation(x=y, alpha=np.float32(0.25 / np.log(10)), beta=np.float32(1), name=f"{w.name}_scaled")
    loudest = mb.reduce_max(x=y, axes=[1, 2], keep_dims=True, name=f"{w.name}_loudest")
    quietest = mb.sub(x=loudest, y=np.float32(RANGE / 4), name=f"{w.name}_quietest")
    if w.dtype == np.float32:
        return mb.maximum(x=y, y=quietest, name=w.name)
    return mb.cast(x=mb.maximum(x=y, y=quietest, name=f"{w.name}_float32"), dtype="fp16", name=w.name)


def mel_filters(bands: int, bins: int, rate: int) -> np.ndarray:
    """(M, bins): triangles over the bins' frequencies, of equal area, whose corners are evenly spaced in mels.

    Mels are those of Slaney's Auditory Toolbox (1998): 15 up to 1000 Hz, evenly, and from there 27 for each factor of 6.4.
    """
    top = 15 + 27 * np.log(HIGHEST / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bands + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))[:, None]
    lower, middle, upper = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.linspace(0, rate // 2, bins)
    rising, falling = (frequencies - lower) / (middle - lower), (upper - frequencies) / (upper - middle)
    triangles: np.ndarray = np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)
    return triangles


def _kernel(values: np.ndarray, w: Cursor, name: str) -> Var:
    return mb.const(val=values.astype(np.float32), name=f"{w.name}_{name}")


def _sizes(processor: Mapping[str, Any]) -> list[int]:
    """The values of FIELDS. Raises `Error` where the checkpoint does not say them, or asks for what is not made here."""
    if not processor:
        raise Error(
            "the checkpoint has no feature extractor that says how a sound becomes a spectrogram",
            "Add the checkpoint's preprocessor_config.json.",
        )
    kind = processor.get("feature_extractor_type", "WhisperFeatureExtractor")
    if kind != "WhisperFeatureExtractor":
        raise Error(f"the checkpoint's feature extractor is {kind}; known is WhisperFeatureExtractor")
    sizes = {name: processor.get(name) for name in FIELDS}
    wrong = [f"{name} is {value!r}" for name, value in sizes.items() if type(value) is not int or value < 1]
    if wrong:
        raise Error(
            f"the checkpoint's feature extractor does not say how a sound becomes a spectrogram: {', '.join(wrong)}",
            f"It needs {', '.join(FIELDS)}, whole numbers above 0.",
        )
    hop, size = processor["hop_length"], processor["n_fft"]
    if hop > size // 2:
        raise Error(f"hop_length is {hop} and n_fft {size}; known is a hop_length of at most half of n_fft")
    if processor.get("dither", 0) != 0:
        raise Error(
            f"the checkpoint's feature extractor adds noise: dither is {processor['dither']!r}",
            "Set dither to 0 in preprocessor_config.json: a graph gives the same in every call.",
        )
    return [processor[name] for name in FIELDS]
