"""Pipeline parallelism: consecutive layers per device, one request in flight, activations handed on once per stage.

They may be handed on as integers ("pipeline+int8").
"""

from __future__ import annotations

from torch import Tensor

from runtime.collectives import Exchange
from runtime.methods.coding import CODECS, CodecOptions, coder
from runtime.methods.method import Method, positions
from runtime.plan import Plan
from runtime.shape import Shape


class Pipeline(Method):
    """Rank r is stage r; the last stage holds the result."""

    Options = CodecOptions
    cuts = "layers"

    @classmethod
    def refuse(cls, shape: Shape, options: CodecOptions, devices: int) -> str | None:
        return f"{shape.layers} layers are too few for {devices} stages" if devices > shape.layers else None

    @classmethod
    def payload_bytes(cls, shape: Shape, options: CodecOptions, plan: Plan, rank: int) -> int:
        """T·D·b from every stage but the last; T counts the class token."""
        if rank == plan.world - 1:
            return 0
        return CODECS[options.codec].packed_bytes(positions(shape, plan), shape.width)

    def forward(self, x: Tensor, exchange: Exchange) -> Tensor:
        code, before, layers = coder(self), self.rank - 1, self.share.layers
        if self.rank > 0:
            came = exchange.receive_from(layers.start, [before])
            size = positions(self.model.shape, self.plan), self.model.shape.width
            x = code.unpack(layers.start, came, [size] * self.plan.world)[before]
        x = super().forward(x, exchange)
        if self.rank < self.plan.world - 1:
            exchange.send_to(layers.stop, [self.rank + 1], code.pack(layers.stop, x))
        return x
