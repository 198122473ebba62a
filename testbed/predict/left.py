"""How long the runs of a sweep will take: of those that replay computing, what is predicted of all their requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from runtime import families
from runtime.errors import RuntimeFault
from testbed import profiles
from testbed.predict.command import How, predict
from testbed.sweep import points
from testbed.topology import RunSpec, Topology, TopologyError

Estimate = Callable[[Topology], float | None]


def estimate(path: Path) -> Estimate:
    """Seconds that the requests of a run of this sweep file take, all methods together, warm-up included.

    None for runs that compute: how fast this machine is, nothing says. What starting a run and proving its links takes
    is not in it. By formulas, without events: it is for the time left, and must not keep the cores from what is timed.
    """
    try:
        found = [point.topology for point in points.read(path).points]
    except TopologyError:  # the sweep will say so
        found = []
    seconds = {_key(one): times for one, times in zip(found, _all(found), strict=True)}

    def of(topology: Topology) -> float | None:
        times = seconds.get(_key(topology)) or {}
        labels = [spec.label for spec in topology.run.methods]
        if not times or any(label not in times for label in labels):
            return None
        return sum(spent_s(times[label], topology.run) for label in labels)

    return of


def spent_s(latency_s: float, run: RunSpec) -> float:
    """A warm-up and up to run.repeats requests, the last one that the budget has room for, and at least one."""
    fit = int(run.budget_s / latency_s) - 1 if latency_s else run.repeats
    return (1 + max(1, min(run.repeats, fit))) * latency_s


def _all(found: Sequence[Topology]) -> list[Mapping[str, float]]:
    """Seconds of a request by label, for each topology; nothing where compute is real."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or sum(one.run.compute is not None for one in found) < cores:
        return [_times(one) for one in found]
    with ProcessPoolExecutor(cores, get_context("fork")) as pool:
        return list(pool.map(_times, found))


def _times(topology: Topology) -> Mapping[str, float]:
    run = topology.run
    if run.compute is None:
        return {}
    try:
        shape = families.describe(run.model, run.weights)
        forecasts = predict(topology, profiles.read(Path(run.compute)), shape, How(model="analytic"))
    except (RuntimeFault, TopologyError):
        return {}
    return {one.label: one.outcome.latency_s for one in forecasts if one.outcome is not None}


def _key(topology: Topology) -> Any:
    """Of all that decides; a run may have some of the methods only."""
    run = topology.run
    return (
        topology.hosts, topology.switches, topology.links, topology.events, run.source, run.model, run.tokens,
        run.compute, run.input_at,
    )  # fmt: skip
