"""That what is written is the same however it is written, and that nothing is lost whatever happens meanwhile."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import milbuild
from milbuild import architectures
from milbuild.lowering import blob, temporary
from tests.conftest import checkpoint
from tests.helpers.command_line import ROOT
from tests.tiny import TABLE, VISION

KILLS = 200
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def contents(package: Path) -> dict[str, bytes]:
    return {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*") if file.is_file()}


def run(script: str, *arguments: Any, hash_seed: int = 0, cwd: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=environment,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The same bytes


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        pytest.param(name, entry.tasks[0], marks=[] if name in ("gpt2", "llama", "vit") else [pytest.mark.all])
        for name, entry in architectures.SUPPORTED.items()
    ],
)
def test_what_goes_on_beside_does_not_show(
    model_type: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a disk that is set to work behind every piece, at the end only, and again for a file that does not stay in memory."""
    size: dict[str, Any] = {"image_size": TABLE[model_type].size} if TABLE[model_type].kind == VISION else {}
    for number, (flushed, large) in enumerate(((1, blob.LARGE), (blob.FLUSHED, blob.LARGE), (1, 0))):
        monkeypatch.setattr(blob, "FLUSHED", flushed)
        monkeypatch.setattr(blob, "LARGE", large)
        milbuild.build(checkpoint(model_type, task), task=task, postprocess=False, **size).save(
            tmp_path / f"{number}.mlpackage"
        )
    first, *others = [contents(tmp_path / f"{number}.mlpackage") for number in range(3)]
    assert all(other == first for other in others)


def test_places_and_hash_seeds_do_not_show(tmp_path: Path) -> None:
    """Processes with other seeds, in other folders, from copies of the checkpoint elsewhere."""
    script = """
        import sys, milbuild
        milbuild.build(sys.argv[1], cache="state", prefill_length=4).save(sys.argv[2])
    """
    processes = []
    for number in range(3):
        here = tmp_path / ("here" * (number + 1))
        shutil.copytree(checkpoint(), here / "checkpoint" / "c")
        processes.append(run(script, "checkpoint/c", "out.mlpackage", hash_seed=number * 77, cwd=here))
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    first, *others = [contents(here / "out.mlpackage") for here in tmp_path.iterdir()]
    assert all(other == first for other in others)


# Killed

# For each line of standard input a copy of this process that builds (or only saves) a package onto the path.
BUILDER = """
    import os, sys, milbuild
    source, target = sys.argv[1:]
    models = [milbuild.build(source, sequence_length=5 + n) for n in (0, 1)]
    for line in sys.stdin:
        whole, n = map(int, line.split())
        child = os.fork()
        if not child:
            (milbuild.build(source, sequence_length=5 + n) if whole else models[n]).save(target)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("done", flush=True)
"""
IN_STEPS = "from milbuild.lowering import temporary; temporary._exchange = temporary._exchange_in_steps"


