"""Packages that milbuild did not build: their inputs and outputs, from their descriptions and one prediction."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from milbuild import tasks
from milbuild.errors import Error
from milbuild.program.lengths import Length
from milbuild.program.options import Output, table
from milbuild.program.plan import IMAGE, Plan
from milbuild.tasks import TASKS
from milbuild.validation.backend import Backend
from milbuild.validation.comparison import Arrays

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The inputs that validate can supply, by transformers' names.
KNOWN = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "bool_masked_pos", "input_values")
# The main input of a model, and what its axes are.
AXES = {
    "input_ids": ("batch", "tokens"),
    "input_values": ("batch", "samples"),
    "pixel_values": ("batch", "channels", "height", "width"),
}
MANY = 512  # the longest call where a range has no end


def task(package: str, name: str | None) -> str:
    """The task that a user gave, by any of its names. Raises `Error` without one."""
    if name is None:
        raise Error(
            f"{package} was not built by milbuild, so it does not name its task",
            "Give the task: --task text-classification, task='text-classification'.",
        )
    return tasks.resolve(name, tuple(tasks.TASKS), package)[0].name


def plan(backend: Backend, truth: "PreTrainedModel", task: str) -> Plan:
    """The plan that milbuild would have built the package by, without its outputs.

    Raises `Error` for a package with states or several functions, or with inputs that no model of transformers takes by that
    name.
    """
    name, description = backend.package.name, backend.model.interface
    if truth.main_input_name not in AXES:
        raise Error(f"validate has no values for the input {truth.main_input_name}; it has them for {', '.join(KNOWN)}")
    if truth.config.is_encoder_decoder:
        hint = "Build it with milbuild, or compare its parts with transformers' own classes."
        raise Error(f"{name} belongs to a model with an encoder and a decoder, and milbuild did not build it", hint)
    if description.state or len(backend.model.get_spec().description.functions) > 1:
        hint = "validate runs states and several functions only of packages that milbuild built."
        raise Error(f"{name} has states or several functions, and milbuild did not build it", hint)
    features = _inputs(name, description, truth)
    main = features.get(truth.main_input_name) or features.get(IMAGE)
    if main is None:
        raise Error(f"{name} does not take {truth.main_input_name}; it takes {', '.join(features)}")
    axes, image, array = AXES[truth.main_input_name], main.type.imageType, main.type.multiArrayType
    shape = (1, 3, image.height, image.width) if IMAGE in features else tuple(array.shape)
    if len(shape) != len(axes) or (IMAGE in features and "height" not in axes):
        takes = f"the image {main.name}" if IMAGE in features else f"{main.name} of the shape {shape}"
        raise Error(f"{name} takes {takes}; the axes of {truth.main_input_name} are ({', '.join(axes)})")
    size = length = None
    if "height" in axes:
        size = shape[2:]
    else:
        limit = getattr(truth.config, "max_position_embeddings", MANY) if "tokens" in axes else MANY
        length = _length(array, min(limit, MANY))
    float16 = any(value.dtype == "FLOAT16" for operation in backend.operations() for value in operation.outputs)
    return Plan(
        task=task,
        sequence_length=length,
        image_size=size,
        batch_size=int(shape[0]),
        attention_mask="attention_mask" in features,
        token_type_ids="token_type_ids" in features,
        num_choices=None,
        cache="none",
        context_length=None,
        prefill_length=None,
        function=None,
        logits="all",
        pooling=None,
        normalize=False,
        postprocess=False,
        inputs={ours: feature.name for ours, feature in features.items()},
        outputs={},
        interface="milbuild",
        precision="float16" if float16 else "float32",
        target=table()["target"][1].default,
    )


def with_outputs(plan: Plan, expected: Arrays, outputs: Arrays) -> Plan:
    """The plan with its `outputs`: matched by transformers' names, then by shape, in the model's order. A classifier whose
    scores add up to one is taken for one with softmax.

    Raises `Error` where none has the shape of one of the model's.
    """
    named = {name: name for name in expected if name in outputs and outputs[name].shape == expected[name].shape}
    for name, value in outputs.items():
        same = [each for each in expected if each not in named and expected[each].shape == value.shape]
        if name not in named and same:
            named[same[0]] = name
    scores = outputs[named["logits"]] if "logits" in named and TASKS[plan.task].classifies else None
    softmax = scores is not None and scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=0.01)
    if softmax:
        named["probabilities"] = named.pop("logits")
    if not named:
        ours, theirs_ = (
            ", ".join(f"{name} {value.shape}" for name, value in each.items()) for each in (outputs, expected)
        )
        raise Error(
            f"no output of the package has the shape of an output of the model: the package has {ours}; "
            f"transformers' model has {theirs_}",
            "Is it the right task, and the right checkpoint?",
        )
    return replace(plan, outputs={name: Output(theirs) for name, theirs in named.items()}, postprocess=softmax)


def _inputs(name: str, description: Any, truth: "PreTrainedModel") -> dict[str, Any]:
    """transformers' name -> the package's input: the one of the same name in any spelling, or the only one that is left."""
    features = {feature.name: feature for feature in description.input}
    found: dict[str, Any] = {}
    for theirs, feature in list(features.items()):
        if feature.type.WhichOneof("Type") == "imageType":
            found[IMAGE] = features.pop(theirs)
            continue
        plain = re.sub(r"\W|_", "", theirs).lower()
        same = [known for known in KNOWN if known.replace("_", "") == plain]
        if same:
            found[same[0]] = features.pop(theirs)
    main = truth.main_input_name
    if len(features) == 1 and main not in found and IMAGE not in found:
        found[main] = features.popitem()[1]
    if features:
        raise Error(
            f"{name} takes {', '.join(features)}, for which validate has no values; it has them for {', '.join(KNOWN)}",
            "Rename its inputs to transformers' names.",
        )
    return found


def _length(array: Any, most: int) -> Length:
    """The tokens or samples of a call: the last axis of an input."""
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        found = sorted({shape.shape[-1] for shape in array.enumeratedShapes.shapes})
        return found if len(found) > 1 else int(found[0])
    if flexible == "shapeRange":
        size = array.shapeRange.sizeRanges[len(array.shape) - 1]
        low, high = max(1, size.lowerBound), size.upperBound
        high = max(low, min(high, most) if high > 0 else most)
        return (low, high) if low < high else low
    return int(array.shape[-1])
