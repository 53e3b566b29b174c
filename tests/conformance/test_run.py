"""The conformance run judges what it should: no test of coremltools passes here without a number that was compared."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import plugin, run

ROOT = Path(__file__).parents[2]


def case(number: int, **what: Any) -> dict[str, Any]:
    usual = {
        "file": "iOS15/test_x.py",
        "reached": True,
        "compared": 1,
        "witnessed": 0,
        "outcome": "passed",
        "reason": "",
    }
    return {"id": f"a/tests/iOS15/test_x.py::test_y[{number}]"} | usual | what


GOOD = [case(number) for number in range(1000)]


def test_a_run_is_as_good_as_its_record() -> None:
    kept = run.summarise(GOOD)
    assert kept["files"]["iOS15/test_x.py"] == {
        "collected": 1000,
        "compared": 1000,
        "passed": 1000,
        "reached": 1000,
        "witnessed": 0,
    }
    assert run.judge(kept, None) == run.judge(kept, kept) == []
    assert run.judge(run.summarise([*GOOD, case(1001)]), kept) == []


@pytest.mark.parametrize(
    ("worse", "text"),
    [
        ([case(0, compared=0)], "iOS15/test_x.py: 999 cases compare a number, the record has 1000"),
        ([case(0, reached=False, compared=0)], "999 cases compare a number"),
        ([case(n, outcome="failed") for n in range(6)], "99.40% of the cases that came to a prediction pass"),
        ([case(n, outcome="crashed") for n in range(6)], "99.40%"),
        ([case(n, outcome="skipped", reason="macOS 15 only") for n in range(6)], "99.40%"),
    ],
    ids=["no comparison", "no prediction", "failed", "crashed", "skipped"],
)
def test_a_run_that_is_worse_fails(worse: list[dict[str, Any]], text: str) -> None:
    faults = run.judge(run.summarise([*worse, *GOOD[len(worse) :]]), run.summarise(GOOD))
    assert any(text in fault for fault in faults), faults


def test_in_a_selection_only_known_failures_may_stay() -> None:
    known = next(iter(plugin.KNOWN))
    lines = [*GOOD[:10], *(case(n, id=f"a/tests/{known}[{n}]", outcome="failed") for n in range(5))]
    assert run.judge(run.summarise(lines), None, sampled=True) == []
    assert len(run.judge(run.summarise(lines), None)) == 1
    lines.append(case(20, outcome="failed", reason="the numbers differ"))
    assert run.judge(run.summarise(lines), None, sampled=True) == ["iOS15/test_x.py::test_y fails (the numbers differ)"]


def test_a_missing_file_and_an_empty_run_fail() -> None:
    kept = run.summarise(GOOD)
    assert len(run.judge(run.summarise([]), kept)) == 2
    assert "0.00%" in run.judge(run.summarise([]), None)[0]


@pytest.mark.parametrize("outcome", ["xfailed", "explained"])
def test_cases_that_are_expected_to_fail_are_neither(outcome: str) -> None:
    lines = [*GOOD, *(case(n, outcome=outcome) for n in range(1000, 1100))]
    assert run.passing(run.totals(run.summarise(lines)["files"])) == 1


def test_a_case_that_took_its_process_along_is_a_crash(tmp_path: Path) -> None:
    record = tmp_path / "x.jsonl"
    lines = [{"begun": "t/tests/f.py::a"}, case(1, id="t/tests/f.py::a"), {"begun": "t/tests/f.py::b"}]
    record.write_text("\n".join(map(json.dumps, lines)) + '\n{"begun": "t/te')
    assert [line["outcome"] for line in plugin.read(record)] == ["passed", "crashed"]
    with record.open("a") as file:
        file.write('\n{"collected": 2}\n{"finished": 0}\n')
    read = plugin.read(record)
    assert [line.get("outcome") for line in read] == ["passed", "crashed", None, None]
    assert read[1]["id"] == "t/tests/f.py::b"
    assert plugin.read(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        (
            "RuntimeError: tmp0hv1gbrq.mlpackage: operation einsum_0 is a einsum, which the runtime does not know",
            "the runtime does not know einsum",
        ),
        (
            "RuntimeError: tmpx_1.mlpackage: operation y_3 (conv) failed on x (2, 3): bad 7",
            "conv: failed on x (N, N): bad N",
        ),
        ("AssertionError: Not equal to tolerance rtol=1e-05, atol=0.0001", "the numbers differ"),
        ("rdar://80050546 does not match", "rdar://80050546 does not match"),
        ("", "(none)"),
    ],
)
def test_reasons_are_grouped(reason: str, group: str) -> None:
    assert run.grouped(reason) == group


def test_the_tables_add_up() -> None:
    summary = run.summarise([*GOOD, case(1001, outcome="failed", reason="RuntimeError: a|b <object> at 7")])
    assert (
        run.table(summary["files"])
        .splitlines()[-1]
        .startswith("| **all** | **1,001** | **1,001** | **1,001** | **1,000** |")
    )
    assert "| failed | 1 | RuntimeError: a\\|b &lt;object> at N | `iOS15/test_x.py::test_y` |" in run.reasons(summary)


@pytest.mark.parametrize("name", ["record.json", "record-ci.json", "record-backward.json"])
def test_records_compare_something(name: str) -> None:
    total = run.totals(json.loads((run.HERE / name).read_text("utf-8"))["files"])
    assert total["compared"] > 1000
    assert run.passing(total) >= (0.99 if "ci" in name else run.ENOUGH)


def test_explained_tests_are_there() -> None:
    folder = Path(run._packages()) / "coremltools/converters/mil/mil/ops/tests"
    for test in plugin.EXPLAINED | plugin.MISWRITTEN | plugin.KNOWN:
        file, name, function = test.split("::")
        text = (folder / file).read_text("utf-8")
        assert f"class {name}" in text
        assert f"def {function}(" in text or f"class {name}(" in text  # its own, or inherited


def test_only_float16_data_in_a_float32_conversion_explain() -> None:
    name = "coremltools/x/tests/iOS17/test_conv.py::TestConv::test_builder_to_backend_stress[precision='{}'-x=<{}>]"
    assert "float16" in plugin._explanation(name.format("fp32", "numpy.float16"))
    assert not plugin._explanation(name.format("fp32", "numpy.float32"))
    assert not plugin._explanation(name.format("fp16", "numpy.float16"))
    assert not plugin._explanation(name.format("fp32", "numpy.float16").replace("stress", "smoke"))


THEIRS = """
import coremltools as ct
import numpy as np
import platform
import pytest
from coremltools._deps import _IS_MACOS
from coremltools.converters.mil import Builder as mb
from coremltools.models.utils import _macos_version


