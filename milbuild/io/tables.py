"""Tables of any width: no number is ever cut or broken, however narrow the terminal is."""

from collections.abc import Iterator, Sequence
from typing import Any

GAP = 2
NARROWEST = 12  # columns of a text that is wrapped beside numbers


class Table:
    """Rows under heads, for rich to print. `columns` has a letter for each: t text (it may be wrapped), n a number, l a word
    that is not wrapped. `styles` are those of the rows, where they have one.

    What is too wide has its texts wrapped, then above its numbers, and at last a line for each number.
    """

    def __init__(
        self,
        columns: str,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Sequence[str | None] | None = None,
    ) -> None:
        self.columns, self.heads, self.rows = columns, list(heads), [list(row) for row in rows]
        self.styles = styles or [None] * len(self.rows)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        for line, style in self.lines(options.max_width):
            yield Text(line, style or "", no_wrap=True, overflow="ignore")

    def lines(self, width: int) -> list[tuple[str, str | None]]:
        """The lines of the table with their styles; longer than `width` only for a number that is."""
        natural = [max(map(_length, [head, *cells])) for head, cells in zip(self.heads, self._cells(), strict=True)]
        texts = [number for number, kind in enumerate(self.columns) if kind == "t"]
        fixed = [number for number, kind in enumerate(self.columns) if kind != "t"]
        # A head of several words can take several lines.
        for number in fixed if _total(natural) > width else ():
            natural[number] = max(map(_length, [*self.heads[number].split(), *self._cells()[number]]))
        least = list(natural)
        for number in texts:
            least[number] = min(natural[number], NARROWEST)
        if _total(least) <= width:
            return self._beside(_shared(natural, texts, width - _total(natural)))
        if fixed and texts and _total([natural[number] for number in fixed]) + GAP <= width:
            return self._above(natural, texts, fixed, width)
        return self._below(texts, fixed, width)

    def _cells(self) -> list[list[str]]:
        return [[row[number] for row in self.rows] for number in range(len(self.columns))]

    def _beside(self, widths: list[int], columns: list[int] | None = None, indent: int = 0) -> list[tuple[str, Any]]:
        shown = list(range(len(self.columns))) if columns is None else columns
        lines: list[tuple[str, Any]] = []
        heads = [(self.heads, "bold")] if any(self.heads) else []
        for row, style in [*heads, *zip(self.rows, self.styles, strict=True)]:
            cells = [wrapped(row[number], widths[number]) for number in shown]
            for at in range(max(map(len, cells))):
                parts = []
                for number, cell in zip(shown, cells, strict=True):
                    part = cell[at] if at < len(cell) else ""
                    space = " " * (widths[number] - _length(part))
                    parts.append(space + part if self.columns[number] == "n" else part + space)
                lines.append((" " * indent + (" " * GAP).join(parts).rstrip(), style))
        return lines

    def _above(self, natural: list[int], texts: list[int], fixed: list[int], width: int) -> list[tuple[str, Any]]:
        """The texts of each row in lines of their own, its numbers under the heads below it."""
        numbers = iter(self._grouped(self._beside(natural, fixed, GAP), fixed, natural))
        lines = [*self._titles(texts, width), *(next(numbers) if any(self.heads) else [])]
        for row, style in zip(self.rows, self.styles, strict=True):
            lines += [(line, style) for line in wrapped(_joined(row, texts), width)]
            lines += next(numbers)
        return lines

    def _grouped(
        self, lines: list[tuple[str, Any]], fixed: list[int], widths: list[int]
    ) -> list[list[tuple[str, Any]]]:
        """The lines of `_beside`, row by row."""
        groups, at = [], 0
        for row in [*([self.heads] if any(self.heads) else []), *self.rows]:
            count = max(len(wrapped(row[number], widths[number])) for number in fixed)
            groups.append(lines[at : at + count])
            at += count
        return groups

    def _titles(self, texts: list[int], width: int) -> list[tuple[str, Any]]:
        """The heads of the texts."""
        joined = _joined(self.heads, texts)
        return [(line, "bold") for line in wrapped(joined, width)] if joined else []

    def _below(self, texts: list[int], fixed: list[int], width: int) -> list[tuple[str, Any]]:
        """A line for each number, with its head."""
        lines = self._titles(texts, width)
        for row, style in zip(self.rows, self.styles, strict=True):
            lines += [(line, style) for line in wrapped(_joined(row, texts), width)] if texts else []
            for number in fixed:
                if not row[number]:
                    continue
                head, space = self.heads[number], width - GAP - _length(row[number])
                if _length(head) + 1 <= space:
                    lines.append((f"{' ' * GAP}{head}{' ' * (space - _length(head))}{row[number]}", style))
                else:
                    lines += [(" " * GAP + line, style) for line in wrapped(head, max(1, width - GAP))]
                    lines.append((" " * max(0, width - _length(row[number])) + row[number], style))
        return lines


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text: broken between words, and a word where it is longer than a line; the next ones are as indented."""
    indent = " " * min(len(text) - len(text.lstrip(" ")), max(0, width - 1))
    lines, line = [], indent
    for word in text.split():
        if line.strip() and _length(line) + 1 + _length(word) <= width:
            line += f" {word}"
            continue
        if line.strip():
            lines.append(line)
        line = indent + word
        while _length(line) > width:
            at = max(1, width)
            while at > 1 and _length(line[:at]) > width:
                at -= 1
            lines.append(line[:at])
            line = indent + line[at:]
    return [*lines, line]


def _joined(row: list[str], texts: list[int]) -> str:
    return ", ".join(row[number] for number in texts if row[number])


def _shared(natural: list[int], texts: list[int], space: int) -> list[int]:
    """Widths in which texts give up what is missing, the widest first."""
    widths = list(natural)
    while space < 0:
        number = max(texts, key=lambda each: widths[each])
        widths[number] -= 1
        space += 1
    return widths


def _total(widths: list[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _length(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
