"""`milbuild demo`: from milbuild's own checkpoint to a proved package that writes a story and adds numbers."""

import random
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from milbuild.cli.arguments import Json
from milbuild.cli.console import note, show, stream_text
from milbuild.cli.output import checked_output, save

CHECKPOINT = Path(__file__).parents[1] / "demo"
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


def demo(
    keep: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the package there.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Build, prove and try milbuild's own GPT-2.

    A small one that writes stories and adds numbers in words; it comes with milbuild.
    """
    from milbuild.cli import imports

    target = None if keep is None else checked_output(keep, force=False)
    imports.prepare()
    result = run(target, quiet=as_json)
    if as_json:
        show(result)
    if result["validation"]["verdict"] != "passed":
        raise typer.Exit(1)


def in_words(number: int) -> str:
    """A number from 0 to 49."""
    if number < 20:
        return ONES[number]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f"-{ONES[one]}" if one else "")


def run(keep: Path | None, quiet: bool) -> dict[str, Any]:
    """Builds, validates, writes; prints what it does unless `quiet`. Returns the figures."""
    import milbuild
    from milbuild.generation.text import TextStream
    from milbuild.io import cleanup

    say = (lambda text: None) if quiet else note
    folder = cleanup.temporary_folder()
    try:
        path = keep or folder / "demo.mlpackage"
        say(
            "Building the demo checkpoint: a state for keys and values, a function `prefill` for 64 tokens, `main` for one"
        )
        model = milbuild.build(CHECKPOINT, cache="state", prefill_length=64)
        save(model, path, force=False)
        say("Comparing it with transformers' PyTorch model\n")
        report = milbuild.validate(path, CHECKPOINT)
        stories = {}
        if not quiet:
            show(report)
            say("\nA story:\n")
        for prompt in ("One morning,",):
            stream = TextStream(path, CHECKPOINT, prompt, max_new_tokens=180)
            if quiet:
                stories[prompt] = "".join(stream)
            else:
                stream_text(prompt, stream)
        say(f"\n{SUMS} sums of two numbers up to twenty, the first five:\n")
        right = _sums(path, quiet)
        say(f"\n{right} of {SUMS} sums are right")
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
    from transformers import AutoTokenizer

    import milbuild
    from milbuild.generation.text import TextStream

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
