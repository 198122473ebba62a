"""testbed.prepare.similarity: how alike embeddings order sentences, against what can be counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from testbed.prepare.similarity import interval, rank_correlation


def rows(seed: int, noise: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(40, 8, generator=draw)
    return clean + noise * torch.randn(40, 8, generator=torch.Generator().manual_seed(seed))


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


def test_the_interval_is_over_sentences() -> None:
    one, other = rows(1), rows(1, 0.5)
    low, high = interval(one, other)
    assert low < rank_correlation(one, other) < high < 1
    assert interval(one, other) == (low, high)
    assert interval(one, one)[0] == pytest.approx(1.0, abs=1e-6)
