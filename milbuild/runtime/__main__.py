"""Runs a Python program whose Core ML models predict by milbuild.runtime: `python -m milbuild.runtime script.py`."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

from milbuild.errors import Error
from milbuild.runtime.dropin import enable

PLUGIN = "milbuild.runtime.pytest_plugin"
USAGE = "usage: python -m milbuild.runtime (SCRIPT | -m MODULE | -c CODE) [ARGUMENT ...]"
HELP = f"""{USAGE}

Runs a Python program as `python` itself would. In it, the ML Programs of coremltools predict on any system, without
Core ML: ct.convert(...).predict, ct.models.MLModel(path).predict, make_state, compile_model, CompiledMLModel.

  SCRIPT     a Python file, or a folder or archive that holds a __main__.py
  -m MODULE  a module by its name, as in: python -m milbuild.runtime -m pytest tests
  -c CODE    Python code
  -h, --help this text

What the program starts as other Python processes does not have it. There, as in code of one's own:

  import milbuild.runtime
  milbuild.runtime.enable()
"""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP if arguments else USAGE, end="" if arguments else "\n", file=None if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    first, *rest = arguments
    if first in ("-m", "-c"):
        if not rest:
            _fail(f"{first} needs {'the name of a module' if first == '-m' else 'Python code'}")
        given, *rest = rest
        if first == "-m":
            _module(given, rest)
        else:
            _code(given, rest)
    elif first.startswith("-"):
        _fail(f"there is no option {first}; there are -m, -c, --help")
    else:
        _script(first, rest)


def _script(script: str, arguments: list[str]) -> None:
    if not Path(script).exists():
        _fail(f"there is no script {script}")
    _enable()
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path and Path(script).is_file():
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    runpy.run_path(script, run_name="__main__")


def _module(name: str, arguments: list[str]) -> None:
    _enable()
    # A run of tests says what it compared, and fails where that is nothing.
    sys.argv = ["-m", *(["-p", PLUGIN] if name == "pytest" else []), *arguments]
    try:
        found = importlib.util.find_spec(name)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{name}.__main__")
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        _fail(f"there is no module {name} that can be run")
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _code(code: str, arguments: list[str]) -> None:
    _enable()
    sys.argv = ["-c", *arguments]
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(code, "<string>", "exec"), namespace)


def _enable() -> None:
    try:
        enable()
    except Error as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"{USAGE}\n\nerror: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
