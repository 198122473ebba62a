"""Is the network the declared one? TCP messages and a long transfer cross every direction of every link and are judged.

A long transfer alone proves little: it passes on a link where messages of a few frames cost nothing at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from testbed.hosts import HostError, Network
from testbed.paths import Path, Unreachable, path
from testbed.shape import LINE_OVERHEAD_BYTES, choose, free_bytes
from testbed.topology import Topology
from testbed.units import show_duration, show_rate

MESSAGE_BYTES = (1000, 4000, 16000, 64000, 256000)
PING_BYTES = 16  # as in runtime.echo
_SEGMENT_BYTES = 1448  # TCP payload of a full frame: 1500 - 20 (IP) - 32 (TCP with timestamps)
_HEADERS_BYTES = 14 + 20 + 32 + LINE_OVERHEAD_BYTES
FULL_FRAME_BYTES = _SEGMENT_BYTES + _HEADERS_BYTES
_PINGS = 10
_AT_ONCE = 2  # more would measure the cores, not the links
_MANY_PATHS = 6  # more of them get fewer repeats and a shorter transfer each
Row = dict[str, Any]


@dataclass(frozen=True)
class _How:
    """shaper: what shaped the links; attempt: 1, or 2 for a repeated pair; thorough: all repeats."""

    shaper: str
    attempt: int
    thorough: bool


# What is true -------------------------------------------------------------------------------------------------------


def _frames(payload_bytes: int) -> list[int]:
    """Bytes on the line, per frame, of a TCP message."""
    full, rest = divmod(payload_bytes, _SEGMENT_BYTES)
    return [FULL_FRAME_BYTES] * full + ([rest + _HEADERS_BYTES] if rest else [])


def _crossing_s(over: Path, payload_bytes: int, shaper: str) -> float:
    """Seconds until the last frame of a message is there: each hop stores, waits for its rate, and sends on.

    A hop whose shaper is a bucket, full after idle, lets its first `free_bytes` go at once.
    """
    frames = _frames(payload_bytes)
    at_s = [0.0] * len(frames)
    for link in over.links:
        bucket = credit = free_bytes(link.rate_bit_s, shaper)
        free_s = 0.0  # when the hop has sent the previous frame
        for i, frame in enumerate(frames):
            now_s = max(at_s[i], free_s)
            credit = min(bucket, credit + (now_s - free_s) * link.rate_bit_s / 8)
            free_s = at_s[i] = now_s + max(0.0, frame - credit) * 8 / link.rate_bit_s
            credit = max(0.0, credit - frame)
    return at_s[-1] + over.delay_s


def expected(over: Path, size_bytes: int, shaper: str) -> float:
    """Seconds from writing a TCP message of `size_bytes` (>= 1) to its one-byte answer, on links that are as declared.

    Truth is the line: 1538 bytes of it carry 1448 of payload. Assumes idle links of equal rate in both directions.
    """
    return _crossing_s(over, size_bytes, shaper) + _crossing_s(over, 1, shaper)


def tolerance_s(over: Path, expected_s: float) -> float:
    """How far a message time may be off: one packet time and 0.3 ms, or 5 %."""
    return max(FULL_FRAME_BYTES * 8 / over.rate_bit_s + 0.3e-3, 0.05 * expected_s)


def judge(over: Path, measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is wrong with one direction, in words with numbers; empty when it is as declared.

    measured and wanted: rtt_s, goodput_bit_s, message_s (size as text -> seconds).
    """
    wrong = []
    if abs(measured["rtt_s"] - wanted["rtt_s"]) > max(0.05 * wanted["rtt_s"], 0.3e-3):
        wrong.append(f"RTT is {show_duration(measured['rtt_s'])}, not {show_duration(wanted['rtt_s'])}")
    if not 0.95 <= measured["goodput_bit_s"] / wanted["goodput_bit_s"] <= 1.01:
        rates = show_rate(measured["goodput_bit_s"]), show_rate(wanted["goodput_bit_s"])
        wrong.append(f"a long transfer gets {rates[0]}, not {rates[1]}")
    for size, wanted_s in wanted["message_s"].items():
        took_s = measured["message_s"].get(size)
        if took_s is None:
            wrong.append(f"a message of {size} B was not over in time, {show_duration(wanted_s)} were due")
        elif abs(took_s - wanted_s) > tolerance_s(over, wanted_s):
            wrong.append(f"a message of {size} B takes {show_duration(took_s)}, not {show_duration(wanted_s)}")
    return wrong


# What to measure ----------------------------------------------------------------------------------------------------


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
            if apart and len(group) < _AT_ONCE:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _wanted(over: Path, shaper: str) -> dict[str, Any]:
    """What `judge` compares with. Sizes that would take longer than 5 s are left out, but never all of 1, 4, 16 kB."""
    times_s = {size: expected(over, size, shaper) for size in MESSAGE_BYTES}
    return {
        "rtt_s": expected(over, PING_BYTES, shaper),
        "goodput_bit_s": over.rate_bit_s * _SEGMENT_BYTES / FULL_FRAME_BYTES,
        "message_s": {str(size): t for size, t in times_s.items() if size <= 16000 or t <= 5.0},
    }


