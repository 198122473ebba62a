"""Which paths to measure so that every direction of every link is crossed, and which may be measured at once."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.linetime import answers_of, medium_of
from testbed.paths import Path, Unreachable, path
from testbed.topology import MIN_QUEUE_BYTES, Link, Topology

AT_ONCE = 2  # more would measure the cores, not the links
AT_ONCE_BIT_S = 200e6  # likewise
_ALIKE = 1.01  # rates within the accepted excess of each other


def directions(over: Path) -> list[str]:
    """The hops of a path in words, "h1 -> s1" and so on."""
    return [hop.words for hop in over.hops]


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


def _shown(over: Path) -> set[tuple[str, str]]:
    """What a measurement of this path tells: delay and loss of every direction, the rate of the slowest ones."""
    slowest = [hop for hop in over.hops if hop.lane.rate_bit_s <= over.rate_bit_s * _ALIKE]
    return {(hop.words, "crossed") for hop in over.hops} | {(hop.words, "rate") for hop in slowest}


def _direct(over: Path, hosts: set[str]) -> bool:
    """Whether no host forwards on this path or on its answers: the fewer links, the clearer which one is wrong."""
    return not any(hop.receiver in hosts for hop in (*over.hops[:-1], *answers_of(over)[:-1]))


def chosen_paths(topology: Topology) -> list[Path]:
    """Few paths that together cross every direction of every link that any pair of hosts uses.

    A direction is also the slowest of one of them, if it is that of any; paths on which hosts forward come last.
    """
    hosts = {host.name for host in topology.hosts}
    everything = _all_paths(topology)
    shown, chosen = set[tuple[str, str]](), list[Path]()
    for candidates in ([over for over in everything if _direct(over, hosts)], everything):
        tells = [_shown(over) for over in candidates]
        while candidates:
            best = max(range(len(candidates)), key=lambda i: len(tells[i] - shown))
            if not tells[best] - shown:
                break
            chosen.append(candidates[best])
            shown |= tells[best]
    return chosen


def _touched(over: Path) -> set[Link | str]:
    """Links and shared media that a measurement of this path uses, in any direction: answers travel back."""
    hops = (*over.hops, *answers_of(over))
    return {hop.link for hop in hops} | {medium for hop in hops if (medium := medium_of(hop))}


def batches(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of at most two paths that share no host, no link in any direction, and no shared medium."""
    groups: list[list[Path]] = []
    for one in paths:
        for group in groups:
            apart = all(
                {one.source, one.target}.isdisjoint((other.source, other.target))
                and _touched(one).isdisjoint(_touched(other))
                for other in group
            )
            rate_bit_s = sum(over.rate_bit_s for over in (one, *group))
            if apart and len(group) < AT_ONCE and rate_bit_s <= AT_ONCE_BIT_S:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _links(over: Path) -> set[Link]:
    return {hop.link for hop in (*over.hops, *answers_of(over))}


def _deep(over: Path) -> bool:
    """Whether every queue there and back takes what two at once put into it."""
    return all(hop.lane.queue_bytes >= MIN_QUEUE_BYTES for hop in (*over.hops, *answers_of(over)))


def chosen_fans(topology: Topology) -> list[tuple[Path, Path]]:
    """For each host and link of its own, two paths that share this link and no other; none where no such pair is.

    A path of two links of equal rate cannot show that one of them is too fast; two paths at once can. Paths whose
    answers come another way are left out.
    """
    fans: list[tuple[Path, Path]] = []
    hosts = {host.name for host in topology.hosts}
    everything = [over for over in _all_paths(topology) if len(over.hops) > 1 and _deep(over) and _direct(over, hosts)]
    same_way = [over for over in everything if _links(over) == {hop.link for hop in over.hops}]
    for host in topology.hosts:
        first: dict[Link, tuple[Path, Path]] = {}
        paths = [over for over in same_way if over.source == host.name]
        for i, one in enumerate(paths):
            for other in paths[i + 1 :]:
                if _links(one) & _links(other) == {one.hops[0].link} == {other.hops[0].link}:
                    first.setdefault(one.hops[0].link, (one, other))
        fans += first.values()
    return fans
