"""Segment means after PRISM (arXiv 2507.12145): tokens are split, and devices send means of their tokens' layer inputs.

Once per layer a device cuts its tokens into L segments of consecutive ones and sends the mean of each to the others,
which attend to these means in place of the tokens: L·D numbers instead of T_r·D, a compression rate of T_r / L. The
abstract has that, self-attention that computes keys and values of the means only, and a causal mask that goes by
partition; the full text was not at hand.

**decided**, as for the other methods here: what is averaged is the layer input after its norm, so that K and V of a
mean are the means of K and V; in the softmax a mean stands for all tokens of its segment, which adds log(count) to its
scores, the same as if it stood there count times; segments differ by at most one token, longer ones first; a device
with fewer tokens than segments sends each; in causal models only the means of earlier devices are seen (a segment lies
in one device, so that the mask never cuts one); every device has its own copy of the class token, which is never sent
and belongs to no segment. Under rotary positions a mean does stand there count times, each time turned to a position of
its segment; the paper has no such model. The means may be sent as integers ("prism+int8").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.collectives import Exchange
from runtime.hollow import HollowModel
from runtime.layer import Attended, Context, Layer, Part
from runtime.memory import full_bytes
from runtime.methods.coding import CODECS, Audience, Codec, CodecOptions, audience, whole
from runtime.methods.method import Method
from runtime.methods.sequence import neighbours
from runtime.methods.split import SplitOptions
from runtime.model import Model, Weights
from runtime.plan import Plan, Span, even_spans
from runtime.shape import Shape


@dataclass(frozen=True)
class PrismOptions(CodecOptions, SplitOptions):
    """segments: how many means a device sends per layer; codec: how they travel."""

    segments: int = 8

    def __post_init__(self) -> None:
        CodecOptions.__post_init__(self)
        SplitOptions.__post_init__(self)
        whole("segments", self.segments)

    @property
    def means(self) -> SegmentMeans:
        """What devices send."""
        return SegmentMeans(self.segments, CODECS[self.codec])


class SegmentMeans:
    """Rows of activations as the means of `segments` segments of them, these packed by another codec."""

    def __init__(self, segments: int, values: Codec) -> None:
        self.segments, self._values = segments, values

    def counts(self, tokens: int) -> list[int]:
        """How many tokens each mean stands for."""
        return [len(span) for span in even_spans(tokens, min(self.segments, tokens))]

    def packed_bytes(self, rows: int, width: int) -> int:
        """min(L, T)·W·4, or what the codec makes of as many rows."""
        return self._values.packed_bytes(min(self.segments, rows), width)

    def pack(self, x: Tensor) -> Tensor:
        """x [T, W] -> its means as they travel."""
        return self._values.pack(self.averages(x))

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        """What travelled -> the means [rows, W]."""
        return self._values.unpack(packed, rows, width)

    def rebuilt(self, x: Tensor) -> Tensor:
        """x [..., T, W] of one device's tokens -> each as receivers have it: the mean of its segment, as it came."""
        owner = segment_of(self.counts(x.shape[-2]), x.device)
        return self._values.rebuilt(self.averages(x)).index_select(-2, owner)

    def averages(self, x: Tensor) -> Tensor:
        """x [..., T, W] -> means [..., min(L, T), W]."""
        *more, tokens, width = x.shape
        segments = min(self.segments, tokens)
        short, longer = divmod(tokens, segments)
        edge = longer * (short + 1)
        first = x[..., :edge, :].reshape(*more, longer, short + 1, width).mean(-2)
        rest = x[..., edge:, :].reshape(*more, segments - longer, short, width).mean(-2)
        return torch.cat([first, rest], -2)


def segment_of(counts: Sequence[int], place: torch.device) -> Tensor:
    """Which mean stands for each token, int64 [T]."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(place)


@dataclass(frozen=True)
class Means(Part):
    """Keys and values of which each stands for `count` tokens."""

    count: int = 1


class MeansLayer(Layer):
    """A layer to which means may be shown: a key that stands for n tokens has log(n) added to its scores."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.shape, layer.weights, layer.rotary, layer.index)

    def attend(self, q: Tensor, part: Part, start: int) -> Attended | None:
        attended = super().attend(q, part, start)
        if attended is None or not isinstance(part, Means):
            return attended
        # All keys of a part stand for as many tokens, so that among them nothing changes.
        return Attended(attended.out, attended.logsumexp + math.log(part.count))


