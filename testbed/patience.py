"""How long a device may wait for another that lives: far longer than any request can take on the declared links. Pure.

A process that ends is noticed at once by its connections and its host; this is for one that hangs.
"""

from __future__ import annotations

import math
from itertools import permutations

from testbed.paths import path
from testbed.topology import Topology

LEAST_S = 60.0
STEPS_PER_LAYER = 8  # messages that wait for each other, per layer and peer: no method has so many
SEGMENT_BITS = 1448 * 8
RETRY_S = 10.0  # of a segment that is lost again and again, far out on TCP's doubled intervals


def patience_s(topology: Topology, payload_bytes: int, layers: int, compute_s: float) -> float:
    """Seconds for a request that sends `payload_bytes` in all, over that many layers, and computes for `compute_s`."""
    lanes = [lane for link in topology.links for lane in (link.up, link.down)]
    slowest_bit_s = min(
        (rate for rate in (*(lane.rate_bit_s for lane in lanes), *_set(topology, "rate_bit_s"))), default=1e9
    )
    delay_s = max((*(lane.delay_s + lane.jitter_s for lane in lanes), *_set(topology, "delay_s")), default=0.0)
    loss = max((*(lane.loss.mean for lane in lanes), *_set(topology, "loss")), default=0.0)
    pairs = list(permutations((host.name for host in topology.hosts), 2)) if lanes else []
    rtt_s = 2 * delay_s * max((len(path(topology, a, b).hops) for a, b in pairs), default=0)
    if loss and rtt_s:
        # What TCP gets where packets are lost: 1.2 segments per round trip and root of the loss (Mathis 1997).
        slowest_bit_s = min(slowest_bit_s, 1.2 * SEGMENT_BITS / (rtt_s * math.sqrt(loss)))
    steps = STEPS_PER_LAYER * layers * max(1, len(topology.hosts) - 1)
    down_s = sum(event.for_s or 0.0 for event in topology.events if event.kind == "down")
    waiting_s = steps * (rtt_s + RETRY_S * loss) + 3 * down_s
    return LEAST_S + 4 * payload_bytes * 8 / slowest_bit_s + waiting_s + compute_s


def _set(topology: Topology, key: str) -> list[float]:
    """Every value of that name that traces and events of the file give to a lane."""
    traces = [lane.trace for link in topology.links for lane in (link.up, link.down) if lane.trace]
    steps = [*(step for trace in traces for step in trace.steps), *(e.change for e in topology.events if e.change)]
    return [value for step in steps if (value := getattr(step, key)) is not None]
