"""Options + checkpoint + architecture -> program -> Model. Every input and output name and shape is decided here."""

import contextlib
import functools
import gc
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, types
from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape
from coremltools.converters.mil.mil.types import type_list, type_mapping, type_state
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

import milbuild
from milbuild import architectures, caches, fields, heads, sentences, tasks, whisperkit
from milbuild import logits as logits_
from milbuild.caches import Cross, InputOutputCache
from milbuild.errors import Error, LintWarning
from milbuild.fields import Config
from milbuild.heads import Outputs
from milbuild.inputs import Inputs
from milbuild.layers.linear import shifted
from milbuild.model import Model, units_of
from milbuild.options import (
    BATCH_SIZE,
    COMMIT_KEY,
    CROSS,
    FUNCTIONS,
    LINT_KEY,
    LOGITS,
    METADATA_KEY,
    MODEL_TYPE_KEY,
    PRECISION,
    PROMPT,
    SENTENCE_KEY,
    SOURCE_KEY,
    TARGET,
    TARGETS,
    TOKENIZER_KEY,
    Length,
    Output,
    Plan,
    longest,
    parse_pooling,
)
from milbuild.outputs import LABEL, SENTENCE, TEXTS, meanings, postprocessed, preview, text
from milbuild.package.writer import SMALLEST_BLOB, Description, Dimension, Feature, lower
from milbuild.tasks import GENERATION
from milbuild.weights import Checkpoint, Cursor, Unread
from milbuild.weights.checkpoint import tokenizer_digest
from milbuild.whisperkit import OfLayers, WhisperKitInputs

if TYPE_CHECKING:
    from milbuild.linting import Report

