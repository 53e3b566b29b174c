"""A graph of a package's functions: a line for each step, repeated layers once, values that skip steps on the left.

Everything is laid out in points by the measured width of each text, so that none is cut and no two overlap.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from milbuild.inspection.costs import Ledger, Unknown, flat
from milbuild.inspection.outline import Group, Row, outline, rows
from milbuild.inspection.report import Shape, ledgers, scaled
from milbuild.io.plots import check_plot, save
from milbuild.package.graph import pattern
from milbuild.package.reader import Operation, Source, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "product": "#3b6ea8",
    "norm": "#5b9a68",
    "activation": "#d08a2e",
    "table": "#8a62a8",
    "sum": "#c2553f",
    "layer": "#3b6ea8",
    "other": "#9aa3ad",
    "input": "#2f8f83",
    "state": "#8a62a8",
    "output": "#2f8f83",
}
WORDS = {
    "product": "product",
    "norm": "norm",
    "activation": "activation, pool",
    "table": "table",
    "sum": "sum",
    "input": "input, output",
    "state": "state",
}
EDGES = {"flow": "#4d5966", "sum": "#c2553f", "state": "#8a62a8", "input": "#2f8f83", "side": "#b4bcc5"}
INK, FAINT, FRAME = "#1f2933", "#5f6b77", "#d5dbe1"
NOTES = (
    "MMACs: million multiply-accumulates of a call. MB: the weights that are read, in full. Of one layer where layers repeat.",
    "Bars are shares of the whole function, all layers together.",
)
LANES = 9  # lines side by side; of more, the longest are left out
WRAP = 44  # characters of operation types in a line
LANE, GAP, MARGIN = 9.0, 14.0, 22.0
HEIGHT, THIN, LINE, HEAD = 20.0, 13.0, 10.5, 19.0
BAR = 46.0


@dataclass(frozen=True)
class Text:
    x: float
    y: float  # of the middle, from the top
    text: str
    size: float
    color: str = INK
    weight: str = "normal"
    align: str = "left"


@dataclass
class Page:
    """What is drawn, in points from the upper left corner."""

    width: float = 0.0
    height: float = 0.0
    texts: list[Text] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str, str, float]] = field(
        default_factory=list
    )  # x, y, w, h, fill, edge, round
    lines: list[tuple[list[tuple[float, float]], str, bool]] = field(default_factory=list)  # points, colour, arrow
    dots: list[tuple[float, float, str, float]] = field(default_factory=list)


def draw(package: Source, path: str | os.PathLike[str], shapes: dict[str, Shape] | None = None) -> None:
    """Draws a package's functions; the ending of `path` says the format: svg, png, pdf.

    A function that has the same products in the same order as one that is drawn already, at other sizes, is only named.
    Raises `milbuild.Error` as `inspect` does, and for a path that no image can be written to.
    """
    check_plot(path, "a graph")
    from matplotlib import rc_context

    figure = _figure(layout(package, shapes))
    # The same graph has the same bytes each time: no date, no random names.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(Path(path).suffix.lower())
    with rc_context({"svg.hashsalt": "milbuild"}):
        save(figure, path, "a graph", dpi=144, metadata=undated)


def layout(package: Source, shapes: dict[str, Shape] | None = None) -> Page:
    """The page of a package: its functions side by side."""
    read, found = ledgers(package, shapes)
    page, ruler = Page(), _Ruler()
    drawn: dict[str, _Panel] = {}
    alike: dict[str, list[str]] = {}
    products: dict[tuple[str, ...], str] = {}
    names = sorted(found, key=lambda name: name != read.default_function)
    for name in names:
        ledger = found[name][0]
        key = tuple(op.name for op in ledger.graph.work if op.type in ("linear", "conv", "matmul"))
        if key and key in products:
            alike.setdefault(products[key], []).append(name)
            continue
        products[key] = name
        drawn[name] = _Panel(ledger, ruler)
    x, top = MARGIN, MARGIN + 30
    page.texts.append(Text(MARGIN, MARGIN + 6, read.path.name, 15, weight="bold"))
    for name, panel in drawn.items():
        also = "; ".join(f"{other}: the same layers at other sizes" for other in alike.get(name, []))
        width, height = panel.place(page, x, top, f"function {name}", also)
        x += width + 2 * GAP
        page.height = max(page.height, top + height)
    page.width = max(x - 2 * GAP, MARGIN + ruler.width(read.path.name, 15, "bold"))
    _legend(page, ruler, {line.kind for panel in drawn.values() for line in panel.lines})
    page.width += MARGIN
    page.height += MARGIN
    return page


def _legend(page: Page, ruler: "_Ruler", kinds: set[str]) -> None:
    """Wrapped to the page's width, below everything."""
    x, y = MARGIN, page.height + 2 * GAP
    entries = [(word, COLOURS[kind], True) for kind, word in WORDS.items() if kind in kinds]
    entries += [("residual connection", EDGES["sum"], False), ("read by a later step", EDGES["side"], False)]
    for word, color, box in entries:
        width = 14 + ruler.width(word, 7.5) + 12
        if x + width > page.width and x > MARGIN:
            x, y = MARGIN, y + 13
        if box:
            page.boxes.append((x, y - 4, 8, 8, color, color, 2))
        else:
            page.lines.append(([(x - 1, y), (x + 9, y)], color, False))
        page.texts.append(Text(x + 13, y, word, 7.5, FAINT))
        x += width
    for note in NOTES:
        y += 13
        page.texts.append(Text(MARGIN, y, note, 7.5, FAINT))
        page.width = max(page.width, MARGIN + ruler.width(note, 7.5))
    page.height = y + 4


