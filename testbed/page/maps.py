"""The map "fastest method by bandwidth and delay", for the page and, with `testbed.predict.frontier`, for files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.page import frontier
from testbed.page.data import Study
from testbed.page.head import marked
from testbed.page.markup import Piece, Plot, joined, legend, panels, text
from testbed.page.style import natural, words
from testbed.predict import jobs
from testbed.predict.against import Cell
from testbed.predict.frontier import SINGLE, colours, crossings
from testbed.report import against
from testbed.tables import digits, duration
from testbed.units import show_duration, show_rate

MOST = 4  # on a page
FEW = 4  # rates of the runs; with fewer these:
RATES_BIT_S = tuple(1e6 * rate for rate in (5, 10, 20, 50, 100, 200, 500, 1000))
DELAYS_S = (0.0, 0.5e-3, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3)
ROW, ENDS = 34, 110  # pixels
TOLD = (
    "Predicted without events and without what emulation costs, on links that all have the bandwidth and the one-way "
    "delay of the square: the fastest method, and how many times as fast as one device it is. Grey: one device alone."
)


@dataclass(frozen=True)
class Map:
    """title: the network and its size; name: part of a file's; frame: of `testbed.predict.frontier.frontier`."""

    title: str
    name: str
    replayed: str | None
    frame: pd.DataFrame


def drawn(study: Study) -> list[Map]:
    """A map for every kind of network and size whose computing was replayed at two bandwidths or more; `MOST` at
    most."""
    found = _asked(study)[:MOST]
    frames = jobs.maps([(grid, folder) for _, grid, folder, _ in found])
    return [
        Map(", ".join(key), f"map-{number}" if len(found) > 1 else "map", replayed, frame)
        for number, ((key, _, _, replayed), frame) in enumerate(zip(found, frames, strict=True), 1)
        if frame is not None
    ]


def left_out(study: Study) -> list[str]:
    """Networks and sizes for which there are no maps because there would be too many."""
    return [", ".join(key) for key, *_ in _asked(study)[MOST:]]


def _asked(study: Study) -> list[tuple[tuple[str, ...], jobs.Grid, Path, str]]:
    """(network and size, what is to be predicted, where it is kept, "compute replayed from NAME"), most rates first."""
    found: dict[tuple[str, ...], tuple[jobs.Grid, Path, str]] = {}
    for settings in sorted(frontier.grouped(study.settings), key=len, reverse=True):
        one = settings[0]
        key = one.network.kind, one.axes["devices"], one.axes["tokens"]
        indices = {other.index for other in settings}
        homes = {run.data.path for run in study.runs if run.setting in indices}
        cells = [cell for cell in study.cells if cell.run in homes and cell.case is not None]
        if one.replayed and cells and cells[0].run and key not in found:
            rates = tuple(sorted({other.network.rate_bit_s for other in settings if other.network.rate_bit_s}))
            found[key] = _grid(cells, rates if len(rates) >= FEW else RATES_BIT_S), cells[0].run, one.replayed
    return [(key, *rest) for key, rest in found.items()]


def _grid(cells: Sequence[Cell], rates_bit_s: tuple[float, ...]) -> jobs.Grid:
    """Of all methods of the cells, on the network of the first."""
    case = cells[0].case
    assert case is not None
    specs = {cell.spec.label: cell.spec for cell in cells}
    ordered = tuple(specs[label] for label in sorted(specs, key=natural))  # a method has its colour in every map
    return jobs.Grid(case.with_methods(ordered), rates_bit_s, DELAYS_S)


def panel(one: Map) -> Piece:
    """The map of a kind of network, and in words what bounds the region of one device."""
    found = colours(one.frame)
    plot = Plot(f"{one.name}-plot", _alt(one), ENDS + ROW * one.frame["delay_s"].nunique(), *_plot(one, found))
    return joined(
        f"<h3>Fastest method, {text(one.title)}</h3>",
        legend(found.items()),
        panels([plot], marked(f"{TOLD} {_frontier(one)}", one.replayed), wide=True),
    )


def _plot(one: Map, found: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Squares as a heatmap whose colours are steps."""
    frame, names = one.frame, list(found)
    rates, delays = sorted(frame["rate_bit_s"].unique()), sorted(frame["delay_s"].unique())
    at = {(row["rate_bit_s"], row["delay_s"]): row for row in frame.to_dict("records")}
    grid = [[at[rate, delay] for rate in rates] for delay in delays]
    steps = [[edge / len(names), found[name]] for i, name in enumerate(names) for edge in (i, i + 1)]
    data = [{
        "type": "heatmap", "z": [[names.index(cell["fastest"]) + 0.5 for cell in row] for row in grid],
        "zmin": 0, "zmax": len(names), "colorscale": steps, "showscale": False, "xgap": 2, "ygap": 2,
        "x": [show_rate(rate) for rate in rates], "y": [show_duration(delay) for delay in delays],
        "text": [["1x" if cell["fastest"] == SINGLE else against(cell["speedup"]) for cell in row] for row in grid],
        "texttemplate": "%{text}", "textfont": {"size": 11},
        "customdata": [[f"{words(cell['fastest'])}, {duration(cell['latency_s'])}" for cell in row] for row in grid],
        "hovertemplate": "%{x}, %{y}: %{customdata}, %{text}<extra></extra>",
    }]  # fmt: skip
    axes = {"type": "category", "ticks": "", "showgrid": False}
    return data, {
        "xaxis": {**axes, "title": {"text": "bandwidth of every link"}},
        "yaxis": {**axes, "title": {"text": "delay of every link, one way"}},
    }


def _alt(one: Map) -> str:
    wins = one.frame["fastest"].value_counts()
    said = ", ".join(f"{name} in {count}" for name, count in wins.items())
    return f"Fastest method by bandwidth and delay, {one.title}: of {len(one.frame)} points {said}."


def _frontier(one: Map) -> str:
    """At the smallest and at the largest delay, from where on anything beats one device."""
    others = [name for name in crossings(one.frame, list(_labels(one.frame)))["method"].unique()]
    best = one.frame.assign(best=one.frame[others].min(axis=1))[["rate_bit_s", "delay_s", "single_s", "best"]]
    found = crossings(best, [SINGLE, "best"]).set_index("delay_s")["rate_bit_s"]
    said = []
    for delay_s in (found.index.min(), found.index.max()):
        rate = found[delay_s]
        edge = f"from {show_rate(digits(rate))} on" if rate else "everywhere"
        where = "nowhere" if math.isnan(rate) else edge
        said.append(f"with {show_duration(float(delay_s))} {where}")
    return f"One device is beaten by some method {', '.join(said)}."


def _labels(frame: pd.DataFrame) -> list[str]:
    known = {"rate_bit_s", "delay_s", "fastest", "latency_s", "single_s", "speedup", "single_wins"}
    return [str(name) for name in frame.columns if name not in known]
