"""One table of small models, from which parity, cache, task, precision and interface tests, the guard of configuration
fields, tensor accounting and the counts of operations follow. A file for each model type, named by it, holds its ROW; files
that begin with an underscore hold what several rows share.

Sizes are distinct everywhere, so that a transposed or mixed-up axis cannot pass: batch 3, tokens 7 or 11, heads 4, width
of a head 6, inner width 52, vocabulary 61, positions 29.
"""

import importlib
import pkgutil

from tests.tiny._row import AUDIO, KINDS, SEQ2SEQ, SPEECH_SEQ2SEQ, TEXT, VISION, Tiny

__all__ = [
    "AUDIO_MODELS",
    "SEQ2SEQ_MODELS",
    "SPEECH_SEQ2SEQ",
    "TABLE",
    "TEXT",
    "TEXT_MODELS",
    "VISION",
    "VISION_MODELS",
    "Tiny",
]


def _rows() -> dict[str, Tiny]:
    files = sorted(file.name for file in pkgutil.iter_modules(__path__) if not file.name.startswith("_"))
    rows = {file: importlib.import_module(f"{__name__}.{file}").ROW for file in files}
    for file, row in rows.items():
        assert row.model_type.replace("-", "_") == file, f"tests/tiny/{file}.py has the row of {row.model_type}"
        assert row.kind in KINDS, f"{row.model_type} would be tested nowhere: its kind is {row.kind!r}"
    return {row.model_type: row for row in rows.values()}


def _of(*kinds: str) -> dict[str, Tiny]:
    return {model_type: row for model_type, row in TABLE.items() if row.kind in kinds}


TABLE = _rows()
TEXT_MODELS, VISION_MODELS, AUDIO_MODELS = _of(TEXT), _of(VISION), _of(AUDIO)
SEQ2SEQ_MODELS = _of(SEQ2SEQ, SPEECH_SEQ2SEQ)
