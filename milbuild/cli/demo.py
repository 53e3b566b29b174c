"""The demonstration: from milbuild's own checkpoint to a proved package that writes a story and adds numbers."""

import random
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import milbuild
from milbuild.cli import app
from milbuild.generation.text import TextStream
from milbuild.io import cleanup

CHECKPOINT = Path(milbuild.__file__).parent / "demo"
SUMS = 100
SEED = 0

ONES = (
    *(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
        ]
    ),
    *(["sixteen", "seventeen", "eighteen", "nineteen"]),
)
TENS = ("twenty", "thirty", "forty")


def in_words(number: int) -> str:
    """A number from 0 to 49."""
    if number < 20:
        return ONES[number]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f"-{ONES[one]}" if one else "")


def run(keep: Path | None, quiet: bool) -> dict[str, Any]:
    """Builds, validates, writes; prints what it does unless `quiet`. Returns the figures."""
    note = (lambda text: None) if quiet else app._note
    folder = cleanup.temporary_folder()
    try:
        path = keep or folder / "demo.mlpackage"
        note(
            "Building the demo checkpoint: a state for keys and values, a function `prefill` for 64 tokens, `main` for one"
        )
        model = milbuild.build(CHECKPOINT, cache="state", prefill_length=64)
        app._save(model, path, force=False)
        note("Comparing it with transformers' PyTorch model\n")
        report = milbuild.validate(path, CHECKPOINT)
        stories = {}
        if not quiet:
            app._print(report)
            note("\nA story:\n")
        for prompt in ("One morning,",):
            stream = TextStream(path, CHECKPOINT, prompt, max_new_tokens=180)
            if quiet:
                stories[prompt] = "".join(stream)
            else:
                app._stream(prompt, stream)
        note(f"\n{SUMS} sums of two numbers up to twenty, the first five:\n")
        right = _sums(path, quiet)
        note(f"\n{right} of {SUMS} sums are right")
        return {
            "package": str(path) if keep else None,
            "validation": report.as_dict(),
            "stories": stories,
            "sums": SUMS,
            "sums_right": right,
        }
    finally:
        cleanup.remove(folder)


def _sums(path: Path, quiet: bool) -> int:
    pairs = [(a, b) for a in range(21) for b in range(21)]
    right = 0
    model, tokenizer = milbuild.Model(path), AutoTokenizer.from_pretrained(CHECKPOINT)
    for number, (a, b) in enumerate(random.Random(SEED).sample(pairs, SUMS)):
        prompt = f"{in_words(a)} plus {in_words(b)} is"
        text = "".join(TextStream(model, tokenizer, prompt, max_new_tokens=12))
        answer = re.match(r"\s*([a-z-]+)\.", text)
        right += answer is not None and answer[1] == in_words(a + b)
        if number < 5 and not quiet:
            print(prompt + text.split("\n")[0])
    return right
