"""The command line's own manners: help, output for machines, exit codes, and how soon it answers."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import milbuild
from milbuild import architectures, tasks
from milbuild.cli.app import app
from milbuild.program.options import table
from tests.helpers import checkpoints_by_hand as by_hand
from tests.helpers.command_line import ENVIRONMENT, ROOT, CommandLine, assert_refused, files, run

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint `c` and packages of it: `p.mlpackage`, and `s.mlpackage` with a state and two functions."""
    folder = tmp_path_factory.mktemp("cli")
    by_hand.checkpoint(folder / "c")
    milbuild.build(folder / "c").save(folder / "p.mlpackage")
    milbuild.build(folder / "c", cache="state", prefill_length=8).save(folder / "s.mlpackage")
    return folder


# Help


def test_the_commands() -> None:
    assert set(COMMANDS) == {
        "build",
        "validate",
        "generate",
        "inspect",
        "lint",
        "profile",
        "translate",
        "list",
        "demo",
        "new",
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command(name: str, command: CommandLine) -> None:
    """Exit code 0, every option with a text of its own, on stdout."""
    result = command(name, "--help")
    assert (result.code, result.err) == (0, "")
    for parameter in COMMANDS[name].params:
        shown = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
        lines = [line for line in result.out.splitlines() if re.search(rf"(^|\s){re.escape(shown)}(\s|$)", line)]
        assert lines, f"{shown} is not in the help of {name}:\n{result.out}"
    assert COMMANDS[name].help.splitlines()[0] in " ".join(result.out.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_help_names_every_command(command: CommandLine) -> None:
    result = command("--help")
    assert (result.code, result.err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b\s+[A-Z]", result.out), name


def test_no_command_shows_the_help(command: CommandLine) -> None:
    """And it is an error, as in every tool: a script that forgot the command must not go on."""
    result = command()
    assert "Traceback" not in result.err
    assert "Usage" in result.out + result.err
    assert result.code == 2


def test_version(command: CommandLine) -> None:
    result = command("--version")
    assert (result.code, result.out, result.err) == (0, f"milbuild {milbuild.__version__}\n", "")


def test_python_m(folder: Path) -> None:
    """`python -m milbuild` and the installed script are the same program; it starts from nothing."""
    result = run("list", "--json")
    assert result.code == 0
    assert json.loads(result.out)
    script = Path(sys.executable).with_name("milbuild")
    if script.exists():
        done = subprocess.run([script, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, done.stdout) == (0, f"milbuild {milbuild.__version__}\n")


# What cannot be understood


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "c", "out.mlpackage", "--colour", "red"), "--colour"),
        (("build", "c", "out.mlpackage", "--precison", "float32"), "--precison"),
        (("build", "c", "out.mlpackage", "extra"), "extra"),
        (("build", "c"), "OUTPUT"),
        (("build",), "SOURCE"),
        (("build", "c", "out.mlpackage", "--batch-size", "two"), "'--batch-size'"),
        (("build", "c", "out.mlpackage", "--batch-size", "1.5"), "'--batch-size'"),
        (("build", "c", "out.mlpackage", "--batch-size"), "--batch-size"),
        (("build", "c", "out.mlpackage", "--prefill-length", "x"), "'--prefill-length'"),
        (("bild",), "bild"),
        (("--nonsense",), "--nonsense"),
        (("list", "--colour"), "--colour"),
        (("inspect",), "PACKAGE"),
        (("lint",), "PACKAGE"),
        (("generate", "p.mlpackage", "--tokenizer", "c", "--prompt", "x", "--temperature", "hot"), "'--temperature'"),
        (("generate", "p.mlpackage", "--audio"), "--audio"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage(arguments: tuple[str, ...], words: str, command: CommandLine, folder: Path) -> None:
    """Exit code 2, the word that was not understood, no traceback, and nothing done."""
    before = files(folder)
    result = command(*arguments, cwd=folder)
    assert "Traceback" not in result.err, result.err
    assert (result.code, result.out) == (2, "")
    assert words.lower() in result.err.lower()
    assert files(folder) == before


def test_usage_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = run("build", "c", "out.mlpackage", "--colour", "red", cwd=tmp_path)
    assert "Traceback" not in result.err, result.err
    assert (result.code, result.out) == (2, "")
    assert "--colour" in result.err


def test_refusal_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What the other tests see through a copy of a warm process, once from a cold one."""
    by_hand.checkpoint(tmp_path / "c", config={"model_type": "gpt-2"})
    before = files(tmp_path)
    assert_refused(run("build", "c", "out.mlpackage", cwd=tmp_path), "'gpt-2'", hint="gpt2")
    assert files(tmp_path) == before


# Output for machines


def test_list_json(command: CommandLine) -> None:
    result = command("list", "--json")
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)
    assert [row["model_type"] for row in rows] == sorted(architectures.SUPPORTED)
    for row in rows:
        assert row.keys() == {"model_type", "tasks", "caches"}
        assert row["tasks"] == list(architectures.SUPPORTED[row["model_type"]].tasks)
        assert row["caches"] == sorted(
            {c for task in row["tasks"] for c in tasks.caches(task, architectures.SUPPORTED[row["model_type"]].decoder)}
        )


def test_list_for_people(command: CommandLine) -> None:
    result = command("list")
    assert (result.code, result.err) == (0, "")
    assert [line.split()[0] for line in result.out.splitlines()] == sorted(architectures.SUPPORTED)


def test_build_json(command: CommandLine, folder: Path, tmp_path: Path) -> None:
    """One JSON object on stdout and nothing else there: what was built, as `inspect` describes it."""
    package = tmp_path / "out.mlpackage"
    result = command("build", "c", package, "--cache", "state", "--prefill-length", "4", "--json", cwd=folder)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["package"] == str(package)
    assert answer["seconds"] >= 0
    assert set(answer["functions"]) == {"main", "prefill"}
    described = json.loads(command("inspect", package, "--json").out)
    assert answer.items() >= described.items()


def test_build_adds_the_suffix(command: CommandLine, folder: Path, tmp_path: Path) -> None:
    result = command("build", folder / "c", "gpt2", "--json", cwd=tmp_path)
    assert json.loads(result.out)["package"] == "gpt2.mlpackage"
    assert os.listdir(tmp_path) == ["gpt2.mlpackage"]


def test_build_for_people(command: CommandLine, folder: Path, tmp_path: Path) -> None:
    """Notes go to stderr: stdout stays empty for a pipe."""
    result = command("build", folder / "c", "out.mlpackage", cwd=tmp_path)
    assert (result.code, result.out) == (0, "")
    assert re.fullmatch(
        r"Built out\.mlpackage for text-generation in [\d.]+ s: 0\.1 MB; main \d+ operations\n", result.err
    )


def test_build_takes_every_option(command: CommandLine, folder: Path, tmp_path: Path) -> None:
    """Each reaches the package: its metadata holds the plan."""
    options = (
        "--task feature-extraction --sequence-length 2:5 --batch-size 3 --attention-mask "
        "--raw --inputs input_ids=tokens --outputs last_hidden_state=states:What_it_knows. "
        "--precision float32 --target iOS16 --interface hf"
    )
    arguments = [word.replace("What_it_knows", "What it knows") for word in options.split()]
    result = command("build", folder / "c", "a", *arguments, "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    plan = json.loads(json.loads(result.out)["metadata"]["milbuild.options"])
    assert plan == {
        "task": "feature-extraction",
        "sequence_length": "2:5",
        "image_size": None,
        "batch_size": 3,
        "attention_mask": True,
        "token_type_ids": False,
        "num_choices": None,
        "cache": "none",
        "context_length": None,
        "prefill_length": None,
        "function": None,
        "logits": "all",
        "pooling": None,
        "modules": [],
        "include_prompt": True,
        "normalize": False,
        "postprocess": False,
        "inputs": {"input_ids": "tokens"},
        "outputs": {"last_hidden_state": {"name": "states", "text": "What it knows.", "softmax": True}},
        "interface": "hf",
        "precision": "float32",
        "target": "iOS16",
    }
    options = "--cache io --context-length 16 --sequence-length 2 --prefill-length 4 --logits last --target iOS26"
    result = command("build", folder / "c", "b", *options.split(), "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    plan = json.loads(json.loads(result.out)["metadata"]["milbuild.options"])
    chosen = ("cache", "context_length", "sequence_length", "prefill_length", "logits", "target", "interface")
    assert [plan[name] for name in chosen] == ["io", "16", "2", 4, "last", "iOS26", "hf"]


@pytest.mark.parametrize("package", ["p", "s"])
def test_inspect_json(package: str, command: CommandLine, folder: Path) -> None:
    before = files(folder)
    result = command("inspect", f"{package}.mlpackage", "--json", cwd=folder)
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    size = sum(path.stat().st_size for path in (folder / f"{package}.mlpackage").rglob("*") if path.is_file())
    assert found["name"] == f"{package}.mlpackage"
    assert found["bytes"] == size
    assert 0 < found["weights"] < size
    assert set(found["functions"]) == ({"main"} if package == "p" else {"main", "prefill"})
    for function in found["functions"].values():
        assert function.keys() >= {"inputs", "outputs", "states", "operations", "constants", "total"}
        assert function["multiply_accumulates"] == sum(function["multiply_accumulates_by_type"].values()) > 0
        assert function["bytes_moved"]["total"] == sum(function["bytes_moved"].values()) / 2 > 0
        assert function["total"] == sum(function["operations"].values()) > 0
    assert found["functions"]["main"]["states"].keys() == (set() if package == "p" else {"key_cache", "value_cache"})
    assert files(folder) == before


def test_inspect_for_people(command: CommandLine, folder: Path) -> None:
    result = command("inspect", "s.mlpackage", cwd=folder)
    assert (result.code, result.err) == (0, "")
    for words in ("s.mlpackage", "function main", "function prefill", "key_cache", "input_ids", "logits", "position"):
        assert words in result.out


def test_profile_json(command: CommandLine, folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    arguments = ("--function", "prefill", "--repeat", "1", "--precision", "float32", "--threads", "1")
    result = command("profile", folder / "s.mlpackage", *arguments, "--plot", "p.svg", "--json", cwd=tmp_path)
    assert (result.code, result.err) == (0, "Wrote p.svg\n")
    found = json.loads(result.out)
    assert (found["function"], found["precision"], found["threads"], found["repeat"]) == ("prefill", "float32", 1, 1)
    assert found["types"][0].keys() == {"name", "calls", "seconds", "bytes"}
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert files(folder) == before


def test_profile_for_people(command: CommandLine, folder: Path) -> None:
    result = command("profile", "p.mlpackage", "--repeat", "1", cwd=folder)
    assert (result.code, result.err) == (0, "")
    for words in ("ms a prediction", "by operation type", "layer_norm", "by module", "transformer_h_*_mlp_c_fc"):
        assert words in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--function", "decode"), "has no function decode; it has main"),
        (("--precision", "half"), "must be one of declared, float32"),
        (("--shape", "input_ids"), "--shape is 'input_ids'"),
        (("--shape", "x=1,2"), "has no array x; it has input_ids"),
        (("--shape", "input_ids=1,2"), "has the shape (1, 2)"),
        (("--shape", "input_ids=0"), "a size is at least 1"),
        (("--repeat", "0"), "repeat is 0"),
        (("--threads", "0"), "threads is 0"),
        (("--threads", "100000"), "threads is 100000; this machine takes from 1 to "),
        (("--plot", "p.doc"), "cannot be written as p.doc"),
        (("--plot", "nowhere/p.svg"), "there is no folder nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_profile_refuses(arguments: tuple[str, ...], words: str, command: CommandLine, folder: Path) -> None:
    before = files(folder)
    result = command("profile", "p.mlpackage", *arguments, cwd=folder)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert files(folder) == before


def test_reader_that_goes_away(folder: Path) -> None:
    """`milbuild list | head -0`: no traceback."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m milbuild list --json | true"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# The same defaults in Python and on the command line


def test_build_has_the_options_of_python() -> None:
    python = inspect.signature(milbuild.build).parameters
    line = {parameter.name: parameter for parameter in COMMANDS["build"].params}
    # `milbuild.gpt2.build` sets the model_type; a package on the disk has no compute units.
    assert python.keys() - line.keys() == {"model_type", "compute_units"}
    assert line.keys() - python.keys() == {"output", "force", "as_json", "help"} & line.keys()
    assert line["postprocess"].opts == ["--raw"]
    assert python["postprocess"].default is not line["postprocess"].default
    for name in python.keys() & line.keys() - {"source", "postprocess"}:
        assert line[name].default == python[name].default, name


def test_validate_has_the_options_of_python() -> None:
    python = inspect.signature(milbuild.validate).parameters
    line = {parameter.name: parameter for parameter in COMMANDS["validate"].params}
    assert python.keys() - line.keys() == {"progress"}
    assert line.keys() - python.keys() <= {"plot", "markdown", "as_json", "help"}
    for name in python.keys() & line.keys() - {"package", "source"}:
        assert line[name].default == python[name].default, name


def test_generate_has_the_options_of_python() -> None:
    from milbuild.generation.speech import Transcript
    from milbuild.generation.text import TextStream

    line = {parameter.name: parameter for parameter in COMMANDS["generate"].params}
    for stream in (TextStream, Transcript):
        python = inspect.signature(stream).parameters
        assert python.keys() <= line.keys()
        for name in python.keys() - {"package", "tokenizer", "prompt", "audio"}:
            assert line[name].default == python[name].default, name


def test_every_option_has_one_spelling() -> None:
    """Long, with dashes, and the name of Python's argument, or the table's own for a switch that turns one off."""
    flags = {name: option.flag for name, (_, option) in table().items() if option.flag}
    for name, each in COMMANDS.items():
        for parameter in each.params:
            if parameter.param_type_name == "option" and parameter.name not in ("help", "as_json"):
                assert parameter.opts == [flags.get(parameter.name, f"--{parameter.name.replace('_', '-')}")], (
                    name,
                    parameter.opts,
                )


# How soon it answers

HEAVY = {"torch", "coremltools", "transformers", "numpy", "huggingface_hub", "ml_dtypes"}
LIGHT = [("list",), ("list", "--json"), ("--help",), ("--version",), *((name, "--help") for name in sorted(COMMANDS))]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_answers_without_importing_anything_heavy(arguments: tuple[str, ...]) -> None:
    # The modules of the process itself, told at its very end.
    script = (
        "import atexit, sys; sys.argv = ['milbuild', *{arguments!r}]; "
        "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); "
        "from milbuild.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script.format(arguments=arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "milbuild.cli.app" in loaded, done.stderr
    assert not HEAVY & loaded


def test_build_does_not_import_torch(folder: Path, tmp_path: Path) -> None:
    """The command line keeps coremltools and transformers from loading what no build needs."""
    script = (
        "import atexit, sys; sys.argv = ['milbuild', 'build', {source!r}, 'out.mlpackage']; "
        "atexit.register(lambda: print(*sorted(sys.modules))); from milbuild.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script.format(source=str(folder / "c"))],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "coremltools" in loaded
    assert not {"torch", "sklearn", "scipy", "tensorflow", "torchvision"} & loaded


# Pictures, and what is printed, on a disk that is full

FULL = """
import errno, os, io
from pathlib import Path
write = Path.write_bytes
def full(path, data):
    if ".partial" in path.name:
        raise OSError(errno.{kind}, os.strerror(errno.{kind}))
    return write(path, data)
Path.write_bytes = full
"""
PLOTS = {
    "validate": ("validate", "p.mlpackage", "c", "--plot"),
    "inspect": ("inspect", "p.mlpackage", "--graph"),
    "profile": ("profile", "p.mlpackage", "--repeat", "1", "--plot"),
}


@pytest.mark.skipif(sys.platform == "darwin", reason="the disk is made full in a copy of a warm process")
@pytest.mark.parametrize(("kind", "words"), [("ENOSPC", "the disk is full"), ("EIO", "Input/output error")])
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["", "--json"])
@pytest.mark.parametrize("name", PLOTS)
def test_a_picture_on_a_full_disk(
    name: str, as_json: tuple[str, ...], kind: str, words: str, torch_command: CommandLine, folder: Path, tmp_path: Path
) -> None:
    """Exit code 2 and why; the table stands there all the same, the old picture too, and nothing beside it."""
    arguments = [*PLOTS[name], tmp_path / "picture.png", *as_json]
    (tmp_path / "picture.png").write_bytes(b"old")
    result = torch_command(*arguments, cwd=folder, first=FULL.format(kind=kind))
    assert result.code == 2
    assert result.err.startswith(f"error: a {'graph' if name == 'inspect' else 'plot'} cannot be written to ")
    assert words in result.err
    assert "Wrote" not in result.err
    assert "hint: " in result.err
    assert json.loads(result.out) if as_json else len(result.out.splitlines()) > 5
    assert (tmp_path / "picture.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("name", PLOTS)
def test_a_picture_where_none_can_be(name: str, torch_command: CommandLine, folder: Path, tmp_path: Path) -> None:
    """Said before the work."""
    (tmp_path / "folder.png").mkdir()
    for place, words in (
        ("nowhere/p.png", "there is no folder"),
        ("folder.png", "is a folder"),
        ("p.doc", "the formats are"),
    ):
        result = torch_command(*PLOTS[name], tmp_path / place, cwd=folder)
        assert (result.code, result.out) == (2, ""), result.err
        assert words in result.err


def test_a_picture_replaces_what_a_link_leads_to(torch_command: CommandLine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real.svg").write_text("old")
    (tmp_path / "link.svg").symlink_to("real.svg")
    result = torch_command(*PLOTS["inspect"], tmp_path / "link.svg", cwd=folder)
    assert result.code == 0, result.err
    assert (tmp_path / "link.svg").is_symlink()
    assert "<svg" in (tmp_path / "real.svg").read_text()


@pytest.mark.parametrize("arguments", ["list", "list --json", "inspect p.mlpackage --json", "--help"])
def test_standard_output_that_fails(arguments: str, folder: Path) -> None:
    """A full disk: exit code 2 and why. A closed pipe: nothing is said, and the shell's code for it. A closed stream: nothing."""
    line = f"{sys.executable} -m milbuild {arguments}"

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)

    if Path("/dev/full").exists():
        done = shell(f"{line} > /dev/full")
        assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
    done = shell(f"{line} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, "")
    done = shell(f"{line} >&- <&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"{line} 2>&- | wc -c")
    assert int(done.stdout) > 100


def test_a_file_does_not_get_the_number_of_a_closed_stream(folder: Path, tmp_path: Path) -> None:
    """Else notes would be written into the package."""
    line = f"{sys.executable} -m milbuild build c {tmp_path}/out.mlpackage --force"
    written = []
    for streams in ("", ">&- 2>&- <&-"):
        done = subprocess.run(["bash", "-c", f"{line} {streams}"], cwd=folder, env=ENVIRONMENT)
        assert done.returncode == 0
        written.append({file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()})
    assert written[0] == written[1]


# What is mistaken for something else


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        ("build p.mlpackage out", "p.mlpackage is a Core ML model, not a checkpoint", "built from"),
        ("validate c p.mlpackage", "c is a checkpoint, not a package", "the package comes first"),
        ("validate p.mlpackage p.mlpackage", "p.mlpackage is a Core ML model, not a checkpoint", "built from"),
        ("validate p.mlpackage c --seed -1", "seed is -1; it is a whole number from 0", None),
        ("generate c --prompt x", "c is a checkpoint, not a package", "milbuild build"),
        (
            "generate p.mlpackage --tokenizer p.mlpackage --prompt x",
            "p.mlpackage is a Core ML model, not a checkpoint",
            None,
        ),
        ("inspect c", "c is a checkpoint, not a package", "milbuild build"),
        ("inspect p.mlpackage c", "c is a checkpoint, not a package", "milbuild build"),
        ("lint c", "c is a checkpoint, not a package", "milbuild build"),
        ("profile c", "c is a checkpoint, not a package", "milbuild build"),
        ("inspect p.mlpackage --graph x.pgf", "cannot be written as x.pgf", None),
        ("build c ..", "OUTPUT names no file", "out.mlpackage"),
    ],
)
def test_what_is_something_else(
    arguments: str, words: str, hint: str | None, torch_command: CommandLine, command: CommandLine, folder: Path
) -> None:
    before = files(folder)
    line = command if arguments.startswith(("build", "lint")) else torch_command
    assert_refused(line(*arguments.split(), cwd=folder), words, hint=hint)
    assert files(folder) == before


def test_validate_tells_its_stages(folder: Path) -> None:
    """Every backend of every case, and the share that lies behind: from nothing to nearly all, never backwards."""
    told: list[tuple[str, float]] = []
    milbuild.validate(folder / "s.mlpackage", folder / "c", progress=lambda text, share: told.append((text, share)))
    texts, shares = zip(*told, strict=True)
    assert len(set(texts)) == len(texts) > 8
    assert shares[0] == 0
    assert list(shares) == sorted(shares)
    assert 0.6 < shares[-1] < 1
    assert texts[-1] == "comparing module outputs"
