"""Files as they are found: JSON, and what is in the place of another file."""

import json
from pathlib import Path
from typing import Any

from milbuild.errors import Error

POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """Raises `Error` for what Git LFS leaves in the place of a large file that was not fetched."""
    try:
        with path.open("rb") as file:
            found = file.read(len(POINTER)) == POINTER
    except OSError:
        return  # whoever reads it says why it cannot be
    if found:
        hint = f"Fetch the files themselves: git lfs pull, in {path.parent.resolve().name}."
        raise Error(f"{path.name} is a pointer of Git LFS, not the file itself", hint)


def read_value(path: Path) -> Any:
    """What a JSON file holds. Raises `Error`."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise Error(f"{path.name} of {path.parent.resolve().name} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file. Raises `Error`."""
    value = read_value(path)
    if not isinstance(value, dict):
        raise Error(f"{path.name} of {path.parent.resolve().name} is no object but a {type(value).__name__}")
    return value
