"""What a topology file promises for every pair of hosts, as a table in which pairs that are alike share a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from testbed.paths import Hop, Path, path
from testbed.quantities import counted, slowest_bit_s, worst_queue_s
from testbed.topology import MAX_HOSTS, Topology
from testbed.units import show_duration, show_fraction, show_rate

TCP_SHARE = 1448 / 1538  # of a link's rate: payload of a full segment by the bytes that it takes on the line
_HEADER = ("between", "over", "slowest rate", "delay one way", "RTT", "loss one way", "full queues add")
_LEGEND = (
    "as declared, of an empty network, without the time to put a packet on each line; full queues: one way, at worst",
    f"of a rate, TCP payload is {show_fraction(TCP_SHARE)} at best",
)
_FEW, _WIDTH = 3, 44  # names in a row, characters of the first column
Pair = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """Pairs that may expect the same. over: what lies between them, by name if that is the same, too."""

    pairs: tuple[Pair, ...]
    over: str
    cells: tuple[str, ...]


def table(topology: Topology) -> list[str]:
    """Lines of text; none for less than two hosts.

    RTT and delay are those of an empty network; full queues add to them at worst.
    """
    order = [host.name for host in topology.hosts]
    many = len(order) > MAX_HOSTS
    found = rows(topology, order[:1] if many else order)
    if not found:
        return []
    lines: list[tuple[str, ...]] = [_HEADER]
    for row in found:
        first, *more = (
            ["all " + counted(len(row.pairs), "pair")]
            if len(found) == 1 < len(row.pairs) and not many
            else _who(row, order)
        )
        # What lies between may say better than a long list which pairs are meant.
        if more and [other.over for other in found].count(row.over) == 1:
            first, more = f"{counted(len(row.pairs), 'pair')} like {' - '.join(row.pairs[0])}", []
        lines.append((first, row.over, *row.cells))
        lines += [(text, *[""] * (len(_HEADER) - 1)) for text in more]
    count = len(order) * (len(order) - 1) // 2
    cut = [f"pairs of {order[0]} only: {len(order)} hosts make {count} pairs"] if many else []
    return [*_columns(lines), *cut, *_LEGEND]


def rows(topology: Topology, firsts: Sequence[str] | None = None) -> list[Row]:
    """All pairs, a before b in the file, or those whose a is of `firsts`; "back" where the other way is different."""
    hosts = [host.name for host in topology.hosts]
    alike: dict[tuple[object, ...], list[Path]] = {}
    cells: dict[tuple[object, ...], tuple[str, ...]] = {}
    for a, b in [(first, second) for first in firsts or hosts for second in hosts[hosts.index(first) + 1 :]]:
        there = path(topology, a, b)
        shown = _cells(topology, there)
        key = (shown, *(tuple(node in hosts for node in _between(hops)) for hops in (there.hops, there.answers)))
        alike.setdefault(key, []).append(there)
        cells[key] = shown
    return [
        Row(tuple((way.source, way.target) for way in ways), _over(ways, hosts), cells[key])
        for key, ways in alike.items()
    ]


def _cells(topology: Topology, there: Path) -> tuple[str, ...]:
    """What the columns behind `over` say."""
    back = Path(there.target, there.source, there.answers, there.hops)
    ways = (there, back)
    queues_s = [sum(worst_queue_s(topology, hop.link, hop.sender) for hop in way.hops) for way in ways]
    return (
        _both([_slowest(way) for way in ways]),
        _both([show_duration(way.delay_s) for way in ways]),
        show_duration(there.rtt_s),
        _both([show_fraction(way.loss) for way in ways]),
        _both([show_duration(seconds) for seconds in queues_s]),
    )


def _slowest(way: Path) -> str:
    """The rate of the slowest link, "20.07 Mbit/s by trace" where a trace goes below what is declared."""
    least_bit_s = min(slowest_bit_s(hop.lane) for hop in way.hops)
    return f"{show_rate(least_bit_s)} by trace" if least_bit_s < way.rate_bit_s else show_rate(way.rate_bit_s)


def _both(texts: Sequence[str]) -> str:
    there, back = texts
    return there if there == back else f"{there}, back {back}"


def _between(hops: Sequence[Hop]) -> list[str]:
    return [hop.receiver for hop in hops[:-1]]


def _over(ways: Sequence[Path], hosts: Sequence[str]) -> str:
    """ "s1, s2", "h2", "h2, back h4", or if that differs from pair to pair, or is long, how many: "2 hosts"."""
    there = {tuple(_between(way.hops)) for way in ways}
    back = {tuple(reversed(_between(way.answers))) for way in ways}
    sample = next(iter(there))
    if not sample:
        return "their cable"
    if len(there) == 1 and len(back) == 1 and len(sample) <= _FEW:
        return _both([", ".join(next(iter(there))), ", ".join(next(iter(back)))])
    through = sum(node in hosts for node in sample)
    parts = ((through, "host"), (len(sample) - through, "switch"))
    return ", ".join(counted(number, noun) for number, noun in parts if number)


def _who(row: Row, order: Sequence[str]) -> list[str]:
    """The pairs in as few words as say it exactly; several lines where there is no pattern."""
    pairs = row.pairs
    if len(pairs) == 1:
        return [" - ".join(pairs[0])]
    groups = _cliques(pairs)
    if groups and len(pairs) > len(groups):
        return wrapped([f"any two of {names(group, order)}" for group in groups], ", ")
    left, right = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
    if set(pairs) == set(product(left, right)):
        return wrapped([f"{names(left, order)} with {names(right, order)}"], ", ")
    partners: dict[str, list[str]] = {}
    for a, b in pairs:
        partners.setdefault(a, []).append(b)
    return wrapped([f"{a} - {names(others, order)}" for a, others in partners.items()], "; ")


def _cliques(pairs: Sequence[Pair]) -> list[list[str]]:
    """Sets of hosts such that the pairs are exactly those inside the sets; [] if there are none."""
    groups: list[list[str]] = []
    for pair in pairs:
        near = [group for group in groups if set(group) & set(pair)]
        joined = list(dict.fromkeys([*(node for group in near for node in group), *pair]))
        groups = [group for group in groups if group not in near] + [joined]
    return groups if sum(len(group) * (len(group) - 1) // 2 for group in groups) == len(pairs) else []


def names(some: Sequence[str], order: Sequence[str]) -> str:
    """ "h1 to h4, h7": runs of four or more that follow each other in `order` by their ends."""
    return ", ".join(_runs(sorted(some, key=list(order).index), order))


def _runs(some: Sequence[str], order: Sequence[str]) -> Iterator[str]:
    run: list[str] = []
    for name in [*some, ""]:
        if run and (not name or order.index(name) != order.index(run[-1]) + 1):
            yield from [f"{run[0]} to {run[-1]}"] if len(run) > _FEW else run
            run = []
        run.append(name)


def wrapped(parts: Sequence[str], between: str, indent: str = "", width: int = _WIDTH) -> list[str]:
    """Parts one after the other, on a new line where one would pass the width; no part is broken."""
    lines = [indent + parts[0]]
    for part in parts[1:]:
        lines[-1] += between.rstrip()
        if len(lines[-1]) + len(part) > width:
            lines.append(indent + part)
        else:
            lines[-1] += between[len(between.rstrip()) :] + part
    return lines


def _columns(found: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in found]
