"""How two devices of one run come together: whoever connects shows the run's token, anyone else is turned away.

A HELLO is one frame, the token its payload, the sender its rank; the answer is a HELLO too, so both sides know whom
they have. The token keeps strangers and other runs out; it travels in the clear and does not hide what is sent.
"""

from __future__ import annotations

import hmac
import logging
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from runtime.errors import BadFrame, PeerLost, RuntimeFault
from runtime.transport import wire

LOG = logging.getLogger(__name__)
HELLO_BYTES: Final = wire.HEADER_BYTES + wire.TOKEN_BYTES
HANDSHAKE_S: Final = 5.0
MAX_GUESTS: Final = 64
RETRY_S: Final = 0.05


@dataclass(frozen=True)
class Identity:
    """Who this device is: its rank among `world` ranks, and the run's token of 32 bytes."""

    rank: int
    world: int
    token: bytes = field(repr=False)

    def hello(self) -> bytes:
        """The frame that introduces this device."""
        return wire.pack(wire.Header(wire.Kind.HELLO, self.rank, 0, wire.NO_LAYER, torch.uint8, (32,))) + self.token

    def read(self, data: bytes) -> int | None:
        """The rank that said hello, None while bytes are missing. Raises BadFrame for anything else."""
        if len(data) < wire.HEADER_BYTES:
            return None
        header = wire.unpack(data[: wire.HEADER_BYTES])
        if header.kind is not wire.Kind.HELLO or header.payload_bytes != wire.TOKEN_BYTES:
            raise BadFrame(f"{header.kind.name} of {header.payload_bytes} bytes instead of a HELLO with the token")
        if len(data) < HELLO_BYTES:
            return None
        if not hmac.compare_digest(data[wire.HEADER_BYTES : HELLO_BYTES], self.token):
            raise BadFrame("the token of another run")
        return header.sender


def new_socket(address: str, congestion: str | None) -> socket.socket:
    """A TCP socket for this kind of address that sends small messages at once.

    Raises RuntimeFault if the kernel refuses the congestion control.
    """
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        # Before the connection exists, so that both ends of it never run on the machine's default.
        if congestion is not None:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    except OSError as fault:
        made.close()
        known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        raise RuntimeFault(
            f'TCP congestion control "{congestion}" is refused by this kernel ({fault.strerror}); it has: '
            + ", ".join(known)
        ) from fault
    return made


@dataclass(eq=False)
class _Guest:
    """A connection that has not said who it is yet."""

    socket: socket.socket
    address: str
    until: float
    data: bytearray = field(default_factory=bytearray)


