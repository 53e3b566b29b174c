"""Numbers that float16 cannot hold, and what they do: epsilons, masks, squares, islands of float32."""

import math
from collections.abc import Iterator

from milbuild.linting.rules import ERROR, NOTE, WARNING, Subject, rule
from milbuild.package.graph import FLOATS, MOVES, Constant, Graph, Place
from milbuild.package.reader import Operation

Found = Iterator[tuple[Place, str]]

LARGEST = 65504.0  # of float16
SMALLEST = 2.0**-24
NORMS = ("layer_norm", "instance_norm", "batch_norm", "l2_norm", "local_response_norm")
SELF_GUARDED = ("rsqrt", "log", "inverse")  # have an epsilon of their own
REDUCED = ("reduce_mean", "reduce_sum")


@rule(
    "epsilon-zero",
    ERROR,
    "The epsilon of a norm is not 0: float16 has nothing between 0 and 6e-8, and a constant row then divides by 0.",
    fix="Write at least 1e-7 in float16.",
    source="measured: np.float16(1e-8) == 0, without a warning",
)
def epsilon_zero(subject: Subject) -> Found:
    for graph, operation in subject.works(*NORMS):
        constant = graph.constant(operation, "epsilon")
        if constant is not None and constant.number() == 0:
            yield graph.at(operation), "its epsilon is 0"
    for graph, operation in subject.works("rsqrt"):
        maker = graph.maker(operation, "x")
        own = graph.constant(operation, "epsilon")
        if maker is None or maker.type != "add" or (own is not None and own.number() != 0):
            continue
        if any(_is(graph, entry, 0.0) for entry in graph.entries(maker, "x", "y")):
            yield graph.at(maker), "the epsilon added to a sum of squares is 0"


@rule(
    "epsilon-rounded",
    NOTE,
    "An epsilon below 6e-8 becomes 6e-8 in float16: up to 60,000 times the checkpoint's.",
    fix="Compare rows of small variance with the reference, or write 1e-7 and document it.",
    source="measured: 1e-8 and 1e-12 come out as 5.96e-8",
)
def epsilon_rounded(subject: Subject) -> Found:
    for graph, operation in subject.works(*NORMS):
        constant = graph.constant(operation, "epsilon")
        if constant is not None and constant.dtype == "FLOAT16" and constant.number() == SMALLEST:
            yield graph.at(operation), "its epsilon is 5.96e-8, the smallest that float16 has"


@rule(
    "epsilon-implicit",
    NOTE,
    "rsqrt, log and inverse of a float16 tensor name their epsilon: the default depends on the target.",
    fix="Write the epsilon: iOS 16 takes 5.96e-8, later ones a float32 1e-12.",
    source="measured with coremltools 9.0",
)
def epsilon_implicit(subject: Subject) -> Found:
    for graph, operation in subject.works(*SELF_GUARDED):
        value, constant = graph.value(operation, "x"), graph.constant(operation, "epsilon")
        number = None if constant is None else constant.number()
        implied = constant is None or (constant.dtype == "FLOAT32" and number is not None and number < 1e-9)
        if value is not None and value.dtype == "FLOAT16" and implied:
            yield graph.at(operation), "its epsilon is that of the target"


@rule(
    "not-a-number",
    ERROR,
    "No constant holds NaN.",
    fix="Look for where the weights became NaN: milbuild counts them while it saves.",
    source="IEEE 754: whatever meets NaN becomes NaN",
)
def not_a_number(subject: Subject) -> Found:
    for graph, operation, constant in subject.constants():
        if constant.range is not None and constant.range[2]:
            yield graph.at(operation), f"a constant of shape {list(constant.shape)} holds NaN"


@rule(
    "infinite-constant",
    WARNING,
    "No constant is infinite: a row that is masked with -inf alone becomes NaN, and the Neural Engine's softmax "
    "reportedly does not take it.",
    fix="Mask with -1e4. torch.finfo(float32).min becomes -inf in float16.",
    source="Apple coreai-models, neural_engine_rules and common issues; coremltools pull request 2669",
)
def infinite_constant(subject: Subject) -> Found:
    for graph, operation, constant in subject.constants():
        extremes = constant.range
        if extremes is None or _is_bound(graph, operation):
            continue
        infinite = [f"{value:g}" for value in dict.fromkeys(extremes[:2]) if math.isinf(value)]
        if infinite:
            yield graph.at(operation), f"a {constant.dtype.lower()} constant holds {' and '.join(infinite)}"


