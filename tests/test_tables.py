"""No number that a command prints is cut or broken, however narrow the terminal is."""

import io
import re
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import milbuild
from milbuild import inspection, runtime
from milbuild.io.tables import Table, wrapped
from milbuild.runtime.profiling import examples, profile
from tests.conftest import checkpoint

WIDTHS = (80, 60, 40)
# A number between spaces, with what may stand around it in a sentence or a shape.
NUMBER = re.compile(r"(?<!\S)[(\[{]*[-+]?\d[\d,.]*(?:e[-+]?\d+)?%?[)\]},;:.]*(?!\S)")


def printed(value: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(value)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every command that prints a table prints, of packages with one and with two functions, and with a flexible one."""
    folder = tmp_path_factory.mktemp("tables")
    source, classifier = checkpoint(), checkpoint("bert", "text-classification")
    milbuild.build(source, cache="state", prefill_length=4).save(folder / "a-name-of-some-length.mlpackage")
    milbuild.build(source, sequence_length=(1, 16), precision="float32").save(folder / "ranged.mlpackage")
    milbuild.build(classifier, sequence_length=16).save(folder / "classifier.mlpackage")
    two, ranged, one = (folder / f"{name}.mlpackage" for name in ("a-name-of-some-length", "ranged", "classifier"))
    model = runtime.load(two, "prefill")
    return {
        "validate": milbuild.validate(two, source),
        "validate, ranged": milbuild.validate(ranged, source),
        "validate, classifier": milbuild.validate(one, classifier),
        "inspect": inspection.inspect(two),
        "inspect, ranged": inspection.inspect(ranged),
        "inspect, classifier": inspection.inspect(one),
        "compare": inspection.compare(two, ranged),
        "lint": milbuild.lint(two, "all"),
        "profile": profile(model, examples(model, {}), 1),
    }


COMMANDS = ("validate", "validate, ranged", "validate, classifier", "inspect", "inspect, ranged", "inspect, classifier")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*COMMANDS, "compare", "lint", "profile"])
def test_every_number_is_whole(name: str, width: int, reports: dict[str, Any]) -> None:
    torch.manual_seed(0)
    wide, narrow = printed(reports[name], 400), printed(reports[name], width)
    assert "…" not in narrow
    found, wanted = Counter(NUMBER.findall(narrow)), Counter(NUMBER.findall(wide))
    assert len(wanted) > 5
    assert not wanted - found
    # Nothing else is lost either: the same letters, whatever stands in which line; heads and commas come again.
    letters = [Counter(re.sub(r"[\s,]", "", text)) for text in (wide, narrow)]
    assert not letters[0] - letters[1]
    assert max(map(len, narrow.splitlines())) <= width


def test_beside_a_terminal_it_is_as_wide_as_it_is(reports: dict[str, Any]) -> None:
    text = str(reports["validate"])
    assert re.search(r"\n\S.* float32 +logits +\d\.\d\de-\d\d ", text)


words = st.text("abcdefgh 0123", min_size=0, max_size=30).map(lambda text: " ".join(text.split()))
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:.2e}") | st.integers(
    0, 10**9
).map(lambda number: f"{number:,}")


@given(st.data(), st.integers(16, 100), st.integers(1, 3), st.integers(0, 6))
def test_of_any_table(data: st.DataObject, width: int, texts: int, figures: int) -> None:
    columns = "t" * texts + "n" * figures
    heads = [data.draw(words) for _ in columns]
    rows = [
        [data.draw(numbers if column == "n" else words) for column in columns]
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    lines = [line for line, _ in Table(columns, heads, rows).lines(width)]
    assert all(len(line) <= width for line in lines)
    found = Counter(" ".join(lines).split())
    wanted = Counter(cell for row in rows for cell in row[texts:])
    assert not wanted - found


def test_wrapped() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped("  a word", 4) == ["  a", "  wo", "  rd"]
    assert wrapped("", 4) == [""]
