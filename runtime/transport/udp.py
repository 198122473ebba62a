"""A TCP mesh that has datagrams beside it: each is sent once, and what has not come in time is done without.

So a lost packet costs no round trips. Control, inputs and results stay on TCP, and so does the word that a peer is
gone: its connection ends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import select
import socket
import struct
import termios
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch

from runtime.datagrams import BUFFER_BYTES, large_buffer
from runtime.errors import BadFrame, PeerLost, RuntimeFault
from runtime.transport import wire
from runtime.transport.gather import DATAGRAM_BYTES, Arrived, Cut, Inbox, pack, unpack
from runtime.transport.tcp import CLOSED_HERE, Connection, TcpMesh
from runtime.transport.wire import NO_LAYER, Kind

LOG = logging.getLogger(__name__)
MOST_AT_ONCE: Final = 1024  # datagrams taken between two looks at the clock, so that a flood cannot hold a deadline up
_SO_RXQ_OVFL: Final = 40
_OVERRUN: Final = struct.Struct("=I")
Address = tuple[str, int]


class UdpMesh(TcpMesh):
    """`TcpMesh` with the verbs of `Lossy`: a socket for datagrams at every address, one to each peer.

    Arguments and faults as of `TcpMesh`; RuntimeFault too if a socket for datagrams cannot be had.
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
        super().__init__(rank, world, token, addresses, patience_s, congestion)
        self._inbox = Inbox()
        self._ends: dict[str, socket.socket] = {}  # by the address at which they receive
        self._overruns: dict[str, int] = {}  # what the kernel has told of each so far
        self._targets: dict[int, socket.socket] = {}  # connected to where a peer receives
        self._collecting = threading.Lock()
        self._unheard: set[int] = set()  # ranks that may not have their input of this request yet
        self._words: dict[int, deque[int]] = defaultdict(deque)  # by rank: requests of which a word is still to be read
        try:
            for address in self.ports:
                self._ends[address] = _receiving(address)
        except BaseException:
            self.close()
            raise

    def join(self, peers: Mapping[int, Address]) -> None:
        """As `TcpMesh.join`, with the addresses of all peers; then all tell each other where they take datagrams."""
        others = [rank for rank in range(self.world) if rank != self.rank]
        missing = sorted(set(others) - set(peers))
        if missing:
            raise ValueError(f"no address of ranks {missing}")
        super().join(peers)
        ports = {address: end.getsockname()[1] for address, end in self._ends.items()}
        told = torch.frombuffer(bytearray(json.dumps(ports).encode()), dtype=torch.uint8)
        for peer in others:
            self.send(peer, Kind.EXCHANGE, 0, NO_LAYER, told)
        for peer in others:
            heard = bytes(self.receive(peer, Kind.EXCHANGE, 0, NO_LAYER).tolist())
            self.aim(peer, (peers[peer][0], _port(heard, peers[peer][0], peer)))

    def aim(self, peer: int, address: Address) -> None:
        """Send datagrams for a peer there from now on, such as to someone who passes them on."""
        made = socket.socket(_family(address[0]), socket.SOCK_DGRAM)
        try:
            large_buffer(made, socket.SO_SNDBUF)
            made.setblocking(False)
            made.connect(address)  # the kernel then picks the address to send from, and the way, once
        except OSError:
            made.close()
            raise
        before, self._targets[peer] = self._targets.get(peer), made
        if before is not None:
            before.close()

    def where(self) -> dict[str, Address]:
        """Address and port at which datagrams are taken, by address."""
        return {address: end.getsockname()[:2] for address, end in self._ends.items()}

    def begin(self, request: int, tell: Iterable[int], hear: Iterable[int]) -> None:
        """See `Lossy.begin`."""
        for rank in tell:
            self.send(rank, Kind.SCATTER, request, NO_LAYER, torch.empty(0))
        self._catch_up()
        self._unheard = set(hear)
        for rank in self._unheard:
            self._words[rank].append(request)

    def receive(self, peer: int, kind: Kind, request: int, layer: int) -> torch.Tensor:
        """See `Transport.receive`; words that nobody had to wait for are passed over."""
        while self._words[peer]:
            self._hear(peer)
        return super().receive(peer, kind, request, layer)

    def _hear(self, peer: int) -> None:
        """The next word of a peer that has not been read; the last one is of this request."""
        super().receive(peer, Kind.SCATTER, self._words[peer].popleft(), NO_LAYER)
        if not self._words[peer]:
            self._unheard.discard(peer)

    def _catch_up(self) -> None:
        """Read what has come of the words of earlier requests: nobody had to wait for them, and they would pile up."""
        with self._collecting:
            for peer, words in self._words.items():
                while words and not self._closed.is_set() and self._has_sent(peer):
                    self._hear(peer)

    def _has_sent(self, peer: int) -> bool:
        """Whether something is there to be read from a peer whose connection has not ended."""
        poll = select.poll()
        poll.register(self._connection(peer, NO_LAYER).fileno(), select.POLLIN | select.POLLRDHUP)
        return [event for _, event in poll.poll(0)] == [select.POLLIN]

    def cast(self, ranks: Iterable[int], request: int, layer: int, frame: torch.Tensor, cut: Cut) -> None:
        """See `Lossy.cast`. What the system does not take is lost like any other; counted as sent, and as unsent."""
        bodies = cut.bodies(wire.payload(frame))
        labels = [cut.label((request, layer), self.rank, sequence) for sequence in range(len(bodies))]
        # One tag for all receivers: a datagram says from whom and what it is, not for whom.
        packed = [pack(self._identity.token, label, body) for label, body in zip(labels, bodies, strict=True)]
        for rank in ranks:
            self._connection(rank, layer).check(layer)
            for datagram, body in zip(packed, bodies, strict=True):
                try:
                    self._targets[rank].send(datagram)
                except OSError:  # no room, no way there, or word that an earlier one found nobody
                    self.traffic.dropped.unsent += 1
                wire.count_sent(self.traffic, Kind.EXCHANGE, len(body))

    def collect(self, request: int, layer: int, cuts: Mapping[int, Cut], deadline_s: float) -> dict[int, Arrived]:
        """See `Lossy.collect`. The deadline counts from this call; what is in the kernel's buffer then has come."""
        with self._collecting:
            if self._closed.is_set():
                raise PeerLost(min(cuts), wire.named(layer), CLOSED_HERE)
            self._inbox.open((request, layer), cuts, self.traffic.dropped)
            self._fill(layer, deadline_s, [self._connection(rank, layer) for rank in cuts])
            found = self._inbox.close()
        for arrived in found.values():
            wire.count_received(self.traffic, Kind.EXCHANGE, arrived.came_bytes)
        return found

    def _fill(self, layer: int, deadline_s: float, connections: Sequence[Connection]) -> None:
        """Take what comes, until it is enough or too late. Raises PeerLost for a peer that is gone, or never begins."""
        began = now = time.monotonic()
        until: float | None = None
        while True:
            self._drain()
            if not self._inbox.awaited():
                return
            self._unheard = {rank for rank in self._unheard if not self._inbox.begun(rank)}
            if until is None and not self._unheard:
                until = now + deadline_s
            left_s = (began + self._patience_s if until is None else until) - time.monotonic()
            if left_s <= 0 and until is None:
                why = f"it did not begin within {self._patience_s:g} s"
                raise self._connection(min(self._unheard), layer).lose(layer, why)
            if left_s <= 0:
                return
            self._wait(connections, layer, left_s)
            now = time.monotonic()

    def flush(self) -> None:
        """See `Transport.flush`; datagrams have left this system, which is all that can be known of them."""
        super().flush()
        for peer, end in self._targets.items():
            until, pause_s = time.monotonic() + self._patience_s, 0.001
            while _queued(end):
                if self._closed.wait(pause_s):
                    raise PeerLost(peer, None, CLOSED_HERE)
                if time.monotonic() > until:
                    raise PeerLost(peer, None, f"no datagram for it could leave for {self._patience_s:g} s")
                pause_s = min(2 * pause_s, 0.016)

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed.set()
        with self._changing:
            connections = list(self._connections.values())
        for connection in connections:
            connection.lose(NO_LAYER, CLOSED_HERE)
        with self._collecting:
            pass  # whoever waited was woken and has left: no descriptor is waited on that may soon be another's
        super().close()
        for end in (*self._ends.values(), *self._targets.values()):
            end.close()

    def _wait(self, connections: Sequence[Connection], layer: int, left_s: float) -> None:
        """Until something comes, or for left_s, to the millisecond. Raises PeerLost for a connection that has ended."""
        poll = select.poll()
        for end in self._ends.values():
            poll.register(end, select.POLLIN)
        by_number = {}
        for connection in connections:
            connection.check(layer)
            by_number[connection.fileno()] = connection
            word = select.POLLIN if connection.peer in self._unheard else 0
            poll.register(connection.fileno(), select.POLLRDHUP | word)
        for number, event in poll.poll(left_s * 1e3):
            if number in by_number and event != select.POLLIN:
                raise by_number[number].lose(layer, "it closed the connection")
            if number in by_number:
                self._hear(by_number[number].peer)

    def _drain(self) -> None:
        """Take what has come."""
        for address, end in self._ends.items():
            for _ in range(MOST_AT_ONCE):
                try:
                    data, extra, _, _ = end.recvmsg(DATAGRAM_BYTES + 1, socket.CMSG_SPACE(_OVERRUN.size))
                except BlockingIOError:
                    break
                for _, kind, value in extra:
                    if kind == _SO_RXQ_OVFL:
                        self._overrun(address, _OVERRUN.unpack(value)[0])
                found = unpack(self._identity.token, data)
                if found is None:
                    self.traffic.dropped.foreign += 1
                else:
                    self._inbox.put(*found, self.traffic.dropped)

    def _overrun(self, address: str, total: int) -> None:
        self.traffic.dropped.overrun += total - self._overruns.get(address, 0)
        self._overruns[address] = total


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _receiving(address: str) -> socket.socket:
    """A socket for datagrams at an address, any port. Raises RuntimeFault."""
    end = socket.socket(_family(address), socket.SOCK_DGRAM)
    try:
        end.bind((address, 0))
        end.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    except OSError as fault:
        end.close()
        raise RuntimeFault(f"cannot take datagrams at {address}: {fault.strerror}") from fault
    large_buffer(end, socket.SO_RCVBUF)
    end.setblocking(False)
    granted = end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel tells twice what it holds
    if granted < BUFFER_BYTES:
        LOG.warning(
            "the kernel holds %d bytes of datagrams at %s, %d were asked for: what comes beyond that is lost here, not "
            "on the link; as root: sysctl net.core.rmem_max=%d", granted, address, BUFFER_BYTES, BUFFER_BYTES,
        )  # fmt: skip
    return end


def _port(heard: bytes, address: str, peer: int) -> int:
    """Where a peer takes datagrams, at the address at which this rank reaches it. Raises BadFrame."""
    try:
        return int(json.loads(heard)[address])
    except (ValueError, TypeError, KeyError) as fault:
        raise BadFrame(f"rank {peer} did not say where it takes datagrams at {address}") from fault


def _queued(end: socket.socket) -> int:
    """Bytes that this system has not sent yet; 0 of a socket that was closed meanwhile."""
    try:
        (left,) = struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        return 0
    return int(left)
