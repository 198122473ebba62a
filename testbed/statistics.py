"""Numbers that stand for many requests. No outlier is dropped: a late request was late for somebody.

Intervals are bootstraps with a fixed seed: the same values, in any order, give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

P95_NEEDS, P99_NEEDS = 20, 500
INTERVAL_NEEDS = 3
RESAMPLES = 9_999
AT_ONCE = 1 << 20  # numbers drawn at a time: 10,000 resamples of many requests would not fit in memory
NORMAL_95 = 1.959964  # standard deviations around the mean of a normal distribution that hold 95 %
FAR_IQRS = 3.0  # Tukey's "far out"
FAR_SHARE = 0.05  # of the median: on a quiet network three quartile distances may be nothing that matters

Key = TypeVar("Key", bound=Hashable)
Interval = list[float | None]


def median(values: Sequence[float]) -> float | None:
    """Median, None of nothing."""
    return float(np.median(values)) if values else None


def interval(values: Sequence[float]) -> Interval:
    """95 % confidence interval [lo, hi] of the median, [None, None] under 3 values.

    It lies within the range of the values, so under 6 values it covers less than it promises, whatever the method:
    from 75 % (3 values) to 94 % (5). Notes say so.
    """
    return _bootstrap([values], np.median)


def mean_interval(values: Sequence[float], origins: Sequence[int] | None = None) -> Interval:
    """95 % confidence interval [lo, hi] of the mean, [None, None] under 3 values.

    origins: what each value comes from (a file): those of one vary together, so that what is resampled is what each
    origin adds to the mean, and it takes 3 origins.
    """
    if origins is None:
        return _bootstrap([values], np.mean)
    _, places = np.unique(origins, return_inverse=True)
    mean = float(np.mean(values))
    added = np.bincount(places, np.asarray(values) - mean)
    return _bootstrap([list(mean + added * len(added) / len(values))], np.mean)


def share_interval(hits: Sequence[float]) -> Interval:
    """95 % confidence interval [lo, hi] of a share of hits (Wilson's), [None, None] of nothing.

    Each is 0 or 1, or between where several were averaged, which vary less: then the interval is wider than it need be.
    scipy's takes whole hits only.
    """
    if not hits:
        return [None, None]
    count, square = len(hits), NORMAL_95**2
    total = math.fsum(hits)
    middle = (total + square / 2) / (count + square)
    far = NORMAL_95 * math.sqrt(total * (count - total) / count + square / 4) / (count + square)
    return [max(0.0, middle - far), min(1.0, middle + far)]


def share_difference_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """95 % confidence interval [lo, hi] of the difference of two shares of hits, each 0 to 1, of the same requests.

    Agresti and Min (Statistics in Medicine 24, 2005): half a request is added to each of the four outcomes of a pair,
    so that the interval has a width also where no pair differs, of which a bootstrap would make none. [None, None] of
    nothing.
    """
    if not ours:
        return [None, None]
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    gained, lost = 0.5 + math.fsum(max(0.0, one) for one in apart), 0.5 + math.fsum(max(0.0, -one) for one in apart)
    count = len(ours) + 2
    middle = (gained - lost) / count
    far = NORMAL_95 * math.sqrt((gained + lost) / count - middle**2) / math.sqrt(count)
    return [max(-1.0, middle - far), min(1.0, middle + far)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """{"n", "median", "p95", "p99", "mean", "min", "ci95": [lo, hi], "mean_ci95": [lo, hi]} in the unit of the values.

    None where it cannot be said: p95 needs 20 values and p99 500, under that each would be the maximum by another
    name. ci95 is of the median.
    """
    return {
        "n": len(values),
        "median": median(values),
        "p95": float(np.percentile(values, 95)) if len(values) >= P95_NEEDS else None,
        "p99": float(np.percentile(values, 99)) if len(values) >= P99_NEEDS else None,
        "mean": float(np.mean(values)) if values else None,
        "min": float(min(values)) if values else None,
        "ci95": interval(values),
        "mean_ci95": mean_interval(values),
    }


def geometric_mean(values: Sequence[float]) -> float | None:
    """The mean of ratios, all above 0: of 2 and 1/2 it is 1. None of nothing."""
    return math.exp(float(np.mean(np.log(values)))) if values else None


def paired_ratio(a: Mapping[Key, float], b: Mapping[Key, float]) -> dict[str, Any]:
    """{"ratio", "ci95": [lo, hi], "n"}: geometric mean of a / b over the n keys that both have, pairs resampled whole.

    Pairs of which a value is not above 0 have no ratio and are not counted.
    """
    both = [(a[key], b[key]) for key in a if key in b]
    logs = [math.log(one / other) for one, other in both if one > 0 and other > 0]
    low, high = mean_interval(logs)
    return {
        "ratio": math.exp(float(np.mean(logs))) if logs else None,
        "ci95": [None, None] if low is None or high is None else [math.exp(low), math.exp(high)],
        "n": len(logs),
    }


def unpaired_ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """{"ratio", "ci95": [lo, hi], "n"}: median of a / median of b, each resampled by itself; n is the smaller count."""
    if not a or not b or float(np.median(b)) <= 0:
        return {"ratio": None, "ci95": [None, None], "n": 0}

    def of_medians(one: Any, other: Any, axis: int) -> Any:
        return np.median(one, axis=axis) / np.median(other, axis=axis)

    return {
        "ratio": float(np.median(a) / np.median(b)),
        "ci95": _bootstrap([a, b], of_medians),
        "n": min(len(a), len(b)),
    }


def far_outside(values: Mapping[Key, float]) -> list[Key]:
    """Keys of values that lie beyond 3 quartile distances outside of the quartiles, and by 5 % of the median."""
    if not values:
        return []
    low, middle, high = np.percentile(list(values.values()), [25, 50, 75])
    reach = max(FAR_IQRS * (high - low), FAR_SHARE * abs(middle))
    return [key for key, value in values.items() if not low - reach <= value <= high + reach]


def _bootstrap(samples: Sequence[Sequence[float]], statistic: Callable[..., Any]) -> Interval:
    """Percentile interval of a statistic of one or several samples, each resampled by itself.

    Its level is that of Hesterberg's expanded percentile interval (The American Statistician, 2015): the plain one is
    too narrow for few values. Of 10 normal ones the mean's covers 90 %, this one 95 %.
    """
    count = min(len(sample) for sample in samples)
    if count < INTERVAL_NEEDS:
        return [None, None]
    from scipy.special import ndtr, stdtrit
    from scipy.stats import bootstrap

    tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, 0.025)))
    found = bootstrap(
        [np.sort(np.asarray(sample, dtype=np.float64)) for sample in samples],
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // max(len(sample) for sample in samples)),
        confidence_level=1 - 2 * tail,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]
