"""Silent faults of coremltools itself, where a package shows them: it was converted without a warning.

Two more are in `states`: writes moved ahead of reads (B1), and reads merged across a write (B2). What two arrays that
differ by a subnormal were before const_deduplication merged them (B5), no package shows.
"""

from collections import defaultdict
from collections.abc import Iterator

from milbuild.linting.numbers import REDUCED
from milbuild.linting.rules import ERROR, WARNING, Subject, rule
from milbuild.package.graph import Constant, Graph, Place
from milbuild.package.reader import Operation

Found = Iterator[tuple[Place, str]]


@rule(
    "constant-name-twice",
    ERROR,
    "No two constants of a function have the same name: coremltools stores the first one's values for both (B3).",
    fix="Give each its own name (or a weight_id), or run the pass common::dedup_op_and_var_names.",
    source="measured with coremltools 9.0: its cache of stored values is keyed by block and name",
)
def constant_name_twice(subject: Subject) -> Found:
    for graph in subject.graphs:
        named: defaultdict[str, list[tuple[Operation, Constant]]] = defaultdict(list)
        for operation, constant in graph.constants:
            if operation.type == "const" and operation.name and graph.depth[id(operation)] == 0:
                named[operation.name].append((operation, constant))
        for name, found in named.items():
            if len(found) > 1:
                places = {constant.place for _, constant in found}
                shared = len(places) == 1 and None not in places
                what = ", with one place in weight.bin" if shared else ""
                yield graph.at(found[1][0]), f"{len(found)} constants are called {name}{what}"


@rule(
    "branch-constant-shared",
    WARNING,
    "Constants of the same name in branches of two functions keep their own values: coremltools stores those of the first "
    "function for both (B4).",
    fix="Compare their values with the intended ones; give each its own weight_id.",
    source="measured with coremltools 9.0",
    confidence="medium",
    targets="iOS18 and later",
)
def branch_constant_shared(subject: Subject) -> Found:
    first: dict[tuple[str, object], Graph] = {}
    for graph in subject.graphs:
        for operation, constant in graph.constants:
            if operation.type != "const" or constant.place is None or graph.depth[id(operation)] == 0:
                continue
            other = first.setdefault((operation.name, constant.place), graph)
            if other is not graph and subject.from_coremltools:
                yield graph.at(operation), f"its values are those of {operation.name} in {other.name}"


@rule(
    "cast-to-float16",
    WARNING,
    "What was written in float32 for precision is still float32: coremltools' default precision casts it without a warning "
    "(B6).",
    fix="Convert with compute_precision=ct.precision.FLOAT32, or a ct.transform.FP16ComputePrecision that excludes it.",
    source="measured with coremltools 9.0 on an RMS norm: the pass common::add_fp16_cast",
    confidence="medium",
)
def cast_to_float16(subject: Subject) -> Found:
    """A norm made of single operations is what people keep in float32; the pass appends _cast_fp16 to names."""
    for graph, operation in subject.works(*REDUCED):
        if not operation.name.endswith("_cast_fp16") or operation.outputs[0].dtype != "FLOAT16":
            continue
        before = graph.maker(operation, "x")
        centred = None if before is None else graph.maker(before, "x")
        if centred is not None and centred.type == "sub":
            continue  # the variance of a norm that coremltools itself wrote out
        after = {op.type for op in graph.follow(operation.outputs[0].name, {"add"})}
        if before is not None and before.type in ("square", "pow", "mul") and after & {"rsqrt", "sqrt", "pow"}:
            yield (
                graph.at(operation),
                f"a norm made of single operations ({before.type}, {operation.type}) was cast to float16",
            )
