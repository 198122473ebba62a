"""Is the network the declared one? TCP messages and a long transfer cross every direction of every link and are judged.

A long transfer alone proves little: it passes on a link where messages of a few frames cost nothing at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from testbed.crossings import AT_ONCE, batches, chosen_fans, chosen_paths, directions
from testbed.hosts import HostError, Network
from testbed.linetime import SEGMENT_BYTES, expected, expected_fan, expected_goodput_bit_s, tolerance_s
from testbed.paths import Path
from testbed.shape import choose, free_bytes
from testbed.topology import Topology
from testbed.units import show_duration, show_rate

MESSAGE_BYTES = (1000, 4000, 16000, 64000, 256000)
FAN_BYTES = 16000  # two at once fit into the least default queue, so that nothing is lost where links are as declared
_PING_BYTES = 16  # as in runtime.echo
_PINGS = 10
_LONGEST_GAP_S = 0.025
_MANY_PATHS = 6  # more of them get fewer repeats and a shorter transfer each
_ECHO = (sys.executable, "-m", "runtime.echo")
_FAULTS = (HostError, OSError, subprocess.SubprocessError, ValueError)  # of a network that cannot be measured
Row = dict[str, Any]


@dataclass(frozen=True)
class _How:
    """shaper: what shaped the links; attempt: 1, or 2 for a repeated pair; thorough: all repeats."""

    shaper: str
    attempt: int
    thorough: bool


# How it is judged ---------------------------------------------------------------------------------------------------


def judge(over: Path, measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is wrong with one direction, in words with numbers; empty when it is as declared.

    wanted: any of rtt_s, goodput_bit_s, message_s (size as text -> seconds), two_at_once_s; measured: the same keys.
    """
    wrong = []
    if "rtt_s" in wanted and abs(measured["rtt_s"] - wanted["rtt_s"]) > max(0.05 * wanted["rtt_s"], 0.3e-3):
        wrong.append(f"RTT is {show_duration(measured['rtt_s'])}, not {show_duration(wanted['rtt_s'])}")
    if "goodput_bit_s" in wanted and not 0.95 <= measured["goodput_bit_s"] / wanted["goodput_bit_s"] <= 1.01:
        rates = show_rate(measured["goodput_bit_s"]), show_rate(wanted["goodput_bit_s"])
        wrong.append(f"a long transfer gets {rates[0]}, not {rates[1]}")
    due_s = {
        f"a message of {size} B": (t, measured["message_s"].get(size))
        for size, t in wanted.get("message_s", {}).items()
    }
    if "two_at_once_s" in wanted:
        due_s[f"{FAN_BYTES} B with two hosts at once"] = (wanted["two_at_once_s"], measured["two_at_once_s"])
    for what, (wanted_s, took_s) in due_s.items():
        if took_s is None:
            wrong.append(f"{what} was not over in time, {show_duration(wanted_s)} were due")
        elif abs(took_s - wanted_s) > tolerance_s(over, wanted_s):
            wrong.append(f"{what} takes {show_duration(took_s)}, not {show_duration(wanted_s)}")
    return wrong


def _last(rows: Iterable[Row]) -> list[Row]:
    """The last row of every measurement."""
    return list({(row["from"], row["to"], *row["links"]): row for row in rows}.values())


def verdict(rows: Sequence[Row]) -> str:
    """ "wrong" when the last measurement of any path is, else "ok"."""
    return "wrong" if any(row["verdict"] == "wrong" for row in _last(rows)) else "ok"


def complaints(rows: Sequence[Row]) -> list[str]:
    """One line per path that is not as declared, those that name one link first, with the numbers."""
    wrong = sorted((row for row in _last(rows) if row["verdict"] == "wrong"), key=lambda row: len(row["links"]))
    return [
        f"{' or '.join(row['links'])} (declared {show_rate(row['declared']['rate_bit_s'])}): {row['why']}"
        for row in wrong
    ]


# What is due and how to measure it ------------------------------------------------------------------------------------


def _wanted(over: Path, shaper: str) -> dict[str, Any]:
    """What `judge` compares with. Sizes that would take longer than 2 s are left out, but never all of 1, 4, 16 kB."""
    times_s = {size: expected(over, size, shaper) for size in MESSAGE_BYTES}
    return {
        "rtt_s": expected(over, _PING_BYTES, shaper),
        "goodput_bit_s": expected_goodput_bit_s(over),
        "message_s": {str(size): t for size, t in times_s.items() if size <= 16000 or t <= 2.0},
    }


