"""Datagrams that are looked at one by one: how many show the declared loss, and the declared jitter and order. Pure.

Jitter is told by how far apart the one-way delays of half of the datagrams lie; nothing that a busy machine does to a
few of them counts. What is due of it has no simple formula where order is kept and several links add up: it is that of
simulated datagrams.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

from runtime.datagrams import Arrival, late_numbers, spread_s
from testbed.linetime import loss_variance
from testbed.paths import Path
from testbed.shape import LINE_OVERHEAD_BYTES

DATAGRAM_BYTES = 22  # payload: with 42 of headers one of the shortest frames that there are
_FRAME_BITS = (DATAGRAM_BYTES + 42 + LINE_OVERHEAD_BYTES) * 8
_PER_S = 4000.0  # more would measure the cores
_MOST = 12000
_LOSS_S = 2.0  # as long as is worth it to tell the loss to a half
_LONGEST_LOSS_S = 3.0  # to tell it from none at all
_PLENTY, _ENOUGH = 36.0, 9.9  # times variance / loss^2: three standard deviations are half, or 95 %, of the loss
_DELAYS = {True: 100, False: 60}  # datagrams for the jitter, with all repeats or with few
_CALM = 40  # where none is declared
_CALM_SPACING_S = 3e-3
_LONGEST_S = 3.0
_SIMULATIONS = 200
_UNSHOWN_S = 0.15e-3  # a spread that the machine alone has
_SPREAD_S = 0.3e-3  # what the machine may add


@dataclass(frozen=True)
class Counted:
    """count datagrams, spacing_s apart."""

    count: int
    spacing_s: float

    @property
    def words(self) -> str:
        """As an option of `runtime.echo`: none of them at once."""
        return f"{self.count}:{DATAGRAM_BYTES}:{self.spacing_s}:0"


@dataclass(frozen=True)
class Spread:
    """What is due of the datagrams' delays, and its standard error: the range of the middle half of them, in seconds,
    and the fraction that comes behind one that was sent later."""

    spread_s: float
    spread_error_s: float
    reordered: float
    reordered_error: float

    @property
    def spread_band_s(self) -> list[float]:
        """Three standard errors, above it also what the machine adds: 0.3 ms or 5 %."""
        width_s = 3 * self.spread_error_s
        return [max(0.0, self.spread_s - width_s), self.spread_s + width_s + max(_SPREAD_S, 0.05 * self.spread_s)]

    @property
    def reordered_band(self) -> list[float]:
        """Three standard errors; nothing where order is kept."""
        width = 3 * self.reordered_error
        return [max(0.0, self.reordered - width), min(1.0, self.reordered + width)]

    def not_judged(self, jitter: bool, reorder: bool) -> dict[str, str]:
        """What these bands cannot tell from nothing at all, and why. jitter, reorder: whether they are declared."""
        found = {}
        if jitter and self.spread_band_s[0] < _UNSHOWN_S:
            found["jitter"] = "none at all would also have been accepted: it is too little for this machine's clock"
        if reorder and not self.reordered_band[0]:
            found["reorder"] = "none at all would also have been accepted: too few datagrams overtake each other"
        return found


def for_loss(over: Path, thorough: bool) -> Counted:
    """Below the rate, so that none is dropped by a queue; where there is loss so many that none at all is found out,
    if that takes no more than 3 s."""
    p = over.loss
    spacing_s = max(_FRAME_BITS / (0.6 * over.rate_bit_s), 1 / _PER_S)
    seconds = (1.0 if thorough else 0.5) if p else 0.3
    count = max(int(seconds / spacing_s), min(100, int(_LONGEST_LOSS_S / spacing_s)), 20)
    if p:
        one = 1000 * loss_variance(over, 1000) / p**2  # how many, were three standard deviations three times the loss
        plenty = min(math.ceil(_PLENTY * one), int(_LOSS_S / spacing_s)) if thorough else 0
        enough = min(math.ceil(_ENOUGH * one), int(_LONGEST_LOSS_S / spacing_s))
        count = max(count, plenty, enough)
    return Counted(min(count, _MOST), spacing_s)


def jitters(over: Path) -> bool:
    """Whether a hop there has jitter."""
    return any(hop.lane.jitter_s for hop in over.hops)


def reorders(over: Path) -> bool:
    """Whether a hop there has jitter that does not keep order."""
    return any(hop.lane.jitter_s and hop.lane.reorder for hop in over.hops)


def for_jitter(over: Path, thorough: bool) -> Counted:
    """As far apart as the jitter: then they would overtake each other if they might, and hold each other up little;
    half as far where they may overtake, so that enough do."""
    least_s = max(_CALM_SPACING_S, 3 * _FRAME_BITS / over.rate_bit_s)
    if not jitters(over):
        return Counted(max(12, min(_CALM, int(_LONGEST_S / least_s))), least_s)
    spacing_s, count = sum(hop.lane.jitter_s for hop in over.hops), _DELAYS[thorough]
    spacing_s /= 2 if reorders(over) else 1
    return Counted(count, max(least_s / 3, min(spacing_s, _LONGEST_S / count)))


def due_spread(over: Path, counted: Counted) -> Spread:
    """What is due of datagrams that cross links exactly as declared. Raises nothing; without jitter all is 0."""
    if not jitters(over):
        return Spread(0.0, 0.0, 0.0, 0.0)
    lanes = tuple((hop.lane.rate_bit_s, hop.lane.jitter_s, hop.lane.reorder) for hop in over.hops)
    return _simulated(lanes, max(2, round(counted.count * (1 - over.loss))), counted.spacing_s)


@lru_cache(maxsize=256)
def _simulated(lanes: tuple[tuple[float, float, bool], ...], count: int, spacing_s: float) -> Spread:
    draw = random.Random(0)
    spreads, late = list[float](), list[float]()
    for _ in range(_SIMULATIONS):
        arrivals = [(i, i * spacing_s) for i in range(count)]
        for rate_bit_s, jitter_s, reorder in lanes:
            arrivals = _crossed(arrivals, _FRAME_BITS / rate_bit_s, jitter_s, reorder, draw)
        found = [Arrival(i, at_s, i * spacing_s) for i, at_s in arrivals]
        spreads.append(spread_s(found))
        late.append(late_numbers(found) / count)
    return Spread(fmean(spreads), stdev(spreads), fmean(late), stdev(late))


def _crossed(
    arrivals: list[tuple[int, float]], frame_s: float, jitter_s: float, reorder: bool, draw: random.Random
) -> list[tuple[int, float]]:
    """Numbers and times, in order of time, behind one hop; its delay is left out."""
    sent_s = last_s = -math.inf
    found = []
    for number, at_s in arrivals:
        sent_s = max(at_s, sent_s) + frame_s
        out_s = sent_s + draw.uniform(-jitter_s, jitter_s)
        last_s = out_s if reorder else max(out_s, last_s)
        found.append((number, last_s))
    return sorted(found, key=lambda one: one[1])
