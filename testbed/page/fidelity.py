"""How near the output is to that of single, against the time it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.here import says
from testbed.page.data import Row, Setting, Study, of, records
from testbed.page.head import marked, none_to_show
from testbed.page.markup import Piece, Plot, joined, panels, table
from testbed.page.style import INK, Look, log_axis, marks, words
from testbed.report import error
from testbed.tables import METRICS, NONE, duration, metric

HEIGHT = 340
TOLD = (
    "Cosine of the output to that of single on the same input, the worst over the requests, against the median latency "
    "with its interval: up and to the left is better. Exact methods are at 1."
)
RANDOM = " The weights are random: this is distance of numbers, it says nothing of an accuracy."


def _lost(row: Row) -> str:
    """ "1.23 % of 9600"."""
    if not row["due_tokens"]:
        return NONE
    return f"{100 * row['lost_tokens'] / row['due_tokens']:.3g} % of {row['due_tokens']:.0f}"


def _here(row: Row) -> str:
    found = row["here"]
    return (
        NONE
        if found is None
        else f"{METRICS[found['metric']]} {says(found)}, single {metric(found['metric'], found['single'])}"
    )


def _paired(row: Row) -> str:
    """ "1.02 times (1.01 to 1.04)" of a ratio, "-2.5% (-5.0% to 0.0%)" of a difference."""
    found = row["here"]
    if found is None:
        return NONE
    paired, times = found["paired"], found["paired"]["kind"] == "ratio"
    value, low, high = (metric(found["metric"], one) for one in (paired["value"], *paired["ci95"]))
    return f"{value}{' times' * times} ({low} to {high})"


def _tokens(row: Row) -> str:
    return NONE if row["token_agreement"] is None else f"{row['token_agreement']:.0%}"


MORE: dict[str, tuple[str, Callable[[Row], str]]] = {
    "here": ("by these outputs", _here),
    "paired": ("against single", _paired),
    "tokens": ("new tokens equal", _tokens),
    "lost": ("tokens not there in time", _lost),
}
"""Columns that are there only where a method has something to say: title, and what a row says."""


def fidelity(study: Study, setting: Setting, looks: Mapping[str, Look]) -> Piece:
    """A mark per method, and the numbers."""
    rows = [row for row in records(of(study.methods, setting=setting.index)) if row["median_s"] is not None]
    more = [key for key, (_, told) in MORE.items() if any(told(row) != NONE for row in rows)]
    numbers = table(
        (
            "method",
            "promises",
            "largest error",
            "least cosine",
            "top-1 equal",
            "largest KL",
            *(MORE[k][0] for k in more),
        ),
        [(*_cells(row), *(MORE[key][1](row) for key in more)) for row in rows],
        marked(f"Output against single, {setting.title}.", setting.replayed),
    )
    shown = [row for row in rows if row["cosine"] is not None]
    if not shown:
        return joined(none_to_show("No output was compared with that of single."), numbers)
    caption = TOLD + (RANDOM if setting.axes["weights"] == "random" else "")
    alt = "Cosine to single: " + ", ".join(f"{row['label']} {row['cosine']:.4f}" for row in shown)
    plot = Plot(f"fidelity-{setting.index}", alt, HEIGHT, *_plot(shown, looks))
    return joined(
        marks(looks, [row["label"] for row in shown]),
        panels([plot], marked(caption, setting.replayed), wide=True),
        numbers,
    )


def _plot(rows: list[Row], looks: Mapping[str, Look]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    low = min(0.0, *(row["cosine"] for row in rows))
    data = [_mark(row, looks[row["label"]]) for row in rows]
    every = [row[key] for key in ("median_s", "low_s", "high_s") for row in rows]
    y = {"range": [low - 0.06, 1.12], "title": {"text": "cosine to single"}, "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    return data, {"xaxis": log_axis(every, duration, "median latency"), "yaxis": y}


def _mark(row: Row, look: Look) -> dict[str, Any]:
    known = row["low_s"] is not None
    said = f"{words(row['label'])}<br>{duration(row['median_s'])}, cosine {row['cosine']:.4f}"
    return {
        "type": "scatter", "mode": "markers", "name": words(row["label"]), "x": [row["median_s"]],
        "y": [row["cosine"]], "hovertemplate": f"{said}<extra></extra>", "cliponaxis": False,
        "marker": {"color": look.colour, "symbol": look.mark, "size": 13, "line": {"color": INK, "width": 1}},
        "error_x": {"type": "data", "symmetric": False, "color": INK, "thickness": 1.5, "width": 5,
                    "array": [row["high_s"] - row["median_s"] if known else 0],
                    "arrayminus": [row["median_s"] - row["low_s"] if known else 0]},
    }  # fmt: skip


def _cells(row: Row) -> tuple[object, ...]:
    def shown(key: str, form: Any) -> str:
        return NONE if row[key] is None else str(form(row[key]))

    return (
        row["label"], "the output of single" if row["equals_single"] else "another function",
        shown("max_abs_error", error), shown("cosine", "{:.4f}".format), shown("top1_agreement", "{:.0%}".format),
        shown("kl", "{:.2g}".format),
    )  # fmt: skip