class Prism(Method):
    """T/N content tokens per device, all weights on each."""

    Options = PrismOptions
    cuts = "tokens"
    equals_single = False
    own_class_token = True
    generates = True

    def load_model(self, weights: Weights) -> Model:
        model = super().load_model(weights)
        hollow = isinstance(model, HollowModel)
        return model if hollow else model.with_layers([MeansLayer(layer) for layer in model.layers])

    @classmethod
    def payload_bytes(cls, shape: Shape, options: PrismOptions, plan: Plan, rank: int) -> int:
        """(N-1) · L · min(segments, T_r)·D·b, T_r content tokens; in causal models to later devices only."""
        once = options.means.packed_bytes(len(plan.shares[rank].tokens), shape.width)
        return len(audience(shape, plan, rank)) * shape.layers * once

    @classmethod
    def kept_bytes(cls, shape: Shape, options: PrismOptions, plan: Plan) -> int:
        """L · 2 · KV width · b for each mean; under rotary positions, where a mean stands at each of its tokens', for
        each token."""
        if shape.rotary:
            return super().kept_bytes(shape, options, plan)
        counts = (options.means.counts(len(share.tokens)) for share in plan.shares[:-1])
        return full_bytes(shape.layers, shape.kv_width, sum(map(len, counts)))

    @property
    def start(self) -> int:
        """Position of the first row; a class token's copy stands before it without a place in the order."""
        return self.share.tokens.start

    def context(self, exchange: Exchange) -> Context:
        return MeansContext(self, exchange)


class MeansContext(Context):
    """Other devices' tokens as the means of their segments."""

    def __init__(self, method: Prism, exchange: Exchange) -> None:
        self._method, self._shape, means = method, method.model.shape, method.options.means
        self._audience = Audience(method, exchange, means)
        self._counts = [means.counts(len(share.tokens)) for share in method.plan.shares]
        self._sizes = [(len(counts), self._shape.width) for counts in self._counts]

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        self._audience.show(layer.index, h[self._shape.prefix :])

    def parts(self, layer: Layer) -> Iterator[Part]:
        seen = self._audience.seen(layer.index, self._sizes)
        return self._weighted(layer, seen) if layer.rotary is None else self._repeated(layer, seen)

    def _weighted(self, layer: Layer, seen: Mapping[int, Tensor]) -> Iterator[Part]:
        """One key for each mean; those that stand for as many tokens are one part."""
        for count, pieces in alike({rank: self._counts[rank] for rank in seen}).items():
            with layer.stages("expand", layer.index):
                means = self._method.model.joined([seen[rank][span.slice()] for rank, span in pieces])
                k, v = layer.keys_values(means)
                part = Means(layer.split(k), layer.split(v), 0, count)  # from 0 on: before all that may see it
            yield part

    def _repeated(self, layer: Layer, seen: Mapping[int, Tensor]) -> Iterator[Part]:
        """One key for each token, at its own position."""
        for ranks in neighbours(layer, self._method.rank, seen):
            with layer.stages("expand", layer.index):
                k, v = layer.keys_values(self._method.model.joined([seen[rank] for rank in ranks]))
                owner = segment_of([count for rank in ranks for count in self._counts[rank]], k.device)
                part = layer.part(k[owner], v[owner], self._method.plan.shares[ranks[0]].tokens.start)
            yield part


def alike(counts: Mapping[int, Sequence[int]]) -> dict[int, list[tuple[int, Span]]]:
    """Counts by rank -> by count, where its means are: rank and consecutive ones of that rank."""
    found: dict[int, list[tuple[int, Span]]] = {}
    for rank, lengths in counts.items():
        for count in dict.fromkeys(lengths):  # at most two lengths, each of neighbours
            first = lengths.index(count)
            found.setdefault(count, []).append((rank, Span(first, first + lengths.count(count))))
    return found
