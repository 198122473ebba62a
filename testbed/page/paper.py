"""The figures as files for a paper: latency, speedup and breakdown as PDF and SVG, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from testbed.disk import give
from testbed.page import breakdown, forecast, frontier, maps, style
from testbed.page.apart import ALSO
from testbed.page.data import Row, Setting, Study, labelled, of, records
from testbed.page.setting import PANEL
from testbed.page.style import KINDS, Look
from testbed.predict.frontier import map_figure
from testbed.store import StoreError
from testbed.tables import duration

FORMATS = ("pdf", "svg")
WIDE, ROW, ENDS = 5.5, 0.32, 0.9  # inches
SETTINGS: Any = {  # text stays text, a label is never read as a formula, and the same data make the same file
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "svg.fonttype": "none",
    "text.parse_math": False, "svg.hashsalt": "testbed", "figure.constrained_layout.use": True,
}  # fmt: skip
Values = tuple[str, str, str]  # names of a value and of the ends of its interval


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the breakdown of every setting, latency and speedup against bandwidth where rates differ, else by method.

    `folder` is made if it is missing. -> the files. Raises StoreError where they cannot be written.
    """
    looks, told = style.looks(labelled(study)), forecast.rows(study)
    found: dict[str, Figure] = {}
    with mpl.rc_context(SETTINGS):
        groups = frontier.grouped(study.settings)
        for number, settings in enumerate(groups, 1):
            ending = f"-{number}" if len(groups) > 1 else ""
            for name, value in (("latency", "median_s"), ("speedup", "speedup")):
                found[f"{name}-by-bandwidth{ending}"] = _by_rate(study, settings, (looks, told), value)
        found |= {one.name: _map(one) for one in maps.drawn(study)}
        for one in study.settings:
            ending = f"-{one.runs[0]}" if len(study.settings) > 1 else ""
            by_method = not any(one in settings for settings in groups)
            found |= {f"{name}{ending}": figure for name, figure in _of_setting(study, one, looks, by_method).items()}
        try:
            return _saved(found, folder)
        except OSError as error:
            raise StoreError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None


def _saved(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        give(folder)
    written = []
    for name, figure in figures.items():
        for kind in FORMATS:
            path = folder / f"{name}.{kind}"
            figure.savefig(path, metadata={"Date": None} if kind == "svg" else {"CreationDate": None})
            give(path)
            written.append(path)
    return written


def _of_setting(study: Study, setting: Setting, looks: Mapping[str, Look], by_method: bool) -> dict[str, Figure]:
    rows = [row for row in records(of(study.methods, setting=setting.index)) if row["median_s"] is not None]
    fast = [row for row in rows if row["speedup"] is not None]
    found = {}
    if rows:
        found["breakdown"] = _bars(study, setting)
    if rows and by_method:
        found["latency"] = _marks(rows, "median_s", looks, setting)
    if fast and by_method:
        found["speedup"] = _marks(fast, "speedup", looks, setting)
    return found


def _marks(rows: Sequence[Row], value: str, looks: Mapping[str, Look], setting: Setting) -> Figure:
    """A row per method: its value with the interval."""
    keys, show, title = frontier.AXES[value]
    figure = Figure(figsize=(WIDE, ENDS + ROW * len(rows)))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        look = looks[row["label"]]
        axes.errorbar(
            row[keys[0]], place, xerr=_error(row, keys), color=look.colour, marker=look.file_mark, capsize=3,
            markerfacecolor=look.colour if look.filled else "white",
        )  # fmt: skip
    values = [row[key] for row in rows for key in keys if row[key] is not None]
    if value == "speedup":
        axes.axvspan(1e-9, 1, color=style.WARN, alpha=0.1, linewidth=0)
        axes.axvline(1, color=style.INK, linewidth=0.8)
        values.append(1.0)
    _log(axes.xaxis, axes.set_xscale, axes.set_xlim, values, show)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(title)
    _title(axes, f"{setting.title}, {_counts(rows)}", setting)
    return figure


def _bars(study: Study, setting: Setting) -> Figure:
    """Stacked bars of every device, methods below each other, each with its own axis of time."""
    rows = records(breakdown.means(of(study.devices, setting=setting.index)))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    own = {label: [row for row in rows if row["label"] == label] for label in labels}
    heights = [len(found) + 1.6 for found in own.values()]
    figure = Figure(figsize=(WIDE, 0.6 + 0.22 * sum(heights)))
    grid = figure.subplots(len(labels), height_ratios=heights, squeeze=False)
    for axes, (label, found) in zip(grid[:, 0], own.items(), strict=True):
        start = [0.0] * len(found)
        for column, part in breakdown.SHARES.items():
            values = [row[column] for row in found]
            axes.barh([row["host"] for row in found], values, left=start, color=KINDS[part][0], label=part)
            start = [a + b for a, b in zip(start, values, strict=True)]
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value) if value else "0"))
        axes.set_title(label, loc="left", fontsize=8)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.supxlabel(_said(f"mean seconds of a request, {setting.title}", setting), fontsize=7)
    return figure


