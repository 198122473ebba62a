"""Means of figures [seeds, held-out inputs], and how sure they are for other seeds and other inputs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
LEAST_SEEDS = 2


@dataclass(frozen=True)
class Mean:
    """value with its interval [low, high]; None where there are too few seeds to say. seeds, inputs: of how many."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    inputs: int

    def mapped(self, figure: Any) -> Mean:
        """Through a growing function, such as exp."""
        ends = [None if end is None else float(figure(end)) for end in (self.low, self.high)]
        return Mean(float(figure(self.value)), ends[0], ends[1], self.seeds, self.inputs)


def crossed(each: Sequence[Sequence[float]], origins: Sequence[int] | None = None) -> Mean:
    """Mean of figures [S seeds, n inputs], every seed on the same inputs, with its 95 % interval over both.

    Variance of the mean: that of the S means over inputs, by S, plus that of the n means over seeds, by n (what both
    share is counted twice: on the safe side); Student's t with Satterthwaite's degrees of freedom. origins: what each
    input comes from (a file): inputs of one vary together, and are added up before they are compared.
    """
    table = np.asarray(each, dtype=np.float64)
    seeds, inputs = table.shape
    mean = float(table.mean())
    clusters = np.arange(inputs) if origins is None else np.unique(origins, return_inverse=True)[1]
    sums = np.bincount(clusters, table.mean(0) - mean)
    if seeds < LEAST_SEEDS or len(sums) < LEAST_SEEDS:
        return Mean(mean, None, None, seeds, inputs)
    parts = [
        (float(table.mean(1).var(ddof=1)) / seeds, seeds - 1),
        (float(np.square(sums).sum()) / inputs**2 * len(sums) / (len(sums) - 1), len(sums) - 1),
    ]
    return _around(mean, parts, seeds, inputs)


def of_seeds(values: Sequence[float]) -> Mean:
    """Mean of one figure for each seed, with its interval over seeds alone."""
    table = np.asarray(values, dtype=np.float64)
    if len(table) < LEAST_SEEDS:
        return Mean(float(table.mean()), None, None, len(table), 0)
    return _around(float(table.mean()), [(float(table.var(ddof=1)) / len(table), len(table) - 1)], len(table), 0)


def _around(mean: float, parts: Sequence[tuple[float, int]], seeds: int, inputs: int) -> Mean:
    """parts: variances that add up, each with its degrees of freedom."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Mean(mean, mean, mean, seeds, inputs)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    return Mean(mean, mean - half, mean + half, seeds, inputs)


def difference(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], origins: Sequence[int] | None = None
) -> Mean:
    """Of the same seeds and inputs, in pairs: one - other."""
    return crossed(np.asarray(one) - np.asarray(other), origins)
