"""Runs suites of others on milbuild.runtime, by its pytest plugin, and writes down what became of them.

  python -m tests.conformance.others stablehlo-coreml --checkout DIR --python VENV/bin/python
  python -m tests.conformance.others coremltools-torch --python VENV/bin/python

The Python is one where the suite's own dependencies and milbuild's are installed; the checkout is the repository's, which is
not changed. Without arguments for pytest (behind `--`) the run goes into record-others.json and into docs/conformance.md, which
`python -m tests.conformance.run` writes with the record's numbers, too; with some it is only printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORD = HERE / "record-others.json"
DOCUMENT = ROOT / "docs" / "conformance.md"
TITLE = "## Third-party test suites"
PREFIX = "milbuild.runtime "


@dataclass(frozen=True)
class Suite:
    """`packages`: whose versions are noted; `ours`: whether it needs this project's own tests beside milbuild."""

    repository: str
    arguments: tuple[str, ...]
    packages: tuple[str, ...]
    about: str
    ours: bool = False


SUITES = {
    "stablehlo-coreml": Suite(
        "kasper0406/stablehlo-coreml",
        ("-W", "ignore", "--ignore=tests/pytorch", "tests"),
        ("coremltools", "jax", "flax", "equinox", "numpy", "torch"),
        "all of tests/ but tests/pytorch, which needs a nightly build of torchax",
    ),
    "coremltools-torch": Suite(
        "apple/coremltools",
        (
            "-c", str(HERE / "coremltools.ini"), "-p", "tests.conformance.plugin", "--conformance-sample", "1",
            "--pyargs", "coremltools.converters.mil.frontend.torch.test.test_torch_ops",
        ),
        ("coremltools", "torch", "numpy"),
        "test_torch_ops, one case of each test function, float16 or float32, drawn by the function's name and with the changes "
        "named above: all of its cases (32,657 in coremltools 9.0, about 3 s each) would take a day",
        ours=True,
    ),
}  # fmt: skip

HALF = "PyTorch computes the expectation in float16, the program in float32; the test allows 1e-4 and 1e-5"
# Failures, and why.
WHY = {
    "TestBatchNorm::test_batchnorm_fp16_weight_with_fp32_param": HALF,
    "TestLinear::test_linear_fp16": HALF,
    "TestIndexPut::test_index_put_dynamic_bool_index": (
        "a mask without a true entry: no indices, and an update to be repeated 0 times, which the runtime refused; fixed after "
        "this run"
    ),
    "TestMatMul::test_bmm_with_fp16_inputs": "PyTorch computes the expectation on an Apple GPU",
    "TestNms::test_nms": "the test needs torchvision, which was not installed",
    "TestNms::test_nms_corner_case_iou_equal_threshold": "the test needs torchvision, which was not installed",
    "TestRandn::test_randn": "two draws of random numbers, whose wide tolerance the run mistakes for float16's and narrows",
}

# What the suites found of the runtime; it is mended since.
FOUND = {
    "stablehlo-coreml": (
        "Its tests passed without a comparison: coremltools' helper, which they use to compare, only does so on macOS. The "
        "plugin tells the helper that it is on macOS.",
        "JAX's gathers squeeze axes whose size the program does not know: the runtime relied on the declared rank and refused "
        "the result.",
    ),
    "coremltools-torch": (
        "A packed sequence's LSTM is converted with an initial state of zeros of 10 rows (the time steps) for a batch of 3; the "
        "runtime refused it, the test expects PyTorch's numbers. It is now accepted if the rows are equal "
        "([runtime.md](runtime.md)), and all 32 cases of that test compare and pass.",
        "`x[mask] = 0` if no entry of the mask is true, see below.",
    ),
}

