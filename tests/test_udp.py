"""Datagrams between devices: how codes are cut into them, and what becomes of those that are late, early or lost.

Nothing is lost by chance here: a tap between two ranks passes on what a test names, deadlines are far longer than
anything takes, and where one has to pass, it passes because nothing was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict

import pytest
import torch

from runtime.codecs.vq import pack, packed_bytes, unpack
from runtime.collectives import Exchange
from runtime.errors import BadFrame, PeerLost, RuntimeFault
from runtime.plan import Span
from runtime.transport import gather, loopback, udp
from runtime.transport.gather import DATAGRAM_BYTES, HEADER_BYTES, ROOM_BYTES, Arrived, Cut, Label
from runtime.transport.udp import UdpMesh
from runtime.transport.wire import NO_LAYER, Kind
from tests.taps import LOCAL, TOKEN, Tap, udp_mesh

LONG_S = 30.0
CUT = Cut(Span(10, 60), 800)  # four datagrams of 14, 14, 14 and 8 tokens
FRAME = torch.randint(0, 256, (5000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mesh() -> Iterator[list[UdpMesh]]:
    made = udp_mesh(2)
    yield made
    for each in made:
        each.close()


def cast(mesh: UdpMesh, layer: int, number: int = 0) -> None:
    mesh.cast([1 - mesh.rank], number, layer, FRAME, CUT)


def collect(mesh: UdpMesh, layer: int, number: int = 0, deadline_s: float = LONG_S) -> Arrived:
    return mesh.collect(number, layer, {1 - mesh.rank: CUT}, deadline_s)[1 - mesh.rank]


def whole(arrived: Arrived) -> bool:
    return torch.equal(arrived.frame, FRAME) and not arrived.lost


def dropped(mesh: UdpMesh) -> dict[str, int]:
    """What was dropped, and how often; nothing that never was."""
    return {why: count for why, count in asdict(mesh.traffic.dropped).items() if count}


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize(("groups", "bits"), [(1, 1), (1, 10), (3, 9), (32, 10), (16, 16), (7, 13)])
@pytest.mark.parametrize("tokens", [1, 7, 300, 4097])
def test_a_datagram_is_of_use_by_itself_and_all_have_the_bytes_of_one_frame(
    tokens: int, groups: int, bits: int, streams: int
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    codes = [torch.randint(0, 1 << bits, (tokens, groups), generator=generator) for _ in range(streams)]
    frame = torch.cat([pack(one, bits) for one in codes])
    cut = Cut(Span(5, 5 + tokens), groups * bits, streams)
    bodies = cut.bodies(frame.numpy().data)
    assert [token for span in cut.spans for token in range(span.start, span.stop)] == list(range(5, 5 + tokens))
    assert sum(map(len, bodies)) == streams * packed_bytes(tokens, groups, bits)
    for sequence, (span, body) in enumerate(zip(cut.spans, bodies, strict=True)):
        label = cut.label((0, 0), 0, sequence)
        assert len(gather.pack(TOKEN, label, body)) == HEADER_BYTES + len(body) <= DATAGRAM_BYTES
        alone = torch.frombuffer(bytearray(body), dtype=torch.uint8).chunk(streams)
        for own, one in zip(alone, codes, strict=True):
            assert torch.equal(unpack(own, len(span), groups, bits), one[span.start - 5 : span.stop - 5])
    if len(bodies) > 1:  # not one more token would fit
        assert len(bodies[0]) * (1 + gather.byte_end(groups * bits) / len(cut.spans[0])) > ROOM_BYTES
    assert torch.equal(cut.joined(dict(enumerate(bodies))).frame, frame)


def test_a_frame_of_another_size_is_not_cut() -> None:
    with pytest.raises(BadFrame, match="a frame of 4999 bytes, 1 x 5000 are to be cut"):
        CUT.bodies(FRAME[1:].numpy().data)


def test_numbers_that_fit_no_header_are_refused() -> None:
    with pytest.raises(BadFrame, match="does not fit the header"):
        gather.pack(TOKEN, Label(0, 1 << 16, 0, 0, 0, 1), b"")


def test_what_one_rank_casts_is_what_the_other_collects(mesh: list[UdpMesh]) -> None:
    for layer in range(3):
        cast(mesh[0], layer)
        assert whole(collect(mesh[1], layer))
    mesh[0].flush()
    assert mesh[0].traffic.exchange_sent == mesh[1].traffic.exchange_received == 3 * 5000
    assert mesh[0].traffic.messages == 3 * 4
    assert dropped(mesh[0]) == dropped(mesh[1]) == {}


def test_each_rank_is_reached_at_the_address_at_which_frames_reach_it() -> None:
    here, there = "127.0.0.1", "127.0.0.2"
    with ExitStack() as stack:
        mesh = [UdpMesh(rank, 2, TOKEN, [here, there], patience_s=20.0) for rank in range(2)]
        for each in mesh:
            stack.callback(each.close)
        reach = [{1: (there, mesh[1].ports[there])}, {0: (here, mesh[0].ports[here])}]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda each: each.join(reach[each.rank]), mesh))
        for each in mesh:
            cast(each, 0)
        assert all(whole(collect(each, 0)) for each in mesh)


def test_peers_without_an_address_are_named() -> None:
    mesh = UdpMesh(0, 3, TOKEN, [LOCAL], patience_s=20.0)
    with pytest.raises(ValueError, match=r"no address of ranks \[2\]"):
        mesh.join({1: (LOCAL, 1)})
    mesh.close()


def test_order_and_repetition_do_no_harm(mesh: list[UdpMesh]) -> None:
    with Tap(*mesh) as tap:
        cast(mesh[0], 0)
        first, *rest = tap.take(4)
        for one in reversed(rest):
            tap.give(one, one)
        tap.give(first)
        assert whole(collect(mesh[1], 0))
    assert dropped(mesh[1]) == {"twice": 3}
    assert mesh[1].traffic.exchange_received == 5000


def test_what_is_ahead_is_kept_until_its_layer(mesh: list[UdpMesh]) -> None:
    """A peer may be layers ahead, and in the next request already."""
    moments = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    for number, layer in moments:
        cast(mesh[0], layer, number)
    for number, layer in moments:
        assert whole(collect(mesh[1], layer, number))
    assert dropped(mesh[1]) == {}


def test_what_is_missing_is_not_waited_for_once_a_later_layer_has_come_and_is_late_if_it_comes_all_the_same(
    mesh: list[UdpMesh],
) -> None:
    with Tap(*mesh) as tap:
        cast(mesh[0], 0)
        cast(mesh[0], 1)
        now, later = tap.take(4), tap.take(4)
        tap.give(now[0], now[2], now[3], later[0], later[0])
        came = collect(mesh[1], 0)
        assert came.lost == (Span(14, 28),) and came.came_bytes == 3600
        assert torch.equal(came.frame[:1400], FRAME[:1400]) and torch.equal(came.frame[2800:], FRAME[2800:])
        tap.give(now[1], *later[1:])
        assert whole(collect(mesh[1], 1))
        tap.give(*now)
        cast(mesh[0], 0, 1)
        tap.give(*tap.take(4))
        assert whole(collect(mesh[1], 0, 1))
    assert dropped(mesh[1]) == {"late": 5, "twice": 1}


def test_a_deadline_passes_where_a_peer_lives_and_says_nothing(mesh: list[UdpMesh]) -> None:
    exchange = Exchange(mesh[1], 0)
    came = exchange.collect_from(0, {0: CUT}, 0.05)[0]
    assert came.lost == (Span(0, 14), Span(14, 28), Span(28, 42), Span(42, 50))
    assert exchange.waited_s >= 0.05 and exchange.lost_tokens == 50
    cast(mesh[0], 0)
    cast(mesh[0], 1)
    assert whole(exchange.collect_from(1, {0: CUT}, LONG_S)[0])
    assert exchange.lost_tokens == 50 and dropped(mesh[1]) == {"late": 4}


@pytest.mark.parametrize("sign", ["word", "datagram"])
def test_the_first_deadline_runs_once_all_have_their_input(mesh: list[UdpMesh], sign: str) -> None:
    """Who is still handed its input is not missed; then its time runs."""
    with ThreadPoolExecutor(1) as threads, Tap(*mesh) as tap:
        cast(mesh[0], 0)
        first = tap.take(4)[0]
        mesh[1].begin(0, [0], [0])
        waiting = threads.submit(collect, mesh[1], 0, 0, 0.01)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        if sign == "word":
            mesh[0].begin(0, [1], [1])
        else:
            tap.give(first)
        assert len(waiting.result(timeout=20).lost) == (4 if sign == "word" else 3)


def test_words_that_nobody_waited_for_do_not_come_between_frames(mesh: list[UdpMesh]) -> None:
    for number in range(2):
        mesh[0].begin(number, [1], [1])
        mesh[1].begin(number, [0], [0])
        cast(mesh[0], 0, number)
        assert whole(collect(mesh[1], 0, number))
    for number in range(2):
        mesh[0].send(1, Kind.GATHER, number, NO_LAYER, torch.ones(1))
        assert float(mesh[1].receive(0, Kind.GATHER, number, NO_LAYER)) == 1
    assert mesh[0].traffic.messages == 8  # a word is none


def test_words_that_nobody_waited_for_do_not_pile_up() -> None:
    """In thousands of requests they would fill the receiver's buffer, and the sender would take it for lost."""
    mesh = udp_mesh(2, patience_s=0.5)
    for number in range(6000):
        mesh[0].begin(number, [1], [])
        mesh[1].begin(number, [], [0])
    mesh[0].flush()
    for each in mesh:
        each.close()


