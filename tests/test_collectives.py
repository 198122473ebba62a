"""One conformance suite for all transports: collectives against torch on one device, bytes against formulas."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch

from runtime.collectives import Exchange, all_reduce_bytes
from runtime.errors import BadFrame, PeerLost
from runtime.transport import Transport, loopback
from runtime.transport.tcp import TcpMesh
from runtime.transport.wire import DTYPES, NO_LAYER, Kind

T = TypeVar("T")
Meshes = Callable[[int], list[Transport]]


def everywhere(mesh: list[Transport], act: Callable[[Transport], T]) -> list[T]:
    """Run `act` on all ranks at once; the first fault ends the mesh, so that nobody waits in vain."""

    def guarded(transport: Transport) -> T:
        try:
            return act(transport)
        except BaseException:
            transport.close()
            raise

    with ThreadPoolExecutor(len(mesh)) as threads:
        return list(threads.map(guarded, mesh))


def tcp_mesh(world: int) -> list[Transport]:
    token = os.urandom(32)
    mesh = [TcpMesh(rank, world, token, ["127.0.0.1"], patience_s=20.0) for rank in range(world)]
    peers = {each.rank: ("127.0.0.1", each.ports["127.0.0.1"]) for each in mesh}
    with ThreadPoolExecutor(world) as threads:
        list(threads.map(lambda each: each.join(peers), mesh))
    return [*mesh]


@pytest.fixture(params=["loopback", "tcp"])
def meshes(request: pytest.FixtureRequest) -> Iterator[Meshes]:
    made: list[Transport] = []

    def make(world: int) -> list[Transport]:
        mesh = loopback.mesh(world, patience_s=20.0) if request.param == "loopback" else tcp_mesh(world)
        made.extend(mesh)
        return mesh

    yield make
    for transport in made:
        transport.close()


def part(rank: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rank))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_all_gather_of_uneven_parts_over_many_layers(meshes: Meshes, world: int) -> None:
    def act(transport: Transport) -> list[dict[int, torch.Tensor]]:
        exchange = Exchange(transport, request=4)
        received = []
        for layer in range(5):
            # rank 0 has nothing to give: an empty part is a part
            pending = exchange.all_gather(layer, part(transport.rank, transport.rank, 3) + layer)
            received.append(pending.wait())
        transport.flush()
        return received

    mesh = meshes(world)
    for rank, layers in enumerate(everywhere(mesh, act)):
        for layer, received in enumerate(layers):
            assert list(received) == [other for other in range(world) if other != rank]
            assert all(torch.equal(got, part(other, other, 3) + layer) for other, got in received.items())
    for rank, transport in enumerate(mesh):
        assert transport.traffic.exchange_sent == 5 * (world - 1) * rank * 3 * 4
        assert transport.traffic.exchange_received == 5 * 12 * (world * (world - 1) // 2 - rank)
        assert transport.traffic.messages == 5 * (world - 1)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(6, 8), (5,), (7, 1, 3), (0, 4), ()])
def test_all_reduce_is_the_sum_and_the_same_everywhere(meshes: Meshes, world: int, shape: tuple[int, ...]) -> None:
    given = [part(rank, *shape) for rank in range(world)]
    kept = [tensor.clone() for tensor in given]
    mesh = meshes(world)
    sums = everywhere(mesh, lambda transport: Exchange(transport, 0).all_reduce(0, given[transport.rank]))
    torch.testing.assert_close(sums[0], torch.stack(kept).sum(0))
    assert all(torch.equal(each, sums[0]) for each in sums)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
    for rank, transport in enumerate(mesh):
        assert transport.traffic.exchange_sent == all_reduce_bytes(given[0].numel(), 4, world, rank)
        assert transport.traffic.messages == 2 * (world - 1)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_even_all_reduce_sends_the_textbook_bytes(world: int) -> None:
    size = 1024 * 4
    assert {all_reduce_bytes(1024, 4, world, rank) for rank in range(world)} == {2 * (world - 1) * size // world}


def test_ranks_that_reduce_different_shapes_are_told(meshes: Meshes) -> None:
    mesh = meshes(2)
    # chunks of 2+1 against 1+1 elements: the 1 would be broadcast into the 2
    with pytest.raises((BadFrame, PeerLost), match=r"same shape|closed"):
        everywhere(mesh, lambda transport: Exchange(transport, 0).all_reduce(0, torch.ones(3 - transport.rank)))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_crosses_unchanged(meshes: Meshes, dtype: torch.dtype) -> None:
    sent = torch.arange(-3, 9).to(dtype).reshape(3, 2, 2)

    def act(transport: Transport) -> torch.Tensor:
        exchange = Exchange(transport, 0)
        if transport.rank == 0:
            exchange.send_to(3, [1], sent.transpose(0, 2))  # not contiguous
            return sent.transpose(0, 2)
        return exchange.receive_from(3, [0])[0]

    ours, theirs = everywhere(meshes(2), act)
    assert theirs.dtype == dtype
    assert torch.equal(ours, theirs)


def test_inputs_and_results_are_counted_apart(meshes: Meshes) -> None:
    def act(transport: Transport) -> float:
        exchange = Exchange(transport, request=9)
        total = 0.0
        if transport.rank == 0:
            for rank in exchange.others:
                exchange.send_input(rank, part(rank, 10 * rank))
            total = sum(float(exchange.receive_result(rank)) for rank in exchange.others)
        else:
            exchange.send_result(0, exchange.receive_input(0).sum())
        assert (exchange.input_transfer_s > 0, exchange.result_waited_s > 0) == (
            transport.rank > 0,
            transport.rank == 0,
        )
        assert exchange.waited_s == 0
        return total

    mesh = meshes(3)
    total = everywhere(mesh, act)[0]
    assert total == pytest.approx(float(part(1, 10).sum() + part(2, 20).sum()), rel=1e-6)
    assert [each.traffic.scatter_sent for each in mesh] == [30 * 4, 0, 0]
    assert [each.traffic.gather_sent for each in mesh] == [0, 4, 4]
    assert [each.traffic.exchange_sent + each.traffic.messages for each in mesh] == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "request_number", "layer"),
    [(Kind.GATHER, 5, 2), (Kind.EXCHANGE, 4, 2), (Kind.EXCHANGE, 6, 2), (Kind.EXCHANGE, 5, 3)],
)
def test_another_frame_than_the_one_due_is_refused(meshes: Meshes, kind: Kind, request_number: int, layer: int) -> None:
    mesh = meshes(2)
    mesh[0].send(1, kind, request_number, layer, torch.ones(2))
    with pytest.raises(BadFrame, match="expected EXCHANGE of request 5, layer 2, from rank 0, got"):
        mesh[1].receive(0, Kind.EXCHANGE, 5, 2)


@pytest.mark.parametrize("closing", [0, 1])
def test_closing_either_end_wakes_who_waits(meshes: Meshes, closing: int) -> None:
    mesh = meshes(2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(mesh[0].receive, 1, Kind.EXCHANGE, 0, 7)
        mesh[closing].close()
        with pytest.raises(PeerLost) as lost:
            waiting.result(timeout=10)
    assert (lost.value.rank, lost.value.layer) == (1, 7)
    for transport in (mesh[0], mesh[0], mesh[1]):
        transport.close()
    with pytest.raises(PeerLost, match="layer None"):
        mesh[closing].send(1 - closing, Kind.GATHER, 0, NO_LAYER, torch.ones(1))


def test_what_was_sent_before_closing_arrives(meshes: Meshes) -> None:
    mesh = meshes(2)
    mesh[0].send(1, Kind.EXCHANGE, 0, 0, torch.ones(2))
    mesh[0].flush()
    mesh[0].close()
    assert mesh[1].receive(0, Kind.EXCHANGE, 0, 0).tolist() == [1, 1]
    with pytest.raises(PeerLost):
        mesh[1].receive(0, Kind.EXCHANGE, 0, 1)


def test_what_cannot_be_sent_is_refused_before_it_is_sent(meshes: Meshes) -> None:
    mesh = meshes(2)
    for unfit in (torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, 1, 1), torch.zeros(2, 3).t()):
        with pytest.raises(BadFrame):
            mesh[0].send(1, Kind.EXCHANGE, 0, 0, unfit)
    mesh[0].send(1, Kind.EXCHANGE, 0, 0, torch.ones(()))
    assert float(mesh[1].receive(0, Kind.EXCHANGE, 0, 0)) == 1
    assert mesh[0].traffic.exchange_sent == 4


def test_a_peer_that_does_not_exist_is_refused(meshes: Meshes) -> None:
    mesh = meshes(2)
    for peer in (0, 2, -1):
        with pytest.raises(ValueError, match="rank 0 of 2"):
            mesh[0].send(peer, Kind.EXCHANGE, 0, 0, torch.ones(1))
