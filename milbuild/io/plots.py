"""Whether a plot can be written to a path, and how: in one step, so that there is a whole one or the old one."""

import errno
import io
import os
import secrets
from pathlib import Path
from typing import Any

from milbuild.errors import Error
from milbuild.io import cleanup


def check_plot(path: str | os.PathLike[str], what: str = "a plot") -> None:
    """Raises milbuild.Error if a plot cannot be written at `path`; called before the work."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ModuleNotFoundError:
        raise Error(f"{what} needs matplotlib, which is not installed", "pip install matplotlib") from None
    path, known = Path(path), sorted(FigureCanvasAgg.get_supported_filetypes().keys() - {"pgf"})  # which is LaTeX
    if path.suffix.lstrip(".").lower() not in known:
        raise Error(f"{what} cannot be written as {path.name}; the formats are {', '.join(known)}")
    if not path.parent.is_dir():
        raise Error(f"{what} cannot be written to {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise Error(f"{what} cannot be written to {path}: it is a folder")
    # The folder has to take a new file, which then gets the old one's name.
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise Error(f"{what} cannot be written to {path}: it is not writable", "Choose a folder that you may write to.")


def save(figure: Any, path: str | os.PathLike[str], what: str = "a plot", **options: Any) -> None:
    """Draws a matplotlib figure and writes it to `path`, whose ending says the format; `options` are those of savefig.

    Raises milbuild.Error where the disk is full or refuses it; what was there is then still there, and nothing else.
    """
    path = Path(path).resolve()  # what a link leads to is replaced, not the link
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lstrip(".").lower(), **options)
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    cleanup.expect(made, lambda: made.unlink(missing_ok=True))
    try:
        made.write_bytes(drawn.getbuffer())
        os.replace(made, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        hint = "Free some space, or choose another place." if full else "Choose a folder that you may write to."
        raise Error(f"{what} cannot be written to {path}: {reason}", hint) from error
    finally:
        made.unlink(missing_ok=True)
        cleanup.settled(made)
