"""Cheap evidence between two probes: what links and hosts tell of themselves while the requests of a method run.

One row of watch.json per method: {"label", "seconds", "lateness": {"frames", "median_s", "p99_s", "most_s", "cpu_s",
"waited_s"} or
None where the kernel keeps time, "directions": {"h1 -> s1": {"frames", "bytes", "queue_drops", "lost", "overruns",
"declared_loss"}}, "throttled_s": {"h1": seconds}, "withheld": of a processor's time, "verdict", "why"}.

The network was degraded if the emulation itself lost a frame, handed on one in a hundred later than `allowed_late_s`,
or lost another part of a direction's frames than declared, see `allowed_loss`. A full queue, declared loss and a CPU
share at work are the declared network: told, not judged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from testbed.hosts import Counters, HostError, Lateness, Network
from testbed.topology import Event, Lane, Loss, Topology
from testbed.units import show_duration, show_fraction
from testbed.withheld import Withheld

LATE_S, LATE_SHARE = 0.3e-3, 0.05  # as the probe allows an RTT to be off
LEAST_FRAMES = 1000  # of fewer, loss tells nothing
SIGMAS = 4.5  # of 16 hosts with 16 methods, 512 counts, chance alone is outside in 1 run of 25 at most, by the bound
Row = dict[str, Any]


def allowed_late_s(topology: Topology) -> float:
    """The lateness that 99 of 100 frames must keep: 0.3 ms, or 5 % of the shortest delay of a lane if that is more."""
    delays_s = [lane.delay_s for link in topology.links for lane in (link.up, link.down)]
    return max(LATE_S, LATE_SHARE * min(delays_s, default=0.0))


@contextmanager
def watched(network: Network, topology: Topology, label: str, rows: MutableSequence[Row]) -> Iterator[None]:
    """Append a row for what happens in this block, however it ends; a network that cannot be asked is a wrong one."""
    if network.shaping is None:
        yield
        return
    row: Row = {"label": label, "seconds": 0.0, "lateness": None, "directions": {}, "throttled_s": {}, "withheld": 0.0}
    try:
        before = _read(network)
    except HostError as error:
        rows.append(row | {"verdict": "wrong", "why": _broken(error)})
        yield
        return
    began, withheld = time.monotonic(), Withheld()
    try:
        yield
    finally:
        row |= {"seconds": time.monotonic() - began, "withheld": withheld.share()}
        try:
            row |= _grown(before, _read(network), losses(topology))
        except HostError as error:
            rows.append(row | {"verdict": "wrong", "why": _broken(error)})
        else:
            why = "; ".join([*judge(row, allowed_late_s(topology)), *judge_loss(row, _declared(topology))])
            rows.append(row | {"verdict": "degraded" if why else "ok", "why": why})


def judge(row: Mapping[str, Any], allowed_s: float) -> list[str]:
    """Why a method's network was worse than declared, with the numbers; empty when it was not."""
    why = []
    late = row["lateness"]
    if late and late["p99_s"] > allowed_s:
        p99, most, allowed = (show_duration(float(f"{s:.3g}")) for s in (late["p99_s"], late["most_s"], allowed_s))
        why.append(f"1 of 100 frames came {p99} late or more, {most} at most, {allowed} are allowed")
    if late and late["waited_s"] > allowed_s:
        waited, allowed = (show_duration(float(f"{s:.3g}")) for s in (late["waited_s"], allowed_s))
        why.append(f"1 of 100 looks of the relay at its links came {waited} late or more, {allowed} are allowed")
    lost = {name: seen["overruns"] for name, seen in row["directions"].items() if seen["overruns"]}
    if lost:
        words = ", ".join(f"{name} {count}" for name, count in lost.items())
        why.append(f"the emulation lost frames of its own: {words}")
    return why


