"""Which token comes next: drawn from its logits, the same on every machine that has the same logits.

A draw is the largest of logits to which noise was added (Gumbel's; Maddison et al., "A* Sampling", 2014, section 2), so
that a drawn token, like a greedy one, differs by rounding only where two were as good as equal.
"""

from __future__ import annotations

from math import inf

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
        logits = logits.cpu()  # drawn on the CPU: a GPU's generator gives other numbers
        return _largest(self._noisy(logits), logits, self._bounds(logits)[0])

    def lead(self, logits: Tensor) -> float:
        """In place of a draw: by how much the token that it takes is ahead, in the unit of the logits.

        Errors of the logits below half of it change nothing: no other of the top_k gets ahead, none that was left
        out comes in and is ahead, and the token itself is not left out.
        """
        logits = logits.cpu()
        noisy, (last, left_out) = self._noisy(logits), self._bounds(logits)
        token = _largest(noisy, logits, last)
        ahead = torch.maximum(noisy[token] - noisy, last - logits)
        ahead[token] = logits[token] - left_out
        return float(ahead.min())

    def _noisy(self, logits: Tensor) -> Tensor:
        """What the next token is the largest of, [vocabulary]: logits as they are if greedy."""
        if self._how.temperature is None:
            return logits
        noise = -torch.empty_like(logits).exponential_(generator=self._generator).log()
        return logits + self._how.temperature * noise

    def _bounds(self, logits: Tensor) -> tuple[float, float]:
        """The logit of the last of the top_k, and that of the first that is left out."""
        kept = len(logits) if self._how.top_k is None else self._how.top_k
        ordered: list[float] = logits.topk(min(kept + 1, len(logits))).values.tolist()
        return (*ordered, -inf)[kept - 1], (*ordered, -inf)[kept]


def _largest(noisy: Tensor, logits: Tensor, least: float) -> int:
    """Where noisy is largest among those whose logit is not below the least."""
    return int(noisy.masked_fill(logits < least, -inf).argmax())
