"""Writes milbuild-stubs/, by which type checkers and editors know `milbuild.gpt2` and its like: python -m tests.docs.stubs

These modules are made when they are imported (milbuild/__init__.py), one for each model type.
"""

from pathlib import Path

from milbuild import architectures

FOLDER = Path(__file__).parents[2] / "milbuild-stubs"

STUB = '''"""Builds {model_type} checkpoints. Written by `python -m tests.docs.stubs`."""

import os
from typing import Unpack

from milbuild.model import Model
from milbuild.program.options import BuildOptions

def build(source: str | os.PathLike[str], **options: Unpack[BuildOptions]) -> Model: ...
'''


def stubs() -> dict[str, str]:
    """Names of files -> what is in them. py.typed says that the rest of milbuild is typed where it is (PEP 561)."""
    found = {f"{name.replace('-', '_')}.pyi": STUB.format(model_type=name) for name in architectures.SUPPORTED}
    return found | {"py.typed": "partial\n"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for name, text in stubs().items():
        (FOLDER / name).write_text(text)