# Suites that say nothing of the runtime, and why.
NOT_RUN = (
    "executorch's Core ML tests (backends/apple/coreml/test) were read, not run. None of the five files that were read "
    "predicts with coremltools: they pass a model to executorch's own runtime, whose Core ML delegate is written in "
    "Objective-C, import it only if `sys.platform` is darwin, and otherwise skip or return before the comparison. "
    "The delegate would have to be rewritten here, and the tests would then test the rewrite."
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Third-party test suites on milbuild.runtime.")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="the repository's work tree")
    parser.add_argument("--python", required=True, metavar="FILE", help="a Python with what the suite needs")
    given = sys.argv[1:] if arguments is None else arguments
    cut = given.index("--") if "--" in given else len(given)
    options, more = parser.parse_args(given[:cut]), given[cut + 1 :]
    suite = SUITES[options.suite]
    if (options.checkout is None) != suite.ours:
        parser.error(f"{options.suite} takes {'no' if suite.ours else 'its'} --checkout")
    found = run(suite, options.checkout, options.python, more)
    if found is None:
        print(f"error: {options.suite} gave no report", file=sys.stderr)
        return 2
    if more:
        print(_row(options.suite, found))
    else:
        record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
        record[options.suite] = found
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
        DOCUMENT.write_text(DOCUMENT.read_text("utf-8").partition(f"\n{TITLE}\n")[0] + section(), "utf-8")
        print(section())
    for test, reason in found["failures"].items():
        print(f"{test}: {reason}", file=sys.stderr)
    return 1 if any(_why(test) is None for test in found["failures"]) else 0


def run(suite: Suite, checkout: Path | None, python: str, more: list[str]) -> dict[str, Any] | None:
    """What became of the suite's tests; None without a report."""
    with tempfile.TemporaryDirectory() as folder:
        # milbuild alone: a suite may have a package `tests` of its own.
        beside = Path(folder) / "path"
        beside.mkdir()
        (beside / "milbuild").symlink_to(ROOT / "milbuild")
        paths = [str(ROOT if suite.ours else beside), *([str(checkout.resolve())] if checkout else [])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYMIL_TEST_TARGETS": "mlprogram",
            "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": folder,
        }
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", "-p", "milbuild.runtime.pytest_plugin", "-p", "no:cacheprovider"]
        command += ["--tb=short", "--show-capture=no", f"--junitxml={report}", *suite.arguments, *more]
        subprocess.run(command, cwd=checkout or folder, env=environment, check=False)
        if not report.exists():
            return None
        names = f"import importlib.metadata as m; print({{n: m.version(n) for n in {suite.packages!r}}})"
        versions = subprocess.run([python, "-c", names], capture_output=True, text=True, check=True).stdout.strip()
        return counted(report.read_bytes()) | {
            "versions": json.loads(versions.replace("'", '"')),
            "commit": _commit(checkout) if checkout else "",
        }


def _commit(checkout: Path) -> str:
    ran = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return ran.stdout.strip()[:12]


def counted(report: bytes) -> dict[str, Any]:
    """A report in JUnit's XML as numbers of tests, and the reasons of those that fail, a line each."""
    count: Counter[str] = Counter()
    failures: dict[str, str] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        properties = {entry.get("name", ""): entry.get("value", "") for entry in case.iter("property")}
        said = {name: int(properties.get(PREFIX + name, 0)) for name in ("predicted", "read", "compared")}
        count["tests"] += 1
        for name, number in said.items():
            count[name] += number > 0
        bad = next((entry for kind in ("failure", "error") for entry in case.iter(kind)), None)
        if bad is not None:
            test = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            failures[test] = " ".join((bad.get("message") or "").split())[:200]
        left = case.find("skipped")
        if bad is not None:
            became = "failed"
        elif left is not None:
            became = "xfail" if left.get("type") == "pytest.xfail" else "skipped"
        else:
            became = "passed"
        count[became] += 1
    return {"counts": dict(count), "failures": failures}


def _why(test: str) -> str | None:
    return next((why for name, why in WHY.items() if test.partition("[")[0].endswith(name)), None)


def _row(name: str, found: dict[str, Any]) -> str:
    keys = ("tests", "predicted", "compared", "passed", "skipped", "xfail", "failed")
    return f"| {name} | {' | '.join(str(found['counts'].get(key, 0)) for key in keys)} |"


def section() -> str:
    """The last part of docs/conformance.md; empty without a record."""
    if not RECORD.exists():
        return ""
    record = json.loads(RECORD.read_text("utf-8"))
    lines = ["", TITLE, ""]
    lines += [
        "Run with `pytest -p milbuild.runtime.pytest_plugin` by `python -m tests.conformance.others`. *compared*: tests that",
        "compared numbers with numpy or torch after reading an output. The other tests that pass check compiler passes, expected",
        "errors, or the result of a conversion. *xfail* includes what is explained above.",
        "",
    ]
    lines += ["| suite | tests | predicted | compared | passed | skipped | xfail | failed |", "| --- |" + " ---: |" * 7]
    lines += [_row(name, found) for name, found in sorted(record.items())]
    for name, found in sorted(record.items()):
        versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
        at = f" at {found['commit']}" if found["commit"] else ""
        lines += ["", f"{name}: {SUITES[name].repository}{at}, {SUITES[name].about}; {versions}."]
        if name in FOUND:
            lines += ["", "What it found:", "", *(f"- {each}" for each in FOUND[name])]
        grouped: dict[tuple[str, str], int] = Counter()
        for test, reason in found["failures"].items():
            grouped[test.partition("[")[0], _why(test) or reason] += 1
        if grouped:
            lines += ["", "What failed:", ""]
            lines += [f"- `{test}` ({number}): {why}." for (test, why), number in grouped.items()]
    missing = [name for name in SUITES if name not in record]
    lines += ["", f"Not run whole yet: {', '.join(missing)}."] * bool(missing) + ["", NOT_RUN]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
