"""Which links a packet crosses between two hosts, and what the file thereby promises for the pair."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from testbed.topology import Link, Topology


class Unreachable(Exception):
    """No way between two hosts that does not lead through a third host."""


@dataclass(frozen=True)
class Path:
    """The links from `source` to `target`, in order; the slowest sets the rate, delays add up."""

    source: str
    target: str
    links: tuple[Link, ...]

    @property
    def rate_bit_s(self) -> float:
        """Rate of the slowest link, bit/s."""
        return min(link.rate_bit_s for link in self.links)

    @property
    def delay_s(self) -> float:
        """One-way delay, seconds; queues and the time to put a packet on the wire are left out."""
        return sum(link.delay_s for link in self.links)

    @property
    def rtt_s(self) -> float:
        """Round trip that the delays imply, seconds."""
        return 2 * self.delay_s

    @property
    def loss(self) -> float:
        """Fraction of packets lost on one way through all links."""
        arrives = 1.0
        for link in self.links:
            arrives *= 1 - link.loss
        return 1 - arrives


def links_at(topology: Topology) -> dict[str, list[Link]]:
    """Links of every node, in the order of the file."""
    names = [host.name for host in topology.hosts] + [switch.name for switch in topology.switches]
    found: dict[str, list[Link]] = {name: [] for name in names}
    for link in topology.links:
        found[link.a].append(link)
        found[link.b].append(link)
    return found


def path(topology: Topology, a: str, b: str) -> Path:
    """The way from host `a` to host `b`: their own cable if there is one, else through switches only.

    Raises Unreachable where there is none: a host does not forward for others.
    """
    at = links_at(topology)
    direct = [link for link in at[a] if link.other(a) == b]
    if direct:
        return Path(a, b, (direct[0],))
    switches = {switch.name for switch in topology.switches}
    reached: dict[str, tuple[Link, ...]] = {a: ()}
    waiting = deque([a])
    while waiting:
        node = waiting.popleft()
        for link in at[node]:
            beyond = link.other(node)
            if beyond == b:
                return Path(a, b, (*reached[node], link))
            if beyond in switches and beyond not in reached:
                reached[beyond] = (*reached[node], link)
                waiting.append(beyond)
    raise Unreachable(f"{a} and {b} have neither a link of their own nor a way through switches")
