"""The transport without a network: threads of one process, for tests. Same verbs, counters and checks as `tcp`."""

from __future__ import annotations

import queue
import time

import torch

from runtime.errors import PeerLost
from runtime.transport import Traffic, Transport, wire

_Frame = tuple[bytes, torch.Tensor] | None  # None: the sender has closed


class Loopback:
    """One rank of an in-process mesh; `lines[a][b]` carries the frames from a to b."""

    def __init__(self, rank: int, lines: list[list[queue.SimpleQueue[_Frame]]], patience_s: float) -> None:
        self.rank, self.world, self.traffic = rank, len(lines), Traffic()
        self._lines, self._patience_s, self._closed = lines, patience_s, False
        self.header_at_s = 0.0

    def send(self, peer: int, kind: wire.Kind, request: int, layer: int, tensor: torch.Tensor) -> None:
        """See `Transport.send`. Raises PeerLost, BadFrame."""
        self._refuse(peer, layer)
        header = wire.header_of(tensor, kind, self.rank, request, layer)
        # Packed and copied, so that tests meet the limits of the wire and never share memory between ranks.
        self._lines[self.rank][peer].put((wire.pack(header), tensor.detach().clone()))
        wire.count_sent(self.traffic, kind, tensor.nbytes)

    def receive(self, peer: int, kind: wire.Kind, request: int, layer: int) -> torch.Tensor:
        """See `Transport.receive`. Raises PeerLost, BadFrame."""
        self._refuse(peer, layer)
        try:
            frame = self._lines[peer][self.rank].get(timeout=self._patience_s)
        except queue.Empty:
            raise PeerLost(peer, wire.named(layer), f"silent for {self._patience_s:g} s") from None
        if frame is None:
            self._lines[peer][self.rank].put(None)
            raise PeerLost(peer, wire.named(layer), "the connection is closed")
        self.header_at_s = time.perf_counter()
        header = wire.unpack(frame[0])
        wire.expect(header, peer, kind, request, layer)
        wire.count_received(self.traffic, kind, frame[1].nbytes)
        return frame[1]

    def flush(self) -> None:
        """Nothing to wait for: `send` has handed over a copy."""

    def close(self) -> None:
        """See `Transport.close`: wakes the peers that wait for this rank, and this rank itself."""
        if not self._closed:
            self._closed = True
            for peer in range(self.world):
                self._lines[self.rank][peer].put(None)
                self._lines[peer][self.rank].put(None)

    def _refuse(self, peer: int, layer: int) -> None:
        if peer == self.rank or not 0 <= peer < self.world:
            raise ValueError(f"rank {self.rank} of {self.world} has no peer {peer}")
        if self._closed:
            raise PeerLost(peer, wire.named(layer), "closed on this side")


def mesh(world: int, patience_s: float = 60.0) -> list[Transport]:
    """A full mesh of `world` ranks in this process; a `receive` gives up after patience_s seconds of silence."""
    lines: list[list[queue.SimpleQueue[_Frame]]] = [[queue.SimpleQueue() for _ in range(world)] for _ in range(world)]
    return [Loopback(rank, lines, patience_s) for rank in range(world)]