def _client_arguments(over: Path, wanted: Mapping[str, Any], thorough: bool) -> tuple[list[str], float]:
    """Options of `runtime.echo measure` for this path, and the seconds after which to give it up."""
    # Long messages need few repeats: what the machine's other work adds to them is far below 5 %.
    budget_s, stream_s = (1.2, 1.0) if thorough else (0.7, 0.5)
    repeats = {size: min(5, max(1, int(budget_s / (s + 1e-3)))) for size, s in wanted["message_s"].items()}
    refill_s = max(free_bytes(link.rate_bit_s, "tbf") * 8 / link.rate_bit_s for link in over.links)
    gap_s = 1e-3 + 1.2 * refill_s
    due_s = sum(repeats[size] * (s + gap_s) for size, s in wanted["message_s"].items()) + _PINGS * gap_s
    stream_bytes = max(40 * _SEGMENT_BYTES, int(wanted["goodput_bit_s"] * stream_s / 8))
    limit_s = 2.5 * stream_bytes * 8 / wanted["goodput_bit_s"] + 1.0
    patience_s = 3 * due_s + 3.0
    options = {"pings": _PINGS, "gap-s": gap_s, "patience-s": patience_s}
    options |= {"stream-bytes": stream_bytes, "stream-s": limit_s}
    messages = [f"{size}:{count}" for size, count in repeats.items()]
    flat = [word for key, value in options.items() for word in (f"--{key}", str(value))]
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


def _measure(network: Network, over: Path, wanted: Mapping[str, Any], how: _How) -> dict[str, Any]:
    """Medians over one path. Raises HostError, OSError, SubprocessError, ValueError where it cannot be measured."""
    source, target = network.hosts[over.source], network.hosts[over.target]
    echo = [sys.executable, "-m", "runtime.echo"]
    address, log = (
        target.address_for(over.source),
        network.directory / f"echo-{over.source}-{over.target}.log"
    offset = log.stat().st_size if log.exists() else 0,
    )
    options, limit_s = _client_arguments(over, wanted, how.thorough)
    server = target.start([*echo, "serve", address, "--idle-s", str(limit_s)], log, None)
    try:
        port = _port(server, log, offset)
        raw = json.loads(source.run([*echo, "measure", address, str(port), *options], limit_s).stdout)
    finally:
        server.terminate()
        server.wait(timeout=5.0)
    return {
        "rtt_s": median(raw["rtt_s"]),
        "goodput_bit_s": raw["goodput_bit_s"],
        "message_s": {size: median(times) for size, times in raw["message_s"].items()},
    }


def _row(network: Network, over: Path, how: _How) -> Row:
    """One line of links.json; a path that cannot be measured is a wrong one."""
    wanted = _wanted(over, how.shaper)
    row: Row = {"from": over.source, "to": over.target, "links": directions(over), "attempt": how.attempt}
    row["declared"] = {"rate_bit_s": over.rate_bit_s, "rtt_s": over.rtt_s, "shaper": how.shaper}
    row["expected"], row["measured"] = wanted, None
    try:
        row["measured"] = _measure(network, over, wanted, how)
        wrong = judge(over, row["measured"], wanted)
    except (HostError, OSError, subprocess.SubprocessError, ValueError) as error:
        wrong = [f"no measurement: {error}"]
    row["verdict"], row["why"] = ("wrong", "; ".join(wrong)) if wrong else ("ok", "")
    return row


def _rows(network: Network, paths: Sequence[Path], how: _How) -> list[Row]:
    rows: list[Row] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for group in batches(paths):
            rows += pool.map(lambda over: _row(network, over, how), group)
    return rows


def probe(network: Network, topology: Topology, shaper: str | None = None) -> list[Row]:
    """Rows of links.json, at least one per direction of every link; [] where nothing is shaped (backend local).

    A path that is not as declared is measured once more, alone, and both rows are kept: on shared cores a message may
    be late once; a dead path is not. shaper: what shaped the network, None for `shape.choose()`.
    Never raises for a bad network.
    """
    if not network.ports:
        return []
    shaper = shaper or choose()
    paths = chosen_paths(topology)
    how = _How(shaper, 1, len(paths) <= _MANY_PATHS)
    again = _How(shaper, 2, True)
    rows = _rows(network, paths, how)
    bad = {(row["from"], row["to"]) for row in rows if row["verdict"] == "wrong" and row["measured"]}
    return rows + [_row(network, over, again) for over in paths if (over.source, over.target) in bad]


def _last(rows: Iterable[Row]) -> list[Row]:
    """The last row of every pair."""
    return list({(row["from"], row["to"]): row for row in rows}.values())


def verdict(rows: Sequence[Row]) -> str:
    """ "wrong" when the last measurement of any pair is, else "ok"."""
    return "wrong" if any(row["verdict"] == "wrong" for row in _last(rows)) else "ok"


def complaints(rows: Sequence[Row]) -> list[str]:
    """One line per pair that is not as declared, with the links that it may be and the numbers."""
    return [
        f"{' or '.join(row['links'])} (declared {show_rate(row['declared']['rate_bit_s'])}): {row['why']}"
        for row in _last(rows)
        if row["verdict"] == "wrong"
    ]
