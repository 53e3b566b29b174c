"""What a build costs, ours against what PyTorch's tracer or exporter and `coremltools.convert` take of the same checkpoint.

    python benchmarks/build.py [MODEL ...] [--cases ours,floor,traced] [--repeat 3] [--json FILE]
    python benchmarks/build.py --scaling [MODEL ...] [--plot FILE] [--json FILE]

Each makes a float16 package from one checkpoint of random weights (benchmarks/checkpoints.py). Each run is a process of its own,
the cases take turns, and the table shows medians: absolute seconds move between machines and hours, the ratio within one run
does not. `--scaling` builds models of all sizes with milbuild alone and asks whether time grows with bytes in a straight line.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import shlex
import shutil
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
import floor as floor_
import operations
from operations import TOKENS, Case

STATUS = Path("/proc/self/status")
INTERVAL = 0.005  # seconds between two looks at the memory
Runs = dict[str, list[dict[str, Any]]]  # case -> what each of its runs reported


# In the measured process


class Clock:
    """CPU seconds from mark to mark, and the private memory (RssAnon) at the marks and between them."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.cpu = 0.0  # from the start of the process: the interpreter's own is part of the imports
        self.started = time.perf_counter()
        self.kernel = 0.0
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
        self.kernel = resource.getrusage(resource.RUSAGE_SELF).ru_stime
        self.started = time.perf_counter()

    def stop(self) -> dict[str, Any]:
        self.work_wall = time.perf_counter() - self.started
        self.kernel = resource.getrusage(resource.RUSAGE_SELF).ru_stime - self.kernel
        self.done.set()
        if self.sampler is not None:
            self.sampler.join()
        above = None if self.before is None or self.highest is None else self.highest - self.before
        return {
            "work_cpu_s": sum(seconds for phase, seconds in self.phases.items() if phase != "imports"),
            "work_kernel_s": self.kernel,
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


def ours(subject: Case, folder: Path, package: Path, clock: Clock, **options: Any) -> None:
    from milbuild.cli.imports import prepare

    prepare(configurations=True)  # as `milbuild build` does
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from milbuild import architectures
    from milbuild.program.builder import build

    # What `build` would import: the classes of the family and of its configuration, and the rules of lint.
    CONFIG_MAPPING[subject.model_type]
    architectures.find(subject.model_type)
    importlib.import_module("milbuild.linting")

    clock.imported()
    half = {"encoder": {"function": "encode"}, "decoder": {"function": "decode"}}.get(subject.half, {})
    model = build(folder, **{"task": subject.task} | subject.options | half | options)
    clock.mark("build")
    model.save(package)
    clock.mark("save")


def ranged(subject: Case, folder: Path, package: Path, clock: Clock) -> None:
    ours(subject, folder, package, clock, sequence_length=(1, 128))


def state(subject: Case, folder: Path, package: Path, clock: Clock) -> None:
    ours(subject, folder, package, clock, cache="state", sequence_length=1)


def prefill(subject: Case, folder: Path, package: Path, clock: Clock) -> None:
    ours(subject, folder, package, clock, cache="state", sequence_length=1, prefill_length=TOKENS)


def traced(subject: Case, folder: Path, package: Path, clock: Clock, *, export: bool = False) -> None:
    """With a mask and positions that are ready (see operations.py); coremltools as it comes, but for one fault of its with
    numpy 2.4 where the model does not convert otherwise."""
    import torch
    import transformers

    auto = getattr(transformers, subject.auto)
    auto._model_mapping[type(transformers.AutoConfig.from_pretrained(folder))]  # imports the class
    importlib.import_module("coremltools")
    clock.imported()
    # Other types of a checkpoint's weights coremltools does not convert (bfloat16), or fails on (float16, layer_norm).
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    clock.mark("load")
    module, example = operations.wrapped(subject, model)
    if export:
        with torch.no_grad():
            graph = torch.export.export(module, example).run_decompositions({})
        without_aliases(graph.graph_module.graph)
    else:
        graph = operations.trace(module, example)
    clock.mark("export" if export else "trace")
    with operations.mended():
        converted = operations.converted(subject, graph)
    clock.mark("convert")
    converted.save(str(package))
    clock.mark("save")


def without_aliases(graph: Any) -> None:
    """Takes away what coremltools 9.0 does not know (`Unsupported fx node alias`): other names of the same value."""
    for node in list(graph.nodes):
        if str(node.target) == "aten.alias.default":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def exported(subject: Case, folder: Path, package: Path, clock: Clock) -> None:
    traced(subject, folder, package, clock, export=True)


def floor(subject: Case, folder: Path, package: Path, clock: Clock) -> None:
    package.mkdir(parents=True, exist_ok=True)
    clock.imported()
    floor_.write(folder, package / "weight.bin")
    clock.mark("write")


def count_operations(package: Path) -> int:
    """The operations of the main function that are not constants, in blocks of blocks too."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    function = model.mlProgram.functions["main"]

    def count(block: Any) -> int:
        own: int = sum(operation.type != "const" for operation in block.operations)
        return own + sum(count(inner) for operation in block.operations for inner in operation.blocks)

    return count(function.block_specializations[function.opset])


RATIOS = (("traced", "ours"), ("exported", "ours"), ("ours", "floor"), ("ranged", "ours"), ("prefill", "state"))
CASES: dict[str, Callable[[Case, Path, Path, Clock], None]] = {
    "ours": ours,
    "floor": floor,
    "traced": traced,
    "exported": exported,
    "ranged": ranged,
    "state": state,
    "prefill": prefill,
}
# Checkpoint -> what is built of it.
SUBJECTS = {
    **{name: operations.CASES["gpt2"] for name in checkpoints.MODELS if name.startswith("gpt2")},
    **{name: operations.CASES["TinyLlama-1.1B"] for name in checkpoints.MODELS if name.startswith("llama")},
    "bert-base": operations.CASES["bert-base"]._replace(inputs={"input_ids": (1, TOKENS)}),
    "vit-base": operations.CASES["vit-base"],
    "whisper-base": operations.CASES["whisper-base's encoder"],
    "t5-small": operations.CASES["t5-small's decoder"]._replace(
        inputs={"decoder_input_ids": (1, TOKENS), "encoder_outputs": (1, TOKENS, 512)}
    ),
}
SMALL = ("gpt2", "bert-base", "vit-base", "whisper-base", "t5-small")
SCALE = ("gpt2", "gpt2-medium", "gpt2-large", "llama-0.1b", "llama-0.5b", "llama-1.1b", "llama-3b", "llama-7b")


def child(case: str, subject: str, folder: Path, package: Path) -> None:
    """Runs one case (or `count`, over a package that is there) and prints one line of JSON, whatever else gets printed."""
    if case == "count":
        result: dict[str, Any] = {"operations": count_operations(package)}
    else:
        clock = Clock()
        with redirect_stdout(sys.stderr):
            CASES[case](SUBJECTS[subject], folder, package, clock)
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
    Row("wall s, work", "work_wall_s", 2),
    Row("CPU s, whole process", "cpu_s", 2),
    Row("CPU s, imports", "imports_cpu_s", 2),
    Row("CPU s, work", "work_cpu_s", 2),
    Row("of that the kernel", "work_kernel_s", 2),
    Row("RssAnon MB, after the imports", "imports_rss_anon_mb", 1),
    Row("RssAnon MB, peak above that", "work_rss_anon_mb", 1),
    Row("peak RSS MB, mapped files too", "peak_rss_mb", 0),
    Row("operations", "operations", 0),
    Row("package bytes", "package_bytes", 0),
)


def run(case: str, subject: str, folder: Path, package: Path) -> dict[str, Any]:
    """One case in a fresh process: what it reports of itself, and what the system says of it once it is gone."""
    command = [sys.executable, __file__, "--child", case, subject, str(folder), str(package)]
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


def measure(subject: str, folder: Path, outputs: Path, cases: list[str], repeat: int) -> Runs:
    """Every run of every case, the cases taking turns."""
    runs: Runs = {case: [] for case in cases}
    packages = {case: outputs / f"{subject}-{case}.mlpackage" for case in cases}
    for turn in range(repeat):
        for case, package in packages.items():
            note(f"{subject}, {case}, {turn + 1} of {repeat}")
            runs[case].append(run(case, subject, folder, package))
    for case, package in packages.items():
        size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
        same = None if case == "floor" else run("count", subject, folder, package)["operations"]
        for report in runs[case]:
            report |= {"operations": same, "package_bytes": size}
        shutil.rmtree(package)
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


def table(columns: list[str], rows: list[list[str]]) -> Any:
    from rich import box
    from rich.table import Table

    # Between ASCII bars, so that it can be pasted into a Markdown page.
    made = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def show(title: str, runs: Runs, console: Any) -> None:
    ratios = [pair for pair in RATIOS if set(pair) <= set(runs)]
    rows = []
    for row in ROWS:
        values = {case: median(reports, row.key) for case, reports in runs.items()}
        cells = ["-" if value is None else f"{value:,.{row.digits}f}" for value in values.values()]
        sides = [(values[over], values[under]) for over, under in ratios]
        rows.append([row.label, *cells, *("-" if not (a and b) else f"{a / b:,.2f}" for a, b in sides)])
    columns = ["", *runs, *(" / ".join(pair) for pair in ratios)]
    console.print(f"{title}\n", table(columns, rows), highlight=False)
    for case, reports in runs.items():
        phases = [report["phases_cpu_s"] for report in reports]
        spelled = [f"{phase} {statistics.median(each[phase] for each in phases):.2f}" for phase in phases[0]]
        console.print(f"{case}, CPU s: {', '.join(spelled)}  ", highlight=False)
    console.print()


def scale(found: dict[str, tuple[int, int, Runs]], plot: Path | None, console: Any) -> None:
    """How time and memory grow with the bytes of a checkpoint, and how far that is from a straight line."""
    import numpy as np

    rows, points = [], []
    for name, (parameters, read, runs) in found.items():
        reports = runs["ours"]
        cpu, wall = median(reports, "work_cpu_s") or 0.0, median(reports, "work_wall_s") or 0.0
        points.append((read / 1e9, cpu))
        private, peak = median(reports, "work_rss_anon_mb"), median(reports, "peak_rss_mb")
        kernel = median(reports, "work_kernel_s") or 0.0
        rows.append([name, f"{parameters / 1e6:,.0f}", f"{read / 1e6:,.0f}", f"{cpu:.2f}", f"{kernel:.2f}", f"{wall:.2f}",
                     "-" if private is None else f"{private:.1f}", f"{peak:,.0f}"])  # fmt: skip
    columns = [
        "",
        "million parameters",
        "MB read",
        "CPU s, work",
        "of that the kernel",
        "wall s, work",
        "RssAnon MB, above imports",
        "peak RSS MB",
    ]
    console.print(table(columns, rows), highlight=False)
    x, y = np.array(points).T
    if len(points) > 2:
        slope, constant = np.polyfit(x, y, 1)
        fit = 1 - ((y - slope * x - constant) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        console.print(f"{slope:.2f} s of CPU a GB read, and {constant:.2f} s; R² {fit:.4f}\n", highlight=False)
    if plot is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.loglog(x, y, "o", color="#4c72b0")
        axes.margins(x=0.15)  # room for the last name
        for name, at, cpu in zip(found, x, y, strict=True):
            axes.annotate(name, (at, cpu), xytext=(6, -3), textcoords="offset points", fontsize=8)
        if len(points) > 2:
            line = np.geomspace(x.min(), x.max(), 100)
            axes.loglog(
                line, slope * line + constant, color="#999999", linewidth=1, label=f"straight line, R² {fit:.4f}"
            )
            axes.legend(frameon=False)
        axes.set(xlabel="GB of the checkpoint", ylabel="seconds of CPU, build and save")
        figure.savefig(plot)


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(
        description="Measures what a build costs, against tracing or exporting and coremltools.convert."
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"{', '.join(SUBJECTS)} (default: {', '.join(SMALL)})"
    )
    parser.add_argument(
        "--cases", default="ours,traced", help=f"{', '.join(CASES)} (default: ours,traced; of gpt2 all)"
    )
    parser.add_argument("--dtype", choices=checkpoints.DTYPES, help="the checkpoint's type")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case (default: 3)")
    parser.add_argument(
        "--scaling", action="store_true", help=f"ours alone, time against bytes (default: {', '.join(SCALE)})"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="of --scaling, as svg, png or pdf")
    parser.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="where checkpoints and packages are made meanwhile"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run to FILE")
    parser.add_argument("--child", nargs=4, metavar=("CASE", "MODEL", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case, subject, folder, package = arguments.child
        return child(case, subject, Path(folder), Path(package))
    if arguments.repeat < 1:
        parser.error("--repeat is 1 or more")
    if arguments.plot and not arguments.scaling:
        parser.error("--plot draws --scaling")
    if unknown := [name for name in arguments.models if name not in SUBJECTS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    if unknown := [name for name in arguments.cases.split(",") if name not in CASES]:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(CASES)}")

    console, found = Console(width=200), {}
    for name in arguments.models or (SCALE if arguments.scaling else SMALL):
        cases = (
            list(CASES)
            if name == "gpt2" and arguments.cases == parser.get_default("cases")
            else arguments.cases.split(",")
        )
        with tempfile.TemporaryDirectory(prefix="milbuild-benchmark-", dir=arguments.scratch) as scratch:
            folder = Path(scratch) / name
            note(f"making {name}")
            parameters = checkpoints.make(name, folder, arguments.dtype)
            read = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            runs = measure(name, folder, Path(scratch), ["ours"] if arguments.scaling else cases, arguments.repeat)
        found[name] = parameters, read, runs
        if not arguments.scaling:
            show(f"{name}, {parameters / 1e6:,.0f} million parameters, medians of {arguments.repeat}", runs, console)
    if arguments.scaling:
        scale(found, arguments.plot, console)
    console.print(machine(), highlight=False, soft_wrap=True)
    if arguments.json:
        written = {name: {"parameters": each[0], "bytes": each[1], "runs": each[2]} for name, each in found.items()}
        arguments.json.write_text(json.dumps({"machine": machine(), "models": written}, indent=2) + "\n")


if __name__ == "__main__":
    main()
