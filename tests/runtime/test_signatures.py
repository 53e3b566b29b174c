"""The runtime's operations have the parameters and defaults of coremltools' registry, in every version; each has its tests."""

import inspect
from types import SimpleNamespace
from typing import Any

import coremltools.converters.mil.mil.ops.defs as definitions
import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from milbuild.runtime import engine
from milbuild.runtime.registry import OPERATIONS
from tests.runtime import mutants
from tests.runtime.harness import COVERED_BY

assert definitions  # importing it fills the registry
# Every operation, with its versions, each once.
REGISTRY: dict[str, list[Any]] = {
    name: list(dict.fromkeys(versions.values())) for name, versions in SSAOpRegistry.core_ops.items()
}

NOT_FOR_PROGRAMS = {
    "_const_symbolic": "a constant whose value is a symbol: it is the converter's own, and only neural networks lower it",
    "conv_quantized": "experimental, of TensorFlow's quantized layers; only the neural network format lowers it",
}
ELSEWHERE = {
    "const": "the reader's",
    "cond": "the engine runs blocks",
    "while_loop": "the engine runs blocks",
    "read_state": "the engine keeps the states",
}
NAMES = sorted(REGISTRY.keys() - NOT_FOR_PROGRAMS.keys() - ELSEWHERE.keys())

# Required by every version, optional here.
MORE_OPTIONAL = {
    ("make_list", "elem_shape"): "the documentation: 'if not provided, the list won't have the elementary shape info'",
}
_AXES = "one value for each spatial axis, whose number the arguments tell"
# The defaults that are not coremltools' own value.
OTHER_DEFAULTS = {
    **{(name, "strides"): _AXES for name in ("conv", "conv_transpose", "avg_pool", "l2_pool", "max_pool")},
    **{(name, "pad"): _AXES for name in ("conv", "conv_transpose", "avg_pool", "l2_pool", "max_pool")},
    **{(name, "dilations"): _AXES for name in ("conv", "conv_transpose")},
    ("linear", "bias"): "zeros, as many as the weight has rows",
    ("layer_norm", "axes"): "all axes of x",
    ("crop_resize", "box_indices"): "one index for each box",
    ("gru", "reset_after"): "coremltools has None; the documentation: 'defaults to False'",
}
# In a program of float16 coremltools writes them rounded to it, as 0 but for inverse's. Left out, they are float32's.
ROUNDED = {("log", "epsilon"), ("rsqrt", "epsilon"), ("inverse", "epsilon")}


def specified(name: str) -> dict[str, list[bool | None]]:
    """Parameter -> whether it is optional, version by version; None where a version has it not."""
    versions = [version.input_spec.input_types for version in REGISTRY[name]]
    parameters = dict.fromkeys(parameter for version in versions for parameter in version)
    return {p: [version[p].optional if p in version else None for version in versions] for p in parameters}


def defaults(version: Any) -> dict[str, Any]:
    """What a version of an operation takes for parameters that are left out, where x and the others have four axes."""
    operation = object.__new__(version)
    for name in version.input_spec.input_types:
        setattr(operation, name, SimpleNamespace(dtype=types.fp32, rank=4, shape=(2, 3, 4, 5), val=True))
    return dict(operation.default_inputs().items())


def test_every_operation_is_known() -> None:
    assert sorted(OPERATIONS) == NAMES
    assert {*ELSEWHERE, "write_state"} == {"const", *engine.BRANCHES, *engine.STATEFUL}
    # What becomes a write_state is none of the core.
    assert "coreml_update_state" in SSAOpRegistry.dialect_ops


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    """All that any version has and none that no version has; optional where a version can do without it."""
    expected = {
        parameter: any(optional is not False for optional in versions) or (name, parameter) in MORE_OPTIONAL
        for parameter, versions in specified(name).items()
    }
    assert {parameter: known.optional for parameter, known in OPERATIONS[name].parameters.items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name: str) -> None:
    kernel = OPERATIONS[name]
    signature = inspect.signature(kernel.function).parameters
    for version in REGISTRY[name]:
        known = defaults(version)
        for parameter, spec in version.input_spec.input_types.items():
            if spec.optional:
                ours, theirs = signature[kernel.parameters[parameter].name].default, known.get(parameter)
                assert same(ours, theirs) != ((name, parameter) in OTHER_DEFAULTS), (version, parameter, ours, theirs)


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and theirs is not None:
        return bool(np.float32(ours) == np.float32(theirs))
    return bool(np.array_equal(ours, theirs))


def test_the_tables_hold_nothing_else() -> None:
    """A reason for an operation or a parameter that is not there any more would deceive."""
    for name, parameter in [*MORE_OPTIONAL, *OTHER_DEFAULTS, *ROUNDED]:
        assert parameter in specified(name)
    assert all(False in specified(name)[parameter] for name, parameter in MORE_OPTIONAL)
    assert {*NOT_FOR_PROGRAMS, *ELSEWHERE} <= REGISTRY.keys()


def test_defaults_of_halves() -> None:
    """Only what ROUNDED names depends on the type of x."""
    for name in NAMES:
        for version in REGISTRY[name]:
            operation, arguments = object.__new__(version), version.input_spec.input_types
            found = []
            for dtype in (types.fp32, types.fp16):
                for argument in arguments:
                    setattr(operation, argument, SimpleNamespace(dtype=dtype, rank=4, shape=(2, 3, 4, 5), val=True))
                found.append(dict(operation.default_inputs().items()))
            whole, half = found
            for parameter in whole:
                equal = np.array_equal(whole[parameter], half[parameter])
                assert equal != ((name, parameter) in ROUNDED), (name, parameter)


@pytest.fixture(scope="module")
def faults() -> dict[str, list[tuple[str, str]]]:
    return mutants.faults()


@pytest.mark.parametrize("name", [*NAMES, "cond", "while_loop", "read_state", "write_state"])
def test_every_operation_has_tests_and_faults(name: str, faults: Any) -> None:
    """Three faults at least where there is more to it than its operands; and each passage is in the source."""
    assert name in COVERED_BY
    written = faults.get(name, [])
    assert written
    for old, new in written:
        assert mutants.mutated(name, old, new)
    parameters = OPERATIONS[name].parameters.values() if name in OPERATIONS else ()
    if any(parameter.convert or parameter.optional or parameter.several for parameter in parameters):
        assert len(written) + len(list(mutants.everywhere(name))) >= 3
