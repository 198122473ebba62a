"""Which links a packet crosses between two hosts, and what the file thereby promises for the pair."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from testbed.topology import Lane, Link, Topology


class Unreachable(Exception):
    """No way between two hosts."""


@dataclass(frozen=True)
class Hop:
    """One direction of one link, crossed."""

    sender: str
    receiver: str
    link: Link

    @property
    def lane(self) -> Lane:
        """What the hop promises."""
        return self.link.lane(self.sender)

    @property
    def words(self) -> str:
        """ "h1 -> s1"."""
        return f"{self.sender} -> {self.receiver}"

    @property
    def back(self) -> Hop:
        """The same link in the other direction."""
        return Hop(self.receiver, self.sender, self.link)


@dataclass(frozen=True)
class Path:
    """The hops from `source` to `target`, in order; the slowest sets the rate, delays add up."""

    source: str
    target: str
    hops: tuple[Hop, ...]
    answers: tuple[Hop, ...] = ()  # the way back from target to source

    @property
    def rate_bit_s(self) -> float:
        """Rate of the slowest hop, bit/s."""
        return min(hop.lane.rate_bit_s for hop in self.hops)

    @property
    def delay_s(self) -> float:
        """One-way delay, seconds; queues and the time to put a packet on the wire are left out."""
        return sum(hop.lane.delay_s for hop in self.hops)

    @property
    def rtt_s(self) -> float:
        """Round trip that the delays imply, seconds."""
        return self.delay_s + sum(hop.lane.delay_s for hop in self.answers)

    @property
    def loss(self) -> float:
        """Fraction of packets lost on one way through all hops."""
        arrives = 1.0
        for hop in self.hops:
            arrives *= 1 - hop.lane.loss.mean
        return 1 - arrives


def links_at(topology: Topology) -> dict[str, list[Link]]:
    """Links of every node, in the order of the file."""
    names = [host.name for host in topology.hosts] + [switch.name for switch in topology.switches]
    found: dict[str, list[Link]] = {name: [] for name in names}
    for link in topology.links:
        found[link.a].append(link)
        found[link.b].append(link)
    return found


def next_hops(topology: Topology, target: str) -> dict[str, Hop]:
    """For every node that reaches host `target`, its first hop there: fewest hosts that forward, then fewest links.

    What routing tables hold, so the ways there and back may differ where several are equally good.
    """
    at = links_at(topology)
    hosts = {host.name for host in topology.hosts}
    found: dict[str, Hop] = {}
    settled: set[str] = set()
    waiting: list[tuple[int, int, int, str, Hop | None]] = [(0, 0, 0, target, None)]
    order = 0
    while waiting:
        forwards, length, _, node, hop = heapq.heappop(waiting)
        if node in settled:
            continue
        settled.add(node)
        if hop is not None:
            found[node] = hop
        through = forwards + (node in hosts and node != target)
        for link in at[node]:
            before = link.other(node)
            order += 1
            if before not in settled:
                heapq.heappush(waiting, (through, length + 1, order, before, Hop(before, node, link)))
    return found


def path(topology: Topology, a: str, b: str) -> Path:
    """The way from host `a` to host `b`: their own cable if there is one, else through switches, else through hosts.

    Raises Unreachable where there is none.
    """
    return Path(a, b, _way(topology, a, b), _way(topology, b, a))


def _way(topology: Topology, a: str, b: str) -> tuple[Hop, ...]:
    hops, first, node = [], next_hops(topology, b), a
    while node != b:
        if node not in first:
            raise Unreachable(f"{a} and {b} have no way between them")
        hops.append(first[node])
        node = first[node].receiver
    return tuple(hops)
