"""Numbers that stand for many requests. No outlier is dropped: a late request was late for somebody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

P95_NEEDS = 20
INTERVAL_NEEDS = 3
RESAMPLES = 10_000


def median(values: Sequence[float]) -> float | None:
    """Median, None of nothing."""
    return float(np.median(values)) if values else None


def interval(values: Sequence[float]) -> list[float | None]:
    """95 % confidence interval [lo, hi] of the median: percentile bootstrap, 10,000 resamples, fixed seed.

    [None, None] under 3 values. It lies within the range of the values, so under 6 values it covers less than it
    promises, whatever the method: from 75 % (3 values) to 94 % (5). Notes say so.
    """
    if len(values) < INTERVAL_NEEDS:
        return [None, None]
    data = np.sort(np.asarray(values, dtype=np.float64))
    picks = np.random.default_rng(0).integers(0, len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(np.median(data[picks], axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """{"median", "p95", "mean", "min", "ci95": [lo, hi]} in the unit of the values, None where it cannot be said.

    p95 needs 20 values: under that it would be the maximum by another name.
    """
    return {
        "median": median(values),
        "p95": float(np.percentile(values, 95)) if len(values) >= P95_NEEDS else None,
        "mean": float(np.mean(values)) if values else None,
        "min": float(min(values)) if values else None,
        "ci95": interval(values),
    }
