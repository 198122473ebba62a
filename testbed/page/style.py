"""How the page and the files look: colours that stay apart for every kind of sight (Okabe and Ito 2008), marks, axes.

A method always has its colour and its mark; what differs between two of its variants is the dash and the fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

INK, FAINT, GRID, WARN = "#1a1a1a", "#595959", "#e3e3e3", "#d55e00"
LOST = "rgba(213, 94, 0, 0.10)"  # behind the region where single wins
COLOURS = {  # method: colour (Okabe and Ito's, and Tol's wine), plotly mark, matplotlib mark
    "single": ("#000000", "circle", "o"),
    "tensor": ("#e69f00", "square", "s"),
    "sequence": ("#56b4e9", "diamond", "D"),
    "block": ("#009e73", "triangle-up", "^"),
    "pipeline": ("#0072b2", "triangle-down", "v"),
    "astra": ("#d55e00", "star", "*"),
    "prism": ("#cc79a7", "pentagon", "p"),
    "topk": ("#882255", "cross", "P"),
}
OTHER = ("#999999", "hexagon", "h")
VARIANTS = (("solid", "", "-"), ("dash", "-open", "--"), ("dot", "-dot", ":"), ("dashdot", "-open-dot", "-."))
KINDS = {  # of work of a device: colour, colour of words on it
    "compute": ("#0072b2", "#ffffff"),
    "coding": ("#56b4e9", "#000000"),
    "waiting": ("#e69f00", "#000000"),
    "scatter": ("#009e73", "#000000"),
    "gather": ("#cc79a7", "#000000"),
    "sending": ("#d55e00", "#000000"),
    "rest": ("#c8c8c8", "#000000"),
}
STEPS: tuple[tuple[float, Sequence[float]], ...] = (  # decades of an axis: marks in each
    (0.3, [1 + i / 10 for i in range(90)]), (0.7, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), (1.0, (1, 1.5, 2, 3, 5, 7)),
    (2.4, (1, 2, 5)), (3.5, (1, 3)), (math.inf, (1,)),
)  # fmt: skip
MOST_TICKS = 6
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Look:
    """Of one label: colour, plotly's mark (of a request: `point`) and dash, matplotlib's mark and line."""

    colour: str
    mark: str
    point: str
    dash: str
    file_mark: str
    file_line: str
    filled: bool


def looks(methods: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """(method, label) pairs -> how each label looks; variants of a method in the order of their numbers."""
    found: dict[str, Look] = {}
    of_method: dict[str, list[str]] = {}
    for method, label in methods:
        of_method.setdefault(method, []).append(label)
    for method, labels in of_method.items():
        colour, mark, file_mark = COLOURS.get(method, OTHER)
        for index, label in enumerate(sorted(dict.fromkeys(labels), key=natural)):
            dash, fill, line = VARIANTS[index % len(VARIANTS)]
            found[label] = Look(colour, mark + fill, mark, dash, file_mark, line, "open" not in fill)
    return found


def template() -> dict[str, Any]:
    """What all plotly figures of the page share."""
    axis = {
        "gridcolor": GRID, "linecolor": FAINT, "ticks": "outside", "tickcolor": FAINT, "zeroline": False,
        "automargin": True, "showline": True, "title": {"standoff": 8, "font": {"size": 12, "color": FAINT}},
    }  # fmt: skip
    bars = {
        "marker": {"line": {"color": "#ffffff", "width": 0.5}}, "textposition": "inside", "textangle": 0,
        "insidetextanchor": "middle", "textfont": {"size": 11},
    }  # fmt: skip
    return {
        "data": {"bar": [bars]},
        "layout": {
            "font": {"family": FONT, "size": 13, "color": INK}, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff",
            "margin": {"l": 8, "r": 14, "t": 12, "b": 8}, "xaxis": axis, "yaxis": axis, "showlegend": False,
            "dragmode": False, "hoverlabel": {"align": "left", "font": {"family": FONT}}, "autosize": True,
        }
    }  # fmt: skip


def words(text: object) -> str:
    """Text as plotly must be given it: it reads a few tags, and names in braces."""
    return escape(str(text), quote=False).replace("%{", "%&#123;")


def log_axis(values: Iterable[float | None], show: Callable[[float], str], title: str) -> dict[str, Any]:
    """A logarithmic axis around `values`, its marks at 1, 2 and 5 (or 1 alone over many decades), written by `show`."""
    known = [value for value in values if value is not None and math.isfinite(value) and value > 0] or [1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(0.05 * (high - low), 0.06)
    ticks = _ticks(low - pad, high + pad)
    return {
        "type": "log", "range": [low - pad, high + pad], "tickvals": ticks, "ticktext": [show(tick) for tick in ticks],
        "title": {"text": title},
    }  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from 10**low to 10**high: at most about eight."""
    steps = next(steps for decades, steps in STEPS if high - low < decades)
    every = [float(f"{step:g}e{power}") for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    inside = [tick for tick in every if low <= math.log10(tick) <= high]
    return inside[:: max(1, math.ceil(len(inside) / MOST_TICKS))]


def natural(text: str) -> list[tuple[int, float, str]]:
    """ "astra G=4" before "astra G=16"."""
    parts, number = list[tuple[int, float, str]](), ""
    for letter in f"{text}\0":
        if letter.isdecimal():
            number += letter
            continue
        if number:
            parts.append((0, float(number), ""))
            number = ""
        parts.append((1, 0.0, letter))
    return parts


def marks(looks: Mapping[str, Look], labels: Iterable[str]) -> str:
    """A legend in HTML: the line and mark of every label."""
    items = "".join(f"<li>{_swatch(looks[label])}{escape(label)}</li>" for label in labels)
    return f'<ul class="legend" aria-label="methods">{items}</ul>'


def _swatch(look: Look) -> str:
    """The line and mark of a label as a small picture."""
    dash = {"solid": "", "dash": "7 3", "dot": "2 3", "dashdot": "7 3 2 3"}[look.dash]
    shape = _SHAPES.get(look.point, _SHAPES["hexagon"])
    fill = look.colour if look.filled else "#ffffff"
    return (
        '<svg class="swatch" width="34" height="14" viewBox="0 0 34 14" aria-hidden="true">'
        f'<line x1="0" y1="7" x2="34" y2="7" stroke="{look.colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        f'<path d="{shape}" fill="{fill}" stroke="{look.colour}" stroke-width="1.5"/></svg>'
    )


_SHAPES = {  # plotly's marks around (17, 7)
    "circle": "M12 7a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "square": "M12.5 2.5h9v9h-9z",
    "diamond": "M17 1l5.5 6-5.5 6-5.5-6z",
    "triangle-up": "M17 1.5l5.5 10h-11z",
    "triangle-down": "M17 12.5l5.5-10h-11z",
    "star": "M17 0l1.8 4.9 5.2.2-4.1 3.2 1.5 5-4.4-2.9-4.4 2.9 1.5-5-4.1-3.2 5.2-.2z",
    "hexagon": "M17 1.5l5 2.8v5.6l-5 2.8-5-2.8v-5.6z",
}