@rule(
    "infinite-factor",
    ERROR,
    "Nothing is multiplied by an infinite constant: 0 times -inf is NaN, at every position that a mask does not hide.",
    fix="Mask with -1e4. coremltools 9.0 makes -inf of torch.finfo(torch.float32).min, which is the mask of transformers 4.",
    source="IEEE 754; coremltools pull request 2669, after 9.0; measured on a BERT with an attention_mask",
)
def infinite_factor(subject: Subject) -> Found:
    for graph, operation in subject.works("mul"):
        for entry in graph.entries(operation, "x", "y"):
            constant = graph.constant_of(entry)
            extremes = None if constant is None else constant.range
            if extremes is not None and (math.isinf(extremes[0]) or math.isinf(extremes[1])):
                yield graph.at(operation), f"a factor holds {extremes[0] if math.isinf(extremes[0]) else extremes[1]:g}"


@rule(
    "constant-outside-float16",
    WARNING,
    "Constants are within the range of float16, 65504: coremltools keeps operations on a larger one in float32, which the "
    "Neural Engine does not run.",
    fix="Mask with -1e4, and scale other constants.",
    source="coremltools typed-execution guide; measured: -65505 and -1e9 stay float32",
)
def constant_outside_float16(subject: Subject) -> Found:
    for graph in subject.graphs:
        if not _is_half(graph):
            continue
        for operation, constant in graph.constants:
            extremes = constant.range if constant.dtype == "FLOAT32" else None
            if extremes is None or extremes[2] or _is_bound(graph, operation):
                continue
            largest = max(extremes[:2], key=abs)
            if LARGEST < abs(largest) < math.inf:
                yield graph.at(operation), f"a float32 constant holds {largest:g}"


@rule(
    "masks-added",
    NOTE,
    "Two masks that are added do not overflow float16: -40000 twice is -inf.",
    fix="Mask with -1e4, of which six may be added.",
    source="arithmetic; Apple masks with -1e4 (ml-ane-transformers)",
)
def masks_added(subject: Subject) -> Found:
    for graph, operation in subject.works("add", "select", "where"):
        for entry in graph.entries(operation, "x", "y", "a", "b"):
            constant = graph.constant_of(entry)
            extremes = None if constant is None or constant.dtype != "FLOAT16" else constant.range
            if extremes is not None and -math.inf < extremes[0] < -LARGEST / 2:
                yield graph.at(operation), f"it takes a mask of {extremes[0]:g}"


@rule(
    "float32-island",
    WARNING,
    "A float16 program has no float32 operations: the Neural Engine does not run them, and each island costs two transfers.",
    fix="Make the constants float16 that force the operation into float32; keep the islands that the numbers need.",
    source="coremltools typed-execution guide; Apple coreai-models, neural_engine_rules",
    units="ane",
)
def float32_island(subject: Subject) -> Found:
    for graph in subject.graphs:
        if not _is_half(graph):
            continue
        for operation in graph.work:
            value = graph.value(operation, "x") if operation.type == "cast" else None
            if value is None or value.dtype != "FLOAT16" or operation.outputs[0].dtype != "FLOAT32":
                continue
            readers = graph.readers.get(operation.outputs[0].name, [])
            inside = [op for op in readers if op.type != "cast"]
            if inside:
                kinds = ", ".join(sorted({op.type for op in inside}))
                yield graph.at(operation), f"from float16 to float32 for {kinds}"


@rule(
    "cast-pair",
    WARNING,
    "No value is cast to float32 and directly back.",
    fix="Remove both casts.",
    source="Apple coreai-models, neural_engine_rules",
)
def cast_pair(subject: Subject) -> Found:
    for graph, operation in subject.works("cast"):
        before, value = graph.maker(operation, "x"), operation.outputs[0]
        if before is None or before.type != "cast" or before.outputs[0].name in graph.function.outputs:
            continue
        source = graph.value(before, "x")
        if source is not None and source.dtype == value.dtype == "FLOAT16" and before.outputs[0].dtype == "FLOAT32":
            yield graph.at(operation), f"it undoes the cast {before.name}"


@rule(
    "square-overflow",
    WARNING,
    "Squares are not summed in float16: the square of more than 255 overflows, and a sum of many sooner.",
    fix="Divide by the largest magnitude first (and the epsilon by its square), or use the layer_norm of (x, -x).",
    source="arithmetic; coremltools issue 2821; pytorch/executorch pull request 8641",
)
def square_overflow(subject: Subject) -> Found:
    for graph, operation in subject.works(*REDUCED):
        squared = graph.maker(operation, "x")
        if squared is None or squared.outputs[0].dtype != "FLOAT16":
            continue
        name = _squared(graph, squared)
        if name is not None and not _scaled(graph, name):
            yield graph.at(operation), f"it sums squares ({squared.type} {squared.name}) in float16"
    for graph, operation in subject.works("reduce_sum_square", "reduce_l2_norm", "l2_norm"):
        names = [entry for entry in graph.entries(operation, "x") if isinstance(entry, str)]
        value = graph.value(operation, "x")
        if operation.type == "l2_norm" or value is None or value.dtype != "FLOAT16" or not names:
            continue
        if not _scaled(graph, names[0]):
            yield graph.at(operation), "it sums squares in float16"


