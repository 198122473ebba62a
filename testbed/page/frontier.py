"""Latency and speedup against bandwidth, and from which bandwidth on each method beats a single device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed.page import forecast
from testbed.page.data import Row, Setting, Study, records
from testbed.page.head import marked, none_to_show
from testbed.page.latency import lost, span
from testbed.page.markup import Piece, Plot, chosen, details, joined, listed, panels, table, text
from testbed.page.setting import PANEL, Group, group_of
from testbed.page.style import Look, log_axis, marks, words
from testbed.report import against
from testbed.tables import digits, duration
from testbed.units import show_rate

HEIGHT = 330
LINES = {  # of what is not measured: width and dash on the page, and in files
    "predicted": (1.2, "solid", "-"), "published": (1.6, "dash", "--"),
}  # fmt: skip
CROSSED = "Crosses are not valid, the network was not the declared one or not verified; no sentence counts them"
FORETOLD = {
    "predicted": "Thin lines are predicted, also where nothing was measured.",
    "published": "Dashed lines are the paper's: no round trips, no headers, a dedicated link for every pair, whatever "
    "network the panel is of. By that accounting the steps that run meet them to 1 %, but not tensor's: its ring takes "
    "2(N-1) times the bits that the paper charges.",
}
BANDWIDTH = "bandwidth, Mbit/s"
Point = tuple[float, float, float | None, float | None]  # rate in bit/s, speedup and the ends of its interval
Foretold = dict[str, list[tuple[float, float, float | None]]]  # label -> rate, seconds, speedup
AXES: dict[
    str, tuple[tuple[str, str, str], Callable[[Any], str], str]
] = {  # what is drawn: its value and interval, how it is written, the name of its axis
    "median_s": (("median_s", "low_s", "high_s"), duration, "median latency"),
    "speedup": (("speedup", "speedup_low", "speedup_high"), against, "times as fast as single"),
}
TOLD = (
    "Each mark is a median, or for speedup the geometric mean of single / method over the same requests, with its "
    "bootstrap 95 % interval; bandwidth is the declared rate of the slowest link. In the shaded region single wins."
)


def frontier(study: Study, looks: Mapping[str, Look], told: Sequence[Row] = ()) -> Piece:
    """A panel per network and delay; what else differs is chosen. A sentence where there is one bandwidth only.

    told: of `forecast.rows`, to be drawn as lines beside what was measured.
    """
    groups = grouped(study.settings)
    if not groups:
        return none_to_show(
            "No two settings differ in their rate alone; runs, or a sweep, that do show where single wins."
        )
    axes = dict.fromkeys(key for settings in groups for key in settings[0].axes if key not in (*PANEL, "rate"))
    differ = [axis for axis in axes if len({settings[0].axes.get(axis) for settings in groups}) > 1]
    chapters: dict[str, list[list[Setting]]] = {}
    for settings in groups:
        title = ", ".join(settings[0].axes.get(axis, "none") for axis in differ)
        chapters.setdefault(title, []).append(settings)
    pieces = [
        (title, joined(*(_panel(study, settings, looks, (f"{i}-{j}", told)) for j, settings in enumerate(panel))))
        for i, (title, panel) in enumerate(chapters.items())
    ]
    return chosen("frontier", "Show", pieces)


def grouped(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that differ in their rate alone, two rates or more, slowest first."""
    groups: dict[Group, list[Setting]] = {}
    for one in settings:
        if one.network.rate_bit_s is not None:
            groups.setdefault(group_of(one.axes), []).append(one)
    found = [sorted(group, key=_rate) for group in groups.values()]
    return [group for group in found if len({_rate(one) for one in group}) > 1]


def points(study: Study, settings: Sequence[Setting]) -> dict[str, list[Row]]:
    """Label -> its rows of `methods` in these settings, with their rate_bit_s and whether valid, slowest first."""
    known = {one.index: {"rate_bit_s": _rate(one), "valid": one.valid} for one in settings}
    found: dict[str, list[Row]] = {}
    for row in records(study.methods):
        if row["setting"] in known and row["median_s"] is not None:
            found.setdefault(row["label"], []).append({**row, **known[row["setting"]]})
    return {label: sorted(rows, key=lambda row: row["rate_bit_s"]) for label, rows in found.items()}


