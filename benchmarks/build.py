"""What a build costs, ours against `torch.jit.trace` and `coremltools.convert`, and against a copy: time, memory, operations.

    python benchmarks/build.py [--model gpt2] [--repeat 3] [--json FILE]

Both make a float16 package of (1, 64) token ids from the same checkpoint of random weights (benchmarks/checkpoints.py).
Each case runs in a process of its own, the cases take turns, and the table shows medians: absolute seconds move between
machines and hours, the ratio within one run does not.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints

TOKENS = 64
STATUS = Path("/proc/self/status")
INTERVAL = 0.005  # seconds between two looks at the memory
PIECE = 1 << 18  # numbers that the floor casts together: 1 MiB of float32

Case = Callable[[Path, Path, "Clock"], None]
Runs = dict[str, list[dict[str, Any]]]  # case -> what each of its runs reported


# In the measured process


class Clock:
    """CPU seconds from mark to mark, and the private memory (RssAnon) at the marks and between them."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.cpu = 0.0  # from the start of the process: the interpreter's own is part of the imports
        self.started = time.perf_counter()
        self.work_wall = 0.0
        self.before: float | None = None
        self.highest: float | None = None
        self.done = threading.Event()
        self.sampler: threading.Thread | None = None
        self.sampling = 0.0

    def mark(self, phase: str) -> None:
        """The time since the last mark was `phase`. The sampler's own share is left out."""
        now = time.process_time() - self.sampling
        self.phases[phase], self.cpu = now - self.cpu, now

    def imported(self) -> None:
        """Ends the imports: from here on the memory is watched."""
        self.mark("imports")
        self.before = self.highest = private_memory()
        if self.before is not None:
            self.sampler = threading.Thread(target=self._sample, daemon=True)
            self.sampler.start()
        self.started = time.perf_counter()

    def stop(self) -> dict[str, Any]:
        self.work_wall = time.perf_counter() - self.started
        self.done.set()
        if self.sampler is not None:
            self.sampler.join()
        above = None if self.before is None or self.highest is None else self.highest - self.before
        return {
            "work_cpu_s": sum(seconds for phase, seconds in self.phases.items() if phase != "imports"),
            "work_wall_s": self.work_wall,
            "imports_cpu_s": self.phases["imports"],
            "phases_cpu_s": self.phases,
            "imports_rss_anon_mb": self.before,
            "work_rss_anon_mb": above,
        }

    def _sample(self) -> None:
        while not self.done.wait(INTERVAL):
            self.highest = max(self.highest or 0.0, private_memory() or 0.0)
            self.sampling = time.thread_time()


def private_memory() -> float | None:
    """RssAnon in MB: what this process alone holds, without mapped files, which the system can take back at any time."""
    try:
        text = STATUS.read_text()
    except OSError:
        return None
    return int(text.partition("RssAnon:")[2].split(None, 1)[0]) * 1024 / 1e6


def ours(folder: Path, package: Path, clock: Clock) -> None:
    from milbuild.cli.imports import prepare

    prepare(configurations=True)  # as `milbuild build` does
    from transformers import CONFIG_MAPPING

    from milbuild.architectures import gpt2  # noqa: F401
    from milbuild.builder import build

    CONFIG_MAPPING["gpt2"]  # imports the class, which `build` would do
    clock.imported()
    model = build(folder, sequence_length=TOKENS, precision="float16")
    clock.mark("build")
    model.save(package)
    clock.mark("save")


