"""The plane of bytes per token against accuracy, one plot for each data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.accuracy.figures import UNHEARD
from benchmarks.accuracy.results import TITLES, Key, Results
from benchmarks.accuracy.rivals import STUDIES, points
from testbed.tables import METRICS

SIZE = (7.0, 4.2)  # inches


def write(folder: Path, results: Results) -> dict[str, Path]:
    """SVG files, by study."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 8})
    return {study: _plane(folder / f"accuracy_{study}.svg", results, study) for study in STUDIES}


def _plane(path: Path, results: Results, study: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE)
    name = results.metric(study)
    for point in points(study):
        colour = "tab:blue" if point.name.startswith("ASTRA") else "tab:gray"
        low = _bar(axes, results, name, point.bytes, point.untuned, colour, "white")
        if point.tuned is not None:
            low = _bar(axes, results, name, point.bytes, point.tuned, colour, colour)
        axes.annotate(point.name, (point.bytes, low), textcoords="offset points", xytext=(5, 3), fontsize=6)
    original = _value(name, results.mean((study, "original", "alone")).value)
    axes.axhline(original, color="black", linewidth=0.8, linestyle="--", label="original")
    nothing = _value(name, results.mean((study, "original", UNHEARD)).value)
    axes.axhline(nothing, color="black", linewidth=0.8, linestyle=":", label="original, nothing sent")
    axes.scatter([], [], facecolor="white", edgecolor="black", label="untrained")
    axes.scatter([], [], color="black", label="fine-tuned")
    axes.set_xscale("log")
    axes.set_xlabel("bytes per token and layer, to one device")
    axes.set_ylabel(f"{METRICS[name]}{', %' if name == 'top1' else ''}")
    axes.margins(x=0.2)  # names of points stand to the right of them
    if name == "perplexity":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title(TITLES[study])
    axes.legend(loc="best")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _bar(axes: Any, results: Results, name: str, bytes_: float, key: Key, colour: str, face: str) -> float:
    """One point with its interval; its height."""
    mean = results.mean(key)
    value = _value(name, mean.value)
    if mean.low is not None and mean.high is not None:
        high = min(_value(name, mean.high), 100.0) if name == "top1" else _value(name, mean.high)
        ends = [[value - _value(name, mean.low)], [max(0.0, high - value)]]
        axes.errorbar([bytes_], [value], yerr=ends, color=colour, linewidth=0.8, capsize=2)
    axes.scatter([bytes_], [value], facecolor=face, edgecolor=colour, zorder=3, s=18)
    return value


def _value(name: str, figure: float) -> float:
    return math.exp(figure) if name == "perplexity" else 100 * figure