class Door:
    """Listens on every address and lets in the higher ranks of this run, for as long as it is open.

    One thread looks after all guests without ever waiting for one of them, so a silent or slow stranger holds up
    nobody: it has `handshake_s` seconds, 64 bytes, and a place among MAX_GUESTS.
    """

    def __init__(
        self, identity: Identity, addresses: Sequence[str], congestion: str | None, handshake_s: float
    ) -> None:
        self._identity, self._handshake_s = identity, handshake_s
        self._arrived = threading.Condition()
        self._known: set[int] = set()
        self._waiting: dict[int, socket.socket] = {}
        self._guests: list[_Guest] = []
        self._listeners: list[socket.socket] = []
        self._closed = False
        self.ports: dict[str, int] = {}
        try:
            for address in addresses:
                self.ports[address] = self._listen(address, congestion)
        except BaseException:
            _close_all(self._listeners)
            raise
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name=f"door-{identity.rank}", daemon=True)
        self._thread.start()

    def wait_for(self, rank: int, patience_s: float) -> socket.socket:
        """The connection of a higher rank. Raises PeerLost if it has not come after patience_s seconds."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._closed or rank in self._waiting, patience_s)
            if rank not in self._waiting:
                why = "closed on this side" if self._closed else f"did not join within {patience_s:.3g} s"
                raise PeerLost(rank, None, why)
            return self._waiting.pop(rank)

    def close(self) -> None:
        """Stop listening and drop whoever has not been asked for yet."""
        with self._arrived:
            if self._closed:
                return
            self._closed = True
            self._arrived.notify_all()
        self._button.send(b"!")
        self._thread.join()
        self._selector.close()
        guests = [guest.socket for guest in self._guests]
        _close_all([*self._listeners, *guests, *self._waiting.values(), self._bell, self._button])

    def _listen(self, address: str, congestion: str | None) -> int:
        listener = new_socket(address, congestion)
        self._listeners.append(listener)
        try:
            listener.bind((address, 0))
        except OSError as fault:
            raise RuntimeFault(f"cannot listen on {address}: {fault.strerror}") from fault
        listener.listen(128)
        listener.setblocking(False)
        return int(listener.getsockname()[1])

    def _serve(self) -> None:
        while not self._closed:
            now = time.monotonic()
            for guest in [guest for guest in self._guests if guest.until <= now]:
                self._drop(guest, f"no HELLO within {self._handshake_s:g} s")
            # Guests are in the order of their arrival, so the first one's time is up first.
            for key, _ in self._selector.select(self._guests[0].until - now if self._guests else None):
                if isinstance(key.data, _Guest):
                    self._hear(key.data)
                elif key.fileobj is not self._bell:
                    self._admit(key.fileobj)  # type: ignore[arg-type]

    def _admit(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except OSError as fault:
            # Gone again before it was accepted, or no descriptor is left: without a pause the latter would spin.
            LOG.warning("rank %d could not accept a connection: %s", self._identity.rank, fault)
            time.sleep(RETRY_S)
            return
        connection.setblocking(False)
        guest = _Guest(connection, f"{address[0]}:{address[1]}", time.monotonic() + self._handshake_s)
        if len(self._guests) >= MAX_GUESTS:
            self._drop(self._guests[0], f"more than {MAX_GUESTS} connections without a HELLO")
        self._guests.append(guest)
        self._selector.register(connection, selectors.EVENT_READ, guest)

    def _hear(self, guest: _Guest) -> None:
        if guest not in self._guests:  # dropped by an earlier event of the same round
            return
        try:
            data = guest.socket.recv(HELLO_BYTES - len(guest.data))
            guest.data += data
            rank = self._identity.read(bytes(guest.data))
        except BlockingIOError:
            return
        except (OSError, BadFrame) as fault:
            return self._drop(guest, str(fault))
        if not data:
            self._drop(guest, "it left before its HELLO")
        elif rank is not None:
            self._welcome(guest, rank)

    def _welcome(self, guest: _Guest, rank: int) -> None:
        if not self._identity.rank < rank < self._identity.world:
            return self._drop(guest, f"rank {rank} has no business here")
        if rank in self._known:
            return self._drop(guest, f"rank {rank} is connected already")
        try:
            guest.socket.send(self._identity.hello())  # 64 bytes always fit into an empty buffer
        except OSError as fault:
            return self._drop(guest, str(fault))
        self._forget(guest)
        guest.socket.setblocking(True)
        with self._arrived:
            self._known.add(rank)
            self._waiting[rank] = guest.socket
            self._arrived.notify_all()

    def _drop(self, guest: _Guest, why: str) -> None:
        LOG.warning("rank %d dropped a connection from %s: %s", self._identity.rank, guest.address, why)
        self._forget(guest)
        guest.socket.close()

    def _forget(self, guest: _Guest) -> None:
        self._selector.unregister(guest.socket)
        self._guests.remove(guest)


def dial(
    identity: Identity,
    peer: int,
    address: tuple[str, int],
    congestion: str | None,
    patience_s: float,
    give_up: threading.Event,
) -> socket.socket:
    """Connect to a lower rank and say hello, again and again for patience_s seconds. Raises PeerLost, BadFrame.

    BadFrame: something answered there that is not this peer.
    """
    until = time.monotonic() + patience_s
    while True:
        connection = new_socket(address[0], congestion)
        try:
            connection.settimeout(max(until - time.monotonic(), 0.001))
            connection.connect(address)
            connection.sendall(identity.hello())
            _await_hello(connection, identity, peer)
            connection.settimeout(None)
            return connection
        except OSError as fault:
            connection.close()
            if give_up.wait(RETRY_S):
                raise PeerLost(peer, None, "closed on this side") from fault
            if time.monotonic() >= until:
                why = f"cannot be reached at {address[0]}:{address[1]} within {patience_s:.3g} s: {fault}"
                raise PeerLost(peer, None, why) from fault
        except BaseException:
            connection.close()
            raise


def _await_hello(connection: socket.socket, identity: Identity, peer: int) -> None:
    data = b""
    while (rank := identity.read(data)) is None:
        received = connection.recv(HELLO_BYTES - len(data))
        if not received:
            raise ConnectionResetError("it hung up on our HELLO (another run's token?)")
        data += received
    if rank != peer:
        raise BadFrame(f"rank {rank} answered where rank {peer} was expected")


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
