"""Pipeline parallelism: consecutive layers per device, one request in flight, activations handed on once per stage."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from runtime.collectives import Exchange
from runtime.methods.method import FLOAT_BYTES, Method, positions
from runtime.plan import Plan
from runtime.shape import Shape


class Pipeline(Method):
    """Rank r is stage r; the last stage holds the result."""

    cuts = "layers"

    @classmethod
    def refuse(cls, shape: Shape, options: Any, devices: int) -> str | None:
        return f"{shape.layers} layers are too few for {devices} stages" if devices > shape.layers else None

    @classmethod
    def payload_bytes(cls, shape: Shape, options: Any, plan: Plan, rank: int) -> int:
        """T·D·b from every stage but the last; T counts the class token."""
        return 0 if rank == plan.world - 1 else positions(shape, plan) * shape.width * FLOAT_BYTES

    def forward(self, x: Tensor, exchange: Exchange) -> Tensor:
        if self.rank > 0:
            x = exchange.receive_from(self.share.layers.start, [self.rank - 1])[self.rank - 1]
        x = super().forward(x, exchange)
        if self.rank < self.plan.world - 1:
            exchange.send_to(self.share.layers.stop, [self.rank + 1], x)
        return x