def beats(label: str, found: Sequence[Point]) -> str:
    """From which bandwidth on a method beats single, by its points from the slowest to the fastest, in a sentence."""
    wins = [speedup > 1 for _, speedup, _, _ in found]
    low, high = (show_rate(found[i][0]) for i in (0, -1))
    changes = [i for i in range(1, len(wins)) if wins[i] != wins[i - 1]]
    if not changes:
        whole = f"from {low} to {high}" if len(found) > 1 else f"at {low}, the one rate at which both were measured"
        return f"{label} {'beats' if wins[0] else 'never beats'} single {whole}{_open(found)}."
    if len(changes) == 1:
        last, first = found[changes[0] - 1], found[changes[0]]
        edge = show_rate(digits(_crossing(last, first)))
        between = f"{'slower' if wins[-1] else 'faster'} at {show_rate(last[0])}, "
        between += f"{'faster' if wins[-1] else 'slower'} at {show_rate(first[0])}"
        side = "from about" if wins[-1] else "only below about"
        return f"{label} beats single {side} {edge}{' on' * wins[-1]} ({between}){_open(found)}."
    at = ", ".join(show_rate(point[0]) for point, won in zip(found, wins, strict=True) if won)
    return f"{label} beats single at {at} and not at the other rates{_open(found)}."


def briefly(found: Sequence[Point]) -> str:
    """The same of points alone in a few words: "from 35 Mbit/s on"."""
    found = sorted(found)
    wins = [speedup > 1 for _, speedup, _, _ in found]
    changes = [i for i in range(1, len(wins)) if wins[i] != wins[i - 1]]
    if len(found) == 1:
        return f"{'yes' if wins[0] else 'no'} at {show_rate(found[0][0])}"
    low, high = (show_rate(found[i][0]) for i in (0, -1))
    if not changes:
        return f"from {low} to {high}" if wins[0] else f"nowhere to {high}"
    if len(changes) == 1:
        edge = show_rate(digits(_crossing(found[changes[0] - 1], found[changes[0]])))
        return f"from {edge} on" if wins[-1] else f"below {edge}"
    return "at " + ", ".join(show_rate(point[0]) for point, won in zip(found, wins, strict=True) if won)


def megabits(rate_bit_s: float) -> str:
    """A rate as a mark of an axis whose unit is Mbit/s."""
    return f"{digits(rate_bit_s / 1e6):g}"


def _crossing(a: Point, b: Point) -> float:
    """The rate at which the straight line between two points, both axes logarithmic, is at a speedup of 1."""
    part = math.log(a[1]) / (math.log(a[1]) - math.log(b[1]))
    return float(a[0] * (b[0] / a[0]) ** part)


def _open(found: Sequence[Point]) -> str:
    """Rates at which the interval leaves it open who wins."""
    at = [show_rate(rate) for rate, _, low, high in found if low is not None and high is not None and low <= 1 <= high]
    return f"; at {', '.join(at)} the interval includes 1" if at else ""


def _rate(one: Setting) -> float:
    return one.network.rate_bit_s or math.nan


def _panel(
    study: Study, settings: Sequence[Setting], looks: Mapping[str, Look], what: tuple[str, Sequence[Row]]
) -> Piece:
    """Title, who wins from where on, the legend, both plots and their numbers. what: its name, and forecasts."""
    name, forecasts = what
    by_label, beyond = points(study, settings), foretold(forecasts, settings[0])
    axes, replayed = settings[0].axes, settings[0].replayed
    title = ", ".join(axes.get(axis, "none") for axis in PANEL if axes.get(axis, "none") != "none")
    told = [beats(label, found) for label, rows in by_label.items() if (found := _points(rows))]
    caption = TOLD
    if crossed := [one.title for one in settings if not one.valid]:
        caption += f" {CROSSED}: {'; '.join(crossed)}."
    caption += "".join(f" {FORETOLD[kind]}" for kind, lines in beyond.items() if lines)
    alt = f"against bandwidth, {title}. {' '.join(told)}"
    plots = [
        Plot(
            f"by-rate-{value}-{name}",
            f"{heading} {alt}",
            HEIGHT,
            *_plot(by_label, beyond, value, looks),
            heading,
        )
        for value, heading in (("median_s", "Latency"), ("speedup", "Speedup over single"))
    ]
    return joined(
        f"<h3>{text(title)}</h3>",
        listed(told),
        marks(looks, dict.fromkeys([*by_label, *(label for lines in beyond.values() for label in lines)])),
        panels(plots, marked(caption, replayed)),
        details("The numbers", _table(by_label, marked(f"{title}.", replayed))),
    )


def _points(rows: Sequence[Row]) -> list[Point]:
    """Of a method other than single whose speedup is known, on networks that were the declared ones."""
    keys = ("rate_bit_s", "speedup", "speedup_low", "speedup_high")
    found = [row for row in rows if row["method"] != "single" and row["speedup"] is not None and row["valid"]]
    return [(row[keys[0]], row[keys[1]], row[keys[2]], row[keys[3]]) for row in found]


