"""Frames over plain blocking TCP sockets, one connection per pair of devices."""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from runtime.errors import BadFrame, PeerLost
from runtime.transport import Traffic, wire
from runtime.transport.door import HANDSHAKE_S, Door, Identity, dial

CLOSED_HERE: Final = "closed on this side"
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Connection:
    """The socket to one peer. Frames keep their order; a fault ends the connection for both directions.

    The kernel's own time limits (SO_RCVTIMEO, SO_SNDTIMEO) are the patience: a socket with a Python timeout would
    cost a poll before each call.
    """

    def __init__(self, peer: int, connected: socket.socket, patience_s: float) -> None:
        self.peer = peer
        self._socket, self._patience_s = connected, patience_s
        limit = struct.pack("ll", int(patience_s), max(int(patience_s % 1 * 1e6), 1))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._header = bytearray(wire.HEADER_BYTES)
        self._header_view = memoryview(self._header)
        self._reading = threading.RLock()  # held while a frame is read
        self._writing = threading.Condition(threading.RLock())  # guards the three below
        self._backlog: deque[memoryview] = deque()
        self._writer: threading.Thread | None = None
        self._why: str | None = None  # why the connection is of no more use

    def send(self, header: bytes, body: memoryview, layer: int) -> None:
        """Hand over one frame: to the kernel what it takes at once, the rest to the writer thread. Raises PeerLost."""
        with self._writing:
            self.check(layer)
            sent = 0
            if not self._backlog:
                try:
                    sent = self._socket.sendmsg((header, body), (), _SEND_FLAGS)
                except BlockingIOError:
                    sent = 0
                except OSError as fault:
                    raise self.lose(layer, fault.strerror or str(fault)) from fault
                if sent == len(header) + len(body):
                    return
            if sent < len(header):
                self._backlog.append(memoryview(header)[sent:])
            if body:
                self._backlog.append(body[max(sent - len(header), 0) :])
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name=f"writer-{self.peer}", daemon=True)
                self._writer.start()
            self._writing.notify_all()

    def receive(self, kind: wire.Kind, request: int, layer: int) -> tuple[torch.Tensor, float]:
        """The next frame, as a new tensor, and when its header was in. Raises PeerLost, BadFrame (another frame)."""
        with self._reading:
            self.check(layer)
            self._fill(self._header_view, layer)
            header_at_s = time.perf_counter()
            try:
                header = wire.unpack(self._header)
                wire.expect(header, self.peer, kind, request, layer)
            except BadFrame as fault:
                # Where the next frame begins is not known any more.
                self.lose(layer, str(fault))
                raise
            tensor = torch.empty(header.shape, dtype=header.dtype)
            if tensor.numel():
                self._fill(wire.payload(tensor), layer)
            return tensor, header_at_s

    def flush(self) -> None:
        """Wait until the peer's system has acknowledged every byte. Raises PeerLost after patience_s of no progress."""
        with self._writing:
            # The writer gives up by itself when nothing moves, so this needs no limit of its own.
            self._writing.wait_for(lambda: not self._backlog or self._why is not None)
            self.check(wire.NO_LAYER)
        death = select.poll()
        death.register(self._socket, 0)  # errors and hang-ups are always reported
        least, until, pause_ms = 1 << 62, time.monotonic() + self._patience_s, 1
        while (left := self._unacknowledged()) > 0:
            if left < least:
                least, until = left, time.monotonic() + self._patience_s
            if death.poll(pause_ms):
                raise self.lose(wire.NO_LAYER, "the connection was reset")
            if time.monotonic() > until:
                raise self.lose(wire.NO_LAYER, f"acknowledged nothing for {self._patience_s:g} s")
            pause_ms = min(2 * pause_ms, 16)

    def fileno(self) -> int:
        """To wait on several connections at once; POLLRDHUP tells that one has ended, on either side."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection; threads that wait on it see PeerLost."""
        with self._writing:
            self.lose(wire.NO_LAYER, CLOSED_HERE)
        if self._writer is not None:
            self._writer.join()
        # Both sides were woken above. The descriptor goes only when nobody can be using its number any more.
        with self._reading, self._writing:
            self._socket.close()

    def check(self, layer: int) -> None:
        """Raises PeerLost if the connection is known to be of no more use."""
        if self._why is not None:
            raise PeerLost(self.peer, wire.named(layer), self._why)

    def lose(self, layer: int, why: str) -> PeerLost:
        """Give the connection up and wake everyone; the first reason stays."""
        with self._writing:
            if self._why is None:
                self._why = why
                self._backlog.clear()
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError as fault:
                    if fault.errno != errno.ENOTCONN:  # down already, by a reset
                        raise
                self._writing.notify_all()
            return PeerLost(self.peer, wire.named(layer), self._why)

    def _fill(self, view: memoryview, layer: int) -> None:
        """Read exactly as many bytes as the view has, waiting in the kernel. Silence counts from the last byte."""
        while view:
            try:
                got = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise self.lose(layer, f"silent for {self._patience_s:g} s") from None
            except OSError as fault:
                raise self.lose(layer, fault.strerror or str(fault)) from fault
            if got == 0:
                raise self.lose(layer, "it closed the connection")
            view = view[got:]

    def _write(self) -> None:
        while True:
            with self._writing:
                self._writing.wait_for(lambda: bool(self._backlog) or self._why is not None)
                if self._why is not None:
                    return
                head = self._backlog[0]
            try:
                sent = self._socket.send(head, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self.lose(wire.NO_LAYER, f"it took no data for {self._patience_s:g} s")
                return
            except OSError as fault:
                self.lose(wire.NO_LAYER, fault.strerror or str(fault))
                return
            with self._writing:
                # Empty only after the last byte is written: until then others must queue behind.
                if self._why is None and sent < len(head):
                    self._backlog[0] = head[sent:]
                elif self._why is None:
                    self._backlog.popleft()
                if not self._backlog:
                    self._writing.notify_all()

    def _unacknowledged(self) -> int:
        try:
            (left,) = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError) as fault:  # ValueError: closed meanwhile by another thread
            raise self.lose(wire.NO_LAYER, str(fault)) from fault
        return int(left)