def _gap_s(paths: Iterable[Path], due_s: float = 0.0) -> float:
    """How long to leave links idle before a message that takes `due_s`: what any bucket can then let go shows in it.

    At least until the declared bucket of the slowest link is full again.
    """
    rates = [link.rate_bit_s for over in paths for link in over.links]
    return 1e-3 + 1.2 * max(free_bytes(rate, "tbf") * 8 / rate for rate in rates) + min(due_s, _LONGEST_GAP_S)


def _options(over: Path, wanted: Mapping[str, Any], thorough: bool) -> tuple[list[str], float]:
    """Options of `runtime.echo measure` for this path, and the seconds after which to give it up."""
    # Long messages need few repeats: what the machine's other work adds to them is far below 5 %.
    budget_s, stream_s = (0.7, 0.6) if thorough else (0.5, 0.4)
    repeats = {size: min(5, max(1, int(budget_s / (s + 1e-3)))) for size, s in wanted["message_s"].items()}
    gaps_s = {size: _gap_s([over], s) for size, s in wanted["message_s"].items()}
    due_s = sum(repeats[size] * (s + gaps_s[size]) for size, s in wanted["message_s"].items()) + _PINGS * _gap_s([over])
    stream_bytes = max(40 * SEGMENT_BYTES, int(wanted["goodput_bit_s"] * stream_s / 8))
    limit_s = 2.5 * stream_bytes * 8 / wanted["goodput_bit_s"] + 1.0
    patience_s = 3 * due_s + 3.0
    numbers = {"pings": _PINGS, "gap-s": _gap_s([over]), "patience-s": patience_s}
    numbers |= {"stream-bytes": stream_bytes, "stream-s": limit_s}
    flat = [word for key, value in numbers.items() for word in (f"--{key}", str(value))]
    messages = [f"{size}:{count}:{gaps_s[size]}" for size, count in repeats.items()]
    return [*flat, "--messages", *messages], 2 * patience_s + 2 * limit_s + 10.0


# Measuring ----------------------------------------------------------------------------------------------------------


def _port(server: subprocess.Popen[Any], log: FilePath, offset: int) -> int:
    """The port that a just started `runtime.echo serve` announces in its log, behind what older ones left there.

    Raises OSError with its last words.
    """
    end_s, said = time.monotonic() + 10.0, ""
    while time.monotonic() < end_s:
        running = server.poll() is None
        said = log.read_bytes()[offset:].decode(errors="replace") if log.exists() else ""
        if said.startswith("port ") and "\n" in said:
            return int(said.split()[1])
        if not running:
            break
        time.sleep(0.01)
    raise OSError(f"the receiving end did not start: {said.strip() or 'no output'}")


@contextmanager
def _receiver(network: Network, over: Path, limit_s: float) -> Iterator[tuple[str, str]]:
    """Address and port of a receiving end at the target of a path, which ends with this block or after `limit_s`."""
    address, log = network.hosts[over.target].address_for(over.source), network.directory / f"echo-{over.target}.log"
    offset = log.stat().st_size if log.exists() else 0
    server = network.hosts[over.target].start([*_ECHO, "serve", address, "--idle-s", str(limit_s)], log, None)
    try:
        yield address, str(_port(server, log, offset))
    finally:
        server.terminate()
        server.wait(timeout=5.0)


def _measure(network: Network, over: Path, wanted: Mapping[str, Any], how: _How) -> dict[str, Any]:
    """Medians over one path. Raises _FAULTS where it cannot be measured."""
    options, limit_s = _options(over, wanted, how.thorough)
    with _receiver(network, over, limit_s) as (address, port):
        said = network.hosts[over.source].run([*_ECHO, "measure", address, port, *options], limit_s).stdout
    raw = json.loads(said)
    times_s = {size: median(times) for size, times in raw["message_s"].items()}
    return {"rtt_s": median(raw["rtt_s"]), "goodput_bit_s": raw["goodput_bit_s"], "message_s": times_s}


