"""The TCP mesh among strangers, deaths and floods. What all transports share is in test_collectives."""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from runtime.collectives import Exchange
from runtime.errors import BadFrame, PeerLost, RuntimeFault
from runtime.transport import wire
from runtime.transport.door import MAX_GUESTS
from runtime.transport.tcp import TcpMesh
from runtime.transport.wire import NO_LAYER, Header, Kind

LOCAL = "127.0.0.1"
TOKEN = bytes(range(32))
Build = Callable[..., list[TcpMesh]]


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[TcpMesh] = []

    def make(world: int, ranks: int | None = None, patience_s: float = 20.0) -> list[TcpMesh]:
        """The first `ranks` of a mesh of `world`, listening but not joined."""
        mesh = [TcpMesh(rank, world, TOKEN, [LOCAL], patience_s) for rank in range(ranks or world)]
        made.extend(mesh)
        return mesh

    yield make
    for each in made:
        each.close()


def door(mesh: TcpMesh) -> tuple[str, int]:
    return LOCAL, mesh.ports[LOCAL]


def join(mesh: list[TcpMesh]) -> None:
    peers = {each.rank: door(each) for each in mesh}
    with ThreadPoolExecutor(len(mesh)) as threads:
        list(threads.map(lambda each: each.join(peers), mesh))


def hello(rank: int = 1, token: bytes = TOKEN) -> bytes:
    return wire.pack(Header(Kind.HELLO, rank, 0, NO_LAYER, torch.uint8, (32,))) + token


def visit(mesh: TcpMesh) -> socket.socket:
    return socket.create_connection(door(mesh), timeout=20)


