"""Records `milbuild demo` as it runs in a terminal, for the image in the README: python docs/record_demo.py"""

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110


def record() -> str:
    """The terminal's output of one run, with its colours."""
    os.environ["COLUMNS"] = str(WIDTH)
    output = io.BytesIO()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 1 << 12)
        output.write(data)
        return data

    status = pty.spawn([sys.executable, "-m", "milbuild", "demo"], read)
    if status != 0:
        sys.exit("the demo failed; no image is made of that")
    return output.getvalue().decode()


def settle(text: str) -> str:
    """What stands on the screen at the end: progress bars and spinners erase themselves."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        # A line that was drawn again counts as last drawn; one that the next goes back up to is erased.
        if "\x1b[1A" in line and lines:
            lines.pop()
        shown = re.split(r"\r|\x1b\[2K|\x1b\[1A", line)[-1]
        lines.append(re.sub(r"\x1b\[\?25[lh]", "", shown))
    return "\n".join(lines).strip("\n")


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ milbuild demo", "bold"))
    console.print(Text.from_ansi(settle(record())))
    path = Path(__file__).parent / "demo.svg"
    console.save_svg(str(path), title="milbuild")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