@rule(
    "power-of-two",
    ERROR,
    "No `pow` has the constant base 2: coremltools' passes up to 9.0 treat it as a square.",
    fix="Write exp2(x), or mul(x, x) for a square.",
    source="coremltools issue 2742, fixed in 8b7d565a",
)
def power_of_two(subject: Subject) -> Found:
    for graph, operation in subject.works("pow"):
        constant, exponent = graph.constant(operation, "x"), graph.constant(operation, "y")
        if constant is not None and constant.number() == 2 and exponent is None:
            yield graph.at(operation), "its base is the constant 2"


@rule(
    "positions-in-float16",
    WARNING,
    "Positions and token ids are not float16: from 2048 on it holds only every second whole number.",
    fix="Compute the tables of cos and sin while building, in float64; compare and count in int32.",
    source="arithmetic",
)
def positions_in_float16(subject: Subject) -> Found:
    through = {"mul", "add", "sub", "real_div", "matmul", "linear", *MOVES}
    for graph, operation in subject.works("cast"):
        value = graph.value(operation, "x")
        if value is None or value.dtype not in ("INT32", "INT64", "INT16", "UINT16"):
            continue
        if operation.outputs[0].dtype != "FLOAT16" or _is_flag(graph, operation):
            continue
        read = {op.type for op in graph.follow(operation.outputs[0].name, through)}
        if read & {"sin", "cos"}:
            yield graph.at(operation), "it goes into sin and cos"


@rule(
    "inexact-activation",
    NOTE,
    "Mish in float16 is wrong on the Neural Engine, and the hard sigmoid three to four times less exact on it and on the GPU.",
    fix="Compare this activation's values with the reference on the device.",
    source="coremltools issues 2359, 2625",
    confidence="medium",
    units="gpu ane",
)
def inexact_activation(subject: Subject) -> Found:
    for graph, operation in subject.works("sigmoid_hard"):
        if operation.outputs[0].dtype == "FLOAT16":
            yield graph.at(operation), "a hard sigmoid in float16"
    for graph, operation in subject.works("tanh"):
        before = graph.maker(operation, "x")
        if before is not None and before.type == "softplus" and operation.outputs[0].dtype == "FLOAT16":
            yield graph.at(operation), "Mish in float16"


def _is_half(graph: Graph) -> bool:
    """A program in float16, whatever islands it has."""
    kinds = [op.outputs[0].dtype for op in graph.work if op.outputs and op.type != "cast"]
    return kinds.count("FLOAT16") > kinds.count("FLOAT32")


def _is(graph: Graph, entry: object, number: float) -> bool:
    constant = graph.constant_of(entry)
    return constant is not None and constant.dtype in FLOATS and constant.number() == number


def _is_bound(graph: Graph, operation: Operation) -> bool:
    """A bound of clip or the padding of a pooling, where infinity is intended."""
    if operation.type in ("clip", "pad", "max_pool", "threshold"):
        return True
    readers = [op for value in operation.outputs for op in graph.readers.get(value.name, [])]
    return operation.type == "const" and bool(readers) and all(op.type in ("clip", "pad", "max_pool") for op in readers)


def _squared(graph: Graph, operation: Operation) -> str | None:
    """The name of what an operation squares."""
    entries = graph.entries(operation, "x")
    if not entries or not isinstance(entries[0], str):
        return None
    if operation.type == "square":
        return entries[0]
    if operation.type == "mul" and graph.entries(operation, "y") == entries:
        return entries[0]
    exponent: Constant | None = graph.constant(operation, "y") if operation.type == "pow" else None
    return entries[0] if exponent is not None and exponent.number() == 2 else None


def _scaled(graph: Graph, name: str) -> bool:
    """Whether a value was divided by something computed from it, or is bounded by the operation that makes it."""
    for origin in graph.origin(name, {*MOVES, "sub"}):
        maker = graph.makers.get(origin)
        if maker is None:
            continue
        if maker.type in ("softmax", "tanh", "sigmoid", "layer_norm", "l2_norm", "instance_norm", "sin", "cos"):
            return True
        operands = [e for e in graph.entries(maker, "x", "y") if isinstance(e, str) and not graph.is_constant(e)]
        if maker.type in ("real_div", "mul") and len(set(operands)) == 2:
            back = {"real_div", "inverse", "maximum", "reduce_max", "abs", "clip", *MOVES}
            for operand in operands:
                makers = (graph.makers.get(n) for n in graph.origin(operand, back))
                if any(m is not None and m.type in ("reduce_max", "reduce_l1_norm") for m in makers):
                    return True
    return False


def _is_flag(graph: Graph, operation: Operation) -> bool:
    """Of a comparison: 0 or 1."""
    before = graph.maker(operation, "x")
    return before is not None and before.type in ("cast", "select") and _from_bool(graph, before)


def _from_bool(graph: Graph, operation: Operation) -> bool:
    value = graph.value(operation, "x")
    return value is not None and value.dtype == "BOOL"
