"""Between the ranks of a mesh with datagrams: what one sends is looked at, held, repeated or lost, as a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from runtime.transport import Traffic, gather
from runtime.transport.gather import Label
from runtime.transport.udp import UdpMesh

LOCAL, TOKEN = "127.0.0.1", bytes(range(32))


def udp_mesh(world: int, patience_s: float = 20.0) -> list[UdpMesh]:
    """A mesh that has joined; to be closed by the caller."""
    mesh = [UdpMesh(rank, world, TOKEN, [LOCAL], patience_s) for rank in range(world)]
    peers = {each.rank: (LOCAL, each.ports[LOCAL]) for each in mesh}
    with ThreadPoolExecutor(world) as threads:
        list(threads.map(lambda each: each.join(peers), mesh))
    for each in mesh:
        each.traffic = Traffic()
    return mesh


class Tap:
    """Stands between two ranks: takes what one casts, and passes on what it is given."""

    def __init__(self, sender: UdpMesh, receiver: UdpMesh) -> None:
        self._end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._end.bind((LOCAL, 0))
        self._end.settimeout(20)
        self._target = receiver.where()[LOCAL]
        sender.aim(receiver.rank, self._end.getsockname())

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def take(self, count: int) -> list[bytes]:
        """The next datagrams that were cast."""
        return [self._end.recv(2048) for _ in range(count)]

    def give(self, *datagrams: bytes) -> None:
        for one in datagrams:
            self._end.sendto(one, self._target)


class Forwarder:
    """Stands before one rank for all others, and passes on what is not to be lost."""

    def __init__(self, mesh: list[UdpMesh], receiver: UdpMesh, lost: Callable[[int, Label], bool]) -> None:
        self._end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._end.bind((LOCAL, 0))
        self._rank, self._lost, self._target = receiver.rank, lost, receiver.where()[LOCAL]
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()
        for each in mesh:
            if each is not receiver:
                each.aim(receiver.rank, self._end.getsockname())

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.sendto(b"", self._end.getsockname())
        self._thread.join()
        self._end.close()

    def _forward(self) -> None:
        while data := self._end.recv(2048):
            found = gather.unpack(TOKEN, data)
            assert found is not None
            if not self._lost(self._rank, found[0]):
                self._end.sendto(data, self._target)