# Values of a function's outputs with their descriptions, by name
Produced = dict[str, tuple[Var, Feature]]


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
    function: str | None = None,
    logits: str = LOGITS,
    pooling: str | None = None,
    normalize: bool | None = None,
    postprocess: bool = True,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str | Output | None] | None = None,
    interface: str | None = None,
    precision: str = PRECISION,
    target: str = TARGET,
    lint: bool = True,
    compute_units: ct.ComputeUnit | str = ct.ComputeUnit.ALL,
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
            numbers. 128 by default, with a cache 1, of sounds ten seconds. With an encoder and a decoder it is what the
            encoder reads; of Whisper the samples of a window, thirty seconds or fewer.
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
            A range makes the past of "io" grow. With an encoder and a decoder the tokens of the answer, cached or not.
        prefill_length: adds a function `prefill` that takes so many tokens at once and shares every weight with `main`.
        function: an encoder and a decoder that answer token by token are two functions of one package, `encode` and
            `decode`. "encode" or "decode" builds one of them alone (as `main`), for systems before iOS 18. WhisperKit has a
            package for each, and one more for "mel", the spectrogram.
        logits: "all", or "last" for the scores of the last token only, which saves the head's product for the others.
        pooling: how feature-extraction makes one `sentence_embedding` (batch, width) of the hidden states of the tokens that
            are no padding: "mean", "cls" (the first), "last", "max", "mean_sqrt_len_tokens", "weightedmean", several joined
            ("cls,mean"), or "none". By default as the modules.json of a repository of sentence-transformers says, with the
            modules that stand behind the pooling there; none without one.
        normalize: whether that vector is divided by its length; by default as modules.json says.
        postprocess: whether a package gives what a pipeline of transformers makes of the scores: a classifier with labels
            and probabilities. False (`--raw`) leaves transformers' own outputs, and takes plain tensors.
        inputs: new names of inputs, by their names without it.
        outputs: what becomes of an output, by its name without it (or transformers' own): a new name, None to leave it
            out, or `milbuild.Output(name, text, softmax)`.
        interface: names and shapes of a consumer: "milbuild", "hf" (transformers' and exporters' names),
            "swift-transformers", "whisperkit" (of Whisper, with a `function`). By default "hf" with cache="io", else
            "milbuild".
        precision: "float16" or "float32", of weights and arithmetic.
        target: the oldest system the package runs on, "iOS15" to "iOS18" or "iOS26".
        lint: whether the program is held against the rules of `milbuild.lint` that hold whatever unit runs it (those of one
            unit are asked by `milbuild.lint(model, unit)`): an error of theirs is an error of the build, warnings are given
            as one `milbuild.LintWarning`. The report is the model's `lint_report`. False is written into the metadata.
            Weights are not read; `milbuild.lint` reads saved ones.
        compute_units: what Core ML may run the returned model on: a `coremltools.ComputeUnit`, or its name: "cpu_only",
            "cpu_and_gpu", "cpu_and_ne", "all". A saved package holds none: whoever loads it chooses. Off macOS the runtime
            predicts, on the CPU.
        revision: branch, tag or commit of a hub id.
        model_type: what the checkpoint must be; `milbuild.gpt2.build` sets it.

    Returns:
        a `milbuild.Model`, which is a coremltools MLModel. Its `unread_fields` are those of config.json that no model of its
        type reads.

    Raises:
        milbuild.Error: for a checkpoint or an option that no right package can be made of.
    """
    units = units_of(compute_units)
    checkpoint = Checkpoint.open(source, revision)
    config = read_config(checkpoint, model_type)
    family = architectures.find(config.model_type)
    fields.check(config, checkpoint.config, checkpoint.name)
    for name, (value, reason) in family.only.items():
        if getattr(config, name) != value:
            raise Error(
                f"{checkpoint.name} has {name}: {getattr(config, name)!r}; the graph is written for {value!r} only: {reason}"
            )
    with _no_collections(), _degenerate(checkpoint.name, config):
        plan = Plan.make(
            config,
            family,
            checkpoint.processor,
            checkpoint.recipe,
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
            function=function,
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
        if plan.cache != "none":
            context = None if plan.context_length is None else longest(plan.context_length)
            fields.check_cache(config, checkpoint.config, checkpoint.name, context)
        head = family.heads[plan.task]
        if head.shares and config.tie_word_embeddings:
            tables = tuple(f"{family.prefix}.{table}.weight".strip(".") for table in head.table)
            checkpoint.lend(f"{head.shares}.weight", tables, family.prefix)
        program, descriptions, graphs = Program(), {}, []
        for name in plan.functions():
            graphs.append(GRAPHS.get(plan.interface, _Graph)(plan, name, checkpoint, config, family))
            with _fresh_builder():
                function, descriptions[name] = graphs[-1].function()
            program.add_function(name, function)
        for half in FUNCTIONS:
            # The other halves, for the tensors that they read: every one of the checkpoint is accounted for.
            if plan.function is not None and half != plan.function:
                other = replace(plan, function=half, prefill_length=None)
                with _fresh_builder():
                    GRAPHS.get(plan.interface, _Graph)(other, "main", checkpoint, config, family).function()
        _check_names(plan, graphs)
        program.default_function_name = next(iter(descriptions))
        program.export_as_multifunction = len(descriptions) > 1
        others = [module for head in family.heads.values() for module in head.modules]
        halves = (r"decoder\..*",) if graphs[0].inputs.halves == ("encoder",) and not plan.apart else ()
        if not task:
            _check_class(checkpoint, config, family, plan.task)
        checkpoint.check((*family.ignored, *halves), others, family.prefix)
        model, weights = lower(program, descriptions, TARGETS[target])
        _write_metadata(model.description.metadata, checkpoint, config, plan, lint)
        built = Model.built(model, weights, units, _linted(model, checkpoint.name) if lint else None)
        built.unread_fields = config.unread(checkpoint.config)
        return built


@contextlib.contextmanager
def _degenerate(name: str, config: "Config") -> Iterator[None]:
    """A graph that cannot be written because of a value that no model has (a size of 0, -1, null) is refused by the names of
    such fields. Without any, an exception is a fault of milbuild's and stays what it is."""
    try:
        yield
    except Error as error:
        if unnamed := [
            said for field, said in config.impossible().items() if not re.search(rf"\b{field}\b", str(error))
        ]:
            raise Error(error.message, f"config.json has {', '.join(unnamed)}. {error.hint or ''}".strip()) from error
        raise
    except Exception as error:
        if not (strange := config.unusual()):
            raise
        said = " ".join(str(error).split())[:200]
        raise Error(
            f"config.json of {name} has {', '.join(strange)}, with which milbuild writes no graph: {said}",
            "A layer, a head, or a width of so few is not built.",
        ) from error


def _linted(model: Any, name: str) -> "Report":
    """What lint says of a lowered program: its warnings in one line. Raises `Error` for its errors."""
    from milbuild import linting

    report = linting.lint_program(model, name)
    if not report.passed:
        raise Error(
            "\n  ".join([f"the program of {name} breaks rules of Core ML:", *report.said("error")]),
            "Build it with lint=False (--no-lint) to look into it with `milbuild lint`; its metadata then says so.",
        )
    if said := report.counted("warning"):
        broken = "; ".join(report.said("warning"))
        warnings.warn(f"{said}: {broken} The model's lint_report has all.", LintWarning, stacklevel=3)
    return report


_type_info = functools.cache(types.get_type_info)
_SOLVED = reshape.enforce_volumetric_constraint


def _opened(volume: Any, shape: Sequence[Any]) -> list[Any]:
    """The shape into which a reshape puts so many numbers: a symbol in it stands for a length that is left open."""
    known = [int(size) for size in shape if not is_symbolic(size)]
    if len(known) != len(shape) - 1 or not is_symbolic(volume) or 0 in known:
        return list(_SOLVED(volume, shape))
    return [volume / math.prod(known) if is_symbolic(size) else int(size) for size in shape]


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Python looks for garbage again and again while a graph grows, a tenth of the time, and everything is still in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _fresh_builder() -> Iterator[None]:
    """The builder numbers names by a counter of the whole process; ours must not depend on what was built before.

    And three habits of it take most of its time. It adds a constant for each parameter of each operation, axes and masks over
    and over: inside, equal small ones are one. It describes a type, to learn of which kind it is, some forty times for each
    operation: inside, each is described once. And it solves equations for a length that a reshape leaves open: inside, a
    division finds it.
    """
    before, add = dict(mb.name_count), mb._add_const
    shared: dict[Any, Var] = {}

    def add_once(value: Any, name: str, before_op: Any) -> Var:
        key = _small(value)
        if key is None or before_op is not None:
            return add(value, name, before_op)
        if key not in shared:
            shared[key] = add(value, name, before_op)
        return shared[key]

    mb.name_count.clear()
    mb._add_const = add_once
    reshape.enforce_volumetric_constraint = staticmethod(_opened)
    for module in (type_list, type_mapping, type_state):
        module.get_type_info = _type_info
    try:
        yield
    finally:
        for module in (type_list, type_mapping, type_state):
            module.get_type_info = types.get_type_info
        reshape.enforce_volumetric_constraint = staticmethod(_SOLVED)
        mb._add_const = add
        mb.name_count.clear()
        mb.name_count.update(before)


def _small(value: Any) -> Any:
    """Equal for equal types and values that stand in the program itself; None for others."""
    plain = value if isinstance(value, list | tuple) else [value]
    if len(plain) < SMALLEST_BLOB and all(type(each) in (bool, int, float, str) for each in plain):
        return type(value), repr(value)
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, Unread) and value.size < SMALLEST_BLOB:
        return value.dtype.str, value.shape, value.tobytes()
    return None


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
    family = architectures.find(found)
    named = checkpoint.config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise Error(f"config.json of {checkpoint.name} has {named!r} for architectures, which are a list of names")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return Config(CONFIG_MAPPING[found].from_dict(dict(checkpoint.config)), getattr(family, "also", ()))
    except Exception as error:  # whatever the class makes of such values
        raise Error(
            f"config.json of {checkpoint.name} is no configuration of {found}: {' '.join(str(error).split())}"
        ) from error