class TcpMesh:
    """A full mesh of TCP connections seen from one rank: listen at once, exchange the ports, `join`, then the verbs.

    token: the run's 32 bytes; addresses: those to listen on, an ephemeral port each, see `ports`; patience_s: seconds
    of silence after which a peer counts as lost; congestion: the kernel's name of the congestion control, None for the
    machine's own (without root a kernel may allow no other).
    The counters are kept by the calling thread: let one thread of a device send and receive.
    Raises ValueError, and RuntimeFault if an address or the congestion control cannot be had.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        token: bytes,
        addresses: Sequence[str],
        patience_s: float = 60.0,
        congestion: str | None = "cubic",
    ) -> None:
        if not 0 <= rank < world <= 0xFFFF:
            raise ValueError(f"rank {rank} of {world}: ranks count from 0, at most 65535 of them")
        if len(token) != wire.TOKEN_BYTES:
            raise ValueError(f"the token has {wire.TOKEN_BYTES} bytes, got {len(token)}")
        if not patience_s > 0:
            raise ValueError(f"patience_s = {patience_s}: a positive number of seconds")
        self.rank, self.world, self.traffic = rank, world, Traffic()
        self.header_at_s = 0.0
        self._identity, self._patience_s, self._congestion = Identity(rank, world, token), patience_s, congestion
        self._connections: dict[int, Connection] = {}
        self._changing = threading.RLock()  # guards the dict above against `close` during `join`
        self._closed = threading.Event()
        self._door = Door(self._identity, addresses, congestion, min(HANDSHAKE_S, patience_s))
        self.ports = self._door.ports

    def join(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """Connect with everyone; peers: address and port of at least all lower ranks, which this rank calls.

        Returns when all connections stand. Raises PeerLost for a peer that has not come after patience_s seconds,
        BadFrame if someone else answers for it, ValueError if an address is missing.
        """
        missing = sorted(set(range(self.rank)) - set(peers))
        if missing or self._connections:
            raise ValueError(f"no address of ranks {missing}" if missing else "this mesh has been joined already")
        until = time.monotonic() + self._patience_s
        for peer in range(self.world):
            left_s = max(until - time.monotonic(), 0.0)
            if peer < self.rank:
                self._add(peer, dial(self._identity, peer, peers[peer], self._congestion, left_s, self._closed))
            elif peer > self.rank:
                self._add(peer, self._door.wait_for(peer, left_s))

    def send(self, peer: int, kind: wire.Kind, request: int, layer: int, tensor: torch.Tensor) -> None:
        """See `Transport.send`. Raises PeerLost, and BadFrame for a tensor that cannot be sent."""
        header = wire.header_of(tensor, kind, self.rank, request, layer)
        self._connection(peer, layer).send(wire.pack(header), wire.payload(tensor), layer)
        wire.count_sent(self.traffic, kind, tensor.nbytes)

    def receive(self, peer: int, kind: wire.Kind, request: int, layer: int) -> torch.Tensor:
        """See `Transport.receive`. Raises PeerLost, BadFrame."""
        tensor, self.header_at_s = self._connection(peer, layer).receive(kind, request, layer)
        wire.count_received(self.traffic, kind, tensor.nbytes)
        return tensor

    def flush(self) -> None:
        """See `Transport.flush`. Raises PeerLost."""
        for connection in list(self._connections.values()):
            connection.flush()

    def close(self) -> None:
        """See `Transport.close`. Frames that were not flushed may be lost."""
        self._closed.set()
        self._door.close()
        with self._changing:
            connections = list(self._connections.values())
        for connection in connections:
            connection.close()

    def _add(self, peer: int, connected: socket.socket) -> None:
        connection = Connection(peer, connected, self._patience_s)
        with self._changing:
            self._connections[peer] = connection
            if self._closed.is_set():
                connection.close()
                raise PeerLost(peer, None, CLOSED_HERE)

    def _connection(self, peer: int, layer: int) -> Connection:
        connection = self._connections.get(peer)
        if connection is None:
            if self._closed.is_set():
                raise PeerLost(peer, wire.named(layer), CLOSED_HERE)
            raise ValueError(f"rank {self.rank} of {self.world} has no connection to {peer}; has it joined?")
        return connection
