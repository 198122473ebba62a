"""Predictions beside measurements: every method of run folders and sweeps, and what a sweep's file asks for beyond."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime import families
from runtime.errors import RuntimeFault
from runtime.profile import Profile
from testbed import evidence, profiles, store, topology
from testbed.differences import INVALID
from testbed.predict import jobs, own, unmeasured
from testbed.predict.counted import counted
from testbed.predict.jobs import Case
from testbed.predict.kept import Entry
from testbed.predict.work import Costs
from testbed.statistics import median
from testbed.store import RunData
from testbed.summary import latencies
from testbed.sweep import folder
from testbed.topology import MethodSpec, Topology, TopologyError

REPLAYED, REAL, ONLY = "replayed", "real", "predicted only"


@dataclass(frozen=True)
class Cell:
    """One method on one network. run: its folder, None where nothing was measured.

    kind: REPLAYED: compute was replayed and is predicted from the same profile; REAL: it was real, so that its own
    times are taken and the network alone is predicted; ONLY: not measured. why:
    there is no prediction; case, costs: what the prediction was made of; verdict: of the network, see
    `testbed.evidence`.
    """

    topology: Topology
    spec: MethodSpec
    kind: str
    run: Path | None = None
    shaper: str | None = None
    predicted_s: float | None = None
    measured_s: float | None = None
    n: int = 0
    model: str = ""
    why: str = ""
    case: Case | None = None
    costs: Costs | None = None
    verdict: str = "ok"

    @property
    def counts(self) -> bool:
        """Whether it tells how far off predictions are: single crosses no network, and one that was not the declared
        one, or was not verified, is not the network of which this is predicted."""
        return self.spec.method != "single" and self.verdict not in INVALID

    @property
    def error(self) -> float | None:
        """predicted / measured - 1; None where either is not known."""
        return self.predicted_s / self.measured_s - 1 if self.predicted_s and self.measured_s else None


def cells(paths: Sequence[Path], costs: Costs | None = None) -> list[Cell]:
    """Of run folders and sweeps, in their order, those that were not measured last. Kept in the folders.

    costs: of messages, None: measured here. Raises StoreError for a folder that is neither.
    """
    drafts: list[tuple[Case | None, Path, list[Cell]]] = []
    for path in paths:
        if folder.is_sweep(path):
            runs = counted(path).runs
            drafts += [_measured(run) for run in runs]
            drafts += [
                (Case(asked, profile), path, [Cell(asked, spec, ONLY) for spec in asked.run.methods])
                for asked, profile in unmeasured.points(path, runs)
            ]
        else:
            drafts.append(_measured(store.load(path)))
    cases = [(case, home) for case, home, _ in drafts if case is not None]
    entries = iter(jobs.predicted(cases, costs))
    return [
        cell
        for case, _, drafted in drafts
        for found in [next(entries) if case is not None else None]
        for cell in (_filled(replace(one, case=case), found) for one in drafted)
    ]


def _measured(run: RunData) -> tuple[Case | None, Path, list[Cell]]:
    """What is to be predicted of a run folder, and its cells as far as they were measured."""
    entries = [method for method in run.methods if method["status"] == "ok"]
    specs = [MethodSpec(entry["method"], entry.get("options") or {}) for entry in entries]
    known = [spec for spec, entry in zip(specs, entries, strict=True) if spec.label == entry["label"]]
    kind = REAL if run.manifest["compute"] == "real" else REPLAYED
    try:
        network = topology.load(run.path / store.TOPOLOGY)
        profile = _profile(run, network)
    except (TopologyError, RuntimeFault) as error:
        why = str(error).splitlines()[0]
        found = [Cell(_nothing(run), spec, kind, run.path, why=why) for spec in known]
        return None, run.path, [_with_latency(cell, run) for cell in found]
    network = replace(network, run=replace(network.run, methods=tuple(known)))
    shaper = run.manifest.get("shaper")
    drafted = [_with_latency(Cell(network, spec, kind, run.path, shaper), run) for spec in known]
    return Case(network, profile, shaper), run.path, drafted


def _profile(run: RunData, network: Topology) -> Profile:
    """What its stages took: as replayed, or by its own timeline. Raises TopologyError, ProfileError, BadModel."""
    if run.manifest["compute"] == "real":
        return own.profile(run, families.describe(network.run.model, network.run.weights))
    return profiles.read(run.path / store.PROFILE)


def _nothing(run: RunData) -> Topology:
    """A topology that cannot be read any more, for its name."""
    return Topology(str(run.topology["name"]), "local", (), (), (), topology.RunSpec("", ""))


def _with_latency(cell: Cell, run: RunData) -> Cell:
    seconds, verdict = list(latencies(run, cell.spec.label).values()), evidence.network(run)["verdict"]
    return replace(cell, measured_s=median(seconds), n=len(seconds), verdict=verdict)


def _filled(cell: Cell, entry: Entry | None) -> Cell:
    row = None if entry is None else entry.found.get(cell.spec.label)
    if entry is None or row is None:
        return cell
    if row["error"]:
        return replace(cell, why=row["error"])
    return replace(cell, predicted_s=row["latency_s"], model=row["model"], costs=entry.costs)


# How far off


@dataclass(frozen=True)
class Errors:
    """Of the size of errors: median and worst over n cells, and the geometric mean of predicted / measured, whether it
    is too much or too little."""

    n: int
    median: float
    worst: float
    ratio: float


def errors(found: Sequence[Cell]) -> Errors | None:
    """None where nothing was both predicted and measured, and counts."""
    return errors_of([error for cell in found if cell.counts and (error := cell.error) is not None])


def left_out(found: Sequence[Cell]) -> int:
    """How many cells have no part in the errors because of their network."""
    return sum(cell.error is not None and cell.spec.method != "single" and not cell.counts for cell in found)


def errors_of(known: Sequence[float]) -> Errors | None:
    """Of errors as fractions, None of nothing."""
    if not known:
        return None
    ratio = math.exp(sum(math.log1p(error) for error in known) / len(known))
    return Errors(len(known), median([abs(error) for error in known]) or 0.0, max(map(abs, known)), ratio)


def by(found: Sequence[Cell], key: Callable[[Cell], str]) -> dict[str, Errors]:
    """Errors of the cells that have the same key, in the order in which they come."""
    groups: dict[str, list[Cell]] = {}
    for cell in found:
        groups.setdefault(key(cell), []).append(cell)
    return {name: summed for name, group in groups.items() if (summed := errors(group)) is not None}
