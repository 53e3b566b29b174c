"""What type checkers and editors know of milbuild: the options of `build`, and each model type's module."""

import inspect
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import milbuild
from milbuild.program.options import BuildOptions, table
from tests.docs.stubs import FOLDER, stubs

GOOD = """
import milbuild
import milbuild.gpt2
from milbuild import xlm_roberta

a: milbuild.Model = milbuild.gpt2.build("x", cache="state", prefill_length=64)
b: milbuild.Model = xlm_roberta.build("x", sequence_length=(1, 128), outputs={"logits": milbuild.Output("scores")})
c: milbuild.Model = milbuild.build("x", model_type="gpt2", logits="last")
"""
BAD = """
import milbuild.gpt2
milbuild.gpt2.build("x", cach="state")
milbuild.gpt2.build("x", prefill_length="64")
milbuild.build("x", nothing=1)
"""


def test_options_and_model_types_are_typed(tmp_path: Path) -> None:
    """By mypy --strict, in an environment that has milbuild and its stubs alone, as the wheel brings them."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")})
    for folder in (Path(milbuild.__file__).parent, FOLDER):
        (Path(packages) / folder.name).symlink_to(folder)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--ignore-missing-imports"]
    command += ["--python-executable", str(python), "--cache-dir", str(tmp_path / "cache"), "good.py", "bad.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[:2] for line in errors] == [["bad.py", "3"], ["bad.py", "4"], ["bad.py", "5"]], done.stdout


def test_the_stubs_are_those_of_every_model_type() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == stubs()


def test_every_option_is_shown() -> None:
    """By `help` and by what editors ask at run time, with its type and default."""
    parameters = inspect.signature(milbuild.build).parameters
    assert list(parameters) == ["source", *BuildOptions.__annotations__, "model_type"]
    for name, (hint, option) in table().items():
        assert (parameters[name].annotation, parameters[name].default) == (hint, option.default)
        assert f"    {name}: {option.help}" in (milbuild.build.__doc__ or "")
    assert list(inspect.signature(milbuild.gpt2.build).parameters) == ["source", *BuildOptions.__annotations__]
    assert milbuild.gpt2.build.__doc__ is not None
    assert "prefill_length: " in milbuild.gpt2.build.__doc__


def test_an_option_that_there_is_not_is_named_with_the_nearest() -> None:
    import pytest

    with pytest.raises(TypeError, match="'cach'; did you mean cache"):
        milbuild.build("nowhere", cach="state")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'model_type'"):
        milbuild.gpt2.build("nowhere", model_type="bert")
