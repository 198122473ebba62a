"""A rate that wanders as a Markov walk does, by default like the bandwidth trace of the ASTRA paper (arXiv 2505.19342).

That trace is published as figures only: 600 steps of 1 s within 20 to 100 Mbit/s, mean 49.6, median 48.6, standard
deviation 17.4, correlation from one step to the next 0.987. So correlated a process sees little of its range in 600
steps (they are worth about four that are independent): traces of one plain process would have means many Mbit/s apart,
and whoever compared two would compare their luck. Here every single trace has the figures:

1. x[t+1] = r x[t] + noise: a Gaussian Markov walk, AR(1).
2. Its lowest value becomes the lowest level, and so on by rank. The levels are quantiles of a normal distribution
   truncated to low..high that has the mean and the standard deviation. Order, and so the wandering, is the walk's.
3. It is kept if its own correlation is right to a tenth of what is missing to 1 (0.987 +- 0.0013), or else drawn again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, StatisticsError, correlation, fmean, pstdev

from testbed.tracefiles import MOST_STEPS
from testbed.units import show_rate

_MEAN_SHARE, _STD_SHARE = (49.6 - 20) / (100 - 20), 17.4 / (100 - 20)  # of low..high, in the paper's trace
_MOST_DRAWS = 300
_MOST_FITS = 300
_FIT_LEVELS = 600
_WIDEST = 10  # times low..high: what is so much wider, or so far off, is even or a mere tail there


@dataclass(frozen=True)
class Walk:
    """What the rates of a trace of for_s seconds must have; mean and std None: where the paper's are in low..high."""

    low_bit_s: float = 20e6
    high_bit_s: float = 100e6
    step_s: float = 1.0
    correlation: float = 0.987
    for_s: float = 600.0
    seed: int = 0
    mean_bit_s: float | None = None
    std_bit_s: float | None = None

    def rates_bit_s(self) -> list[float]:
        """One per step, in whole bit/s; the same seed gives the same ones. Raises ValueError, "KEY: what is wrong"."""
        if self.low_bit_s >= self.high_bit_s:
            raise ValueError(f"low: must be below high, {show_rate(self.high_bit_s)}")
        if self.step_s <= 0:
            raise ValueError("step: must be above 0 s")
        count = round(self.for_s / self.step_s)
        if not 3 <= count <= MOST_STEPS:
            raise ValueError(f"for: {self.for_s / self.step_s:.4g} steps, from 3 to {MOST_STEPS} are allowed")
        levels = self._levels(count)
        if levels[0] == levels[-1]:
            raise ValueError("std: less than 1 bit/s, give a constant")
        draw = random.Random(f"walk {self.seed}")
        allowed, aim = (1 - self.correlation) / 10, self.correlation
        for _ in range(_MOST_DRAWS):
            rates = _ranked(_normal_walk(draw, count, aim), levels)
            missed = self.correlation - correlation(rates[:-1], rates[1:])
            if abs(missed) <= allowed:
                return rates
            aim = min(1.0, max(0.0, aim + missed / 2))
        raise ValueError(
            f"correlation: no walk of {count} steps had {self.correlation:g} in {_MOST_DRAWS} tries: give a longer "
            "for, shorter steps or a lower correlation"
        )

    def _levels(self, count: int) -> list[float]:
        """`count` rates, rising, with the mean and standard deviation: quantiles of a truncated normal distribution."""
        span = self.high_bit_s - self.low_bit_s
        mean = self.low_bit_s + _MEAN_SHARE * span if self.mean_bit_s is None else self.mean_bit_s
        std = _STD_SHARE * span if self.std_bit_s is None else self.std_bit_s
        if not self.low_bit_s < mean < self.high_bit_s:
            raise ValueError(f"mean: must be between low and high, it is {show_rate(mean)}")
        centre, width = mean, std
        try:
            for _ in range(_MOST_FITS):
                levels = self._quantiles(NormalDist(centre, width), min(count, _FIT_LEVELS))
                off, ratio = mean - fmean(levels), std / pstdev(levels)
                if abs(off) < 1e-6 * span and abs(ratio - 1) < 1e-6:
                    return [float(round(level)) for level in self._quantiles(NormalDist(centre, width), count)]
                centre, width = centre + off, width * ratio
                if max(width, abs(centre - mean)) > _WIDEST * span:
                    break
        except (StatisticsError, ZeroDivisionError, OverflowError):
            pass  # it ran off: there is no such distribution
        raise ValueError(
            f"std: {show_rate(std)} around {show_rate(mean)} does not fit into low to high: give a lower one, or a "
            "mean nearer to the middle"
        )

    def _quantiles(self, normal: NormalDist, count: int) -> list[float]:
        below, above = normal.cdf(self.low_bit_s), normal.cdf(self.high_bit_s)
        found = (normal.inv_cdf(below + (above - below) * (index + 0.5) / count) for index in range(count))
        return [min(self.high_bit_s, max(self.low_bit_s, level)) for level in found]  # not beyond by rounding


def _normal_walk(draw: random.Random, count: int, memory: float) -> list[float]:
    noise = math.sqrt(1 - memory**2) or 1.0  # with memory 1: a random walk
    found = [draw.gauss(0.0, 1.0)]
    while len(found) < count:
        found.append(memory * found[-1] + noise * draw.gauss(0.0, 1.0))
    return found


def _ranked(values: Sequence[float], levels: Sequence[float]) -> list[float]:
    """The levels, rising, in the order that the values have."""
    found = [0.0] * len(values)
    for level, index in zip(levels, sorted(range(len(values)), key=values.__getitem__), strict=True):
        found[index] = level
    return found
