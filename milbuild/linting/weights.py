"""Weights, their compression and their size; operations and types that are newer than the target."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from milbuild.linting.rules import ERROR, NOTE, WARNING, Subject, rule
from milbuild.package.graph import COMPRESSED, PIECE, Constant, Graph, Place
from milbuild.package.reader import Operation, target

Found = Iterator[tuple[Place, str]]

PHONE = 1_000_000_000  # bytes of weights
LARGE = 2_000_000_000
OPERATIONS = 7310  # in one function: the most that somebody has reported to work
TWICE = 1 << 16  # bytes from which a weight that is stored twice is reported

# coremltools registers neither: the one is written for coreml_update_state, the other is a program's own.
OTHERS = {"write_state": 9, "const": 6, "custom_layer": 6}


@functools.cache
def _versions(kind: str) -> dict[int, frozenset[str]]:
    """Specification version -> the parameters an operation has there; empty for one that coremltools does not know."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    classes = SSAOpRegistry.core_ops.get(kind, {})
    return {int(version): frozenset(entry.input_spec.input_types) for version, entry in classes.items()}


@rule(
    "newer-operation",
    ERROR,
    "Every operation, and every parameter of it, exists on the target.",
    fix="Build for the newer system, or use operations of the older one.",
    source="coremltools ops/defs: what each opset has",
)
def newer_operation(subject: Subject) -> Found:
    for graph in subject.graphs:
        for kind, found in graph.by_type.items():
            said: dict[tuple[str, ...], str | None] = {}  # for operations of the same parameters, which are many, once
            for _, operation in found:
                parameters = tuple(operation.inputs)
                if parameters not in said:
                    said[parameters] = _newer(kind, parameters, subject.version)
                if what := said[parameters]:
                    yield graph.at(operation), what


def _newer(kind: str, given: tuple[str, ...], version: int) -> str | None:
    """What of an operation with the parameters `given` does not exist in a specification version."""
    first = OTHERS.get(kind)
    versions = {} if first is not None else _versions(kind)
    if first is None and not versions:
        return f"{kind} is not an operation of coremltools 9"
    first = min(versions) if first is None else first
    if first > version:
        return f"{kind} needs {target(first)}; it targets {target(version)}"
    # Old parameters are still read: what counts is what no version up to the target's has.
    there = frozenset().union(*(parameters for known, parameters in versions.items() if known <= version))
    new = {name for name in given if name not in there} if versions else set()
    if any(new & parameters for parameters in versions.values()):
        return f"{kind} has no {', '.join(sorted(new))} on {target(version)}"
    return None


@rule(
    "opset",
    ERROR,
    "The opset of a function is not newer than the specification version: CoreML5 for iOS 15 (version 6) to CoreML9 for "
    "iOS 26 (version 10).",
    fix="Write the version of the newest opset.",
    source="coremltools __init__.py",
)
def opset(subject: Subject) -> Found:
    for graph in subject.graphs:
        match = re.fullmatch(r"CoreML(\d+)", graph.function.opset)
        if match is None:
            yield graph.here(), f"its opset is {graph.function.opset!r}"
        elif int(match[1]) + 1 > subject.version:
            yield (
                graph.here(),
                f"its opset {match[0]} belongs to {target(int(match[1]) + 1)}; the package targets {target(subject.version)}",
            )


@rule(
    "small-integers",
    ERROR,
    "Casts to int8, uint8, int16 and uint16 need iOS 17.",
    fix="Use int32, or build for iOS 17.",
    source="measured: coremltools refuses the cast for iOS 15 and 16",
)
def small_integers(subject: Subject) -> Found:
    if subject.version >= 8:
        return
    for graph, operation in subject.works("cast"):
        if (dtype := operation.outputs[0].dtype) in ("INT8", "UINT8", "INT16", "UINT16"):
            yield graph.at(operation), f"it casts to {dtype.lower()}"


