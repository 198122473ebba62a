"""Is this set of cables a network? Checks on names only, so that they work on a file whose rates are still wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import permutations

from testbed.yamlfile import Place

Cable = tuple[Place, str, str]  # where it stands in the file, and its two ends
Problem = tuple[Place, str]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean "x"? ` when one of `allowed` is close, else nothing."""
    close = get_close_matches(word, list(allowed), 1, 0.5)
    return f'did you mean "{close[0]}"? ' if close else ""


class _Groups:
    """Union-find over names: which of them hang together."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def of(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def join(self, a: str, b: str) -> bool:
        """False when they already hung together."""
        a, b = self.of(a), self.of(b)
        self._parent[a] = b
        return a != b


def problems(hosts: Sequence[str], switches: Sequence[str], cables: Sequence[Cable], whole: bool) -> list[Problem]:
    """What is wrong with the wiring, each with its place: dangling and doubled cables, loops, hosts out of reach.

    `whole` is False when some cables could not be read: then nobody is called out of reach.
    """
    found, sound = _cable_problems({*hosts, *switches}, cables)
    groups = _Groups(switches)
    for place, a, b in sound:
        if a in switches and b in switches and not groups.join(a, b):
            found.append((place, f"closes a loop of switches between {a} and {b}, frames would circle in it for ever"))
    ends = {end for _, *pair in sound for end in pair}
    if not whole or len(sound) < len(cables):
        return found  # the cable that is wrong may be the one that is missed
    found += [(("switches",), f"{switch} has no link") for switch in switches if switch not in ends]
    return found + _host_problems(hosts, switches, sound, groups)


def _cable_problems(nodes: set[str], cables: Sequence[Cable]) -> tuple[list[Problem], list[Cable]]:
    found: list[Problem] = []
    sound: list[Cable] = []
    first: dict[frozenset[str], Place] = {}
    for place, a, b in cables:
        strangers = [end for end in dict.fromkeys((a, b)) if end not in nodes]
        if strangers:
            names = ", ".join(sorted(nodes)) or "none"
            found += [
                (place, f"there is no host or switch {end}; {nearest(end, nodes)}there are: {names}")
                for end in strangers
            ]
        elif a == b:
            found.append((place, f"joins {a} to itself"))
        elif frozenset((a, b)) in first:
            where = first[frozenset((a, b))]
            found.append((place, f"{a} and {b} are joined already by links[{where[1]}], one link per pair"))
        else:
            first[frozenset((a, b))] = place
            sound.append((place, a, b))
    return found, sound


def _host_problems(
    hosts: Sequence[str], switches: Sequence[str], cables: Sequence[Cable], groups: _Groups
) -> list[Problem]:
    """Hosts do not forward: two of them reach each other by a cable of their own or a group of switches both are at."""
    found: list[Problem] = []
    segments: dict[str, set[str]] = {host: set() for host in hosts}
    direct: set[frozenset[str]] = set()
    for place, a, b in cables:
        if a in segments and b in segments:
            direct.add(frozenset((a, b)))
            continue
        for host, switch in ((a, b), (b, a)):
            if host in segments and switch in switches:
                segment = groups.of(switch)
                if segment in segments[host]:
                    found.append(
                        (place, f"{host} is on the network of {switch} already, one link per host and network")
                    )
                segments[host].add(segment)
    apart: dict[str, list[str]] = {host: [] for host in hosts}
    for a, b in permutations(hosts, 2):
        if frozenset((a, b)) not in direct and not segments[a] & segments[b]:
            apart[a].append(b)
    return found + _out_of_reach(apart, {end for _, *pair in cables for end in pair})


def _out_of_reach(apart: dict[str, list[str]], linked: set[str]) -> list[Problem]:
    """One line per host, each pair named once: by the host that misses more of the others."""
    found: list[Problem] = []
    if len(apart) > 1:
        found = [(("hosts", host), f"{host} has no link: give it one") for host in apart if host not in linked]
    left = {host: [peer for peer in peers if peer in linked] for host, peers in apart.items() if host in linked}
    while any(left.values()):
        host = max(left, key=lambda name: len(left[name]))
        missed = ", ".join(left.pop(host))
        found.append((("links",), f"{host} cannot reach {missed}: give them a link, or join their switches"))
        left = {name: [peer for peer in peers if peer != host] for name, peers in left.items()}
    return found
