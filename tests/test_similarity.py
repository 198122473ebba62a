"""testbed.prepare.similarity: how alike embeddings order sentences, against what can be counted by hand."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr
from torch import Tensor
from torch.nn.functional import cosine_similarity

from testbed.prepare.similarity import interval, rank_correlation


def rows(seed: int, noise: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(40, 8, generator=draw)
    return clean + noise * torch.randn(40, 8, generator=torch.Generator().manual_seed(seed))


def bounds(found: tuple[float, float] | None) -> tuple[float, float]:
    assert found is not None
    return found


def test_it_is_the_correlation_of_the_ranks_of_all_pairs() -> None:
    one, other = rows(1), rows(1, 0.5)
    pairs = list(itertools.combinations(range(len(one)), 2))
    ranks = []
    for x in (one, other):
        cosines = [float(cosine_similarity(x[a], x[b], 0)) for a, b in pairs]
        order = sorted(range(len(pairs)), key=cosines.__getitem__)
        ranks.append([place for _, place in sorted(zip(order, range(len(pairs)), strict=True))])
    apart = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
    n = len(pairs)
    assert rank_correlation(one, other) == pytest.approx(1 - 6 * apart / (n * (n * n - 1)), abs=1e-4)


def test_length_and_rotation_of_embeddings_change_nothing() -> None:
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))[0]
    assert rank_correlation(rows(1), 7 * rows(1) @ turned) == pytest.approx(1.0, abs=1e-4)
    assert rank_correlation(rows(1), torch.randn(40, 8, generator=torch.Generator().manual_seed(5))) < 0.3


@pytest.mark.parametrize("each", [1, 4])
def test_the_interval_is_that_of_every_draw_ranked_anew(each: int) -> None:
    """Written out: the pairs of what was drawn, but none between two copies of the same. each: so many sentences of a
    file are drawn together."""
    data = rows(1), rows(1, 0.5)
    tables = [cosine_similarity(x[:, None], x[None], -1).numpy() for x in data]

    def ranked(drawn: NDArray[np.int64]) -> float:
        sentences = [(copy, file, each * file + i) for copy, file in enumerate(drawn) for i in range(each)]
        both = itertools.combinations(sentences, 2)
        pairs = [(a[2], b[2]) for a, b in both if a[0] == b[0] or a[1] != b[1]]
        first, second = np.array(pairs).T
        return float(spearmanr(*(table[first, second] for table in tables)).statistic)

    numbers, draw = (np.arange(len(data[0]) // each),), np.random.default_rng(0)
    found = bootstrap(numbers, ranked, n_resamples=1000, vectorized=False, method="percentile", rng=draw)
    origins = torch.arange(len(data[0])) // each
    assert bounds(interval(*data, origins)) == pytest.approx(tuple(found.confidence_interval), abs=1e-4)


def test_the_interval_is_over_sentences() -> None:
    one, other = rows(1), rows(1, 0.5)
    low, high = bounds(interval(one, other))
    assert low < rank_correlation(one, other) < high < 1
    assert interval(one, other) == (low, high)
    assert interval(one, one) == pytest.approx((1.0, 1.0), abs=1e-6)


def test_few_sentences_have_no_interval_and_a_few_more_have_one_without_a_warning() -> None:
    one, other = rows(1), rows(1, 0.5)
    assert interval(one[:9], other[:9]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bounds(interval(one[:10], other[:10]))
    assert -1 <= low < high <= 1
