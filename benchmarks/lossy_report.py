"""What `benchmarks/lossy.py` measured: read from its sweeps, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy.results import TITLES
from testbed import topology
from testbed.differences import INVALID
from testbed.here import here
from testbed.lost import lost
from testbed.predict.counted import counted
from testbed.statistics import mean_interval, paired_ratio
from testbed.store import RunData
from testbed.summary import latencies, summary
from testbed.tables import METRICS, NONE, duration, metric


@dataclass(frozen=True)
class Variant:
    """A model to prepare: kind of data, groups of its codes."""

    kind: str
    groups: int

    @property
    def name(self) -> str:
        return f"{self.kind}_g{self.groups}"


VARIANTS = [Variant("digits", 1), Variant("corpus", 1)]


@dataclass(frozen=True)
class Cell:
    """One method under one loss: its entry of summary.json, whether its network was the declared one, and of its
    requests, by number, scores, latencies and the share of codes that were not there."""

    variant: Variant
    loss: float
    bursts: bool
    udp: bool
    found: dict[str, Any]
    valid: bool
    scores: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    times_s: Mapping[int, float] = field(default_factory=dict)
    missing: Mapping[int, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether it is to be shown."""
        return self.valid and bool(self.found["status"] == "ok")


def cells(out: Path) -> Iterator[Cell]:
    """All that was measured."""
    folders = [(variant, folder) for variant in VARIANTS for folder in sorted(out.glob(f"sweep_{variant.name}_*s"))]
    for variant, folder in folders:
        for run in counted(folder).runs:
            described, lane = summary(run), topology.load(run.path / "run.yaml").links[0].up
            valid = described["network"]["verdict"] not in INVALID
            for found in described["methods"]:
                udp = found["options"].get("transport") == "udp"
                network, label = (round(lane.loss.mean, 4), lane.loss.enter > 0), found["label"]
                scores, times_s, missing = _scores(run, label), latencies(run, label), _missing(run, label)
                yield Cell(variant, *network, udp, found, valid, scores, times_s, missing)


def _scores(run: RunData, label: str) -> dict[int, dict[str, Any]]:
    rows = (row for row in run.records if row["label"] == label and not row["warmup"])
    return {row["request"]: row["score"] for row in rows if row.get("score")}


def _missing(run: RunData, label: str) -> dict[int, float]:
    """Of the tokens that could have been missed, on all devices; nothing of a method that loses none."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in run.records:
        if row["label"] == label and not row["warmup"]:
            found.setdefault(row["request"], []).append(row)
    shares = {number: lost(rows) for number, rows in found.items()}
    return {number: share["share"] for number, share in shares.items() if share is not None}


# What is shown

HEAD = (
    "loss", "TCP: latency", "UDP: latency", "UDP / TCP", "codes not there", "task over TCP", "task over UDP",
    "against TCP", "against one device",
)  # fmt: skip


def text(found: list[Cell], variant: Variant) -> list[str]:
    """The table of a model."""
    settings = sorted({(cell.bursts, cell.loss) for cell in found if cell.variant == variant})
    rows = [HEAD, ("---",) * len(HEAD), *(_row(found, variant, setting) for setting in settings)]
    return ["| " + " | ".join(words) + " |" for words in rows]


def one(found: Sequence[Cell], variant: Variant, setting: tuple[bool, float], udp: bool) -> Cell | None:
    """What was measured there on the declared network, None if nothing was."""
    same = (c for c in found if (c.variant, (c.bursts, c.loss), c.udp) == (variant, setting, udp) and c.good)
    return next(same, None)


def _row(found: Sequence[Cell], variant: Variant, setting: tuple[bool, float]) -> tuple[str, ...]:
    tcp, udp = (one(found, variant, setting, over) for over in (False, True))
    bursts, loss = setting
    return (
        f"{100 * loss:g} %{' in bursts' * bursts}", _latency(tcp), _latency(udp), _slower(udp, tcp),
        _absent(udp), _worth(tcp), _worth(udp), _paired(against(udp, tcp)),
        _paired(None if udp is None else udp.found["here"]),
    )  # fmt: skip


def against(cell: Cell | None, other: Cell | None) -> dict[str, Any] | None:
    """What `testbed.here` says of the requests that both have, the other in the place of one device."""
    if cell is None or other is None:
        return None
    both = [(cell.scores[number], other.scores[number]) for number in cell.scores if number in other.scores]
    return here([{"score": {**a, "single": b["this"]}} for a, b in both])


def _absent(cell: Cell | None) -> str:
    shares = [] if cell is None else list(cell.missing.values())
    if not shares:
        return NONE
    low, high = (NONE if end is None else f"{100 * end:.2g} %" for end in mean_interval(shares))
    return f"{100 * sum(shares) / len(shares):.2g} % ({low} to {high}, n {len(shares)})"


def _latency(cell: Cell | None) -> str:
    if cell is None:
        return NONE
    median, requests = cell.found["latency_s"]["median"], cell.found["requests"]
    low, high = (duration(end) for end in cell.found["latency_s"]["ci95"])
    return f"{duration(median)} ({low} to {high}, n {requests})"


def _slower(cell: Cell | None, other: Cell | None) -> str:
    """How many times the latency of the other, over the requests that both have."""
    found = None if cell is None or other is None else paired_ratio(cell.times_s, other.times_s)
    if found is None or found["ratio"] is None:
        return NONE
    value, *ends = (NONE if one is None else f"{one:.2f}x" for one in (found["ratio"], *found["ci95"]))
    return f"{value} ({' to '.join(ends)}, n {found['n']})"


def _worth(cell: Cell | None) -> str:
    worth = cell and cell.found["here"]
    if not worth:
        return NONE
    value, low, high = (metric(worth["metric"], one) for one in (worth["value"], *worth["ci95"]))
    return f"{METRICS[worth['metric']]} {value} ({low} to {high}, n {worth['n']})"


def _paired(worth: Mapping[str, Any] | None) -> str:
    if not worth:
        return NONE
    paired, times = worth["paired"], "x" * (worth["paired"]["kind"] == "ratio")
    value, low, high = (f"{metric(worth['metric'], one)}{times}" for one in (paired["value"], *paired["ci95"]))
    return f"{value} ({low} to {high}, n {worth['n']})"


PREFACE = """\
# Codes that may be lost

