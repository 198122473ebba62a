"""Codes as datagrams: how a frame of them is cut, what came of it, and whether more is to come. No sockets here.

A frame is cut where a token and a byte end together, so that each datagram is of use by itself, and the pieces have as
many bytes as the frame. In network byte order:

    tag 8 | request u32 | layer u16 | sender u16 | sequence u16 | first token u32 | tokens u16 | codes of these tokens

The tag is a keyed hash of all that follows it; the key is the run's token, so that a datagram of a stranger, of another
run, or one that was changed on the way is told from one of this run, and the token itself does not travel.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import gcd
from typing import Final, NamedTuple

import torch

from runtime.errors import BadFrame
from runtime.plan import Span
from runtime.transport import Dropped

_LABEL: Final = struct.Struct("!IHHHIH")
_TAG_BYTES: Final = 8
_VERSION: Final = b"codes 1"
MTU_BYTES: Final = 1500
DATAGRAM_BYTES: Final = MTU_BYTES - 40 - 8  # less the headers of IPv6 (of IPv4 it is shorter) and UDP
HEADER_BYTES: Final = _TAG_BYTES + _LABEL.size
ROOM_BYTES: Final = DATAGRAM_BYTES - HEADER_BYTES

Moment = tuple[int, int]
"""Request and layer: every device passes them in this order."""


class Label(NamedTuple):
    """What a datagram says of itself. It holds the codes of so many content tokens, from `first` on."""

    request: int
    layer: int
    sender: int
    sequence: int
    first: int
    tokens: int

    @property
    def moment(self) -> Moment:
        """When it is due."""
        return self.request, self.layer


def pack(token: bytes, label: Label, body: bytes) -> bytes:
    """A datagram. Raises BadFrame for numbers that do not fit its header."""
    try:
        rest = _LABEL.pack(*label) + body
    except struct.error as fault:
        raise BadFrame(f"a number does not fit the header of a datagram: {label}") from fault
    return _tag(token, rest) + rest


def unpack(token: bytes, data: bytes) -> tuple[Label, bytes] | None:
    """Label and codes of a datagram; None if it is not of this run, or not as it was sent."""
    rest = data[_TAG_BYTES:]
    if len(rest) < _LABEL.size or not hmac.compare_digest(_tag(token, rest), data[:_TAG_BYTES]):
        return None
    return Label(*_LABEL.unpack_from(rest)), rest[_LABEL.size :]


def _tag(token: bytes, rest: bytes) -> bytes:
    return blake2b(rest, digest_size=_TAG_BYTES, key=token, person=_VERSION).digest()


def byte_end(bits: int) -> int:
    """The fewest tokens, of `bits` bits each, that end where a byte ends: 1, 2, 4 or 8."""
    return 8 // gcd(bits, 8)


@dataclass(frozen=True)
class Cut:
    """How the frame of one device's codes of a layer falls into datagrams.

    tokens: the content tokens whose codes it holds; bits: of one token in one stream; streams: C, one behind the other,
    each from a new byte on; room: bytes of codes in a datagram, at most.
    """

    tokens: Span
    bits: int
    streams: int = 1
    room: int = ROOM_BYTES

    @property
    def most(self) -> int:
        """Tokens in a full datagram; 0: they cannot be sent so."""
        least = byte_end(self.bits)
        return self.room // (self.streams * (least * self.bits // 8)) * least

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The tokens of each datagram, by sequence number."""
        first, last, most = self.tokens.start, self.tokens.stop, self.most
        return tuple(Span(start, min(start + most, last)) for start in range(first, last, most))

    @property
    def stream_bytes(self) -> int:
        """Of one stream of the frame."""
        return -(-len(self.tokens) * self.bits // 8)

    def rows(self, sequence: int) -> Span:
        """The tokens of a datagram, counted from the device's first."""
        span, first = self.spans[sequence], self.tokens.start
        return Span(span.start - first, span.stop - first)

    def within(self, sequence: int) -> Span:
        """The bytes of a datagram within each stream."""
        rows = self.rows(sequence)
        return Span(rows.start * self.bits // 8, -(-rows.stop * self.bits // 8))

    def bodies(self, frame: memoryview) -> list[bytes]:
        """The codes of each datagram. Raises BadFrame for a frame of another size."""
        if len(frame) != self.streams * self.stream_bytes:
            raise BadFrame(f"a frame of {len(frame)} bytes, {self.streams} x {self.stream_bytes} are to be cut")
        return [
            b"".join(frame[begun + part.start : begun + part.stop] for begun in self._begun)
            for part in map(self.within, range(len(self.spans)))
        ]

    def label(self, moment: Moment, sender: int, sequence: int) -> Label:
        """What a datagram of this frame says of itself."""
        span = self.spans[sequence]
        return Label(*moment, sender, sequence, span.start, len(span))

    def fits(self, label: Label, body: bytes) -> bool:
        """Whether a datagram can be one of this frame."""
        if label.sequence >= len(self.spans) or label != self.label(label.moment, label.sender, label.sequence):
            return False
        return len(body) == self.streams * len(self.within(label.sequence))

    def joined(self, bodies: Mapping[int, bytes]) -> Arrived:
        """What came, by sequence number, put together again."""
        frame = bytearray(self.streams * self.stream_bytes)
        for sequence, body in bodies.items():
            part = self.within(sequence)
            for stream, begun in enumerate(self._begun):
                own = slice(stream * len(part), (stream + 1) * len(part))
                frame[begun + part.start : begun + part.stop] = body[own]
        lost = tuple(self.rows(sequence) for sequence in range(len(self.spans)) if sequence not in bodies)
        return Arrived(torch.frombuffer(frame, dtype=torch.uint8), lost, sum(map(len, bodies.values())))

    @property
    def _begun(self) -> list[int]:
        return [stream * self.stream_bytes for stream in range(self.streams)]


@dataclass(frozen=True)
class Arrived:
    """What one device's frame of a layer came to: uint8, as it was before it was cut, zeros where nothing came.

    lost: those of its tokens whose codes did not come, counted from its first; came_bytes: of codes.
    """

    frame: torch.Tensor
    lost: tuple[Span, ...] = ()
    came_bytes: int = 0


class Inbox:
    """What has come, put in its place. A layer is opened, filled and closed; then the next one is.

    dropped: where is counted what is of no use. Peers may be ahead: what they send is kept until its layer is opened.
    """

    def __init__(self) -> None:
        self._moment: Moment = (0, 0)
        self._cuts: Mapping[int, Cut] = {}
        self._bodies: dict[int, dict[int, bytes]] = {}
        self._early: dict[Moment, dict[tuple[int, int], tuple[Label, bytes]]] = {}
        self._furthest: dict[int, Moment] = {}

    def open(self, moment: Moment, cuts: Mapping[int, Cut], dropped: Dropped) -> None:
        """From now on this layer is waited for, from the ranks of `cuts`."""
        self._moment, self._cuts, self._bodies = moment, cuts, {rank: {} for rank in cuts}
        for past in [early for early in self._early if early < moment]:
            dropped.late += len(self._early.pop(past))
        for label, body in self._early.pop(moment, {}).values():
            self._keep(label, body, dropped)

    def put(self, label: Label, body: bytes, dropped: Dropped) -> None:
        """A datagram of this run has come, for the open layer or for any other."""
        self._furthest[label.sender] = max(label.moment, self._furthest.get(label.sender, label.moment))
        if label.moment < self._moment:
            dropped.late += 1
        elif label.moment == self._moment:
            self._keep(label, body, dropped)
        else:
            kept = self._early.setdefault(label.moment, {})
            if (label.sender, label.sequence) in kept:
                dropped.twice += 1
            else:
                kept[label.sender, label.sequence] = label, body

    def _keep(self, label: Label, body: bytes, dropped: Dropped) -> None:
        cut = self._cuts.get(label.sender)
        if cut is None or not cut.fits(label, body):
            dropped.unfit += 1
        elif label.sequence in self._bodies[label.sender]:
            dropped.twice += 1
        else:
            self._bodies[label.sender][label.sequence] = body

    def awaited(self) -> list[int]:
        """Ranks of which something is missing that may still come.

        A peer sends layer after layer: once something of a later one is there, what is missing of this one was lost (or
        overtaken by a whole layer, which is no use waiting for).
        """
        return [
            rank
            for rank, cut in self._cuts.items()
            if len(self._bodies[rank]) < len(cut.spans) and self._furthest.get(rank, self._moment) <= self._moment
        ]

    def begun(self, rank: int) -> bool:
        """Whether something of the open request has come from a rank."""
        return rank in self._furthest and self._furthest[rank][0] >= self._moment[0]

    def close(self) -> dict[int, Arrived]:
        """What the open layer came to; what still comes of it is late."""
        found = {rank: cut.joined(self._bodies[rank]) for rank, cut in self._cuts.items()}
        request, layer = self._moment
        self._moment, self._cuts, self._bodies = (request, layer + 1), {}, {}
        return found
