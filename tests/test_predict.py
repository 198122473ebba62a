"""The simulation of predictions against formulas: what is on a line takes its time, and nothing gets lost."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.steps import AllReduce, Purpose, Receive, Send, Step
from testbed import linetime
from testbed.paths import path
from testbed.predict.flow import Tcp
from testbed.predict.network import Course, Routes
from testbed.predict.simulate import simulate
from testbed.predict.work import Costs, Load, PredictError, shifts
from testbed.topology import Event, Lane, Loss, Topology, Trace
from testbed.topology import Step as Change
from tests.networks import ring, star
from tests.works import (
    COMPUTE,
    FRAME_S_10M,
    HEADER_BYTES,
    all_gather,
    cable,
    frames,
    line_bytes,
    medium,
    mesh,
    one_message,
    send,
    take,
    work,
)

SIZES = [1, 1000, 1416, 1417, 60_000, 250_000, 3_000_000]


def _one_way_s(topology: Topology, payload_bytes: int) -> float:
    """What `linetime.expected` says up to the arrival: its one-byte answer taken off."""
    over = path(topology, "h2", "h1")
    expected_s = linetime.expected(over, payload_bytes + HEADER_BYTES, "netem")
    answer_bytes = 1 + linetime.HEADERS_BYTES
    return expected_s - sum(answer_bytes * 8 / h.lane.rate_bit_s + h.lane.delay_s for h in over.answers)


@pytest.mark.parametrize("payload_bytes", SIZES)
@pytest.mark.parametrize("topology", [cable(Lane(10e6)), star(2, Lane(10e6))], ids=["cable", "star"])
def test_a_message_takes_what_the_line_takes(topology: Topology, payload_bytes: int) -> None:
    took_s = simulate(topology, one_message(payload_bytes)).latency_s
    # Behind the last of large messages linetime's answer waits for one acknowledgement.
    assert took_s == pytest.approx(_one_way_s(topology, payload_bytes), rel=1e-3, abs=1e-9)
    frame_s = (len(topology.links) - 1) * min(line_bytes(payload_bytes), linetime.FULL_FRAME_BYTES) * 8 / 10e6
    if frames(payload_bytes) == 1 or payload_bytes + HEADER_BYTES == 1448:
        assert took_s == pytest.approx(line_bytes(payload_bytes) * 8 / 10e6 + frame_s)


def test_a_delay_is_paid_once_by_what_fits_the_first_window() -> None:
    lane, ten = Lane(100e6, 20e-3), 10 * 1448 - HEADER_BYTES
    assert simulate(cable(lane), one_message(ten)).latency_s == pytest.approx(line_bytes(ten) * 8 / 100e6 + 20e-3)


def test_a_window_opens_by_twice_per_round_trip() -> None:
    rtt_s, lane = 100e-3, Lane(1e9, 50e-3)
    for rounds in range(4):  # 10, 20, 40 frames and so on: one more than so many rounds carry costs one more
        for more in (0, 1):
            size = (10 * (2**rounds - 1) + more) * 1448 - HEADER_BYTES
            if size > 0:
                took_s = simulate(cable(lane), one_message(size)).latency_s
                assert took_s == pytest.approx((rounds - 1 + more) * rtt_s + 50e-3, rel=0.03)


def test_a_window_closes_again_while_nothing_is_sent() -> None:
    size, lane = 150 * 1448 - HEADER_BYTES, Lane(1e9, 20e-3)

    def second_s(idle_s: float) -> float:
        steps: list[list[Step]] = [[take(1), COMPUTE, send(1, 1), take(1)], [send(0, size), take(0), send(0, size)]]
        return simulate(cable(lane), work(steps, idle_s)).latency_s - idle_s

    assert second_s(0.0) + 30e-3 < second_s(5.0)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_an_all_gather_on_a_star_takes_the_bytes_of_the_others(world: int) -> None:
    # And the first hop's frame; full duplex, acknowledgements travel with data.
    due_s = (world - 1) * line_bytes(150_000) * 8 / 10e6
    outcome = simulate(star(world), all_gather(world, 150_000))
    assert outcome.latency_s == pytest.approx(due_s + FRAME_S_10M, rel=0.01)


def test_computing_between_sending_and_waiting_hides_the_transfer() -> None:
    alone_s = simulate(star(4), all_gather(4, 50_000)).latency_s
    for compute_s, due_s in ((alone_s / 2, alone_s), (2 * alone_s, 2 * alone_s)):
        outcome = simulate(star(4), all_gather(4, 50_000, compute_s=compute_s))
        assert outcome.latency_s == pytest.approx(due_s, rel=1e-6)
        assert outcome.busy_s[0] == pytest.approx(compute_s)
        assert outcome.waited_s[0] == pytest.approx(due_s - compute_s, abs=1e-9)


def test_on_a_shared_medium_all_bytes_wait_for_one_rate() -> None:
    world, size = 4, 100_000
    steps: list[list[Step]] = [[Receive(0, (1, 2, 3), "exchange")], *([send(0, size)] for _ in range(world - 1))]
    outcome = simulate(medium(world, 10e6), work(steps))
    answers = 3 * (frames(size) // 2) * linetime.HEADERS_BYTES
    assert outcome.latency_s == pytest.approx((3 * line_bytes(size) + answers) * 8 / 10e6, rel=0.005)


def test_bytes_of_every_direction_are_those_of_the_messages() -> None:
    size = 100_000
    outcome = simulate(star(2), one_message(size))
    answers = frames(size) // 2 * linetime.HEADERS_BYTES
    forth, back = {"h2 -> s1", "s1 -> h1"}, {"h1 -> s1", "s1 -> h2"}
    assert outcome.hop_bytes == {hop: line_bytes(size) for hop in forth} | {hop: answers for hop in back}


def test_an_all_reduce_is_the_ring_of_the_runtime() -> None:
    world, size = 4, 4 * 1000
    sent = [part.payload_bytes for part in shifts(AllReduce(0, size), 1, world) if isinstance(part, Send)]
    assert sent == [1000] * 6
    uneven = [p.payload_bytes for r in range(3) for p in shifts(AllReduce(0, 4 * 7), r, 3) if isinstance(p, Send)]
    assert sum(uneven) == 2 * (3 - 1) * 4 * 7  # every chunk goes round twice, but for one step
    outcome = simulate(star(world), work([[AllReduce(0, 1_000_000)]] * world))
    chunk_s = line_bytes(250_000) * 8 / 10e6
    answers_s = frames(250_000) / 2 * linetime.HEADERS_BYTES * 8 / 10e6  # nothing goes the other way to carry them
    assert outcome.latency_s == pytest.approx(6 * (chunk_s + answers_s), rel=0.01)


def test_a_trace_that_halves_the_rate_halfway_takes_half_as_long_again() -> None:
    size = 500_000
    whole_s = line_bytes(size) * 8 / 10e6
    lane = Lane(10e6, trace=Trace((Change(whole_s / 2, 5e6),)))
    outcome = simulate(cable(lane, Lane(10e6)), one_message(size))
    assert outcome.latency_s == pytest.approx(1.5 * whole_s, rel=1e-6)


def test_what_is_sent_while_a_link_is_down_waits_and_for_ever_is_said() -> None:
    lane = Lane(10e6)
    outage = Event(0.0, "down", ("h1", "h2"), for_s=2.0)
    topology = cable(lane)
    down = Topology(**{**vars(topology), "events": (outage,)})
    assert simulate(down, one_message(1000)).latency_s == pytest.approx(2 + line_bytes(1000) * 8 / 10e6)
    gone = Topology(**{**vars(topology), "events": (Event(0.0, "down", ("h1", "h2")),)})
    with pytest.raises(PredictError, match="h2 -> h1 is down to the end"):
        simulate(gone, one_message(1000))


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(1e5, 1e7)), min_size=1, max_size=6), st.floats(1, 1e7))
def test_a_course_carries_the_integral_of_its_rate(changes: list[tuple[float, float]], bits: float) -> None:
    at_s, steps = 0.0, []
    for gap_s, rate in changes:
        at_s += gap_s
        steps.append(Change(round(at_s, 3), rate))
    lane = Lane(1e6, trace=Trace(tuple(steps)))
    topology = cable(lane)
    course = Course(path(topology, "h2", "h1").hops[0], topology)
    ends_s = course.after(0.0, bits)
    edges = [(0.0, 1e6), *((step.at_s, step.rate_bit_s or 0.0) for step in steps), (math.inf, 0.0)]
    carried = sum(
        rate * (min(until, ends_s) - begin) for (begin, rate), (until, _) in pairwise(edges) if begin < ends_s
    )
    assert carried == pytest.approx(bits, rel=1e-6)


def test_a_lost_last_frame_costs_the_retransmission_timeout() -> None:
    lane = Lane(10e6, 5e-3, loss=Loss(0.2))
    times_s = simulate(cable(lane, Lane(10e6, 5e-3)), one_message(100), Load(300), seed=1).latencies_s
    rtt_s = 10e-3 + (linetime.FULL_FRAME_BYTES + linetime.HEADERS_BYTES) * 8 / 10e6
    late = [time_s for time_s in times_s if time_s > 0.1]
    assert len(late) / len(times_s) == pytest.approx(0.2, abs=0.07)
    # What is sent again travels once more; what is lost again waits for twice as long.
    assert min(late) == pytest.approx(0.2 + rtt_s + 5e-3 + line_bytes(100) * 8 / 10e6, rel=0.01)


def test_losses_are_drawn_from_the_seed_and_make_it_slower() -> None:
    lossy, clean = star(3, Lane(10e6, 5e-3, loss=Loss(0.02))), star(3, Lane(10e6, 5e-3))
    one, again, other = (simulate(lossy, all_gather(3, 60_000), Load(3), seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert one.latency_s > simulate(clean, all_gather(3, 60_000), Load(3)).latency_s


def test_messages_cost_their_ranks_time() -> None:
    costs = Costs(send_s=1e-3, receive_s=2e-3, per_byte_s=1e-6)
    outcome = simulate(cable(Lane(1e9)), one_message(968), costs=costs)
    assert outcome.busy_s == pytest.approx((2e-3 + 1e-3, 1e-3 + 1e-3))
    assert outcome.latency_s == pytest.approx(5e-3 + line_bytes(968) * 8 / 1e9)


@pytest.mark.parametrize("cores", [1, 2, 3, None])
def test_messages_and_packets_of_one_machine_share_its_cores(cores: int | None) -> None:
    """Three hosts, a small message each way between any two, links of no weight: all that counts is who has a core."""
    costs = Costs(send_s=1e-3, receive_s=2e-3, cores=cores)
    if cores is not None:
        costs = replace(costs, packet_s=1.5e-3, frame_s=0.5e-3)
    outcome = simulate(mesh(3, Lane(1e12)), all_gather(3, 100), Load(2), costs=costs)
    all_s = outcome.ended_s[1] - outcome.latencies_s[1]  # the second begins when all ranks are through the first
    whole_s = 6 * (1e-3 + 2e-3 + 2e-3)  # every message: sent, carried, taken
    if cores is None:
        assert all_s == pytest.approx(2 * (1e-3 + 2e-3), rel=1e-3)
    elif cores == 1:
        assert all_s == pytest.approx(whole_s, rel=1e-3)
    else:
        assert whole_s / cores * 0.999 < all_s < 1.25 * whole_s / cores


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_who_sends_is_busy_until_packets_are_through(cores: int) -> None:
    """Ten frames at once, of a message to either of two others, from one rank: its packets go one after the other."""
    costs = Costs(send_s=1e-3, packet_s=2e-3, cores=cores)
    steps: list[list[Step]] = [[Send(0, (1, 2), 10 * linetime.SEGMENT_BYTES - HEADER_BYTES, "exchange")], [], []]
    steps[1], steps[2] = ([Receive(0, (0,), "exchange")] for _ in range(2))
    outcome = simulate(mesh(3, Lane(200e6)), work(steps), costs=costs, tcp=Tcp(small_queue_frames=None))
    assert outcome.busy_s[0] == pytest.approx(2 * (1e-3 + 10 * 2e-3), rel=1e-3)
    assert outcome.latency_s == pytest.approx(outcome.busy_s[0], rel=1e-3)


def test_the_first_and_the_last_message_of_a_request_cost_more() -> None:
    costs = Costs(send_s=1e-3, receive_s=2e-3, rest_s=5e-3)

    def latency_s(there: Purpose, back: Purpose) -> float:
        source: list[Step] = [Send(None, (1,), 100, there), Receive(None, (1,), back)]
        other: list[Step] = [Receive(None, (0,), there), Send(None, (0,), 100, back)]
        return simulate(cable(Lane(1e9)), work([source, other]), costs=costs).latency_s

    assert latency_s("scatter", "gather") - latency_s("exchange", "exchange") == pytest.approx(2 * 5e-3)


def test_requests_back_to_back_and_in_a_queue() -> None:
    topology, one = cable(Lane(10e6)), one_message(100_000)
    alone_s = simulate(topology, one).latency_s
    several = simulate(topology, one, Load(5))
    assert several.latencies_s == pytest.approx([alone_s] * 5, rel=0.02)
    assert several.ended_s[-1] == pytest.approx(5 * alone_s, rel=0.02)
    assert len(simulate(topology, one, Load(for_s=10.5 * alone_s)).ended_s) == 11
    queued = simulate(topology, one, Load(arrivals=(0.0, 0.0, 100.0)))
    assert queued.latencies_s == pytest.approx([alone_s, 2 * alone_s, alone_s], rel=0.02)


def test_a_program_that_never_ends_is_told_with_who_waits() -> None:
    with pytest.raises(PredictError, match=r"rank 0 at step 0, .*sources=\(1,\)"):
        simulate(cable(Lane(1e6)), work([[take(1)], [take(0)]]))


def test_hosts_without_a_way_between_them_are_told() -> None:
    topology = Topology(**{**vars(star(3)), "links": star(3).links[:1]})
    with pytest.raises(PredictError, match="no way between them"):
        simulate(topology, one_message(10))


@pytest.mark.parametrize("topology", [star(5), ring(5), mesh(4, Lane(1e6)), medium(3, 1e6)], ids=lambda t: t.name)
def test_routes_are_those_of_the_network(topology: Topology) -> None:
    routes, names = Routes(topology), [host.name for host in topology.hosts]
    for a in names:
        for b in names:
            assert routes.hops(a, b) == (path(topology, a, b).hops if a != b else ())


Sent = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 40_000)), min_size=1, max_size=25)


def _program(sent: list[tuple[int, int, int]]) -> list[list[Step]]:
    """Messages (from, so many ranks further, bytes), each taken where it is sent in the order of the list."""
    ranks: list[list[Step]] = [[], [], [], []]
    for source, further, size in sent:
        target = (source + further) % 4
        ranks[source] += [COMPUTE, send(target, size)]
        ranks[target].append(take(source))
    # All report to rank 0, so that its end is that of all.
    for rank in range(1, 4):
        ranks[rank].append(send(0, 1))
    ranks[0].append(Receive(0, (1, 2, 3), "exchange"))
    return ranks


@settings(max_examples=25, deadline=None)
@given(Sent, st.sampled_from(["star", "mesh", "ring", "medium"]), st.booleans())
def test_no_program_deadlocks_and_every_byte_is_on_the_line(
    sent: list[tuple[int, int, int]], kind: str, small_queues: bool
) -> None:
    lane = Lane(10e6, 1e-3)
    networks = {"star": star(4, lane), "ring": ring(4, lane), "mesh": mesh(4, lane), "medium": medium(4, 10e6)}
    tcp = Tcp() if small_queues else Tcp(small_queue_frames=None)
    outcome = simulate(networks[kind], work(_program(sent), 1e-4), tcp=tcp)
    left = sum(line_bytes(size) for _, _, size in sent) + 3 * line_bytes(1)
    first = sum(size for hop, size in outcome.hop_bytes.items() if kind != "medium" or hop.endswith("s1"))
    assert left <= first
    assert outcome.latency_s >= max(line_bytes(size) for _, _, size in sent) * 8 / 10e6


@settings(max_examples=25, deadline=None)
@given(Sent, st.floats(1.05, 20))
def test_a_faster_network_is_not_slower(sent: list[tuple[int, int, int]], faster: float) -> None:
    """Cables of their own: where flows meet, one that comes earlier may hold up another."""
    slow, fast = (simulate(mesh(4, Lane(rate, 1e-3)), work(_program(sent), 1e-4)) for rate in (5e6, 5e6 * faster))
    # Whether an acknowledgement travels alone depends on what waits just then: some frames of tolerance.
    assert fast.latency_s <= slow.latency_s * 1.01 + 2e-3
