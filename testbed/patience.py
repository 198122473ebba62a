"""How long things can take on the declared links, which a run finds to be the measured ones before it starts. Pure.

How long a device may wait for another that lives is far longer than any request: a process that ends is noticed at once
by its connections and its host, this is for one that hangs. What is done without when it is late is waited for as long
as it can be on its way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

from runtime.transport.gather import ROOM_BYTES
from testbed.envelope import FRAME_BYTES
from testbed.paths import path
from testbed.topology import Topology

LEAST_S = 60.0
STEPS_PER_LAYER = 8  # messages that wait for each other, per layer and peer: no method has so many
SEGMENT_BITS = 1448 * 8
RETRY_S = 10.0  # of a segment that is lost again and again, far out on TCP's doubled intervals


def patience_s(topology: Topology, payload_bytes: int, layers: int, compute_s: float) -> float:
    """Seconds for a request that sends `payload_bytes` in all, over that many layers, and computes for `compute_s`."""
    worst = _worst(topology)
    slowest_bit_s, rtt_s, loss = worst.rate_bit_s, worst.rtt_s, worst.loss
    if loss and rtt_s:
        # What TCP gets where packets are lost: 1.2 segments per round trip and root of the loss (Mathis 1997).
        slowest_bit_s = min(slowest_bit_s, 1.2 * SEGMENT_BITS / (rtt_s * math.sqrt(loss)))
    steps = STEPS_PER_LAYER * layers * max(1, len(topology.hosts) - 1)
    down_s = sum(event.for_s or 0.0 for event in topology.events if event.kind == "down")
    waiting_s = steps * (rtt_s + RETRY_S * loss) + 3 * down_s
    return LEAST_S + 4 * payload_bytes * 8 / slowest_bit_s + waiting_s + compute_s


def on_the_way_s(topology: Topology, payload_bytes: int) -> float:
    """Seconds until datagrams of `payload_bytes` in all, cast by all devices to each other at once, have arrived.

    All of them over the slowest link, and a round trip; 0 where there are no links.
    """
    if not topology.links:
        return 0.0
    worst, devices = _worst(topology), len(topology.hosts)
    datagrams = payload_bytes / ROOM_BYTES + devices * (devices - 1)  # to each of the others one is not full
    return (payload_bytes + datagrams * (FRAME_BYTES - ROOM_BYTES)) * 8 / worst.rate_bit_s + worst.rtt_s


@dataclass(frozen=True)
class _Worst:
    """The slowest rate, the longest round trip and the highest loss that the file ever gives."""

    rate_bit_s: float
    rtt_s: float
    loss: float


def _worst(topology: Topology) -> _Worst:
    lanes = [lane for link in topology.links for lane in (link.up, link.down)]
    rates = (*(lane.rate_bit_s for lane in lanes), *_set(topology, "rate_bit_s"))
    delay_s = max((*(lane.delay_s + lane.jitter_s for lane in lanes), *_set(topology, "delay_s")), default=0.0)
    loss = max((*(lane.loss.mean for lane in lanes), *_set(topology, "loss")), default=0.0)
    pairs = list(permutations((host.name for host in topology.hosts), 2)) if lanes else []
    hops = max((len(path(topology, a, b).hops) for a, b in pairs), default=0)
    return _Worst(min(rates, default=1e9), 2 * delay_s * hops, loss)


def _set(topology: Topology, key: str) -> list[float]:
    """Every value of that name that traces and events of the file give to a lane."""
    traces = [lane.trace for link in topology.links for lane in (link.up, link.down) if lane.trace]
    steps = [*(step for trace in traces for step in trace.steps), *(e.change for e in topology.events if e.change)]
    return [value for step in steps if (value := getattr(step, key)) is not None]
