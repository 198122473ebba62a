"""A topology as text: who hangs where, and what every pair of hosts may expect. Plain characters, any terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from testbed.paths import links_at, path
from testbed.topology import Host, Link, Topology
from testbed.units import show_duration, show_fraction, show_rate, show_size

TCP_SHARE = 1448 / 1538  # of a link's rate: payload of a full segment by the bytes that it takes on the line


def draw(topology: Topology) -> str:
    """Hosts, switches and links as a tree per network, cables between hosts, and a table of all pairs."""
    head = [f"{topology.name}: {_count(len(topology.hosts), 'host')}, backend {topology.backend}"]
    if topology.backend == "local":
        names = ", ".join(host.name for host in topology.hosts)
        return "\n".join([*head, "", f"plain processes on loopback, nothing is shaped: {names}"])
    parts = [head, *_trees(topology), _cables(topology), _pairs(topology)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _host(host: Host) -> str:
    words = [] if host.cpu is None else [_count_cores(host.cpu)]
    if host.memory_bytes is not None:
        words.append(show_size(host.memory_bytes))
    return f"{host.name} ({', '.join(words)})" if words else host.name


def _count_cores(cpu: float) -> str:
    return f"{cpu:g} core{'' if cpu == 1 else 's'}"


def _link(link: Link) -> str:
    delay = f"delay {show_duration(link.delay_s)}"
    if link.jitter_s:
        delay += f" ± {show_duration(link.jitter_s)}"
    queue = f"queue {show_size(link.queue_bytes)} (full: {show_duration(link.worst_queue_s)})"
    return f"{show_rate(link.rate_bit_s)}, {delay}, loss {show_fraction(link.loss)}, {queue}"


def _trees(topology: Topology) -> list[list[str]]:
    """One drawing per group of joined switches; without loops among switches a group is a tree."""
    drawn: set[str] = set()
    found = []
    for switch in topology.switches:
        if switch.name not in drawn:
            lines = [f"{switch.name} ({switch.kind})"]
            _branch(topology, switch.name, None, "", (lines, drawn))
            found.append(lines)
    return found


def _branch(topology: Topology, switch: str, above: Link | None, indent: str, out: tuple[list[str], set[str]]) -> None:
    lines, drawn = out
    drawn.add(switch)
    hosts = {host.name: _host(host) for host in topology.hosts}
    switches = {other.name: f"{other.name} ({other.kind})" for other in topology.switches}
    below = [link for link in links_at(topology)[switch] if link is not above]
    names = {link: (hosts | switches)[link.other(switch)] for link in below}
    width = max((len(name) for name in names.values()), default=0)
    for link in below:
        last = link is below[-1]
        lines.append(f"{indent}{'└─' if last else '├─'} {names[link]:<{width}}  {_link(link)}")
        if link.other(switch) in switches:
            _branch(topology, link.other(switch), link, indent + ("   " if last else "│  "), out)


def _cables(topology: Topology) -> list[str]:
    hosts = {host.name: host for host in topology.hosts}
    rows = [
        (f"{_host(hosts[link.a])} ── {_host(hosts[link.b])}", _link(link))
        for link in topology.links
        if link.a in hosts and link.b in hosts
    ]
    return _columns(rows)


def _pairs(topology: Topology) -> list[str]:
    """RTT is that of an empty network; a full queue in front of every link of the way adds to it."""
    rows = [("between", "over", "RTT", "with full queues", "bandwidth", "of it TCP payload", "loss one way")]
    for a, b in combinations([host.name for host in topology.hosts], 2):
        way = path(topology, a, b)
        worst_s = way.rtt_s + 2 * sum(link.worst_queue_s for link in way.links)
        rows.append(
            (
                f"{a} - {b}",
                _count(len(way.links), "link"),
                show_duration(way.rtt_s),
                show_duration(worst_s),
                show_rate(way.rate_bit_s),
                show_rate(way.rate_bit_s * TCP_SHARE),
                show_fraction(way.loss),
            )
        )
    return _columns(rows) if len(rows) > 1 else []


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
