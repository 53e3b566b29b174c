"""What is likely to run where: attention on the GPU, and what keeps an operation off the Neural Engine."""

import math
from collections import Counter
from collections.abc import Iterator

from milbuild.linting.rules import ERROR, NOTE, WARNING, Subject, rule
from milbuild.package.graph import FLOATS, MOVES, Graph, Place, listed, ranges
from milbuild.package.reader import Operation, Value

Found = Iterator[tuple[Place, str]]

ANE_AXIS = 16384
ALIGNED = 32  # float16 elements: 64 bytes
# Not on the Neural Engine, by the reports of those who looked.
ELSEWHERE = {
    "lstm", "gru", "rnn", "custom_layer", "band_part", "scatter", "scatter_along_axis", "scatter_nd", "non_zero", "topk",
    "argsort", "reduce_argmax", "reduce_argmin", "make_list", "list_gather", "list_length", "list_read", "list_scatter",
    "list_write", "shape", "range_1d", "random_bernoulli", "random_categorical", "random_normal", "random_uniform",
    "non_maximum_suppression", "cumsum", "one_hot",
}  # fmt: skip
CONTROL = ("while_loop", "cond")
GATHERS = ("gather", "gather_along_axis", "gather_nd")
INTEGERS = ("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL")


@rule(
    "attention-shapes",
    ERROR,
    "scaled_dot_product_attention takes queries, keys and values of one rank (3 or more) and the same batch axes, and a mask "
    "that broadcasts to [batch, queries, keys].",
    fix="Repeat the keys and values of grouped heads before it.",
    source="coremltools ops/defs/iOS18/transformers.py; measured",
    targets="iOS18 and later",
)
def attention_shapes(subject: Subject) -> Found:
    for graph, operation in subject.works("scaled_dot_product_attention"):
        query, key, value = (graph.value(operation, name) for name in ("query", "key", "value"))
        shapes = [v.shape for v in (query, key, value) if v is not None and v.shape is not None]
        if len(shapes) != 3:
            continue
        if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) < 3:
            yield graph.at(operation), f"its ranks are {[len(shape) for shape in shapes]}"
            continue
        batches = {shape[:-2] for shape in shapes}
        if len(batches) > 1 and not any(None in batch for batch in batches):
            yield (
                graph.at(operation),
                f"its batch axes are {' and '.join(str(list(b)) for b in sorted(batches, key=str))}",
            )
        mask = graph.value(operation, "attn_mask")
        whole = (*shapes[0][:-1], shapes[1][-2])
        if mask is None or mask.shape is None:
            continue
        pairs = zip(reversed(mask.shape), reversed(whole), strict=False)
        if len(mask.shape) > len(whole) or any(None not in (m, w) and m not in (1, w) for m, w in pairs):
            yield graph.at(operation), f"its mask is {list(mask.shape)} where {list(whole)} is needed"


@rule(
    "gpu-attention-batch",
    WARNING,
    "Attention has a batch of fewer than 10: the GPU's fused kernel is wrong from 10 on (macOS 26.2).",
    fix="Build with a smaller batch, or run it on the CPU or Neural Engine.",
    source="coremltools issue 2650",
    confidence="medium",
    units="gpu",
)
def gpu_attention_batch(subject: Subject) -> Found:
    for graph, operation, shape in _attentions(subject):
        batch = math.prod(d or 1 for d in shape[:-3])
        if len(shape) > 3 and batch >= 10:
            yield graph.at(operation), f"its batch is {batch}"


@rule(
    "gpu-attention-memory",
    NOTE,
    "Attention over many queries is computed in slices: as one fused operation it allocated 10 GB.",
    fix="Convert with the pass common::scaled_dot_product_attention_sliced_q, or take fewer tokens in a call.",
    source="coremltools issues 2590, 2636; pull request 2418 (its pass begins at 1280 queries)",
    confidence="medium",
    units="gpu",
    targets="iOS18 and later",
)
def gpu_attention_memory(subject: Subject) -> Found:
    for graph, operation in subject.works("scaled_dot_product_attention"):
        query = graph.value(operation, "query")
        if query is not None and query.shape and (query.shape[-2] or 0) >= 1280:
            yield graph.at(operation), f"it has {query.shape[-2]} queries"


