"""Who may import whom, and what importing costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "milbuild"

# docs/design.md, section 1: a room may import rooms of its own row and below, with the exceptions named there.
ROWS = [
    {"cli", "__main__"},
    {"validation"},
    {"generation"},
    {"program", "authoring"},
    {"model", "architectures"},
    {"inspection", "heads", "coreai"},
    {"linting", "runtime", "lowering", "caches"},
    {"layers", "package"},
    {"weights", "io", "tasks"},
    {"errors"},
]
ONLY = {
    "runtime": {"runtime", "package", "io", "errors"},
    "architectures": {"architectures", "layers", "heads", "caches", "weights", "errors"},
    "authoring": {"authoring", "architectures", "tasks", "weights", "errors"},
    "weights": {"weights", "errors"},
    "inspection": {"inspection", "runtime", "package", "io", "errors"},
    "linting": {"linting", "package", "io", "errors"},
    "model": {"lowering", "linting", "runtime", "package", "io", "errors"},
    "layers": {"layers", "weights", "errors"},
    "package": {"package", "weights", "errors"},
    "lowering": {"lowering", "package", "weights", "io", "errors"},
    "heads": {"heads", "caches", "layers", "weights", "errors"},
    "caches": {"caches", "layers", "weights", "errors"},
    "io": {"io", "errors"},
    "coreai": {"coreai", "lowering", "package", "errors"},
    "tasks": {"errors"},
    "errors": set(),
}


def _arrows() -> list[tuple[str, str, str]]:
    arrows = []
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "milbuild":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("milbuild."):
                names = [(node.module or "").removeprefix("milbuild.")]
            elif isinstance(node, ast.Import):
                names = [a.name.removeprefix("milbuild.") for a in node.names if a.name.startswith("milbuild.")]
            else:
                continue
            arrows += [(str(file.relative_to(ROOT)), room, name) for name in names if name[0] != "_"]
    return arrows


def test_no_arrow_points_back() -> None:
    row = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
    arrows = _arrows()
    assert len(arrows) > 50
    wrong = []
    for file, room, imported in arrows:
        target = imported.split(".")[0]
        if target in ("Error", "Model", "build", "validate", "generate", "transcribe", "inspect", "lint"):
            continue  # public names of the package itself
        allowed = ONLY.get(room)
        named = allowed is None or any(imported == name or imported.startswith(f"{name}.") for name in allowed)
        if not named or row[target] < row[room]:
            wrong.append(f"{file} imports {imported}")
    assert not wrong


def test_the_house_stays_small() -> None:
    """At most 90 rooms that import another, by pairs, and 11 floors: what stands highest imports through so many."""
    rooms = set().union(*ROWS)
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for _, room, imported in _arrows():
        below[room] |= {imported.split(".")[0]} & rooms - {room}
    assert 50 < sum(map(len, below.values())) <= 90

    def floor(room: str) -> int:
        return 1 + max(map(floor, below[room]), default=0)

    assert max(map(floor, rooms)) <= 11


def test_every_room_is_named_in_the_design() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "demo", "py.typed"} == set().union(*ROWS)


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("code", ["import milbuild", "import milbuild.gpt2; from milbuild import gpt2; dir(milbuild)"])
def test_importing_milbuild_loads_nothing_heavy(code: str) -> None:
    heavy = {
        "coremltools",
        "torch",
        "numpy",
        "transformers",
        "safetensors",
        "huggingface_hub",
        "typer",
        "rich",
        "ml_dtypes",
    }
    loaded = set(_run(f"{code}\nimport sys; print(*sys.modules)").split())
    assert not heavy & loaded


def test_importing_milbuild_loads_python_and_itself() -> None:
    """What a command line loads to answer, tests/test_cli.py says."""
    code = "import sys; before = set(sys.modules); import milbuild; print(*sys.modules.keys() - before)"
    others = {name.partition(".")[0] for name in _run(code).split()} - sys.stdlib_module_names
    assert others == {"milbuild"}


def test_families_are_modules() -> None:
    import milbuild.gpt2

    import milbuild
    from milbuild import gpt2

    assert gpt2 is milbuild.gpt2
    assert "gpt2" in dir(milbuild)
    assert "gpt2" in (milbuild.gpt2.build.__doc__ or "")
    with pytest.raises(ImportError):
        import milbuild.no_such_family
    with pytest.raises(AttributeError, match="no attribute 'no_such_family'"):
        _ = milbuild.no_such_family


def test_functions_stay_functions_whatever_is_imported() -> None:
    code = """
import milbuild, milbuild.program.builder, milbuild.generation.text, milbuild.generation.speech, milbuild.validation
import milbuild.model, milbuild.inspection, milbuild.linting
from milbuild import build, validate, generate, inspect, lint, transcribe, Model, Error
functions = [milbuild.build, milbuild.validate, milbuild.generate, milbuild.transcribe, milbuild.inspect, milbuild.lint]
functions.append(milbuild.Model)
assert all(callable(thing) for thing in functions)
"""
    _run(code)


def test_the_command_line_hides_torch_only_while_coremltools_is_imported() -> None:
    code = """
import sys
from milbuild.cli import imports
imports.prepare()
assert "coremltools" in sys.modules
assert not {"torch", "sklearn", "scipy", "transformers"} & sys.modules.keys(), sys.modules.keys()
import torch
assert torch.__version__
"""
    _run(code)


def test_a_build_of_the_command_line_imports_configurations_alone(tmp_path: Path) -> None:
    """Of transformers neither models nor the packages that list them all, which whoever asks for more of it gets then."""
    from tests.conftest import checkpoint

    code = f"""
import sys, types
from milbuild.cli.app import app
app(["build", {str(checkpoint())!r}, {str(tmp_path / "out.mlpackage")!r}], standalone_mode=False)
assert "transformers.models.gpt2.configuration_gpt2" in sys.modules
heavy = {{"torch", "sklearn", "scipy", "transformers.modeling_utils", "transformers.models.gpt2.modeling_gpt2"}}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert type(sys.modules["transformers"]) is types.ModuleType
import transformers
assert transformers.__version__
from transformers import AutoTokenizer, CONFIG_MAPPING
assert "gpt2" in CONFIG_MAPPING
import transformers
assert type(transformers) is not types.ModuleType
assert transformers.models.gpt2.GPT2Config is CONFIG_MAPPING["gpt2"]
"""
    _run(code)


def test_as_a_library_milbuild_hides_nothing(tmp_path: Path) -> None:
    """A user's own conversion of a torch model goes on working in the process that built with milbuild."""
    from tests.conftest import checkpoint

    code = f"""
import numpy, torch, milbuild
milbuild.build({str(checkpoint())!r}, sequence_length=5).save({str(tmp_path / "ours")!r})
import coremltools as ct
traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval(), torch.zeros(1, 4))
model = ct.convert(traced, inputs=[ct.TensorType(name="x", shape=(1, 4))])
model.save({str(tmp_path / "theirs.mlpackage")!r})
milbuild.build({str(checkpoint())!r}, sequence_length=5).save({str(tmp_path / "again")!r})
"""
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    one, two = (tmp_path / f"{name}.mlpackage/Data/com.apple.CoreML/model.mlmodel" for name in ("ours", "again"))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "theirs.mlpackage").is_dir()
