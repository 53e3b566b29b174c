"""What a checkpoint's processor does, as operations of the graph: from the pixels of an image, from samples of audio."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.spectrogram import log_mel
from milbuild.program.plan import IMAGE
from milbuild.weights import Checkpoint, Cursor
from milbuild.weights.fields import Config


def pixel_values(image: Var, processor: Mapping[str, Any], config: Config, precision: str) -> Var:
    """float32 (B, C, height, width), pixels from 0 to 255 -> the model's pixel_values, scaled and normalized."""
    scale, shift = image_scaling(processor, config)
    # In float32, which an image is: in float16 a rounded scale would be wrong by the same share everywhere.
    scale, shift = (values.astype(np.float32).reshape(1, -1, 1, 1) for values in (scale, shift))
    x = mb.mul(x=image, y=scale, name=f"{IMAGE}_scaled")
    if precision == "float32":
        return mb.add(x=x, y=shift, name="pixel_values")
    return mb.cast(x=mb.add(x=x, y=shift, name=f"{IMAGE}_shifted"), dtype="fp16", name="pixel_values")


def input_features(audio: Var, checkpoint: Checkpoint, precision: str) -> Var:
    """float32 (B, samples) from -1 to 1 -> the log-mel spectrogram (B, bands, frames)."""
    w = Cursor(checkpoint, np.dtype(precision), "") / "input_features"
    return log_mel(audio, checkpoint.processor, w)


def image_scaling(processor: Mapping[str, Any], config: Config) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of each channel: what a checkpoint's image processor does to pixels from 0 to 255, as one product and
    one sum. Raises `Error` where it does not say."""
    if not processor:
        hint = "Add the checkpoint's preprocessor_config.json, or build with plain tensors (postprocess=False, --raw)."
        raise Error("the checkpoint has no image processor that says how images are scaled", hint)
    # Checkpoint.processor has the class's own values for what the file leaves out; the fallbacks are for classes that
    # are not known there, whose files say how they normalize.
    scale = np.full(
        config.num_channels, processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    )
    shift = np.zeros(config.num_channels)
    if processor.get("do_normalize"):
        try:
            mean, std = (
                np.broadcast_to(np.float64(processor[f"image_{what}"]), scale.shape) for what in ("mean", "std")
            )
        except (KeyError, ValueError, TypeError) as error:
            hint = "It needs image_mean and image_std, a number for each channel."
            raise Error(
                f"the checkpoint's image processor does not say how it normalizes images ({error})", hint
            ) from None
        scale, shift = scale / std, -mean / std
    return scale, shift