def traced(folder: Path, package: Path, clock: Clock) -> None:
    import coremltools as ct
    import numpy as np
    import torch
    from transformers import GPT2LMHeadModel

    class Logits(torch.nn.Module):
        """token ids -> logits, with a mask that is ready.

        As it comes GPT-2 does not convert with transformers 5 and coremltools 9: the code that makes the mask traces to
        operations that coremltools does not know (`diff`, `new_ones`, `__and__`). A mask of four axes passes through
        untouched. It is a buffer of this module rather than an input or made in `forward`, because then nothing of it is
        left as an `int` operation, which coremltools 9.0 fails to convert with numpy 2.4 (`TypeError: only 0-dimensional
        arrays can be converted to Python scalars`): no patch of coremltools is needed.
        """

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("mask", torch.full((1, 1, TOKENS, TOKENS), -1e4).triu(1))

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=self.mask, use_cache=False).logits
            return logits

    clock.imported()
    # Other types of a checkpoint's weights coremltools does not convert (bfloat16), or fails on (float16, layer_norm).
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    clock.mark("load")
    with torch.no_grad():
        example = torch.zeros((1, TOKENS), dtype=torch.int64)
        graph = torch.jit.trace(Logits(model), example, check_trace=False)  # type: ignore[no-untyped-call]
    clock.mark("trace")
    converted = ct.convert(
        graph,
        inputs=[ct.TensorType("input_ids", (1, TOKENS), np.int32)],
        outputs=[ct.TensorType("logits")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    clock.mark("convert")
    converted.save(str(package))
    clock.mark("save")


def count_operations(package: Path) -> int:
    """The operations of the main function that are not constants, in blocks of blocks too."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    function = model.mlProgram.functions["main"]

    def count(block: Any) -> int:
        own: int = sum(operation.type != "const" for operation in block.operations)
        return own + sum(count(inner) for operation in block.operations for inner in operation.blocks)

    return count(function.block_specializations[function.opset])


def floor(folder: Path, package: Path, clock: Clock) -> None:
    """The same numbers read, cast and written by plain numpy, in pieces: what any program written so has to do.

    GPT-2's matrices stand in the file as (in, out), and a `linear` takes (out, in): these are transposed.
    """
    import numpy as np

    clock.imported()
    package.mkdir(parents=True, exist_ok=True)
    with open(folder / "model.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    whole = np.memmap(folder / "model.safetensors", np.uint8, "r", offset=8 + size)
    with open(package / "weight.bin", "wb") as file:
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            kind = {"F32": np.float32, "F16": np.float16}[entry["dtype"]]
            tensor = whole[first:last].view(kind).reshape(entry["shape"])
            if tensor.ndim == 2 and ".c_" in name:
                step = max(1, PIECE // tensor.shape[0])
                for start in range(0, tensor.shape[1], step):
                    file.write(np.ascontiguousarray(tensor[:, start : start + step].T).astype(np.float16).tobytes())
            else:
                flat = tensor.reshape(-1)
                for start in range(0, flat.size, PIECE):
                    file.write(flat[start : start + PIECE].astype(np.float16).tobytes())
    clock.mark("write")


RATIOS = (("traced", "ours"), ("ours", "floor"))
CASES: dict[str, Case] = {"ours": ours, "floor": floor, "traced": traced}


def child(case: str, folder: Path, package: Path) -> None:
    """Runs one case (or `count`, over a package that is there) and prints one line of JSON, whatever else gets printed."""
    if case == "count":
        result: dict[str, Any] = {"operations": count_operations(package)}
    else:
        clock = Clock()
        with redirect_stdout(sys.stderr):
            CASES[case](folder, package, clock)
        result = clock.stop()
    print(json.dumps(result))


# In the process that starts them


class Row(NamedTuple):
    """A line of the table: the label, the key in a child's report, the digits shown."""

    label: str
    key: str
    digits: int


ROWS = (
    Row("wall s", "wall_s", 2),
    Row("CPU s, whole process", "cpu_s", 2),
    Row("CPU s, imports", "imports_cpu_s", 2),
    Row("CPU s, work", "work_cpu_s", 2),
    Row("RssAnon MB, after the imports", "imports_rss_anon_mb", 1),
    Row("RssAnon MB, peak above that", "work_rss_anon_mb", 1),
    Row("peak RSS MB, mapped files too", "peak_rss_mb", 0),
    Row("operations", "operations", 0),
    Row("package bytes", "package_bytes", 0),
)


def run(case: str, folder: Path, package: Path) -> dict[str, Any]:
    """One case in a fresh process: what it reports of itself, and what the system says of it once it is gone."""
    command = [sys.executable, __file__, "--child", case, str(folder), str(package)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{err.read()}\n{case} failed: {shlex.join(command)}")
        report: dict[str, Any] = json.loads(out.read().splitlines()[-1])
    # Kilobytes on Linux, bytes on macOS.
    peak = used.ru_maxrss / 1e6 if sys.platform == "darwin" else used.ru_maxrss * 1024 / 1e6
    return report | {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_rss_mb": peak}


def measure(folder: Path, outputs: Path, cases: list[str], repeat: int) -> Runs:
    """Every run of every case, the cases taking turns."""
    runs: Runs = {case: [] for case in cases}
    packages = {case: outputs / f"{case}.mlpackage" for case in cases}
    for turn in range(repeat):
        for case, package in packages.items():
            note(f"{case}, {turn + 1} of {repeat}")
            runs[case].append(run(case, folder, package))
    for case, package in packages.items():
        size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
        same = None if case == "floor" else run("count", folder, package)["operations"]
        for report in runs[case]:
            report |= {"operations": same, "package_bytes": size}
    return runs


def median(reports: list[dict[str, Any]], key: str) -> float | None:
    values = [report[key] for report in reports]
    return None if None in values else statistics.median(values)


def machine() -> str:
    """The machine, the versions, and the command, in one line."""
    versions = [f"Python {platform.python_version()}"]
    for package in ("coremltools", "torch", "transformers", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    command = shlex.join(["python", "benchmarks/build.py", *sys.argv[1:]])
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}; {', '.join(versions)}; {command}"


def note(text: str) -> None:
    print(text, file=sys.stderr)


def show(title: str, runs: Runs) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Between ASCII bars, so that it can be pasted into a Markdown page.
    table = Table(box=box.MARKDOWN)
    table.add_column("")
    for case in runs:
        table.add_column(case, justify="right")
    ratios = [pair for pair in RATIOS if set(pair) <= set(runs)]
    for pair in ratios:
        table.add_column(" / ".join(pair), justify="right")
    for row in ROWS:
        values = {case: median(reports, row.key) for case, reports in runs.items()}
        cells = ["-" if value is None else f"{value:,.{row.digits}f}" for value in values.values()]
        sides = [(values[over], values[under]) for over, under in ratios]
        table.add_row(row.label, *cells, *("-" if not (a and b) else f"{a / b:,.2f}" for a, b in sides))
    console = Console()
    console.print(title, table, highlight=False)
    for case, reports in runs.items():
        phases = [report["phases_cpu_s"] for report in reports]
        spelled = [f"{phase} {statistics.median(each[phase] for each in phases):.2f}" for phase in phases[0]]
        console.print(f"{case}, CPU s: {', '.join(spelled)}", highlight=False)
    console.print(machine(), highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measures what a build costs, against torch.jit.trace and coremltools.convert."
    )
    parser.add_argument("--model", choices=checkpoints.SIZES, default="gpt2")
    parser.add_argument(
        "--dtype", choices=checkpoints.DTYPES, default="float32", help="the checkpoint's type (default: float32)"
    )
    parser.add_argument(
        "--folder", type=Path, help="a GPT-2 checkpoint that is there, in the place of --model and --dtype"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case (default: 3)")
    parser.add_argument("--no-trace", action="store_true", help="ours only: tracing a large model takes many gigabytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run to FILE")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case, folder, package = arguments.child
        return child(case, Path(folder), Path(package))
    if arguments.repeat < 1:
        parser.error("--repeat is 1 or more")

    with tempfile.TemporaryDirectory(prefix="milbuild-benchmark-") as name:
        outputs = Path(name)
        folder = arguments.folder
        if folder is None:
            folder = outputs / arguments.model
            note(f"making {arguments.model} ({arguments.dtype})")
            checkpoints.make(arguments.model, folder, arguments.dtype)
        cases = [case for case in CASES if case != "traced" or not arguments.no_trace]
        if arguments.dtype == "bfloat16":
            cases.remove("floor")  # numpy has no such type
        runs = measure(folder, outputs, cases, arguments.repeat)
    title = f"{folder.name}, (1, {TOKENS}), float16 package, medians of {arguments.repeat}"
    show(title, runs)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "machine": machine(), "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
