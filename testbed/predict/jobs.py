"""Many forecasts at once, on all cores, and kept: what was predicted by the same sources is not predicted again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from runtime import families
from runtime.errors import RuntimeFault
from runtime.profile import Profile
from testbed.predict import kept, messages
from testbed.predict.command import How, forecast
from testbed.predict.frontier import SINGLE, frontier
from testbed.predict.kept import Entry
from testbed.predict.maps import latency_of
from testbed.predict.work import Costs
from testbed.topology import MethodSpec, Topology

_ALONE = 4  # so few forecasts are made before other processes would be ready
_LONGEST = ("tensor", "sequence", "block")
Row = dict[str, Any]
Job = TypeVar("Job")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Case:
    """A network and what is to be predicted on it. shaper: that made it, None where nothing did yet."""

    topology: Topology
    profile: Profile
    shaper: str | None = None

    @property
    def key(self) -> str:
        """Equal for cases of which the same is predicted, by these sources."""
        network = asdict(self.topology)
        for path in ("compute", "inputs"):  # a folder may be moved
            del network["run"][path]
        return kept.key(network, self.profile, self.shaper)

    def with_methods(self, specs: tuple[MethodSpec, ...]) -> Case:
        """The same network for other methods."""
        run = replace(self.topology.run, methods=specs)
        return replace(self, topology=replace(self.topology, run=run))


@dataclass(frozen=True)
class Grid:
    """A map that is asked for: rates in bit/s, one-way delays of every link in seconds. Single is added to the methods
    of the case where it is missing: a map is of who beats it."""

    case: Case
    rates_bit_s: tuple[float, ...]
    delays_s: tuple[float, ...]

    def __post_init__(self) -> None:
        specs = self.case.topology.run.methods
        if all(spec.method != SINGLE for spec in specs):
            object.__setattr__(self, "case", self.case.with_methods((MethodSpec(SINGLE), *specs)))

    @property
    def key(self) -> str:
        """As that of a case."""
        return kept.key(self.case.key, self.rates_bit_s, self.delays_s)


def predicted(cases: Sequence[tuple[Case, Path]], costs: Costs | None = None) -> list[Entry]:
    """Of each case its rows by label (see `Forecast.row`), kept in the folder beside it, or taken from there.

    costs: of messages; None: measured here, if anything is to be predicted. Several cases may share a folder.
    """
    asked = [(case.key, folder) for case, folder in cases]
    before = _before(asked, "predictions", costs)
    missing = [(case, *pair) for (case, _), pair in zip(cases, asked, strict=True) if pair[0] not in before[pair[1]]]
    jobs = [(case, spec) for case, *_ in missing for spec in case.topology.run.methods]
    if jobs:
        used = costs or messages.measure()
        rows = iter(_on_all_cores(_one, [(*job, used) for job in jobs], lambda job: _length(job[1])))
        for case, key, folder in missing:
            before[folder][key] = Entry(used, {spec.label: next(rows) for spec in case.topology.run.methods})
    _keep(before, asked, "predictions", {folder for *_, folder in missing})
    return [before[folder][key] for key, folder in asked]


def maps(grids: Sequence[tuple[Grid, Path]], costs: Costs | None = None) -> list[pd.DataFrame | None]:
    """Of each grid what `frontier` says, by the model without events; kept as well. None without single or another."""
    asked = [(grid.key, folder) for grid, folder in grids]
    before = _before(asked, "maps", costs)
    missing = [(grid, *pair) for (grid, _), pair in zip(grids, asked, strict=True) if pair[0] not in before[pair[1]]]
    jobs = [(grid, spec.label) for grid, *_ in missing for spec in grid.case.topology.run.methods]
    if jobs:
        used = costs or messages.measure()
        times = iter(_on_all_cores(_times, [(*job, used) for job in jobs], lambda job: _length_of(job[1])))
        for grid, key, folder in missing:
            before[folder][key] = Entry(used, {spec.label: next(times) for spec in grid.case.topology.run.methods})
    _keep(before, asked, "maps", {folder for *_, folder in missing})
    return [_frame(grid, before[folder][key].found) for (grid, _), (key, folder) in zip(grids, asked, strict=True)]


def _before(asked: Sequence[tuple[str, Path]], section: str, costs: Costs | None) -> dict[Path, dict[str, Entry]]:
    """What the folders have of it that holds with these costs."""
    wanted, folders = {key for key, _ in asked}, dict.fromkeys(folder for _, folder in asked)
    return {
        folder: {
            key: entry
            for key, entry in kept.read(folder, section).items()
            if key in wanted and messages.hold(entry.costs, costs)
        }
        for folder in folders
    }


def _keep(
    found: Mapping[Path, Mapping[str, Entry]], asked: Sequence[tuple[str, Path]], section: str, changed: set[Path]
) -> None:
    for folder in changed:
        wanted = {key for key, own in asked if own == folder}
        kept.write(folder, section, {key: entry for key, entry in found[folder].items() if key in wanted})


def _frame(grid: Grid, times: dict[str, list[list[float]]]) -> pd.DataFrame | None:
    rates, delays = grid.rates_bit_s, grid.delays_s
    single = next((spec.label for spec in grid.case.topology.run.methods if spec.method == SINGLE), SINGLE)
    named = {(SINGLE if label == single else label): found for label, found in times.items() if found}
    if SINGLE not in named or len(named) < 2:
        return None
    return frontier(lambda label, rate, delay: named[label][delays.index(delay)][rates.index(rate)],
                    list(named), rates, delays)  # fmt: skip


def _on_all_cores(do: Callable[[Job], Found], jobs: Sequence[Job], length: Callable[[Job], int]) -> list[Found]:
    """What is done, in the order of the jobs; the longest are begun first."""
    cores = len(os.sched_getaffinity(0))
    if len(jobs) <= _ALONE or cores == 1:
        return [do(job) for job in jobs]
    order = sorted(range(len(jobs)), key=lambda index: length(jobs[index]))
    with ProcessPoolExecutor(min(cores, len(jobs)), get_context("fork")) as pool:
        found = dict(zip(order, pool.map(do, [jobs[index] for index in order]), strict=True))
    return [found[index] for index in range(len(jobs))]


def _length(spec: MethodSpec) -> int:
    """Place in the order of work: a ring of many messages takes longest."""
    return _length_of(spec.method)


def _length_of(label: str) -> int:
    return next((place for place, method in enumerate(_LONGEST) if label.startswith(method)), len(_LONGEST))


def _one(job: tuple[Case, MethodSpec, Costs]) -> Row:
    case, spec, costs = job
    run = case.topology.run
    how = How(costs=costs, shaper=case.shaper)
    try:
        found = forecast(case.topology, case.profile, families.describe(run.model, run.weights), how, spec)
    except RuntimeFault as error:
        return {"label": spec.label, "error": str(error)}
    return {key: value for key, value in found.row.items() if key != "latencies_s"}


def _times(job: tuple[Grid, str, Costs]) -> list[list[float]]:
    """Seconds of a method by delay and rate; nothing if it cannot be predicted."""
    grid, label, costs = job
    topology, run = grid.case.topology, grid.case.topology.run
    how = How(costs=costs, model="analytic")
    try:
        latency = latency_of(topology, grid.case.profile, families.describe(run.model, run.weights), how)
        return [[latency(label, rate, delay) for rate in grid.rates_bit_s] for delay in grid.delays_s]
    except RuntimeFault:
        return []
