"""Which token comes next: drawn from its logits, the same on every machine that has the same logits."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.plan import Generation


class Sampler:
    """Draws the tokens of one continuation. Every continuation begins with the seed anew."""

    def __init__(self, how: Generation) -> None:
        self._how, self._generator = how, torch.Generator().manual_seed(how.seed)

    def __call__(self, logits: Tensor) -> int:
        """logits [vocabulary] -> an id; of equal ones greedy sampling takes the lowest id."""
        if self._how.temperature is None:
            return int(logits.argmax())
        scores = logits.cpu() / self._how.temperature  # drawn on the CPU: a GPU's generator gives other numbers
        if self._how.top_k is not None:
            least = scores.topk(self._how.top_k).values[-1]
            scores = scores.masked_fill(scores < least, float("-inf"))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))


def lead(logits: Tensor) -> float:
    """By how much the likeliest of logits [vocabulary] is ahead of the next one: what rounding must not make up for."""
    first, second = logits.topk(2).values.tolist()
    return float(first - second)
