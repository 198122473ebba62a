"""A model without weights: tensors of the right sizes, no arithmetic. What is sent is real, what is in it is not.

Two uses: devices whose computing is replayed from a profile (`runtime.stages.Replayed`), and reading off the steps of a
method without running it (`runtime.steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, device, dtype, float32, int64, uint8, zeros

from runtime.codecs.vq import packed_bytes
from runtime.collectives import Exchange
from runtime.layer import Attended, Layer, Part
from runtime.model import Model
from runtime.plan import Span
from runtime.shape import Shape


class Nothing:
    """Tensors of zeros, each size made once: sent, never written to. place: "cpu", or "meta" for sizes only."""

    def __init__(self, place: str = "cpu") -> None:
        self.place = place
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, *sizes: int, dtype: dtype = float32) -> Tensor:
        """Zeros of these sizes."""
        key = (dtype, *sizes)
        if key not in self._made:
            self._made[key] = zeros(sizes, dtype=dtype, device=self.place)
        return self._made[key]


class HollowAttended(Attended):
    """Attention to nothing: whatever is merged into it."""

    def merge(self, other: Attended) -> Attended:
        return self


class HollowLayer(Layer):
    """The seams and stages of a layer, with nothing in between."""

    def __init__(self, shape: Shape, index: int, heads: Span, nothing: Nothing) -> None:
        kv_heads = len(heads) * shape.kv_heads // shape.heads
        rows = (len(heads) + 2 * kv_heads) * shape.head_dim
        weights = {"o.weight": nothing(0, len(heads) * shape.head_dim), "qkv.weight": nothing(rows, 0)}
        super().__init__(shape, weights, None, index)
        self._nothing = nothing
        # Whether positions are rotary decides into how many parts other devices' tokens fall; they are not computed.
        self.rotary = nothing(0) if shape.rotary else None

    def attention_input(self, x: Tensor) -> Tensor:
        return self._nothing(x.shape[0], self.shape.width)

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kv = self.kv_heads * self.shape.head_dim
        return tuple(self._nothing(h.shape[0], width) for width in (self.heads * self.shape.head_dim, kv, kv))  # type: ignore[return-value]

    def keys_values(self, h: Tensor) -> tuple[Tensor, Tensor]:
        kv = self._nothing(h.shape[0], self.kv_heads * self.shape.head_dim)
        return kv, kv

    def rotate(self, heads: Tensor, start: int) -> Tensor:
        return heads

    def split(self, flat: Tensor) -> Tensor:
        return self._nothing(flat.shape[1] // self.shape.head_dim, flat.shape[0], self.shape.head_dim)

    def part(self, k: Tensor, v: Tensor, start: int) -> Part:
        heads = self.split(k)
        return Part(heads, heads, start)

    def attend(self, q: Tensor, part: Part, start: int) -> Attended | None:
        return HollowAttended(q, q)

    def output(self, attended: Attended) -> Tensor:
        return self._nothing(attended.out.shape[1], self.shape.width)

    def mlp(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        return x, self._nothing(x.shape[0], self.shape.width)

    def residual(self, x: Tensor, summed: Tensor) -> Tensor:
        return self._nothing(x.shape[0], self.shape.width)


class HollowModel(Model):
    """Embedding and head of the right sizes around hollow layers."""

    def __init__(self, shape: Shape, layers: Sequence[Layer], nothing: Nothing) -> None:
        super().__init__(shape, {}, layers)
        self.nothing, self.place = nothing, device(nothing.place)

    def with_layers(self, layers: Sequence[Layer]) -> HollowModel:
        return HollowModel(self.shape, layers, self.nothing)

    def joined(self, tensors: Sequence[Tensor], side: int = 0) -> Tensor:
        sizes = list(tensors[0].shape)
        sizes[side] = sum(tensor.shape[side] for tensor in tensors)
        return self.nothing(*sizes, dtype=tensors[0].dtype)

    def embed(self, raw: Tensor, start: int, tokens: int) -> Tensor:
        return self.nothing(raw.shape[0], self.shape.width)

    def class_token(self) -> Tensor:
        return self.nothing(self.shape.prefix, self.shape.width)

    def read_out(self, y: Tensor, content_from: int) -> Tensor:
        return self.nothing(self.shape.width)

    def head(self, row: Tensor) -> Tensor:
        return self.nothing(self.shape.outputs or self.shape.width)


class HollowVQ:
    """The sizes of a `GroupedVQ` of vectors of `width`: every code is 0."""

    def __init__(self, width: int, groups: int, bits: int, nothing: Nothing) -> None:
        self._width, self._groups, self._bits, self._nothing = width, groups, bits, nothing

    def pack(self, x: Tensor) -> Tensor:
        return self._nothing(packed_bytes(x.shape[0], self._groups, self._bits), dtype=uint8)

    def unpack(self, packed: Tensor, tokens: int) -> Tensor:
        return self._nothing(tokens, self._groups, dtype=int64)

    def decode(self, codes: Tensor) -> Tensor:
        return self._nothing(codes.shape[0], self._width)


class HollowTable:
    """The sizes of a table of keys and values, each of `width`, by code."""

    def __init__(self, width: int, nothing: Nothing) -> None:
        self._width, self._nothing = width, nothing

    def keys_values(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        found = self._nothing(codes.shape[0], self._width)
        return found, found


class HollowCodec:
    """The sizes of a codec of rows of activations (`runtime.methods.coding.Codec`) whose `packed_bytes` this is."""

    def __init__(self, packed_bytes: Callable[[int, int], int], nothing: Nothing) -> None:
        self._packed_bytes, self._nothing = packed_bytes, nothing

    def pack(self, x: Tensor) -> Tensor:
        return self._nothing(self._packed_bytes(x.shape[0], x.shape[1]), dtype=uint8)

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        return self._nothing(rows, width)


class HollowExchange(Exchange):
    """Sends and receives all that an all-reduce does, and adds up nothing: that is computing."""

    def _sum(self, received: Tensor, own: Tensor) -> Tensor:
        return received

    def _whole(self, chunks: list[Tensor], like: Tensor) -> Tensor:
        return like


class HollowWeights:
    """Loads shares of a model of which only the shape is known: `runtime.model.Weights`."""

    def __init__(self, shape: Shape, place: str = "cpu") -> None:
        self.shape, self.nothing = shape, Nothing(place)

    def load(self, layers: Span | None = None, heads: Span | None = None) -> HollowModel:
        """A share of it, in no time."""
        span, heads = layers or Span(0, self.shape.layers), heads or Span(0, self.shape.heads)
        made = [HollowLayer(self.shape, index, heads, self.nothing) for index in range(span.start, span.stop)]
        return HollowModel(self.shape, made, self.nothing)
