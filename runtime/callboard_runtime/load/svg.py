"""Plots as SVG text, to be put into a page or a file: nothing is loaded, colours follow the reader's light or dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
COLOURS = ("#2f6fde", "#d9692b", "#2a9d6f", "#a04fc4", "#b8860b", "#c43f5e", "#5b6b7b")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points in the order in which a line is to join them."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values onto pixels from `start` to `end`; a logarithmic one takes values above 0 alone."""

    label: str
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        share = (self._scale(max(value, self.low)) - low) / ((high - low) or 1)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            return [10.0**decade for decade in decades if self.low <= 10.0**decade <= self.high]
        return _round_steps(self.low, self.high)

    def _scale(self, value: float) -> float:
        return log10(value) if self.logarithmic else value


def lines(title: str, x: str, y: str, series: Sequence[Series], *, log_y: bool = False) -> str:
    """One line per series."""
    return _plot(title, x, y, series, log_y, _line)


def dots(title: str, x: str, y: str, series: Sequence[Series], *, log_y: bool = False) -> str:
    """One dot per point."""
    return _plot(title, x, y, series, log_y, _dots)


def bars(title: str, unit: str, rows: Sequence[tuple[str, float]]) -> str:
    """One horizontal bar per named value."""
    height, label_width = TOP + 26 * len(rows) + 10, 230
    most = max((value for _, value in rows), default=1) or 1
    room = WIDTH - label_width - 110
    parts = [_text(LEFT - 48, 20, title, "title")]
    for index, (name, value) in enumerate(rows):
        y, width = TOP + 26 * index, max(1.0, value / most * room)
        parts.append(_text(label_width - 8, y + 14, name, "end"))
        parts.append(f'<rect x="{label_width}" y="{y}" width="{width:.1f}" height="18" fill="{COLOURS[0]}"/>')
        parts.append(_text(label_width + width + 6, y + 14, f"{number(value)} {unit}", "start"))
    return _svg(height, parts, title)


def _plot(
    title: str,
    x: str,
    y: str,
    series: Sequence[Series],
    log_y: bool,
    draw: Callable[[Sequence[Point], str], str],
) -> str:
    points = [point for one in series for point in one.points]
    if not points:
        return _svg(80, [_text(16, 20, title, "title"), _text(16, 52, "no data", "start")], title)
    across = _axis(x, [p[0] for p in points], LEFT, WIDTH - RIGHT, False)
    up = _axis(y, [p[1] for p in points], HEIGHT - BOTTOM, TOP, log_y)
    parts = [_text(16, 20, title, "title"), *_grid(across, up), *_legend(series)]
    for index, one in enumerate(series):
        placed = [(across.at(px), up.at(py)) for px, py in one.points]
        parts.append(draw(placed, COLOURS[index % len(COLOURS)]))
    return _svg(HEIGHT, parts, title)


def _axis(label: str, values: Sequence[float], start: float, end: float, logarithmic: bool) -> Axis:
    if logarithmic:
        low = 10.0 ** floor(log10(max(min(values), 1e-6)))
        return Axis(label, low, max(max(values), low * 10), start, end, True)
    return Axis(label, min(0.0, *values, 0.0), max(max(values), 1e-9), start, end)


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = [
        _text((LEFT + WIDTH) / 2, HEIGHT - 8, across.label, "middle"),
        _text(LEFT - 48, TOP - 2, up.label, "start"),
    ]
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, number(tick), "end"))
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(_text(x, HEIGHT - BOTTOM + 16, number(tick), "middle"))
    return parts


def _legend(series: Sequence[Series]) -> list[str]:
    parts: list[str] = []
    x = WIDTH - RIGHT
    for index, one in reversed(list(enumerate(series))):
        x -= 7 * len(one.name) + 26
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="11" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 15, 20, one.name, "start"))
    return parts


def _line(points: Sequence[Point], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>'


def _dots(points: Sequence[Point], colour: str) -> str:
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in points)
    return f'<g fill="{colour}" fill-opacity="0.55">{circles}</g>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    anchor = f' text-anchor="{kind}"' if kind in ("end", "middle") else ""
    style = ' class="title"' if kind == "title" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchor}{style}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    style = (
        "text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:13px}"
        ".grid{stroke:#8884;stroke-width:1}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img"'
    return f'{head} aria-label="{escape(title)}"><style>{style}</style>{"".join(parts)}</svg>'


def _round_steps(low: float, high: float) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / 5 or 1
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = ceil(low / step)
    return [step * index for index in range(first, floor(high / step) + 1)]


def number(value: float) -> str:
    """Short, without an exponent for what people read."""
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