def foretold(found: Sequence[Row], one: Setting) -> dict[str, Foretold]:
    """ "predicted" and "published" -> their points by label, of the panel of a setting."""
    return {kind: forecast.lines(found, group_of(one.axes), kind) for kind in LINES}


def line_of(points: Sequence[tuple[float, float, float | None]], value: str) -> tuple[list[float], list[float]]:
    """Rates and what is drawn of forecasts: seconds, or the speedup where it is known."""
    column = 1 if value == "median_s" else 2
    known = [(point[0], found) for point in points if (found := point[column]) is not None]
    return [rate for rate, _ in known], [found for _, found in known]


def _plot(
    by_label: Mapping[str, list[Row]], beyond: Mapping[str, Foretold], value: str, looks: Mapping[str, Look]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Marks of `value`, "median_s" or "speedup", for each method; joined where nothing was predicted, and crosses of
    what is not valid."""
    keys, show, title = AXES[value]
    data = [_foretold(kind, label, line_of(points, value), looks[label], show)
            for kind, lines in beyond.items() for label, points in lines.items()]  # fmt: skip
    data = [line for line in data if line["x"]]
    every = [y for line in data for y in line["y"]]
    rates = [x for line in data for x in line["x"]]
    for label, rows in by_label.items():
        mode = "markers" if len(beyond["predicted"].get(label, ())) > 1 else "lines+markers"
        data.append(_line(label, [row for row in rows if row["valid"]], value, looks[label]) | {"mode": mode})
        if crossed := [row for row in rows if not row["valid"]]:
            data.append(_crosses(_line(label, crossed, value, looks[label])))
    every += [row[key] for rows in by_label.values() for row in rows for key in keys if row[key] is not None]
    rates += [row["rate_bit_s"] for rows in by_label.values() for row in rows]
    layout: dict[str, Any] = {"xaxis": log_axis(rates, megabits, BANDWIDTH)}
    if value == "median_s":
        return data, {**layout, "yaxis": log_axis(every, show, title)}
    every.append(1.0)
    return data, {**layout, "yaxis": log_axis(every, show, title), "shapes": lost("y", min(every))}


def _foretold(
    kind: str, label: str, points: tuple[list[float], list[float]], look: Look, show: Callable[[Any], str]
) -> dict[str, Any]:
    """A line without marks."""
    width, dash, _ = LINES[kind]
    return {
        "type": "scatter", "mode": "lines", "name": f"{words(label)}, {kind}", "x": points[0], "y": points[1],
        "line": {"color": look.colour, "dash": dash, "width": width}, "opacity": 0.8,
        "customdata": [[show_rate(rate), show(y)] for rate, y in zip(*points, strict=True)],
        "hovertemplate": f"{words(label)}, {kind}<br>%{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
    }  # fmt: skip


def _crosses(line: Mapping[str, Any]) -> dict[str, Any]:
    """The same points, of networks that were not the declared ones."""
    name = f"{line['name']}, not valid"
    return {**line, "name": name, "mode": "markers", "marker": {**line["marker"], "symbol": "x"}}


def _line(label: str, rows: Sequence[Row], value: str, look: Look) -> dict[str, Any]:
    (_, low, high), show, _ = AXES[value]
    rows = [row for row in rows if row[value] is not None]
    above = [0 if row[high] is None else row[high] - row[value] for row in rows]
    below = [0 if row[low] is None else row[value] - row[low] for row in rows]
    return {
        "type": "scatter", "mode": "lines+markers", "name": words(label), "x": [row["rate_bit_s"] for row in rows],
        "y": [row[value] for row in rows], "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"symbol": look.mark, "size": 10},
        "error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5,
                    "width": 4},
        "customdata": [[show_rate(row["rate_bit_s"]), show(row[value]), row["n"]] for row in rows],
        "hovertemplate": f"{words(label)}<br>%{{customdata[0]}}: %{{customdata[1]}}, n = %{{customdata[2]}}"
                         "<extra></extra>",
    }  # fmt: skip


def _table(by_label: Mapping[str, list[Row]], caption: str) -> str:
    cells = [
        (
            row["label"], f"{show_rate(row['rate_bit_s'])}{'' if row['valid'] else ', not valid'}", row["n"],
            duration(row["median_s"]), span(row, "low_s", "high_s", duration), against(row["speedup"]),
            span(row, "speedup_low", "speedup_high", against),
        )
        for rows in by_label.values() for row in rows
    ]  # fmt: skip
    return table(("method", "bandwidth", "n", "median", "95 %", "vs single", "95 %"), cells, caption)
