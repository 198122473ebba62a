"""Sequence parallelism as in Voltage (ICDCS 2024): each device holds all weights and its share of the tokens.

Once per layer the attention inputs are all-gathered; keys and values of all positions are computed from them on every
device. They are sent after the norm, not before it: as many bytes, one norm less for the receivers. They travel while
the device computes with its own tokens. Every device gets every slice, also in causal models, as published.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from runtime.collectives import Exchange, Pending
from runtime.layer import Context, Layer, Part
from runtime.methods.method import FLOAT_BYTES, Method, first_position, rows
from runtime.plan import Plan
from runtime.shape import Shape


@dataclass(frozen=True)
class SequenceOptions:
    """gather: "input" sends what K and V are computed from, "kv" K and V themselves (smaller for grouped queries)."""

    gather: str = "input"

    def __post_init__(self) -> None:
        if self.gather not in ("input", "kv"):
            raise ValueError(f'gather is "input" or "kv", not {self.gather!r}')


class Sequence(Method):
    """T/N tokens per device; the class token goes with the first of them and is sent like any other position."""

    Options = SequenceOptions
    cuts = "tokens"

    @classmethod
    def payload_bytes(cls, shape: Shape, options: SequenceOptions, plan: Plan, rank: int) -> int:
        """(N-1) · L · T_r·D·b, T_r the positions of this device; with K and V gathered 2·KV width in place of D."""
        width = shape.width if options.gather == "input" else 2 * shape.kv_width
        return (plan.world - 1) * shape.layers * rows(shape, plan.shares[rank].tokens) * width * FLOAT_BYTES

    def forward(self, x: Tensor, exchange: Exchange) -> Tensor:
        context = GatheredContext(self, exchange, self.options.gather)
        for layer in self.model.layers:
            x = layer(x, self.start, context)
        return x


class GatheredContext(Context):
    """Everything that other devices hold, at full precision."""

    def __init__(self, method: Method, exchange: Exchange, gather: str) -> None:
        self._exchange, self._gather, self._rank, self._model = exchange, gather, method.rank, method.model
        self._starts = [first_position(method.model.shape, share.tokens) for share in method.plan.shares]
        self._pending: Pending

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        if self._gather == "input":
            self._pending = self._exchange.all_gather(layer.index, h)

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        if self._gather == "kv":
            self._pending = self._exchange.all_gather(layer.index, self._model.joined([k, v], -1))

    def parts(self, layer: Layer) -> Iterable[Part]:
        received = self._pending.wait()
        for ranks in neighbours(layer, self._rank, list(received)):
            with layer.stages("expand", layer.index):
                joined = self._model.joined([received[rank] for rank in ranks])
                k, v = joined.chunk(2, -1) if self._gather == "kv" else layer.keys_values(joined)
                part = layer.part(k, v, self._starts[ranks[0]])
            yield part


def neighbours(layer: Layer, rank: int, others: Iterable[int]) -> list[list[int]]:
    """Ranks whose tokens can be treated as one part: those before, those behind, or all where order does not matter.

    Order matters to rotary positions; later tokens are hidden by the causal mask, so they are left out there.
    """
    before, behind = [r for r in others if r < rank], [r for r in others if r > rank]
    if layer.shape.causal:
        groups = [before]
    elif layer.rotary is None:
        groups = [before + behind]
    else:
        groups = [before, behind]
    return [group for group in groups if group]
