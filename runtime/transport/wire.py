"""The frame: a fixed header of 32 bytes in network byte order, then the bytes of one tensor. Nothing is pickled.

    length u32 of the payload | magic 4 | version u8 | kind u8 | sender u16 | request u32 | layer u16
    | dtype u8 | dimensions u8 | shape 3 x u32, unused ones 0

The payload is the tensor's memory, row by row, in the byte order of the devices, which have to be little endian.
"""

from __future__ import annotations

import struct
import sys
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from runtime.errors import BadFrame

if TYPE_CHECKING:
    from runtime.transport import Traffic

MAGIC: Final = b"TSTB"
VERSION: Final = 1
NO_LAYER: Final = 0xFFFF
MAX_DIMENSIONS: Final = 3
MAX_PAYLOAD_BYTES: Final = 1 << 30
TOKEN_BYTES: Final = 32


class Kind(IntEnum):
    """What a frame is for. Any frame between two layers is an EXCHANGE, a partial sum of a reduce included; a TOKEN is
    the id of one that was generated."""

    HELLO = 1
    SCATTER = 2
    EXCHANGE = 3
    GATHER = 4
    TOKEN = 5


DTYPES: Final[dict[int, torch.dtype]] = {
    1: torch.float32,
    2: torch.float16,
    3: torch.bfloat16,
    4: torch.uint8,
    5: torch.int8,
    6: torch.int32,
    7: torch.int64,
}
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}
_KINDS: Final = {int(kind): kind for kind in Kind}
# Before a connection has shown the token it may only announce what a HELLO needs.
_LIMITS: Final = {kind: TOKEN_BYTES if kind is Kind.HELLO else MAX_PAYLOAD_BYTES for kind in Kind}
_LAYOUT: Final = struct.Struct("!I4sBBHIHBB3I")
HEADER_BYTES: Final = _LAYOUT.size

if sys.byteorder != "little":
    raise ImportError("runtime.transport needs a little-endian device: tensors cross the network as they lie in memory")


class Header(NamedTuple):
    """What comes before a payload. `shape` has at most three dimensions; `layer` is NO_LAYER outside the layers."""

    kind: Kind
    sender: int
    request: int
    layer: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def payload_bytes(self) -> int:
        """Length of the payload that follows."""
        return prod(self.shape) * self.dtype.itemsize


def pack(header: Header) -> bytes:
    """The 32 bytes of a header. Raises BadFrame if a field does not fit or the payload is over its limit."""
    code = _CODES.get(header.dtype)
    dimensions = len(header.shape)
    if code is None:
        raise BadFrame(f"{header.dtype} cannot be sent; use one of {', '.join(str(dtype) for dtype in _CODES)}")
    if dimensions > MAX_DIMENSIONS:
        raise BadFrame(f"a tensor of {dimensions} dimensions cannot be sent, at most {MAX_DIMENSIONS}")
    length = header.payload_bytes
    if length > _LIMITS[header.kind]:
        raise BadFrame(
            f"a payload of {length} bytes is over the limit of {_LIMITS[header.kind]} for {header.kind.name}"
        )
    shape = (*header.shape, 0, 0, 0)[:MAX_DIMENSIONS]
    try:
        return _LAYOUT.pack(
            length, MAGIC, VERSION, header.kind, header.sender, header.request, header.layer, code, dimensions, *shape
        )
    except struct.error as fault:
        raise BadFrame(f"sender, request, layer or shape does not fit the header: {header}") from fault


def unpack(data: bytes | bytearray | memoryview) -> Header:
    """The header in 32 bytes. Raises BadFrame on anything that `pack` would not have written; allocates nothing."""
    if len(data) != HEADER_BYTES:
        raise BadFrame(f"a header has {HEADER_BYTES} bytes, got {len(data)}")
    length, magic, version, kind_code, sender, request, layer, code, dimensions, *sizes = _LAYOUT.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise BadFrame(f"not a frame of this protocol (magic {magic!r}, version {version})")
    kind, dtype = _KINDS.get(kind_code), DTYPES.get(code)
    if kind is None or dtype is None:
        raise BadFrame(f"unknown kind {kind_code} or dtype {code}")
    if dimensions > MAX_DIMENSIONS or any(sizes[dimensions:]):
        raise BadFrame(f"shape {sizes} does not have {dimensions} dimensions")
    header = Header(kind, sender, request, layer, dtype, tuple(sizes[:dimensions]))
    if length > _LIMITS[kind]:
        raise BadFrame(f"a payload of {length} bytes is over the limit of {_LIMITS[kind]} for {kind.name}")
    if length != header.payload_bytes:
        raise BadFrame(f"{length} bytes announced for {header.shape} of {dtype}, which has {header.payload_bytes}")
    return header


def header_of(tensor: torch.Tensor, kind: Kind, sender: int, request: int, layer: int) -> Header:
    """The header for one tensor. Raises BadFrame unless it is contiguous and on the CPU; `pack` checks the rest."""
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise BadFrame(f"only contiguous tensors on the CPU can be sent, got {tuple(tensor.shape)} on {tensor.device}")
    return Header(kind, sender, request, layer, tensor.dtype, tuple(tensor.shape))


def expect(header: Header, sender: int, kind: Kind, request: int, layer: int) -> None:
    """Raise BadFrame, naming both frames, unless this is the frame that was due."""
    if header[:4] != (kind, sender, request, layer):
        raise BadFrame(
            f"expected {kind.name} of request {request}, layer {named(layer)}, from rank {sender}, got "
            f"{header.kind.name} of request {header.request}, layer {named(header.layer)}, from rank {header.sender}"
        )


def named(layer: int) -> int | None:
    """The layer for people: None for NO_LAYER."""
    return None if layer == NO_LAYER else layer


def payload(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor as bytes, without a copy; writing to it writes to the tensor."""
    # numpy has no bfloat16, so every dtype goes through uint8.
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def count_sent(traffic: Traffic, kind: Kind, length: int) -> None:
    """Add one sent payload of `length` bytes to the counters."""
    if kind is Kind.EXCHANGE:
        traffic.exchange_sent += length
        traffic.messages += 1
    elif kind is Kind.SCATTER:
        traffic.scatter_sent += length
    elif kind is Kind.GATHER:
        traffic.gather_sent += length
    elif kind is Kind.TOKEN:
        traffic.token_sent += length


def count_received(traffic: Traffic, kind: Kind, length: int) -> None:
    """Add one received payload of `length` bytes to the counters."""
    if kind is Kind.EXCHANGE:
        traffic.exchange_received += length
