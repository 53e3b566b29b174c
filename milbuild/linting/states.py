"""States: their type and shape, and the order in which they are read and written."""

from collections.abc import Iterator
from operator import itemgetter

from milbuild.linting.consumers import swift
from milbuild.linting.rules import ERROR, NOTE, WARNING, Subject, rule
from milbuild.package.graph import Graph, Place, flexible
from milbuild.package.reader import Operation, Value, target

Found = Iterator[tuple[Place, str]]


def states(graph: Graph) -> list[Value]:
    return [value for value in graph.function.inputs if value.is_state]


def accesses(graph: Graph, state: str) -> list[tuple[int, Operation]]:
    """The reads and writes of a state, with their places in the order of execution."""
    found = [*graph.by_type.get("read_state", []), *graph.by_type.get("write_state", [])]
    return sorted(
        ((number, operation) for number, operation in found if state in operation.inputs.get("input", [])),
        key=itemgetter(0),
    )


@rule(
    "state-type",
    ERROR,
    "A state is float16, of 1 to 5 axes of fixed length.",
    fix="Cast what is written to float16; allocate the longest sequence.",
    source='coremltools: "State only support fp16 dtype", "Flexible shape model states are not supported!"',
    targets="iOS18 and later",
)
def state_type(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in states(graph):
            if value.dtype != "FLOAT16":
                yield graph.here(value.name), f"the state {value.name} is {value.dtype.lower()}"
            if value.shape is None or None in value.shape or not 1 <= len(value.shape) <= 5:
                yield graph.here(value.name), f"the shape of the state {value.name} is {value.shape}"


@rule(
    "state-target",
    ERROR,
    "States need iOS 18.",
    fix="Build for iOS 18, or with the cache as inputs and outputs.",
    source="coremltools stateful-models guide",
)
def state_target(subject: Subject) -> Found:
    for graph in subject.graphs:
        if subject.version < 9 and states(graph):
            yield graph.here(states(graph)[0].name), f"it has states, and the package targets {target(subject.version)}"


@rule(
    "state-unused",
    WARNING,
    "A state is read or written.",
    fix="Remove it: coremltools 9.0 fails to convert such a program again.",
    source="coremltools pull request 2661 (fixed after 9.0)",
)
def state_unused(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in states(graph):
            if not accesses(graph, value.name):
                yield graph.here(value.name), f"nothing reads or writes the state {value.name}"


@rule(
    "state-read-across-write",
    ERROR,
    "A value read from a state is not used after the state is written.",
    fix="Read it again, or use the value that was written. coremltools' remove_redundant_ops merges two reads across a write "
    "into one, which looks like this, and the numbers are then wrong (B2): remove that pass from the pipeline.",
    source="coremltools pull request 2786; measured with 9.0",
)
def state_read_across_write(subject: Subject) -> Found:
    for graph in subject.graphs:
        order = {id(op): number for number, op in enumerate(graph.operations)} if states(graph) else {}
        for value in states(graph):
            found = accesses(graph, value.name)
            for number, read in found:
                writes = [n for n, operation in found if operation.type == "write_state" and n > number]
                if read.type != "read_state" or not writes:
                    continue
                late = [
                    operation
                    for output in read.outputs
                    for operation in graph.readers.get(output.name, [])
                    if order[id(operation)] > writes[0]
                ]
                if late:
                    yield (
                        graph.at(late[0]),
                        f"it uses {read.outputs[0].name}, which was read from {value.name} before the write",
                    )


@rule(
    "state-write-before-read",
    WARNING,
    "A state's value from before the call is read before the state is written.",
    fix="Convert without the pass common::canonicalize_inplace_pattern: it moves a write ahead of an earlier read, and the "
    "numbers are then wrong (B1).",
    source="measured with coremltools 9.0, in ct.convert and in linear_quantize_weights",
    confidence="medium",
)
def state_write_before_read(subject: Subject) -> Found:
    """A separate read after the first write; the read that belongs to a write has its name."""
    if not subject.from_coremltools:
        return
    for graph in subject.graphs:
        for value in states(graph):
            written, named = False, set()
            for _, operation in accesses(graph, value.name):
                if operation.type == "write_state":
                    written = True
                    named.add(operation.name.removesuffix("_write_state"))
                elif written and operation.name not in named:
                    yield (
                        graph.at(operation),
                        f"it reads {value.name} after a write, which coremltools may have moved before it",
                    )
                elif not written:
                    break  # read first, as it should be


@rule(
    "state-update-as-output",
    ERROR,
    "A value written to a state is not an output as well: Core ML reportedly crashes when it loads that.",
    fix="Remove the output, or put an operation between them that changes nothing (add 0).",
    source="coremltools pull request 2713",
)
def state_update_as_output(subject: Subject) -> Found:
    for graph in subject.graphs:
        outputs = set(graph.function.outputs)
        for operation in graph.of("write_state"):
            for name in operation.inputs.get("data", []):
                if isinstance(name, str) and name in outputs:
                    yield graph.at(operation), f"it writes {name}, which is an output"
        for operation in graph.of("read_state"):
            if operation.outputs and operation.outputs[0].name in outputs:
                yield graph.at(operation), f"the output {operation.outputs[0].name} is a state as it was read"


@rule(
    "state-updates",
    NOTE,
    "A state is written once in a call, as in coremltools' guide.",
    fix="Concatenate the new values and write them once, or check that the device accepts it.",
    source="coremltools stateful-models guide",
)
def state_updates(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in states(graph):
            writes = [operation for _, operation in accesses(graph, value.name) if operation.type == "write_state"]
            if len(writes) > 1:
                yield graph.here(value.name), f"{value.name} is written {len(writes)} times"


@rule(
    "state-across-functions",
    WARNING,
    "A state that two functions share by its name has one type and shape in both.",
    fix="Give both the same shape, or another name.",
    source="Anemll: infer and prefill share a state of one name and shape; coremltools test_load.py",
    confidence="medium",
)
def state_across_functions(subject: Subject) -> Found:
    first: dict[str, tuple[str, Value]] = {}
    for graph in subject.graphs:
        for value in states(graph):
            name, other = first.setdefault(value.name, (graph.name, value))
            if (other.dtype, other.shape) != (value.dtype, value.shape):
                yield (
                    graph.here(value.name),
                    f"the state {value.name} is {list(value.shape or ())} here and {list(other.shape or ())} in {name}",
                )


@rule(
    "ane-state-width",
    ERROR,
    "The last axis of a state is a multiple of 32.",
    fix="Pad it: 256 works where 270 fails.",
    source="coremltools issue 2631",
    confidence="medium",
    units="ane",
    targets="iOS18 and later",
)
def ane_state_width(subject: Subject) -> Found:
    for graph in subject.graphs:
        for value in states(graph):
            if value.shape and value.shape[-1] is not None and value.shape[-1] % 32:
                yield graph.here(value.name), f"the last axis of {value.name} is {value.shape[-1]}"


@rule(
    "state-flexible",
    WARNING,
    "A function with a state has fixed shapes unless it is kept off the Neural Engine: Core ML loads a package for all units "
    "by default, and then fails to plan it (error code -14).",
    fix="Take one number of tokens a call, and a second function for prompts (prefill_length, --prefill-length 64), or load it "
    "with compute units without the Neural Engine (cpu_and_gpu).",
    source="coremltools issues 2325, 2553; Anemll issue 27; swift-chat issue 31",
    targets="iOS18 and later",
)
def state_flexible(subject: Subject) -> Found:
    """Not among the rules of a unit, since users who load by default name none. For the Neural Engine it is the error below;
    swift-transformers loads its packages for the CPU and GPU by itself."""
    if subject.unit not in ("ane", "all") and swift(subject) is None:
        yield from ane_state_flexible(subject)


@rule(
    "ane-state-flexible",
    ERROR,
    "A function with a state has fixed shapes; with ranges Core ML fails to plan it (error code -14).",
    fix="Write one function for each number of tokens, or run it on the CPU and GPU.",
    source="coremltools issues 2325, 2553; Anemll issue 27; swift-chat issue 31",
    units="ane",
    targets="iOS18 and later",
)
def ane_state_flexible(subject: Subject) -> Found:
    for graph in subject.graphs:
        ranged = [feature.name for feature in graph.description.input if flexible(feature)]
        if states(graph) and ranged:
            yield graph.here(ranged[0]), f"{', '.join(ranged)} {'is' if len(ranged) == 1 else 'are'} flexible"


@rule(
    "ane-state-number",
    WARNING,
    "There is one state: two work for some models, three or more fail on iPhones.",
    fix="Pack keys and values of all layers into one state.",
    source="john-rocky/CoreML-LLM (MLSTATE_PATTERN); Anemll ships one",
    confidence="medium",
    units="ane",
    targets="iOS18 and later",
)
def ane_state_number(subject: Subject) -> Found:
    for graph in subject.graphs:
        if len(states(graph)) > 1:
            yield graph.here(), f"it has {len(states(graph))} states"


@rule(
    "gpu-state-number",
    NOTE,
    "There are at most two states, keys and values: the layout of Apple's own export.",
    fix="Stack the layers along an axis.",
    source="Apple, On Device Llama 3.1 with Core ML; huggingface/swift-transformers",
    confidence="medium",
    units="gpu",
    targets="iOS18 and later",
)
def gpu_state_number(subject: Subject) -> Found:
    for graph in subject.graphs:
        if len(states(graph)) > 2:
            yield graph.here(), f"it has {len(states(graph))} states"
