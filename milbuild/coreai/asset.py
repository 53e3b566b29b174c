"""A Core AI asset on the disk: a folder of the program (main.mlirb, weights inside), its hash and its metadata.

The same program gives the same bytes: no date is written, and resources have names of ours. The hash is computed in pieces, so
that a program of any size stays out of memory.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milbuild.coreai import SUFFIX, private
from milbuild.lowering import temporary
from milbuild.package import package_path

if TYPE_CHECKING:
    from milbuild.coreai.translator import Translation

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
# Core AI's own fields of metadata.json; what else a package says goes into creatorDefinedMetadata.
FIELDS = ("author", "license", "description")
ASSET_VERSION = "2.0"
PIECE = 1 << 22


def asset_path(path: Path) -> Path:
    """Where an asset is written: `.aimodel` is added to a name without a suffix. Raises `Error` for another one."""
    return package_path(path, SUFFIX)


def write(translation: "Translation", target: Path, replace: bool) -> Path:
    """Writes an asset in one step, and returns its path. Raises `Error` for what must not be replaced."""
    temporary.check(target, replace)
    with temporary.Folder(target) as made:
        private.save_bytecode(translation.module, made / PROGRAM)
        (made / HASH).write_bytes(_digest(made / PROGRAM))
        own = {name: text for name, text in translation.metadata.items() if name in FIELDS}
        other = {name: text for name, text in translation.metadata.items() if name not in FIELDS}
        said: dict[str, Any] = own | {
            "assetVersion": ASSET_VERSION,
            "producer": f"coreai-core {version('coreai-core')}",
        }
        if other:
            said["creatorDefinedMetadata"] = other
        (made / METADATA).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
        temporary.put(made, target, replace)
    return target


def _digest(path: Path) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.digest()
