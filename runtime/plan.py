"""Who holds what: a `Plan` is one `Share` of the box tokens x layers x heads per device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal


@dataclass(frozen=True)
class Span:
    """Half-open range `[start, stop)`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self) -> slice:
        """The same range as a Python slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Share:
    """One device's part. Every method is a way to cut this box.

    tokens: content tokens (a model's class token is not counted here); layers: Transformer layers; heads: attention
    heads, and in the same proportion hidden units and features.
    """

    rank: int
    host: str
    tokens: Span
    layers: Span
    heads: Span


@dataclass(frozen=True)
class Generation:
    """How a causal model goes on after the prompt: so many new tokens, whatever they are; none ends it before.

    temperature: what logits are divided by before a token is drawn; None: greedy, the likeliest is taken. top_k: only
    the k likeliest are drawn from; None: all. seed: each request begins with it anew, so that a prompt has one
    continuation.
    """

    tokens: int
    temperature: float | None = None
    top_k: int | None = None
    seed: int = 0

    @property
    def words(self) -> str:
        """ "32 tokens, greedy", "8 tokens, temperature 0.8, top_k 40, seed 1"."""
        drawn = [("temperature", self.temperature), ("top_k", self.top_k), ("seed", self.seed)]
        how = [f"{name} {value:g}" for name, value in drawn if value is not None]
        return f"{self.tokens} tokens, {'greedy' if self.temperature is None else ', '.join(how)}"


@dataclass(frozen=True)
class Plan:
    """A method, its options, one share per rank. `source` is the rank at which requests enter and results return.

    input_at: "source", which hands the input out, or "everywhere": each device has it, and is only told to begin.
    generation: what follows the prompt; None: nothing does.
    """

    method: str
    shares: tuple[Share, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    source: int = 0
    input_at: Literal["source", "everywhere"] = "source"
    generation: Generation | None = None

    @property
    def world(self) -> int:
        """Number of devices."""
        return len(self.shares)

    @property
    def tokens(self) -> int:
        """Content tokens of a request."""
        return max(share.tokens.stop for share in self.shares)


def even_spans(total: int, parts: int) -> list[Span]:
    """Cut `[0, total)` into `parts` consecutive spans whose lengths differ by at most one, longer ones first."""
    short, longer = divmod(total, parts)
    bounds = [0]
    for part in range(parts):
        bounds.append(bounds[-1] + short + (part < longer))
    return [Span(a, b) for a, b in pairwise(bounds)]
