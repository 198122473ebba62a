"""Codes and codebooks against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codecs.kmeans import kmeans
from runtime.codecs.vq import GroupedVQ, code_bits, pack, packed_bytes, unpack


@given(tokens=st.integers(0, 40), groups=st.integers(1, 9), bits=st.integers(1, 16), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_packing_round_trip_and_size(tokens: int, groups: int, bits: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (tokens, groups), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(tokens, groups, bits) == -(-tokens * groups * bits // 8)
    assert torch.equal(unpack(packed, tokens, groups, bits), codes)


def test_codes_are_the_nearest_codewords() -> None:
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(3, 16, 4, generator=generator)
    x = torch.randn(50, 12, generator=generator)
    codes = GroupedVQ(book).encode(x)
    for t in range(50):
        for g in range(3):
            distances = (x[t, 4 * g : 4 * g + 4] - book[g]).square().sum(-1)
            assert codes[t, g] == distances.argmin()
    rebuilt = GroupedVQ(book).decode(codes)
    assert torch.equal(rebuilt[7, 4:8], book[1, codes[7, 1]])


def test_ties_go_to_the_lowest_index() -> None:
    book = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert GroupedVQ(book).encode(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])).flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize("codewords", [0, 1, 3, 1000, 131072])
def test_codewords_are_a_power_of_two(codewords: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        code_bits(codewords)


def test_kmeans_finds_separate_clusters_in_every_group() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 8, 3, generator=generator) * 100
    points = (centres.unsqueeze(2) + torch.randn(2, 8, 20, 3, generator=generator)).reshape(2, 160, 3)
    found = kmeans(points, 8)
    assert torch.cdist(centres, found).min(-1).values.max() < 2


def test_kmeans_beats_random_codewords_and_repeats() -> None:
    points = torch.randn(1, 500, 6, generator=torch.Generator().manual_seed(0))
    found = kmeans(points, 32)

    def error(book: torch.Tensor) -> float:
        return torch.cdist(points[0], book).min(-1).values.square().mean().item()

    assert error(found[0]) < 0.9 * error(points[0, :32])
    assert torch.equal(found, kmeans(points, 32))


def test_kmeans_of_equal_points_and_of_too_few() -> None:
    assert torch.equal(kmeans(torch.ones(1, 40, 2), 32), torch.ones(1, 32, 2))
    with pytest.raises(ValueError, match="too few"):
        kmeans(torch.ones(1, 10, 2), 32)
