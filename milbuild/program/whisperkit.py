"""What WhisperKit's three packages take and give: MelSpectrogram, AudioEncoder, TextDecoder.

A sequence is in the last of four axes, (1, features, 1, places), and the decoder takes one token a call (caches/slots.py). The
names are in interfaces.INTERFACES. Reference: argmaxinc/WhisperKit, Sources/WhisperKit/Core/TextDecoder.swift (what it feeds and
keeps, and the sizes that it reads off the descriptions), and argmaxinc/whisperkittools, whisperkit/text_decoder.py (what is
computed).

Shapes: M mel bands, N frames of the spectrogram, S = N / 2 states of the encoder, D d_model, L layers of the decoder, C slots of
its cache, H heads, E = D / H.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild.caches import Cross, Geometry
from milbuild.caches.cache import Declared
from milbuild.errors import Error
from milbuild.layers.linear import like
from milbuild.program import processing
from milbuild.program.function import Graph, Produced
from milbuild.program.inputs import Inputs
from milbuild.program.plan import AUDIO, hop_length, sampling_rate
from milbuild.weights import Checkpoint

LOOKS = "alignment_heads_weights"


class WhisperKitInputs(Inputs):
    """Those of one of the three."""

    def _declare_input_features(self) -> None:
        samples, hop = self.plan.sequence_length, hop_length(self.checkpoint.processor)
        assert isinstance(samples, int)
        if self.plan.function == "mel":
            rate = sampling_rate(self.checkpoint.processor)
            text = f"Audio, {samples} samples from -1 to 1, {rate} a second; zeros after it."
            self._declare(AUDIO, self.io_dtype, (samples,), (samples,), text)
        else:
            self._declare_spread(
                self.names.input_features,
                (self.config.num_mel_bins, samples // hop),
                "The log-mel spectrogram of audio, as MelSpectrogram gives it.",
            )

    def _declare_decoder_input_ids(self) -> None:
        text = f"A token id, below {self.config.vocab_size}."
        self._declare(self.names.decoder_input_ids, "int32", (1,), (1,), text)

    def _declared_cross(self) -> list[Declared]:
        if self.parts != ("decoder",):
            return []
        shape = (1, self.config.d_model, 1, self.source.size)
        name, text = self.names.encoder_last_hidden_state, "What AudioEncoder made of the audio."
        return [Declared(name, self.io_dtype, shape, text)]

    def _declare_spread(self, name: str, shape: tuple[Any, Any], text: str) -> None:
        """(1, features, 1, places)."""
        features, places = shape
        self._declare(name, self.io_dtype, (1, features, 1, places), (1, features, 1, places), text)

    def given(self, inputs: dict[str, Var]) -> dict[str, Any]:
        if self.parts == ("decoder",):
            ids = inputs[self.names.decoder_input_ids]
            return {"decoder_input_ids": mb.expand_dims(x=ids, axes=[0], name="decoder_input_ids")}
        if self.plan.function == "mel":
            x = inputs[AUDIO]
            x = x if x.dtype == types.fp32 else mb.cast(x=x, dtype="fp32", name=f"{AUDIO}_float32")
            audio = mb.expand_dims(x=x, axes=[0], name=f"{AUDIO}_rows")
            return {"input_features": processing.input_features(audio, self.checkpoint, self.plan.precision)}
        return {"input_features": mb.squeeze(x=inputs[self.names.input_features], axes=[2], name="input_features")}

    def encoder_states(self, inputs: dict[str, Var]) -> Var:
        """(1, D, 1, S) -> (1, S, D)."""
        name = self.names.encoder_last_hidden_state
        x = mb.squeeze(x=inputs[name], axes=[2], name=f"{name}_features")
        return mb.transpose(x=x, perm=[0, 2, 1], name=f"{name}_states")


class OfLayers(Sequence[Var]):
    """A value of each layer, whose operations are written when it is first asked for."""

    def __init__(self, make: Callable[[int], Var], layers: int) -> None:
        self.make, self.layers = make, layers

    def __getitem__(self, layer: Any) -> Any:
        if layer >= self.layers:
            raise IndexError(layer)
        return self.make(layer)

    def __len__(self) -> int:
        return self.layers


def spread(x: Var, name: str, transposed: bool) -> Var:
    """(1, features, places), or with `transposed` (1, places, features) -> (1, features, 1, places)."""
    x = mb.transpose(x=x, perm=[0, 2, 1], name=f"{name}_features") if transposed else x
    return mb.expand_dims(x=x, axes=[2], name=f"{name}_spread")


def alignment_heads(checkpoint: Checkpoint, geometry: Geometry) -> list[tuple[int, int]]:
    """(layer, head) of the heads whose attention to the audio says when a word is spoken, by generation_config.json; none where
    it names none. Raises `Error` for heads that the decoder does not have."""
    named = checkpoint.generation.get("alignment_heads") or []
    layers, heads, *_ = geometry
    for pair in named if isinstance(named, list) else [named]:
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not whole or not (0 <= pair[0] < layers and 0 <= pair[1] < heads):
            raise Error(
                f"generation_config.json has {pair!r} in alignment_heads",
                f"They are pairs of a layer and a head, and the decoder has {layers} layers of {heads} heads.",
            )
    return [(layer, head) for layer, head in named]


def looks(chosen: list[tuple[int, int]], pairs: list[tuple[Var, Var]]) -> Var:
    """Attention weights (1, S) of these heads over the audio, on average, from each layer's queries (1, H, 1, E) and keys
    (1, H, S, E) of cross-attention.

    Computed beside the attention itself, whose operation in iOS 18 keeps its shares to itself.
    """

    def each(x: Var, head: int, name: str) -> Var:
        size = [1, 1, *x.shape[2:]]
        return mb.slice_by_size(x=x, begin=[0, head, 0, 0], size=size, name=name)

    queries, keys = (
        [each(pairs[layer][side], head, f"{LOOKS}_{kind}_{layer}_{head}") for layer, head in chosen]
        for side, kind in enumerate(("query", "key"))
    )
    q, k = (
        parts[0] if len(parts) == 1 else mb.concat(values=parts, axis=1, name=f"{LOOKS}_{kind}")
        for parts, kind in ((queries, "queries"), (keys, "keys"))
    )
    q = mb.mul(x=q, y=like(q, q.shape[-1] ** -0.5), name=f"{LOOKS}_scaled")
    scores = mb.matmul(x=q, y=k, transpose_y=True, name=f"{LOOKS}_scores")
    shares = mb.softmax(x=scores, axis=-1, name=f"{LOOKS}_shares")
    return mb.reduce_mean(x=shares, axes=[1, 2], keep_dims=False, name=f"{LOOKS}_mean")


class WhisperKitGraph(Graph):
    """One of WhisperKit's packages."""

    declares = WhisperKitInputs
    inputs: WhisperKitInputs

    def _read(self, inputs: dict[str, Var], given: dict[str, Any]) -> Produced:
        names = self.inputs.names
        if self.plan.function == "mel":
            return self._named(
                {names.input_features: spread(given["input_features"], "input_features", transposed=False)}
            )
        model = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        name = names.encoder_last_hidden_state
        return self._named({name: spread(model.encode(**given), name, transposed=True)})

    def _cross(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cross:
        """The encoder's states come in as they are, so their keys and values are worked out in every call: by each layer when
        it comes to them, since those of all together are 246 MB in a large-v3."""
        reader = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        states, layers = self.inputs.encoder_states(inputs), self.inputs.geometry.layers

        @functools.cache
        def made(layer: int) -> tuple[Var, Var]:
            keys, values = reader.cross(states, layer)
            return keys, values

        return Cross(OfLayers(lambda i: made(i)[0], layers), OfLayers(lambda i: made(i)[1], layers), None)

    def _present(self, model: Any) -> Produced:
        present = super()._present(model)
        if chosen := alignment_heads(self.checkpoint, self.inputs.geometry):
            present |= self._named({LOOKS: looks(chosen, model.looks)})
        return present
