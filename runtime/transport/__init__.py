"""Frames between devices. Every transport offers the same four verbs, see `Transport`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from runtime.transport.wire import Kind


@dataclass
class Traffic:
    """What one device sent and received since the last reset: payload bytes by frame kind, exchange frames sent."""

    exchange_sent: int = 0
    exchange_received: int = 0
    scatter_sent: int = 0
    gather_sent: int = 0
    messages: int = 0


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
