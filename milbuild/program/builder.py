"""Options + checkpoint + architecture -> program -> Model. Every input and output name and shape is decided here."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from coremltools.converters.mil.mil import Program

from milbuild import architectures, tasks
from milbuild.architectures.family import Family
from milbuild.errors import Error, LintWarning
from milbuild.lowering.writer import lower
from milbuild.model import Model, units_of
from milbuild.package import TARGETS
from milbuild.program.function import Graph
from milbuild.program.lengths import longest
from milbuild.program.metadata import write_metadata
from milbuild.program.mil import fresh_builder, one_build
from milbuild.program.options import BuildOptions, complete, with_options
from milbuild.program.plan import Plan
from milbuild.program.whisperkit import WhisperKitGraph
from milbuild.weights import Checkpoint, fields
from milbuild.weights.fields import Config

if TYPE_CHECKING:
    from milbuild.linting import Report

# Interfaces whose shapes are the consumer's own, too.
GRAPHS: dict[str, type[Graph]] = {"whisperkit": WhisperKitGraph}


@with_options
def build(source: str | os.PathLike[str], *, model_type: str | None = None, **options: Unpack[BuildOptions]) -> Model:
    """A Hugging Face checkpoint as a Core ML model, its graph written operation by operation.

    Nothing is read of the weights before the model is saved or asked for a prediction.

    Args:
        source: a checkpoint's folder, its .safetensors file, or a hub id.
        model_type: what the checkpoint must be; `milbuild.gpt2.build` sets it.
        **options: those of `milbuild.program.options.BuildOptions`.

    Returns:
        a `milbuild.Model`, which is a coremltools MLModel. Its `unread_fields` are those of config.json that no model of its
        type reads.

    Raises:
        milbuild.Error: for a checkpoint or an option that no right package can be made of.
    """
    asked = complete(options)
    units, lint = units_of(asked.pop("compute_units")), asked.pop("lint")
    checkpoint = Checkpoint.open(source, asked.pop("revision"))
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
        plan = Plan.make(config, family, checkpoint.processor, checkpoint.recipe, **asked)
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
        _check_names(plan, graphs)
        program.default_function_name = next(iter(descriptions))
        program.export_as_multifunction = len(descriptions) > 1
        others = [module for head in family.heads.values() for module in head.modules]
        # Tensors of an encoder or a decoder that this package does not run are accounted for by their names.
        parts = {part for graph in graphs for part in graph.inputs.parts if plan.function != "mel"}
        ignored = (*family.ignored_weights, *architectures.elsewhere(family, parts))
        if not asked["task"]:
            _check_class(checkpoint, config, family, plan.task, ignored)
        checkpoint.check(ignored, others, family.prefix)
        model, weights = lower(program, descriptions, TARGETS[plan.target])
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


def _check_class(
    checkpoint: Checkpoint, config: Config, family: type[Family], task: str, ignored: Sequence[str]
) -> None:
    """Raises `Error` where nobody named the task, config.json names a class that transformers does not have, and the file
    holds what no graph of this task reads: a head of that class."""
    known = architectures.SUPPORTED[config.model_type].tasks
    named = [name for name in config.architectures or () if not config.knows(name)]
    left = checkpoint.unread(ignored, family.prefix)
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