def _map(one: maps.Map) -> Figure:
    """Fastest method by bandwidth and delay."""
    figure = map_figure(one.frame)
    figure.suptitle(f"{one.title}, {one.replayed}" if one.replayed else one.title, fontsize=7)
    return figure


def _by_rate(
    study: Study, settings: Sequence[Setting], how: tuple[Mapping[str, Look], Sequence[Row]], value: str
) -> Figure:
    """Marks per method against bandwidth, and what was predicted and published as lines. how: looks, and forecasts."""
    (looks, told), (keys, show, title) = how, frontier.AXES[value]
    by_label, beyond = frontier.points(study, settings), frontier.foretold(told, settings[0])
    figure = Figure(figsize=(WIDE, 3.4))
    axes = figure.subplots()
    for label, rows in by_label.items():
        joined = len(beyond["predicted"].get(label, ())) < 2
        _measured(axes, label, [row for row in rows if row[value] is not None], (value, looks[label], joined))
    values = [row[key] for rows in by_label.values() for row in rows for key in keys if row[key] is not None]
    rates = [row["rate_bit_s"] for rows in by_label.values() for row in rows]
    for kind, lines in beyond.items():
        width, _, dashes = frontier.LINES[kind]
        for label, points in lines.items():
            x, y = frontier.line_of(points, value)
            axes.plot(x, y, color=looks[label].colour, linewidth=0.6 * width, linestyle=dashes)
            rates, values = [*rates, *x], [*values, *y]
    if value == "speedup":
        axes.axhspan(1e-9, 1, color=style.WARN, alpha=0.1, linewidth=0)
        axes.axhline(1, color=style.INK, linewidth=0.8)
        values.append(1.0)
    _log(axes.yaxis, axes.set_yscale, axes.set_ylim, values, show)
    _log(axes.xaxis, axes.set_xscale, axes.set_xlim, rates, frontier.megabits)
    axes.set_xlabel(frontier.BANDWIDTH)
    axes.set_ylabel(title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _title(axes, _heading(settings, [row for rows in by_label.values() for row in rows]), settings[0])
    return figure


def _measured(axes: Axes, label: str, rows: Sequence[Row], how: tuple[str, Look, bool]) -> None:
    """Marks with intervals, crosses of what is not valid. how: the value, the look, whether marks are joined."""
    value, look, joined = how
    keys = frontier.AXES[value][0]
    good, bad = ([row for row in rows if row["valid"] is valid] for valid in (True, False))
    errors = [_error(row, keys) for row in good]
    axes.errorbar(
        [row["rate_bit_s"] for row in good], [row[value] for row in good],
        yerr=[[error[side][0] for error in errors] for side in (0, 1)], label=label, color=look.colour,
        marker=look.file_mark, capsize=2, linestyle=look.file_line if joined else "none",
        markerfacecolor=look.colour if look.filled else "white",
    )  # fmt: skip
    axes.plot(
        [row["rate_bit_s"] for row in bad], [row[value] for row in bad], color=look.colour, marker="x", linestyle="none"
    )


def _heading(settings: Sequence[Setting], rows: Sequence[Row]) -> str:
    """What the settings share, how many requests, and what crosses are."""
    named = (*PANEL, "tokens", "devices", ALSO)
    shared = [word for name, word in settings[0].axes.items() if word != "none" and name in named]
    crossed = ["crosses: network not as declared or not verified"] if any(not row["valid"] for row in rows) else []
    return ", ".join([*shared, _counts(rows), *crossed])


def _error(row: Row, keys: Values) -> list[list[float]]:
    """Lengths of the interval below and above, as errorbar takes them; 0 without an interval."""
    middle, low, high = (row[key] for key in keys)
    return [[0.0], [0.0]] if low is None else [[middle - low], [high - middle]]


def _log(axis: Any, scale: Any, limit: Any, values: Sequence[float], show: Callable[[float], str]) -> None:
    """The same logarithmic axis as on the page."""
    found = style.log_axis(values, show, "")
    scale("log")
    limit(*(10.0**end for end in found["range"]))
    axis.set_major_locator(FixedLocator(found["tickvals"]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def _counts(rows: Sequence[Row]) -> str:
    low, high = min(row["n"] for row in rows), max(row["n"] for row in rows)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _title(axes: Axes, words: str, setting: Setting) -> None:
    axes.set_title(_said(words, setting), loc="left", fontsize=7)


def _said(words: str, setting: Setting) -> str:
    return f"{words}, {setting.replayed}" if setting.replayed else words