@rule(
    "stored-type",
    ERROR,
    "Integers of 16 and 32 bits, and of fewer than 8, can be stored in weight.bin from iOS 18 on.",
    fix="Keep such constants in the program, or build for iOS 18.",
    source="coremltools backend/mil/load.py; optimisation guide, what's new",
)
def stored_type(subject: Subject) -> Found:
    if subject.version >= 9:
        return
    for graph, operation, constant in subject.constants():
        if constant.place is not None and (constant.packed or constant.dtype in ("INT16", "UINT16", "INT32", "UINT32")):
            yield graph.at(operation), f"a constant of type {constant.dtype.lower()} is stored in weight.bin"


@rule(
    "palette",
    ERROR,
    "A palette has 2, 4, 8 (from iOS 18 on), 16, 64 or 256 entries.",
    fix="Palettise to 1, 2, 4, 6 or 8 bits.",
    source="coremltools optimisation guide, what's new",
)
def palette(subject: Subject) -> Found:
    for graph, operation in _compressed(subject, "lut_to_dense", "lut_to_sparse"):
        lut = graph.constant(operation, "lut")
        if lut is None or not lut.shape:
            continue
        entries = lut.shape[-2] if len(lut.shape) > 2 else lut.count
        if entries not in (2, 4, 16, 64, 256) and not (entries == 8 and subject.version >= 9):
            yield graph.at(operation), f"its palette has {entries} entries"


@rule(
    "scale-zero",
    WARNING,
    "No scale of quantised weights is 0: a row of zeros needs a tiny one.",
    fix="Use max(|row|, tiny) for the scale, and compare every layer after compression.",
    source="john-rocky/CoreML-LLM: division by zero for rows that are all zeros",
    confidence="medium",
)
def scale_zero(subject: Subject) -> Found:
    for graph, operation in _compressed(subject, "affine_dequantize", "blockwise_shift_scale"):
        scale = graph.constant(operation, "scale")
        zeros = 0 if scale is None or scale.packed else sum(int((piece == 0).sum()) for piece in scale.pieces())
        if zeros:
            yield graph.at(operation), f"{zeros} of its scales are 0"


@rule(
    "ane-blocks",
    ERROR,
    "Quantised weights have one scale per channel: with one per block the numbers are silently wrong, or the compiler "
    "crashes.",
    fix="Quantise per channel, or palettise.",
    source="apple/coreai-models issues 279, 55; pytorch/executorch issue 15936",
    confidence="medium",
    units="ane",
    targets="iOS18 and later",
)
def ane_blocks(subject: Subject) -> Found:
    for graph, operation in _compressed(subject, "blockwise_shift_scale"):
        data, scale = graph.value(operation, "data"), graph.value(operation, "scale")
        if data is None or scale is None or not data.shape or not scale.shape or len(data.shape) != len(scale.shape):
            continue
        blocks = [
            axis
            for axis, (whole, parts) in enumerate(zip(data.shape, scale.shape, strict=True))
            if parts not in (1, whole)
        ]
        inner = math.prod(d or 1 for d in scale.shape[1:])
        if blocks or inner > 1:
            yield graph.at(operation), f"its scales are {list(scale.shape)} for weights of {list(data.shape)}"


@rule(
    "gpu-scaled-palette",
    WARNING,
    "A palette has no per-channel scale: macOS 26 crashes when it loads such a model on the GPU.",
    fix="Palettise without enable_per_channel_scale.",
    source="coremltools pull request 2688; issue 2716",
    confidence="medium",
    units="gpu",
    targets="iOS18 and later",
)
def gpu_scaled_palette(subject: Subject) -> Found:
    for graph, operation in _compressed(subject, "blockwise_shift_scale"):
        maker = graph.maker(operation, "data")
        if maker is not None and maker.type == "constexpr_lut_to_dense":
            yield graph.at(operation), "it scales a palette"