def test_who_never_begins_is_lost() -> None:
    mesh = udp_mesh(2, patience_s=0.3)
    mesh[0].begin(0, [1], [1])
    with pytest.raises(PeerLost, match=r"rank 1 lost at layer 0: it did not begin within 0\.3 s"):
        collect(mesh[0], 0)
    for each in mesh:
        each.close()


def test_only_what_is_due_from_a_device_of_this_run_is_taken(mesh: list[UdpMesh]) -> None:
    label, body = CUT.label((0, 0), 0, 0), bytes(1400)
    unfit = [
        gather.pack(TOKEN, label, body[1:]),
        gather.pack(TOKEN, label._replace(tokens=13), bytes(1300)),
        gather.pack(TOKEN, label._replace(first=0), body),
        gather.pack(TOKEN, label._replace(sequence=4), body),
        gather.pack(TOKEN, label._replace(sender=1), body),
        gather.pack(TOKEN, label._replace(sender=7), body),
    ]
    with Tap(*mesh) as tap:
        cast(mesh[0], 0)
        own = tap.take(4)
        changed = bytearray(own[1])
        changed[-1] ^= 1
        foreign = [
            b"",
            b"who is there?",
            bytes(2000),
            own[0][:-1],
            own[0][:20],
            own[0] + b"!",
            bytes(changed),
            gather.pack(bytes(32), label, body),
        ]
        tap.give(*unfit, *foreign, *own)
        assert whole(collect(mesh[1], 0))
    assert dropped(mesh[1]) == {"foreign": len(foreign), "unfit": len(unfit)}