@pytest.mark.parametrize(
    "exchanges", [pytest.param(True, id="in one step"), pytest.param(False, id="in steps", marks=pytest.mark.all)]
)
def test_killed_at_any_moment(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at 200 moments of building and of writing: a whole package stands there, and the next build takes away what is
    beside it. Where the file system cannot exchange two names in one step, it first puts the old package back."""
    source, target, wholes = checkpoint(), tmp_path / "out" / "x.mlpackage", []
    target.parent.mkdir()
    if exchanges and not _exchanged(tmp_path, monkeypatch):
        pytest.skip("this file system cannot exchange two names in one step")
    for length in (5, 6):
        milbuild.build(source, sequence_length=length).save(tmp_path / "whole.mlpackage")
        wholes.append(contents(tmp_path / "whole.mlpackage"))
    process = run(("" if exchanges else IN_STEPS) + textwrap.dedent(BUILDER), source, target)
    assert process.stdin is not None
    assert process.stdout is not None

    def build(whole: bool, number: int, after: float) -> float:
        print(int(whole), number, file=process.stdin, flush=True)
        child, started = int(process.stdout.readline()), time.perf_counter()
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL) if after else None
        assert process.stdout.readline() == "done\n"
        return time.perf_counter() - started

    takes = {whole: max(build(whole, 0, 0) for _ in range(2)) for whole in (True, False)}
    moments, killed = random.Random(7), Counter[str]()
    for number in itertools.count():
        if number >= KILLS and sum(killed[left] for left in killed if left) > KILLS / 20:
            break  # enough of them in the middle of writing, however long that takes on this machine
        whole = number % 4 == 0
        build(whole, number % 2, moments.uniform(1e-4, 1.1) * takes[whole])
        left = sorted(path.name.rpartition(".")[2] for path in target.parent.iterdir() if path != target)
        killed[" ".join(left)] += 1
        if target.exists():
            assert contents(target) in wholes
        else:
            assert not exchanges
            (aside,) = target.parent.glob(".*.replaced")
            assert contents(aside) in wholes
    assert max(len(left.split()) for left in killed) <= (1 if exchanges else 2)
    build(False, 1, 0)
    assert list(target.parent.iterdir()) == [target]
    assert contents(target) == wholes[1]
    process.communicate()


def _exchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether two names can change places there in one step."""
    (folder / "one").mkdir()
    (folder / "other").touch()
    taken: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(temporary, "_exchange_in_steps", lambda one, other: taken.append(one))
        temporary._exchange(folder / "one", folder / "other")
    assert taken or (folder / "other").is_dir()
    return not taken


def test_what_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    """Between the two steps of a file system that cannot do both in one."""
    target = tmp_path / "x.mlpackage"
    made = _left(tmp_path, "x")
    made.with_suffix(".replaced").mkdir()
    (made.with_suffix(".replaced") / "old").touch()
    with temporary.Folder(target):
        assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["x.mlpackage"]


def _left(folder: Path, name: str, *, host: str | None = None, old: bool = False) -> Path:
    """What a build that was killed leaves of `name`."""
    made = folder / f".{name}.mlpackage.{host or temporary._host()}0123abcd.partial"
    (made / "Data").mkdir(parents=True)
    (made / "Data" / "weight.bin").write_bytes(b"half")
    for path in (made / "Data" / "weight.bin", made / "Data", made):
        os.utime(path, (0, 0)) if old else None
    return made


def test_what_was_killed_goes_with_any_build_into_the_folder(tmp_path: Path) -> None:
    """Whatever name it was for, and however young it is; but not what another process is still writing."""
    for name in ("x", "y", "a name. with dots"):
        _left(tmp_path, name)
    (tmp_path / f".z.mlpackage.{temporary._host()}0123abcd.replaced").mkdir()
    with temporary.Folder(tmp_path / "other.mlpackage") as working:
        process = run(
            "import sys, milbuild; milbuild.build(sys.argv[1], sequence_length=4).save(sys.argv[2])",
            checkpoint(),
            tmp_path / "x.mlpackage",
        )
        _, err = process.communicate()
        assert process.returncode == 0, err
        assert sorted(os.listdir(tmp_path)) == sorted([working.name, "x.mlpackage", "z.mlpackage"])
    assert sorted(os.listdir(tmp_path)) == ["x.mlpackage", "z.mlpackage"]


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path: Path) -> None:
    """Its locks may not be seen on a drive that both share."""
    host = next(name for name in ("0000", "1111") if name != temporary._host())
    young, _ = _left(tmp_path, "x", host=host), _left(tmp_path, "y", host=host, old=True)
    with temporary.Folder(tmp_path / "x.mlpackage"):
        pass
    assert list(tmp_path.iterdir()) == [young]


