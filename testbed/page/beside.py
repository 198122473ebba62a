"""Published, predicted and measured figures beside each other, how far off predictions are, and the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.page import forecast, frontier, maps
from testbed.page.data import Row, Study
from testbed.page.head import marked, none_to_show
from testbed.page.markup import Piece, chosen, details, joined, paragraph, table
from testbed.page.setting import PANEL
from testbed.predict.against import REAL, Errors, errors_of
from testbed.predict.paper import FORMULA
from testbed.report import against
from testbed.tables import NONE, duration
from testbed.units import show_rate

GOOD = 0.15  # an error beyond it is named
NAMED = 8
KINDS = ("published", "predicted", "measured")
TOLD = (
    "Error is predicted / measured - 1. Predictions come from the steps that the runtime executes, the profile of "
    "their stages, the declared network, and what messages and frames cost the machine that made them, measured apart: "
    "lines are as fast as one machine can emulate them. Nothing was fitted to what is compared."
)
PUBLISHED = (
    "Published are speedups over one device for 4 devices and 1024 tokens, by the paper's accounting: compute + "
    "bits / bandwidth on a dedicated link for every pair, without delay, headers or messages; its Mbit/s are 2^20 "
    "bit/s. For other sizes, and rates between, the same formula (the paper's formula) gives what is marked with *."
)
OF_THEMSELVES = (
    "Where compute was real, stages are given the times that the run itself took for them: of it the network alone is "
    "predicted."
)


def beside(study: Study, found: Sequence[Row], drawn: Sequence[maps.Map]) -> Piece:
    """Errors in a sentence, who beats one device from where on, the maps, and all numbers."""
    known = [row for row in found if row["predicted_s"] is not None]
    if not known:
        why = dict.fromkeys(row["why"] for row in found if row["why"])
        return none_to_show(f"Nothing could be predicted: {'; '.join(why)}." if why else "Nothing was predicted.")
    parts: list[Piece | str] = [paragraph(said) for said in summary(found)]
    parts.append(paragraph(TOLD))
    parts += [paragraph(PUBLISHED)] * forecast.replayed(found)
    parts += [paragraph(OF_THEMSELVES)] * any(row["basis"] == REAL for row in found)
    parts += [_by_method(found), _crossings(found), *(maps.panel(one) for one in drawn), _numbers(study, found)]
    return joined(*parts)


def summary(found: Sequence[Row]) -> list[str]:
    """How far predictions are off, in sentences; those beyond 15 % by name."""
    measured = [row for row in found if row["error"] is not None and row["method"] != "single"]
    whole = errors_of([row["error"] for row in measured])
    if whole is None:
        return ["Nothing was both predicted and measured."]
    said = [
        f"Over {whole.n} methods and networks that were measured, the prediction is off by {whole.median:.1%} in the "
        f"median and {whole.worst:.0%} at worst (predicted / measured {whole.ratio:.2f} in the geometric mean)."
    ]
    bad = sorted((row for row in measured if abs(row["error"]) > GOOD), key=lambda row: -abs(row["error"]))
    if bad:
        named = ", ".join(f"{row['label']} {row['error']:+.0%} ({_network(row)})" for row in bad[:NAMED])
        more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        said.append(f"Beyond 15 %: {len(bad)} of {whole.n}: {named}{more}.")
    return said


def _network(row: Row) -> str:
    axes = row["axes"]
    return ", ".join(axes[axis] for axis in ("network", "rate", "delay") if axes.get(axis, "none") != "none")


def _by_method(found: Sequence[Row]) -> str:
    """Errors by method and by network, for who opens it."""
    rows = []
    for name in ("label", "kind", "shaper"):
        groups: dict[str, list[float]] = {}
        for row in found:
            if row["error"] is not None and row["method"] != "single":
                groups.setdefault(str(row[name]), []).append(row["error"])
        rows += [(key, *_cells(one)) for key, values in groups.items() if (one := errors_of(values)) is not None]
    heads = ("of", "n", "median", "worst", "predicted / measured")
    return details("Errors by method, network and shaper", table(heads, rows, "Size of the errors of predictions."))


def _cells(one: Errors) -> tuple[object, ...]:
    return one.n, f"{one.median:.1%}", f"{one.worst:.1%}", f"{one.ratio:.3f}"


def _crossings(found: Sequence[Row]) -> Piece:
    """For every kind of network and delay: from which bandwidth on which method beats one device."""
    parts = list[str]()
    for group in dict.fromkeys(row["group"] for row in found):
        here = [row for row in found if row["group"] == group]
        rates = sorted({row["rate_bit_s"] for row in here})
        if len(rates) > 1:
            title = f"{_title(here[0]['axes'], found)}, from {show_rate(rates[0])} to {show_rate(rates[-1])}."
            parts.append(table(("method", *KINDS), _beating(here), title))
    if not parts:
        return joined()
    return joined("<h3>From which bandwidth on a method beats one device</h3>", *parts)


def _beating(here: Sequence[Row]) -> list[tuple[str, ...]]:
    """A row per method."""
    labels = dict.fromkeys(row["label"] for row in here if row["method"] != "single")
    own = {label: [row for row in here if row["label"] == label] for label in labels}
    return [(label, *(_from(rows, here, kind) or NONE for kind in KINDS)) for label, rows in own.items()]


def _from(own: Sequence[Row], here: Sequence[Row], kind: str) -> str:
    """ "from 35 Mbit/s on", "everywhere", "nowhere"; nothing where it is not known."""
    alone = {row["rate_bit_s"]: row[f"{kind}_s"] for row in here if row["method"] == "single"}
    points = [
        (row["rate_bit_s"], alone[row["rate_bit_s"]] / row[f"{kind}_s"], None, None)
        for row in own if row[f"{kind}_s"] and alone.get(row["rate_bit_s"])
    ]  # fmt: skip
    return frontier.briefly(points) if points else ""


def _title(axes: Mapping[str, str], found: Sequence[Row]) -> str:
    """The network of a group, and what else tells it from the other groups."""
    others = {axis for row in found for axis, value in row["axes"].items() if axes.get(axis) != value} - {"rate"}
    shown = [axis for axis in axes if axis in PANEL or axis in others]
    return ", ".join(axes[axis] for axis in shown if axis != "rate" and axes[axis] != "none")


def _numbers(study: Study, found: Sequence[Row]) -> Piece:
    """A table for each group, one at a time."""
    heads = ("method", "bandwidth", "published", "predicted", "measured", "n", "error",
             "published vs single", "predicted", "measured")  # fmt: skip
    pieces = []
    speedups = {(row["setting"], row["label"]): row["speedup"] for row in study.methods.to_dict("records")}
    for group in dict.fromkeys(row["group"] for row in found):
        here = [row for row in found if row["group"] == group]
        title = _title(here[0]["axes"], found)
        compute = here[0]["axes"]["compute"]
        replays = next((one.replayed for one in study.settings if one.axes["compute"] == compute), None)
        cells = [_row(row, speedups.get((row["setting"], row["label"]))) for row in here]
        pieces.append((title or "all", Piece(table(heads, cells, marked(f"{title}.", replays)))))
    return joined("<h3>The numbers</h3>", chosen("beside", "Network", pieces))


def _row(row: Row, measured: float | None) -> tuple[object, ...]:
    star = "*" if row["source"] == FORMULA else ""

    def marked_(shown: str) -> str:
        return f"{shown}{star}" if shown != NONE else shown

    return (
        row["label"], show_rate(row["rate_bit_s"]), marked_(duration(row["published_s"])),
        duration(row["predicted_s"]), duration(row["measured_s"]), row["n"] or NONE,
        NONE if row["error"] is None else f"{row['error']:+.1%}", marked_(against(row["published_speedup"])),
        against(row["predicted_speedup"]), against(measured if row["measured_s"] else None),
    )  # fmt: skip
