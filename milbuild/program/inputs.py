"""What goes into a function of a package: its inputs and states, their names, shapes and descriptions, and the cache over them.

A consumer's names are in interfaces.INTERFACES. An input is declared and read by its own name, whatever else the model takes:
no function here asks what kind of model it is.
"""

import functools
from collections.abc import Sequence
from typing import Any

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from milbuild import architectures
from milbuild.architectures.family import Family
from milbuild.caches import KINDS, Cache, CacheSpec, Cross, Geometry, Kind, cross
from milbuild.caches.cache import Axis, Declared, Dimension, ends, size_of, slots_mask
from milbuild.caches.cross import CROSS
from milbuild.caches.none import NoCache
from milbuild.errors import Error
from milbuild.lowering.writer import Feature
from milbuild.program import processing
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import spell_length
from milbuild.program.plan import AUDIO, IMAGE, PROMPT, Plan, hop_length, sampling_rate
from milbuild.weights import Checkpoint
from milbuild.weights.fields import Config

DTYPES = {"float16": "fp16", "float32": "fp32", "int32": "int32"}


class Inputs:
    """Those of the function `name`, declared as `placeholders` and described as `features` and `states`.

    `takes` are the arguments of the model's method by transformers' names. `source` are the tokens that an encoder reads,
    `tokens` those of `hidden_states`; `parts` says which of encoder and decoder the function runs.
    """

    def __init__(self, plan: Plan, config: Config, family: type[Family], checkpoint: Checkpoint, name: str) -> None:
        self.plan, self.config, self.family, self.checkpoint = plan, config, family, checkpoint
        self.names = INTERFACES[plan.interface]
        # iOS 15 takes and gives no float16.
        self.io_dtype = "float32" if plan.target == "iOS15" else plan.precision
        self.parts = architectures.parts(family, plan.task, plan.function or name)
        self.takes = architectures.takes(family) if self.parts != ("decoder",) else ("decoder_input_ids",)
        self.tokens = Axis.of(plan.functions()[name])
        self.source = self.tokens
        if self.parts:
            assert plan.sequence_length is not None
            self.source = self.tokens if self.parts == ("encoder",) else Axis.of(plan.sequence_length)
            if self.parts == ("encoder", "decoder"):
                # Without a length of its own the decoder reads the text that the encoder reads.
                if plan.context_length is None:
                    self.tokens = self.source
                else:
                    self.tokens = Axis.of(plan.context_length)
                    self.takes = (*self.takes, "decoder_input_ids")
        if "input_features" in architectures.takes(family):
            # The decoder attends to what the encoder makes of the audio.
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
        self.kept: list[Declared] = []
        self._declare_caches()

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
        """The arguments of the model's method, by transformers' names, from the values of the inputs; None for those that the
        build leaves out."""
        given = {name: inputs.get(self._named(name)) for name in self.takes}
        for name in ("pixel_values", "input_values", "input_features"):
            if name in given and name in inputs:
                given[name] = self._arithmetic(inputs[name])
        processor, precision = self.checkpoint.processor, self.plan.precision
        if IMAGE in inputs:
            given["pixel_values"] = processing.pixel_values(inputs[IMAGE], processor, self.config, precision)
        if AUDIO in inputs:
            given["input_features"] = processing.input_features(inputs[AUDIO], self.checkpoint, precision)
        return given

    def as_batch(self, var: Var) -> Var:
        """The choices of each question as rows of a batch: (B, C, T) -> (B * C, T)."""
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

    # One function for each argument that a model's method can have: the input's name, contents, shape and description.

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
        """For whole texts or audio; with a cache of the text itself the mask is for its slots (caches/io.py)."""
        if not self.plan.attention_mask:
            return
        text = "1 for a token, 0 for padding, which no token attends to."
        if "input_values" in self.takes:
            text = "1 for a sample, 0 for padding after the audio, which no frame attends to."
        if self.parts == ("decoder",):
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
            text = f"An image of {plan.image_size[1]} x {plan.image_size[0]} pixels, RGB."
            self._declare(IMAGE, "float32", shape, shape, text, image=True)
        else:
            text = "Images as the checkpoint's image processor makes them."
            self._declare("pixel_values", self.io_dtype, shape, shape, text)

    def _declare_bool_masked_pos(self) -> None:
        config, plan = self.config, self.plan
        # transformers takes no mask where the reconstruction has another size than the image.
        if plan.task != "masked-im" or config.patch_size != config.encoder_stride:
            return
        assert plan.image_size is not None
        patches = (plan.image_size[0] // config.patch_size) * (plan.image_size[1] // config.patch_size)
        shape = (plan.batch_size, patches)
        text = "1 for a patch that is hidden from the model, row by row. Optional: 0 everywhere."
        self._declare("bool_masked_pos", "int32", shape, shape, text, default=0)

    def _declare_input_values(self) -> None:
        samples = spell_length(self.source.length)
        text = f"Audio as the checkpoint's processor makes it, {samples} samples a call."
        self._declare_tokens("input_values", text, self.source, self.io_dtype)

    def _declare_input_features(self) -> None:
        plan, samples = self.plan, self.plan.sequence_length
        assert isinstance(samples, int)
        if plan.postprocess:
            text = f"Audio, {samples} samples from -1 to 1, {sampling_rate(self.checkpoint.processor)} a second; zeros after it."
            self._declare(AUDIO, "float32", (plan.batch_size, samples), (plan.batch_size, samples), text)
        else:
            frames = samples // hop_length(self.checkpoint.processor)
            shape = (plan.batch_size, self.config.num_mel_bins, frames)
            text = "The log-mel spectrogram of audio, as the checkpoint's feature extractor makes it."
            self._declare("input_features", self.io_dtype, shape, shape, text)

    def _arithmetic(self, var: Var) -> Var:
        """An input in the type that the graph computes in."""
        if self.io_dtype == self.plan.precision:
            return var
        return mb.cast(x=var, dtype="fp16", name=f"{var.name}_float16")

    # Keys and values of earlier tokens, and those of the encoder

    def _declare_caches(self) -> None:
        declared = self._declared_cross()
        if self.parts != ("encoder",) or self.plan.cross_in_state:
            self.kept = self.kind_of_cache.declare(self.cache_spec)
            declared = [*self.kept, *declared] if self.plan.cross_in_state else [*declared, *self.kept]
        for each in declared:
            described = each.shape if each.described is None else each.described
            if each.state:
                self.placeholders[each.name] = mb.state_tensor_placeholder(tuple(each.shape), types.fp16)
                self.states.append(Feature(each.name, each.dtype, tuple(described), each.text))
            else:
                self._declare(each.name, each.dtype, each.shape, described, each.text, each.along)

    def _declared_cross(self) -> list[Declared]:
        """Keys and values that `encode` makes."""
        plan = self.plan
        if plan.cross_in_state:
            return cross.declare(self.geometry, self.source, self.io_dtype, in_state=True)
        if self.parts == ("decoder",):
            return cross.declare(self.geometry, self.source, self.io_dtype, plan.batch_size)
        return []

    @functools.cached_property
    def geometry(self) -> Geometry:
        """Of the decoder's keys and values."""
        return Geometry.of(self.family, self.config)

    @property
    def kind_of_cache(self) -> Kind:
        return KINDS[self.plan.kind]

    @functools.cached_property
    def cache_spec(self) -> CacheSpec:
        """What the kind of the cache is told of this function."""
        plan = self.plan
        return CacheSpec(
            Geometry() if plan.cache == "none" else self.geometry,
            self.names,
            slots_mask(self.names, bool(self.parts)),
            self.io_dtype,
            self.tokens,
            [ends(length)[1] for length in plan.functions().values()],
            plan.context_length,
            self.parts != ("encoder",),
        )

    def cache(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cache:
        """Over the tokens that `hidden_states` gets."""
        tokens = self._count(self.tokens, given, "decoder_input_ids" if self.parts else "input_ids")
        kept = {
            each.name: self._arithmetic(inputs[each.name])
            for each in self.kept
            if each.dtype == self.io_dtype and not each.state
        }
        made: Cache = self.kind_of_cache.make_cache(self.cache_spec, inputs | kept, tokens)
        return made

    def encoder_cache(self, inputs: dict[str, Var], given: dict[str, Any]) -> NoCache:
        """Over the tokens that an encoder gets."""
        tokens = self._count(self.source, given, "input_ids")
        return NoCache(tokens, self.source.ends[1], inputs.get(self.names.attention_mask), "encoder_")

    def cross(self, inputs: dict[str, Var]) -> Cross:
        """Keys and values that `encode` made."""
        mask = inputs.get("encoder_attention_mask")
        if self.plan.cross_in_state:
            return cross.load(inputs, self.geometry.layers, mask, self.plan.precision)
        return cross.load({name: self._arithmetic(inputs[name]) for name in CROSS}, self.geometry.layers, mask)

    def _count(self, axis: Axis, given: dict[str, Any], name: str) -> Any:
        """How many tokens the input `name` has in a call, or the value of it; none where it is no input: models count the
        frames of audio and the patches of an image themselves."""
        if name not in given:
            return 0
        if isinstance(axis.length, int):
            return axis.size
        title = "answer_length" if name == "decoder_input_ids" else "sequence_length"
        return size_of(given[name], 1, title)
