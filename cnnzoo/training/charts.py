"""Charts as SVG elements, to be put into a page whose style sheet says what the classes look like."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 88, 10, 34
_LABEL_GAP = 15
_LEAST_SPAN = 1e-6  # of the largest value: less is drawn as a level line, over an axis from 0
_LEAST_VALUE = 1e-30  # less is drawn as 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart: its label, which is also the CSS class that colors it, and its points (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = True


def draw_lines(
    title: str, lines: Sequence[Line], *, format_y: Callable[[float], str], last: float, mark: float = 0
) -> str:
    """Return a chart of lines over epochs.

    Parameters
    ----------
    title : str
        What the chart shows, for those who cannot see it.
    lines : sequence of Line
        Each with one point or more, all finite.
    format_y : callable
        Writes a value of a point.
    last : float
        The epoch at which the horizontal axis ends.
    mark : float
        The epoch at which a vertical line is drawn; 0: nowhere.
    """
    points = [point for line in lines for point in line.points]
    low_x, high_x = min(x for x, _ in points), last
    x_ticks = _choose_ticks(low_x, high_x, 8, whole=True)
    y_ticks = _choose_ticks(min(y for _, y in points), max(y for _, y in points), 5)
    digits = max(0, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9))
    low_y, high_y = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        up = (y - low_y) / (high_y - low_y)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{tick:.{digits}f}</text>')
    for tick in x_ticks:
        x, _ = place(tick, low_y)
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick middle" x="{middle:.1f}" y="{_HEIGHT - 2}">epoch</text>')
    if mark:
        x, _ = place(mark, low_y)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for line in lines:
        parts += _draw_line(line, place, format_y)
    parts += _label_ends(lines, place)
    return _svg(title, _WIDTH, _HEIGHT, parts)


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return a matrix of how often each class (row) was taken for each (column): int64[classes, classes].

    The more of its row a cell has, the fuller its color, by the square root, so that rare mistakes show.
    """
    count = len(classes)
    with_numbers = count <= 20
    side = 44 if with_numbers else 15
    margin = 14 + 7 * max(map(len, classes))
    totals = np.maximum(confusion.sum(axis=1), 1)
    parts = []
    for row, name in enumerate(classes):
        y = margin + row * side
        parts.append(f'<text class="tick end" x="{margin - 8}" y="{y + side / 2 + 4:g}">{escape(name)}</text>')
        x = margin + row * side + side / 2
        turned = f'transform="rotate(-90 {x + 4:g} {margin - 8})"' if margin > side or not with_numbers else ""
        anchor = "start" if turned else "middle"
        shift = 4 if turned else 0
        parts.append(f'<text class="tick {anchor}" x="{x + shift:g}" y="{margin - 8}" {turned}>{escape(name)}</text>')
        for column, images in enumerate(confusion[row].tolist()):
            share = images / totals[row]
            said = f"{name} taken for {classes[column]}: {images:,} ({share:.1%})"
            kind = "right" if row == column else "wrong"
            x = margin + column * side
            parts.append(
                f'<rect class="cell {kind}" x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" rx="2" '
                f'fill-opacity="{math.sqrt(share):.3f}"><title>{escape(said)}</title></rect>'
            )
            if with_numbers and images:
                strong = " strong" if math.sqrt(share) > 0.6 else ""
                middle_x, middle_y = x + (side - 1) / 2, y + side / 2 + 4
                parts.append(f'<text class="number{strong}" x="{middle_x:g}" y="{middle_y:g}">{images}</text>')
    extent = margin + count * side + 2
    return _svg("Confusion matrix: rows are the classes of the images, columns what they were taken for",
                extent, extent, parts)  # fmt: skip


def _draw_line(
    line: Line, place: Callable[[float, float], tuple[float, float]], format_y: Callable[[float], str]
) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line.points))
    parts = [f'<polyline class="line {escape(line.label)}" points="{path}"/>']
    if line.dots:
        radius = 3 if len(line.points) <= 40 else 1.5
        for x, y in line.points:
            across, up = place(x, y)
            said = f"{line.label}, epoch {x:g}: {format_y(y)}"
            parts.append(
                f'<circle class="dot {escape(line.label)}" cx="{across:.1f}" cy="{up:.1f}" r="{radius}">'
                f"<title>{escape(said)}</title></circle>"
            )
    return parts


def _label_ends(lines: Sequence[Line], place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """Return the lines' labels beside their last points, pushed apart where they would touch."""
    ends = sorted((place(*line.points[-1])[1], line.label) for line in lines)
    parts, last = [], -math.inf
    for y, label in ends:
        last = y = max(y, last + _LABEL_GAP)
        x = _WIDTH - _RIGHT + 8
        parts.append(f'<text class="label {escape(label)}" x="{x}" y="{y + 4:.1f}">{escape(label)}</text>')
    return parts


def _choose_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return round numbers: of an axis of values from below `low` to above `high`, of a whole one within them."""
    if not whole and high - low <= _LEAST_SPAN * max(abs(low), abs(high)):
        low, high = min(low, 0), max(high, 0)
    span = high - low
    if span < _LEAST_VALUE:
        span = 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    if whole:
        step = max(1.0, step)
        return [tick * step for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [tick * step for tick in range(first, last + 1)]


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
