"""Ctrl-C and SIGTERM at every kind of moment of every command: never ignored, no traceback, nothing left behind, nothing lost."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import milbuild
from milbuild.io import cleanup
from milbuild.lowering import temporary
from tests.helpers import checkpoints_by_hand as by_hand
from tests.helpers.command_line import ENVIRONMENT, CommandLine
from tests.test_messages import TOKENIZER

TRIES = 300
TORCH_EXIT = "_remote_module_non_scriptable"
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
COMMANDS = {
    "build": "build c x.mlpackage --force",
    "build, new": "build c y.mlpackage --cache state --prefill-length 4",
    "validate": "validate p.mlpackage c --plot picture.svg",
    "generate": "generate p.mlpackage --tokenizer c --prompt w1",
    "inspect": "inspect p.mlpackage --graph picture.svg",
    "lint": "lint p.mlpackage",
    "profile": "profile p.mlpackage --repeat 1 --plot picture.svg",
    "demo": "demo --keep y.mlpackage",
}


@pytest.fixture(scope="module")
def temporaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands have their temporary files, and nobody else."""
    return tmp_path_factory.mktemp("temporaries")


@pytest.fixture(scope="module")
def command(temporaries: Path) -> Iterator[CommandLine]:
    if sys.platform == "darwin":
        pytest.skip("Apple's frameworks do not survive a fork, and a cold start for each moment takes minutes")
    with CommandLine(TMPDIR=str(temporaries)) as line:
        yield line


@pytest.fixture(scope="module")
def playing(command: CommandLine, temporaries: Path) -> Iterator[CommandLine]:
    """The command line of what needs PyTorch."""
    with CommandLine(torch=True, OMP_NUM_THREADS="1", TMPDIR=str(temporaries)) as line:
        yield line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer, a package to look at and one to replace, a picture to replace."""
    by_hand.checkpoint(tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "c" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    milbuild.build(tmp_path / "c", sequence_length=8).save(tmp_path / "p.mlpackage")
    milbuild.build(tmp_path / "c", sequence_length=4).save(tmp_path / "x.mlpackage")
    (tmp_path / "picture.svg").write_text("mine")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.all)], ids=["some", "every"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.all] if name == "demo" else []) for name in COMMANDS]
)
def test_at_what_python_audits(
    name: str, every: bool, command: CommandLine, playing: CommandLine, folder: Path, temporaries: Path
) -> None:
    """At files that are opened, folders that are made and renamed, modules that are imported. The moments are counted, no clock
    is asked."""
    arguments = COMMANDS[name].split()
    command = command if name.startswith(("build", "lint")) else playing
    before = contents(folder)
    # torch 2.6 removes a file of its own at exit, when the exit code is decided.
    events = list(itertools.takewhile(lambda event: TORCH_EXIT not in event, command.events(*arguments, cwd=folder)))
    after = contents(folder)
    assert len(events) > 10
    writing = [
        number
        for number, event in enumerate(events)
        if event.startswith(("os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "ctypes.dlsym"))
        or (".partial" in event and not event.startswith("os.listdir"))
    ]
    others = random.Random(0).sample(range(len(events)), 2 if not every else min(20, len(events)))
    moments = sorted({*others, *(writing if every else writing[:: max(1, len(writing) // 6)])})
    last = max(
        (number for number, event in enumerate(events) if event.startswith(("os.rename", "ctypes.dlsym"))), default=-1
    )
    for moment in moments:
        for path in folder.glob("y.mlpackage"):
            shutil.rmtree(path)
        for number in (signal.SIGINT, signal.SIGTERM) if moment == moments[-1] else (signal.SIGINT,):
            _restore(folder, before)
            result = command(*arguments, cwd=folder, interrupt=(moment, number))
            where = f"{name}, {moment} of {len(events)}: {events[moment]}"
            assert result.code == 128 + number, (where, result.err)
            assert result.err.endswith(f"\nerror: {SAID[number]}; nothing half-written was left behind\n"), where
            assert "Traceback" not in result.err, where
            found = contents(folder)
            # Behind the last renaming the work is done.
            assert found == before or (moment > last and found.keys() == after.keys()), (where, found.keys())
    assert not list(temporaries.glob("milbuild-*"))


def _restore(folder: Path, before: dict[str, bytes | None]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if (name := str(path.relative_to(folder))) not in before:
            path.rmdir() if path.is_dir() else path.unlink()
        elif before[name] is not None and path.read_bytes() != before[name]:
            path.write_bytes(before[name] or b"")


@pytest.mark.parametrize("number", SAID)
def test_where_an_exception_would_be_lost(number: signal.Signals, command: CommandLine, folder: Path) -> None:
    """Python prints and forgets what a destructor raises, and libraries catch everything: the signal ends the process there."""
    first = f"""
import signal
from milbuild.lowering import temporary
put = temporary.put
class Bell:
    def __del__(self):
        signal.raise_signal({int(number)})
def late(*arguments):
    Bell()
    put(*arguments)
