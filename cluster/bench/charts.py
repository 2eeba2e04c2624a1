"""Charts as SVG text: lines and bars, with labelled axes, units and direct labels; no dependency.

Colours come from one small palette that holds on light and dark pages alike; text follows the reader's
scheme. Every value is escaped. Refuses to draw nothing: a chart without values is a ``ValueError``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 150, 52, 56  # the right margin holds the lines' labels
BAR_HEIGHT, BAR_GAP = 30, 16
BAR_LEFT = 230  # room for a bar's name
TICKS = 5
CHAR_WIDTH = 6.6  # of a 12-pixel sans-serif, on average
LABEL_GAP = 15  # pixels that two lines' labels keep between them
PALETTE = ("#0b7fab", "#d9730d", "#3d8f5f", "#a3569b", "#7a7a7a")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#424a53}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#8c959f;stroke-opacity:.3}.axis{stroke:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its label and its points (x, y), by rising x."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its name, its value, and what is written beside it."""

    label: str
    value: float
    text: str


def line_chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False
) -> str:
    """Draw lines over a common x; the y axis begins at zero."""
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("a chart needs values")
    xs = sorted({x for x, _ in points})
    top = _ceiling(max(y for _, y in points))
    low, high = xs[0], xs[-1]

    def across(x: float) -> float:
        if low == high:
            return LEFT
        share = math.log(x / low) / math.log(high / low) if log_x else (x - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = _frame(title, x_label, y_label)
    for step in range(TICKS + 1):
        value = top * step / TICKS
        parts.append(_line("grid", LEFT, up(value), WIDTH - RIGHT, up(value)))
        parts.append(_text(LEFT - 8, up(value) + 4, number(value), anchor="end"))
    for x in (
        xs if log_x or len(xs) <= TICKS + 1 else [low + (high - low) * n / TICKS for n in range(TICKS + 1)]
    ):
        parts.append(_text(across(x), HEIGHT - BOTTOM + 18, number(x), anchor="middle"))
    taken: list[float] = []
    for place, one in enumerate(series):
        colour = PALETTE[place % len(PALETTE)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}">'
            f"<title>{escape(one.label)}: {number(y)} at {number(x)}</title></circle>"
            for x, y in one.points
        ]
        x, y = one.points[-1]
        at = _free(up(y) + 4, taken)
        parts.append(_text(across(x) + 8, at, f"{one.label} {number(y)}", colour=colour))
    return _document(HEIGHT, parts)


def bar_chart(title: str, x_label: str, bars: Sequence[Bar], *, log: bool = False) -> str:
    """Draw horizontal bars; on a logarithmic scale they begin at a tenth of the smallest."""
    if not bars:
        raise ValueError("a chart needs values")
    height = TOP + len(bars) * (BAR_HEIGHT + BAR_GAP) + BOTTOM - BAR_GAP
    longest = max(len(bar.text) for bar in bars) * CHAR_WIDTH
    room = WIDTH - BAR_LEFT - longest - 20
    highest = max(bar.value for bar in bars)
    floor = min(bar.value for bar in bars) / 10

    def length(value: float) -> float:
        if log:
            return room * math.log(value / floor) / math.log(highest / floor)
        return room * value / highest if highest else 0.0

    parts = [_text(16, 26, title, style="title")]
    for place, bar in enumerate(bars):
        y = TOP + place * (BAR_HEIGHT + BAR_GAP)
        colour = PALETTE[place % len(PALETTE)]
        parts.append(_text(BAR_LEFT - 10, y + BAR_HEIGHT / 2 + 4, bar.label, anchor="end"))
        parts.append(
            f'<rect x="{BAR_LEFT}" y="{y}" width="{max(1.0, length(bar.value)):.1f}" '
            f'height="{BAR_HEIGHT}" fill="{colour}"/>'
        )
        parts.append(_text(BAR_LEFT + length(bar.value) + 8, y + BAR_HEIGHT / 2 + 4, bar.text))
    parts.append(_line("axis", BAR_LEFT, TOP - 6, BAR_LEFT, height - BOTTOM + 6))
    scale = " (logarithmic scale)" if log else ""
    parts.append(_text(BAR_LEFT, height - 18, x_label + scale))
    return _document(height, parts)


def number(value: float) -> str:
    """Write a number as short as its size allows."""
    if value >= 1_000_000:  # noqa: PLR2004 - a million is written as such
        return f"{value / 1_000_000:g}M"
    if value >= 10_000:  # noqa: PLR2004 - below it all digits are readable
        return f"{value / 1_000:g}k"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - digits


def _frame(title: str, x_label: str, y_label: str) -> list[str]:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return [
        _text(16, 26, title, style="title"),
        _line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, anchor="middle"),
        (
            f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">'
            f"{escape(y_label)}</text>"
        ),
    ]


def _free(wanted: float, taken: list[float]) -> float:
    """Return the nearest place above or below where a label meets no other, and take it."""
    tries = [wanted]
    for step in range(1, 2 * len(taken) + 2):
        tries += [wanted + step * LABEL_GAP / 2, wanted - step * LABEL_GAP / 2]
    place = next(one for one in tries if all(abs(one - other) >= LABEL_GAP - 1 for other in taken))
    taken.append(place)
    return place


def _ceiling(value: float) -> float:
    """Return the next round number above: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if value <= step * power)


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "", colour: str = "") -> str:
    extra = f' class="{style}"' if style else ""
    extra += f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _document(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img">'
    )
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])
