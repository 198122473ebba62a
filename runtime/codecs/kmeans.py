"""k-means in fp32 for many small problems at once: one per group of a grouped codebook.

Written here because every library solves one problem at a time, and 12 layers x 32 groups of them took minutes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SEED_ROUNDS = 16
PIECE = 512


def kmeans(x: Tensor, codewords: int, iterations: int = 8, seed: int = 0) -> Tensor:
    """Centres [G, K, d] of points x [G, n, d]. Raises ValueError if there are fewer points than codewords.

    Seeding draws K points in 16 rounds, each with probability proportional to the squared distance to the nearest one
    drawn in earlier rounds (scalable k-means++, Bahmani et al. 2012, with K points in all); then Lloyd's iterations. A
    centre that loses all its points moves to the point that is worst served.
    """
    groups, points, _ = x.shape
    if points < codewords:
        raise ValueError(f"{points} sample vectors are too few for {codewords} codewords")
    generator = torch.Generator().manual_seed(seed)
    centres = _seeds(x, codewords, generator)
    for _ in range(iterations):
        distance, owner = nearest(x, centres)
        sums = torch.zeros_like(centres).scatter_add_(1, owner.unsqueeze(-1).expand_as(x), x)
        counts = torch.zeros(groups, codewords).scatter_add_(1, owner, torch.ones(groups, points))
        centres = sums / counts.clamp_min(1).unsqueeze(-1)
        _reseed(x, centres, counts, distance)
    return centres


def _seeds(x: Tensor, codewords: int, generator: torch.Generator) -> Tensor:
    groups, points, _ = x.shape
    per_round = -(-codewords // SEED_ROUNDS)
    chosen = torch.multinomial(torch.ones(groups, points), min(per_round, codewords), generator=generator)
    distance = torch.full((groups, points), float("inf"))
    fresh = chosen
    while chosen.shape[1] < codewords:
        distance = torch.minimum(distance, nearest(x, _take(x, fresh))[0])
        # Duplicated points have distance 0: a floor lets them be drawn once nothing farther away is left.
        weights = (distance + 1e-12 * (1 + distance.max())).scatter(1, chosen, 0.0)
        fresh = torch.multinomial(weights, min(per_round, codewords - chosen.shape[1]), generator=generator)
        chosen = torch.cat([chosen, fresh], 1)
    return _take(x, chosen)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to, and index of, the nearest centre of each point, on the CPU: [G, n] both."""
    # NumPy's products of few features and its argmax along rows take a sixth of what torch's do here. In one product:
    # x·e - |e|²/2, the largest of which is the nearest.
    points = torch.cat([x, x.new_full((*x.shape[:2], 1), -1.0)], -1).numpy()
    half_squares = centres.square().sum(-1, keepdim=True).mul_(0.5)
    factors = torch.cat([centres, half_squares], -1).transpose(1, 2).contiguous().numpy()
    scores, index = np.empty(points.shape[:2], np.float32), np.empty(points.shape[:2], np.int64)
    table = np.empty((min(PIECE, points.shape[1]), centres.shape[1]), np.float32)
    for group in range(len(points)):
        # In pieces whose scores stay in the cache: whole, the table of all scores is 0.5 GB and memory sets the pace.
        for piece in range(0, points.shape[1], PIECE):
            rows = slice(piece, piece + PIECE)
            some = points[group, rows]
            part = table[: len(some)]
            np.dot(some, factors[group], out=part)
            found = index[group, rows] = part.argmax(-1)
            scores[group, rows] = part[np.arange(len(some)), found]
    distance = x.square().sum(-1) - 2 * torch.from_numpy(scores)
    return distance.clamp_min_(0), torch.from_numpy(index)


def _reseed(x: Tensor, centres: Tensor, counts: Tensor, distance: Tensor) -> None:
    for group in range(x.shape[0]):
        empty = (counts[group] == 0).nonzero().flatten()
        if len(empty):
            centres[group, empty] = x[group, distance[group].topk(len(empty)).indices]
