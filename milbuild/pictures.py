"""Whether a picture can be written where it was asked for."""

import os
from pathlib import Path

from milbuild.errors import Error


def check_picture(path: str | os.PathLike[str], what: str = "a plot") -> None:
    """Raises milbuild.Error if a picture cannot be written at `path`; called before the work."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ModuleNotFoundError:
        raise Error(f"{what} needs matplotlib, which is not installed", "pip install matplotlib") from None
    path, known = Path(path), sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise Error(f"{what} cannot be written as {path.name}; known are {', '.join(known)}")
    if not path.parent.is_dir():
        raise Error(f"{what} cannot be written to {path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Error(f"{what} cannot be written to {path}: it is a folder or may not be written")
