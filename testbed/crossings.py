"""Which paths to measure so that every direction of every link is crossed, and which may be measured at once."""

from __future__ import annotations

import math
from collections.abc import Iterable

from testbed.linetime import answers_of, medium_of
from testbed.paths import Hop, Path, Unreachable, path
from testbed.topology import MIN_QUEUE_BYTES, Link, Topology
from testbed.units import show_rate, show_size

Fan = tuple[Path, Path]
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
    """What a measurement of this path tells: delay and loss of every direction, that the slowest ones are no slower
    than declared, and of one that is the slowest alone that it is no faster either."""
    slowest = _slowest(over)
    found = {(hop.words, "crossed") for hop in over.hops} | {(hop.words, "rate") for hop in slowest}
    return found | ({(slowest[0].words, "alone")} if len(slowest) == 1 else set())


def _slowest(over: Path) -> list[Hop]:
    return [hop for hop in over.hops if hop.lane.rate_bit_s <= over.rate_bit_s * _ALIKE]


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


def _fills(hops: Iterable[Hop], shared: Hop) -> bool:
    """Whether one of two transfers at once over these hops gets more than half of what `shared` carries."""
    others = [hop.lane.rate_bit_s for hop in hops if hop.words != shared.words]
    return min(others, default=math.inf) > _ALIKE * shared.lane.rate_bit_s / 2


def _shown_by(fan: Fan) -> set[str]:
    """The directions of the host's own link whose rate a fan tells."""
    ways = [[over.hops for over in fan], [answers_of(over) for over in fan]]
    shared = fan[0].hops[0], fan[0].hops[0].back
    return {hop.words for hop, both in zip(shared, ways, strict=True) if all(_fills(hops, hop) for hops in both)}


def unshown(topology: Topology) -> dict[str, str]:
    """Directions whose rate the chosen paths and fans do not tell, or not wholly, each with the reason."""
    paths, reasons = chosen_paths(topology), dict[str, str]()
    told = set().union(*(_shown_by(fan) for fan in chosen_fans(topology)))
    deeper = set().union(*(_shown_by(fan) for fan in _fans(topology, deep_only=False)))
    shown = set().union(*(_shown(over) for over in paths))
    for hop in (hop for over in paths for hop in over.hops):
        if math.isinf(hop.lane.rate_bit_s) or hop.words in told or (hop.words, "alone") in shown:
            continue
        what = "only that it is not lower"
        if (hop.words, "rate") not in shown:
            most_bit_s = max(over.rate_bit_s for over in paths if hop in over.hops)
            what = f"only that it is not below {show_rate(most_bit_s)}"
        if hop.words in deeper:
            why = f"two hosts at once need queues of {show_size(MIN_QUEUE_BYTES)}"
        elif (hop.words, "rate") in shown:
            why = "nothing sends through it that no other link as slow holds up"
        else:
            why = "no pair of hosts can fill it"
        reasons[hop.words] = f"{why}, {what} is seen"
    return reasons


def chosen_fans(topology: Topology) -> list[Fan]:
    """For each host and link of its own, two paths that share this link and no other; none where no such pair is.

    A path of two links of equal rate cannot show that one of them is too fast; two paths at once can. Paths whose
    answers come another way are left out, and those with a queue too short for both.
    """
    return _fans(topology, deep_only=True)


def _fans(topology: Topology, deep_only: bool) -> list[Fan]:
    fans: list[Fan] = []
    hosts = {host.name for host in topology.hosts}
    everything = [over for over in _all_paths(topology) if len(over.hops) > 1 and _direct(over, hosts)]
    same_way = [
        over
        for over in everything
        if _links(over) == {hop.link for hop in over.hops} and (_deep(over) or not deep_only)
    ]
    for host in topology.hosts:
        first: dict[Link, Fan] = {}
        paths = [over for over in same_way if over.source == host.name]
        for i, one in enumerate(paths):
            for other in paths[i + 1 :]:
                if _links(one) & _links(other) == {one.hops[0].link} == {other.hops[0].link}:
                    first.setdefault(one.hops[0].link, (one, other))
        fans += first.values()
    return fans
