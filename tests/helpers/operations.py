"""The operations of a row of tests/tiny, counted and written down: python -m tests.helpers.operations [MODEL_TYPE ...]

Without a name all rows. Counted in float16 for iOS 18 and without constants: text without a cache or a mask, an encoder and a
decoder with a state.
"""

import ast
import sys
from pathlib import Path

import milbuild
from milbuild.package.reader import Package
from tests.conftest import checkpoint
from tests.tiny import SPEECH_SEQ2SEQ, TABLE, TEXT
from tests.tiny._row import SEQ2SEQ

TINY = Path(__file__).parents[1] / "tiny"


def counted(model_type: str) -> int:
    """How many operations the package of a row has, those of `encode` and `decode` together where there are two functions.
    Raises `Error` where it cannot be built."""
    row = TABLE[model_type]
    task = {SEQ2SEQ: "text2text-generation", SPEECH_SEQ2SEQ: "speech-seq2seq"}.get(row.kind, "feature-extraction")
    functions: tuple[str | None, ...] = (None,)
    if row.kind == TEXT:
        options = {"sequence_length": 11, "attention_mask": False}
    elif row.kind in (SEQ2SEQ, SPEECH_SEQ2SEQ):
        options, functions = row.options | {"cache": "state", "context_length": 13}, ("encode", "decode")
    else:
        options = row.options
    model = milbuild.build(checkpoint(model_type, task), task=task, **options)
    package = Package(model.package_path)
    return sum(op.type != "const" for name in functions for op in package.function(name).operations)


def written(source: str, count: int) -> str:
    """The source of a row with another number of operations. Raises ValueError for a row that does not say it itself."""
    found = [
        each.value for each in ast.walk(ast.parse(source)) if isinstance(each, ast.keyword) and each.arg == "operations"
    ]
    if len(found) != 1:
        raise ValueError("the row has no operations= of its own")
    (value,) = found
    lines = source.encode().splitlines(keepends=True)
    start, end = value.lineno - 1, (value.end_lineno or value.lineno) - 1
    before, after = lines[start][: value.col_offset], lines[end][value.end_col_offset :]
    return b"".join([*lines[:start], before, str(count).encode(), after, *lines[end + 1 :]]).decode()


def record(model_type: str) -> bool:
    """Counts, and writes the row's file where it says another number. Returns whether it did."""
    count, file = counted(model_type), TINY / f"{model_type.replace('-', '_')}.py"
    if count == TABLE[model_type].operations:
        return False
    file.write_text(written(file.read_text(), count))
    return True


if __name__ == "__main__":
    for name in sys.argv[1:] or TABLE:
        print(name, "written" if record(name) else "as it was")
