"""Where a command's package goes, and how it is saved there."""

import os
import sys
from pathlib import Path
from typing import Any

from milbuild.cli.console import stderr
from milbuild.errors import Error
from milbuild.package import SUFFIX, package_path


def checked_output(path: Path, force: bool, source: str | None = None, suffix: str = SUFFIX) -> Path:
    """The package's path, checked before any work is done. Raises `Error`."""
    path = path.expanduser()
    if path.name in ("", ".."):
        raise Error("OUTPUT names no file", f"Write where it goes: out{suffix}.")
    path = package_path(path, suffix)
    from milbuild.lowering import temporary

    temporary.check(path, force)
    if os.path.lexists(path):
        checkpoint = None if source is None else Path(source).resolve()
        if checkpoint is not None and checkpoint.exists() and path.resolve() in [checkpoint, *checkpoint.parents]:
            raise Error(f"{path} is where the checkpoint is", "Choose another place.")
    parent = path.parent
    if not parent.is_dir():
        raise Error(f"there is no folder {parent}", f"Make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Error(f"{parent} is not writable", "Choose a folder that you may write to.")
    return path


def save(model: Any, path: Path, force: bool) -> None:
    """Saves with a bar of the bytes written, on a terminal."""
    if not sys.stderr.isatty():
        model.save(path, replace=force)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as progress:
        bar = progress.add_task("weights", total=None)
        model.save(path, lambda done, total: progress.update(bar, completed=done, total=total), replace=force)
