"""Block parallelism after DeTransformer (DATE 2024): decoupled layers that exchange at a few joins only.

Each device runs H/N heads and F/N hidden units on all tokens with a private residual stream of width D. At each of the
joins, which are the last layers of equally long blocks, every device contributes its D/N slice of features; the slices
are all-gathered to T x D, and one full layer runs on them: on every device ("ag"), or split by tokens with a second
exchange ("sp"). The original text was not at hand: this cut is the one that explains the published compute times (one
full layer in 12 and 11 at a quarter of the cost). It changes the function: without training the output is not the
model's, and the fidelity figures show it. What is exchanged may travel as integers ("block+int8"); a device knows its
own slice at full precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from runtime.collectives import Exchange
from runtime.layer import Given, Layer, Part
from runtime.methods.coding import CODECS, CodecOptions, coder
from runtime.methods.method import Method, indivisible_heads, positions
from runtime.model import Model, Weights
from runtime.plan import Plan, Span, even_spans
from runtime.shape import Shape


@dataclass(frozen=True)
class BlockOptions(CodecOptions):
    """joins: how often devices exchange; exchange: "ag" runs a joined layer everywhere, "sp" splits it by tokens;
    codec: how activations travel."""

    joins: int = 1
    exchange: str = "ag"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.joins, int) or isinstance(self.joins, bool) or self.joins < 1:
            raise ValueError(f"joins is a whole number of at least 1, not {self.joins!r}")
        if self.exchange not in ("ag", "sp"):
            raise ValueError(f'exchange is "ag" or "sp", not {self.exchange!r}')


class Block(Method):
    """Heads are dealt out as in tensor parallelism, but partial sums are never made whole between joins."""

    Options = BlockOptions
    cuts = "heads"
    equals_single = False

    def load_model(self, weights: Weights) -> Model:
        """Layers cut to this device's heads, but whole where devices join (and with one device, everywhere)."""
        model = weights.load(heads=self.share.heads)
        layers = list(model.layers)
        for index in joined_layers(model.shape.layers, self.options.joins):
            layers[index] = weights.load(layers=Span(index, index + 1)).layers[0]
        return model.with_layers(layers)

    @classmethod
    def refuse(cls, shape: Shape, options: BlockOptions, devices: int) -> str | None:
        if options.joins > shape.layers:
            return f"{options.joins} joins are too many for {shape.layers} layers"
        return indivisible_heads(shape, devices)

    @classmethod
    def payload_bytes(cls, shape: Shape, options: BlockOptions, plan: Plan, rank: int) -> int:
        """(N-1) · Nb · T·(D/N)·b, and as much again for the outputs with "sp"; T counts the class token."""
        total, codec = positions(shape, plan), CODECS[options.codec]
        sent = codec.packed_bytes(total, len(even_spans(shape.width, plan.world)[rank]))
        if options.exchange == "sp":
            sent += codec.packed_bytes(len(even_spans(total, plan.world)[rank]), shape.width)
        return (plan.world - 1) * options.joins * sent

    def forward(self, x: Tensor, exchange: Exchange) -> Tensor:
        joined = joined_layers(self.model.shape.layers, self.options.joins)
        for layer in self.model.layers:
            if layer.index not in joined:
                x = layer(x)
                continue
            x = self._join(layer.index, x, exchange)
            x = layer(x) if self.options.exchange == "ag" else self._by_tokens(layer, x, exchange)
        return x

    def _join(self, index: int, x: Tensor, exchange: Exchange) -> Tensor:
        """Private streams [S, D] -> one stream, each device giving its slice of features."""
        spans = even_spans(x.shape[1], self.plan.world)
        mine = x[:, spans[self.rank].slice()].contiguous()
        slices = self._gathered(exchange, index, mine, [(x.shape[0], len(span)) for span in spans])
        with self.stages("join", index):
            return self.model.joined([slices[rank] for rank in range(self.plan.world)], -1)

    def _by_tokens(self, layer: Layer, x: Tensor, exchange: Exchange) -> Tensor:
        """One full layer, each device computing its span of positions only, then all-gathered."""
        spans = even_spans(x.shape[0], self.plan.world)
        span = spans[self.rank]
        mine = layer(x[span.slice()], span.start, Given(*parts_outside(layer, x, span)))
        outputs = self._gathered(exchange, layer.index, mine, [(len(span), x.shape[1]) for span in spans])
        with self.stages("join", layer.index):
            return self.model.joined([outputs[rank] for rank in range(self.plan.world)])

    def _gathered(
        self, exchange: Exchange, index: int, mine: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> dict[int, Tensor]:
        """What every rank has, by rank; sizes: its rows and width."""
        code = coder(self)
        came = exchange.all_gather(index, code.pack(index, mine)).wait()
        return code.unpack(index, came, sizes) | {self.rank: mine}


def parts_outside(layer: Layer, x: Tensor, mine: Span) -> Iterator[Part]:
    """Positions before and behind a device's own span, of a stream x [S, D] that it knows whole."""
    behind = Span(mine.stop, x.shape[0])
    for span in (Span(0, mine.start), behind):
        if len(span) and not (layer.shape.causal and span is behind):
            with layer.stages("expand", layer.index):
                part = layer.part(*layer.keys_values(layer.attention_input(x[span.slice()])), span.start)
            yield part


def joined_layers(layers: int, joins: int) -> set[int]:
    """The last layer of each of `joins` blocks of equal length, so that the model's output is joined."""
    return {span.stop - 1 for span in even_spans(layers, joins)}
