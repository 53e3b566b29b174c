"""Builds in several threads of one process, and what is left of them for whoever builds graphs of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape
from coremltools.converters.mil.mil.types import type_list, type_mapping, type_state

import milbuild
from milbuild.lowering.writer import ROOT, WEIGHTS
from tests.conftest import checkpoint

# Of two model types: with names, constants and lengths of their own.
BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"cache": "state", "context_length": 29}),
    ("llama", {"sequence_length": (1, 29)}),
]


def _build(number: int, folder: Path) -> tuple[bytes, bytes]:
    """The program and the weights of a build."""
    model_type, options = BUILDS[number]
    model = milbuild.build(checkpoint(model_type), lint=False, **options)
    model.save(path := folder / f"{threading.get_ident()}-{number}.mlpackage")
    return model.get_spec().mlProgram.SerializeToString(deterministic=True), (path / ROOT / WEIGHTS).read_bytes()


def _own() -> Program:
    """A user's graph, with a constant that is written twice and a reshape to a length that is left open."""

    @mb.program(input_specs=[mb.TensorSpec((1, 4))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        x = mb.transpose(x=mb.reshape(x=x, shape=[2, -1]), perm=[1, 0])
        return mb.transpose(x=x, perm=[1, 0])

    return program


def _process() -> dict[str, Any]:
    """What a build changes in coremltools while it runs."""
    describe = [module.get_type_info for module in (type_list, type_mapping, type_state)]
    return {
        "names": dict(mb.name_count),
        "constants": mb._add_const,
        "lengths": reshape.enforce_volumetric_constraint,
        "types": describe,
    }


def test_two_at_once_are_as_two_one_after_another(tmp_path: Path) -> None:
    expected = [_build(number, tmp_path) for number in range(len(BUILDS))]
    assert expected[0] != expected[1]
    begin = threading.Barrier(len(BUILDS))

    def build(number: int) -> list[tuple[bytes, bytes]]:
        begin.wait()
        return [_build(number, tmp_path) for _ in range(3)]

    with ThreadPoolExecutor(len(BUILDS)) as pool:
        found = list(pool.map(build, range(len(BUILDS))))
    assert found == [[each] * 3 for each in expected]


def test_nothing_is_left_for_a_graph_of_another_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as own, ThreadPoolExecutor(len(BUILDS)) as pool:
        before = own.submit(_own).result()
        process = own.submit(_process).result()
        list(pool.map(lambda number: _build(number, tmp_path), range(len(BUILDS))))
        assert own.submit(_process).result() == process
        after = own.submit(_own).result()
    kinds = [[operation.op_type for operation in each.functions["main"].operations] for each in (before, after)]
    assert kinds[0] == kinds[1]
    assert kinds[0].count("const") == 3  # not one for both of the same value
