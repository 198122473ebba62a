"""What is accepted of a measured path, and what a measurement outside of it means.

verdict of a row: "ok"; "degraded": when measured again, only times were out, late by less than the accepted band once
more: the network is roughly the declared one on a busy machine; "wrong": anything else. Too soon is never degraded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from testbed.counting import Spread
from testbed.linetime import jitter_s, loss_variance, rtt_tolerance_s, tolerance_s
from testbed.paths import Path
from testbed.units import show_duration, show_fraction, show_rate

ORDER = ("ok", "degraded", "wrong")
MOST_ATTEMPTS = 5  # of one measurement, where a hypervisor withholds processors; else two
_RATE_BAND = (0.95, 1.01)
FAN_BYTES = 16000  # two at once fit into the least default queue: nothing is lost where links are as declared
Row = dict[str, Any]
R = TypeVar("R", bound=Mapping[str, Any])
Band = list[float]  # least, most


@dataclass(frozen=True)
class Deviation:
    """One quantity outside its band, in words with numbers. slight: a time, late by less than the band once more; slow:
    a time that is too long or a rate that is too low, as a machine makes them that does not run."""

    text: str
    slight: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Sent:
    """A train: its datagrams, the seconds it takes, the fraction that is lost before the slowest link."""

    count: int
    seconds: float
    lost_before: float = 0.0


def _rate_band(over: Path, rate_bit_s: float, train: Sent | None) -> Band:
    """-5/+1 %. Of a train, three standard errors more: jitter tilts the line through its arrivals, and how many of its
    datagrams are lost before the slowest link, which then do not burden it, is a matter of chance."""
    tilt = 0.0
    if train:
        jitter = sum(j * j for j in jitter_s(over)) / 3 * 12 / train.count / train.seconds**2
        lost = train.lost_before / (1 - train.lost_before) / train.count
        tilt = 3 * math.sqrt(jitter + lost)
    return [rate_bit_s * (_RATE_BAND[0] - tilt), rate_bit_s * (_RATE_BAND[1] + tilt)]


def loss_band(over: Path, count: int) -> Band:
    """Three standard deviations of the fraction lost of `count` datagrams; nothing at all where no loss is declared."""
    width = 3 * math.sqrt(loss_variance(over, count))
    return [max(0.0, over.loss - width), min(1.0, over.loss + width)]


def bands(
    over: Path,
    wanted: Mapping[str, Any],
    pings: int = 10,
    datagrams: int = 0,
    train: Sent | None = None,
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Least and most that is accepted of everything in `wanted`, under the same names.

    train: where the rate is measured by trains; spread: where delays are compared.
    """
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        if key == "rtt_s":
            width = rtt_tolerance_s(over, value, pings)
            found[key] = [value - width, value + width]
        elif key == "loss":
            found[key] = loss_band(over, datagrams)
        elif key in ("spread_s", "reordered"):
            found[key] = (spread.spread_band_s if key == "spread_s" else spread.reordered_band) if spread else None
        elif key == "message_s":
            found[key] = {size: _time_band(over, t) for size, t in value.items()}
        elif key == "two_at_once_s":
            found[key] = _time_band(over, value)
        else:
            found[key] = _rate_band(over, value, None if key == "goodput_bit_s" else train)
    return found


def _time_band(over: Path, due_s: float) -> Band:
    width = tolerance_s(over, due_s)
    return [due_s - width, due_s + width]


def _time(what: str, took_s: float | None, due_s: float, band: Band) -> list[Deviation]:
    if took_s is None:
        return [Deviation(f"{what} was not over in time, {show_duration(due_s)} were due", slow=True)]
    if band[0] <= took_s <= band[1]:
        return []
    slow = took_s > band[1]
    slight = slow and took_s <= 2 * band[1] - due_s
    return [Deviation(f"{what} {show_duration(took_s)}, not {show_duration(due_s)}", slight, slow)]


def _rate(what: str, measured: float | None, due: float, band: Band) -> list[Deviation]:
    if measured is None:
        return [Deviation(f"{what} could not be measured")]
    if band[0] <= measured <= band[1]:
        return []
    return [Deviation(f"{what} {show_rate(measured)}, not {show_rate(due)}", slow=measured < band[0])]


