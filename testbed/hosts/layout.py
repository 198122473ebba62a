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
class Layout:
    """hosts, switches: name in the file -> name in the kernel. management: the bridge that is never shaped."""

    hosts: dict[str, str]
    switches: dict[str, str]
    management: str
    control_address: str
    cables: tuple[Cable, ...]

    def ends(self, host: str, shaped: bool) -> list[End]:
        """The host's own ends of its shaped cables, or of its management cable, in the order of the file."""
        cables = [cable for cable in self.cables if (cable.link is not None) is shaped]
        return [end for cable in cables for end in (cable.a, cable.b) if end.node == host]

    def reach(self, host: str, peer: str) -> str | None:
        """The address at which `peer` reaches `host` over shaped cables, a direct one preferred; None if it cannot."""
        for cable in self.cables:
            nodes = {cable.a.node, cable.b.node}
            if cable.link is not None and nodes == {host, peer}:
                return cable.a.address if cable.a.node == host else cable.b.address
        nets = {_network(end.address) for end in self.ends(peer, True)}
        return next((end.address for end in self.ends(host, True) if _network(end.address) in nets), None)


def _network(address: str | None) -> str:
    return (address or "").rpartition(".")[0]


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
    return Layout(hosts, switches, bridge, str(management[CONTROL_NUMBER]), tuple(cables))


def _switch_groups(topology: Topology) -> dict[str, str]:
    """Switch -> the first switch of those that hang together with it."""
    group = {switch.name: switch.name for switch in topology.switches}
    for link in topology.links:
        if link.a in group and link.b in group:
            keep, lose = sorted((group[link.a], group[link.b]))
            group = {name: keep if value == lose else value for name, value in group.items()}
    return group
