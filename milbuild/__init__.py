"""Hugging Face transformers to Core ML packages, graph by graph, without tracing, proved against PyTorch on any machine.

    import milbuild

    model = milbuild.gpt2.build("openai-community/gpt2", cache="state", prefill_length=64)
    model.save("gpt2.mlpackage")
    print(milbuild.validate("gpt2.mlpackage", "openai-community/gpt2"))

Every family is a module under its model_type (`milbuild.gpt2`), whose `build` refuses a checkpoint of another family.
Importing milbuild loads neither coremltools nor torch; what needs them loads them when it is called.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from milbuild.errors import BuildWarning, Error, LintWarning

TYPE_CHECKING = False
if TYPE_CHECKING:  # the import of typing takes longer than all that the command line needs until it listens to Ctrl-C
    from typing import Any

    from milbuild.generation.speech import transcribe
    from milbuild.generation.text import generate
    from milbuild.inspection import inspect
    from milbuild.linting import lint
    from milbuild.model import Model
    from milbuild.program.builder import build
    from milbuild.program.options import Output
    from milbuild.validation import validate

__version__ = "0.1.0"
__all__ = [
    "BuildWarning",
    "Error",
    "LintWarning",
    "Model",
    "Output",
    "__version__",
    "build",
    "generate",
    "inspect",
    "lint",
    "transcribe",
    "validate",
]

# The public names that are not loaded until somebody asks for them. No module bears the name of a function: importing it
# would put the module in the function's place.
_LAZY = {
    "Model": "milbuild.model",
    "Output": "milbuild.program.options",
    "build": "milbuild.program.builder",
    "generate": "milbuild.generation.text",
    "transcribe": "milbuild.generation.speech",
    "inspect": "milbuild.inspection",
    "lint": "milbuild.linting",
    "validate": "milbuild.validation",
}


class _Families:
    """Finds `milbuild.<model_type>`: a module with one function, `build`, for checkpoints of that family only."""

    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        package, _, family = name.rpartition(".")
        if package != __name__ or _model_type(family) is None:
            return None
        return ModuleSpec(name, _Families)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: "Any") -> ModuleType:
        return ModuleType(spec.name, f"Builds {_model_type(spec.name.rpartition('.')[2])} checkpoints.")

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        from milbuild.program.options import with_options

        model_type = _model_type(module.__name__.rpartition(".")[2])

        def build(source: "Any", **options: "Any") -> "Any":
            from milbuild.program.builder import build as build_any

            if "model_type" in options:
                raise TypeError(f"{module.__name__}.build() got an unexpected keyword argument 'model_type'")
            return build_any(source, model_type=model_type, **options)

        build.__doc__ = f"`milbuild.build` for checkpoints of the model_type {model_type}."
        vars(module)["build"] = with_options(build)


def _model_type(name: str) -> str | None:
    """gpt2 -> gpt2, xlm_roberta -> xlm-roberta; None for what is no family."""
    from milbuild.architectures import SUPPORTED

    return next((known for known in SUPPORTED if known.replace("-", "_") == name), None)


sys.meta_path.append(_Families)


def __getattr__(name: str) -> "Any":
    if name in _LAZY:
        globals()[name] = value = getattr(importlib.import_module(_LAZY[name]), name)
        return value
    if not name.startswith("_") and _model_type(name) is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from milbuild.architectures import SUPPORTED

    return sorted([*globals(), *_LAZY, *(name.replace("-", "_") for name in SUPPORTED)])
