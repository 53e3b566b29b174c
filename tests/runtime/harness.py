"""How an operation is tested: `run` runs it from a saved package, `covers` says which tests would see it fail.

A test compares with torch or numpy, called as the operation's documentation says, never as the runtime's code does.
FAULTS of a test file are deliberate mistakes for `make mutants` (mutants.py): each must be seen by the operation's tests.
"""

import inspect
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import hypothesis
import numpy as np
import pytest
import torch
from coremltools import proto
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Function, Program, types
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milbuild import runtime

TARGETS = {5: ct.target.iOS15, 6: ct.target.iOS16, 7: ct.target.iOS17, 8: ct.target.iOS18, 9: ct.target.iOS26}
KINDS = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool, "int16": types.int16}

# Which tests would see an operation go wrong: its name -> what to call.
COVERED_BY: dict[str, list[Callable[[], Any]]] = {}

# A quarter of a second an operation in `make test`; more where time is no matter.
EXAMPLES = 30 if os.environ.get("MILBUILD_HYPOTHESIS", "steady") == "steady" else 200

Fault = tuple[str, str]  # a passage of the runtime's source, and what replaces it


def covers(*operations: str) -> Callable[[Any], Any]:
    """Marks a test as one of these operations. A test with a parameter `operation` runs once for each of them."""

    def mark(test: Any) -> Any:
        if hypothesis.is_hypothesis_test(test):
            test = hypothesis.settings(max_examples=EXAMPLES, deadline=None)(test)
        each = "operation" in inspect.signature(test).parameters
        for name in operations:
            call = (lambda name=name: test(operation=name)) if each else test
            COVERED_BY.setdefault(name, []).append(call)
        return pytest.mark.parametrize("operation", operations)(test) if each else test

    return mark


def save(function: Function, path: Path, opset: int = 8) -> Path:
    """A package that holds `function`, lowered by coremltools without any pass. Its description names inputs and states."""
    program = Program()
    program.add_function("main", function)
    program.skip_all_passes = True
    weights = path / "Data/com.apple.CoreML/weights"
    weights.mkdir(parents=True)
    exporter = MILProtoExporter(program, str(weights), opset + 1)
    spec = proto.Model_pb2.Model(specificationVersion=opset + 1)
    spec.mlProgram.CopyFrom(exporter.export())
    del exporter  # it is this that finishes weight.bin
    for name, var in function.inputs.items():
        state = types.is_state(var._sym_type)
        feature = (spec.description.state if state else spec.description.input).add(name=name)
        multi = feature.type.stateType.arrayType if state else feature.type.multiArrayType
        whole = not state and types.is_int(var.dtype)
        multi.dataType = getattr(proto.FeatureTypes_pb2.ArrayFeatureType, "INT32" if whole else "FLOAT32")
        multi.shape.extend(1 if types.is_state(var._sym_type) or not isinstance(d, int) else d for d in var.shape)
        if not state and not all(isinstance(d, int) for d in var.shape):
            for d in var.shape:
                low, high = (d, d) if isinstance(d, int) else (1, -1)
                multi.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
    entry = {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"model": entry}, "rootModelIdentifier": "model"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def run_graph(
    build: Callable[..., Any], inputs: dict[str, np.ndarray], opset: int = 8, precision: str = "float32"
) -> list[np.ndarray]:
    """The values of the variables that `build(**inputs)` returns, in a program of these inputs (any of KINDS)."""
    placeholders = {name: mb.placeholder(array.shape, KINDS[array.dtype.name]) for name, array in inputs.items()}
    with Function(placeholders, opset_version=TARGETS[opset]) as function:
        made = build(**function.inputs)
        outputs = list(made) if isinstance(made, list | tuple) else [made]
        function.set_outputs(outputs)
    found: dict[str, Any] = {}

    def collect(operation: Any, results: tuple[Any, ...]) -> None:
        found.update((value.name, result) for value, result in zip(operation.outputs, results, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        model = runtime.load(save(function, Path(folder) / "x.mlpackage", opset), precision=precision)
        model.predict(inputs, callback=collect)
    found |= model._body.constants
    return [
        found[var.name].numpy().copy() if isinstance(found[var.name], torch.Tensor) else found[var.name]
        for var in outputs
    ]


def run(
    operation: str,
    inputs: dict[str, np.ndarray],
    /,
    opset: int = 8,
    precision: str = "float32",
    **constants: Any,
) -> Any:
    """An operation's result (a list of several) on inputs known at the call only, and constants of the program."""
    results = run_graph(
        lambda **variables: getattr(mb, operation)(**variables, **constants), inputs, opset=opset, precision=precision
    )
    return results if len(results) > 1 else results[0]


def close(result: np.ndarray, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal in shape and, within `tolerance` of the largest finite value, everywhere; NaN and infinities in the same places."""
    wanted = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert result.shape == wanted.shape, (result.shape, wanted.shape)
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(result, wanted)
        return
    finite = np.abs(wanted[np.isfinite(wanted)])
    np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance * max(1e-30, finite.max(initial=0)))


def arrays(
    shape: Any = None, dtype: Any = np.float32, low: float = -10, high: float = 10, ranks: tuple[int, int] = (1, 5)
) -> st.SearchStrategy[np.ndarray]:
    """Arrays of distinct-looking values; without a shape, of `ranks` and few elements."""
    shape = hnp.array_shapes(min_dims=ranks[0], max_dims=ranks[1], max_side=4) if shape is None else shape
    if np.dtype(dtype).kind == "f":
        elements = st.integers(0, 2**16).map(lambda n: float(np.dtype(dtype).type(low + (high - low) * n / 2**16)))
    elif np.dtype(dtype).kind == "b":
        elements = st.booleans()
    else:
        elements = st.integers(int(low), int(high))
    return hnp.arrays(dtype, shape, elements=elements)


def axes(rank: int, least: int = 1) -> st.SearchStrategy[list[int]]:
    """Distinct axes of a tensor, some counted from the end."""
    several = st.lists(st.integers(0, rank - 1), unique=True, min_size=least)
    return several.flatmap(lambda chosen: st.tuples(*(st.sampled_from([a, a - rank]) for a in chosen)).map(list))
