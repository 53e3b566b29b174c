"""Runs coremltools' own operation tests on milbuild.runtime and writes down what became of every case.

  python -m tests.conformance.run                            all of them: docs/conformance.md, and holds to record.json
  python -m tests.conformance.run --backward-compatibility   every test at every later opset: record-backward.json
  python -m tests.conformance.run --ci                       a selection of five minutes: record-ci.json
  python -m tests.conformance.run --sample 2                 two cases of each test function; judges nothing

It fails when fewer cases of a file compare a number than its record says, or when fewer than 99.5 % of those that come to a
prediction pass; those that plugin.py explains are neither counted for nor against. A record only grows by itself; `--accept`
writes it whatever it says.

An interrupted run goes on where it stopped, and a case that takes its process along costs no other, as long as the code is
the same. `--fresh` begins anew.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.conformance import others
from tests.conformance.plugin import EXPLAINED, KNOWN, MACOS, MISWRITTEN, STRICT, read

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "conformance.md"

OPERATIONS = "coremltools.converters.mil.mil.ops.tests"
TORCH = "coremltools.converters.mil.frontend.torch.test"
# The torch frontend's tests compare with torch: one what coremltools computes itself at conversion, one what states do.
OTHERS = [f"{TORCH}.test_internal_graph", f"{TORCH}.test_torch_stateful_model"]

ENOUGH = 0.995
PROCESSES = 2
PARTS = 6
CI_SAMPLE = 20
# A process that has not ended a case for so long is stopped, and the case counts as crashed.
PATIENCE = 600
# Cases that may take their process along before a part is given up.
CRASHES = 20

PASSED, FAILED = ("passed", "xpassed"), ("failed", "crashed", "error")


@dataclass(frozen=True)
class Part:
    name: str
    modules: tuple[str, ...]
    options: tuple[str, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backward-compatibility", action="store_true", help="every test at every later opset, too")
    parser.add_argument("--ci", action="store_true", help="a selection of at most five minutes")
    parser.add_argument("--sample", type=int, metavar="N", help="N cases of each test function; judges nothing")
    parser.add_argument("--seed", type=int, default=0, help="other random numbers")
    parser.add_argument("--processes", type=int, default=PROCESSES, metavar="N")
    parser.add_argument("--accept", action="store_true", help="write the record, whatever it says")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    options = parser.parse_args(arguments)
    kind = "backward" if options.backward_compatibility else "ci" if options.ci else "full"
    if options.sample:
        kind += f"-sample{options.sample}"

    work = ROOT / "build" / "conformance" / kind
    _prepare(work, options)
    began = time.monotonic()
    sample = options.sample or (CI_SAMPLE if options.ci else None)
    everything = parts(sample, options)
    with ThreadPoolExecutor(options.processes) as pool:
        whole = list(pool.map(lambda part: _run(part, work, options.backward_compatibility), everything))
    lines = [line for part in everything for line in read(work / f"{part.name}.jsonl")]
    summary = summarise(lines)
    summary |= {
        "versions": _versions(),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "command": _command(kind),
    }

    record = HERE / ("record.json" if kind == "full" else f"record-{kind}.json")
    kept = json.loads(record.read_text("utf-8")) if record.exists() else None
    faults = [f"{part.name} was given up" for part, ended in zip(everything, whole, strict=True) if not ended]
    if kept is None and not (options.accept or options.sample):
        faults.append(f"there is no {record.name} to hold to; --accept writes it")
    faults += judge(summary, None if options.accept or options.sample else kept, kind == "ci" or bool(options.sample))
    print(table(summary["files"]))
    print(reasons(summary))
    if not options.sample:
        if options.accept or (kept is not None and not judge(summary, kept, kind == "ci")):
            record.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", "utf-8")
        if kind != "ci":
            _write(summary, kind)
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


def parts(sample: int | None, options: argparse.Namespace) -> list[Part]:
    """What one pytest process runs each: every part has a share of every file."""
    common = [f"--conformance-seed={options.seed}"]
    some = [f"--conformance-sample={sample}"] if sample else []
    count = 2 if sample else PARTS
    made = [
        Part(f"operations-{part}", (OPERATIONS,), (*common, *some, f"--conformance-shard={part}/{count}"))
        for part in range(count)
    ]
    if not options.backward_compatibility:
        made.append(Part("torch", tuple(OTHERS), tuple(common)))
    return made


def _prepare(work: Path, options: argparse.Namespace) -> None:
    """The folder of the run's records; those of other code are thrown away."""
    files = [
        *sorted((ROOT / "milbuild" / "runtime").glob("*.py")),
        *sorted((ROOT / "milbuild" / "package").glob("*.py")),
    ]
    files += [HERE / "plugin.py", HERE / "run.py", HERE / "coremltools.ini"]
    digest = hashlib.sha256(f"{options.seed} {sorted(_versions().items())}".encode())
    for file in files:
        digest.update(file.read_bytes())
    mark = work / "code"
    if options.fresh or not mark.exists() or mark.read_text() != digest.hexdigest():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        mark.write_text(digest.hexdigest())


