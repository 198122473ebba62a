"""Names and addresses of everything that a topology becomes in the kernel: computed here, performed elsewhere.

Every name starts with a prefix of the run id: two runs never meet, and nobody else's interfaces are mistaken for ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from testbed.clean import prefix
from testbed.hosts import HostError
from testbed.paths import next_hops
from testbed.topology import Link, Topology

PREFIX_LENGTH = 24
CONTROL_NUMBER = 254  # of the machine itself on the management network; hosts count from 1


@dataclass(frozen=True)
class End:
    """One end of a cable. address: None on a switch."""

    node: str
    interface: str
    address: str | None


@dataclass(frozen=True)
class Cable:
    """A pair of joined interfaces. link: None for a cable of the management network."""

    link: Link | None
    a: End
    b: End


@dataclass(frozen=True)
class Route:
    """A line of a host's routing table: to `address`, which is not on its own networks, or not by the right cable."""

    address: str
    via: str
    interface: str


_Routing = tuple[dict[tuple[str, str], str], dict[str, tuple[Route, ...]], tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """hosts, switches: name in the file -> name in the kernel. management: the bridge that is never shaped.

    arrivals: (host, peer) -> the address at which `peer` reaches `host`. routes: of every host. forwarding: the hosts
    that others reach each other through.
    """

    hosts: dict[str, str]
    switches: dict[str, str]
    management: str
    control_address: str
    cables: tuple[Cable, ...]
    arrivals: dict[tuple[str, str], str]
    routes: dict[str, tuple[Route, ...]]
    forwarding: tuple[str, ...]

    def ends(self, host: str, shaped: bool) -> list[End]:
        """The host's own ends of its shaped cables, or of its management cable, in the order of the file."""
        cables = [cable for cable in self.cables if (cable.link is not None) is shaped]
        return [end for cable in cables for end in (cable.a, cable.b) if end.node == host]

    def reach(self, host: str, peer: str) -> str | None:
        """The address at which `peer` reaches `host` over shaped cables, where its way ends; None if it cannot."""
        return self.arrivals.get((host, peer))


def used_networks(addresses_json: str, routes_json: str) -> list[IPv4Network]:
    """Networks that the machine knows, from `ip -j -4 addr` and `ip -j -4 route show table all`; no default route."""
    found = {f"{a['local']}/{a['prefixlen']}" for i in json.loads(addresses_json) for a in i.get("addr_info", [])}
    found |= {route["dst"] for route in json.loads(routes_json) if route["dst"] != "default"}
    networks = [ip_network(text, strict=False) for text in sorted(found)]
    return [net for net in networks if isinstance(net, IPv4Network) and net.prefixlen]


def _free_networks(run_id: str, used: Sequence[IPv4Network]) -> Iterator[IPv4Network]:
    """Networks inside 10.0.0.0/8 that the machine does not use, each run starting at another place."""
    start = int(run_id, 16)
    for step in range(1 << 16):
        # 2**16 / golden ratio, odd: visits all of them, far apart.
        number = (start + step * 40503) % (1 << 16)
        candidate = IPv4Network((0x0A000000 | number << 8, PREFIX_LENGTH))
        if not any(candidate.overlaps(net) for net in used):
            yield candidate


def layout(topology: Topology, run_id: str, used: Sequence[IPv4Network] = ()) -> Layout:
    """Names and addresses for a topology; pure. Connected switches share one network, a direct cable has its own.

    used: networks to keep away from. Raises HostError if none are left.
    """
    start = prefix(run_id)
    free = _free_networks(run_id, used)
    hosts = {host.name: f"{start}h{index}" for index, host in enumerate(topology.hosts)}
    switches = {switch.name: f"{start}s{index}" for index, switch in enumerate(topology.switches)}
    number = {name: index + 1 for index, name in enumerate(hosts)}
    groups = _switch_groups(topology)
    try:
        management = next(free)
        of_group = {group: next(free) for group in sorted(set(groups.values()))}
        cables = []
        for index, link in enumerate(topology.links):
            switch = next((node for node in (link.a, link.b) if node in switches), None)
            net = of_group[groups[switch]] if switch else next(free)
            ends = [
                End(node, f"{(hosts | switches)[node]}-e{index}", str(net[number[node]]) if node in hosts else None)
                for node in (link.a, link.b)
            ]
            cables.append(Cable(link, *ends))
    except StopIteration as error:
        raise HostError("addresses: all of 10.0.0.0/8 is in use on this machine") from error
    bridge = f"{start}m"
    for index, (name, short) in enumerate(hosts.items()):
        inside = End(name, f"{short}-m", str(management[number[name]]))
        cables.append(Cable(None, inside, End(bridge, f"{bridge}-e{index}", None)))
    arrivals, routes, forwarding = _routing(topology, cables)
    control = str(management[CONTROL_NUMBER])
    return Layout(hosts, switches, bridge, control, tuple(cables), arrivals, routes, forwarding)


def _routing(topology: Topology, cables: Sequence[Cable]) -> _Routing:
    """`next_hops`, with addresses. One address of a host is on-link, by the right cable, for who needs no other host to
    get there; all its others, and all of them for everybody else, are behind the next host on the way."""
    end = {}
    for cable in cables:
        end[cable.a.node, cable.b.node], end[cable.b.node, cable.a.node] = cable.a, cable.b
    arrivals: dict[tuple[str, str], str] = {}
    routes: dict[str, tuple[Route, ...]] = {host.name: () for host in topology.hosts}
    through: set[str] = set()
    for target in routes:
        first = next_hops(topology, target)
        addresses = [one.address for (node, _), one in end.items() if node == target and one.address]
        for source in first.keys() & routes.keys():
            hop, interface = first[source], end[source, first[source].receiver].interface
            while hop.receiver not in routes:  # a switch
                hop = first[hop.receiver]
            via = end[hop.receiver, hop.sender].address or ""
            if hop.receiver != target:
                through.add(hop.receiver)
            routes[source] += tuple(Route(one, via, interface) for one in addresses if one != via)
            while hop.receiver != target:
                hop = first[hop.receiver]
            arrivals[target, source] = end[target, hop.sender].address or ""
    return arrivals, routes, tuple(name for name in routes if name in through)


def _switch_groups(topology: Topology) -> dict[str, str]:
    """Switch -> the first switch of those that hang together with it."""
    group = {switch.name: switch.name for switch in topology.switches}
    for link in topology.links:
        if link.a in group and link.b in group:
            keep, lose = sorted((group[link.a], group[link.b]))
            group = {name: keep if value == lose else value for name, value in group.items()}
    return group
