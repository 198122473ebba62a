"""What a model needs of its data, and what all kinds of data do alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.shape import Shape
from testbed.inputs import BadInputs

LIMIT = "?limit="
DIGEST_BYTES = 16


Only = Callable[[int], Sequence[int]]
Told = Callable[[int, int], None]


def unheard(done: int, of: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Wanted:
    """tokens: content tokens of a request. folder: a converted model, for its tokenizer.

    only: which of so many rows to test on are read, and none to train on; None: all of both. told: of how many pictures
    are read, of how many.
    """

    shape: Shape
    tokens: int
    folder: Path | None
    seed: int
    only: Only | None = None
    told: Told = unheard


def limited(place: str) -> tuple[str, int | None]:
    """ "~/photos?limit=500" -> ("~/photos", 500): a place, and how many rows at most. Raises BadInputs."""
    where, given, limit = place.partition(LIMIT)
    if not given:
        return place, None
    if not where or not limit.isdecimal() or int(limit) < 1:
        raise BadInputs(f"a limit is a whole number above 0, as in {where or 'FOLDER'}{LIMIT}1000")
    return where, int(limit)


def some(count: int, limit: int | None, seed: int) -> list[int]:
    """Which of `count` rows to keep, in their order: all, or a seeded choice of `limit`."""
    if limit is None or limit >= count:
        return list(range(count))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit]
    return sorted(int(i) for i in chosen)


def unseen(train: Tensor, test: Tensor) -> Tensor:
    """Which rows of `train` equal none of `test`: bool [n]."""
    held_out = {_digest(row) for row in test}
    return torch.tensor([_digest(row) not in held_out for row in train], dtype=torch.bool)


def digests(rows: Tensor) -> Tensor:
    """What tells rows from each other: uint8 [n, 16]."""
    return torch.tensor([list(_digest(row)) for row in rows], dtype=torch.uint8).view(len(rows), DIGEST_BYTES)


def _digest(row: Tensor) -> bytes:
    return hashlib.blake2b(row.numpy().tobytes(), digest_size=DIGEST_BYTES).digest()