@rule(
    "ane-fused-attention",
    WARNING,
    "Attention is written as products and softmax, head by head: scaled_dot_product_attention has no fused path there.",
    fix="Write it so, or keep this package for the GPU.",
    source="Apple coreai-models, neural_engine_rules",
    units="ane",
    targets="iOS18 and later",
)
def ane_fused_attention(subject: Subject) -> Found:
    for graph, operation in subject.works("scaled_dot_product_attention"):
        yield graph.at(operation), "attention is one operation"


@rule(
    "ane-float32",
    WARNING,
    "The program is float16: nothing that is float32 runs there.",
    fix="Convert with compute_precision=ct.precision.FLOAT16 (milbuild: precision float16).",
    source="coremltools typed-execution guide",
    units="ane",
)
def ane_float32(subject: Subject) -> Found:
    for graph in subject.graphs:
        kinds = Counter(value.dtype for op in graph.work if op.type != "cast" for value in op.outputs)
        if kinds["FLOAT32"] > kinds["FLOAT16"]:
            yield graph.here(), f"{kinds['FLOAT32']} of its values are float32, {kinds['FLOAT16']} float16"


@rule(
    "control-flow",
    WARNING,
    "There are no loops or branches: they keep a program off the Neural Engine and most operations from being fused.",
    fix="Unroll the loop; choose with select.",
    source="coremltools ops/defs/iOS15/control_flow.py; issue 1780; smpanaro/more-ane-transformers notes",
)
def control_flow(subject: Subject) -> Found:
    for graph, operation in subject.works(*CONTROL):
        yield graph.at(operation), f"it is a {operation.type}"


@rule(
    "ane-operation",
    WARNING,
    "Operations are of the types that the Neural Engine is known to run.",
    fix="Move it to the beginning or the end of the graph, or out of the package.",
    source="coremltools issues 1780, 1278; smpanaro/more-ane-transformers notes; john-rocky/CoreML-LLM",
    confidence="medium",
    units="ane",
)
def ane_operation(subject: Subject) -> Found:
    for graph, operation in subject.works(*ELSEWHERE):
        yield graph.at(operation), f"{operation.type} is not known to run there"


@rule(
    "ane-integers",
    NOTE,
    "There is little arithmetic in int32 and bool (masks and shapes computed in the graph): it runs on the CPU.",
    fix="Give positions and masks as inputs, or as constants where the length is fixed.",
    source="Apple coreai-models, neural_engine_rules; huggingface/swift-transformers' Mistral export",
    confidence="medium",
    units="ane",
)
def ane_integers(subject: Subject) -> Found:
    for graph in subject.graphs:
        counted = Counter(op.type for op in graph.work if _on_integers(graph, op))
        if counted:
            kinds = ", ".join(f"{count} {kind}" for kind, count in counted.most_common())
            yield graph.here(), f"{sum(counted.values())} operations are on integers: {kinds}"


@rule(
    "ane-dynamic-slice",
    WARNING,
    "Slices have fixed bounds: those with computed bounds were seen to move to the CPU.",
    fix="Choose with a mask (k * (1 - m) + new * m) or write with slice_update at a position that is an input.",
    source="smpanaro/more-ane-transformers notes, October 2023 (11 -> 20 ms)",
    confidence="medium",
    units="ane",
)
def ane_dynamic_slice(subject: Subject) -> Found:
    for graph, operation in subject.works("slice_by_index", "slice_by_size"):
        if any(not graph.is_constant(entry) for entry in graph.entries(operation, "begin", "end", "size")):
            value = graph.value(operation, "x")
            if value is not None and value.dtype in FLOATS:
                yield graph.at(operation), "its bounds are worked out in the call"


@rule(
    "ane-gather",
    WARNING,
    "Gathers are only at the beginning of the graph, where they look up embeddings: in the middle one costs two transfers.",
    fix="Write a product with a one-hot mask, or pass what it looks up as an input.",
    source="apple/ml-ane-transformers; coremltools issue 1103; smpanaro/more-ane-transformers notes",
    units="ane",
)
def ane_gather(subject: Subject) -> Found:
    for graph, operation in subject.works(*GATHERS):
        if _in_the_middle(graph, operation):
            yield graph.at(operation), "it looks up values that the graph has computed"


