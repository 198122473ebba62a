"""A topology as text: who hangs where, what changes, and what every pair of hosts may expect. Any terminal shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from testbed import events, pairs, quantities
from testbed.paths import links_at
from testbed.quantities import counted
from testbed.topology import Host, Link, Switch, Topology
from testbed.units import show_duration

_FEW, _WIDTH = 4, 100  # hosts that are alike and still have a line each; characters of a chain
_CHANGES = "t = 0 is just before the first request of each method; until then everything is as declared"


def draw(topology: Topology) -> str:
    """Hosts, switches and links as a tree per network, cables between hosts, events, and a table of all pairs."""
    head = [f"{topology.name}: {counted(len(topology.hosts), 'host')}, backend {topology.backend}"]
    if topology.backend == "local":
        head += ["", f"plain processes on loopback, nothing is shaped: {', '.join(map(_host, topology.hosts))}"]
        return "\n\n".join("\n".join(part) for part in (head, _events(topology)) if part)
    parts = [head, *_trees(topology), *_cables(topology), _events(topology), pairs.table(topology)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _named(name: str, limits: Sequence[str]) -> str:
    return f"{name} ({', '.join(limits)})" if limits else name


def _host(host: Host) -> str:
    return _named(host.name, quantities.of_host(host))


def _switch(topology: Topology, switch: Switch) -> str:
    text = _named(switch.name, [quantities.of_switch(switch)])
    if switch.kind != "shared":
        return text
    worst_s = quantities.medium_queue_s(topology, switch)
    return f"{text}: one frame at a time, whoever sends it (all queues full: {show_duration(worst_s)})"


def _ways(topology: Topology, link: Link) -> list[str]:
    """One line if both directions are the same, else one for each, named."""
    found = quantities.of_link(topology, link)
    return [f"{name}: {', '.join(words)}" if name else ", ".join(words) for name, words in found]


def _trees(topology: Topology) -> list[list[str]]:
    """One drawing per group of joined switches; without loops among switches a group is a tree."""
    drawn: set[str] = set()
    found = []
    for switch in topology.switches:
        if switch.name not in drawn:
            lines = [_switch(topology, switch)]
            _branch(topology, switch.name, None, "", (lines, drawn))
            found.append(lines)
    return found


def _branch(topology: Topology, switch: str, above: Link | None, indent: str, out: tuple[list[str], set[str]]) -> None:
    lines, drawn = out
    drawn.add(switch)
    switches = {other.name: _switch(topology, other) for other in topology.switches}
    below = _leaves(topology, switch, [link for link in links_at(topology)[switch] if link is not above], switches)
    width = max((len(name) for name, _, _ in below), default=0)
    for index, (name, ways, link) in enumerate(below):
        last, joined = index == len(below) - 1, link.other(switch) in switches
        under = indent + ("   " if last else "│  ")
        lines.append(f"{indent}{'└─' if last else '├─'} {name:<{width}}  {ways[0]}")
        lines += [f"{under}{'│' if joined else '':<{width}}  {way}" for way in ways[1:]]
        if joined:
            _branch(topology, link.other(switch), link, under, out)


def _leaves(
    topology: Topology, switch: str, below: Sequence[Link], switches: Mapping[str, str]
) -> list[tuple[str, list[str], Link]]:
    """What hangs at a switch: name, quantities, link. Many hosts in a row that are alike are one entry."""
    hosts = {host.name: host for host in topology.hosts}

    def looks(link: Link) -> tuple[object, ...]:
        node = link.other(switch)
        if node in switches:
            return (node,)
        return (hosts[node].cpu, hosts[node].memory_bytes, link.lane(node), link.lane(switch))

    found = []
    for _, run in groupby(below, key=looks):
        links = list(run)
        if len(links) > _FEW:
            together = pairs.names([link.other(switch) for link in links], list(hosts))
            limits = quantities.of_host(hosts[links[0].other(switch)])
            ways = _ways(topology, Link(together, switch, links[0].lane(links[0].other(switch)), links[0].lane(switch)))
            found.append((_named(together, [f"{', '.join(limits)} each"] if limits else []), ways, links[0]))
        else:
            for link in links:
                node = link.other(switch)
                name = switches[node] if node in switches else _host(hosts[node])
                found.append((name, _ways(topology, link), link))
    return found


def _cables(topology: Topology) -> list[list[str]]:
    """Cables between hosts, those that are alike together, after the limits of the hosts that no tree shows."""
    hosts = {host.name: host for host in topology.hosts}
    cables = [link for link in topology.links if link.a in hosts and link.b in hosts]
    shown = {link.other(switch.name) for switch in topology.switches for link in links_at(topology)[switch.name]}
    limits = [
        f"{pairs.names([host.name for host in alike], list(hosts))}: {words}"
        for words, alike in _alike(host for host in topology.hosts if host.name not in shown)
    ]
    groups: dict[tuple[object, object], list[Link]] = {}
    for link in cables:
        groups.setdefault((link.up, link.down), []).append(link)
    single = [line for group in groups.values() if len(group) == 1 for line in _cable(topology, group[0])]
    return [limits, single, *(_group(group, list(hosts)) for group in groups.values() if len(group) > 1)]


def _alike(hosts: Iterable[Host]) -> Iterable[tuple[str, list[Host]]]:
    """Neighbours in the file with the same limits."""
    for words, alike in groupby(hosts, key=lambda host: ", ".join(quantities.of_host(host))):
        if words:
            found = list(alike)
            yield words + (" each" if len(found) > 1 else ""), found


def _cable(topology: Topology, cable: Link) -> list[str]:
    name = f"{cable.a} ── {cable.b}"
    first, *rest = _ways(topology, cable)
    return [f"{name}  {first}", *(f"{'':<{len(name)}}  {way}" for way in rest)]


def _group(cables: Sequence[Link], order: Sequence[str]) -> list[str]:
    """What these cables, all alike, are, and whom they join."""
    each = f"{counted(len(cables), 'cable')}, each"
    up, down = (", ".join(quantities.of_lane(lane)) for lane in (cables[0].up, cables[0].down))
    if up == down:
        return [f"{each} {up}", *_chains(cables, order)]
    return [f"{each} to the right {up}", f"{'':<{len(each)}} to the left  {down}", *_rows(cables, order)]


def _chains(cables: Sequence[Link], order: Sequence[str]) -> list[str]:
    """Rings and lines as such, anything else as who is joined to whom."""
    beside: dict[str, list[str]] = {}
    for link in cables:
        beside.setdefault(link.a, []).append(link.b)
        beside.setdefault(link.b, []).append(link.a)
    if max(map(len, beside.values())) > 2:
        return _rows(cables, order)
    left, found = sorted(beside, key=order.index), []
    while left:
        chain = [next((node for node in left if len(beside[node]) == 1), left[0])]
        while further := [node for node in beside[chain[-1]] if node not in chain]:
            chain.append(further[0])
        closed = len(chain) > 2 and chain[0] in beside[chain[-1]]
        found += pairs.wrapped([*chain, chain[0]] if closed else chain, " ── ", "  ", _WIDTH)
        left = [node for node in left if node not in chain]
    return found


def _rows(cables: Sequence[Link], order: Sequence[str]) -> list[str]:
    beside: dict[str, list[str]] = {}
    for link in cables:
        beside.setdefault(link.a, []).append(link.b)
    return [f"  {node} ── {pairs.names(others, order)}" for node, others in beside.items()]


def _events(topology: Topology) -> list[str]:
    changing = bool(topology.events) or any(link.up.trace or link.down.trace for link in topology.links)
    return [*map(events.show, topology.events), _CHANGES] if changing else []
