"""A grouped codebook that learns: straight-through gradients, moving averages, noise like its own residuals (NAVQ).

arXiv 2505.19342, with van den Oord et al. 2017 (VQ-VAE) for the straight-through estimator and the moving averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.codecs.kmeans import nearest
from runtime.codecs.vq import GroupedVQ

_LEAST_SHARE = 0.02  # of an even use: a codeword used less is dead. Decided; the paper says only that there are some
_ENOUGH = 16.0  # vectors that an even use would have given a codeword before it can be called dead
_SMOOTH = 1e-5  # Laplace smoothing of counts, as in VQ-VAE's published code


@dataclass(frozen=True)
class Learning:
    """noise: NAVQ's lambda, 0 for none; ema: decay of the moving averages; reseed: dead codewords are given a second
    life at vectors of the batch."""

    noise: float = 1.0
    ema: float = 0.99
    reseed: bool = True


def encode(codec: GroupedVQ, flat: Tensor) -> Tensor:
    """`codec.encode`, for the many vectors of a batch: on a CPU in pieces, 2.5 times as fast with 32 groups."""
    if flat.device.type != "cpu":
        return codec.encode(flat)
    grouped = flat.view(flat.shape[0], codec.groups, codec.group_width).transpose(0, 1).contiguous()
    return nearest(grouped, codec.codebook)[1].T


class LearnedVQ:
    """Codes vectors of one kind of one layer, while codebook and model are trained together.

    codebook [G, K, D/G]. loss: of the last call, the mean over tokens of |X - sg(X̂)|².
    """

    def __init__(self, codebook: Tensor, learning: Learning, generator: torch.Generator) -> None:
        """generator: noise and new places of dead codewords are drawn from it; of the codebook's device."""
        self._learning, self._generator = learning, generator
        groups, codewords, width = codebook.shape
        place = codebook.device
        self.state = {
            "codebook": codebook.clone(),
            "counts": torch.ones(groups, codewords, device=place),
            "sums": codebook.clone(),
            "uses": torch.zeros(groups, codewords, device=place),  # as counts, of nothing but what was seen
            "age": torch.zeros(groups, codewords, device=place),  # batches since a codeword has its place
            "mean": torch.zeros(groups * width, device=place),  # of the residuals X - X̂, by feature
            "square": torch.zeros(groups * width, device=place),
            "seen": torch.zeros((), device=place),  # weight of what both have seen, for their bias at the beginning
        }
        self.loss = torch.zeros((), device=place)

    @property
    def codebook(self) -> Tensor:
        return self.state["codebook"]

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., D] -> X̃, as other devices see it in training: X̂ and noise; gradients go to x as if nothing had been.

        Codebook and residuals learn from this batch, the codebook after it was used.
        """
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        codec = GroupedVQ(self.codebook)
        codes = encode(codec, flat)
        decoded = codec.decode(codes)
        self.loss = (x.reshape(-1, x.shape[-1]) - decoded).square().sum(-1).mean()
        self._note(flat - decoded)
        seen = decoded + self._noise(decoded)
        self._learn(flat, codes)
        return x + (seen.view_as(x) - x).detach()

    def _note(self, residuals: Tensor) -> None:
        """Mean and variance of the residuals, by feature (a diagonal covariance)."""
        state, fresh = self.state, 1 - self._learning.ema
        state["mean"].lerp_(residuals.mean(0), fresh)
        state["square"].lerp_(residuals.square().mean(0), fresh)
        state["seen"].lerp_(torch.ones_like(state["seen"]), fresh)

    def _noise(self, like: Tensor) -> Tensor:
        if not self._learning.noise:
            return torch.zeros_like(like)
        mean, square = self.state["mean"] / self.state["seen"], self.state["square"] / self.state["seen"]
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        drawn = torch.empty_like(like).normal_(generator=self._generator)
        return self._learning.noise * (mean + deviation * drawn)

    def _learn(self, flat: Tensor, codes: Tensor) -> None:
        """Codewords follow the mean of what is coded by them."""
        state, fresh = self.state, 1 - self._learning.ema
        groups, codewords, width = self.codebook.shape
        grouped = flat.view(-1, groups, width).transpose(0, 1)
        index = codes.T
        counts = torch.zeros_like(state["counts"]).scatter_add_(1, index, torch.ones_like(index, dtype=flat.dtype))
        sums = torch.zeros_like(state["sums"]).scatter_add_(1, index.unsqueeze(-1).expand_as(grouped), grouped)
        state["counts"].lerp_(counts, fresh)
        state["sums"].lerp_(sums, fresh)
        total = state["counts"].sum(1, keepdim=True)
        smooth = (state["counts"] + _SMOOTH) / (total + codewords * _SMOOTH) * total
        state["codebook"] = state["sums"] / smooth.unsqueeze(-1)
        if self._learning.reseed:
            self._reseed(grouped, counts)

    def _reseed(self, grouped: Tensor, counts: Tensor) -> None:
        """Dead codewords go to vectors of this batch [G, n, D/G], with the weight of one that is used as others are.

        Dead by what was seen since a codeword has its place: counts begin at 1, which at a decay of 0.99 hides for
        hundreds of batches that nothing came.
        """
        state, ema = self.state, self._learning.ema
        state["uses"].lerp_(counts, 1 - ema)
        state["age"] += 1
        even = grouped.shape[1] / counts.shape[1]
        dead = (state["age"] * even >= _ENOUGH) & (state["uses"] < _LEAST_SHARE * even * (1 - ema ** state["age"]))
        if not bool(dead.any()):
            return
        drawn = torch.randint(grouped.shape[1], dead.shape, generator=self._generator, device=grouped.device)
        places = grouped.gather(1, drawn.unsqueeze(-1).expand_as(state["codebook"]))
        state["codebook"] = torch.where(dead.unsqueeze(-1), places, state["codebook"])
        state["counts"] = torch.where(dead, state["counts"].mean(1, keepdim=True), state["counts"])
        state["sums"] = state["codebook"] * state["counts"].unsqueeze(-1)
        for name in ("uses", "age"):
            state[name] = state[name].masked_fill(dead, 0.0)