class _Ruler:
    """Widths of texts, as they will be drawn."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._renderer = FigureCanvasAgg(Figure(dpi=72)).get_renderer()  # type: ignore[no-untyped-call]

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        from matplotlib.font_manager import FontProperties

        if not text:
            return 0.0
        # At four times the size: hinting rounds the widths of small letters.
        found = self._renderer.get_text_width_height_descent(text, FontProperties(size=4 * size, weight=weight), False)
        return 1.02 * float(found[0]) / 4


@dataclass
class _Line:
    """A line of the graph: an input, a state, a row, the head of a group, an output."""

    kind: str
    label: str
    detail: list[str]  # lines of it
    depth: int
    shape: str = ""
    macs: int | None = None
    bytes: int = 0
    times: int = 1
    operations: list[Operation] = field(default_factory=list)
    dot: bool = True
    top: float = 0.0
    height: float = 0.0

    @property
    def middle(self) -> float:
        return self.top + (HEAD if self.kind == "head" else self.height) / 2


@dataclass
class _Frame:
    first: int
    last: int
    depth: int
    folded: bool


class _Panel:
    """One function."""

    def __init__(self, ledger: Ledger, ruler: _Ruler) -> None:
        self.ledger, self.ruler = ledger, ruler
        self.lines: list[_Line] = []
        self.frames: list[_Frame] = []
        self.row_of: dict[int, int] = {}  # id of an operation -> its line
        self.folds: dict[int, Group] = {}  # line of a head -> the group it folds
        self.named: dict[str, int] = {}  # inputs and states -> their lines
        self.outside: dict[int, int] = {}  # id of an operation that is not drawn -> the line of that which is
        self._features()
        for step in outline(ledger):
            self._add(step, 0)
        self._outputs()
        self.edges = self._edges()

    # Lines

    def _features(self) -> None:
        for value in self.ledger.graph.function.inputs:
            kind = "state" if value.is_state else "input"
            self._feature(kind, value)
        self.lines.sort(key=lambda line: line.kind == "state")
        places = {line.label: at for at, line in enumerate(self.lines)}
        self.named = {value.name: places[pattern(value.name)] for value in self.ledger.graph.function.inputs}

    def _feature(self, kind: str, value: Value) -> None:
        label = pattern(value.name)
        known = next((line for line in self.lines if line.label == label and line.kind == kind), None)
        if known is None:
            self.lines.append(_Line(kind, label, [kind], 0, f"{value.dtype.lower()} {self._shape(value.name)}"))
        else:
            count = int(re.sub(r"\D", "", known.detail[0]) or 1) + 1
            known.detail = [f"{count} {kind}s"]

    def _add(self, child: Row | Group, depth: int) -> None:
        if isinstance(child, Row):
            self._row(child, depth)
            return
        head = len(self.lines)
        folded = child.times > 1
        low, high = child.counts
        counted = f"{low} operations" if low == high else f"{low} to {high} operations"
        if folded:
            detail = f"{child.times} times, {counted}{' each' if folded else ''}"
        else:
            detail = "" if child.label and depth else counted
        self.lines.append(_Line("head", child.label, [detail] if detail else [], depth, dot=folded))
        if folded:
            self.lines[head].macs = self._macs(child.operations)
            self.lines[head].bytes = self.ledger.stored(*child.operations)
            self.lines[head].times = next((row.times for row in rows(child.children)), 1)
        for inner in child.children:
            self._add(inner, depth + 1)
        last = len(self.lines) - 1
        self.frames.append(_Frame(head, last, depth, folded))
        if folded:
            self.folds[head] = child
            for operation in child.others:
                same = child.same.get(id(operation))
                at = self.row_of.get(id(same), last) if same is not None else last
                self.outside.update((id(one), at) for one in flat([operation]))

    def _row(self, row: Row, depth: int) -> None:
        last = next((op for op in reversed(row.operations) if op.outputs), None)
        types = dict.fromkeys(op.type for op in row.operations)
        if row.note:
            detail = [f"{row.note}, {len(row.operations)} operations"]
        else:
            counts = {kind: sum(op.type == kind for op in row.operations) for kind in types}
            detail = _wrapped([kind if count == 1 else f"{count} {kind}" for kind, count in counts.items()])
        self.lines.append(
            _Line(
                row.kind,
                row.label,
                detail,
                depth,
                "" if last is None else self._shape(last.outputs[0].name),
                self._macs(row.operations),
                self.ledger.stored(*row.operations),
                row.times,
                row.operations,
            )
        )
        for operation in flat(row.operations):
            self.row_of[id(operation)] = len(self.lines) - 1

    def _outputs(self) -> None:
        first = len(self.lines)
        inputs, self.lines = self.lines, []
        for name in dict.fromkeys(self.ledger.graph.function.outputs):
            value = self.ledger.graph.values.get(name)
            if value is not None:
                self._feature("output", value)
        self.outputs = {line.label: first + at for at, line in enumerate(self.lines)}
        self.lines = inputs + self.lines

    def _macs(self, operations: list[Operation]) -> int | None:
        try:
            return sum(self.ledger.macs(operations).values())
        except Unknown:
            return None

    def _shape(self, name: str) -> str:
        try:
            return f"({', '.join(map(str, self.ledger.shape(name)))})"
        except Unknown:
            value = self.ledger.graph.values.get(name)
            if value is None or value.shape is None:
                return ""
            return f"({', '.join('?' if d is None else str(d) for d in value.shape)})"

    # Edges

    def _edges(self) -> dict[tuple[int, int], str]:
        """(from, to) -> sum, state, input or flow."""
        found: dict[tuple[int, int], str] = {}
        carried = {head: self._carried(group) for head, group in self.folds.items()}
        for at, line in enumerate(self.lines):
            for operation in flat(line.operations):
                for operand, name in _operands(operation):
                    # What a layer has of the one before it, the first has from outside: it goes in at the head.
                    inner = [head for head, known in carried.items() if (id(operation), *operand) in known]
                    source = inner[-1] if inner else self._source(name)
                    if source is not None and source != at:
                        self._join(found, source, at)
        for head, group in self.folds.items():
            for operation in self.ledger.graph.work:
                drawn = group.same.get(id(operation), operation)
                for operand, name in _operands(operation):
                    if group.layer.get(id(operation)) == 0 and (id(drawn), *operand) in carried[head]:
                        source = self._source(name)
                        if source is not None and source < head:
                            self._join(found, source, head)
        for name in dict.fromkeys(self.ledger.graph.function.outputs):
            end, source = self.outputs.get(pattern(name)), self._source(name)
            if end is not None and source is not None:
                found[source, end] = "flow"
        return found

    def _join(self, found: dict[tuple[int, int], str], source: int, at: int) -> None:
        known = self.lines[source].kind
        kind = known if known in ("state", "input") else "sum" if self.lines[at].kind == "sum" else "flow"
        found.setdefault((source, at), kind)

    def _carried(self, group: Group) -> set[tuple[int, str, int]]:
        """(id of an operation that is drawn, parameter, place) of what a layer reads of another one of the fold."""
        found = set()
        for operation in self.ledger.graph.work:
            layer = group.layer.get(id(operation))
            if layer is not None:
                drawn = group.same.get(id(operation), operation)
                for operand, name in _operands(operation):
                    other = group.layer.get(id(self.ledger.graph.makers.get(name)), layer)
                    if other != layer:
                        found.add((id(drawn), *operand))
        return found

    def _source(self, name: str) -> int | None:
        maker = self.ledger.graph.makers.get(name)
        if maker is None:
            return self.named.get(name)
        return self.row_of.get(id(maker), self.outside.get(id(maker)))

    def _lanes(self) -> list[tuple[int, int, list[int], str]]:
        """(lane, from, to, kind) of what does not go to the next line; what comes from one line goes together."""
        dots = [at for at, line in enumerate(self.lines) if line.dot]
        place = {at: number for number, at in enumerate(dots)}
        spans: dict[tuple[int, str], list[int]] = {}
        for (source, to), kind in self.edges.items():
            if source < to and place[to] - place[source] > 1:
                spans.setdefault((source, "side" if kind == "flow" else kind), []).append(to)
        lanes: list[list[tuple[int, int]]] = []
        found = []
        for (source, kind), targets in sorted(spans.items(), key=lambda span: (max(span[1]) - span[0][0], span[0])):
            last = max(targets)
            # Two lines may share a lane where one ends as the other begins.
            free = (n for n, taken in enumerate(lanes) if all(last <= first or end <= source for first, end in taken))
            lane = next(free, len(lanes))
            if lane == LANES:
                continue
            if lane == len(lanes):
                lanes.append([])
            lanes[lane].append((source, last))
            found.append((lane, source, sorted(targets), kind))
        return found

    # On the page

    def place(self, page: Page, x: float, y: float, title: str, also: str) -> tuple[float, float]:
        """Adds the panel at a place; gives its width and height."""
        width = self.ruler.width
        lanes = self._lanes()
        spine = x + LANE * (1 + max((lane for lane, *_ in lanes), default=-1)) + 6
        left = spine + 12
        costs = (sum(line.macs or 0 for line in self._own()), self.ledger.stored(*self.ledger.graph.work))
        count = len(self.ledger.graph.work)
        head = f"{count:,} operations, {scaled(costs[0])} MMACs, {scaled(costs[1])} MB of weights"
        page.texts.append(Text(x, y, title, 11, weight="bold"))
        page.texts.append(Text(x, y + 15, head, 8.5, FAINT))
        top = y + 30
        if also:
            page.texts.append(Text(x, y + 28, also, 8.5, FAINT))
            top += 13
        labels = max(self._indent(line) + self._text_width(line) for line in self.lines)
        shapes = max(width(line.shape, 7.5) for line in self.lines)
        shape_x = left + labels + GAP
        columns = [shape_x + shapes + 2 * GAP]
        for part in ("macs", "bytes"):
            numbers = max(width(self._figure(line, part), 7.5) for line in self.lines)
            columns.append(columns[-1] + BAR + 6 + max(numbers, 36) + GAP)
        right = columns[-1] - GAP + 8
        for at, part in enumerate(("MMACs", "MB")):
            page.texts.append(Text(columns[at + 1] - GAP, top + 4, part, 7.5, FAINT, align="right"))
        top += 12
        self._stack(top)
        bottom = self.lines[-1].top + self.lines[-1].height if self.lines else top
        for frame in sorted(self.frames, key=lambda frame: frame.depth):
            inset = 7 * frame.depth
            first, last = self.lines[frame.first], self.lines[frame.last]
            ending = last.top + last.height + 4 * (1 + self._nested(frame))
            fill = "#f4f7fa" if frame.depth % 2 == 0 else "#ffffff"
            box = (left + inset, first.top, right - left - 2 * inset + 8, ending - first.top, fill, FRAME, 5.0)
            if frame.folded:  # a second sheet under the first
                page.boxes.append((box[0] + 4, box[1] + 4, *box[2:4], "#e9eef3", FRAME, 5.0))
            page.boxes.append(box)
        for line in self.lines:
            self._paint(page, line, left, shape_x, columns, costs)
        self._connect(page, spine, lanes)
        wide = max(x + width(head, 8.5), x + width(title, 11, "bold"), x + width(also, 8.5), right + 12)
        return wide - x, bottom + 8 - y

    def _own(self) -> Iterator[_Line]:
        """Lines with what they count for all their layers."""
        for line in self.lines:
            if line.kind != "head":
                yield _Line(line.kind, "", [], 0, macs=(line.macs or 0) * line.times)

    def _nested(self, frame: _Frame) -> int:
        return sum(1 for other in self.frames if other.last == frame.last and other.depth > frame.depth)

    def _stack(self, top: float) -> None:
        closing: dict[int, int] = {}
        for frame in self.frames:
            closing[frame.last] = closing.get(frame.last, 0) + 1
        for at, line in enumerate(self.lines):
            more = LINE * (len(line.detail) - 1)
            line.height = (
                HEAD if line.kind == "head" else (THIN if line.kind == "other" else HEIGHT - 4) + max(0.0, more)
            )
            line.top = top
            top += line.height + 4 + 5 * closing.get(at, 0)

    def _indent(self, line: _Line) -> float:
        return 7.0 * line.depth + 7

    def _text_width(self, line: _Line) -> float:
        size = _sizes(line)
        label = self.ruler.width(line.label, size[0], _weight(line))
        detail = max((self.ruler.width(text, size[1]) for text in line.detail), default=0.0)
        return 8 + label + (6 if line.label else 0) + detail

    def _figure(self, line: _Line, part: str) -> str:
        number = getattr(line, part)
        return scaled(number) if number else ""

    def _paint(
        self, page: Page, line: _Line, left: float, shape_x: float, columns: list[float], costs: tuple[int, int]
    ) -> None:
        x, y = left + self._indent(line), line.middle
        sizes = _sizes(line)
        weight = _weight(line)
        if line.kind in ("input", "state", "output"):
            wide = self._text_width(line) + 6
            page.boxes.append((x - 4, line.top, wide, line.height, "#ffffff", COLOURS[line.kind], line.height / 2))
        elif line.kind not in ("head", "other"):
            page.boxes.append((x, line.top + 2, 3.5, line.height - 4, COLOURS[line.kind], COLOURS[line.kind], 1))
        x += 8
        if line.label:
            ink = FAINT if line.kind == "other" else INK
            page.texts.append(Text(x, y, line.label, sizes[0], ink, weight))
            x += self.ruler.width(line.label, sizes[0], weight) + 6
        start = y - LINE * (len(line.detail) - 1) / 2
        for number, text in enumerate(line.detail):
            page.texts.append(Text(x, start + number * LINE, text, sizes[1], FAINT))
        if line.shape:
            page.texts.append(Text(shape_x, y, line.shape, 7.5, FAINT))
        for at, part in enumerate(("macs", "bytes")):
            number = getattr(line, part)
            if not number:
                continue
            page.texts.append(Text(columns[at + 1] - GAP, y, self._figure(line, part), 7.5, INK, align="right"))
            if line.kind != "head" and costs[at]:
                share = min(1.0, number * line.times / costs[at])
                page.boxes.append((columns[at], y - 3, BAR, 6, "#e9eef3", "#e9eef3", 0))
                page.boxes.append(
                    (columns[at], y - 3, max(0.5, BAR * share), 6, COLOURS["product"], COLOURS["product"], 0)
                )

    def _connect(self, page: Page, spine: float, lanes: list[tuple[int, int, list[int], str]]) -> None:
        dots = [at for at, line in enumerate(self.lines) if line.dot]
        for one, two in itertools.pairwise(dots):
            if (one, two) in self.edges:
                kind = self.lines[one].kind
                color = EDGES[kind] if kind in ("input", "state") else EDGES["flow"]
                page.lines.append(([(spine, self.lines[one].middle), (spine, self.lines[two].middle)], color, False))
        for lane, source, targets, kind in lanes:
            at = spine - LANE * (lane + 1)
            start = self.lines[source].middle
            for target in targets:
                end = self.lines[target].middle
                page.lines.append((_bent(spine, at, start, end), EDGES[kind], True))
        for at in dots:
            line = self.lines[at]
            color = COLOURS.get(line.kind, EDGES["flow"])
            page.dots.append((spine, line.middle, color, 1.8 if line.kind == "other" else 3.0))


def _operands(operation: Operation) -> Iterator[tuple[tuple[str, int], str]]:
    """((parameter, place), name) of every value that is read by its name."""
    for parameter, entries in operation.inputs.items():
        for place, entry in enumerate(entries):
            if isinstance(entry, str):
                yield (parameter, place), entry


def _bent(spine: float, lane: float, start: float, end: float) -> list[tuple[float, float]]:
    """From one dot to the left, down the lane, and back to another dot, with cut corners."""
    corner = min(5.0, (end - start) / 4, spine - lane)
    return [(spine, start), (lane + corner, start), (lane, start + corner), (lane, end - corner), (lane + corner, end),
            (spine - 3.5, end)]  # fmt: skip


def _sizes(line: _Line) -> tuple[float, float]:
    return {"head": (9.0, 8.0), "other": (7.5, 7.5)}.get(line.kind, (8.5, 8.0))


def _weight(line: _Line) -> str:
    return "normal" if line.kind == "other" else "bold"


def _wrapped(words: list[str]) -> list[str]:
    lines = [""]
    for number, word in enumerate(words):
        piece = word + ("," if number < len(words) - 1 else "")
        if lines[-1] and len(lines[-1]) + len(piece) > WRAP:
            lines.append(piece)
        else:
            lines[-1] = f"{lines[-1]} {piece}".strip()
    return lines


def _figure(page: Page) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Outline

    figure = Figure(figsize=(page.width / 72, page.height / 72), dpi=72, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, page.width)
    axes.set_ylim(page.height, 0)
    axes.axis("off")
    for x, y, width, height, fill, edge, radius in page.boxes:
        radius = min(radius, width / 2, height / 2)
        style = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
        axes.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor=fill, edgecolor=edge, linewidth=0.8))
    for points, color, _ in page.lines:
        axes.add_patch(PathPatch(Outline(points), facecolor="none", edgecolor=color, linewidth=1.2, joinstyle="round"))
    for points, color, arrow in page.lines:
        if arrow:
            (x, y), size = points[-1], 3.2
            head = Outline([(x + 1, y), (x - size, y - size * 0.6), (x - size, y + size * 0.6), (x + 1, y)])
            axes.add_patch(PathPatch(head, facecolor=color, edgecolor=color, linewidth=0.4))
    for x, y, color, radius in page.dots:
        axes.add_patch(Circle((x, y), radius, facecolor=color, edgecolor="white", linewidth=0.7))
    for text in page.texts:
        axes.text(text.x, text.y, text.text, fontsize=text.size, color=text.color, fontweight=text.weight,
                  ha=text.align, va="center_baseline", parse_math=False)  # fmt: skip
    return figure
