"""Is the network the declared one? Messages, a long transfer and trains of datagrams cross all directions of all links.

A long transfer alone proves little: it passes on a link where messages of a few frames cost nothing at all.
`python -m testbed.probe FILE` does only this and prints declared beside measured.
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath

from testbed import judge
from testbed.crossings import AT_ONCE, Fan, batches, chosen_fans, chosen_paths, directions, unshown
from testbed.hosts import HOSTS, Network
from testbed.judge import FAN_BYTES, MOST_ATTEMPTS, Row, complaints, verdict
from testbed.linetime import answers_of, expected_pull, expected_push, expected_together_bit_s, plain
from testbed.measuring import FAULTS, at_once_s, measure, messages_at_once, trains_at_once
from testbed.paths import Hop, Path
from testbed.together import fan_messages, fan_trains
from testbed.topology import Link, Topology, load
from testbed.trials import trial
from testbed.units import show_fraction
from testbed.withheld import MUCH, Withheld

__all__ = ["complaints", "main", "probe", "verdict"]
EXIT = {"ok": 0, "wrong": 3, "degraded": 4}
_PULL_REQUEST_BYTES = 9
_PATIENCE_S = 120.0  # with a machine that does not run
_MANY_PATHS = 6  # more of them get fewer repeats and a shorter transfer each
_MESSAGE = "message_s"
_RATE_OF = "rate of "
_TOO_FEW = "too few datagrams arrived to compare their delays"
_WORDS = {
    "goodput_bit_s": "a long TCP transfer",
    "loss": "loss that is too low",
    "jitter": "jitter that is too low",
}


@dataclass(frozen=True)
class _How:
    """when: "before" or "after" a run; attempt: from 2 on of a repeated path; thorough: all repeats; until_s: when the
    clock shows this, nothing is measured a third time."""

    network: Network
    shaper: str
    when: str
    attempt: int
    thorough: bool
    until_s: float = math.inf


def _start_row(over: Path, how: _How) -> Row:
    declared = {"rate_bit_s": over.rate_bit_s, "rtt_s": over.rtt_s, "loss": over.loss, "shaper": how.shaper}
    row: Row = {"when": how.when, "from": over.source, "to": over.target, "links": directions(over)}
    row |= {"attempt": how.attempt, "declared": declared, "expected": {}, "accepted": {}, "measured": None}
    return row | {"not_judged": {}}


def _judged(row: Row) -> Row:
    found = judge.judge(row["measured"], row["expected"], row["accepted"])
    verdict, why = judge.verdict_of(found, row["attempt"]), "; ".join(one.text for one in found)
    return row | {"verdict": verdict, "why": why, "slow": bool(found) and all(one.slow for one in found)}


def _unmeasured(row: Row, error: Exception) -> Row:
    return row | {"verdict": "wrong", "why": f"no measurement: {error}", "slow": False}


def _row(over: Path, how: _How) -> Row:
    """One line of links.json; a path that cannot be measured is a wrong one."""
    withheld = Withheld()
    return _explained(_measured(over, how), withheld.share())


def _rows(over: Path, how: _How) -> list[Row]:
    return [_row(over, how)]


def _explained(row: Row, withheld: float) -> Row:
    """withheld: of a processor's time, see `withheld`; told where it may be the reason."""
    why = row["why"]
    if row["slow"] and withheld >= MUCH:
        why += f"; meanwhile the hypervisor withheld {show_fraction(round(withheld, 3))} of a processor's time"
    return row | {"withheld": withheld, "why": why}


