"""Published, predicted and measured figures as rows: one for each method and network, measured or not. Pure.

A row: axes, group (axes but the rate: what a panel shares), setting (its index, None where nothing was measured),
rate_bit_s, delay_s, kind (of the network), method, label, measured_s, n (requests, of all runs of the setting),
predicted_s (median over these runs), error (predicted/measured - 1), verdict (of the network that was measured),
published_s and source (PUBLISHED or FORMULA, None where the paper says nothing), accounted_s (of the steps that run,
by the paper's accounting), model, basis (`against.Cell.kind`), and of what is TOLD the speedup over single, None where
that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.methods import METHODS
from testbed.differences import INVALID
from testbed.page import apart, setting
from testbed.page.apart import ALSO
from testbed.page.data import Row, Setting, Study, records
from testbed.page.setting import Group, group_of
from testbed.page.style import natural
from testbed.predict import accounting, paper
from testbed.predict.against import ONLY, Cell
from testbed.predict.paper import FORMULA, PUBLISHED
from testbed.statistics import median

PAPER = f"{setting.REPLAYED} {accounting.NAME}"  # what is published is computed from these times
TOLD = ("predicted", "published", "accounted")


def rows(study: Study) -> list[Row]:
    """Of all cells that have a network with a rate: networks by kind and delay, then bandwidth, then methods."""
    homes = {run.data.path: run.setting for run in study.runs}
    asked = _Asked(study)
    found: dict[tuple[Group, str], list[Row]] = {}
    for cell in study.cells:
        index = homes.get(cell.run) if cell.run else None
        axes = asked.axes(cell) if index is None else study.settings[index].axes
        row = None if axes is None else _row(study, cell, dict(axes), index)
        if row is not None:
            found.setdefault((tuple(row["axes"].items()), cell.spec.label), []).append(row)
    measured = {(row["setting"], row["label"]): row for row in records(study.methods)}
    every = [_together(own, measured) for own in found.values()]
    return sorted(_with_speedups(_with_published(every)), key=_place)


def _together(own: Sequence[Row], measured: Mapping[tuple[int | None, str], Row]) -> Row:
    """Cells of one method and setting: of all its runs, whose requests count together. What was measured has no need of
    what another sweep did not measure there."""
    ran = [row for row in own if row["basis"] != ONLY] or own
    row = {**ran[0], "predicted_s": median([one["predicted_s"] for one in ran if one["predicted_s"] is not None])}
    seen = measured.get((row["setting"], row["label"]))
    if row["basis"] != ONLY and seen is not None and seen["median_s"] is not None:
        row |= {"measured_s": seen["median_s"], "n": seen["n"]}
        row["error"] = row["predicted_s"] / seen["median_s"] - 1 if row["predicted_s"] else None
    return row


def _place(row: Row) -> tuple[Any, ...]:
    """Networks by kind and delay, then bandwidth, then methods in the order of the runtime."""
    order = list(METHODS)
    method = order.index(row["method"]) if row["method"] in order else len(order)
    return row["kind"], row["delay_s"], row["group"], row["rate_bit_s"], method, natural(row["label"])


def lines(found: Sequence[Row], group: Group, kind: str) -> dict[str, list[tuple[float, float, float | None]]]:
    """Label -> (rate, seconds, speedup) of what was "predicted" or "published" in a group, slowest rate first."""
    points: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in found:
        if row["group"] == group and row[f"{kind}_s"] is not None:
            points.setdefault(row["label"], []).append(
                (row["rate_bit_s"], row[f"{kind}_s"], row[f"{kind}_speedup"])
            )  # fmt: skip
    return points


def _row(study: Study, cell: Cell, axes: dict[str, str], index: int | None) -> Row | None:
    """None on a network without a rate. A cell that was not measured may be of a setting in which others were."""
    network = setting.network(cell.topology)
    if network.rate_bit_s is None:
        return None
    if index is None:
        index = next((one.index for one in study.settings if one.axes == axes), None)
    return {
        "axes": axes, "group": group_of(axes), "setting": index, "rate_bit_s": network.rate_bit_s,
        "delay_s": network.delay_s, "kind": network.kind, "method": cell.spec.method, "label": cell.spec.label,
        "spec": cell.spec, "size": (cell.topology.run.tokens, len(cell.topology.hosts)), "measured_s": None, "n": 0,
        "predicted_s": cell.predicted_s, "error": None, "model": cell.model, "basis": cell.kind, "why": cell.why,
        "shaper": cell.shaper, "verdict": cell.verdict, "profile": cell.case and cell.case.profile,
    }  # fmt: skip


class _Asked:
    """Under which axes a point belongs that a sweep asked for and nobody measured."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._runs = {run.data.topology["name"]: run for run in reversed(study.runs)}
        self._known: dict[int, apart.Facts] = {}

    def axes(self, cell: Cell) -> Mapping[str, str] | None:
        """None where no run of the same sweep is there, and without a rate."""
        run, rate_bit_s = self._runs.get(cell.topology.name), setting.network(cell.topology).rate_bit_s
        if run is None or rate_bit_s is None:
            return None
        axes = setting.moved(self._study.settings[run.setting].axes, cell.topology)
        bare = _bare(axes)
        group = [one for one in self._study.settings if _bare(one.axes) == bare]
        near = [one for one in group if one.network.rate_bit_s == rate_bit_s]
        facts = apart.facts(run.data, cell.topology)
        return {**axes, ALSO: apart.placed(facts, self._facts(near), self._facts(group))}

    def _facts(self, settings: Sequence[Setting]) -> list[tuple[str, apart.Facts]]:
        for one in settings:
            if one.index not in self._known:
                first = next(run for run in self._study.runs if run.setting == one.index)
                self._known[one.index] = apart.facts(first.data, first.topology)
        return [(one.axes[ALSO], self._known[one.index]) for one in settings]


def _bare(axes: Mapping[str, str]) -> Group:
    return group_of({axis: value for axis, value in axes.items() if axis != ALSO})


def _with_published(found: Sequence[Row]) -> Iterator[Row]:
    data = paper.read()
    for row in found:
        told, accounted_s = None, None
        if row["axes"].get("compute") == PAPER:
            told = paper.told(data, row["spec"], row["rate_bit_s"], row["size"])
            if row["profile"] is not None:
                accounted_s = accounting.seconds(row["spec"], row["profile"], row["size"], row["rate_bit_s"])
        seconds, source = told or (None, None)
        yield {**row, "published_s": seconds, "source": source, "accounted_s": accounted_s}


def _with_speedups(found: Iterator[Row]) -> list[Row]:
    every = list(found)
    single = {(row["group"], row["rate_bit_s"]): row for row in every if row["method"] == "single"}
    for row in every:
        alone = single.get((row["group"], row["rate_bit_s"]), {})
        for kind in TOLD:
            own, theirs = row[f"{kind}_s"], alone.get(f"{kind}_s")
            row[f"{kind}_speedup"] = theirs / own if own and theirs else None
    return every


def replayed(found: Sequence[Row]) -> bool:
    """Whether any of it is from the paper's compute times."""
    return any(row["source"] in (PUBLISHED, FORMULA) for row in found)


def counts(row: Row) -> bool:
    """Whether it tells how far off predictions are, as `against.Cell.counts`."""
    return row["error"] is not None and row["method"] != "single" and row["verdict"] not in INVALID
