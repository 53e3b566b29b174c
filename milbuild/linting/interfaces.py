"""Inputs and outputs: names, types, shapes, images, classifiers, functions."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from milbuild.linting.rules import ERROR, NOTE, WARNING, Subject, rule
from milbuild.package.graph import Graph, Place, array_of, flexible, listed, ranges
from milbuild.package.reader import color_name, target, type_name

Found = Iterator[tuple[Place, str]]

# The oldest specification version in which a multi-array of the type may go in or come out.
ARRAYS = {"FLOAT32": 6, "INT32": 6, "FLOAT16": 7, "INT8": 10}
MOST_LISTED = 128


@rule(
    "rank",
    ERROR,
    "A tensor has at most 5 axes.",
    fix="Merge axes with a reshape; only reshape, transpose, reshape back to 5 is merged by coremltools itself.",
    source="coremltools mil/program.py; coremltools issues 1723, 1330, 2291",
)
def rank(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in graph.function.inputs:
            if value.shape is not None and len(value.shape) > 5:
                yield graph.here(value.name), f"the input {value.name} has {len(value.shape)} axes"
        for operation in graph.work:
            for value in operation.outputs:
                if value.shape is not None and len(value.shape) > 5:
                    yield graph.at(operation), f"it returns a tensor of {len(value.shape)} axes"


@rule(
    "scalar-input",
    ERROR,
    "An input or output has at least one axis.",
    fix="Give it the shape (1,).",
    source='coremltools: "Rank-0 (input None) is unsupported"',
)
def scalar_input(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in graph.function.inputs:
            if value.shape == ():
                yield graph.here(value.name), f"the input {value.name} is a scalar"


@rule(
    "interface-type",
    ERROR,
    "Inputs and outputs are float32 or int32, float16 from iOS 16 on, int8 from iOS 26 on.",
    fix="Declare one of these and cast inside; coremltools itself rewrites int16, uint8 and bool to int32 or float32.",
    source="coremltools adjust_io_to_supported_types",
)
def interface_type(subject: Subject) -> Found:
    for kind in ("input", "output"):
        for graph, feature in subject.features(kind):
            array = array_of(feature)
            if array is None:
                continue
            name = type_name(array)
            if name not in ARRAYS:
                yield graph.here(feature.name), f"the {kind} {feature.name} is {name.lower()}"
            elif ARRAYS[name] > subject.version:
                yield (
                    graph.here(feature.name),
                    f"the {kind} {feature.name} is {name.lower()}, which needs {target(ARRAYS[name])}; "
                    f"the package targets {target(subject.version)}",
                )


@rule(
    "described",
    ERROR,
    "The description names the inputs, outputs and states of the program, with their types.",
    fix="Write the names and types that the program has; coremltools rewrites `.` and `-` in names to `_`.",
    source="coremltools load.py, sanitize_name_strings; measured",
)
def described(subject: Subject) -> Found:
    for graph in subject.graphs:
        values = {value.name: value for value in graph.function.inputs}
        for kind in ("input", "state"):
            there = {name for name, value in values.items() if value.is_state == (kind == "state")}
            said = {feature.name for feature in getattr(graph.description, kind)}
            if there != said:
                yield graph.here(), f"its {kind}s are {_names(there)}; the description has {_names(said)}"
        missing = {feature.name for feature in graph.description.output} - set(graph.function.outputs)
        if missing:
            yield graph.here(), f"it has no output {_names(missing)}; it has {_names(set(graph.function.outputs))}"
        for kind in ("input", "output", "state"):
            for feature in getattr(graph.description, kind):
                array, value = array_of(feature), graph.values.get(feature.name)
                if array is not None and value is not None and value.shape is not None:
                    if type_name(array) != value.dtype:
                        yield (
                            graph.here(feature.name),
                            f"{feature.name} is {value.dtype.lower()} in the program and "
                            f"{type_name(array).lower()} in the description",
                        )
                    shape = tuple(array.shape)
                    fits = len(shape) == len(value.shape) and all(
                        d is None or d == n for d, n in zip(value.shape, shape, strict=True)
                    )
                    if shape and not fits:
                        yield (
                            graph.here(feature.name),
                            f"{feature.name} is {_shape(value.shape)} in the program and {_shape(shape)} in the description",
                        )


@rule(
    "name-characters",
    ERROR,
    "Names of inputs, outputs, states and values consist of letters, digits and _, and do not begin with a digit.",
    fix="Rename it. coremltools rewrites such names only in a function called main, and only when its passes run.",
    source="coremltools preprocess.py, sanitize_name_strings.py (B7)",
)
def name_characters(subject: Subject) -> Found:
    for graph in subject.graphs:
        for name in graph.values:
            if not (name.isascii() and name.isidentifier()):
                maker = graph.makers.get(name)
                yield (graph.here(name) if maker is None else graph.at(maker)), f"a value is called {name!r}"


@rule(
    "name-twice",
    ERROR,
    "No two values of a function have the same name.",
    fix="Give each its own name: names that differ only in `.` and `-` become the same when they are rewritten.",
    source="coremltools dedup_op_and_var_names; measured",
)
def name_twice(subject: Subject) -> Found:
    for graph in subject.graphs:
        # Branches of a `cond` are apart and may use the same names; a name of one block may not return in it.
        counted = Counter(value.name for value in graph.function.inputs)
        counted.update(value.name for operation in graph.function.operations for value in operation.outputs)
        for name, count in counted.items():
            if count > 1:
                yield graph.here(name), f"{count} values are called {name}"


@rule(
    "output-twice",
    WARNING,
    "An output is a value of its own: neither an input passed through nor another output under a second name.",
    fix="Put an `identity` between them.",
    source="coremltools accepts it; whether Core ML does is not known",
)
def output_twice(subject: Subject) -> Found:
    for graph in subject.graphs:
        inputs = {value.name for value in graph.function.inputs}
        for name, count in Counter(graph.function.outputs).items():
            if name in inputs:
                yield graph.here(name), f"the input {name} is an output as well"
            if count > 1:
                yield graph.here(name), f"{name} is listed as an output {count} times"


@rule(
    "output-name",
    WARNING,
    "Outputs of the same shape have names that say what they are: their order is not kept.",
    fix="Name the outputs.",
    source="Apple coreai-models, common issues",
)
def output_name(subject: Subject) -> Found:
    for graph in subject.graphs:
        automatic = [name for name in graph.function.outputs if re.fullmatch(r"(var|op|output|tensor)_?\d*", name)]
        shapes = Counter(_shape_of(graph, name) for name in graph.function.outputs)
        for name in automatic:
            if shapes[_shape_of(graph, name)] > 1:
                yield graph.here(name), f"only a number in its name tells the output {name} from another of its shape"


@rule(
    "range-bounds",
    ERROR,
    "A ranged axis has an upper bound.",
    fix="Give the most that a call takes: ct.RangeDim(1, 2048).",
    source="coremltools flexible-inputs guide; its converter refuses it",
)
def range_bounds(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        for axis, (low, high) in enumerate(ranges(feature) or []):
            if high < low or high >= 2**31 - 1:
                yield (
                    graph.here(feature.name),
                    f"axis {axis} of {feature.name} ranges from {low} without an upper bound",
                )


@rule(
    "range-from-zero",
    ERROR,
    "A ranged axis begins at 1 or more.",
    fix="Begin the range at 1; coremltools accepts RangeDim(0, ..).",
    source="coremltools flexible-inputs guide; measured: it is not checked",
)
def range_from_zero(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        for axis, (low, _) in enumerate(ranges(feature) or []):
            if low < 1:
                yield graph.here(feature.name), f"axis {axis} of {feature.name} ranges from {low}"


@rule(
    "listed-shapes",
    ERROR,
    "An input lists at most 128 shapes.",
    fix="List fewer, or use a range; coremltools accepts more.",
    source="coremltools flexible-inputs guide",
)
def listed_shapes(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        if (count := len(listed(feature) or [])) > MOST_LISTED:
            yield graph.here(feature.name), f"{feature.name} lists {count} shapes"


@rule(
    "listed-together",
    ERROR,
    "Before iOS 18 one input may list shapes; from iOS 18 on several may: as many each, matched by their order.",
    fix="List the same number of shapes for each, in the same order, and build for iOS 18.",
    source="coremltools flexible-inputs guide; its converter refuses it",
)
def listed_together(subject: Subject) -> Found:
    for graph in subject.graphs:
        counts = {f.name: len(shapes) for f in graph.description.input if (shapes := listed(f)) is not None}
        several = {name: count for name, count in counts.items() if count > 1}
        if len(several) > 1 and subject.version < 9:
            yield graph.here(), f"{_names(set(several))} list shapes, which needs iOS18"
        elif len(set(several.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in several.items())
            yield graph.here(), f"the inputs list different numbers of shapes: {said}"


@rule(
    "default-shape",
    WARNING,
    "The default shape of a flexible input is among those it takes: Core ML allocates it when it loads the model.",
    fix="Make the first of the list, or the lower bounds, the shape that is used most.",
    source="coremltools flexible-inputs guide",
)
def default_shape(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        array = array_of(feature)
        shape = tuple(array.shape) if array is not None else ()
        shapes, bounds = listed(feature), ranges(feature)
        if shapes and shape not in shapes:
            yield graph.here(feature.name), f"{feature.name} is {_shape(shape)}, which is not in its list"
        if bounds and (
            len(shape) != len(bounds) or any(not low <= n <= high for n, (low, high) in zip(shape, bounds, strict=True))
        ):
            yield graph.here(feature.name), f"{feature.name} is {_shape(shape)}, which is not in its range"


@rule(
    "optional-listed",
    ERROR,
    "An optional input lists no shapes.",
    fix="Give it one shape, or make it required.",
    source="coremltools input_types.py",
)
def optional_listed(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        if feature.type.isOptional and len(listed(feature) or []) > 1:
            yield graph.here(feature.name), f"{feature.name} is optional and lists shapes"


@rule(
    "interface-float32",
    NOTE,
    "Large inputs and outputs of a float16 program are float16: a float32 one is copied and converted in every call.",
    fix="Declare them float16 (iOS 16 and later).",
    source="coremltools model-input-and-output-types; smpanaro/more-ane-transformers notes (gpt2-large 89 -> 62 ms)",
    targets="iOS16 and later",
)
def interface_float32(subject: Subject) -> Found:
    if subject.version < 7:
        return
    for graph in subject.graphs:
        for value in graph.function.inputs:
            readers = graph.readers.get(value.name, [])
            casts = [op for op in readers if op.type == "cast" and op.outputs[0].dtype == "FLOAT16"]
            if value.dtype == "FLOAT32" and readers and len(casts) == len(readers) and _large(value.shape):
                yield graph.here(value.name), f"the input {value.name} is float32 and cast to float16"
        for name in graph.function.outputs:
            maker, value_ = graph.makers.get(name), graph.values.get(name)
            if maker is None or value_ is None or maker.type != "cast" or value_.dtype != "FLOAT32":
                continue
            source = graph.value(maker, "x")
            if source is not None and source.dtype == "FLOAT16" and _large(value_.shape):
                yield graph.here(name), f"the output {name} is float16, cast to float32"


@rule(
    "image",
    ERROR,
    "An image is (1, 3, height, width), or (1, 1, height, width) in gray; images as outputs and float16 gray need iOS 16.",
    fix="Transpose to channels first, batch 1.",
    source="coremltools image-inputs guide; its converter",
)
def image(subject: Subject) -> Found:
    for kind in ("input", "output"):
        for graph, feature in subject.features(kind):
            if feature.type.WhichOneof("Type") != "imageType":
                continue
            color = color_name(feature.type.imageType)
            value = graph.values.get(feature.name)
            shape = None if value is None else value.shape
            channels = 1 if "GRAYSCALE" in color else 3
            if shape is not None and (len(shape) != 4 or shape[0] not in (1, None) or shape[1] not in (channels, None)):
                yield graph.here(feature.name), f"the {color} image {feature.name} has the shape {_shape(shape)}"
            if subject.version < 7 and (kind == "output" or color == "GRAYSCALE_FLOAT16"):
                yield graph.here(feature.name), f"the {color} image {feature.name} as an {kind} needs iOS16"


@rule(
    "classifier",
    ERROR,
    "A classifier has one function, and as many labels as scores.",
    fix="Give as many labels as scores; put other functions into a package of their own.",
    source="coremltools load.py: it refuses both",
)
def classifier(subject: Subject) -> Found:
    for graph, operation in subject.works("classify"):
        if len(subject.graphs) > 1:
            yield graph.at(operation), f"it is one of {len(subject.graphs)} functions"
        scores, classes = graph.value(operation, "probabilities"), graph.constant(operation, "classes")
        labels = None if classes is None else classes.values()
        if scores is not None and scores.shape and None not in scores.shape and labels is not None:
            count = math.prod(d or 1 for d in scores.shape)
            if count != len(labels):
                yield graph.at(operation), f"{len(labels)} labels for {count} scores"


@rule(
    "functions",
    ERROR,
    "Several functions need iOS 18; the description names each of them, and the default one.",
    fix="Build for iOS 18, and name the default function in the description.",
    source="coremltools multifunction guide",
)
def functions(subject: Subject) -> Found:
    names = set(subject.package.function_names)
    described_ = {entry.name for entry in subject.spec.description.functions}
    if len(names) > 1 and subject.version < 9:
        yield Place(), f"there are {len(names)} functions, which needs iOS18; it targets {target(subject.version)}"
    if (len(names) > 1 or described_) and described_ != names:
        yield Place(), f"the functions are {_names(names)}; the description has {_names(described_)}"
    if subject.package.default_function not in names:
        yield Place(), f"the default function is {subject.package.default_function}, which does not exist"


@rule(
    "preview",
    WARNING,
    "Metadata for Xcode's preview names a kind that Xcode knows, with parameters in JSON.",
    fix="Use imageSegmenter, bertQA, poseEstimation or depthEstimation.",
    source="coremltools xcode-model-preview-types guide",
)
def preview(subject: Subject) -> Found:
    import json

    known = ("imageSegmenter", "bertQA", "poseEstimation", "depthEstimation")
    kind = subject.metadata.get("com.apple.coreml.model.preview.type")
    if kind is not None and kind not in known:
        yield Place(), f"the preview is {kind!r}; it must be one of {', '.join(known)}"
    parameters = subject.metadata.get("com.apple.coreml.model.preview.params")
    if parameters:
        try:
            json.loads(parameters)
        except ValueError:
            yield Place(), "the parameters of the preview are no JSON"


@rule(
    "flexible-axis",
    ERROR,
    "An axis that the program leaves open is ranged or listed in the description.",
    fix="Describe it with ct.RangeDim or ct.EnumeratedShapes: without that coremltools writes the range 1..2.",
    source="coremltools load.py; measured",
)
def flexible_axis(subject: Subject) -> Found:
    for graph in subject.graphs:
        by_name = {feature.name: feature for feature in graph.description.input}
        for value in graph.function.inputs:
            feature = by_name.get(value.name)
            if feature is None or array_of(feature) is None or value.shape is None or value.is_state:
                continue
            if None in value.shape and not flexible(feature):
                yield graph.here(value.name), f"{value.name} is {_shape(value.shape)} in the program"


def _large(shape: tuple[int | None, ...] | None) -> bool:
    """Whether it is so large that a copy counts; an open length is taken for a thousand."""
    return shape is None or math.prod(1024 if d is None else d for d in shape) >= 1024


def _shape_of(graph: Graph, name: str) -> tuple[int | None, ...] | None:
    value = graph.values.get(name)
    return None if value is None else value.shape


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
