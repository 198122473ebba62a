"""Frames between devices. Every transport offers the same four verbs, see `Transport`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from runtime.transport.wire import Kind

if TYPE_CHECKING:
    from runtime.transport.gather import Arrived, Cut


@dataclass
class Dropped:
    """Datagrams that were of no use to one device, by why.

    late: of a layer that is over. twice: there already. foreign: not of this run, or changed on the way. unfit: of this
    run, but not what is due from that device. overrun: the kernel's buffer was full, as it tells with the next one that
    comes. unsent: this device's own that its system did not take.
    """

    late: int = 0
    twice: int = 0
    foreign: int = 0
    unfit: int = 0
    overrun: int = 0
    unsent: int = 0


@dataclass
class Traffic:
    """What one device sent and received since the last reset: payload bytes by frame kind, exchange frames (and
    datagrams) sent."""

    exchange_sent: int = 0
    exchange_received: int = 0
    scatter_sent: int = 0
    gather_sent: int = 0
    token_sent: int = 0
    messages: int = 0
    dropped: Dropped = field(default_factory=Dropped)


class Transport(Protocol):
    """A full mesh seen from one rank.

    `send` returns as soon as the frame is handed over and never deadlocks, however large the tensor or however many
    peers send to each other at once; the tensor must not be changed until `flush`. `receive` blocks until the next
    frame from `peer` and checks that it is the expected one: frames of one peer arrive in the order sent.
    Tensors are contiguous, on the CPU, of at most three dimensions, of a dtype of `wire.DTYPES`.
    """

    rank: int
    world: int
    traffic: Traffic
    header_at_s: float
    """When the header of the last frame received was in: `time.perf_counter`, so that what follows is transfer."""

    def send(self, peer: int, kind: Kind, request: int, layer: int, tensor: torch.Tensor) -> None:
        """Queue one frame for `peer`. Raises PeerLost."""
        ...

    def receive(self, peer: int, kind: Kind, request: int, layer: int) -> torch.Tensor:
        """Next frame from `peer`, as a new tensor. Raises PeerLost, or BadFrame if another frame came."""
        ...

    def flush(self) -> None:
        """Wait until everything sent has been handed to, and acknowledged by, the peers' systems. Raises PeerLost."""
        ...

    def close(self) -> None:
        """Close all connections; peers that wait see PeerLost. Safe to call twice, and from another thread."""
        ...


@runtime_checkable
class Lossy(Protocol):
    """What a mesh offers beside the verbs of `Transport` if it has datagrams too: they may be lost, and are not sent
    again. They go and come apart from frames, in no order with them."""

    def begin(self, request: int, tell: Iterable[int], hear: Iterable[int]) -> None:
        """Tell these ranks, in a frame, that this one has its input, and expect to hear as much of those. Never blocks.

        Until all of them have said so, or sent something of this request, no deadline runs. Raises PeerLost.
        """
        ...

    def cast(self, ranks: Iterable[int], request: int, layer: int, frame: torch.Tensor, cut: Cut) -> None:
        """Send a uint8 frame, cut into datagrams, to each of the ranks. Never blocks. Raises PeerLost."""
        ...

    def collect(self, request: int, layer: int, cuts: Mapping[int, Cut], deadline_s: float) -> dict[int, Arrived]:
        """What has come of the frames that the ranks of `cuts` cast in this layer; for each layer once, in their order.

        Returns once all is there, or nothing more will come, or after deadline_s seconds. Raises PeerLost for a peer
        that has left the mesh.
        """
        ...
