"""What goes into a function of a package: its inputs and states, their names, shapes and descriptions, and the cache over them.

The names of an interface's consumer stand in options.INTERFACES.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, get_new_symbol, types

from milbuild import architectures, caches
from milbuild.caches import Cache, Cross, InputOutputCache, NoCache, StateCache
from milbuild.errors import Error
from milbuild.layers.spectrogram import log_mel
from milbuild.lowering.writer import Dimension, Feature
from milbuild.program.options import (
    AUDIO,
    CROSS,
    IMAGE,
    INTERFACES,
    KINDS,
    PROMPT,
    Length,
    Plan,
    hop_length,
    sampling_rate,
    spell_length,
)
from milbuild.weights import Checkpoint, Cursor

DTYPES = {"float16": "fp16", "float32": "fp32", "int32": "int32"}


@dataclass(frozen=True)
class Axis:
    """Tokens, or samples of a sound: as they were asked for, and as the program has them, a number or a symbol."""

    length: Length
    size: Any

    @classmethod
    def of(cls, length: Length) -> "Axis":
        return cls(length, length if isinstance(length, int) else get_new_symbol())

    @property
    def described(self) -> Dimension:
        return self.length if isinstance(self.length, int) else self.ends

    @property
    def ends(self) -> tuple[int, int]:
        """The shortest and the longest."""
        return (self.length, self.length) if isinstance(self.length, int) else (min(self.length), max(self.length))


class Inputs:
    """Those of the function `name`, declared as `placeholders` and described as `features` and `states`.

    `takes` are the inputs of the family's method by transformers' names. `source` are the tokens that an encoder reads,
    `tokens` those of `hidden_states`; `halves` says which of them the function of an encoder-decoder runs.
    """

    def __init__(self, plan: Plan, config: Any, family: type[Any], checkpoint: Checkpoint, name: str) -> None:
        self.plan, self.config, self.checkpoint = plan, config, checkpoint
        self.names = INTERFACES[plan.interface]
        # iOS 15 takes and gives no float16.
        self.io_dtype = "float32" if plan.target == "iOS15" else plan.precision
        self.kind = KINDS[architectures.takes(family)[0]]
        self.halves = architectures.halves(family, plan.task, plan.function or name)
        self.takes = architectures.takes(family) if self.halves != ("decoder",) else ("decoder_input_ids",)
        self.tokens = Axis.of(plan.functions()[name])
        self.source = self.tokens
        if self.halves:
            assert plan.sequence_length is not None
            self.source = self.tokens if self.halves == ("encoder",) else Axis.of(plan.sequence_length)
            if self.halves == ("encoder", "decoder"):
                # Without a length of its own the decoder reads the text that the encoder reads.
                if plan.context_length is None:
                    self.tokens = self.source
                else:
                    self.tokens = Axis.of(plan.context_length)
                    self.takes = (*self.takes, "decoder_input_ids")
        if "input_features" in architectures.takes(family):
            # What the encoder makes of the sound is what the decoder looks at.
            assert isinstance(plan.sequence_length, int)
            self.source = Axis.of(plan.sequence_length // hop_length(checkpoint.processor) // 2)
        self.placeholders: dict[str, Any] = {}
        self.features: list[Feature] = []
        self.states: list[Feature] = []
        for each in self.takes:
            getattr(self, f"_declare_{each}")()
        self._declare_attention_mask()
        if not plan.include_prompt:
            text = "How many tokens in front, special ones included, are a prompt, of which the vector says nothing. Optional: 0."
            self._declare(PROMPT, "int32", (1,), (1,), text, default=0)
        if self.halves == ("decoder",):
            self._declare_cross()
        if plan.cache == "io" and self.halves != ("encoder",):
            self._declare_past()
        if plan.cache == "state" and (plan.cross_in_state or self.halves != ("encoder",)):
            self._declare_states()

    @property
    def inputs(self) -> list[str]:
        """Names of what is no state."""
        return [feature.name for feature in self.features]

    def renamed(self) -> dict[str, str]:
        """Inputs that get another name; states keep theirs. Raises `Error` where two would have the same."""
        new = {name: self.plan.inputs[name] for name in self.inputs if name in self.plan.inputs}
        names = [new.get(name, name) for name in self.placeholders]
        if len(set(names)) < len(names):
            raise Error(f"inputs gives two of them one name: {', '.join(names)}")
        return new

    def given(self, inputs: dict[str, Var]) -> dict[str, Any]:
        """What the family takes, by transformers' names, of the values of the inputs; None for what the build leaves out."""
        given = {name: inputs.get(self._named(name)) for name in self.takes}
        if "pixel_values" in given:
            given["pixel_values"] = self._picture(inputs)
        if "input_values" in given:
            given["input_values"] = self._arithmetic(inputs["input_values"])
        if "input_features" in given:
            given["input_features"] = self._spectrogram(inputs)
        return given

    def as_batch(self, var: Var) -> Var:
        """The texts of a question as those of a batch: (B, C, T) -> (B * C, T)."""
        batch, count, tokens = var.shape
        tokens = tokens if isinstance(tokens, int) else -1
        return mb.reshape(x=var, shape=[batch * count, tokens], name=f"{var.name}_texts")

    def _named(self, name: str) -> str:
        """An input's name at the interface."""
        return str(getattr(self.names, name, name))

    def _declare(
        self,
        name: str,
        dtype: str,
        shape: Sequence[Any],
        described: Sequence[Dimension],
        text: str,
        along: tuple[int, Axis] | None = None,
        default: int | None = None,
        image: bool = False,
    ) -> None:
        """Declares an input; `along` says which of its axes is one of tokens, `default` what an input that is left out is
        filled with."""
        listed: tuple[tuple[int, ...], ...] = ()
        if along is not None and isinstance(along[1].length, list):
            listed = tuple(tuple(n if i == along[0] else d for i, d in enumerate(shape)) for n in along[1].length)
        self.placeholders[name] = mb.placeholder(tuple(shape), types.string_to_builtin(DTYPES[dtype]))
        default = default if along is None or isinstance(along[1].length, int) else None
        self.features.append(Feature(name, dtype, tuple(described), text, listed, default, image))

    # One function for each name that a family can take: what the input is called, holds and looks like.

    def _declare_input_ids(self) -> None:
        text = f"Token ids, {spell_length(self.source.length)} a call, below {self.config.vocab_size}."
        self._declare_tokens(self.names.input_ids, text, self.source)

    def _declare_decoder_input_ids(self) -> None:
        length = self.tokens.length
        text = f"Token ids of the answer, {spell_length(length)} a call, below {self.config.vocab_size}."
        self._declare_tokens(self.names.decoder_input_ids, text, self.tokens)

    def _declare_token_type_ids(self) -> None:
        if self.plan.token_type_ids:
            text = "0 for a token of the first text, 1 for one of the second."
            self._declare_beside("token_type_ids", text, self.source, default=0)

    def _declare_tokens(
        self, name: str, text: str, axis: Axis, dtype: str = "int32", default: int | None = None
    ) -> None:
        """What has a value for each token of each text."""
        plan = self.plan
        rows = (plan.batch_size,) if plan.num_choices is None else (plan.batch_size, plan.num_choices)
        shape, described = (*rows, axis.size), (*rows, axis.described)
        self._declare(name, dtype, shape, described, text, (len(rows), axis), default)

    def _declare_beside(self, name: str, text: str, axis: Axis, default: int) -> None:
        """An int32 for every token; with a fixed length it can be left out of a call (the constant that fills it has a
        shape of its own, whatever the others')."""
        if isinstance(axis.length, int):
            text = f"{text} Optional: {default} everywhere."
        self._declare_tokens(self._named(name), text, axis, default=default)

    def _declare_attention_mask(self) -> None:
        """Where it is for whole texts or sounds; with a cache of the text itself it is for the slots (`_declare_past`)."""
        if not self.plan.attention_mask:
            return
        text = "1 for a token, 0 for padding, which no token attends to."
        if self.kind == "sound":
            text = "1 for a sample, 0 for padding behind the sound, which no frame attends to."
        if self.halves == ("decoder",):
            text = "The attention_mask of `encode`: 1 for a token of the text that was read, 0 for padding."
            self._declare_beside("encoder_attention_mask", text, self.source, default=1)
        else:
            self._declare_beside("attention_mask", text, self.source, default=1)

    def _declare_pixel_values(self) -> None:
        plan = self.plan
        assert plan.image_size is not None
        channels = self.config.num_channels
        shape = (plan.batch_size, channels, *plan.image_size)
        if plan.postprocess and channels == 3:
            # An image is float32 in every target's program.
            text = f"A picture of {plan.image_size[1]} x {plan.image_size[0]} pixels, RGB."
            self._declare(IMAGE, "float32", shape, shape, text, image=True)
        else:
            text = "Pictures as the checkpoint's image processor makes them."
            self._declare("pixel_values", self.io_dtype, shape, shape, text)

    def _declare_bool_masked_pos(self) -> None:
        config, plan = self.config, self.plan
        # transformers takes no mask where the reconstruction has another size than the picture.
        if plan.task != "masked-im" or config.patch_size != config.encoder_stride:
            return
        assert plan.image_size is not None
        patches = (plan.image_size[0] // config.patch_size) * (plan.image_size[1] // config.patch_size)
        shape = (plan.batch_size, patches)
        text = "1 for a patch that is hidden from the model, row by row. Optional: 0 everywhere."
        self._declare("bool_masked_pos", "int32", shape, shape, text, default=0)

    def _declare_input_values(self) -> None:
        samples = spell_length(self.source.length)
        text = f"Sound as the checkpoint's processor makes it, {samples} samples a call."
        self._declare_tokens("input_values", text, self.source, self.io_dtype)

    def _declare_input_features(self) -> None:
        plan, samples = self.plan, self.plan.sequence_length
        assert isinstance(samples, int)
        if plan.postprocess:
            text = f"Sound, {samples} samples from -1 to 1, {sampling_rate(self.checkpoint.processor)} a second; zeros behind."
            self._declare(AUDIO, "float32", (plan.batch_size, samples), (plan.batch_size, samples), text)
        else:
            frames = samples // hop_length(self.checkpoint.processor)
            shape = (plan.batch_size, self.config.num_mel_bins, frames)
            text = "The log-mel spectrogram of a sound, as the checkpoint's feature extractor makes it."
            self._declare("input_features", self.io_dtype, shape, shape, text)

    def _spectrogram(self, inputs: dict[str, Var]) -> Var:
        """input_features, which are made in the graph where sound comes in."""
        if AUDIO not in inputs:
            return self._arithmetic(inputs["input_features"])
        w = Cursor(self.checkpoint, np.dtype(self.plan.precision), "") / "input_features"
        return log_mel(inputs[AUDIO], self.checkpoint.processor, w)

    def _picture(self, inputs: dict[str, Var]) -> Var:
        """pixel_values, of which the processor's part is done in the graph where an image comes in."""
        if IMAGE not in inputs:
            return self._arithmetic(inputs["pixel_values"])
        scale, shift = image_scaling(self.checkpoint.processor, self.config)
        # In float32, which an image is: in float16 a rounded scale would be wrong by the same share everywhere.
        scale, shift = (values.astype(np.float32).reshape(1, -1, 1, 1) for values in (scale, shift))
        x = mb.mul(x=inputs[IMAGE], y=scale, name=f"{IMAGE}_scaled")
        if self.plan.precision == "float32":
            return mb.add(x=x, y=shift, name="pixel_values")
        return mb.cast(x=mb.add(x=x, y=shift, name=f"{IMAGE}_shifted"), dtype="fp16", name="pixel_values")

    def _arithmetic(self, var: Var) -> Var:
        """An input in the type that the graph computes in."""
        if self.io_dtype == self.plan.precision:
            return var
        return mb.cast(x=var, dtype="fp16", name=f"{var.name}_float16")

    # What came before: keys and values of earlier tokens, and those of the encoder

    def _declare_cross(self) -> None:
        """Keys and values that `encode` made, where they are no states."""
        if self.plan.cross_in_state:
            return
        layers, heads, width = caches.shape(self.config)
        for name, what in zip(CROSS, ("Keys", "Values"), strict=True):
            shape = (self.plan.batch_size, layers * heads, self.source.size, width)
            described = (self.plan.batch_size, layers * heads, self.source.described, width)
            text = f"{what} of the text that was read, all layers' heads behind one another, as `encode` gave them."
            self._declare(name, self.io_dtype, shape, described, text, (2, self.source))

    def _declare_past(self) -> None:
        context, names = self.plan.context_length, self.names
        layers, heads, width = caches.shape(self.config)
        (shortest, longest), marker = self.tokens.ends, self._slots_mask()
        if isinstance(context, int):
            past: Any = context - longest
            described: Dimension = past
            slots: Any = context
            slots_described: Dimension = context
            text = (
                f"{past} slots for keys and values of earlier tokens; {marker} says which are filled. "
                "The caller stores what `present` brings."
            )
        else:
            assert context is not None
            past, slots = get_new_symbol(), get_new_symbol()
            described = (1, max(1, context[1] - shortest))
            slots_described = (1 + shortest, max(context[1], 1 + longest))
            text = f"Keys and values of earlier tokens. The first call passes one slot of zeros with {marker} 0."
        mask = "For the slots of the past, then the tokens of the call: 1 where there is one, 0 for empty slots and padding."
        self._declare(marker, "int32", (1, slots), (1, slots_described), mask)
        for layer in range(layers):
            for kind in ("key", "value"):
                name = names.past.format(layer=layer, kind=kind)
                shape = (1, heads, past, width)
                self._declare(name, self.io_dtype, shape, (1, heads, described, width), f"Layer {layer}. {text}")

    def _slots_mask(self) -> str:
        """The name of the mask over a past and the tokens of a call."""
        return "decoder_attention_mask" if self.halves else self.names.attention_mask

    def _declare_states(self) -> None:
        context, names = self.plan.context_length, self.names
        assert isinstance(context, int)
        layers, heads, width = caches.shape(self.config)
        slots = context
        if names.ranged:
            slots = context + 1
            text = (
                f"One slot more than there are tokens in the sequence so far, at most {slots}; the first slot stays empty. "
                "Negative hides a slot; order in time is the graph's own affair."
            )
            self._declare(names.position, "float16", (1, 1, 1, get_new_symbol()), (1, 1, 1, (2, slots)), text)
        elif self.halves != ("encoder",):
            text = (
                f"Tokens already in the cache. With those of the call they are at most {context}, the context: "
                "what is written past it is undefined."
            )
            self._declare(names.position, "int32", (1,), (1,), text)
        # Functions that share a state declare all of them, whatever they do with it (docs/core-ml.md).
        for window, (number, ring) in self.rings(slots).items():
            what = "zeros in a new state."
            if window is not None:
                what = f"a ring for the layers that see {window} tokens; {what}"
            for name in self.state_names(window):
                self._declare_state(
                    name, (number, 1, heads, ring, width), f"Layers, 1, heads, slots, width of a head; {what}"
                )
        if self.plan.cross_in_state:
            for name, what in zip(CROSS, ("Keys", "Values"), strict=True):
                text = f"{what} of the text that `encode` read: 1, all layers' heads behind one another, tokens, width of a head."
                self._declare_state(name, (1, layers * heads, self.source.size, width), text)

    def _declare_state(self, name: str, shape: tuple[int, ...], text: str) -> None:
        self.placeholders[name] = mb.state_tensor_placeholder(shape, types.fp16)
        self.states.append(Feature(name, "float16", shape, text))

    def rings(self, slots: int) -> dict[int | None, tuple[int, int]]:
        """Window -> (layers, slots) of each pair of states; None stands for layers that keep everything."""
        calls = [Axis(length, None).ends[1] for length in self.plan.functions().values()]
        found: dict[int | None, tuple[int, int]] = {}
        layers, _, _ = caches.shape(self.config)
        for window in caches.windows(self.config)[:layers]:
            ring = None if window is None or self.names.ranged else caches.ring(window, calls, slots)
            kind = window if ring else None
            found[kind] = (found.get(kind, (0, 0))[0] + 1, ring or slots)
        return found

    def state_names(self, window: int | None) -> tuple[str, str]:
        """Those of the keys and values of layers with a window."""
        names = self.names
        return (names.key, names.value) if window is None else (f"sliding_{names.key}", f"sliding_{names.value}")

    def cache(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cache:
        """Over the tokens that `hidden_states` gets."""
        names, plan = self.names, self.plan
        longest = max(
            self.tokens.ends[1], 0 if plan.context_length is None else Axis(plan.context_length, None).ends[1]
        )
        tokens = self._count(self.tokens, given, "decoder_input_ids" if self.halves else "input_ids")
        if plan.cache == "none":
            return NoCache(tokens, longest, None if self.halves else inputs.get(names.attention_mask))
        layers, _, _ = caches.shape(self.config)
        if plan.cache == "io":

            def past(layer: int, kind: str) -> Var:
                return self._arithmetic(inputs[names.past.format(layer=layer, kind=kind)])

            pairs = [(past(layer, "key"), past(layer, "value")) for layer in range(layers)]
            whole = not isinstance(plan.context_length, int)
            return InputOutputCache(pairs, inputs[self._slots_mask()], tokens, longest, whole)
        windows = caches.windows(self.config)
        if names.ranged:
            mask, pair = inputs[names.position], (inputs[names.key], inputs[names.value])
            end = mb.expand_dims(x=_size(mask, 3, "slots"), axes=[0], name="slots_end")
            begin = mb.sub(x=end, y=tokens, name="slots_begin")
            return StateCache({None: pair}, windows, begin, tokens, longest, reserved=1, end=end, hidden=mask)
        states = {}
        assert isinstance(plan.context_length, int)
        for window in self.rings(plan.context_length):
            key, value = self.state_names(window)
            states[window] = (inputs[key], inputs[value])
        return StateCache(states, windows, inputs[names.position], tokens, longest)

    def encoder_cache(self, inputs: dict[str, Var], given: dict[str, Any]) -> NoCache:
        """Over the tokens that an encoder gets."""
        tokens = self._count(self.source, given, "input_ids")
        return NoCache(tokens, self.source.ends[1], inputs.get(self.names.attention_mask), "encoder_")

    def cross(self, inputs: dict[str, Var]) -> Cross:
        """Keys and values that `encode` made."""
        layers, _, _ = caches.shape(self.config)
        keys, values = (inputs[name] for name in CROSS)
        if self.plan.cross_in_state:
            keys, values = (caches.read_whole(state, self.plan.precision) for state in (keys, values))
        else:
            keys, values = self._arithmetic(keys), self._arithmetic(values)
        return Cross.of(keys, values, layers, inputs.get("encoder_attention_mask"))

    def _count(self, axis: Axis, given: dict[str, Any], name: str) -> Any:
        """The number of tokens of a call, or the value of it. A family counts the frames of a sound itself."""
        if self.kind == "sound" and name == "input_ids":
            return 0
        if self.kind == "pictures" or isinstance(axis.length, int):
            return axis.size
        title = "answer_length" if name == "decoder_input_ids" else "sequence_length"
        return _size(given[name], 1, title)


def image_scaling(processor: Mapping[str, Any], config: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of each channel: what a checkpoint's image processor does to pixels from 0 to 255, as one product and
    one sum. Raises `Error` where it does not say."""
    if not processor:
        hint = "Add the checkpoint's preprocessor_config.json, or build with plain tensors (postprocess=False, --raw)."
        raise Error("the checkpoint has no image processor that says how pictures are scaled", hint)
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
                f"the checkpoint's image processor does not say how it normalizes pictures ({error})", hint
            ) from None
        scale, shift = scale / std, -mean / std
    return scale, shift


def _size(x: Var, axis: int, name: str) -> Var:
    """The length of an axis that is not known before the call, as an int32 scalar."""
    return mb.gather(x=mb.shape(x=x, name=f"{name}_shape"), indices=axis, axis=0, name=name)