def _measure_fan(network: Network, fan: tuple[Path, Path], due_s: float) -> dict[str, float]:
    """Medians of two messages at once from (push_s) and to (pull_s) the host where both paths start. Raises _FAULTS."""
    gap_s = _gap_s(fan, due_s)
    patience_s = 3 * due_s + 3.0
    limit_s = 10 * (patience_s + gap_s) + 10.0
    with ExitStack() as receivers:
        ends = [receivers.enter_context(_receiver(network, over, limit_s)) for over in fan]
        peers = [word for end in ends for word in ("--peer", *end)]
        repeats = "5" if due_s < 0.01 else "3"
        numbers = [
            "--size-bytes",
            str(FAN_BYTES),
            "--repeats",
            repeats,
            "--gap-s",
            str(gap_s),
            "--patience-s",
            str(patience_s),
        ]
        raw = json.loads(network.hosts[fan[0].source].run([*_ECHO, "fan", *peers, *numbers], limit_s).stdout)
    return {what: median(times) for what, times in raw.items()}


def _row(network: Network, over: Path, how: _How) -> Row:
    """One line of links.json; a path that cannot be measured is a wrong one."""
    wanted = _wanted(over, how.shaper)
    row: Row = {"from": over.source, "to": over.target, "links": directions(over), "attempt": how.attempt}
    row["declared"] = {"rate_bit_s": over.rate_bit_s, "rtt_s": over.rtt_s, "shaper": how.shaper}
    row |= {"expected": wanted, "measured": None, "verdict": "ok", "why": ""}
    try:
        row["measured"] = _measure(network, over, wanted, how)
        wrong = judge(over, row["measured"], wanted)
    except _FAULTS as error:
        wrong = [f"no measurement: {error}"]
    return row | ({"verdict": "wrong", "why": "; ".join(wrong)} if wrong else {})


def _fan_rows(network: Network, fan: tuple[Path, Path], how: _How) -> list[Row]:
    """Two lines of links.json: the host's own link in either direction, with two peers at once."""
    due_s = expected_fan(*fan, FAN_BYTES, how.shaper)
    wanted = {"two_at_once_s": due_s}
    own = Path(fan[0].source, fan[0].target, fan[0].links[:1])
    host, peers, hop = own.source, "+".join(over.target for over in fan), directions(own)[0]
    declared = {"rate_bit_s": own.rate_bit_s, "rtt_s": own.rtt_s, "shaper": how.shaper}
    row: Row = {"attempt": how.attempt, "declared": declared, "expected": wanted}
    row |= {"measured": None, "verdict": "ok", "why": ""}
    back = " -> ".join(reversed(hop.split(" -> ")))
    rows = [row | {"from": host, "to": peers, "links": [hop]}, row | {"from": peers, "to": host, "links": [back]}]
    try:
        times_s = _measure_fan(network, fan, due_s)
    except _FAULTS as error:
        return [one | {"verdict": "wrong", "why": f"no measurement: {error}"} for one in rows]
    for one, what in zip(rows, ("push_s", "pull_s"), strict=True):
        one["measured"] = {"two_at_once_s": times_s[what]}
        wrong = judge(own, one["measured"], wanted)
        if wrong:
            one |= {"verdict": "wrong", "why": "; ".join(wrong)}
    return rows


def _again(rows: Iterable[Row]) -> bool:
    """Whether a measurement was made and is wrong: on shared cores a message may be late once; a dead path stays so."""
    return any(row["verdict"] == "wrong" and row["measured"] for row in rows)


def probe(network: Network, topology: Topology, shaper: str | None = None) -> list[Row]:
    """Rows of links.json, at least one per direction of every link; [] where nothing is shaped (backend local).

    What is not as declared is measured once more, alone, and both rows are kept. shaper: what shaped the network, None
    for `shape.choose()`. Never raises for a bad network.
    """
    if not network.ports:
        return []
    shaper, paths, rows = shaper or choose(), chosen_paths(topology), list[Row]()
    first, second = _How(shaper, 1, len(paths) <= _MANY_PATHS), _How(shaper, 2, True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for group in batches(paths):
            rows += pool.map(lambda over: _row(network, over, first), group)
    late = {(row["from"], row["to"]) for row in rows if _again([row])}
    rows += [_row(network, over, second) for over in paths if (over.source, over.target) in late]
    if verdict(rows) == "wrong":
        return rows
    for fan in chosen_fans(topology):
        rows += (found := _fan_rows(network, fan, first))
        rows += _fan_rows(network, fan, second) if _again(found) else []
    return rows
