"""Tensor parallelism as in Megatron-LM (arXiv 1909.08053).

Queries, keys, values and the MLP's first matrix are split by output, the projections behind them by input; two ring
all-reduces per layer make the sums whole, after which biases are added once. Every device needs every input token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from runtime.collectives import Exchange, all_reduce_bytes
from runtime.methods.method import FLOAT_BYTES, Method, indivisible_heads, positions
from runtime.model import Model, Weights
from runtime.plan import Plan
from runtime.shape import Shape


class Tensor(Method):
    """1/N of the heads, hidden units and weights per device."""

    cuts = "heads"

    def load_model(self, weights: Weights) -> Model:
        return weights.load(heads=self.share.heads)

    @classmethod
    def refuse(cls, shape: Shape, options: Any, devices: int) -> str | None:
        return indivisible_heads(shape, devices)

    @classmethod
    def payload_bytes(cls, shape: Shape, options: Any, plan: Plan, rank: int) -> int:
        """L · 4(N-1)/N · T·D·b where N divides T·D; T counts the class token, as one more position that is reduced."""
        once = all_reduce_bytes(positions(shape, plan) * shape.width, FLOAT_BYTES, plan.world, rank)
        return 2 * shape.layers * once

    def forward(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        for layer in self.model.layers:
            x = layer(x, reduce=partial(exchange.all_reduce, layer.index))
        return x