@rule(
    "quantised-activations",
    NOTE,
    "Activations are not quantised: only the Neural Engine of A17 Pro and M4 or later is faster with them.",
    fix="Quantise the weights only.",
    source="coremltools optimisation guide, performance",
    units="cpu gpu",
    targets="iOS17 and later",
)
def quantised_activations(subject: Subject) -> Found:
    for graph in subject.graphs:
        count = sum(1 for operation in graph.of("quantize"))
        if count:
            yield graph.here(), f"{count} of its operations quantize"


@rule(
    "ane-weights",
    ERROR,
    "A model has at most 1 GB of weights; larger ones silently run on another unit.",
    fix="Compress it, or split it into packages of at most 950 MB (coremltools' bisect_model).",
    source="coremltools mlmodel-utilities guide; apple/ml-stable-diffusion README (phones and tablets)",
    units="ane",
)
def ane_weights(subject: Subject) -> Found:
    if subject.weight_bytes > PHONE:
        yield Place(), f"its weights take {subject.weight_bytes / 1e9:.2f} GB"


@rule(
    "weights-size",
    WARNING,
    "A model has at most 2 GB of weights: larger ones fail on phones, and on some Macs.",
    fix="Compress it, or split it into several packages.",
    source="Apple coreai-models; smpanaro/more-ane-transformers notes; coremltools issue 1799",
    confidence="medium",
)
def weights_size(subject: Subject) -> Found:
    if subject.weight_bytes > LARGE:
        yield Place(), f"its weights take {subject.weight_bytes / 1e9:.2f} GB"


@rule(
    "weights-twice",
    WARNING,
    "No weight is stored in the package twice.",
    fix="Use one constant: an embedding and its head share one of shape (V, D), or (V, D, 1, 1) where the head is a conv.",
    source="measured: coremltools stores a table and its reshape twice",
)
def weights_twice(subject: Subject) -> Found:
    sizes: defaultdict[tuple[str, int], list[tuple[Graph, Operation, Constant]]] = defaultdict(list)
    places = set()
    for graph, operation, constant in subject.constants():
        if constant.place is None or constant.packed or constant.place in places or not subject.package.saved:
            continue
        places.add(constant.place)
        sizes[constant.dtype, constant.count].append((graph, operation, constant))
    for same in sizes.values():
        seen: dict[bytes, list[Constant]] = {}
        for graph, operation, constant in same if len(same) > 1 else []:
            values = constant.values()
            if values is None or values.nbytes < TWICE or _uniform(values):
                continue
            others = seen.setdefault(values.reshape(-1)[:64].tobytes(), [])
            stored = next((other for other in others if _equal(values, other.values())), None)
            others.append(constant)
            if stored is not None:
                yield graph.at(operation), f"{values.nbytes / 1e6:.1f} MB are stored a second time"


@rule(
    "operation-count",
    WARNING,
    f"A function has at most {OPERATIONS:,} operations: each takes time to load, and no more are reported to work.",
    fix="Split the model, write fewer attention heads separately, or ship the compiled .mlmodelc.",
    source="john-rocky/CoreML-LLM; argmaxinc/WhisperKit issue 309 (minutes of loading); the bound is milbuild's",
    confidence="medium",
)
def operation_count(subject: Subject) -> Found:
    for graph in subject.graphs:
        if len(graph.work) > OPERATIONS:
            yield graph.here(), f"it has {len(graph.work):,} operations"


def _compressed(subject: Subject, *kinds: str) -> Iterator[tuple[Graph, Operation]]:
    return subject.works(*(f"{COMPRESSED}{kind}" for kind in kinds))


def _uniform(values: Any) -> bool:
    """Zeros, ones: shared by chance, and small once packed."""
    flat = values.reshape(-1)
    return bool((flat[:4096] == flat[0]).all()) and bool((flat == flat[0]).all())


def _equal(one: Any, two: Any) -> bool:
    a, b = one.reshape(-1).view(np.uint8), two.reshape(-1).view(np.uint8)
    return len(a) == len(b) and all(
        np.array_equal(a[at : at + PIECE], b[at : at + PIECE]) for at in range(0, len(a), PIECE)
    )