ASTRA's codes over UDP, each datagram once, tokens masked out whose codes have not come {deadline} after a device began
to wait for a layer, against the same codes over TCP, which sends again. 4 devices in a star of 20 Mbit/s and 5 ms per
link; every frame from a host to the switch is lost with the probability of the row, independently or in bursts of
{burst} on average; every device has the input, results travel over TCP and are lost alike. One trained model and one
draw of losses for each row. The deadline was set by hand to what suits these links; a file that gives none has a
longer one (see [network.md](network.md)); in the first layer it does not run before all have begun.

Task: by the outputs of these very requests on held-out inputs, top-1, or perplexity of the byte after the prompt; over
UDP against TCP and against one device: on the same requests, the difference, or the ratio of perplexities. Latency:
median; UDP / TCP: geometric mean of the ratios of the same requests. Codes not there: of the tokens that could have
been missed, lost or late, together, mean of the requests. n: requests. Intervals of 95 % over requests, each by itself,
also where inputs are of one file: medians, means and ratios by bootstraps, shares Wilson's, differences of shares
Agresti and Min's, which have a width where no request differs. Requests of one method end after {budgets}. In that
time falls also what no latency has in it: the first request, and after each one the wait until TCP has acknowledged
all that it carried, the results and, over UDP, each device's word that it has begun. Where much is lost one such wait
can take most of it: so there are few requests in some rows, none of which need have been slow. The one after which time
was up is counted. Models are those of the shipped recipes, fine-tuned at 3e-5; what losses cost on all held-out inputs,
of models fine-tuned at rates chosen for that, and models trained with message dropout: [accuracy.md](accuracy.md).
`{command}` repeats all of it.

![latency and task against loss]({plot})
"""


def document(found: list[Cell], plot: str, settings: Mapping[str, Any]) -> str:
    """Markdown. settings: deadline, burst, budgets, command."""
    parts = [PREFACE.format(plot=plot, **settings)]
    for variant in VARIANTS:
        if any(cell.variant == variant for cell in found):
            parts += [f"## {TITLES[variant.kind]}, G = {variant.groups}", "", *text(found, variant), ""]
    if left := [cell for cell in found if not cell.good]:
        parts.append(f"Left out: {len(left)} of {len(found)} cells failed, or their network was not the declared one.")
    return "\n".join(parts).rstrip() + "\n"


def draw(found: list[Cell], path: Path) -> None:
    """Latency above, task below, against loss; a column for each kind of data and groups."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from testbed.page.paper import SETTINGS

    plain = [one for one in VARIANTS if any(cell.variant == one for cell in found)]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2 * len(plain), 5.0))
        axes = figure.subplots(2, len(plain), squeeze=False, sharex=True)
        for column, variant in enumerate(plain):
            for line, bursts, udp in _lines():
                own = [c for c in found if (c.variant, c.udp) == (variant, udp) and c.good]
                _line(axes[:, column], line, own, bursts)
            axes[0, column].set(title=f"{TITLES[variant.kind]}, G = {variant.groups}", yscale="log")
            axes[0, column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0, column].yaxis.set_major_formatter("{x:g}")
            axes[0, column].yaxis.set_minor_formatter("")
            judged = next((c.found["here"]["metric"] for c in found if c.variant == variant and c.found["here"]), None)
            axes[1, column].set(xlabel="loss, %", ylabel=METRICS[judged] if judged else "")
        axes[0, 0].set(ylabel="latency, s")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _lines() -> Iterator[tuple[dict[str, Any], bool, bool]]:
    """Looks, in bursts or not, over UDP or not."""
    for bursts, dash in ((False, "-"), (True, "--")):
        more = ", bursts" * bursts
        yield {"color": "#0072B2", "ls": dash, "marker": "o", "label": f"TCP{more}"}, bursts, False
        yield {"color": "#D55E00", "ls": dash, "marker": "s", "label": f"UDP{more}"}, bursts, True


def _line(axes: Any, look: dict[str, Any], found: list[Cell], bursts: bool) -> None:
    """One line in both panels of a column; without loss there are no bursts either: both kinds begin there."""
    own = sorted((c for c in found if c.bursts == bursts or not c.loss), key=lambda cell: cell.loss)
    for axis, key in zip(axes, ("latency_s", "here"), strict=True):
        points = [(100 * c.loss, c.found[key]) for c in own if c.found[key]]
        middle = [entry["median" if key == "latency_s" else "value"] for _, entry in points]
        ends = [
            (m, m) if None in entry["ci95"] else entry["ci95"] for m, (_, entry) in zip(middle, points, strict=True)
        ]
        errors = [[abs(m - both[side]) for m, both in zip(middle, ends, strict=True)] for side in (0, 1)]
        axis.errorbar([x for x, _ in points], middle, errors, ms=3, lw=1, elinewidth=0.7, capsize=2, **look)
