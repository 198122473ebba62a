"""Is this set of cables a network? Checks on names only, so that they work on a file whose rates are still wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from testbed.yamlfile import Place, dotted

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


def problems(
    hosts: Sequence[str], switches: Sequence[str], cables: Sequence[Cable], whole: bool, shared: Collection[str] = ()
) -> list[Problem]:
    """What is wrong with the wiring, each with its place: dangling and doubled cables, loops, hosts out of reach.

    `whole` is False when some cables could not be read: then nobody is called out of reach. `shared`: which of the
    switches are shared media.
    """
    found, sound = _cable_problems({*hosts, *switches}, cables)
    groups = _Groups(switches)
    for place, a, b in sound:
        if a in switches and b in switches:
            medium = next((end for end in (a, b) if end in shared), None)
            if medium is not None:
                found.append((place, f"{medium} is a shared medium, only hosts are joined to it"))
            elif not groups.join(a, b):
                found.append(
                    (place, f"closes a loop of switches between {a} and {b}, frames would circle in it for ever")
                )
    found += _doubled(hosts, switches, sound, groups)
    if not whole or len(sound) < len(cables):
        return found  # the cable that is wrong may be the one that is missed
    ends = {end for _, *pair in sound for end in pair}
    found += [(("switches",), f"{switch} has no link") for switch in switches if switch not in ends]
    if len(hosts) > 1:
        found += [(("hosts", host), f"{host} has no link: give it one") for host in hosts if host not in ends]
    return found + _out_of_reach([host for host in hosts if host in ends], sound)


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
            found.append(
                (place, f"{a} and {b} are joined already by {dotted(first[frozenset((a, b))])}, one link per pair")
            )
        else:
            first[frozenset((a, b))] = place
            sound.append((place, a, b))
    return found, sound


def _doubled(hosts: Sequence[str], switches: Sequence[str], cables: Sequence[Cable], groups: _Groups) -> list[Problem]:
    """Switches that hang together are one network, and a host has one address on it."""
    found: list[Problem] = []
    segments: dict[str, set[str]] = {host: set() for host in hosts}
    for place, a, b in cables:
        for host, switch in ((a, b), (b, a)):
            if host in segments and switch in switches:
                segment = groups.of(switch)
                if segment in segments[host]:
                    found.append(
                        (place, f"{host} is on the network of {switch} already, one link per host and network")
                    )
                segments[host].add(segment)
    return found


def _out_of_reach(hosts: Sequence[str], cables: Sequence[Cable]) -> list[Problem]:
    """Hosts forward, so whatever hangs together reaches each other. A line per part, each pair of parts named once.

    hosts: those that have a link.
    """
    whole = _Groups(end for _, *pair in cables for end in pair)
    for _, a, b in cables:
        whole.join(a, b)
    parts: dict[str, list[str]] = {}
    for host in hosts:
        parts.setdefault(whole.of(host), []).append(host)
    largest_first = sorted(parts.values(), key=len, reverse=True)
    found: list[Problem] = []
    for index, part in enumerate(largest_first[1:], 1):
        missed = ", ".join(host for other in largest_first[:index] for host in other)
        text = f"{', '.join(part)} cannot reach {missed}: give them a link, or join their switches"
        found.append((("links",), text))
    return found