def test_a_datagram_does_not_tell_the_token() -> None:
    assert TOKEN[:8] not in gather.pack(TOKEN, CUT.label((0, 0), 0, 0), bytes(1400))


@pytest.mark.parametrize("closing", [0, 1])
def test_a_peer_that_leaves_in_the_middle_of_a_layer_is_lost_at_once(mesh: list[UdpMesh], closing: int) -> None:
    """Its connection ends; no deadline has to pass."""
    with ThreadPoolExecutor(1) as threads, Tap(mesh[1], mesh[0]) as tap:
        cast(mesh[1], 3)
        tap.give(tap.take(4)[0])
        waiting = threads.submit(collect, mesh[0], 3)
        mesh[closing].close()
        with pytest.raises(PeerLost, match=["closed on this side", "it closed"][closing]) as lost:
            waiting.result(timeout=20)
    assert (lost.value.rank, lost.value.layer) == (1, 3)
    with pytest.raises(PeerLost):
        collect(mesh[0], 4)
    with pytest.raises(PeerLost):
        cast(mesh[closing], 4)
    mesh[0].close()


def test_what_the_kernel_has_no_room_for_is_counted(mesh: list[UdpMesh]) -> None:
    flood = 12000
    with Tap(*mesh) as tap:
        tap.give(*[bytes(1400)] * flood)
        cast(mesh[0], 0)
        cast(mesh[0], 1)
        now, later = tap.take(4), tap.take(4)
        came = collect(mesh[1], 0, deadline_s=0.2)  # takes all that there was room for
        tap.give(*now, *later)
        assert len(came.lost) == 4 and whole(collect(mesh[1], 1))
    found = dropped(mesh[1])
    assert found["overrun"] > 0 and found["foreign"] + found["overrun"] == flood and found["late"] == 4


def test_a_small_buffer_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(udp, "BUFFER_BYTES", 1 << 40)
    with caplog.at_level(logging.WARNING):
        UdpMesh(0, 1, TOKEN, [LOCAL]).close()
    assert "of datagrams at 127.0.0.1" in caplog.text and f"net.core.rmem_max={1 << 40}" in caplog.text


def test_a_mesh_without_datagrams_says_so() -> None:
    with pytest.raises(RuntimeFault, match="transport: udp needs devices on a network"):
        Exchange(loopback.mesh(2)[0], 0).cast_to(0, [1], FRAME, CUT)