@rule(
    "ane-table-gather",
    WARNING,
    "Tables of cos and sin are not gathered: that makes a tensor of 3 axes, which was rejected.",
    fix="Pass cos and sin as inputs of shape (1, D, 1, S), or as constants where the length is fixed.",
    source="Apple coreai-models, neural_engine_rules and common issues",
    units="ane",
)
def ane_table_gather(subject: Subject) -> Found:
    for graph, operation in subject.works("gather"):
        data = graph.value(operation, "x")
        entry = graph.entries(operation, "x")
        if data is None or data.dtype not in FLOATS or not entry or not graph.is_constant(entry[0]):
            continue
        readers = list(graph.follow(operation.outputs[0].name, {"expand_dims", "reshape", "squeeze", "cast", "split"}))
        products = [op for op in readers if op.type == "mul" and _rotated(graph, op, operation.outputs[0].name)]
        if products and len(operation.outputs[0].shape or ()) != 4:
            yield graph.at(operation), f"a table of {list(data.shape or ())} is looked up and multiplied"


@rule(
    "ane-large-vocabulary",
    WARNING,
    "A table that is looked up on the Neural Engine has at most 65,536 rows: ids are uint16 there.",
    fix="Look the embedding up outside the package, or in one for the CPU.",
    source="pytorch/executorch pull requests 7616, 6777; coremltools issue 2222",
    confidence="medium",
    units="ane",
)
def ane_large_vocabulary(subject: Subject) -> Found:
    for graph, operation in subject.works("gather"):
        data, axis = graph.value(operation, "x"), graph.constant(operation, "axis")
        number = None if axis is None else axis.number()
        if data is not None and data.shape and number is not None:
            rows = data.shape[int(number)]
            if rows is not None and rows > 65536:
                yield graph.at(operation), f"it looks up one of {rows:,} rows"


@rule(
    "guarded-gather",
    NOTE,
    "An index that is never negative is looked up directly: coremltools inserts greater_equal, add and select before it.",
    fix="Remove the passes common::guard_negative_gather_indices and common::add_int16_cast from the pipeline.",
    source="measured with coremltools 9.0",
    targets="iOS17 and later",
)
def guarded_gather(subject: Subject) -> Found:
    for graph, operation in subject.works("gather"):
        names = [entry for entry in graph.entries(operation, "indices") if isinstance(entry, str)]
        for name in (n for entry in names for n in graph.origin(entry, {"cast"})):
            maker = graph.makers.get(name)
            condition = graph.maker(maker, "cond") if maker is not None and maker.type == "select" else None
            if condition is not None and condition.type == "greater_equal":
                bound = graph.constant(condition, "y")
                if bound is not None and bound.number() == 0:
                    yield graph.at(operation), f"its indices are guarded by {condition.name}"


