"""Sequence parallelism as in Voltage (ICDCS 2024): each device holds all weights and its share of the tokens.

Once per layer the attention inputs are all-gathered; keys and values of all positions are computed from them on every
device. They are sent after the norm, not before it: as many bytes, one norm less for the receivers. They travel while
the device computes with its own tokens. Every device gets every slice, also in causal models, as published. They may be
sent as integers ("sequence+int8"), the class token like any other position, K and V with scales of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from runtime.collectives import Exchange, Pending
from runtime.layer import Context, Layer, Part
from runtime.methods.coding import CODECS, CodecOptions, coder
from runtime.methods.method import Method, first_position, rows
from runtime.methods.split import SplitOptions
from runtime.plan import Plan
from runtime.shape import Shape


@dataclass(frozen=True)
class SequenceOptions(CodecOptions, SplitOptions):
    """gather: "input" sends what K and V are computed from, "kv" K and V themselves (smaller for grouped queries);
    codec: how they travel."""

    gather: str = "input"

    def __post_init__(self) -> None:
        CodecOptions.__post_init__(self)
        SplitOptions.__post_init__(self)
        if self.gather not in ("input", "kv"):
            raise ValueError(f'gather is "input" or "kv", not {self.gather!r}')

    @property
    def pieces(self) -> int:
        """Vectors per position: one input, or K and V."""
        return 1 if self.gather == "input" else 2


class Sequence(Method):
    """T/N tokens per device; the class token goes with the first of them and is sent like any other position."""

    Options = SequenceOptions
    cuts = "tokens"
    generates = True

    @classmethod
    def payload_bytes(cls, shape: Shape, options: SequenceOptions, plan: Plan, rank: int) -> int:
        """(N-1) · L · T_r·D·b, T_r the positions of this device; with K and V gathered 2·KV width in place of D."""
        width = shape.width if options.gather == "input" else shape.kv_width
        vectors = rows(shape, plan.shares[rank].tokens) * options.pieces
        return (plan.world - 1) * shape.layers * CODECS[options.codec].packed_bytes(vectors, width)

    def context(self, exchange: Exchange) -> Context:
        return GatheredContext(self, exchange)


class GatheredContext(Context):
    """Everything that other devices hold, as it came."""

    def __init__(self, method: Sequence, exchange: Exchange) -> None:
        self._exchange, self._gather, self._rank = exchange, method.options.gather, method.rank
        self._model, shape, shares = method.model, method.model.shape, method.plan.shares
        width = shape.width if self._gather == "input" else 2 * shape.kv_width
        self._sizes = [(rows(shape, share.tokens), width) for share in shares]
        self._starts = [first_position(shape, share.tokens) for share in shares]
        self._coder = coder(method, method.options.pieces)
        self._pending: Pending

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        if self._gather == "input":
            self._send(layer.index, h)

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        if self._gather == "kv":
            self._send(layer.index, self._model.joined([k, v], -1))

    def _send(self, index: int, x: Tensor) -> None:
        self._pending = self._exchange.all_gather(index, self._coder.pack(index, x))

    def parts(self, layer: Layer) -> Iterable[Part]:
        came = self._pending.wait()
        groups = neighbours(layer, self._rank, came)
        seen = {rank: came[rank] for ranks in groups for rank in ranks}
        received = self._coder.unpack(layer.index, seen, self._sizes)
        for ranks in groups:
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