def test_names_that_others_made_are_left_alone(tmp_path: Path) -> None:
    host = temporary._host()
    names = [
        ".x.mlpackage.partial",
        ".x.mlpackage.mine.partial",
        f".x.mlmodel.{host}0123abcd.partial",
        f".x.mlpackage.{host}0123abcd.part",
        f"x.mlpackage.{host}0123abcd.partial",
        "x.mlpackage.partial",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    milbuild.build(checkpoint(), sequence_length=4).save(tmp_path / "x.mlpackage")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "x.mlpackage"])


# Several at once

# Imports once what a build imports; then three processes, of other lengths, build and save at the same time.
AT_ONCE = """
    import os, sys, traceback, milbuild, milbuild.program.builder, milbuild.architectures.gpt2
    children = []
    for length in (5, 6, 7):
        if child := os.fork():
            children.append(child)
            continue
        try:
            exec(sys.argv.pop())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def at_once(script: str, *arguments: Any) -> str:
    process = run(AT_ONCE, *arguments, textwrap.dedent(script))
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_builds_onto_one_path_at_once(tmp_path: Path) -> None:
    """Where packages are replaced each is done without an error, whoever is last stays, and what the other is still writing is
    not taken away."""
    target = tmp_path / "out" / "x.mlpackage"
    target.parent.mkdir()
    script = """
        model = milbuild.build(sys.argv[1], sequence_length=length)
        for _ in range(30):
            model.save(sys.argv[2])
    """
    wholes = []
    for length in (5, 6, 7):
        milbuild.build(checkpoint(), sequence_length=length).save(tmp_path / "whole.mlpackage")
        wholes.append(contents(tmp_path / "whole.mlpackage"))
    at_once(script, checkpoint(), target)
    assert list(target.parent.iterdir()) == [target]
    assert contents(target) in wholes


def test_builds_onto_one_new_path_at_once(tmp_path: Path) -> None:
    """Where packages are not replaced, one of them is done, and the others are told that it is there."""
    target = tmp_path / "out" / "x.mlpackage"
    target.parent.mkdir()
    script = """
        models = [milbuild.build(sys.argv[1], sequence_length=length) for _ in range(20)]
        for number, model in enumerate(models):
            try:
                model.save(f"{sys.argv[2]}/{number}.mlpackage", replace=False)
                os.write(1, f"{number}\\n".encode())  # whole lines of three processes
            except milbuild.Error as error:
                assert "exists" in str(error), error
    """
    done = list(map(int, at_once(script, checkpoint(), target.parent).split()))
    assert sorted(done) == list(range(20))
    assert len(os.listdir(target.parent)) == 20


# Files that change


def _truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 3)


def _emptied(file: Path) -> None:
    os.truncate(file, 0)


def _written(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-8, os.SEEK_END)
        opened.write(bytes(8))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))  # a clock that ticks slowly


@pytest.mark.parametrize("change", [_truncated, _emptied, _written])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_checkpoint_that_changes_while_it_is_read(model_type: str, change: Any, tmp_path: Path) -> None:
    """gpt2's matrices are transposed on the way, llama's are not. A mapping would end the process."""
    source = shutil.copytree(checkpoint(model_type), tmp_path / "c")
    target = tmp_path / "x.mlpackage"
    milbuild.build(source, sequence_length=4).save(target)
    before = contents(target)
    model = milbuild.build(source, sequence_length=5)
    with pytest.raises(milbuild.Error, match=r"model\.safetensors was changed while it was read"):
        model.save(target, progress=lambda done, total: change(source / "model.safetensors"))
    assert contents(target) == before
    assert sorted(os.listdir(tmp_path)) == ["c", "x.mlpackage"]


def test_a_checkpoint_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """A file that is open outlives its name."""
    source = shutil.copytree(checkpoint(), tmp_path / "c")
    model = milbuild.build(source, sequence_length=5)
    shutil.rmtree(source)
    model.save(tmp_path / "x.mlpackage")
    milbuild.build(checkpoint(), sequence_length=5).save(tmp_path / "y.mlpackage")
    one, other = (contents(tmp_path / name)[WEIGHTS] for name in ("x.mlpackage", "y.mlpackage"))
    assert one == other
