"""Options + checkpoint + architecture -> program -> Model. Every input and output name and shape is decided here."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import coremltools as ct
from coremltools.converters.mil.mil import Program

from milbuild import architectures, tasks
from milbuild.errors import Error, LintWarning
from milbuild.lowering.writer import lower
from milbuild.model import Model, units_of
from milbuild.program.function import Graph
from milbuild.program.lengths import Length, longest
from milbuild.program.metadata import write_metadata
from milbuild.program.mil import fresh_builder, one_build
from milbuild.program.options import BATCH_SIZE, LOGITS, PRECISION, TARGET, TARGETS, Output
from milbuild.program.plan import FUNCTIONS, Plan
from milbuild.program.whisperkit import WhisperKitGraph
from milbuild.weights import Checkpoint, fields
from milbuild.weights.fields import Config

if TYPE_CHECKING:
    from milbuild.linting import Report

# Interfaces whose shapes are the consumer's own, too.
GRAPHS: dict[str, type[Graph]] = {"whisperkit": WhisperKitGraph}


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
    checkpoint.respell(family.spellings)
    fields.check(config, checkpoint.config, checkpoint.name)
    for name, (value, reason) in family.required_config.items():
        if getattr(config, name) != value:
            raise Error(
                f"{checkpoint.name} has {name}: {getattr(config, name)!r}; the graph is written for {value!r} only: {reason}"
            )
    with one_build(), _degenerate(checkpoint.name, config):
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
            graphs.append(GRAPHS.get(plan.interface, Graph)(plan, name, checkpoint, config, family))
            with fresh_builder():
                function, descriptions[name] = graphs[-1].function()
            program.add_function(name, function)
        for half in FUNCTIONS:
            # The other halves, for the tensors that they read: every one of the checkpoint is accounted for.
            if plan.function is not None and half != plan.function:
                other = replace(plan, function=half, prefill_length=None)
                with fresh_builder():
                    GRAPHS.get(plan.interface, Graph)(other, "main", checkpoint, config, family).function()
        _check_names(plan, graphs)
        program.default_function_name = next(iter(descriptions))
        program.export_as_multifunction = len(descriptions) > 1
        others = [module for head in family.heads.values() for module in head.modules]
        halves = (r"decoder\..*",) if graphs[0].inputs.parts == ("encoder",) and not plan.apart else ()
        if not task:
            _check_class(checkpoint, config, family, plan.task)
        checkpoint.check((*family.ignored_weights, *halves), others, family.prefix)
        model, weights = lower(program, descriptions, TARGETS[target])
        write_metadata(model.description.metadata, checkpoint, config, plan, lint)
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
        return Config(CONFIG_MAPPING[found].from_dict(dict(checkpoint.config)), family.also)
    except Exception as error:  # whatever the class makes of such values
        raise Error(
            f"config.json of {checkpoint.name} is no configuration of {found}: {' '.join(str(error).split())}"
        ) from error


def _check_class(checkpoint: Checkpoint, config: Config, family: type[Any], task: str) -> None:
    """Raises `Error` where nobody named the task, config.json names a class that transformers does not have, and the file
    holds what no graph of this task reads: a head of that class."""
    known = architectures.SUPPORTED[config.model_type].tasks
    named = [name for name in config.architectures or () if not config.knows(name)]
    left = checkpoint.unread(family.ignored_weights, family.prefix)
    if not named or not left or tasks.named(config, known):
        return
    takes = [f"{each} ({', '.join(family.heads[each].modules) or 'no head'})" for each in known]
    raise Error(
        f"{checkpoint.name} was saved from {', '.join(named)}, which transformers does not have, and {task} would leave out "
        f"what that class has: {', '.join(left)}",
        f"Name the task to build without it (--task): {'; '.join(takes)}.",
    )


def _check_names(plan: Plan, graphs: list[Graph]) -> None:
    """Raises `Error` for inputs and outputs to change that no function has."""
    inputs = {name: None for graph in graphs for name in graph.inputs.inputs}
    if unknown := sorted(set(plan.inputs) - set(inputs)):
        raise Error(f"there is no input {', '.join(unknown)} to rename; there are {', '.join(inputs)}")
    outputs = {name: None for graph in graphs for name in graph.produced}
    if unknown := sorted(set(plan.outputs) - {*outputs, *graphs[0].family.heads[plan.task].outputs}):
        raise Error(f"there is no output {', '.join(unknown)} to change; there are {', '.join(outputs)}")
