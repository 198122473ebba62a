"""Numbers that stand for many: against known distributions, and against what can be worked out by hand."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import pytest

from testbed.statistics import (
    far_outside,
    geometric_mean,
    interval,
    mean_interval,
    paired_ratio,
    spread,
    unpaired_ratio,
)

DRAWS = 200
ALLOWED = (0.885, 0.995)  # around 95 %: of 200 draws a standard deviation is 1.5 %


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.6]])
def test_no_interval_of_one_or_two_values(values: list[float]) -> None:
    assert interval(values) == mean_interval(values) == [None, None]
    assert paired_ratio(dict(enumerate(values)), {0: 1.0, 1: 1.0})["ci95"] == [None, None]


def test_the_interval_holds_the_median_and_is_the_same_each_time() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 9.0]
    low, high = interval(values)
    assert low is not None and high is not None
    assert 1.0 <= low < median(values) < high <= 9.0
    assert interval(values) == [low, high] == interval(values[::-1])
    assert interval([2.0] * 5) == mean_interval([2.0] * 5) == [2.0, 2.0]


def test_values_of_one_origin_count_together() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 9.0]
    thrice, files = [value for value in values for _ in range(3)], [number for number in range(8) for _ in range(3)]
    assert mean_interval(thrice, files) == pytest.approx(mean_interval(values))
    assert mean_interval(values, list(range(8))) == pytest.approx(mean_interval(values))
    assert mean_interval(values, [0, 0, 0, 0, 1, 1, 1, 1]) == [None, None]


def hits(found: Callable[[Any], Sequence[float | None]], draws: Any, truth: float) -> float:
    """Share of the draws whose interval holds the truth."""
    ends = [found(draw) for draw in draws]
    return sum(low is not None and high is not None and low <= truth <= high for low, high in ends) / len(ends)


@pytest.mark.parametrize("count", [6, 10, 15])
def test_intervals_cover_the_truth_about_as_often_as_they_say(count: int) -> None:
    draw = np.random.default_rng(1)
    skewed, normal = draw.exponential(size=(DRAWS, count)), draw.normal(5, 1, size=(DRAWS, count))
    assert ALLOWED[0] <= hits(lambda values: interval(list(values)), skewed, np.log(2)) <= ALLOWED[1]
    assert ALLOWED[0] <= hits(lambda values: mean_interval(list(values)), normal, 5.0) <= ALLOWED[1]


def test_the_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says() -> None:
    """Pairs share what makes a request slow: their ratio is 3 however much that scatters."""
    draw = np.random.default_rng(2)
    shared, own = draw.lognormal(0, 1, (DRAWS, 10)), draw.lognormal(0, 0.05, (DRAWS, 2, 10))
    pairs = [(3 * hard * noise[0], hard * noise[1]) for hard, noise in zip(shared, own, strict=True)]
    found = [paired_ratio(dict(enumerate(a)), dict(enumerate(b)))["ci95"] for a, b in pairs]
    assert ALLOWED[0] <= sum(low <= 3 <= high for low, high in found) / DRAWS <= ALLOWED[1]
    assert max(high - low for low, high in found) < 0.6  # what is shared is not in it
    apart = [unpaired_ratio(list(a), list(b))["ci95"] for a, b in pairs]
    assert np.median([high - low for low, high in apart]) > 2


def test_latencies_that_are_exactly_doubled_have_a_ratio_of_two_without_doubt() -> None:
    once = {request: 0.1 + request % 7 / 10 for request in range(20)}
    twice = {request: 2 * seconds for request, seconds in once.items()}
    found = paired_ratio(twice, once)
    assert found["ratio"] == pytest.approx(2) and found["ci95"] == pytest.approx([2, 2]) and found["n"] == 20
    back = paired_ratio(once, twice)
    assert back["ratio"] == pytest.approx(1 / 2) and back["ci95"] == pytest.approx([1 / 2, 1 / 2])


def test_only_requests_that_both_have_are_paired() -> None:
    found = paired_ratio({1: 4.0, 2: 9.0, 3: 1.0}, {2: 1.0, 3: 1.0, 4: 7.0})
    assert (found["ratio"], found["n"], found["ci95"]) == (pytest.approx(3.0), 2, [None, None])
    assert paired_ratio({1: 1.0}, {2: 1.0}) == {"ratio": None, "ci95": [None, None], "n": 0}
    assert paired_ratio({1: 0.0, 2: 6.0}, {1: 1.0, 2: 2.0})["n"] == 1


def test_an_unpaired_ratio_is_that_of_the_medians() -> None:
    found = unpaired_ratio([4.0, 1.0, 100.0], [2.0, 2.0, 2.0, 2.0])
    assert found == {"ratio": 2.0, "ci95": [0.5, 50.0], "n": 3}
    assert unpaired_ratio([], [1.0]) == {"ratio": None, "ci95": [None, None], "n": 0}


def test_ratios_have_a_geometric_mean() -> None:
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert geometric_mean([]) is None


@pytest.mark.parametrize(
    ("count", "p95", "p99"), [(19, False, False), (20, True, False), (499, True, False), (500, True, True)]
)
def test_a_percentile_needs_enough_requests(count: int, p95: bool, p99: bool) -> None:
    found = spread([float(number) for number in range(count)])
    assert found["n"] == count
    assert found["p95"] == (pytest.approx(0.95 * (count - 1)) if p95 else None)
    assert found["p99"] == (pytest.approx(0.99 * (count - 1)) if p99 else None)


def test_no_outlier_is_dropped() -> None:
    found = spread([1.0] * 19 + [100.0])
    assert (found["p95"], found["mean"], found["n"]) == (pytest.approx(5.95), pytest.approx(5.95), 20)


def test_what_is_far_outside_is_named_and_what_does_not_matter_is_not() -> None:
    around = {number: 1 + number / 100 for number in range(10)}  # quartiles 4.5 % apart
    assert far_outside({**around, "late": 1.25, "early": 0.8}) == ["late", "early"]
    assert far_outside({**around, "late": 1.15}) == []
    assert far_outside({**dict.fromkeys(range(9), 1.0), 9: 1.04}) == []  # beyond every quartile, by 4 %
    assert far_outside({}) == []
