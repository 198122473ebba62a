"""Which paths to measure so that every direction of every link is crossed, and which may be measured at once."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.paths import Path, Unreachable, path
from testbed.topology import MIN_QUEUE_BYTES, Topology

AT_ONCE = 2  # more would measure the cores, not the links
AT_ONCE_BIT_S = 200e6  # likewise


def directions(over: Path) -> list[str]:
    """The hops of a path in words, "h1 -> s1" and so on."""
    found, node = [], over.source
    for link in over.links:
        found.append(f"{node} -> {link.other(node)}")
        node = link.other(node)
    return found


def _all_paths(topology: Topology) -> list[Path]:
    """Every ordered pair of hosts, next neighbours of the file's order first: so a star is probed as a ring."""
    names = [host.name for host in topology.hosts]
    found = []
    for step in range(1, len(names)):
        for i, source in enumerate(names):
            try:
                found.append(path(topology, source, names[(i + step) % len(names)]))
            except Unreachable:
                continue
    return found


def chosen_paths(topology: Topology) -> list[Path]:
    """Few paths that together cross every direction of every link that any pair of hosts uses."""
    candidates, covered, chosen = _all_paths(topology), set[str](), list[Path]()
    while candidates:
        best = max(candidates, key=lambda p: len(set(directions(p)) - covered))
        if not set(directions(best)) - covered:
            break
        chosen.append(best)
        covered |= set(directions(best))
    return chosen


def batches(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of at most two paths that share no host and no link in any direction (answers travel back)."""
    groups: list[list[Path]] = []
    for one in paths:
        for group in groups:
            apart = all(
                {one.source, one.target}.isdisjoint((p.source, p.target)) and not set(one.links) & set(p.links)
                for p in group
            )
            rate_bit_s = sum(p.rate_bit_s for p in (one, *group))
            if apart and len(group) < AT_ONCE and rate_bit_s <= AT_ONCE_BIT_S:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def chosen_fans(topology: Topology) -> list[tuple[Path, Path]]:
    """For each host, two paths that share its own link and no other; none for hosts that have no such pair.

    A path of two links of equal rate cannot show that one of them is too fast; two paths at once can.
    """
    fans = []
    for host in topology.hosts:
        paths = [over for over in _all_paths(topology) if over.source == host.name and len(over.links) > 1]
        pairs = [
            (a, b) for i, a in enumerate(paths) for b in paths[i + 1 :] if set(a.links) & set(b.links) == {a.links[0]}
        ]
        queued = [pair for pair in pairs if all(link.queue_bytes >= MIN_QUEUE_BYTES for p in pair for link in p.links)]
        fans += queued[:1]
    return fans