def _run(part: Part, work: Path, backward: bool) -> bool:
    """Runs a part until all its cases are recorded. False if it had to be given up."""
    record = work / f"{part.name}.jsonl"
    environment = os.environ | {
        "PYMIL_TEST_TARGETS": "mlprogram",
        "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
        "RUN_BACKWARD_COMPATIBILITY": "1" if backward else "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    for attempt in range(CRASHES):
        if any("finished" in line for line in read(record)):
            return True
        scratch = work / f"{part.name}-files"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(HERE / "coremltools.ini"), "--rootdir", _packages()]
        command += ["-p", "tests.conformance.plugin", "--conformance-record", str(record), "--tb=no", "-rN"]
        command += [*part.options, "--pyargs", *part.modules]
        with (work / f"{part.name}-{attempt}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment | {"TMPDIR": str(scratch)}, stdout=log, stderr=subprocess.STDOUT
            )
            _watch(process, record)
        shutil.rmtree(scratch, ignore_errors=True)
    return any("finished" in line for line in read(record))


def _watch(process: subprocess.Popen[bytes], record: Path) -> None:
    """Waits for the end, or stops a process whose record has not grown for too long."""
    size, grown = -1, time.monotonic()
    while process.poll() is None:
        now = record.stat().st_size if record.exists() else 0
        if now != size:
            size, grown = now, time.monotonic()
        elif time.monotonic() - grown > PATIENCE:
            process.kill()
        time.sleep(0.5)


# What became of the cases


