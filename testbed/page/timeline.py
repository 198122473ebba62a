"""What every device did when, of one request that the reader chooses: rows of timeline.jsonl, packed for the script.

packed: {"kinds": [[name, colour]], "stages": [name], "entries": [{"title", "requests": [{"title", "devices":
[[host, [[kind, stage, layer or -1, start, length], ...]]]}]}]}, times in whole microseconds from the earliest device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.page.data import Run, Study
from testbed.page.head import none_to_show
from testbed.page.markup import Piece, joined, legend, paragraph, text
from testbed.page.style import KINDS
from testbed.tables import duration

MOST_SPANS = 60_000  # on the page, about 25 bytes each
NAMES = {"compute": "compute", "code": "coding", "wait": "waiting", "scatter": "scatter", "gather": "gather",
         "send": "sending"}  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


@dataclass
class Pack:
    """Requests as the script needs them, and what was left out."""

    stages: dict[str, int] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    total: int = 0


def timeline(study: Study) -> tuple[Piece, dict[str, Any] | None]:
    """Selects and the place of the plot, and what the script draws there. A sentence where no run has a timeline."""
    packed = pack(study.runs)
    without = [run.letter for run in study.runs if not run.data.timeline]
    if not packed.entries:
        return none_to_show("No timeline: these folders have no timeline.jsonl, which newer runs write."), None
    said = [
        "One request, every device: the clock starts with the earliest device. A bar's place and colour say when and "
        "what, its hover text the stage and layer."
    ]
    if packed.kept < packed.total:
        said.append(
            f"{packed.kept} of {packed.total} requests are on this page, those nearest the median, then the slowest; "
            "testbed trace writes any of them."
        )
    if without:
        said.append(f"Without timeline.jsonl: {', '.join(without)}.")
    replayed = dict.fromkeys(one.replayed for one in study.settings if one.replayed)
    said += [f"{words[0].upper()}{words[1:]}." for words in replayed]
    kinds = [(NAMES[kind], KINDS[NAMES[kind]][0]) for kind in NAMES]
    place = (
        '<figure class="timeline"><div class="plot" id="timeline-plot" role="img" '
        f'aria-label="Timeline of one request"></div><figcaption>{text(" ".join(said))}</figcaption></figure>'
    )
    content = {"kinds": kinds, "stages": list(packed.stages), "entries": packed.entries}
    return joined(_selects(), legend(kinds), place), content


def _selects() -> str:
    """Filled by the script."""
    names = (("timeline-entry", "Method"), ("timeline-request", "Request"), ("timeline-rows", "Rows"))
    labels = "".join(f'<label>{title} <select id="{name}"></select></label> ' for name, title in names)
    return f'<p class="choose">{labels}</p><noscript>{paragraph("This needs a browser that runs scripts.")}</noscript>'


def pack(runs: Sequence[Run]) -> Pack:
    """As many requests as the page may hold: round by round one of every method, nearest the median first."""
    packed = Pack()
    waiting = [_requests(run, label, len(runs) > 1) for run in runs for label in _labels(run)]
    packed.total = sum(len(requests) for _, requests in waiting)
    packed.entries = [{"title": title, "requests": []} for title, _ in waiting]
    left = MOST_SPANS
    for turn in range(max((len(requests) for _, requests in waiting), default=0)):
        for entry, (_, requests) in zip(packed.entries, waiting, strict=True):
            if turn < len(requests):
                number, rows = requests[turn]
                left -= sum(len(row["spans"]) for row in rows)
                if left < 0 and packed.kept:
                    packed.entries = [entry for entry in packed.entries if entry["requests"]]
                    return packed
                entry["requests"].append(_packed(number, rows, packed.stages))
                packed.kept += 1
    return packed


def _labels(run: Run) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in run.data.timeline))


def _requests(run: Run, label: str, many: bool) -> tuple[str, list[tuple[str, Rows]]]:
    """Title of a method and its requests, the most telling first, each under a name that says how long it took."""
    rows = [row for row in run.data.timeline if row["label"] == label]
    whole: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        whole.setdefault(row["request"], []).append(row)
    took = {number: _length(devices) for number, devices in whole.items()}
    measured = [number for number in sorted(took, key=lambda n: took[n]) if not whole[number][0]["warmup"]]
    order = list(dict.fromkeys([*measured[len(measured) // 2 :][:1], *measured[-1:], *measured[:1], *sorted(whole)]))
    words = {n: f"{n} ({duration(took[n])}{', warm-up' if whole[n][0]['warmup'] else ''})" for n in order}
    if measured:
        words[measured[-1]] += ", slowest" * (len(measured) > 1)
        words[measured[len(measured) // 2]] += ", median" * (len(measured) > 2)
    title = f"{run.letter} · {label}" if many else label
    return title, [(words[number], whole[number]) for number in order]


def _length(devices: Rows) -> float:
    """Seconds from the first start to the last end of any device."""
    begun = min(row["began_s"] for row in devices)
    ends = (row["began_s"] - begun + start + seconds for row in devices for *_, start, seconds in row["spans"])
    return float(max(ends, default=0.0))


def _packed(title: str, rows: Rows, stages: dict[str, int]) -> dict[str, Any]:
    begun = min(row["began_s"] for row in rows)
    kinds = {kind: index for index, kind in enumerate(NAMES)}
    devices = []
    for row in sorted(rows, key=lambda row: row["rank"]):
        offset = row["began_s"] - begun
        spans = [
            [kinds[kind], stages.setdefault(stage, len(stages)), -1 if layer is None else layer,
             round(1e6 * (offset + start)), round(1e6 * seconds)]
            for kind, stage, layer, start, seconds in row["spans"] if kind in kinds
        ]  # fmt: skip
        devices.append([row["host"], spans])
    return {"title": title, "devices": devices}