def _measured(over: Path, how: _How) -> Row:
    planned = trial(over, how.shaper, how.thorough)
    row = _start_row(over, how) | {"expected": planned.wanted, "not_judged": planned.not_judged}
    row["accepted"] = judge.bands(over, planned.wanted, planned.pings, planned.datagrams, planned.train, planned.spread)
    try:
        row["measured"], missing = measure(how.network, over, planned)
    except FAULTS as error:
        return _unmeasured(row, error)
    if row["measured"]["spread_s"] is None and over.loss:
        row = _without(row, ("spread_s", "reordered")) | {"not_judged": row["not_judged"] | {"jitter": _TOO_FEW}}
    for key in ("expected", "accepted"):
        kept = {size: value for size, value in row[key][_MESSAGE].items() if size not in missing}
        row[key] = row[key] | {_MESSAGE: kept}
    row["not_judged"] = row["not_judged"] | {f"{_MESSAGE} {size}": why for size, why in missing.items()}
    return _judged(row)


def _without(row: Row, names: tuple[str, ...]) -> Row:
    """The same row, but these are not judged."""
    judged = {key: {name: row[key][name] for name in row[key] if name not in names} for key in ("expected", "accepted")}
    return row | judged


def _fan_due(fan: Fan, shaper: str) -> list[dict[str, float]]:
    """What is due from, and to, the host where both paths start: of two messages, or where some are lost of trains."""
    if all(plain(over, shaper) for over in fan):
        push_s = expected_push(*fan, FAN_BYTES, shaper)
        pull_s = expected_pull(*fan, FAN_BYTES, _PULL_REQUEST_BYTES, shaper)
        return [{"two_at_once_s": push_s}, {"two_at_once_s": pull_s}]
    first, second = (Path(over.target, over.source, answers_of(over), over.hops) for over in fan)
    push_bit_s = expected_together_bit_s(fan[0], fan[1], fan[0].hops[0])
    rates = push_bit_s, expected_together_bit_s(first, second, first.hops[-1])
    return [{"two_at_once_bit_s": rate, "two_at_once_s": at_once_s(rate)} for rate in rates]


def _alone(hop: Hop, fan: Fan, source: str, target: str) -> Path:
    """One hop as a path; out of a shared medium at the rate of the medium, which is what holds its frames up."""
    lane = hop.lane if math.isfinite(hop.lane.rate_bit_s) else replace(hop.lane, rate_bit_s=fan[0].rate_bit_s)
    link = Link.both(hop.sender, hop.receiver, lane)
    return Path(source, target, (Hop(hop.sender, hop.receiver, link),))


def _fan_rows(fan: Fan, how: _How) -> list[Row]:
    """Two lines of links.json: the host's own link in either direction, with two peers at once."""
    withheld = Withheld()
    rows = _measured_fan(fan, how)
    share = withheld.share()
    return [_explained(row, share) for row in rows]


def _measured_fan(fan: Fan, how: _How) -> list[Row]:
    due, hop = _fan_due(fan, how.shaper), fan[0].hops[0]
    host, peers = fan[0].source, "+".join(over.target for over in fan)
    ways = _alone(hop, fan, host, peers), _alone(hop.back, fan, peers, host)
    if trains := "two_at_once_bit_s" in due[0]:
        rates = [one["two_at_once_bit_s"] for one in due]
        words, limit_s, shapes = fan_trains(rates[0], rates[1], fan, how.thorough)
    else:
        words, limit_s = fan_messages(fan, max(one["two_at_once_s"] for one in due))
        shapes = []
    rows = [
        _start_row(way, how) | {"expected": one, "accepted": judge.bands(way, one, train=shape)}
        for way, one, shape in zip(ways, due, shapes or (None, None), strict=True)
    ]
    try:
        measured = (trains_at_once if trains else messages_at_once)(how.network, fan, words, limit_s)
    except FAULTS as error:
        return [_unmeasured(row, error) for row in rows]
    return [_judged(row | {"measured": found}) for row, found in zip(rows, measured, strict=True)]


def _again(rows: Iterable[Row]) -> bool:
    """Whether a measurement was made and is wrong: on shared cores a message may be late once; a dead path stays so.

    Where packets are lost, a connection that did not come about is tried again as well.
    """
    return any(row["verdict"] == "wrong" and (row["measured"] or row["declared"]["loss"]) for row in rows)


