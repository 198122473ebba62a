"""How content tokens are dealt out to devices: evenly, or in declared proportions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Final

from runtime.plan import Span, even_spans

_SPLIT: Final = re.compile(r"(\d+(?:\.\d+)?)(/(\d+(?:\.\d+)?))*", re.ASCII)


@dataclass(frozen=True)
class SplitOptions:
    """split: proportions in which devices hold the tokens, in the order of their ranks, "3/2/1"; None: evenly."""

    split: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.split is not None:
            shares(self.split)


def shares(split: object) -> list[Fraction]:
    """ "3/2/1" -> [3, 2, 1]. A text, for a list stands for several methods in a sweep. Raises ValueError."""
    if not isinstance(split, str) or not _SPLIT.fullmatch(split):
        raise ValueError(f'split is one share above 0 for each device, e.g. "3/2/1", not {split!r}')
    found = [Fraction(share) for share in split.split("/")]
    if not all(found):
        raise ValueError(f'split is one share above 0 for each device, e.g. "3/2/1", not {split!r}: one is 0')
    return found


def spans(total: int, devices: int, split: str | None) -> list[Span]:
    """Cut `[0, total)` into one consecutive span per device, as near to the shares as whole numbers are.

    What is left when all are rounded down goes to the largest remainders, the first among equals, so that equal shares
    are `even_spans`.
    """
    if split is None:
        return even_spans(total, devices)
    wanted = shares(split)
    exact = [total * share / sum(wanted) for share in wanted]
    sizes = [int(one) for one in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda rank: sizes[rank] - exact[rank])
    for rank in by_remainder[: total - sum(sizes)]:
        sizes[rank] += 1
    return [Span(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def refusal(split: str, devices: int, content: Sequence[Span]) -> str | None:
    """Why content tokens [spans by rank] cannot be dealt out so to that many devices, or None."""
    if (count := len(shares(split))) != devices:
        return f"split {split} has {count} share{'s' * (count > 1)} for {devices} devices"
    return None if all(content) else f"split {split} leaves a device without a token"