temporary.put = late
"""
    before = contents(folder)
    arguments = ("build", "c", "x.mlpackage", "--force", "--sequence-length", "5")
    result = command(*arguments, cwd=folder, first=first, interrupt=(-1, number))
    assert (result.code, result.out) == (128 + number, "")
    assert result.err == f"\nerror: {SAID[number]}; nothing half-written was left behind\n"
    assert contents(folder) == before


@pytest.mark.parametrize("step", ["os.rename", "temporary._put_back"])
def test_between_two_steps(step: str, command: CommandLine, folder: Path) -> None:
    """Where two names cannot be exchanged in one step, what was moved aside is put back."""
    first = f"""
import os, signal
from milbuild.lowering import temporary
temporary._exchange = temporary._exchange_in_steps
real = {step}
def late(*arguments):
    real(*arguments)
    if ".replaced" in str(arguments):
        signal.raise_signal(signal.SIGINT)
{step} = late
"""
    before = contents(folder)
    arguments = ("build", "c", "x.mlpackage", "--force", "--sequence-length", "5")
    result = command(*arguments, cwd=folder, first=first, interrupt=(-1, signal.SIGINT))
    assert result.code == 130, result.err
    found = contents(folder)
    assert found.keys() == before.keys()
    assert (found == before) == (step == "os.rename")


def test_ctrl_c_that_is_ignored_stays_ignored(command: CommandLine, folder: Path) -> None:
    """As a shell wants it of what it starts in the background."""
    first = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    result = command("lint", "p.mlpackage", cwd=folder, first=first, interrupt=(20, signal.SIGINT))
    assert result.code == 0, result.err


@pytest.mark.parametrize("moment", ["mkdir", "open", "flock", "lexists"])
def test_of_a_library(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own KeyboardInterrupt, between the making of the folder and the work in it."""
    others = set(cleanup._removals)  # of models that other tests still hold
    owner = {"mkdir": Path, "open": os, "flock": temporary.fcntl, "lexists": os.path}[moment]
    real = getattr(owner, moment)

    def late(*arguments: object, **options: object) -> object:
        found = real(*arguments, **options)
        if ".partial" in str(arguments[0]) or moment == "flock":
            monkeypatch.undo()
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(owner, moment, late)
    with pytest.raises(KeyboardInterrupt), temporary.Folder(tmp_path / "x.mlpackage"):
        pytest.fail("it was not interrupted")
    assert os.listdir(tmp_path) == []
    assert set(cleanup._removals) <= others


COLD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv, seen = ["milbuild", "lint", "nowhere.mlpackage"], 0
def see(name, arguments):
    global seen
    # main has set its handler when it looks for errors
    if name == "import" and (seen or signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
        seen += 1
        if seen == AT:
            signal.raise_signal(signal.SIGINT)
from milbuild.cli import main
sys.addaudithook(see)
main()
"""


@pytest.mark.parametrize("at", [1, 2, 4, 7, 12, 20, 40, 60, 80, 120, 160])
def test_in_the_middle_of_an_import(at: int, folder: Path) -> None:
    """Of a process that starts from nothing: what the handler needs may itself be half imported."""
    done = subprocess.run(
        [sys.executable, "-c", COLD.replace("AT", str(at))],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "\nerror: interrupted; nothing half-written was left behind\n"


# In time

START = (
    "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); os.write(1, b'x'); "
    "from milbuild.cli import main; main()"
)


@pytest.mark.all
def test_at_any_moment_of_a_build(folder: Path) -> None:
    """300 moments of whole builds that replace a package. Stopped there, the process is looked at before the signal comes."""
    target = folder / "x.mlpackage"

    def build(after: float | None) -> tuple[float, int | None, int, str]:
        arguments = [sys.executable, "-c", START, "build", "c", "x.mlpackage", "--force"]
        process = subprocess.Popen(
            arguments, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.read(1)
        started, before = time.perf_counter(), None
        if after is not None:
            time.sleep(after)
            process.send_signal(signal.SIGSTOP)
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED:
                    before = target.stat().st_ino
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
        _, err = process.communicate()
        return time.perf_counter() - started, before, process.returncode, err

    takes = max(build(None)[0] for _ in range(3))
    old, moments, ended = target.stat().st_ino, random.Random(7), Counter[str]()
    for _ in range(TRIES):
        at = moments.uniform(0, takes)
        _, before, code, err = build(at)
        now = target.stat().st_ino
        if before != old:
            ended["behind the last rename"] += 1
        else:
            # Before main has been called, Python's own handler ends the process.
            ended["interrupted" if code == 130 else "by Python"] += 1
            assert code in (130, -signal.SIGINT), (at, code, err)
            assert "Traceback" not in err or code < 0, (at, err)
            assert now == old, at
        assert os.listdir(folder).count("x.mlpackage") == 1
        assert not [name for name in os.listdir(folder) if ".partial" in name], at
        old = now
    assert ended["interrupted"] > TRIES / 2, ended
    assert ended["by Python"] < TRIES / 10, ended  # a share of the build's time, whatever the machine does beside it