def _spread(measured: Mapping[str, Any], wanted: Mapping[str, Any], accepted: Mapping[str, Any]) -> list[Deviation]:
    """Whether the delays of single datagrams lie apart, and overtake each other, as the jitter says."""
    found: list[Deviation] = []
    if "spread_s" in wanted:
        if measured["spread_s"] is None:
            return [Deviation("too few datagrams arrived to compare their delays")]
        due_s, band = wanted["spread_s"], accepted["spread_s"]
        found += _time("the middle half of the delays spans", measured["spread_s"], due_s, band)
    if "reordered" in wanted and not accepted["reordered"][0] <= measured["reordered"] <= accepted["reordered"][1]:
        late, due = (show_fraction(round(one["reordered"], 3)) for one in (measured, wanted))
        found.append(Deviation(f"{late} of the datagrams are overtaken, not {due}"))
    return found


def judge(measured: Mapping[str, Any], wanted: Mapping[str, Any], accepted: Mapping[str, Any]) -> list[Deviation]:
    """What is out of its band; empty when all is as declared.

    wanted: any of rtt_s, spread_s, reordered, goodput_bit_s, rate_bit_s, loss, message_s (size as text -> seconds),
    two_at_once_s, two_at_once_bit_s; measured and accepted: the same keys.
    """
    found: list[Deviation] = []
    if "rtt_s" in wanted:
        found += _time(
            "RTT is" if measured["rtt_s"] else "a ping", measured["rtt_s"], wanted["rtt_s"], accepted["rtt_s"]
        )
    found += _spread(measured, wanted, accepted)
    for key, what in (
        ("rate_bit_s", "a train of datagrams gets"),
        ("goodput_bit_s", "a long transfer gets"),
        ("two_at_once_bit_s", "two trains at once get"),
    ):
        if key in wanted:
            found += _rate(what, measured[key], wanted[key], accepted[key])
    if "loss" in wanted and not accepted["loss"][0] <= measured["loss"] <= accepted["loss"][1]:
        due = " to ".join(dict.fromkeys(show_fraction(round(end, 5)) for end in accepted["loss"]))
        lost = f"{show_fraction(measured['loss'])} of {measured['datagrams']} datagrams are lost"
        found.append(Deviation(f"{lost}, not {due}"))
    for size, due_s in wanted.get("message_s", {}).items():
        what = f"a message of {size} B"
        took_s = measured["message_s"].get(size)
        found += _time(f"{what} takes" if took_s else what, took_s, due_s, accepted["message_s"][size])
    if "two_at_once_s" in wanted and "two_at_once_bit_s" not in wanted:
        what = f"{FAN_BYTES} B with two hosts at once takes"
        found += _time(what, measured["two_at_once_s"], wanted["two_at_once_s"], accepted["two_at_once_s"])
    return found


def verdict_of(found: Sequence[Deviation], attempt: int) -> str:
    """Verdict of one row. What is out in a first attempt is measured again, so it is wrong so far."""
    if not found:
        return "ok"
    return "degraded" if attempt > 1 and all(one.slight for one in found) else "wrong"


def last(rows: Iterable[R]) -> list[R]:
    """The last row of every measurement: what was not as declared is measured again, and that decides."""
    return list({(row.get("when"), row["from"], row["to"], *row.get("links", ())): row for row in rows}.values())


def verdict(rows: Iterable[Row]) -> str:
    """The worst of the last measurements of all paths: "ok", "degraded" or "wrong"."""
    return max((str(row["verdict"]) for row in last(rows)), key=ORDER.index, default="ok")


def complaints(rows: Iterable[Row]) -> list[str]:
    """One line per path that is not as declared, those that name one link first, with the numbers."""
    bad = sorted((row for row in last(rows) if row["verdict"] != "ok"), key=lambda row: len(row["links"]))
    return [f"{' or '.join(row['links'])} (declared {_declared(row)}): {_why(row)}" for row in bad]


def _why(row: Row) -> str:
    return f"{'degraded: ' if row['verdict'] == 'degraded' else ''}{row['why']}"


def _declared(row: Row) -> str:
    declared = row["declared"]
    words = [show_rate(declared["rate_bit_s"])]
    words += [f"RTT {show_duration(declared['rtt_s'])}"] if declared.get("rtt_s") else []
    words += [f"{show_fraction(declared['loss'])} loss"] if declared.get("loss") else []
    return ", ".join(words)
