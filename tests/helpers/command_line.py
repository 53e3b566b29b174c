"""The command line in a process of its own. Needs nothing but Python."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# Imports once what every build imports, as the command line itself does, then gives each command line a process of its own
# that is a copy of this one: fifty milliseconds instead of three seconds. `hide` makes packages impossible to import.
SERVER = """
import atexit, gc, json, os, signal, sys, traceback
from milbuild.cli import imports, main
imports.prepare(configurations=True)
import milbuild.program.builder, milbuild.cli.app, milbuild.generation.text, milbuild.inspection
import huggingface_hub.errors, rich.console, rich.table, rich.status
import milbuild.architectures.gpt2, transformers.models.gpt2.configuration_gpt2
try:
    milbuild.cli.app.app(["build", "--batch-size", "1", "c", "nowhere/c.mlpackage"], standalone_mode=False)
except milbuild.Error:
    pass  # typer imports the rest of itself when it is first used

def end(main):
    try:
        main()
    except SystemExit as exit:
        code = exit.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    # As an interpreter ends, but for the second that it takes to give every module's memory back.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def watch(file, at):
    # Writes down what Python audits from here on (files opened, made, renamed, modules imported), and is interrupted at one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    told = os.open(file, os.O_WRONLY | os.O_APPEND)
    count = -1

    def see(name, arguments):
        nonlocal count
        if name.startswith(("os.", "open", "import", "shutil.", "ctypes.dlsym")):
            count += 1
            if at is None:
                os.write(told, (" ".join([name, *map(str, arguments[:2])]).replace("\\n", " ") + "\\n").encode())
            elif count == at[0]:
                signal.raise_signal(at[1])
    sys.addaudithook(see)

answers = os.fdopen(os.dup(1), "w")
gc.freeze()
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
            os.dup2(os.open(name, os.O_RDWR), number)
        answers.close()
        os.chdir(request["cwd"])
        sys.modules.update(dict.fromkeys(request["hide"]))
        if request["file_size"]:
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
        sys.argv = ["milbuild", *request["arguments"]]
        if request["watch"]:
            watch(request["watch"], request["interrupt"])
        exec(request["first"])
        end(main)
    status = os.waitpid(child, 0)[1]
    print(json.dumps(os.waitstatus_to_exitcode(status)), file=answers, flush=True)
"""

CHANGED = (
    "import runpy, sys; {limit}sys.modules.update(dict.fromkeys({hidden!r})); "
    "runpy.run_module('milbuild', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Result:
    """What a command line did: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def run(
    *arguments: Any, cwd: Path | None = None, hide: tuple[str, ...] = (), file_size: int = 0, **environment: str
) -> Result:
    """`python -m milbuild arguments` in a process that starts from nothing.

    Packages in `hide` cannot be imported there; no file may grow beyond `file_size` bytes, if that is not 0.
    """
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({file_size},) * 2); " if file_size else ""
    start = ["-c", CHANGED.format(hidden=hide, limit=limit)] if hide or file_size else ["-m", "milbuild"]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        cwd=cwd or ROOT,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class CommandLine:
    """`python -m milbuild` many times at the price of few: see SERVER. Call it like `run`."""

    def __init__(self, torch: bool = False, **environment: str) -> None:
        """`environment` is that of every command line: huggingface_hub reads its own variables only once. `torch`: for
        commands that compare or predict, which a process that was prepared for builds alone cannot."""
        self._server: subprocess.Popen[str] | None = None
        prepare = "imports.prepare()\nimport torch, matplotlib.figure, milbuild.validation\n"
        prepare += "import transformers.models.gpt2.modeling_gpt2"
        self._script = SERVER.replace("imports.prepare(configurations=True)", prepare) if torch else SERVER
        self._environment = environment

    def __enter__(self) -> "CommandLine":
        if sys.platform != "darwin":  # Apple's frameworks do not survive a fork
            self._server = subprocess.Popen(
                [sys.executable, "-c", self._script],
                cwd=ROOT,
                env=ENVIRONMENT | self._environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._server is not None:
            self._server.communicate()

    def __call__(
        self,
        *arguments: Any,
        cwd: Path | None = None,
        hide: tuple[str, ...] = (),
        file_size: int = 0,
        interrupt: tuple[int, int] | None = None,
        first: str = "",
    ) -> Result:
        """Like `run`. `interrupt`: the number of something that Python audits (see `events`), and the signal that is raised
        there; `first`: Python that is run before the command line."""
        if self._server is None:
            return run(*arguments, cwd=cwd, hide=hide, file_size=file_size, **self._environment)
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            request = {
                "arguments": [str(argument) for argument in arguments],
                "cwd": str(cwd or ROOT),
                "hide": hide,
                "file_size": file_size,
                "stdout": out.name,
                "stderr": err.name,
                "watch": None if interrupt is None else os.devnull,
                "interrupt": interrupt,
                "first": first,
            }
            return Result(self._ask(request), out.read().decode(), err.read().decode())

    def events(self, *arguments: Any, cwd: Path) -> list[str]:
        """What Python audits while a command line runs."""
        with tempfile.NamedTemporaryFile() as told:
            request = {
                "arguments": [str(argument) for argument in arguments],
                "cwd": str(cwd),
                "hide": (),
                "file_size": 0,
            }
            request |= {"stdout": os.devnull, "stderr": os.devnull, "watch": told.name, "interrupt": None, "first": ""}
            assert self._ask(request) == 0
            return told.read().decode().splitlines()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, "the server of command lines has ended"
        return int(json.loads(answer))


# What the tests' own process may have set must not change what a user's command line does.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE", "TRANSFORMERS"))},
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "TERM": "dumb",
    "PYTHONPATH": str(ROOT),
}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything under a folder, hidden or not, with its size and time: what has to be the same before and after."""
    return {
        str(path.relative_to(folder)): (0, 0) if path.is_dir() else (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(result: Result, *words: str, hint: str | None = None) -> None:
    """Exit code 2, the reason on stderr as a person reads it, nothing on stdout, and no traceback."""
    text = " ".join(result.err.split())
    assert "Traceback" not in result.err, result.err
    assert result.code == 2, (result.code, result.err)
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"
    if hint is not None:
        assert "hint: " in text, f"no hint in {text!r}"
        assert hint in text.split("hint: ", 1)[1], f"{hint!r} is not in the hint of {text!r}"
