"""Tensor parallelism as in Megatron-LM (arXiv 1909.08053).

Queries, keys, values and the MLP's first matrix are split by output, the projections behind them by input; two ring
all-reduces per layer make the sums whole, after which biases are added once. Every device needs every input token.

As integers ("tensor+int8") there is no ring: it would code every sum anew at each of its N - 1 shifts. **decided**, as
in ZeRO++ (arXiv 2306.10209) and Flash Communication (arXiv 2412.04964): each device takes the sum of a span of
positions; all send it their part of these, coded once; it adds them up at full precision, codes the sum once and sends
it to all. That is as many messages and values as in the ring; and every device goes on from the same rows, bit for bit,
with what was coded of its own span too.
"""

from __future__ import annotations

from functools import partial

import torch

from runtime.collectives import Exchange, all_reduce_bytes
from runtime.methods.coding import CODECS, CodecOptions, coder
from runtime.methods.method import FLOAT_BYTES, Method, indivisible_heads, positions
from runtime.model import Model, Weights
from runtime.plan import Plan, even_spans
from runtime.shape import Shape


class Tensor(Method):
    """1/N of the heads, hidden units and weights per device."""

    Options = CodecOptions
    cuts = "heads"

    def load_model(self, weights: Weights) -> Model:
        return weights.load(heads=self.share.heads)

    @classmethod
    def refuse(cls, shape: Shape, options: CodecOptions, devices: int) -> str | None:
        return indivisible_heads(shape, devices)

    @classmethod
    def payload_bytes(cls, shape: Shape, options: CodecOptions, plan: Plan, rank: int) -> int:
        """L · 4(N-1)/N · T·D·b where N divides T·D; T counts the class token, as one more position that is reduced.

        Coded: 2 · L · (the parts of all others' spans + (N-1) times the sum of its own).
        """
        total = positions(shape, plan)
        if not options.coded:
            return 2 * shape.layers * all_reduce_bytes(total * shape.width, FLOAT_BYTES, plan.world, rank)
        codec = CODECS[options.codec]
        sizes = [codec.packed_bytes(len(span), shape.width) for span in even_spans(total, plan.world)]
        return 2 * shape.layers * (sum(sizes) - sizes[rank] + (plan.world - 1) * sizes[rank])

    def forward(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        reduce = partial(self._coded_sum, exchange) if self.options.coded else exchange.all_reduce
        for layer in self.model.layers:
            x = layer(x, reduce=partial(reduce, layer.index))
        return x

    def _coded_sum(self, exchange: Exchange, index: int, summand: torch.Tensor) -> torch.Tensor:
        """The sum [S, D] over all ranks of summands [S, D] that travel coded, the same on every rank."""
        world, rank = self.plan.world, self.rank
        if world == 1:
            return summand
        code, spans, width = coder(self), even_spans(summand.shape[0], world), summand.shape[1]
        for peer in ((rank + step) % world for step in range(1, world)):
            exchange.send_to(index, [peer], code.pack(index, summand[spans[peer].slice()]))
        came = exchange.receive_from(index, exchange.others)
        others = code.unpack(index, came, [(len(spans[rank]), width)] * world)
        with self.stages("join", index):
            mine = sum(others.values(), summand[spans[rank].slice()])
        coded = code.pack(index, mine)
        came = exchange.all_gather(index, coded).wait() | {rank: coded}
        sums = code.unpack(index, came, [(len(span), width) for span in spans])
        with self.stages("join", index):
            return self.model.joined([sums[peer] for peer in range(world)])
