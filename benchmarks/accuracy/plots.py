"""The plane of bytes per token against accuracy, one plot for each data set; and parts of the method, all in one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.figures import FIRSTS, MOST_DEVICES, UNHEARD, full_precision, spans
from benchmarks.accuracy.grid import GROUPS, noises, recipe
from benchmarks.accuracy.intervals import Mean
from benchmarks.accuracy.parts import WHOLE, key
from benchmarks.accuracy.results import TITLES, Key, Results
from benchmarks.accuracy.rivals import STUDIES, points
from testbed.tables import METRICS

SIZE = (7.0, 4.2)  # inches
PARTS, COLOURS = "parts", ("tab:blue", "tab:orange", "tab:green")


def write(folder: Path, results: Results) -> dict[str, Path]:
    """SVG files, by study."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 8})
    drawn = {study: _plane(folder / f"accuracy_{study}.svg", results, study) for study in STUDIES}
    return drawn | {PARTS: _parts(folder / f"accuracy_{PARTS}.svg", results)}


def _parts(path: Path, results: Results) -> Path:
    """Devices, uneven cuts and noise; a row for each data set."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(len(STUDIES), 3, figsize=(7.0, 2.4 * len(STUDIES)), squeeze=False)
    for row, study in zip(grid, STUDIES, strict=True):
        name, tokens = results.metric(study), recipe(study, 0, None).tokens
        original = _value(name, results.mean((study, "original", "alone")).value)
        for groups, colour in zip(GROUPS, COLOURS, strict=True):
            label = f"G={groups}"
            keys = {1: (study, label, "alone")} | {
                n: (study, label, f"devices {n}") for n in range(2, MOST_DEVICES + 1)
            }
            _line(row[0], results, name, keys, colour, label)
        pairs = {full_precision(spans(tokens, share), study == "corpus"): (study, WHOLE, f"first {share:g}")
                 for share in FIRSTS}  # fmt: skip
        _line(row[1], results, name, pairs, COLOURS[0], "")
        labels = {0.0: "G=1 no noise", 1.0: WHOLE}
        noise = {each: key(study, labels.get(each, f"G=1 noise {each:g}")) for each in noises(study)}
        _line(row[2], results, name, noise, COLOURS[0], "")
        for axes, said in zip(row, ("devices", "pairs in full precision, G = 1", "λ, G = 1"), strict=True):
            axes.axhline(original, color="black", linewidth=0.8, linestyle="--", label="original")
            axes.set_xlabel(said)
        row[0].set_ylabel(f"{study}: {METRICS[name]}{', %' if name == 'top1' else ''}")
    grid[0][0].legend(loc="best", fontsize=6)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _line(
    axes: Any, results: Results, name: str, keys: Mapping[Any, Key], colour: str, label: str
) -> None:  # fmt: skip
    """Points with their intervals, by what is on the x axis."""
    means = [results.mean(key) for key in keys.values()]
    values = [_value(name, mean.value) for mean in means]
    ends = list(zip(*(_ends(name, mean) for mean in means), strict=True))
    axes.errorbar(list(keys), values, ends, color=colour, label=label or None, marker="o", ms=3, lw=0.8, capsize=2)


def _plane(path: Path, results: Results, study: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE)
    name = results.metric(study)
    for point in points(study):
        colour = "tab:blue" if point.name.startswith("ASTRA") else "tab:gray"
        low = _bar(axes, name, point.bytes, results.mean(point.untuned), (colour, "white"))
        if point.tuned is not None:
            low = _bar(axes, name, point.bytes, results.mean(point.tuned), (colour, colour))
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


def _bar(axes: Any, name: str, bytes_: float, mean: Mean, colours: tuple[str, str]) -> float:
    """One point with its interval; its height. colours: of the edge and of what is within."""
    value, ends = _value(name, mean.value), _ends(name, mean)
    edge, face = colours
    if any(ends):
        axes.errorbar([bytes_], [value], [[end] for end in ends], color=edge, linewidth=0.8, capsize=2)
    axes.scatter([bytes_], [value], facecolor=face, edgecolor=edge, zorder=3, s=18)
    return value


def _ends(name: str, mean: Mean) -> list[float]:
    """How far an interval reaches below and above its mean, not beyond what there can be; 0 where there is none."""
    value = _value(name, mean.value)
    ends = (value if end is None else _value(name, end) for end in (mean.low, mean.high))
    return [abs(value - (min(100.0, max(0.0, end)) if name == "top1" else end)) for end in ends]


def _value(name: str, figure: float) -> float:
    return math.exp(figure) if name == "perplexity" else 100 * figure
