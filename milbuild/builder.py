"""Options + checkpoint + architecture -> program -> Model. Every input and output name and shape is decided here."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, get_new_symbol, types

import milbuild
from milbuild import architectures, caches, heads
from milbuild.caches import Cache, InputOutputCache, NoCache, StateCache
from milbuild.errors import Error
from milbuild.model import Model
from milbuild.options import (
    BATCH_SIZE,
    IMAGE,
    INTERFACES,
    KINDS,
    LOGITS,
    METADATA_KEY,
    PRECISION,
    TARGET,
    TARGETS,
    Length,
    Output,
    Plan,
    spell_length,
)
from milbuild.outputs import LABEL, TEXTS, meanings, postprocessed, preview, sentence_embedding
from milbuild.package.writer import Description, Dimension, Feature, lower
from milbuild.weights import Checkpoint, Cursor


def build(
    source: str | os.PathLike[str],
    *,
    task: str | None = None,
    sequence_length: Length | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = BATCH_SIZE,
    attention_mask: bool | None = None,
    token_type_ids: bool | None = None,
    num_choices: int | None = None,
    cache: str | None = None,
    context_length: Length | None = None,
    prefill_length: int | None = None,
    logits: str = LOGITS,
    pooling: str | None = None,
    normalize: bool = False,
    postprocess: bool = True,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str | Output | None] | None = None,
    interface: str | None = None,
    precision: str = PRECISION,
    target: str = TARGET,
    revision: str | None = None,
    model_type: str | None = None,
) -> Model:
    """A Hugging Face checkpoint as a Core ML model, its graph written operation by operation.

    Nothing is read of the weights before the model is saved or asked for a prediction.

    Args:
        source: a checkpoint's folder, its .safetensors file, or a hub id.
        task: one of `milbuild list`, or exporters' name for it; what the checkpoint was saved for by default, else
            text-generation.
        sequence_length: tokens in a call (samples, for sounds): a number, a range (lowest, highest), or a list of
            numbers. 128 by default, with a cache 1, of sounds ten seconds.
        image_size: of pictures: the side of a square, or (height, width). The processor's or configuration's by default.
        batch_size: sequences in a call; more than one without a cache only.
        attention_mask: whether there is an input that marks padding (without a cache; `hf` with a cache always has it).
            By default for models that look both ways, and for sounds whose processor gives one. With a fixed length it can
            be left out of a call, which then has no padding.
        token_type_ids: whether there is an input that tells the two texts of a pair apart; by default for tasks that
            take pairs. With a fixed length it can be left out of a call, which then has one text.
        num_choices: texts of a question in multiple-choice; config.num_labels by default.
        cache: "none", "io" (keys and values as inputs and outputs) or "state" (kept by Core ML, iOS 18).
        context_length: with a cache, the tokens of past and call together; the checkpoint's whole context by default.
            A range makes the past of "io" grow.
        prefill_length: adds a function `prefill` that takes so many tokens at once and shares every weight with `main`.
        logits: "all", or "last" for the scores of the last token only, which saves the head's product for the others.
        pooling: "mean" (of the tokens that are no padding) or "cls" (the first): feature-extraction gives one
            `sentence_embedding` (batch, width) instead of hidden states.
        normalize: whether that vector is divided by its length.
        postprocess: whether a package gives what a pipeline of transformers makes of the scores: a classifier with labels
            and probabilities. False (`--raw`) leaves transformers' own outputs, and takes plain tensors.
        inputs: new names of inputs, by their names without it.
        outputs: what becomes of an output, by its name without it (or transformers' own): a new name, None to leave it
            out, or `milbuild.Output(name, text, softmax)`.
        interface: names and shapes of a consumer: "milbuild", "hf" (transformers' and exporters' names),
            "swift-transformers". By default "hf" with cache="io", else "milbuild".
        precision: "float16" or "float32", of weights and arithmetic.
        target: the oldest system the package runs on, "iOS15" to "iOS18" or "iOS26".
        revision: branch, tag or commit of a hub id.
        model_type: what the checkpoint must be; `milbuild.gpt2.build` sets it.

    Returns:
        a `milbuild.Model`, which is a coremltools MLModel.

    Raises:
        milbuild.Error: for a checkpoint or an option that no right package can be made of.
    """
    checkpoint = Checkpoint.open(source, revision)
    config = read_config(checkpoint, model_type)
    family = architectures.find(config.model_type)
    for name, (value, reason) in family.only.items():
        if getattr(config, name) != value:
            raise Error(
                f"{checkpoint.name} has {name}: {getattr(config, name)!r}; the graph is written for {value!r} only: {reason}"
            )
    plan = Plan.make(
        config,
        family,
        checkpoint.processor,
        task=task,
        sequence_length=sequence_length,
        image_size=image_size,
        batch_size=batch_size,
        attention_mask=attention_mask,
        token_type_ids=token_type_ids,
        num_choices=num_choices,
        cache=cache,
        context_length=context_length,
        prefill_length=prefill_length,
        logits=logits,
        pooling=pooling,
        normalize=normalize,
        postprocess=postprocess,
        inputs=inputs,
        outputs=outputs,
        interface=interface,
        precision=precision,
        target=target,
    )
    program, descriptions = Program(), {}
    for name, tokens in plan.functions().items():
        with _fresh_names():
            function, descriptions[name] = _Graph(plan, tokens, checkpoint, config, family).function()
        program.add_function(name, function)
    program.default_function_name = "main"
    program.export_as_multifunction = len(descriptions) > 1
    others = [module for head in family.heads.values() for module in head.modules]
    checkpoint.check(family.ignored, others, family.prefix)
    model, weights = lower(program, descriptions, TARGETS[target])
    _write_metadata(model.description.metadata, checkpoint, config, plan)
    return Model.built(model, weights)


@contextlib.contextmanager
def _fresh_names() -> Iterator[None]:
    """The builder numbers names by a counter of the whole process; ours must not depend on what was built before."""
    before = dict(mb.name_count)
    mb.name_count.clear()
    try:
        yield
    finally:
        mb.name_count.clear()
        mb.name_count.update(before)


class Config:
    """transformers' configuration object with a record of the fields that were read (`read`), by their own names."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        self.read.add(type(self._config).attribute_map.get(name, name))
        return value


def read_config(checkpoint: Checkpoint, model_type: str | None = None) -> Config:
    """The configuration of a checkpoint as transformers reads it. Raises `Error` where it is none, or not of `model_type`."""
    found = checkpoint.config.get("model_type")
    if not isinstance(found, str):
        raise Error(
            f"config.json of {checkpoint.name} has no model_type", "It is not a configuration that transformers saved."
        )
    if model_type is not None and found != model_type:
        raise Error(
            f"{checkpoint.name} is a {found}, not a {model_type}",
            f"Use milbuild.build, or milbuild.{found.replace('-', '_')}.build.",
        )
    architectures.find(found)
    named = checkpoint.config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise Error(f"config.json of {checkpoint.name} has {named!r} for architectures, which are a list of names")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return Config(CONFIG_MAPPING[found].from_dict(dict(checkpoint.config)))
    except (StrictDataclassError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise Error(
            f"config.json of {checkpoint.name} is no configuration of {found}: {' '.join(str(error).split())}"
        ) from error


def image_scaling(processor: dict[str, Any], config: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of each channel: what a checkpoint's image processor does to pixels from 0 to 255, as one product and
    one sum. Raises `Error` where it does not say."""
    if not processor:
        hint = "Add the checkpoint's preprocessor_config.json, or build with plain tensors (postprocess=False, --raw)."
        raise Error("the checkpoint has no image processor that says how pictures are scaled", hint)
    scale = np.full(
        config.num_channels, processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    )
    shift = np.zeros(config.num_channels)
    if processor.get("do_normalize", "image_mean" in processor):
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


class _Graph:
    """One function of the package: its inputs and states, the cache over them, the family, the head, its outputs."""

    def __init__(self, plan: Plan, tokens: Length, checkpoint: Checkpoint, config: Config, family: type[Any]) -> None:
        self.plan, self.config, self.family = plan, config, family
        self.names = INTERFACES[plan.interface]
        self.kind = KINDS[architectures.takes(family)[0]]
        self.dtype = np.dtype(plan.precision)
        # iOS 15 takes and gives no float16.
        self.io_dtype = "float32" if plan.target == "iOS15" else plan.precision
        self.weights = Cursor(checkpoint, self.dtype, family.prefix)
        self.checkpoint, self.processor = checkpoint, checkpoint.processor
        self.length = tokens
        self.tokens: Any = tokens if isinstance(tokens, int) else get_new_symbol()
        self.placeholders: dict[str, Any] = {}
        self.features: list[Feature] = []
        self.states: list[Feature] = []

    def function(self) -> tuple[Function, Description]:
        taken = architectures.takes(self.family)
        for name in taken:
            getattr(self, f"_declare_{name}")()
        self._declare_cache()
        new = self._new_names()
        placeholders = {new.get(name, name): each for name, each in self.placeholders.items()}
        with Function(placeholders, opset_version=ct.target[self.plan.target]) as function:
            inputs = {name: function.inputs[new.get(name, name)] for name in self.placeholders}
            given = {name: inputs.get(self._named(name)) for name in taken}
            if "pixel_values" in taken:
                given["pixel_values"] = self._picture(inputs)
            if "input_values" in taken:
                given["input_values"] = self._arithmetic(inputs["input_values"])
            named = inputs
            if self.plan.num_choices is not None:
                named = {name: self._as_batch(var) for name, var in named.items()}
                given = {name: named.get(self._named(name)) for name in taken}
            cache = self._cache(named, given)
            model = self.family(self.config, self.weights / self.family.prefix, cache)
            hidden = model.hidden_states(**given)
            if self.plan.logits == "last":
                hidden = heads.last(hidden, f"{model.weights.name}_last")
            given["num_choices"] = self.plan.num_choices
            results = self.family.heads[self.plan.task](model, hidden, given)
            if self.plan.pooling is not None:
                states, mask = results["last_hidden_state"], cache.attention_mask
                vector = sentence_embedding(states, mask, self.plan.pooling, self.plan.normalize)
                results = {"sentence_embedding": vector}
            if not self.plan.raw:
                results = postprocessed(self.plan.task, results, self.config, self.plan.image_size)
            produced = {name: self._output(var, name) for name, var in results.items()}
            features = [self._output_feature(name, var) for name, var in produced.items()]
            for name, var, feature in self._present(cache):
                produced[name] = var
                features.append(feature)
            produced, features = self._changed(produced, features)
            function.set_outputs(list(produced.values()))
        described = [replace(feature, name=new.get(feature.name, feature.name)) for feature in self.features]
        return function, Description(described, features, self.states)

    def _new_names(self) -> dict[str, str]:
        """Inputs that get another name; states keep theirs."""
        new, states = self.plan.inputs, {feature.name for feature in self.states}
        inputs = [name for name in self.placeholders if name not in states]
        if unknown := sorted(set(new) - set(inputs)):
            raise Error(f"there is no input {', '.join(unknown)} to rename; there are {', '.join(inputs)}")
        names = [new.get(name, name) for name in self.placeholders]
        if len(set(names)) < len(names):
            raise Error(f"inputs gives two of them one name: {', '.join(names)}")
        return new

    def _changed(self, produced: dict[str, Var], features: list[Feature]) -> tuple[dict[str, Var], list[Feature]]:
        """Outputs as `plan.outputs` has them: renamed, described, left out."""
        changes = {name: change for name, change in self.plan.outputs.items() if name in produced}
        known = {*produced, *self.family.heads[self.plan.task].outputs}
        if unknown := sorted(set(self.plan.outputs) - known):
            raise Error(f"there is no output {', '.join(unknown)} to change; there are {', '.join(produced)}")
        kept = [feature for feature in features if changes.get(feature.name, Output()) is not None]
        if not kept:
            raise Error("outputs leaves nothing that the package would give")
        variables, described = {}, []
        for feature in kept:
            change = changes.get(feature.name) or Output()
            name, var = change.name or feature.name, produced[feature.name]
            if name in variables or name in self.placeholders:
                raise Error(f"outputs gives the name {name} to what is not alone in having it")
            var.name = name
            variables[name] = var
            described.append(replace(feature, name=name, text=change.text or feature.text))
        return variables, described

    def _as_batch(self, var: Var) -> Var:
        """The texts of a question as those of a batch: (B, C, T) -> (B * C, T)."""
        batch, count, tokens = var.shape
        tokens = tokens if isinstance(tokens, int) else -1
        return mb.reshape(x=var, shape=[batch * count, tokens], name=f"{var.name}_texts")

    def _named(self, name: str) -> str:
        """An input's name at the interface."""
        return str(getattr(self.names, name, name))

    # Inputs and states

    def _input(
        self,
        name: str,
        dtype: str,
        shape: Sequence[Any],
        described: Sequence[Dimension],
        text: str,
        axis: int | None = None,
        default: int | None = None,
        image: bool = False,
    ) -> None:
        """Declares an input; `axis` is the one that follows a listed sequence length, `default` what an input that is left
        out is filled with."""
        listed: tuple[tuple[int, ...], ...] = ()
        if axis is not None and isinstance(self.length, list):
            listed = tuple(tuple(n if i == axis else d for i, d in enumerate(shape)) for n in self.length)
        self.placeholders[name] = mb.placeholder(
            tuple(shape), types.string_to_builtin({"float16": "fp16", "float32": "fp32"}.get(dtype, dtype))
        )
        default = default if isinstance(self.length, int) else None
        self.features.append(Feature(name, dtype, tuple(described), text, listed, default, image))

    # One function for each name that a family's `hidden_states` can take: what the input is called, holds and looks like.

    def _declare_input_ids(self) -> None:
        shape, described = self._per_token()
        text = f"Token ids, {spell_length(self.length)} a call, below {self.config.vocab_size}."
        self._input(self.names.input_ids, "int32", shape, described, text, axis=len(shape) - 1)

    def _declare_token_type_ids(self) -> None:
        if self.plan.token_type_ids:
            text = "0 for a token of the first text, 1 for one of the second."
            self._declare_beside_tokens("token_type_ids", text, default=0)

    def _declare_beside_tokens(self, name: str, text: str, default: int) -> None:
        """An int32 for every token; with a fixed length it can be left out of a call (the constant that fills it has a
        shape of its own, whatever the others')."""
        shape, described = self._per_token()
        if isinstance(self.length, int):
            text = f"{text} Optional: {default} everywhere."
        self._input(self._named(name), "int32", shape, described, text, axis=len(shape) - 1, default=default)

    def _per_token(self) -> tuple[tuple[Any, ...], tuple[Dimension, ...]]:
        """The shape of what has a value for each token, in the program and as it is described."""
        plan = self.plan
        rows = (plan.batch_size,) if plan.num_choices is None else (plan.batch_size, plan.num_choices)
        return (*rows, self.tokens), (*rows, self._dimension(self.length))

    def _declare_pixel_values(self) -> None:
        plan = self.plan
        assert plan.image_size is not None
        channels = self.config.num_channels
        shape = (plan.batch_size, channels, *plan.image_size)
        if plan.postprocess and channels == 3:
            # An image is float32 in every target's program.
            text = f"A picture of {plan.image_size[1]} x {plan.image_size[0]} pixels, RGB."
            self._input(IMAGE, "float32", shape, shape, text, image=True)
        else:
            text = "Pictures as the checkpoint's image processor makes them."
            self._input("pixel_values", self.io_dtype, shape, shape, text)

    def _declare_bool_masked_pos(self) -> None:
        config, plan = self.config, self.plan
        # transformers takes no mask where the reconstruction has another size than the picture.
        if plan.task != "masked-im" or config.patch_size != config.encoder_stride:
            return
        assert plan.image_size is not None
        patches = (plan.image_size[0] // config.patch_size) * (plan.image_size[1] // config.patch_size)
        shape = (plan.batch_size, patches)
        text = "1 for a patch that is hidden from the model, row by row. Optional: 0 everywhere."
        self._input("bool_masked_pos", "int32", shape, shape, text, default=0)

    def _declare_input_values(self) -> None:
        shape, described = self._per_token()
        text = f"Sound as the checkpoint's processor makes it, {spell_length(self.length)} samples a call."
        self._input("input_values", self.io_dtype, shape, described, text, axis=len(shape) - 1)

    def _picture(self, inputs: dict[str, Var]) -> Var:
        """pixel_values, of which the processor's part is done in the graph where an image comes in."""
        if IMAGE not in inputs:
            return self._arithmetic(inputs["pixel_values"])
        scale, shift = image_scaling(self.processor, self.config)
        # In float32, which an image is: in float16 a rounded scale would be wrong by the same share everywhere.
        scale, shift = (values.astype(np.float32).reshape(1, -1, 1, 1) for values in (scale, shift))
        x = mb.mul(x=inputs[IMAGE], y=scale, name=f"{IMAGE}_scaled")
        if self.plan.precision == "float32":
            return mb.add(x=x, y=shift, name="pixel_values")
        return mb.cast(x=mb.add(x=x, y=shift, name=f"{IMAGE}_shifted"), dtype="fp16", name="pixel_values")

    def _declare_cache(self) -> None:
        """The inputs and states that the cache asks for: what is padding, what came before."""
        plan = self.plan
        if plan.cache == "none" and plan.attention_mask:
            text = "1 for a token, 0 for padding, which no token attends to."
            if self.kind == "sound":
                text = "1 for a sample, 0 for padding behind the sound, which no frame attends to."
            self._declare_beside_tokens("attention_mask", text, 1)
        if plan.cache == "io":
            self._declare_past()
        if plan.cache == "state":
            self._declare_states()

    def _declare_past(self) -> None:
        context, names = self.plan.context_length, self.names
        layers, heads_, width = caches.shape(self.config)
        shortest, longest = _ends(self.length)
        if isinstance(context, int):
            past: Any = context - longest
            described: Dimension = past
            slots: Any = context
            slots_described: Dimension = context
            text = (
                f"{past} slots for keys and values of earlier tokens; attention_mask says which are filled. "
                "The caller stores what `present` brings."
            )
        else:
            assert context is not None
            past, slots = get_new_symbol(), get_new_symbol()
            described = (1, max(1, context[1] - shortest))
            slots_described = (1 + shortest, max(context[1], 1 + longest))
            text = "Keys and values of earlier tokens. The first call passes one slot of zeros with attention_mask 0."
        mask = "For the slots of the past, then the tokens of the call: 1 where there is one, 0 for empty slots and padding."
        self._input(names.attention_mask, "int32", (1, slots), (1, slots_described), mask)
        for layer in range(layers):
            for kind in ("key", "value"):
                name = names.past.format(layer=layer, kind=kind)
                shape = (1, heads_, past, width)
                self._input(name, self.io_dtype, shape, (1, heads_, described, width), f"Layer {layer}. {text}")

    def _declare_states(self) -> None:
        context, names = self.plan.context_length, self.names
        assert isinstance(context, int)
        layers, heads_, width = caches.shape(self.config)
        slots = context
        if names.ranged:
            slots = context + 1
            text = (
                f"One slot more than there are tokens in the sequence so far, at most {slots}; the first slot stays empty. "
                "Negative hides a slot; order in time is the graph's own affair."
            )
            self._input(names.position, "float16", (1, 1, 1, get_new_symbol()), (1, 1, 1, (2, slots)), text)
        else:
            text = (
                f"Tokens already in the cache. With those of the call they are at most {context}, the context: "
                "what is written past it is undefined."
            )
            self._input(names.position, "int32", (1,), (1,), text)
        for window, (number, ring) in self._rings(layers, slots).items():
            what = "zeros in a new state."
            if window is not None:
                what = f"a ring for the layers that see {window} tokens; {what}"
            for name in self._state_names(window):
                shape = (number, 1, heads_, ring, width)
                self.placeholders[name] = mb.state_tensor_placeholder(shape, types.fp16)
                self.states.append(Feature(name, "float16", shape, f"Layers, 1, heads, slots, width of a head; {what}"))

    def _rings(self, layers: int, slots: int) -> dict[int | None, tuple[int, int]]:
        """Window -> (layers, slots) of each pair of states; None stands for layers that keep everything."""
        calls = [max(_ends(length)) for length in self.plan.functions().values()]
        found: dict[int | None, tuple[int, int]] = {}
        for window in caches.windows(self.config)[:layers]:
            ring = None if window is None or self.names.ranged else caches.ring(window, calls, slots)
            kind = window if ring else None
            found[kind] = (found.get(kind, (0, 0))[0] + 1, ring or slots)
        return found

    def _state_names(self, window: int | None) -> tuple[str, str]:
        names = self.names
        return (names.key, names.value) if window is None else (f"sliding_{names.key}", f"sliding_{names.value}")

    def _cache(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cache:
        names, plan = self.names, self.plan
        longest = max(_ends(self.length if plan.context_length is None else plan.context_length))
        tokens = 0 if self.kind == "sound" else self.tokens  # a family counts its frames itself
        if self.kind == "text" and not isinstance(self.length, int):
            tokens = _size(given["input_ids"], 1, "sequence_length")
        layers, _, _ = caches.shape(self.config) if plan.cache != "none" else (0, 0, 0)
        if plan.cache == "io":

            def past(layer: int, kind: str) -> Var:
                return self._arithmetic(inputs[names.past.format(layer=layer, kind=kind)])

            pairs = [(past(layer, "key"), past(layer, "value")) for layer in range(layers)]
            whole = not isinstance(plan.context_length, int)
            return InputOutputCache(pairs, inputs[names.attention_mask], tokens, longest, whole)
        if plan.cache == "none":
            return NoCache(tokens, longest, inputs.get(names.attention_mask))
        windows = caches.windows(self.config)
        if names.ranged:
            mask, pair = inputs[names.position], (inputs[names.key], inputs[names.value])
            end = mb.expand_dims(x=_size(mask, 3, "slots"), axes=[0], name="slots_end")
            begin = mb.sub(x=end, y=tokens, name="slots_begin")
            return StateCache({None: pair}, windows, begin, tokens, longest, reserved=1, end=end, hidden=mask)
        states = {}
        assert isinstance(plan.context_length, int)
        for window in self._rings(layers, plan.context_length):
            key, value = self._state_names(window)
            states[window] = (inputs[key], inputs[value])
        return StateCache(states, windows, inputs[names.position], tokens, longest)

    # Outputs

    def _output(self, var: Var, name: str) -> Var:
        """Gives a value its name at the interface and the type that the target has there."""
        if self.io_dtype != self.plan.precision and types.is_tensor(var.sym_type) and var.dtype == types.fp16:
            var = mb.cast(x=var, dtype="fp32", name=f"{var.op.name}_float32")
        var.name = name
        return var

    def _output_feature(self, name: str, var: Var) -> Feature:
        spelled = meanings(self.plan.task, self.config, self.checkpoint)
        if name == LABEL:
            return Feature(name, "label", None, TEXTS[name])
        if not types.is_tensor(var.sym_type):
            return Feature(name, "probabilities", None, f"{TEXTS[name]}{spelled}")
        shape, dimensions = self._output_shape(var)
        dtype = "float32" if var.dtype == types.fp32 else "int32" if var.dtype == types.int32 else "float16"
        return Feature(name, dtype, shape, f"{TEXTS[name]} Shape {dimensions}.{spelled}")

    def _output_shape(self, var: Var) -> tuple[tuple[Dimension, ...] | None, str]:
        dimensions = [d if isinstance(d, int) else None for d in var.shape]
        spelled = ", ".join(
            ("frames" if self.kind == "sound" else "tokens") if d is None else str(d) for d in dimensions
        )
        return (None if None in dimensions else tuple(d for d in dimensions if d is not None)), f"({spelled})"

    def _present(self, cache: Cache) -> list[tuple[str, Var, Feature]]:
        if not isinstance(cache, InputOutputCache):
            return []
        what = "Past and new" if cache.whole else "New"
        present = []
        for layer, pair in enumerate(cache.present):
            for kind, var in zip(("key", "value"), pair, strict=True):
                name = self.names.present.format(layer=layer, kind=kind)
                var = self._output(var, name)
                shape, spelled = self._output_shape(var)
                present.append(
                    (
                        name,
                        var,
                        Feature(name, self.io_dtype, shape, f"{what} {kind}s of layer {layer}. Shape {spelled}."),
                    )
                )
        return present

    def _arithmetic(self, var: Var) -> Var:
        """An input in the type that the graph computes in."""
        if self.io_dtype == self.plan.precision:
            return var
        return mb.cast(x=var, dtype="fp16", name=f"{var.name}_float16")

    @staticmethod
    def _dimension(length: Length) -> Dimension:
        return length if isinstance(length, int) else (min(length), max(length))


def _ends(length: Length) -> tuple[int, int]:
    return (length, length) if isinstance(length, int) else (min(length), max(length))


def _size(x: Var, axis: int, name: str) -> Var:
    """The length of an axis that is not known before the call, as an int32 scalar."""
    return mb.gather(x=mb.shape(x=x, name=f"{name}_shape"), indices=axis, axis=0, name=name)


def _write_metadata(metadata: Any, checkpoint: Checkpoint, config: Config, plan: Plan) -> None:
    from importlib.metadata import version

    author, license_ = checkpoint.credits()
    metadata.shortDescription = f"{checkpoint.name} ({config.model_type}) for {plan.task}, built by milbuild."
    metadata.author, metadata.license = author, license_
    metadata.userDefined.update(
        {
            "milbuild.version": milbuild.__version__,
            "milbuild.source": checkpoint.name,
            "milbuild.model_type": config.model_type,
            METADATA_KEY: plan.as_json(),
            **({} if plan.raw else preview(plan.task, config)),
            "com.github.apple.coremltools.version": ct.__version__,
            "transformers_version": version("transformers"),
            # What swift-transformers and exporters' tools read: the tokenizer's repository is the name.
            "co.huggingface.exporters.name": checkpoint.name,
            "co.huggingface.exporters.task": plan.task,
            "co.huggingface.exporters.architecture": (config.architectures or [config.model_type])[0],
            "co.huggingface.exporters.framework": "pytorch",
            "co.huggingface.exporters.precision": plan.precision,
        }
    )