def _repeated(measured: Callable[[_How], list[Row]], how: _How) -> list[Row]:
    """All further attempts: one, and more where what the hypervisor withheld may be why something is out again."""
    rows = list[Row]()
    for attempt in range(2, MOST_ATTEMPTS + 1):
        rows += (found := measured(replace(how, attempt=attempt)))
        out = [row for row in found if row["verdict"] != "ok"]
        excused = all(row["slow"] and row["withheld"] >= MUCH for row in out)
        if not out or not excused or time.monotonic() > how.until_s:
            break
    return rows


def probe(network: Network, topology: Topology, when: str = "before") -> list[Row]:
    """Rows of links.json, at least one per direction of every link; [] where nothing is shaped (backend local).

    when: "before" or "after" the run. What is not as declared is measured once more, alone, and all rows are kept;
    MOST_ATTEMPTS times in all while a hypervisor withholds processors and nothing but slowness is out. Never raises for
    a bad network.
    """
    if network.shaping is None:
        return []
    paths, rows, shaper = chosen_paths(topology), list[Row](), network.shaping.name
    first = _How(network, shaper, when, 1, len(paths) <= _MANY_PATHS)
    second = _How(network, shaper, when, 2, True, time.monotonic() + _PATIENCE_S)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for group in batches(paths):
            rows += pool.map(lambda over: _row(over, first), group)
    late = {(row["from"], row["to"]) for row in rows if _again([row])}
    for over in paths:
        if (over.source, over.target) in late:
            rows += _repeated(partial(_rows, over), second)
    _tell_unshown(rows, topology)
    if verdict(rows) == "wrong":
        return rows
    for fan in chosen_fans(topology):
        rows += (found := _fan_rows(fan, first))
        if _again(found):
            rows += _repeated(partial(_fan_rows, fan), second)
    return rows


def _tell_unshown(rows: Iterable[Row], topology: Topology) -> None:
    """Put each direction whose rate is not wholly shown into `not_judged` of one path that crosses it."""
    reasons, last = unshown(topology), judge.last(rows)
    for words, why in reasons.items():
        row = next(row for row in last if words in row["links"])
        row["not_judged"] = row["not_judged"] | {f"{_RATE_OF}{words}": why}


def main(file: str | FilePath, shaper: str | None = None, say: Callable[[str], object] = print) -> int:
    """Build the network of a file, print what its links do beside what is declared; the exit status, see EXIT.

    Raises TopologyError, HostError.
    """
    from rich.console import Console

    from testbed.linktable import render_links

    topology = load(file)
    with HOSTS[topology.backend](topology, secrets.token_hex(4), shaper) as network:
        began = time.monotonic()
        rows = probe(network, topology)
        took_s = time.monotonic() - began
    if network.shaping is None:
        say("nothing is shaped here: this backend has no links")
        return EXIT["ok"]
    for line in network.shaping.warnings:
        say(f"the {network.shaping.name} goes on, but: {line}")
    say(f"{topology.name}: {len(network.hosts)} hosts, links by {network.shaping.name}, probed in {took_s:.1f} s")
    render_links(rows, Console(highlight=False))
    for line in not_judged(rows):
        say(line)
    return EXIT[verdict(rows)]


def not_judged(rows: Iterable[Row]) -> list[str]:
    """What was not judged and why, one line for the paths of the same reason."""
    paths: dict[str, list[str]] = {}
    for row in judge.last(rows):
        for what, why in row["not_judged"].items():
            words, where = _WORDS.get(what, what), f"{row['from']} > {row['to']}"
            if what.startswith(_MESSAGE):
                words = f"messages of {what.split()[1]} B"
            elif what.startswith(_RATE_OF):
                words, where = "a rate", what.removeprefix(_RATE_OF)
            paths.setdefault(f"{words} not judged: {why}", []).append(where)
    return [f"{words} ({', '.join(names)})" for words, names in paths.items()]


if __name__ == "__main__":
    from testbed.cli import main as command

    command(["probe", *sys.argv[1:]])
