"""Steps written by hand, and networks, for the tests of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from runtime.steps import Compute, Receive, Send, Step
from testbed.linetime import FULL_FRAME_BYTES, HEADERS_BYTES, SEGMENT_BYTES
from testbed.predict.work import Work
from testbed.topology import Host, Lane, Link, Switch, Topology
from tests.networks import RUN

HEADER_BYTES = 32
COMPUTE = Compute("mlp", 0, "compute")


def work(steps: Sequence[Sequence[Step]], compute_s: float | Callable[[int, Compute], float] = 0.0) -> Work:
    """Ranks on h1, h2 and so on; every Compute takes compute_s."""
    seconds = compute_s if callable(compute_s) else lambda rank, step: compute_s
    return Work(tuple(f"h{rank + 1}" for rank in range(len(steps))), [list(one) for one in steps], seconds)


def send(to: int, payload_bytes: int) -> Send:
    return Send(0, (to,), payload_bytes, "exchange")


def take(source: int) -> Receive:
    return Receive(0, (source,), "exchange")


def one_message(payload_bytes: int) -> Work:
    """Rank 1 sends one message to rank 0, the source."""
    return work([[take(1)], [send(0, payload_bytes)]])


def all_gather(world: int, payload_bytes: int, layers: int = 1, compute_s: float = 0.0) -> Work:
    """As `Exchange.all_gather` sends, with computing between sending and waiting."""
    ranks: list[list[Step]] = []
    for rank in range(world):
        others = tuple((rank + step) % world for step in range(1, world))
        ranks.append([])
        for layer in range(layers):
            ranks[rank].append(Send(layer, others, payload_bytes, "exchange"))
            ranks[rank].append(COMPUTE)
            ranks[rank].append(Receive(layer, tuple(sorted(others)), "exchange"))
    return work(ranks, compute_s)


def frames(payload_bytes: int) -> int:
    return math.ceil((payload_bytes + HEADER_BYTES) / SEGMENT_BYTES)


def line_bytes(payload_bytes: int) -> int:
    """What a message takes on the line: its header, and 90 bytes for each frame."""
    return payload_bytes + HEADER_BYTES + frames(payload_bytes) * HEADERS_BYTES


def medium(hosts: int, rate_bit_s: float) -> Topology:
    into, out = Lane(rate_bit_s), Lane(math.inf)
    names = [f"h{i + 1}" for i in range(hosts)]
    links = tuple(Link(name, "s1", into, out) for name in names)
    return Topology("m", "mininet", tuple(map(Host, names)), (Switch("s1", "shared", rate_bit_s),), links, RUN)


def cable(up: Lane, down: Lane | None = None) -> Topology:
    """One cable between h1 and h2; `up` is from h2 to h1."""
    return Topology("c", "mininet", (Host("h1"), Host("h2")), (), (Link("h2", "h1", up, down or up),), RUN)


def mesh(hosts: int, lane: Lane) -> Topology:
    names = [f"h{i + 1}" for i in range(hosts)]
    links = tuple(Link.both(a, b, lane) for i, a in enumerate(names) for b in names[i + 1 :])
    return Topology("mesh", "mininet", tuple(map(Host, names)), (), links, RUN)


FRAME_S_10M = FULL_FRAME_BYTES * 8 / 10e6
