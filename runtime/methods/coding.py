"""How activations travel: as they are, or packed by a codec, in stages of coding.

A codec turns rows of activations [T, W] into bytes and back. What a method sends goes through a `Coder`, so that every
baseline can be had in integers too; its own tokens a device knows at full precision. Bytes of one token, width 768:

    codec                        bytes    bits per value
    fp32                          3072    32
    int8                           792     8.25            768 + 12 scales of 2
    int4                           408     4.25            384 + 12 scales of 2
    topk, keep = 32                104     1.08            32 indices of 10 bits, 32 values of 2
    prism, 8 of 64 tokens          384     4               8 means of 3072; 99 as prism+int8, 51 as prism+int4
    astra, G = 32 / 16 / 1   40/20/1.25    0.42/0.21/0.01  for comparison, see `runtime.methods.astra`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from runtime.codecs.integer import Integer
from runtime.collectives import Exchange
from runtime.hollow import HollowCodec, HollowModel
from runtime.methods.method import FLOAT_BYTES, Method
from runtime.plan import Plan
from runtime.shape import Shape


class Codec(Protocol):
    """Rows of activations as bytes."""

    def packed_bytes(self, rows: int, width: int) -> int:
        """Size of x [rows, width] as it travels."""
        ...

    def pack(self, x: Tensor) -> Tensor:
        """x [T, W] as it travels."""
        ...

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        """What travelled -> [rows, width]."""
        ...

    def rebuilt(self, x: Tensor) -> Tensor:
        """x [..., T, W] as its receivers have it, without bytes in between: for references and training."""
        ...


class Floats:
    """Activations as they are."""

    def packed_bytes(self, rows: int, width: int) -> int:
        """T·W·4."""
        return rows * width * FLOAT_BYTES

    def pack(self, x: Tensor) -> Tensor:
        return x

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        return packed

    def rebuilt(self, x: Tensor) -> Tensor:
        return x


CODECS: dict[str, Codec] = {"fp32": Floats(), "int8": Integer(8), "int4": Integer(4)}


@dataclass(frozen=True)
class CodecOptions:
    """codec: "fp32" sends activations as they are, "int8" and "int4" in blocks of integers with a scale."""

    codec: str = "fp32"

    def __post_init__(self) -> None:
        if self.codec not in tuple(CODECS):
            raise ValueError(f'codec is "fp32", "int8" or "int4", not {self.codec!r}')

    @property
    def coded(self) -> bool:
        """Whether what arrives differs from what was sent."""
        return self.codec != "fp32"


def whole(name: str, value: object) -> None:
    """Raises ValueError unless an option is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is a whole number of at least 1, not {value!r}")


class Coder:
    """Packs what a device sends and unpacks what comes in; hollow where the model is.

    pieces: into so many equal pieces a row is cut, each coded as a row of its own (K and V side by side are two).
    """

    def __init__(self, method: Method, codec: Codec, pieces: int = 1) -> None:
        model = method.model
        self._codec: Codec | HollowCodec = codec
        if isinstance(model, HollowModel):
            self._codec = HollowCodec(codec.packed_bytes, model.nothing)
        self._stages, self._pieces = method.stages, pieces

    def pack(self, layer: int, x: Tensor) -> Tensor:
        """x [T, W] as it travels."""
        with self._stages("encode", layer, "code"):
            return self._codec.pack(x.reshape(x.shape[0] * self._pieces, x.shape[1] // self._pieces))

    def unpack(self, layer: int, frames: Mapping[int, Tensor], sizes: Sequence[tuple[int, int]]) -> dict[int, Tensor]:
        """What ranks sent -> activations by rank; sizes: by rank, rows and width of what comes out."""
        if not frames:
            return {}
        with self._stages("decode", layer, "code"):
            return {rank: self._unpacked(frame, *sizes[rank]) for rank, frame in frames.items()}

    def _unpacked(self, frame: Tensor, rows: int, width: int) -> Tensor:
        pieces = self._pieces
        return self._codec.unpack(frame, rows * pieces, width // pieces).reshape(rows, width)


class AsIs(Coder):
    """Nothing is packed, and no time passes."""

    def pack(self, layer: int, x: Tensor) -> Tensor:
        return x

    def unpack(self, layer: int, frames: Mapping[int, Tensor], sizes: Sequence[tuple[int, int]]) -> dict[int, Tensor]:
        return dict(frames)


def coder(method: Method, pieces: int = 1) -> Coder:
    """The coder of a method that has `CodecOptions`; a device that is alone codes nothing."""
    options: CodecOptions = method.options
    kind = Coder if options.coded and method.plan.world > 1 else AsIs
    return kind(method, CODECS[options.codec], pieces)


class Audience:
    """Those who may see a device's tokens and are sent them coded, and those whose tokens it may see itself.

    All other devices, or in causal models the ones behind it and the ones before it.
    """

    def __init__(self, method: Method, exchange: Exchange, codec: Codec) -> None:
        shape, plan = method.model.shape, method.plan
        self._to = audience(shape, plan, method.rank)
        self._from = range(method.rank) if shape.causal else exchange.others
        self._exchange, self._coder = exchange, Coder(method, codec)

    def show(self, layer: int, x: Tensor) -> None:
        """Send x [T, W] of this device's tokens."""
        if self._to:
            self._exchange.send_to(layer, self._to, self._coder.pack(layer, x))

    def seen(self, layer: int, sizes: Sequence[tuple[int, int]]) -> dict[int, Tensor]:
        """What this device is shown, by rank; sizes as in `Coder.unpack`. Blocks."""
        return self._coder.unpack(layer, self._exchange.receive_from(layer, self._from), sizes)


def audience(shape: Shape, plan: Plan, rank: int) -> list[int]:
    """Ranks that may see a rank's tokens, its right neighbour first, so that not all begin with one receiver."""
    others = [(rank + step) % plan.world for step in range(1, plan.world)]
    return [other for other in others if other > rank] if shape.causal else others