def summarise(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Counts by file, and how often each reason was given."""
    files: dict[str, Counter[str]] = defaultdict(Counter)
    why: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seen: set[str] = set()
    for case in lines:
        if "outcome" not in case or case["id"] in seen:
            continue
        seen.add(case["id"])
        count, outcome = files[case["file"]], case["outcome"]
        result = "passed" if outcome in PASSED else "failed" if outcome in FAILED else outcome
        count["collected"] += 1
        count["reached"] += case["reached"]
        count["compared"] += case["reached"] and case["compared"] > 0
        count["witnessed"] += not case["reached"] and case["witnessed"] > 0
        count[result if case["reached"] or result not in ("passed", "failed") else f"{result} before"] += 1
        if case["reached"] and outcome == "xfailed":
            count["reached xfailed"] += 1
        if outcome not in PASSED:
            function = re.sub(r".*/tests?/", "", case["id"].partition("[")[0])
            why[result, grouped(case["reason"])][function] += 1
    return {
        "files": {file: dict(sorted(count.items())) for file, count in sorted(files.items())},
        "reasons": [
            {"outcome": outcome, "reason": reason, "tests": dict(tests.most_common())}
            for (outcome, reason), tests in sorted(why.items(), key=lambda item: (item[0][0], -item[1].total()))
        ],
    }


def grouped(reason: str) -> str:
    """A reason without what differs from case to case."""
    if found := re.search(r"is an? (\w+), which the runtime does not know", reason):
        return f"the runtime does not know {found[1]}"
    if found := re.search(r"operation \S+ \((\w+)\) (.*)", reason):
        reason = f"{found[1]}: {found[2]}"
    elif "Not equal to tolerance" in reason:
        reason = "the numbers differ"
    elif "Arrays are not equal" in reason:
        reason = "the arrays differ"
    reason = re.sub(r"\btmp\w+(\.mlpackage)?", "PACKAGE", reason)
    reason = re.sub(r"0x[0-9a-f]+", "ADDRESS", reason)
    if not re.match(r"(rdar|Skipped|Not implemented)", reason):
        reason = re.sub(r"(?<![\w/])-?\d+(\.\d+)?(e[-+]?\d+)?", "N", reason)
    return reason[:160].strip() or "(none)"


def judge(summary: dict[str, Any], kept: dict[str, Any] | None, sampled: bool = False) -> list[str]:
    """What is worse than the record `kept`, or than it may be at all.

    In a selection the few failures that are known weigh too much for a share: there it takes that nothing else fails.
    """
    faults = []
    for file, before in (kept["files"] if kept else {}).items():
        now = summary["files"].get(file, {})
        for what, meaning in (("compared", "compare a number"), ("witnessed", "compare a number without predicting")):
            if now.get(what, 0) < before.get(what, 0):
                faults.append(f"{file}: {now.get(what, 0)} cases {meaning}, the record has {before[what]}")
    for group in summary["reasons"]:
        if group["outcome"] == "failed":
            faults += [f"{test} fails ({group['reason']})" for test in group["tests"] if test not in KNOWN]
    total = totals(summary["files"])
    share = passing(total)
    if not total or (share < ENOUGH and not sampled):
        faults.append(f"{share:.2%} of the cases that came to a prediction pass; it takes {ENOUGH:.1%}")
    return faults


def totals(files: dict[str, dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in files.values():
        total.update(count)
    return total


def passing(total: dict[str, int]) -> float:
    """The share that pass of the cases that came to a prediction; those explained or expected to fail are neither."""
    asked = total.get("reached", 0) - total.get("reached xfailed", 0) - total.get("explained", 0)
    return total.get("passed", 0) / asked if asked else 0.0


# The document

COLUMNS = {
    "collected": "cases",
    "reached": "predict",
    "compared": "compare",
    "passed": "pass",
    "explained": "explained",
    "failed": "fail",
    "passed before": "pass",
    "witnessed": "compare",
    "failed before": "fail",
    "skipped": "skipped",
    "xfailed": "xfail",
}


def table(files: dict[str, dict[str, int]]) -> str:
    rows = [["file", *COLUMNS.values()], ["---", *["---:"] * len(COLUMNS)]]
    for file, count in files.items():
        rows.append([file, *(str(count.get(column, 0) or "") for column in COLUMNS)])
    total = totals(files)
    rows.append(["**all**", *(f"**{total[column]:,}**" if total[column] else "" for column in COLUMNS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def reasons(summary: dict[str, Any]) -> str:
    rows = ["| | cases | reason | tests |", "|---|---:|---|---|"]
    for group in summary["reasons"]:
        tests = list(group["tests"])
        named = ", ".join(f"`{test}`" for test in tests[:3]) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")
        if group["outcome"] == "skipped":
            named = ", ".join(sorted({test.partition("::")[0] for test in tests}))
        reason = group["reason"].replace("|", "\\|").replace("<", "&lt;").replace("][", "]&#91;")
        rows.append(f"| {group['outcome']} | {sum(group['tests'].values())} | {reason} | {named} |")
    return "\n".join(rows)


def _write(summary: dict[str, Any], kind: str) -> None:
    """docs/conformance.md: this run, and the other one as its record has it."""
    both = {kind: summary}
    for other, file in (("full", "record.json"), ("backward", "record-backward.json")):
        if other not in both and (HERE / file).exists():
            both[other] = json.loads((HERE / file).read_text("utf-8"))
    explained = "\n".join(f"- `{test}`: {why}." for test, why in (EXPLAINED | MISWRITTEN).items())
    known = "\n".join(f"- `{test}`: {why}." for test, why in KNOWN.items())
    text = f"""# Conformance

coremltools' wheel contains the tests that Apple runs on its operations. On systems other than macOS they pass without
comparing a number. `tests/conformance` makes them predict with `milbuild.runtime` instead of Core ML and records the
result of each case. `python -m tests.conformance.run` writes this page.

The run changes the following: coremltools is told that it runs on an ARM Mac with macOS {".".join(map(str, MACOS))}. Where a
test allows float16 results to be off by 0.5 and 5 %, the run allows {STRICT["atol"]} and {STRICT["rtol"]:.1%}. Random numbers are
seeded with the name of the case. When a prediction fails, Core ML's sentence is added to the runtime's own message. No
case is left out. The columns of the tables:

- *predict*: the case reached a prediction, or skipped it because of the platform. Of these: how many *compare* a number
  afterwards, *pass*, are *explained* (below) or *fail*.
- The second *pass*, *compare* and *fail* are cases that don't predict: they test type inference, values that
  coremltools computes itself, and expected errors.
- *skipped* and *xfail*: as reported by the tests. A test that is expected to fail but doesn't is counted under *pass*.

These tests are necessary but not sufficient: they don't cover NaN, overflow or Core ML's own arithmetic, and they
barely vary some parameters. `tests/runtime` also compares every operation with PyTorch.

The explained cases are float32 conversions whose expected values are themselves off by more than the test allows, mostly
because their data is float16. They have to agree within {STRICT["atol"]} and {STRICT["rtol"]:.1%} instead; the other cases of
these tests have to meet the test's own tolerance:

{explained}

What fails, and why it is left that way:

{known}
"""
    titles = {
        "full": "Every operation test, float16 and float32",
        "backward": "Every test at every later opset as well",
    }
    for name, title in titles.items():
        if name in both:
            text += _section(title, both[name])
    text += others.section()
    DOCUMENT.write_text(text, "utf-8")


def _section(title: str, summary: dict[str, Any]) -> str:
    total = totals(summary["files"])
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    return f"""
## {title}

`{summary["command"]}`; {versions}.

**{total["reached"]:,} cases reach a prediction, and {total["compared"]:,} compare a number there: {total["passed"]:,} pass,
{total["explained"]:,} are explained, {total["failed"]:,} fail. Of those that are not explained, {passing(total):.2%} pass.**

{table(summary["files"])}

{reasons(summary)}
"""


def _versions() -> dict[str, str]:
    names = ("coremltools", "torch", "numpy", "scipy", "pytest")
    return {"Python": platform.python_version()} | {name: version(name) for name in names}


def _command(kind: str) -> str:
    option = {"full": "", "backward": " --backward-compatibility", "ci": " --ci"}.get(kind, "")
    return f"python -m tests.conformance.run{option}"


def _packages() -> str:
    spec = find_spec("coremltools")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]).parent)


if __name__ == "__main__":
    sys.exit(main())
