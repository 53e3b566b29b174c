"""Writes README's table of options from the options themselves: python -m tests.docs.options"""

from pathlib import Path

from milbuild.program.options import table

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- written by python -m tests.docs.options -->\n", "<!-- end of the options -->"
# Where more is said of one.
PAGES = {"pooling": "sentences", "interface": "whisperkit", "lint": "lint"}


def document() -> str:
    lines = ["| option | what it is | words | default |", "|---|---|---|---|"]
    for name, (_, option) in table().items():
        words = option.words.split("|") if isinstance(option.words, str) else option.words
        spelled = ", ".join(f"`{word}`" for word in words if word)
        flag = f" (`{option.flag}`)" if option.flag else ""
        more = f" ([more](docs/{PAGES[name]}.md))" if name in PAGES else ""
        lines.append(f"| `{name}`{flag} | {option.help}{more} | {spelled} | {option.usually} |")
    return "\n".join(lines) + "\n"


def within(readme: str) -> tuple[str, str, str]:
    """README before the table, the table, and what comes after it."""
    before, rest = readme.split(BEGIN)
    table_, after = rest.split(END)
    return before + BEGIN, table_, END + after


if __name__ == "__main__":
    before, _, after = within(README.read_text())
    README.write_text(before + document() + after)
