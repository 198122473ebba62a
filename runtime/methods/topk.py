"""Plain top-k sparsification: tokens are split, and devices send only the largest features of each token's layer input.

The simplest lossy rival of codes, in ASTRA's seat: the same tokens per device, the layer input after its norm, a class
token of its own on every device that is never sent, and in causal models later devices alone are sent anything. The
receivers fill what was not sent with zeros, and compute keys and values from that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from runtime.codecs.topk import LargestFeatures
from runtime.collectives import Exchange
from runtime.layer import Context, Layer, Part
from runtime.methods.coding import Audience, audience, whole
from runtime.methods.method import Method
from runtime.methods.sequence import neighbours
from runtime.methods.split import SplitOptions
from runtime.plan import Plan
from runtime.shape import Shape


@dataclass(frozen=True)
class TopKOptions(SplitOptions):
    """keep: how many features of each token are sent."""

    keep: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("keep", self.keep)


class TopK(Method):
    """T/N content tokens per device, all weights on each."""

    Options = TopKOptions
    cuts = "tokens"
    equals_single = False
    own_class_token = True
    generates = True

    @classmethod
    def refuse(cls, shape: Shape, options: TopKOptions, devices: int) -> str | None:
        if options.keep > shape.width:
            return f"keep {options.keep} is more than the {shape.width} features of a token"
        return None

    @classmethod
    def payload_bytes(cls, shape: Shape, options: TopKOptions, plan: Plan, rank: int) -> int:
        """(N-1) · L · (2·T_r·k + ceil(T_r·k·ceil(log2 D) / 8)), T_r content tokens; causal: to later devices only."""
        once = LargestFeatures(options.keep).packed_bytes(len(plan.shares[rank].tokens), shape.width)
        return len(audience(shape, plan, rank)) * shape.layers * once

    @property
    def start(self) -> int:
        """Position of the first row; a class token's copy stands before it without a place in the order."""
        return self.share.tokens.start

    def context(self, exchange: Exchange) -> Context:
        return SparseContext(self, exchange)


class SparseContext(Context):
    """What other devices' tokens look like when only their largest features came."""

    def __init__(self, method: TopK, exchange: Exchange) -> None:
        self._method, self._shape = method, method.model.shape
        self._audience = Audience(method, exchange, LargestFeatures(method.options.keep))
        self._sizes = [(len(share.tokens), self._shape.width) for share in method.plan.shares]

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        self._audience.show(layer.index, h[self._shape.prefix :])

    def parts(self, layer: Layer) -> Iterable[Part]:
        seen = self._audience.seen(layer.index, self._sizes)
        for ranks in neighbours(layer, self._method.rank, seen):
            with layer.stages("expand", layer.index):
                k, v = layer.keys_values(self._method.model.joined([seen[rank] for rank in ranks]))
                part = layer.part(k, v, self._method.plan.shares[ranks[0]].tokens.start)
            yield part
