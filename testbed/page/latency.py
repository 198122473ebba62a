"""Latency of every method: each request a point, the median with its interval, and the speedup over single."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from testbed.generated import explained
from testbed.page.data import Row, Setting, Study, of, records
from testbed.page.head import marked, none_to_show
from testbed.page.markup import Piece, Plot, joined, panels, table
from testbed.page.style import INK, LOST, Look, log_axis, words
from testbed.report import against
from testbed.tables import NONE, duration

MOST_POINTS = 200  # per method and setting
ROW, ENDS = 46, 64  # pixels
GOLDEN = 0.618034  # spreads points over a row, the same way every time


def latency(study: Study, setting: Setting, looks: Mapping[str, Look]) -> Piece:
    """Two plots and the table of their numbers."""
    rows = records(of(study.methods, setting=setting.index))
    shown = [row for row in rows if row["median_s"] is not None]
    numbers = _table(rows, setting)
    if not shown:
        return joined(none_to_show("No request was measured."), numbers)
    requests = of(study.requests, setting=setting.index)
    height = ENDS + ROW * len(shown)
    plots = [Plot(f"latency-{setting.index}", _alt(shown), height, *_times(shown, requests, looks), "Latency")]
    fast = [row for row in shown if row["speedup"] is not None]
    if fast:
        alt = "Speedup over single: " + ", ".join(f"{row['label']} {against(row['speedup'])}" for row in fast)
        plots.append(Plot(f"speedup-{setting.index}", alt, height, *_speedups(fast, looks), "Speedup over single"))
    return joined(panels(plots, marked(_caption(shown, requests, bool(fast)), setting.replayed)), numbers)


def _caption(shown: list[Row], requests: pd.DataFrame, fast: bool) -> str:
    told = "End to end, on the clock of the source device. A small point is a request, the large mark the median, "
    told += "the bar its bootstrap 95 % interval."
    if said := explained(sorted({int(row["new_tokens"]) for row in shown if row["new_tokens"]})):
        told += f" {said[0].upper()}{said[1:]}."
    if fast:
        told += (
            " Speedup is the geometric mean of single / method over the same requests, the bar its paired bootstrap"
            " 95 % interval; in the shaded region single wins."
        )
    else:
        told += " No speedup is shown: there is no good run of single to compare with."
    cut = [row["label"] for row in shown if len(of(requests, label=row["label"])) > MOST_POINTS]
    if cut:
        told += f" Thinned to {MOST_POINTS} points spread evenly from fastest to slowest: {', '.join(cut)}."
    return told


def thinned(values: pd.Series, most: int) -> pd.Series:
    """At most `most` of the values, evenly by rank, fastest and slowest among them; in their own order."""
    if len(values) <= most:
        return values
    ranks = [round(i * (len(values) - 1) / (most - 1)) for i in range(most)]
    return values[values.index.isin(values.sort_values(kind="stable").index[ranks])]


def _times(
    rows: list[Row], requests: pd.DataFrame, looks: Mapping[str, Look]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = []
    for place, row in enumerate(rows):
        look, name = looks[row["label"]], words(row["label"])
        own = thinned(of(requests, label=row["label"])["latency_s"], MOST_POINTS)
        spots = [place + 0.5 * ((i * GOLDEN) % 1 - 0.5) for i in range(len(own))]
        hover = f"{name}<br>%{{text}}<extra></extra>"
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": [float(f"{v:.6g}") for v in own], "y": spots,
            "text": [duration(v) for v in own], "hovertemplate": hover,
            "marker": {"color": look.colour, "opacity": 0.35, "size": 6, "symbol": look.point},
        })  # fmt: skip
        said = f"median {duration(row['median_s'])}, 95 % {span(row, 'low_s', 'high_s', duration)}, n = {row['n']}"
        data.append(_mark(place, row["median_s"], (row["low_s"], row["high_s"]), look, (hover, said)))
    every = [*requests["latency_s"], *(row["high_s"] for row in rows)]
    return data, _rows(rows, log_axis(every, duration, "end-to-end latency"))


def _speedups(rows: list[Row], looks: Mapping[str, Look]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = []
    for place, row in enumerate(rows):
        hover = f"{words(row['label'])}<br>%{{text}}<extra></extra>"
        said = f"{against(row['speedup'])}, 95 % {span(row, 'speedup_low', 'speedup_high', against)}"
        ends = (row["speedup_low"], row["speedup_high"])
        data.append(_mark(place, row["speedup"], ends, looks[row["label"]], (hover, said)))
    keys = ("speedup", "speedup_low", "speedup_high")
    every = [1.0, *(row[key] for key in keys for row in rows if row[key] is not None)]
    layout = _rows(rows, log_axis(every, against, "times as fast as single"))
    return data, {**layout, "shapes": lost("x", min(every))}


def lost(axis: str, least: float) -> list[dict[str, Any]]:
    """The region below a speedup of 1, where single wins, and its edge."""
    other = "y" if axis == "x" else "x"
    where = {f"{other}ref": f"{other} domain", f"{other}0": 0, f"{other}1": 1}
    low = min(least, 1.0) / 100
    return [
        {"type": "rect", f"{axis}0": low, f"{axis}1": 1, **where, "fillcolor": LOST, "line": {"width": 0},
         "layer": "below"},
        {"type": "line", f"{axis}0": 1, f"{axis}1": 1, **where, "line": {"color": INK, "width": 1}},
    ]  # fmt: skip


def _mark(place: int, value: float, ends: tuple[Any, Any], look: Look, told: tuple[str, str]) -> dict[str, Any]:
    """A large mark with its interval; `told` is the template of the hover text and its words."""
    known = ends[0] is not None
    return {
        "type": "scatter", "mode": "markers", "x": [value], "y": [place], "text": [told[1]], "hovertemplate": told[0],
        "marker": {"color": look.colour, "size": 13, "symbol": look.mark, "line": {"color": INK, "width": 1.2}},
        "error_x": {
            "type": "data", "symmetric": False, "array": [ends[1] - value if known else 0],
            "arrayminus": [value - ends[0] if known else 0], "color": INK, "thickness": 2, "width": 7,
        },
    }  # fmt: skip


def _rows(rows: list[Row], x: dict[str, Any]) -> dict[str, Any]:
    """Methods from top to bottom."""
    names = [words(row["label"]) for row in rows]
    y = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5], "ticks": "",
         "showgrid": False}  # fmt: skip
    return {"xaxis": x, "yaxis": y}


def _alt(rows: list[Row]) -> str:
    return "Median latency: " + ", ".join(f"{row['label']} {duration(row['median_s'])}" for row in rows)


def span(row: Row, low: str, high: str, show: Callable[[float], str]) -> str:
    """The two ends of an interval in words."""
    return NONE if row[low] is None else f"{show(row[low])} to {show(row[high])}"


def _table(rows: list[Row], setting: Setting) -> str:
    cells = [
        (
            row["label"], row["status"], row["n"], duration(row["median_s"]), span(row, "low_s", "high_s", duration),
            duration(row["p95_s"]), against(row["speedup"]), span(row, "speedup_low", "speedup_high", against),
        )
        for row in rows
    ]  # fmt: skip
    heads = ["method", "status", "n", "median", "95 %", "p95", "vs single", "95 %"]
    if any(row["ttft_s"] is not None for row in rows):
        heads += ["TTFT", "95 %", "per token", "95 %"]
        cells = [(*own, *_spoken(row)) for own, row in zip(cells, rows, strict=True)]
    return table(heads, cells, marked(f"Latency and speedup, {setting.title}.", setting.replayed))


def _spoken(row: Row) -> tuple[str, ...]:
    """Time to the first new token and per further one, each with its interval."""
    return (
        duration(row["ttft_s"]), span(row, "ttft_low_s", "ttft_high_s", duration),
        duration(row["token_s"]), span(row, "token_low_s", "token_high_s", duration),
    )  # fmt: skip
