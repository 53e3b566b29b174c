"""Heads of models of audio, which read frames."""

from typing import Any, NamedTuple

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.heads.head import Family, Head, Inputs, Outputs
from milbuild.layers import audio, frames
from milbuild.layers.linear import constant, linear
from milbuild.weights import Computed, Cursor
from milbuild.weights.fields import Config


class Speech(NamedTuple):
    """What the hidden states of a speech encoder are: `hidden` (B, T, D), the `features` (B, T, C) its convolutions make if
    they are an output, the `states` (B, T, D) before, between and after its layers, and with a mask the frames of these that
    are no padding, `lengths` (B, 1). `after` are (kernel, stride) of convolutions between the last state and `hidden`."""

    hidden: Var
    features: Var | None
    states: list[Var]
    lengths: Var | None
    after: list[tuple[int, int]]


def speech_states() -> Head:
    """No head: what the base model gives."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        features = {} if speech.features is None else {"extract_features": speech.features}
        return {"last_hidden_state": speech.hidden, **features}

    return Head((), ("last_hidden_state", "extract_features"), compute)


def ctc(module: str) -> Head:
    """Frames (B, T, D) -> logits (B, T, V)."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        size = family.config.vocab_size
        if size is None:
            raise Error("config.json has no vocab_size, the number of tokens that ctc scores", "Add it.")
        return {"logits": linear(speech.hidden, family.weights.root / module, size)}

    return Head((module,), ("logits",), compute)


def per_frame(module: str) -> Head:
    """Frames (B, T, D) -> logits (B, T, labels)."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        _refuse_adapter(family.config, "audio-frame-classification")
        return {"logits": linear(_weighted(family, speech), family.weights.root / module, family.config.num_labels)}

    return Head((module,), ("logits",), compute)


def pooled_frames(projector: str, module: str) -> Head:
    """Frames (B, T, D) -> logits (B, labels) of their mean, without padding."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        _refuse_adapter(family.config, "audio-classification")
        w, root = family.weights.root / projector, family.weights.root
        x = linear(_weighted(family, speech), w, family.config.classifier_proj_size)
        x = frames.mean(x, _seen(x, speech.lengths, root / "pooled"), root / "pooled")
        return {"logits": linear(x, root / module, family.config.num_labels)}

    return Head((projector, module), ("logits",), compute)


def of_encoder_states(head: Head) -> Head:
    """A head for frames on the states of an encoder that has a decoder elsewhere, and no padding."""

    def compute(family: Any, hidden: Var, inputs: Inputs) -> Outputs:
        return head(family, Speech(hidden, None, family.states, None, []), inputs)

    return Head(head.modules, head.outputs, compute)


def xvector() -> Head:
    """Frames (B, T, D) -> embeddings (B, X) and logits (B, X): convolutions over time, their mean and deviation, two
    products."""

    def compute(family: Family, speech: Speech, inputs: Inputs) -> Outputs:
        config, root = family.config, family.weights.root
        x = linear(_weighted(family, speech), root / "projector", config.tdnn_dim[0])
        x = audio.transposed(x, root / "tdnn.channels")
        for i, layer in enumerate(audio.delays(config)):
            x = audio.time_delay(x, root / f"tdnn.{i}", *layer)
        x, lengths = audio.transposed(x, root / "tdnn.turned"), speech.lengths
        if lengths is not None:
            # As transformers counts them: as if nothing were dilated.
            counted = [*speech.after, *((kernel, 1) for kernel in config.tdnn_kernel)]
            lengths = frames.lengths(lengths, counted, root / "tdnn.lengths")
        x = frames.mean_and_deviation(x, _seen(x, lengths, root / "pooled"), root / "pooled")
        embeddings = linear(x, root / "feature_extractor", config.xvector_output_dim)
        return {
            "logits": linear(embeddings, root / "classifier", config.xvector_output_dim),
            "embeddings": embeddings,
        }

    return Head(("projector", "tdnn", "classifier"), ("logits", "embeddings"), compute)


def _seen(x: Var, lengths: Var | None, w: Cursor) -> Var | None:
    return None if lengths is None else frames.visible(lengths, x, w / "seen")


def _refuse_adapter(config: Config, task: str) -> None:
    if getattr(config, "add_adapter", False):
        raise Error(f"{task} has no model with add_adapter: true", "transformers has none either.")


def _weighted(family: Family, speech: Speech) -> Var:
    """The last state, or with use_weighted_layer_sum all of them by the softmax of their learned weights."""
    if not family.config.use_weighted_layer_sum:
        return speech.hidden

    def softmax(values: np.ndarray) -> Any:
        shares = np.exp(values - values.max())
        return (shares / shares.sum()).reshape(1, -1, 1, 1)

    w, count = family.weights.root / "layer_weights", len(speech.states)
    shares = Computed("softmax", softmax, (1, count, 1, 1), family.weights.root.tensor("layer_weights", count))
    x = mb.stack(values=speech.states, axis=1, name=f"{w.name}_states")
    x = mb.mul(x=x, y=constant(shares, w, "shares"), name=f"{w.name}_shared")
    return mb.reduce_sum(x=x, axes=[1], keep_dims=False, name=w.name)
