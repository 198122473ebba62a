"""Published, predicted and measured figures as rows: one for each method and network, measured or not. Pure.

A row: axes, group (axes but the rate: what a panel shares), setting (its index, None where nothing was measured),
rate_bit_s, delay_s, kind (of the network), method, label, measured_s, n, predicted_s, error (predicted/measured - 1),
published_s and source (PUBLISHED or FORMULA, None where the paper says nothing), model, basis (`against.Cell.kind`),
and of predicted and published the speedup over single, None where that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.methods import METHODS
from testbed.page import setting
from testbed.page.data import Row, Setting, Study, records
from testbed.page.style import natural
from testbed.predict import paper
from testbed.predict.against import Cell
from testbed.predict.paper import FORMULA, PUBLISHED

PAPER = f"{setting.REPLAYED} paper_encoder"  # what is published is computed from these times
Group = tuple[tuple[str, str], ...]
TOLD = ("predicted", "published")


def rows(study: Study) -> list[Row]:
    """Of all cells that have a network with a rate, in the order of settings, then of rates."""
    homes = {run.data.path: run.setting for run in study.runs}
    measured = {(row["setting"], row["label"]): row for row in records(study.methods)}
    found: dict[tuple[Group, str | None, str], Row] = {}
    for cell in study.cells:
        index = homes.get(cell.run) if cell.run else None
        row = _row(study, cell, index)
        if row is not None:
            found.setdefault((row["group"], row["axes"].get("rate"), cell.spec.label), row)
    for row in found.values():
        seen = measured.get((row["setting"], row["label"]))
        if seen is not None and seen["median_s"] is not None:
            row |= {"measured_s": seen["median_s"], "n": seen["n"]}
            row["error"] = row["predicted_s"] / seen["median_s"] - 1 if row["predicted_s"] else None
    every = _with_published(found.values())
    return sorted(_with_speedups(every), key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    """Networks by kind and delay, then bandwidth, then methods in the order of the runtime."""
    order = list(METHODS)
    method = order.index(row["method"]) if row["method"] in order else len(order)
    return row["kind"], row["delay_s"], row["group"], row["rate_bit_s"], method, natural(row["label"])


def group_of(axes: Mapping[str, str]) -> Group:
    """What settings that differ in their rate alone share."""
    return tuple((axis, value) for axis, value in axes.items() if axis != "rate")


def lines(found: Sequence[Row], group: Group, kind: str) -> dict[str, list[tuple[float, float, float | None]]]:
    """Label -> (rate, seconds, speedup) of what was "predicted" or "published" in a group, slowest rate first."""
    points: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in found:
        if row["group"] == group and row[f"{kind}_s"] is not None:
            points.setdefault(row["label"], []).append(
                (row["rate_bit_s"], row[f"{kind}_s"], row[f"{kind}_speedup"])
            )  # fmt: skip
    return points


def _row(study: Study, cell: Cell, index: int | None) -> Row | None:
    """None on a network without a rate, and where it is not known under which axes it belongs."""
    network = setting.network(cell.topology)
    if network.rate_bit_s is None:
        return None
    base = study.settings[index].axes if index is not None else _base(study, cell)
    if base is None:
        return None
    axes = dict(base) if index is not None else setting.moved(base, cell.topology)
    if index is None:
        index = next((one.index for one in study.settings if one.axes == axes), None)
    return {
        "axes": axes, "group": group_of(axes), "setting": index, "rate_bit_s": network.rate_bit_s,
        "delay_s": network.delay_s, "kind": network.kind, "method": cell.spec.method, "label": cell.spec.label,
        "spec": cell.spec, "size": (cell.topology.run.tokens, len(cell.topology.hosts)), "measured_s": None, "n": 0,
        "predicted_s": cell.predicted_s, "error": None, "model": cell.model, "basis": cell.kind, "why": cell.why,
        "shaper": cell.shaper,
    }  # fmt: skip


def _base(study: Study, cell: Cell) -> Mapping[str, str] | None:
    """Axes of a setting of the same sweep."""
    names = {run.data.topology["name"]: run.setting for run in study.runs}
    index = names.get(cell.topology.name)
    return None if index is None else study.settings[index].axes


def _with_published(found: Any) -> Iterator[Row]:
    data = paper.read()
    for row in found:
        told = None
        if row["axes"].get("compute") == PAPER:
            told = paper.told(data, row["spec"], row["rate_bit_s"], row["size"])
        seconds, source = told or (None, None)
        yield {**row, "published_s": seconds, "source": source}


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


def of_setting(found: Sequence[Row], one: Setting) -> list[Row]:
    """Rows of a setting."""
    return [row for row in found if row["setting"] == one.index]