def turned_away(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(1) == b""
    except ConnectionResetError:
        return True


def impersonate(mesh: TcpMesh, rank: int = 1) -> socket.socket:
    """A peer of one's own making, joined by hand."""
    visitor = visit(mesh)
    visitor.sendall(hello(rank))
    assert len(visitor.recv(64, socket.MSG_WAITALL)) == 64
    mesh.join({})
    return visitor


STRANGERS = {
    "wrong token": (hello(token=bytes(32)), "another run"),
    "garbage": (b"GET / HTTP/1.1\r\nHost: device.example\r\n\r\n", "not a frame"),
    "rank of nobody": (hello(rank=9), "no business"),
    "rank of a lower one": (hello(rank=0), "no business"),
    "huge frame": (
        struct.pack("!I4sBBHIHBB3I", 1 << 31, wire.MAGIC, 1, 1, 1, 0, NO_LAYER, 4, 1, 1 << 31, 0, 0),
        "limit",
    ),
    "data before HELLO": (wire.pack(Header(Kind.EXCHANGE, 1, 0, 0, torch.float32, (8,))), "instead of a HELLO"),
    "short HELLO": (wire.pack(Header(Kind.HELLO, 1, 0, NO_LAYER, torch.uint8, (0,))), "instead of a HELLO"),
}


@pytest.mark.parametrize("joined", [False, True], ids=["before join", "after join"])
def test_strangers_are_dropped_and_logged_and_the_mesh_goes_on(
    build: Build, joined: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = build(2)
    if joined:
        join(mesh)
    silent, slow = visit(mesh[0]), visit(mesh[0])
    slow.sendall(hello()[:40])
    for data, why in STRANGERS.values():
        with visit(mesh[0]) as stranger, caplog.at_level(logging.WARNING):
            stranger.sendall(data)
            assert turned_away(stranger)
            port = stranger.getsockname()[1]
        said = [record.getMessage() for record in caplog.records if f"{LOCAL}:{port}" in record.getMessage()]
        assert len(said) == 1 and why in said[0]
    if not joined:
        join(mesh)
    mesh[0].send(1, Kind.EXCHANGE, 0, 0, torch.ones(3))
    assert mesh[1].receive(0, Kind.EXCHANGE, 0, 0).tolist() == [1, 1, 1]
    silent.close()
    slow.close()


def test_a_rank_joins_once(build: Build) -> None:
    mesh = build(2)
    join(mesh)
    with visit(mesh[0]) as second:
        second.sendall(hello())
        assert turned_away(second)
    with pytest.raises(ValueError, match="joined already"):
        mesh[1].join({0: door(mesh[0])})


def test_a_half_open_connection_is_dropped_when_its_time_is_up(build: Build) -> None:
    (mesh,) = build(2, ranks=1, patience_s=0.2)
    with visit(mesh) as silent, visit(mesh) as slow:
        slow.sendall(hello()[:63])
        assert turned_away(silent) and turned_away(slow)


def test_many_silent_strangers_do_not_keep_a_peer_out(build: Build) -> None:
    mesh = build(2)
    crowd = [visit(mesh[0]) for _ in range(MAX_GUESTS + 8)]
    join(mesh)
    assert turned_away(crowd[0])
    for each in crowd:
        each.close()


def test_someone_else_at_the_address_of_a_peer_is_not_taken_for_it(build: Build) -> None:
    mesh = build(3)
    with pytest.raises(BadFrame, match="rank 1 answered where rank 0 was expected"):
        mesh[2].join({0: door(mesh[1]), 1: door(mesh[1])})


def test_a_peer_of_another_run_is_lost_with_a_hint(build: Build) -> None:
    (mesh,) = build(2, ranks=1)
    other = TcpMesh(1, 2, bytes(32), [LOCAL], patience_s=0.3)
    with pytest.raises(PeerLost, match=r"rank 0 lost at layer None: cannot be reached .*token"):
        other.join({0: door(mesh)})
    other.close()


def test_a_peer_that_never_comes_is_lost(build: Build) -> None:
    (mesh,) = build(2, ranks=1, patience_s=0.2)
    with pytest.raises(PeerLost, match="rank 1 lost at layer None: did not join"):
        mesh.join({})


def test_a_silent_peer_is_lost(build: Build) -> None:
    mesh = build(2, patience_s=0.3)
    join(mesh)
    with pytest.raises(PeerLost, match=r"rank 1 lost at layer 4: silent for 0\.3 s"):
        mesh[0].receive(1, Kind.EXCHANGE, 0, 4)


def test_large_all_to_all_does_not_deadlock_and_flush_sees_it_through(build: Build) -> None:
    mesh = build(4)
    join(mesh)

    def act(each: TcpMesh) -> bool:
        exchange = Exchange(each, 0)
        ours = torch.full((2048, 1024), float(each.rank))
        first, second = exchange.all_gather(0, ours), exchange.all_gather(1, ours[:1])
        whole = all(bool((got == rank).all()) for rank, got in first.wait().items())
        after = all(got.shape == (1, 1024) for got in second.wait().values())
        each.flush()
        return whole and after

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(act, mesh))
    assert [each.traffic.exchange_sent for each in mesh] == [3 * (2048 + 1) * 4096] * 4


def test_a_peer_that_takes_nothing_is_lost_at_the_next_verb(build: Build) -> None:
    (mesh,) = build(2, ranks=1, patience_s=0.3)
    with impersonate(mesh):
        mesh.send(1, Kind.EXCHANGE, 0, 0, torch.zeros(16 << 20))  # more than both sockets hold
        with pytest.raises(PeerLost, match="took no data"):
            mesh.flush()
        with pytest.raises(PeerLost, match="layer 1: it took no data"):
            mesh.send(1, Kind.EXCHANGE, 0, 1, torch.zeros(1))
        with pytest.raises(PeerLost, match="layer 2: it took no data"):
            mesh.receive(1, Kind.EXCHANGE, 0, 2)


def test_a_reset_in_the_middle_of_a_frame_loses_the_peer(build: Build) -> None:
    (mesh,) = build(2, ranks=1)
    peer = impersonate(mesh)
    peer.sendall(wire.pack(Header(Kind.EXCHANGE, 1, 0, 6, torch.float32, (1000,))) + bytes(100))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()  # with no time to linger: RST
    with pytest.raises(PeerLost, match=r"rank 1 lost at layer 6: Connection reset by peer$"):
        mesh.receive(1, Kind.EXCHANGE, 0, 6)
    with pytest.raises(PeerLost, match="layer 7"):
        mesh.send(1, Kind.EXCHANGE, 0, 7, torch.zeros(1))


@pytest.mark.parametrize("kind", ["garbage", "huge frame"])
def test_what_is_no_frame_ends_the_connection_to_a_peer(build: Build, kind: str) -> None:
    data, why = STRANGERS[kind]
    (mesh,) = build(2, ranks=1)
    with impersonate(mesh) as peer:
        peer.sendall(data)
        with pytest.raises(BadFrame, match=why):
            mesh.receive(1, Kind.EXCHANGE, 0, 0)
        with pytest.raises(PeerLost, match=why):
            mesh.receive(1, Kind.EXCHANGE, 0, 0)
        assert turned_away(peer)


CHILD = """
import sys, torch
from runtime.transport.tcp import TcpMesh
from runtime.transport.wire import Kind
mesh = TcpMesh(1, 2, bytes(range(32)), ["127.0.0.1"])
mesh.join({0: ("127.0.0.1", int(sys.argv[1]))})
mesh.send(0, Kind.EXCHANGE, 0, 0, torch.ones(2))
mesh.receive(0, Kind.EXCHANGE, 0, 1)
"""


def test_a_killed_process_is_missed_at_once(build: Build) -> None:
    (mesh,) = build(2, ranks=1, patience_s=60.0)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(mesh.ports[LOCAL])]) as child:
        try:
            mesh.join({})
            assert mesh.receive(1, Kind.EXCHANGE, 0, 0).tolist() == [1, 1]
        finally:
            child.kill()
        with pytest.raises(PeerLost) as lost:
            mesh.receive(1, Kind.EXCHANGE, 0, 1)
    assert (lost.value.rank, lost.value.layer) == (1, 1)
    assert "silent" not in lost.value.why


def test_closing_during_join_ends_it(build: Build) -> None:
    (mesh,) = build(2, ranks=1)
    with ThreadPoolExecutor(1) as threads:
        joining = threads.submit(mesh.join, {})
        mesh.close()
        with pytest.raises(PeerLost, match="closed on this side"):
            joining.result(timeout=10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rank": 2}, "rank 2 of 2"),
        ({"token": b"short"}, "32 bytes, got 5"),
        ({"patience_s": 0.0}, "positive"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], said: str) -> None:
    valid: dict[str, object] = {"rank": 0, "world": 2, "token": TOKEN, "addresses": [LOCAL]}
    with pytest.raises(ValueError, match=said):
        TcpMesh(**(valid | arguments))  # type: ignore[arg-type]


def test_what_the_system_refuses_is_said() -> None:
    with pytest.raises(RuntimeFault, match=r'congestion control "nosuch" is refused .*cubic'):
        TcpMesh(0, 2, TOKEN, [LOCAL], congestion="nosuch")
    with pytest.raises(RuntimeFault, match=r"cannot listen on 192\.0\.2\.1"):
        TcpMesh(0, 2, TOKEN, ["192.0.2.1"])