@rule(
    "ane-range",
    WARNING,
    "Shapes are fixed or listed: with a range only the default shape runs there.",
    fix="List the shapes (ct.EnumeratedShapes), or write one function for each.",
    source="coremltools issues 2370, 1029; faq; Apple coreai-models, neural_engine_rules",
    units="ane",
)
def ane_range(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        if any(low != high for low, high in ranges(feature) or []):
            yield graph.here(feature.name), f"{feature.name} is ranged"


@rule(
    "ane-flexible-batch",
    WARNING,
    "The batch is fixed, at 1: a flexible one was silently collapsed.",
    fix="Build with batch size 1.",
    source="coremltools issue 2730",
    confidence="medium",
    units="ane",
)
def ane_flexible_batch(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        bounds, shapes = ranges(feature), listed(feature)
        if (bounds and bounds[0][0] != bounds[0][1]) or (shapes and len({shape[:1] for shape in shapes}) > 1):
            yield graph.here(feature.name), f"the first axis of {feature.name} is flexible"


@rule(
    "ane-listed-norm",
    WARNING,
    "With listed shapes a layer_norm has 4 axes: with 3 it did not run there.",
    fix="Keep the graph at (B, D, 1, T).",
    source="coremltools issue 1909; smpanaro/more-ane-transformers notes",
    confidence="medium",
    units="ane",
)
def ane_listed_norm(subject: Subject) -> Found:
    for graph in subject.graphs:
        if any(len(listed(feature) or []) > 1 for feature in graph.description.input):
            for operation in graph.of("layer_norm"):
                shape = operation.outputs[0].shape
                if shape is not None and len(shape) == 3:
                    yield graph.at(operation), "it norms a tensor of 3 axes"


@rule(
    "ane-computed-length",
    ERROR,
    "No length is computed from the lengths of two inputs.",
    fix="Pass the position as an input; for the GPU it may stay.",
    source="huggingface/swift-transformers' Mistral export; smpanaro/more-ane-transformers notes",
    confidence="medium",
    units="ane",
)
def ane_computed_length(subject: Subject) -> Found:
    for graph, operation in subject.works("sub"):
        makers = [
            [graph.makers.get(name) for name in graph.origin(entry, {*MOVES})]
            for entry in graph.entries(operation, "x", "y")
            if isinstance(entry, str)
        ]
        if len(makers) == 2 and all(any(m is not None and m.type == "shape" for m in side) for side in makers):
            yield graph.at(operation), "it takes one input's length from another's"


@rule(
    "ane-axis",
    WARNING,
    "No axis of a tensor is longer than 16,384: a vocabulary is split into parts that are joined outside.",
    fix="Split the head into products of at most 16,384 rows, each a multiple of 32.",
    source="Anemll llama_model.py; smpanaro/more-ane-transformers notes",
    confidence="medium",
    units="ane",
)
def ane_axis(subject: Subject) -> Found:
    for graph in subject.graphs:
        for operation in graph.work:
            for value in operation.outputs:
                longest = max((d for d in value.shape or () if d is not None), default=0)
                if longest > ANE_AXIS and value.dtype in FLOATS:
                    yield graph.at(operation), f"it has an axis of {longest:,}"


@rule(
    "ane-last-axis",
    WARNING,
    "The last axis of an input or output has at least 32 elements: it is padded to 64 bytes, 32 times the size of one.",
    fix="Move a longer axis to the end; never leave a single element there.",
    source="Apple, Deploying Transformers on the Apple Neural Engine; coreai-models, neural_engine_rules",
    units="ane",
)
def ane_last_axis(subject: Subject) -> Found:
    for graph, name, value in _interface(subject):
        if value.shape and value.dtype in FLOATS and len(value.shape) > 1 and (value.shape[-1] or ALIGNED) < ALIGNED:
            yield graph.here(name), f"the last axis of {name} is {value.shape[-1]}"


@rule(
    "ane-output-rows",
    WARNING,
    "The last axis of an output is a multiple of 32: its rows are padded otherwise, and code that expects none reads garbage.",
    fix="Pad it, or read the MLMultiArray by its strides.",
    source="coremltools issue 1893; microsoft/onnxruntime issue 21416; Apple coreai-models, common issues",
    units="ane",
)
def ane_output_rows(subject: Subject) -> Found:
    for graph in subject.graphs:
        for name in graph.function.outputs:
            value = graph.values.get(name)
            if value is None or not value.shape or value.dtype not in FLOATS:
                continue
            last = value.shape[-1]
            rows = math.prod(d or 2 for d in value.shape[:-1])
            if last is not None and last > ALIGNED and last % ALIGNED and rows > 1:
                yield graph.here(name), f"the last axis of {name} is {last}"


@rule(
    "ane-rank",
    NOTE,
    "Tensors have 4 axes, (batch, channels, 1, tokens): those of another rank are transposed or copied.",
    fix="Keep the graph at 4 axes from end to end.",
    source="Apple, Deploying Transformers on the Apple Neural Engine; coreai-models, neural_engine_rules",
    units="ane",
)
def ane_rank(subject: Subject) -> Found:
    for graph in subject.graphs:
        tensors = [v for op in graph.work for v in op.outputs if v.dtype in FLOATS and v.shape is not None]
        others = [v for v in tensors if len(v.shape or ()) != 4]
        if len(others) > len(tensors) / 10:  # a head always has some
            yield graph.here(), f"{len(others)} of {len(tensors)} tensors have another rank"


@rule(
    "ane-layout",
    NOTE,
    "A layer has at most 4 transposes and reshapes that touch the last axis: each rewrites the whole tensor.",
    fix="Keep one layout; let products take the axes as they are.",
    source="Apple coreai-models, neural_engine_rules",
    units="ane",
)
def ane_layout(subject: Subject) -> Found:
    for graph in subject.graphs:
        layers = sum(1 for _ in graph.of("softmax", "scaled_dot_product_attention"))
        moved = [operation for operation in graph.of("transpose", "reshape") if _touches_last(graph, operation)]
        if layers and len(moved) > 4 * layers:
            yield graph.here(), f"it has {len(moved)} transposes and reshapes for {layers} attentions"


@rule(
    "ane-linear",
    NOTE,
    "Products with weights are convolutions of 1x1: linear may be decomposed and leave the Neural Engine.",
    fix="Write conv over (B, D, 1, T). Measurements disagree: with iOS 18 linear was seen to run there as well.",
    source="Apple coreai-models, neural_engine_rules; against it john-rocky/CoreML-LLM",
    confidence="medium",
    units="ane",
)
def ane_linear(subject: Subject) -> Found:
    for graph in subject.graphs:
        count = sum(1 for operation in graph.of("linear") if operation.outputs[0].dtype == "FLOAT16")
        if count:
            yield graph.here(), f"{count} {'product is' if count == 1 else 'products are'} linear"


@rule(
    "ane-softmax-axis",
    NOTE,
    "Softmax runs over the channels, the second of 4 axes, so that the compiler can split the rest.",
    fix="Order the scores (batch, keys, heads, queries), as ml-ane-transformers does.",
    source="Apple coreai-models, neural_engine_rules; apple/ml-ane-transformers",
    units="ane",
)
def ane_softmax_axis(subject: Subject) -> Found:
    for graph, operation in subject.works("softmax"):
        axis, shape = graph.constant(operation, "axis"), operation.outputs[0].shape
        number = None if axis is None else axis.number()
        if number is not None and shape is not None and len(shape) == 4 and int(number) % 4 != 1:
            yield graph.at(operation), f"its axis is {int(number)}"


@rule(
    "ane-convolution",
    NOTE,
    "Strides and dilations have only the factors 2 and 3, and strides of palettised kernels are at most 2.",
    fix="Choose another stride; write a large kernel as two small ones.",
    source="Apple coreai-models, neural_engine_rules",
    units="ane",
)
def ane_convolution(subject: Subject) -> Found:
    for graph, operation in subject.works("conv", "conv_transpose"):
        for parameter in ("strides", "dilations"):
            constant = graph.constant(operation, parameter)
            numbers = [] if constant is None else constant.numbers() or []
            if any(not _smooth(number) for number in numbers):
                yield graph.at(operation), f"its {parameter} are {numbers}"
            elif parameter == "strides" and max(numbers, default=1) > 2 and _palettised(graph, operation):
                yield graph.at(operation), f"its kernel is palettised, its strides are {numbers}"


@rule(
    "head-over-all-tokens",
    NOTE,
    "The scores of a vocabulary are computed for the last token only: over all tokens the head was seen on the CPU.",
    fix="Take the last token before the head (milbuild: logits last), unless the scores of all tokens are used.",
    source="smpanaro/more-ane-transformers notes (gpt2-medium 95 -> 52 ms)",
    confidence="medium",
    units="ane",
)
def head_over_all_tokens(subject: Subject) -> Found:
    for graph, operation in subject.works("linear", "matmul", "conv"):
        shape = operation.outputs[0].shape
        ends = {name for name in graph.function.outputs for name in graph.origin(name, {"cast", "add", *MOVES})}
        if not shape or operation.outputs[0].name not in ends:
            continue
        largest = max((d or 0 for d in shape), default=0)
        tokens = math.prod(d or 2 for d in shape) // max(largest, 1)
        if largest >= 8192 and tokens > 1:
            yield graph.at(operation), f"it computes {largest:,} scores for {tokens} tokens"


@rule(
    "growing-cache",
    NOTE,
    "A cache has a fixed size and is written into: one that grows is copied in every call, and the first call of each "
    "length is slow.",
    fix="Use a state and slice_update (iOS 18), or a fixed size with a mask.",
    source="coremltools flexible-inputs and stateful-models guides; Apple, On Device Llama 3.1 with Core ML",
    confidence="medium",
)
def growing_cache(subject: Subject) -> Found:
    for graph in subject.graphs:
        open_ = {f.name for f in graph.description.input if any(low != high for low, high in ranges(f) or [])}
        outputs = set(graph.function.outputs)
        for operation in graph.of("concat"):
            past = [
                e for e in graph.entries(operation, "values") if isinstance(e, str) and graph.origin(e, {"cast"}) and
                any(name in open_ for name in graph.origin(e, {"cast"}))
            ]  # fmt: skip
            ends = {operation.outputs[0].name}
            ends |= {
                op.outputs[0].name for op in graph.follow(operation.outputs[0].name, {"cast"}) if op.type == "cast"
            }
            if past and ends & outputs:
                yield graph.at(operation), f"{past[0]} grows with each call"


def switches(graph: Graph) -> tuple[int, int]:
    """(operations that are likely to be elsewhere than on the Neural Engine, how often a run switches between units, at least).

    The latter along the chain of operations that changes most often: what does not wait for another may run before it.
    """
    elsewhere = 0
    reached: dict[str, tuple[int, bool]] = {}  # of a value: the changes before it, and whether it is made here
    for operation in graph.work:
        here = not (
            operation.type in ELSEWHERE
            or operation.type in CONTROL
            or operation.type in GATHERS
            or _on_integers(graph, operation)
            or any(value.dtype == "FLOAT32" for value in operation.outputs)
        )
        elsewhere += not here
        before = [reached[entry] for entry in graph.entries(operation) if isinstance(entry, str) and entry in reached]
        changes = max((count + (place != here) for count, place in before), default=0)
        reached.update({value.name: (changes, here) for value in operation.outputs})
    return elsewhere, max((count for count, _ in reached.values()), default=0)


def _on_integers(graph: Graph, operation: Operation) -> bool:
    """Whether an operation makes integers, or compares them."""
    if not operation.outputs or operation.type in ("read_state", *GATHERS, *ELSEWHERE, *CONTROL):
        return False
    return all(value.dtype in INTEGERS for value in operation.outputs)


def _rotated(graph: Graph, product: Operation, row: str) -> bool:
    """Whether a product is that of a looked-up row and of a value computed without it: a norm multiplies a row by its own
    length."""
    factors = [e for e in graph.entries(product, "x", "y") if isinstance(e, str) and not graph.is_constant(e)]
    return any(row not in graph.origin(factor) for factor in factors)


def _in_the_middle(graph: Graph, operation: Operation) -> bool:
    """Of values that the graph computed: neither a constant table nor indices."""
    data = graph.value(operation, "x")
    entries = graph.entries(operation, "x")
    if data is None or data.dtype not in FLOATS or not entries or not isinstance(entries[0], str):
        return False
    return not graph.is_constant(entries[0])


def _attentions(subject: Subject) -> Iterator[tuple[Graph, Operation, tuple[int | None, ...]]]:
    """Attentions, fused or as softmax between two products, with the shape of their scores or queries."""
    for graph, operation in subject.works("scaled_dot_product_attention"):
        query = graph.value(operation, "query")
        if query is not None and query.shape is not None:
            yield graph, operation, query.shape
    for graph, operation in subject.works("softmax"):
        shape = operation.outputs[0].shape
        products = [op for op in graph.follow(operation.outputs[0].name, {"cast"}) if op.type == "matmul"]
        if shape is not None and products:
            yield graph, operation, shape


def _interface(subject: Subject) -> Iterator[tuple[Graph, str, Value]]:
    for graph in subject.graphs:
        for value in graph.function.inputs:
            if not value.is_state:
                yield graph, value.name, value
        for name in graph.function.outputs:
            if name in graph.values:
                yield graph, name, graph.values[name]


def _touches_last(graph: Graph, operation: Operation) -> bool:
    before, after = graph.value(operation, "x"), operation.outputs[0].shape
    if before is None or not before.shape or not after:
        return False
    if operation.type == "reshape":
        return before.shape[-1] != after[-1]
    perm = graph.constant(operation, "perm")
    numbers = None if perm is None else perm.numbers()
    return bool(numbers) and numbers is not None and numbers[-1] % len(numbers) != len(numbers) - 1


def _smooth(number: int) -> bool:
    for factor in (2, 3):
        while number > 1 and number % factor == 0:
            number //= factor
    return number <= 1


def _palettised(graph: Graph, operation: Operation) -> bool:
    maker = graph.maker(operation, "weight")
    return maker is not None and maker.type == "constexpr_lut_to_dense"