def judge_loss(row: Mapping[str, Any], declared: Mapping[str, Loss]) -> list[str]:
    """Directions of a row that lost more or less of their frames than is declared and chance allows, with the numbers.

    Not judged: a direction whose loss the file changes, whose kernel does not count, or of under LEAST_FRAMES.
    """
    why = []
    for name, seen in row["directions"].items():
        count = seen["frames"] + (seen["lost"] or 0)
        if seen["lost"] is None or seen.get("declared_loss") is None or count < LEAST_FRAMES:
            continue
        low, high = allowed_loss(declared[name], count)
        if not low <= seen["lost"] <= high:
            found, due = (show_fraction(float(f"{p:.3g}")) for p in (seen["lost"] / count, declared[name].mean))
            allowed = f"{max(0, math.ceil(low))} to {math.floor(high)}"
            why.append(
                f"{name} lost {seen['lost']} of {count} frames, {found}: {due} is declared, {allowed} are allowed"
            )
    return why


def allowed_loss(loss: Loss, count: int) -> tuple[float, float]:
    """The fewest and most of `count` frames that an honest lane loses.

    SIGMAS standard deviations and, for the tail of rare losses, c SIGMAS^2 / 2: Bernstein's inequality, by which
    chance alone is outside on either side with probability exp(-SIGMAS^2 / 2) = 4e-5 at most. c is 1/3 frame where
    losses are independent, else the mean burst, 1 / leave frames; there the variance has the covariance of the chain,
    as in `linetime.loss_variance`, and the band is wide: a few bursts say little of their rate.
    """
    if not loss.mean:
        return 0.0, 0.0
    variance, c = count * loss.mean * (1 - loss.mean), 1 / 3
    if loss.bursty:
        bad, r = loss.enter / (loss.enter + loss.leave), 1 - loss.enter - loss.leave
        pairs = r / (1 - r) - r * (1 - r**count) / (count * (1 - r) ** 2)  # sum over k of (1 - k / count) r^k
        variance += max(-variance, 2 * count * bad * (1 - bad) * (loss.bad - loss.good) ** 2 * pairs)
        c = 1 / max(loss.leave, 1 / count)
    off = SIGMAS * math.sqrt(variance) + c * SIGMAS**2 / 2
    return count * loss.mean - off, count * loss.mean + off


def _declared(topology: Topology) -> dict[str, Loss]:
    """Direction -> its declared loss."""
    return {
        f"{sender} -> {link.other(sender)}": link.lane(sender).loss
        for link in topology.links
        for sender in (link.a, link.b)
    }


def losses(topology: Topology) -> dict[str, float | None]:
    """Declared fraction of packets lost per direction, "h1 -> s1"; None where the file changes it as requests run."""
    found: dict[str, float | None] = {}
    for link in topology.links:
        for sender, receiver, lane in ((link.a, link.b, link.up), (link.b, link.a, link.down)):
            moves = _moves(lane) or any(_meets(event, link.a, link.b) for event in topology.events)
            found[f"{sender} -> {receiver}"] = None if moves else lane.loss.mean
    return found


def _moves(lane: Lane) -> bool:
    return lane.trace is not None and any(step.loss is not None for step in lane.trace.steps)


def _meets(event: Event, a: str, b: str) -> bool:
    """Whether an event makes this link lose other packets than declared."""
    if event.ends is not None and set(event.ends) != {a, b}:
        return False
    return event.kind == "down" or (event.kind == "set" and event.change is not None and event.change.loss is not None)


def _read(network: Network) -> tuple[dict[str, Counters], Lateness | None, dict[str, float]]:
    """Counters of all directions, lateness since it was last asked for, seconds held back by CPU shares."""
    assert network.shaping is not None
    held = {name: seconds for name, host in network.hosts.items() if (seconds := host.throttled_s()) is not None}
    return network.shaping.counters(), network.shaping.lateness(), held


def _grown(
    before: tuple[dict[str, Counters], Lateness | None, dict[str, float]],
    now: tuple[dict[str, Counters], Lateness | None, dict[str, float]],
    declared: Mapping[str, float | None],
) -> Row:
    """What came between two readings."""
    directions = {}
    for name, counters in now[0].items():
        old = asdict(before[0][name])
        grown = {key: None if value is None else value - old[key] for key, value in asdict(counters).items()}
        directions[name] = {**grown, "declared_loss": declared.get(name)}
    return {
        "lateness": None if now[1] is None else asdict(now[1]),
        "directions": directions,
        "throttled_s": {name: round(seconds - before[2][name], 3) for name, seconds in now[2].items()},
    }


def _broken(error: HostError) -> str:
    return f"the network does not answer: {error}"