@pytest.fixture(scope="module")
def model():
    @mb.program(input_specs=[mb.TensorSpec(shape=(3,))], opset_version=ct.target.iOS18)
    def program(x):
        return mb.add(x=x, y=1.0, name="y")

    return ct.convert(program, minimum_deployment_target=ct.target.iOS18)


@pytest.mark.parametrize("off, atol, rtol", [(0, 1e-4, 0), (0.1, 0.5, 0.05), (0.004, 0.5, 0.05)])
def test_compares(model, off, atol, rtol):
    result = model.predict({"x": np.zeros(3, np.float32)})["y"]
    np.testing.assert_allclose(result, np.full(3, 1.0 + off), atol=atol, rtol=rtol)


def test_compares_nothing(model):
    assert model.predict({"x": np.zeros(3, np.float32)})["y"].shape == (3,)


def test_predicts_nothing():
    np.testing.assert_allclose(np.ones(3), np.ones(3))
    assert _IS_MACOS and _macos_version() >= (15, 4) and platform.machine() == "arm64"


@pytest.mark.skipif(True, reason="only on macOS 99")
def test_platform():
    pass


@pytest.mark.parametrize("x", range(9))
def test_many(x):
    pass
"""


def test_the_plugin_records_what_cases_do(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_theirs.py").write_text(THEIRS)
    record = tmp_path / "record.jsonl"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(run.HERE / "coremltools.ini"),
        "--rootdir",
        str(tmp_path),
    ]
    command += ["-p", "tests.conformance.plugin", "--conformance-record", str(record), "--conformance-sample", "3"]
    ran = subprocess.run([*command, str(tmp_path / "tests")], cwd=ROOT, capture_output=True, text=True)
    cases = {line["id"].partition("::")[2]: line for line in plugin.read(record) if "outcome" in line}
    assert len(cases) == 9, ran.stdout + ran.stderr
    told = {name: (c["reached"], c["compared"], c["witnessed"], c["outcome"]) for name, c in cases.items()}
    compares = sorted(value for name, value in told.items() if name.startswith("test_compares["))
    assert compares == [(True, 1, 0, "failed"), (True, 1, 0, "passed"), (True, 1, 0, "passed")]
    assert told["test_compares_nothing"] == (True, 0, 0, "passed")
    assert told["test_predicts_nothing"] == (False, 0, 1, "passed")
    assert told["test_platform"] == (True, 0, 0, "skipped")
    assert sum(name.startswith("test_many") for name in told) == 3
