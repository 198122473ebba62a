"""What a run was made under: the network as one rate and one delay, and every axis in which runs may differ. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed import differences
from testbed.paths import Unreachable, path
from testbed.quantities import span
from testbed.store import RunData
from testbed.topology import Topology
from testbed.units import show_duration, show_fraction, show_rate

PANEL = ("network", "delay", "loss", "changes")  # axes of the map of bandwidths that make a panel of their own
REPLAYED = "compute replayed from"
Group = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Network:
    """A topology in the terms of a plot. kind: how hosts are joined, in words.

    rate_bit_s: the slowest direction of any link; delay_s: one way between the source and the farthest host. None
    where nothing is shaped.
    """

    kind: str
    rate_bit_s: float | None
    delay_s: float | None


def network(topology: Topology) -> Network:
    """The terms in which runs on this topology are plotted."""
    if topology.backend == "local" or not topology.links:
        return Network("loopback, nothing shaped", None, None)
    return Network(_kind(topology), min(_rates(topology)), max(_delays(topology), default=0.0))


def where(topology: Topology) -> str:
    """ "one card per device, 10 Mbit/s, delay 2 ms": a network in a line."""
    found = _lines(topology)
    parts = [found["network"], found["rate"], found["delay"], found["loss"]]
    return ", ".join(part for part in [*parts, found["changes"]] if part != "none")


def axes(run: RunData, topology: Topology | None) -> dict[str, str]:
    """Every setting in which runs of one study may differ, in words; an axis that does not apply is "none"."""
    asked = run.topology["run"]
    found = {
        "model": str(asked.get("model")),
        "weights": str(asked.get("weights")),
        "tokens": f"{asked.get('tokens')} tokens",
        "devices": f"{len(run.topology.get('hosts') or {})} devices",
        "compute": compute(run.manifest),
        "backend": str(run.topology.get("backend")),
    }
    if topology is None:
        return found
    return moved(found, topology)


def moved(base: Mapping[str, str], topology: Topology) -> dict[str, str]:
    """The axes of a run that differs from that of `base` in its network and its tokens."""
    shares = sorted({host.cpu for host in topology.hosts if host.cpu is not None})
    return {
        **base,
        "tokens": f"{topology.run.tokens} tokens",
        "devices": f"{len(topology.hosts)} devices",
        "cpu": f"{', '.join(f'{share:g}' for share in shares)} cores each" if shares else "none",
        **_lines(topology),
    }


def compute(manifest: Mapping[str, Any]) -> str:
    """ "compute real", or "compute replayed from NAME" where its times come from a profile."""
    if manifest.get("compute", "real") == "real":
        return "compute real"
    return f"{REPLAYED} {(manifest.get('profile') or {}).get('name', 'a profile without a name')}"


def group_of(axes: Mapping[str, str]) -> Group:
    """What settings that differ in their rate alone share."""
    return tuple((axis, value) for axis, value in axes.items() if axis != "rate")


def alike(run: RunData) -> str:
    """Equal for runs of sweeps whose requests may be pooled: all but name, seed, number and order of methods. What was
    no valid network is never pooled with what was."""
    loose = ("seed", "repeats", "budget", "methods", "compute")
    asked = {key: value for key, value in run.topology["run"].items() if key not in loose}
    rest = {key: value for key, value in run.topology.items() if key not in ("name", "run")}
    found = {key: run.manifest.get(key) for key in ("shaper", "data_congestion_control", "sysctls", "profile")}
    machine = {key: value for key, value in (run.manifest.get("machine") or {}).items() if key != "load_1min"}
    valid = differences.invalid(run) is None
    return json.dumps([rest, asked, compute(run.manifest), found, machine, valid], sort_keys=True, default=str)


def letters() -> Iterator[str]:
    """A, B, ... Z, A1, B1, ..."""
    number = 0
    while True:
        yield from (f"{chr(ord('A') + i)}{number or ''}" for i in range(26))
        number += 1


def _kind(topology: Topology) -> str:
    """How hosts are joined: what decides whether transfers wait for each other."""
    count = len(topology.hosts)
    if not topology.switches:
        return "a link per pair" if len(topology.links) == count * (count - 1) // 2 else "cables between hosts"
    if any(switch.kind == "shared" for switch in topology.switches):
        return "shared medium"
    return "one card per device" if len(topology.links) == count else "switches and cables"


def _lines(topology: Topology) -> dict[str, str]:
    """What is declared of the links: the rate, one-way delay and loss as ranges where they differ."""
    found = network(topology)
    if found.rate_bit_s is None:
        return {"network": found.kind, "rate": "none", "delay": "none", "loss": "none", "changes": "none"}
    lanes = [lane for link in topology.links for lane in (link.up, link.down)]
    changing = bool(topology.events) or any(lane.trace for lane in lanes)
    losses = [lane.loss.mean for lane in lanes]
    return {
        "network": found.kind,
        "rate": span(_rates(topology), show_rate),
        "delay": f"delay {span(_delays(topology), show_duration)}",
        "loss": f"loss {span(losses, show_fraction)} per link" if any(losses) else "none",
        "changes": "links that change" if changing else "none",
    }


def _rates(topology: Topology) -> list[float]:
    """Rates of all directions and shared media, bit/s."""
    lanes = [lane.rate_bit_s for link in topology.links for lane in (link.up, link.down)]
    media = [switch.rate_bit_s for switch in topology.switches if switch.rate_bit_s is not None]
    return [rate for rate in (*lanes, *media) if math.isfinite(rate)]


def _delays(topology: Topology) -> list[float]:
    """One-way delays between the source and every other host, seconds."""
    others = [host.name for host in topology.hosts if host.name != topology.run.source]
    return list(_known(topology, others)) or [0.0]


def _known(topology: Topology, others: Iterable[str]) -> Iterator[float]:
    for name in others:
        try:
            yield path(topology, topology.run.source, name).delay_s
        except Unreachable:
            continue
