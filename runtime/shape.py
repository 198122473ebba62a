"""The numbers that describe one Transformer, whatever its family: all a planner or a byte formula needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Shape:
    """Sizes and switches of a model.

    layers L, width D, heads H, kv_heads (fewer than heads: grouped queries), head_dim, hidden F; norm_first: pre-norm
    (else post-norm as in BERT); gated: `down(act(gate x) * up x)`; rotary: rotary positions, else learned ones are
    added to the embedding. embedding: "patches" of an image or "tokens" of a text. class_token: one extra first
    position that is not content. max_tokens: most content tokens, None where positions are interpolated or rotary.
    readout: what the head reads: the "first" position, the "last" one, or the "mean" over content.
    outputs: length of the result, which is scores of "classes", of next "tokens", or an "embedding".
    untrained: weights are random.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6
    norm_first: bool = True
    activation: str = "gelu"
    gated: bool = False
    causal: bool = False
    rotary: bool = False
    rotary_scale: float = 1.0
    embedding: Literal["patches", "tokens"] = "tokens"
    patch: int = 0
    channels: int = 3
    vocabulary: int = 0
    class_token: bool = False
    max_tokens: int | None = None
    readout: Literal["first", "last", "mean"] = "last"
    normalize: bool = False
    outputs: int = 0
    result: Literal["classes", "tokens", "embedding"] = "embedding"
    untrained: bool = False

    @property
    def prefix(self) -> int:
        """Positions before the content tokens: 1 with a class token, else 0."""
        return int(self.class_token)

    @property
    def kv_width(self) -> int:
        """Width of K (and of V) of one token."""
        return self.kv_heads * self.head_dim

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `Shape(**d)` reads it back."""
        return asdict(self)


def grid(tokens: int) -> tuple[int, int]:
    """Rows and columns of an image's patch grid, as square as `tokens` allows: 196 -> (14, 14), 512 -> (16, 32)."""
    rows = max(r for r in range(1, int(tokens**0.5) + 1) if tokens % r == 0)
    return rows, tokens // rows


def is_strip(tokens: int) -> bool:
    """Whether the grid of so many patches is no picture any more: a prime number of them is a single row."""
    rows, columns = grid(tokens)
    return columns > 4 * rows