class _Graph:
    """One function of the package: its inputs and states, the cache over them, the family, the head, its outputs."""

    declares: type[Inputs] = Inputs

    def __init__(self, plan: Plan, name: str, checkpoint: Checkpoint, config: Config, family: type[Any]) -> None:
        self.plan, self.config, self.family, self.checkpoint = plan, config, family, checkpoint
        self.inputs = self.declares(plan, config, family, checkpoint, name)
        self.weights = Cursor(checkpoint, np.dtype(plan.precision), family.prefix) / family.prefix
        self.produced: Produced = {}

    def function(self) -> tuple[Function, Description]:
        declared, new = self.inputs, self.inputs.renamed()
        placeholders = {new.get(name, name): each for name, each in declared.placeholders.items()}
        with Function(placeholders, opset_version=ct.target[self.plan.target]) as function:
            inputs = {name: function.inputs[new.get(name, name)] for name in declared.placeholders}
            given = declared.given(inputs)
            if declared.halves == ("encoder",) and self.plan.apart:
                self.produced = self._named(self._read(inputs, given))
            else:
                self.produced = self._answered(inputs, given)
            values, features = self._changed(self.produced)
            function.set_outputs(list(values.values()))
        described = [replace(feature, name=new.get(feature.name, feature.name)) for feature in declared.features]
        return function, Description(described, features, declared.states)

    def _read(self, inputs: dict[str, Var], given: dict[str, Any]) -> Outputs:
        """`encode`: the encoder's states, and the keys and values that every layer of the decoder makes of them."""
        model = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        states = model.encode(**given)
        cross = dict(zip(CROSS, model.cross(states), strict=True))
        if self.plan.cross_in_state:
            for name, value in cross.items():
                caches.write_whole(inputs[name], value)
            for name in (feature.name for feature in self.inputs.states if feature.name not in CROSS):
                caches.empty(inputs[name])
            cross = {}
        return {"encoder_last_hidden_state": states, **cross}

    def _answered(self, inputs: dict[str, Var], given: dict[str, Any]) -> Produced:
        """What the task's head makes of the hidden states, and with cache io what the cache gives back."""
        plan, declared = self.plan, self.inputs
        named = inputs
        if plan.num_choices is not None:
            named = {name: declared.as_batch(var) for name, var in inputs.items()}
            given = declared.given(named)
        head = self.family.heads[plan.task]
        if declared.halves == ("encoder",):
            model = self.family(self.config, self.weights, declared.encoder_cache(named, given))
            hidden = model.encode(**given)
        elif declared.halves:
            model, hidden = self._decoded(named, given)
        else:
            model = self.family(self.config, self.weights, declared.cache(named, given))
            hidden = model.hidden_states(**given)
        if plan.logits == "last":
            hidden = heads.last(hidden, f"{model.weights.name}_last")
        given["num_choices"] = plan.num_choices
        results = head(model, hidden, given)
        if plan.pooling is not None:
            results = {SENTENCE: self._sentence(results["last_hidden_state"], model.cache, named)}
        if not plan.raw:
            mask = named.get(declared.names.attention_mask)
            results = postprocessed(plan.task, results, self.config, plan.image_size, mask)
        return self._named(results) | self._present(model)

    def _sentence(self, hidden: Var, cache: caches.Cache, inputs: dict[str, Var]) -> Var:
        """One vector for each text of its states."""
        plan = self.plan
        assert plan.pooling is not None
        w = Cursor(self.checkpoint.modules if plan.modules else self.checkpoint, self.weights.dtype, "", "", "sentence")
        mask, prompt = inputs.get(self.inputs.names.attention_mask), inputs.get(PROMPT)
        x = sentences.pooled(hidden, cache.query_positions, mask, prompt, parse_pooling(plan.pooling), w)
        recipe = self.checkpoint.recipe
        if plan.modules and recipe is not None:
            x = sentences.behind(x, recipe.steps, w)
            self.checkpoint.modules.check((), (), "")
        return sentences.normalized(x, w / "unit") if plan.normalize else x

    def _decoded(self, inputs: dict[str, Var], given: dict[str, Any]) -> tuple[Any, Var]:
        """The decoder and its hidden states, behind the encoder in the same function or in one of its own."""
        declared = self.inputs
        if declared.halves == ("decoder",):
            cross = self._cross(inputs, given)
        else:
            reader = self.family(self.config, self.weights, declared.encoder_cache(inputs, given))
            decoder_input_ids = given.pop("decoder_input_ids", None)
            states = reader.encode(**given)
            layers, _, _ = caches.shape(self.config)
            keys, values = reader.cross(states)
            cross = caches.Cross.of(keys, values, layers, reader.cache.attention_mask)
            given["encoder_last_hidden_state"] = states
            if decoder_input_ids is None:
                # T5's configuration class has no such field, only the files that name it.
                decoder_input_ids = shifted(given["input_ids"], getattr(self.config, "decoder_start_token_id", None))
            given["decoder_input_ids"] = decoder_input_ids
        model = self.family(self.config, self.weights, declared.cache(inputs, given))
        return model, model.hidden_states(given["decoder_input_ids"], cross)

    def _cross(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cross:
        """What the encoder read, of a decoder in a function of its own."""
        return self.inputs.cross(inputs)

    # Outputs

    def _named(self, results: Outputs) -> Produced:
        """Outputs under their names, with their descriptions."""
        produced = {}
        for name, value in results.items():
            var = self._output(value, name)
            produced[name] = (var, self._feature(name, var))
        return produced

    def _changed(self, produced: Produced) -> tuple[dict[str, Var], list[Feature]]:
        """Outputs as `plan.outputs` has them: renamed, described, left out."""
        changes = {name: self.plan.outputs.get(name, Output()) for name in produced}
        variables, described = {}, []
        for before, (var, feature) in produced.items():
            change = changes[before]
            if change is None:
                continue
            name = change.name or before
            if name in variables or name in self.inputs.placeholders:
                raise Error(f"outputs gives the name {name} to what is not alone in having it")
            var.name = name
            variables[name] = var
            described.append(replace(feature, name=name, text=change.text or feature.text))
        if not variables:
            raise Error("outputs leaves nothing that the package would give")
        return variables, described

    def _output(self, var: Var, name: str) -> Var:
        """Gives a value its name at the interface and the type that the target has there."""
        if self.inputs.io_dtype != self.plan.precision and types.is_tensor(var.sym_type) and var.dtype == types.fp16:
            half = var
            var = mb.cast(x=half, dtype="fp32", name=f"{half.op.name}_float32")
            if half.name == name:
                half.name = f"{name}_float16"
        var.name = name
        return var

    def _feature(self, name: str, var: Var) -> Feature:
        spelled = meanings(self.plan.task, self.config, self.checkpoint)
        if name == LABEL:
            return Feature(name, "label", None, TEXTS[name])
        if not types.is_tensor(var.sym_type):
            return Feature(name, "probabilities", None, f"{TEXTS[name]}{spelled}")
        shape, dimensions = self._shape(var)
        dtype = "float32" if var.dtype == types.fp32 else "int32" if var.dtype == types.int32 else "float16"
        recipe = f" Made by {self.plan.vector}." if name == SENTENCE else ""
        said = text(name, self.plan.task, self.config)
        return Feature(name, dtype, shape, f"{said} Shape {dimensions}.{recipe}{spelled}")

    def _shape(self, var: Var) -> tuple[tuple[Dimension, ...] | None, str]:
        dimensions = [d if isinstance(d, int) else None for d in var.shape]
        spelled = ", ".join(
            ("frames" if self.inputs.kind == "sound" else "tokens") if d is None else str(d) for d in dimensions
        )
        return (None if None in dimensions else tuple(d for d in dimensions if d is not None)), f"({spelled})"

    def _present(self, model: Any) -> Produced:
        """Keys and values for the caller to keep."""
        cache = model.cache
        if not isinstance(cache, InputOutputCache):
            return {}
        what = "Past and new" if cache.whole else "New"
        present = {}
        for layer, pair in enumerate(cache.present):
            for kind, value in zip(("key", "value"), pair, strict=True):
                name = self.inputs.names.present.format(layer=layer, kind=kind)
                var = self._output(value, name)
                shape, spelled = self._shape(var)
                text = f"{what} {kind}s of layer {layer}. Shape {spelled}."
                present[name] = (var, Feature(name, self.inputs.io_dtype, shape, text))
        return present


class _WhisperKit(_Graph):
    """One of WhisperKit's packages."""

    declares = WhisperKitInputs
    inputs: WhisperKitInputs

    def _read(self, inputs: dict[str, Var], given: dict[str, Any]) -> Outputs:
        names = self.inputs.names
        if self.plan.function == "mel":
            return {names.input_features: whisperkit.spread(given["input_features"], "input_features", turned=False)}
        model = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        name = names.encoder_last_hidden_state
        return {name: whisperkit.spread(model.encode(**given), name, turned=True)}

    def _cross(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cross:
        """The encoder's states come in as they are, so their keys and values are worked out in every call: by each layer when
        it comes to them, since those of all together are 246 MB in a large-v3."""
        reader = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        states, layers = self.inputs.encoder_states(inputs), caches.shape(self.config)[0]

        @functools.cache
        def made(layer: int) -> tuple[Var, Var]:
            keys, values = reader.cross(states, layer)
            return keys, values

        return Cross(OfLayers(lambda i: made(i)[0], layers), OfLayers(lambda i: made(i)[1], layers), None)

    def _present(self, model: Any) -> Produced:
        new = zip(("key", "value"), whisperkit.updates(model.cache), strict=True)
        results = {self.inputs.names.present.format(kind=kind): value for kind, value in new}
        if chosen := whisperkit.alignment_heads(self.checkpoint, self.config):
            results[whisperkit.LOOKS] = whisperkit.looks(chosen, model.looks)
        return self._named(results)


GRAPHS: dict[str, type[_Graph]] = {"whisperkit": _WhisperKit}


def _check_class(checkpoint: Checkpoint, config: Config, family: type[Any], task: str) -> None:
    """Raises `Error` where nobody named the task, config.json names a class that transformers does not have, and the file
    holds what no graph of this task reads: a head of that class."""
    known = architectures.SUPPORTED[config.model_type].tasks
    named = [name for name in config.architectures or () if not config.knows(name)]
    left = checkpoint.unread(family.ignored, family.prefix)
    if not named or not left or tasks.named(config, known):
        return
    takes = [f"{each} ({', '.join(family.heads[each].modules) or 'no head'})" for each in known]
    raise Error(
        f"{checkpoint.name} was saved from {', '.join(named)}, which transformers does not have, and {task} would leave out "
        f"what that class has: {', '.join(left)}",
        f"Name the task to build without it (--task): {'; '.join(takes)}.",
    )


def _check_names(plan: Plan, graphs: list[_Graph]) -> None:
    """Raises `Error` for inputs and outputs to change that no function has."""
    inputs = {name: None for graph in graphs for name in graph.inputs.inputs}
    if unknown := sorted(set(plan.inputs) - set(inputs)):
        raise Error(f"there is no input {', '.join(unknown)} to rename; there are {', '.join(inputs)}")
    outputs = {name: None for graph in graphs for name in graph.produced}
    if unknown := sorted(set(plan.outputs) - {*outputs, *graphs[0].family.heads[plan.task].outputs}):
        raise Error(f"there is no output {', '.join(unknown)} to change; there are {', '.join(outputs)}")


def _write_metadata(metadata: Any, checkpoint: Checkpoint, config: Config, plan: Plan, lint: bool) -> None:
    from importlib.metadata import version

    author, license_ = checkpoint.credits()
    metadata.shortDescription = f"{checkpoint.name} ({config.model_type}) for {plan.task}, built by milbuild."
    metadata.author, metadata.license = author, license_
    metadata.userDefined.update(
        {
            "milbuild.version": milbuild.__version__,
            SOURCE_KEY: checkpoint.name,
            **({COMMIT_KEY: checkpoint.commit} if checkpoint.commit else {}),
            **({TOKENIZER_KEY: digest} if (digest := tokenizer_digest(checkpoint.folder)) else {}),
            MODEL_TYPE_KEY: config.model_type,
            METADATA_KEY: plan.as_json(),
            **({} if lint else {LINT_KEY: "off"}),
            **_sentence_facts(checkpoint, plan),
            **({} if plan.raw else preview(plan.task, config)),
            **({logits_.METADATA_KEY: logits_.kept(checkpoint.generation)} if plan.task in GENERATION else {}),
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


def _sentence_facts(checkpoint: Checkpoint, plan: Plan) -> dict[str, str]:
    """What a repository of sentence-transformers says of the texts that a vector is made of: prompts, their longest."""
    facts = {} if checkpoint.recipe is None or plan.pooling is None else checkpoint.recipe.facts
    return {SENTENCE_KEY: json.dumps(facts, sort_keys=True)} if facts else {}
