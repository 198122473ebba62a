"""What a model is for, by the kind of its result: the loss it is trained with and the figure it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """loss(out, target) -> scalar. score(out, target) -> one value for each row, whose mean `figure` turns into the
    metric; better: "higher" or "lower"."""

    metric: str
    better: str
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[float], float]


def _same(value: float) -> float:
    return value


def _right(out: Tensor, target: Tensor) -> Tensor:
    return (out.argmax(-1) == target).float()


def _next_loss(out: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, -2), target.flatten().long())


def _next_scores(out: Tensor, target: Tensor) -> Tensor:
    each = F.cross_entropy(out.flatten(0, -2), target.flatten().long(), reduction="none")
    return each.view(target.shape).mean(-1)


def _cosine(out: Tensor, target: Tensor) -> Tensor:
    return F.cosine_similarity(out, target, dim=-1)


TASKS: dict[str, Task] = {
    "classes": Task("top1", "higher", F.cross_entropy, _right, _same),
    "tokens": Task("perplexity", "lower", _next_loss, _next_scores, lambda mean: float(torch.tensor(mean).exp())),
    "embedding": Task("cosine", "higher", lambda out, target: 1 - _cosine(out, target).mean(), _cosine, _same),
}
"""By `Shape.result`: classes of labelled inputs, next tokens (perplexity per token), embeddings against those of the
original."""
