"""Traces that others recorded, as files: CSV and Mahimahi.

CSV: a head `time_s,rate[,delay,loss]`, then a row per step. time_s in seconds; a rate in bit/s, a delay in seconds, a
loss as a fraction, or each with its unit ("20 Mbit/s", "5 ms", "1 %"); empty: what the lane declares.

Mahimahi (Netravali et al. 2015): on each line a time in whole milliseconds at which one packet of 1500 bytes may pass;
the last is the period. Here it becomes a rate, of the line as everywhere: 38 bytes of headers and gaps go off it with
each full frame, so 2.5 % fewer packets pass than Mahimahi would let through.
- Bins of 100 ms: a packet in a bin is 120 kbit/s, so shorter ones would be noise, and a queue of 64 KiB smooths over
  that time at 5 Mbit/s anyway; and a link cannot be changed much more often than ten times a second.
- A link carries 64 kbit/s at least, also in a bin without packets. What passes there too early, 800 bytes per empty
  bin, is taken off the bins after it: an outage keeps its time, the trace its sum.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from testbed.envelope import LOWEST_RATE_BIT_S
from testbed.topology import Step
from testbed.units import parse_duration, parse_fraction, parse_rate, show_rate
from testbed.wiring import nearest

MOST_STEPS = 100_000
BIN_S = 0.1
PACKET_BITS = 1500 * 8
_MOST_BYTES = 64 * 2**20
_NUMBER = re.compile(r"\s*\d+(?:\.\d*)?(?:[eE][+-]?\d{1,2})?\s*", re.ASCII)
Labelled = tuple[str, Step]  # where it was written, for what is wrong with it
Rows = tuple[Iterable[Labelled], float | None]


def read(name: str, folder: Path, kind: object = None) -> Rows:
    """The steps of a file, each with `name:line`, and the period if the format has one. kind None: by the ending.

    Raises ValueError, one line with the file and the line in it, here or while the steps are read.
    """
    kind = SUFFIXES.get(Path(name).suffix.lower()) if kind is None else kind
    if not isinstance(kind, str) or kind not in FORMATS:
        endings = ", ".join(f"{ending} is {form}" for ending, form in SUFFIXES.items())
        raise ValueError(f"format: give {' or '.join(FORMATS)}; without it the file's ending says: {endings}")
    path = located(name, folder)
    try:
        if not path.is_file():
            raise ValueError(f"{name}: there is no such file (looked for {path})")
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{name}: larger than {_MOST_BYTES // 2**20} MiB, cut it")
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name}: is no text") from None
    return FORMATS[kind](name, lines)


def located(name: str, folder: Path) -> Path:
    """A file's path: relative to `folder`; ~ is the home of whoever called sudo, or else one's own."""
    caller = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if caller and name.startswith("~/"):
        theirs = Path(os.path.expanduser(f"~{caller}{name[1:]}"))
        if theirs.exists():
            return theirs
    return folder / os.path.expanduser(name)


def _time(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("give seconds as a number, e.g. 12.5")
    return float(text)


def _or_number(parse: Callable[[object], float], unit: str) -> Callable[[str], float]:
    """A number in `unit`, or a number with any unit that `parse` knows."""
    return lambda text: parse(f"{text} {unit}" if _NUMBER.fullmatch(text) else text)


def _loss(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        return parse_fraction(text)
    if float(text) > 1:
        raise ValueError("must be from 0 to 1, or with a unit, e.g. 1 %")
    return float(text)


COLUMNS: dict[str, Callable[[str], float]] = {
    "time_s": _time,
    "rate": _or_number(parse_rate, "bit/s"),
    "delay": _or_number(parse_duration, "s"),
    "loss": _loss,
}
_FIELDS = {"time_s": "at_s", "rate": "rate_bit_s", "delay": "delay_s", "loss": "loss"}


def _csv(name: str, lines: Sequence[str]) -> Rows:
    return _csv_rows(name, lines), None


def _csv_rows(name: str, lines: Sequence[str]) -> Iterator[Labelled]:
    rows = csv.reader(lines, strict=True)
    try:
        head = [cell.strip() for cell in next(rows, [])]
        _check_head(f"{name}:1", head)
        for row in rows:
            where = f"{name}:{rows.line_num}"
            if row:
                yield where, _csv_step(where, head, row)
    except csv.Error as error:
        raise ValueError(f"{name}:{rows.line_num}: no CSV: {error}") from None


def _check_head(where: str, head: Sequence[str]) -> None:
    allowed = "the head is time_s,rate[,delay,loss]"
    for column in head:
        if column not in COLUMNS:
            raise ValueError(f'{where}: unknown column "{column}", {nearest(column, COLUMNS)}{allowed}')
        if head.count(column) > 1:
            raise ValueError(f"{where}: the column {column} is there twice, {allowed}")
    if "time_s" not in head or len(head) < 2:
        raise ValueError(f"{where}: {allowed}")


def _csv_step(where: str, head: Sequence[str], row: Sequence[str]) -> Step:
    if len(row) != len(head):
        raise ValueError(f"{where}: {len(row)} values for the {len(head)} columns {','.join(head)}")
    values = {}
    for column, cell in zip(head, row, strict=True):
        if not cell.strip() and column != "time_s":
            continue
        try:
            values[_FIELDS[column]] = COLUMNS[column](cell)
        except ValueError as error:
            raise ValueError(f"{where} {column}: {error}") from None
    return Step(**values)


def _mahimahi(name: str, lines: Sequence[str]) -> Rows:
    times_ms: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text.isascii() or not text.isdigit() or len(text) > 12:
            raise ValueError(f"{name}:{number}: give one time in whole milliseconds per line, e.g. 25")
        if times_ms and int(text) < times_ms[-1]:
            raise ValueError(f"{name}:{number}: times must not fall, and {text} comes after {times_ms[-1]}")
        times_ms.append(int(text))
    if not times_ms or not times_ms[-1]:
        raise ValueError(f"{name}: the last time is the period, it must be above 0 ms")
    count = max(1, round(times_ms[-1] / 1e3 / BIN_S))  # of equal bins: a short one at the end would be a spike
    if count > MOST_STEPS:
        raise ValueError(f"{name}: {times_ms[-1] / 1e3:g} s long, {MOST_STEPS * BIN_S:g} s are allowed")
    mean_bit_s = len(times_ms) * PACKET_BITS / (times_ms[-1] / 1e3)
    if mean_bit_s < LOWEST_RATE_BIT_S:
        least = show_rate(LOWEST_RATE_BIT_S)
        raise ValueError(f"{name}: {show_rate(mean_bit_s)} on average, a link carries {least} at least")
    period_ms = times_ms[-1]
    packets = [0] * count
    for time_ms in times_ms:  # of the half-open bins (k, k + 1] the one in which the packet's time is up
        packets[max(0, -(-time_ms * count // period_ms) - 1)] += 1
    width_s = period_ms / 1e3 / count
    rates = _smoothed([number * PACKET_BITS / width_s for number in packets])
    steps = [(f"{name} at {index * width_s:g} s", Step(round(index * width_s, 9), r)) for index, r in enumerate(rates)]
    return steps, period_ms / 1e3


def _smoothed(rates_bit_s: Sequence[float]) -> list[float]:
    """Whole bit/s, none under the lowest rate of a link; what that adds comes off the bins that follow, in a circle."""
    found = list(rates_bit_s)
    lent = 0.0
    for _ in range(2):  # what the end lends comes off the start
        for index, rate in enumerate(rates_bit_s):
            found[index] = max(LOWEST_RATE_BIT_S, rate - lent)
            lent = max(0.0, lent + found[index] - rate)
    return [float(math.floor(rate + 0.5)) for rate in found]


FORMATS: dict[str, Callable[[str, Sequence[str]], Rows]] = {"csv": _csv, "mahimahi": _mahimahi}
SUFFIXES = {".csv": "csv", ".mahi": "mahimahi", ".up": "mahimahi", ".down": "mahimahi", ".trace": "mahimahi"}
