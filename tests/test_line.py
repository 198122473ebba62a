"""What the relay decides about frames, as properties against simple truths: no root, no clock."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.relay import plan
from testbed.relay.__main__ import ways
from testbed.relay.line import OVERHEAD_BYTES, Line, Medium
from testbed.topology import Lane, Link, Loss, Switch

SETTLED_S = 1e6  # long after everything below has come out
TINY = 1e-9

RATES = st.floats(64e3, 1e9)
LOSSES = st.one_of(
    st.just(Loss()),
    st.builds(Loss, st.floats(0, 1)),
    st.builds(Loss, st.floats(0, 0.2), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1)),
)


@st.composite
def lanes(draw: st.DrawFn) -> Lane:
    """Any lane: also one whose queue holds a frame or two, and one whose jitter turns frames round."""
    delay_s = draw(st.floats(0, 1))
    jitter_s = draw(st.floats(0, delay_s))
    queue_bytes = draw(st.integers(1, 100_000))
    return Lane(draw(RATES), delay_s, jitter_s, draw(st.booleans()), draw(LOSSES), queue_bytes)


ARRIVALS = st.lists(st.tuples(st.floats(0, 0.05), st.integers(14, 1514)), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32)


@dataclass(frozen=True)
class Out:
    """A frame that came out: when it arrived, its size, when it was due, its number among those offered."""

    at_s: float
    size: int
    due_s: float
    number: int


def frame(number: int, size: int) -> bytes:
    """Bytes that say which frame they are."""
    return number.to_bytes(8, "big").ljust(size, b"\0")


def carried(
    line: Line, arrivals: Sequence[tuple[float, int]], out: list[Out], then: Callable[[float], None] = float
) -> list[Out]:
    """`out` gets what comes out of a line, in order, of frames that arrive after these gaps; `then` is called with the
    time before each."""
    now_s, sent = 0.0, list[tuple[float, int]]()

    def take(until_s: float) -> None:
        for crossing in line.take(until_s):
            number = int.from_bytes(crossing.data[:8], "big")
            out.append(Out(*sent[number], crossing.due_s, number))

    for gap_s, size in arrivals:
        now_s += gap_s
        take(now_s)
        then(now_s)
        line.offer(now_s, frame(len(sent), size))
        sent.append((now_s, size))
    take(SETTLED_S)
    return out


@given(lanes(), ARRIVALS, SEEDS)
def test_every_frame_comes_out_or_is_counted(lane: Lane, arrivals: list[tuple[float, int]], seed: int) -> None:
    line, out = Line(lane, seed), list[Out]()

    def balance(_: float) -> None:
        assert line.offered == len(out) + line.lost + line.queue_drops + len(line.inside)

    carried(line, arrivals, out, balance)
    assert len(out) + line.lost + line.queue_drops == len(arrivals) == line.offered
    assert not line.inside


@given(lanes(), ARRIVALS, SEEDS)
def test_no_frame_is_early_and_order_is_kept_unless_said(
    lane: Lane, arrivals: list[tuple[float, int]], seed: int
) -> None:
    out = carried(Line(lane, seed), arrivals, [])
    for one in out:
        least_s = one.at_s + (one.size + OVERHEAD_BYTES) * 8 / lane.rate_bit_s + lane.delay_s - lane.jitter_s
        assert one.due_s >= least_s - TINY
        own_s = (one.size + OVERHEAD_BYTES) * 8 / lane.rate_bit_s  # its own, where the queue does not hold even that
        assert one.due_s <= one.at_s + max(lane.worst_queue_s, own_s) + lane.delay_s + lane.jitter_s + TINY
    assert [one.due_s for one in out] == sorted(one.due_s for one in out)
    if not lane.reorder:
        assert [one.number for one in out] == sorted(one.number for one in out)


@given(RATES, st.floats(0, 1), st.lists(st.integers(14, 1514), min_size=1, max_size=60))
def test_a_backlog_leaves_at_the_rate(rate_bit_s: float, delay_s: float, sizes: list[int]) -> None:
    line = Line(Lane(rate_bit_s, delay_s, queue_bytes=1 << 20), 0)
    out = carried(line, [(0.0, size) for size in sizes], [])
    bits = 0
    for one, size in zip(out, sizes, strict=True):
        bits += 8 * (size + OVERHEAD_BYTES)
        assert one.due_s == pytest.approx(bits / rate_bit_s + delay_s, rel=1e-9)


@given(st.integers(1, 100), st.integers(14, 1514))
def test_the_queue_holds_its_bytes(frames: int, size: int) -> None:
    queue_bytes = frames * (size + OVERHEAD_BYTES)
    line = Line(Lane(1e6, queue_bytes=queue_bytes), 0)
    out = carried(line, [(0.0, size)] * (frames + 5), [])
    assert len(out) == frames
    assert line.queue_drops == 5
    assert out[-1].due_s == pytest.approx(queue_bytes * 8 / 1e6)


@given(
    st.lists(RATES, min_size=1, max_size=6),
    st.lists(st.floats(1e-4, 0.05), min_size=6, max_size=6),
    st.lists(st.integers(14, 1514), min_size=1, max_size=60),
)
def test_changes_of_rate_amount_to_the_integral_of_the_rate(
    rates: list[float], lasts_s: list[float], sizes: list[int]
) -> None:
    line = Line(Lane(rates[0], queue_bytes=1 << 20), 0)
    for number, size in enumerate(sizes):
        line.offer(0.0, frame(number, size))
    now_s, pieces = 0.0, list[tuple[float, float, float]]()
    for rate, last_s, after in zip(rates, lasts_s, [*rates[1:], None], strict=False):
        until_s = now_s + last_s if after else math.inf
        pieces.append((now_s, until_s, rate))
        if after:
            line.change(until_s, Lane(after, queue_bytes=1))  # a queue that is now too short drops nothing that waits
            now_s = until_s
    out, sent_bits = line.take(SETTLED_S), 0.0
    assert len(out) == len(sizes)
    for crossing, size in zip(out, sizes, strict=True):
        sent_bits += 8 * (size + OVERHEAD_BYTES)
        could = sum(rate * max(0.0, min(until_s, crossing.due_s) - from_s) for from_s, until_s, rate in pieces)
        assert could == pytest.approx(sent_bits, rel=1e-6)


def test_a_new_delay_holds_for_what_is_not_wholly_sent() -> None:
    size = 1250 - OVERHEAD_BYTES  # 1 ms at 10 Mbit/s
    line = Line(Lane(10e6, 0.1), 0)
    for number in range(4):
        line.offer(0.0, frame(number, size))
    line.change(0.0025, Lane(10e6, 0.2))
    assert [one.due_s for one in line.take(1.0)] == pytest.approx([0.101, 0.102, 0.203, 0.204])
    line.offer(2.0, frame(4, size))
    line.change(2.1, Lane(10e6, 0.0))
    line.offer(2.1, frame(5, size))
    assert [one.due_s for one in line.take(3.0)] == pytest.approx([2.201, 2.201])  # not before the one ahead of it


@given(lanes(), lanes(), ARRIVALS, SEEDS, st.integers(0, 60))
def test_any_change_keeps_every_frame_and_down_counts_them(
    lane: Lane, other: Lane, arrivals: list[tuple[float, int]], seed: int, at: int
) -> None:
    line, times = Line(lane, seed), 0

    def change(now_s: float) -> None:
        nonlocal times
        times += 1
        if times in (at, at + 5):
            inside, lost = len(line.inside), line.lost
            line.change(now_s, other)
            assert (len(line.inside), line.lost) == (inside, lost)
        if times == at + 2:
            unsent = sum(crossing.off_s > now_s for crossing in line.inside)
            lost = line.lost
            line.change(now_s, None)
            assert line.lost == lost + unsent

    out = carried(line, arrivals, [], change)
    assert len(out) + line.lost + line.queue_drops == len(arrivals)
    assert [one.due_s for one in out] == sorted(one.due_s for one in out)
    assert all(one.due_s >= one.at_s for one in out)


def test_a_line_that_is_down_carries_nothing_and_then_goes_on() -> None:
    size = 1250 - OVERHEAD_BYTES
    line = Line(Lane(10e6, 0.1), 0)
    for number in range(4):
        line.offer(0.0, frame(number, size))
    line.change(0.0025, None)  # two are sent, one half
    assert not line.offer(0.5, frame(4, size))
    assert line.lost == 3
    assert [one.due_s for one in line.take(1.0)] == pytest.approx([0.101, 0.102])
    line.change(1.0, Lane(10e6, 0.1))
    assert line.offer(1.0, frame(5, size))
    assert [one.due_s for one in line.take(2.0)] == pytest.approx([1.101])


FRAMES = 20_000


def fates(loss: Loss, seed: int, gap_s: float = 1e-3) -> list[bool]:
    """Whether each of many frames is lost."""
    line, found = Line(Lane(1e9, loss=loss), seed), []
    for number in range(FRAMES):
        before = line.lost
        assert line.offer(number * gap_s, frame(number, 64))
        found.append(line.lost > before)
        line.take(number * gap_s)
    return found


@pytest.mark.parametrize("loss", [Loss(0.01), Loss(0.05), Loss(0.0, 0.01, 0.25, 1.0), Loss(0.01, 0.02, 0.2, 0.5)])
@pytest.mark.parametrize("seed", [0, 7])
def test_losses_are_as_frequent_as_declared(loss: Loss, seed: int) -> None:
    lost = fates(loss, seed)
    # States that last make counts vary more than independent draws: by (2 - p - r) / (p + r) for what the states cause.
    spread = (2 - loss.enter - loss.leave) / (loss.enter + loss.leave) if loss.bursty else 1.0
    sigma = math.sqrt(max(1.0, spread) * loss.mean * (1 - loss.mean) / FRAMES)
    assert abs(sum(lost) / FRAMES - loss.mean) < 3 * sigma
    if loss.bursty and loss.bad == 1.0:
        bursts = [len(list(run)) for one, run in groupby(lost) if one]
        mean, deviation = 1 / loss.leave, math.sqrt(1 - loss.leave) / loss.leave
        assert abs(sum(bursts) / len(bursts) - mean) < 3 * deviation / math.sqrt(len(bursts))


@given(lanes(), st.floats(0.001, 0.1), SEEDS)
def test_a_burst_ends_where_independent_losses_begin(lane: Lane, good: float, seed: int) -> None:
    line = Line(replace(lane, loss=Loss(0.0, enter=1.0, leave=1e-6, bad=1.0)), seed)
    line.offer(0.0, frame(0, 64))
    assert line.lost == 1
    line.change(0.0, Lane(1e9, loss=Loss(good)))
    for number in range(400):
        line.offer(1.0 + number, frame(number, 64))
    assert line.lost < 1 + 400 * good + 6 * math.sqrt(400 * good) + 3


def test_the_same_seed_loses_the_same_frames_whenever_they_come() -> None:
    loss = Loss(0.01, 0.02, 0.2, 0.5)
    assert fates(loss, 3) == fates(loss, 3, gap_s=5e-3)
    assert fates(loss, 3) != fates(loss, 4)


@given(
    st.lists(st.tuples(st.floats(0, 2e-3), st.integers(0, 3), st.integers(14, 1514)), min_size=1, max_size=80),
    st.integers(0, 3),
)
def test_a_shared_medium_sends_one_frame_at_a_time(arrivals: list[tuple[float, int, int]], falls: int) -> None:
    medium, rate_bit_s, now_s = Medium(), 10e6, 0.0
    lines = [Line(Lane(rate_bit_s, queue_bytes=1 << 20), number, medium) for number in range(4)]
    order = []
    for number, (gap_s, which, size) in enumerate(arrivals):
        now_s += gap_s
        if number == len(arrivals) // 2:
            lines[falls].change(now_s, None)
        lines[which].offer(now_s, frame(number, size))
    out = [crossing for line in lines for crossing in line.take(SETTLED_S)]
    assert len(out) == len(arrivals) - lines[falls].lost
    free_s = 0.0
    for crossing in sorted(out, key=lambda crossing: crossing.due_s):
        order.append(int.from_bytes(crossing.data[:8], "big"))
        assert crossing.due_s - len(crossing.data + bytes(OVERHEAD_BYTES)) * 8 / rate_bit_s >= free_s - TINY
        free_s = crossing.due_s
    assert order == sorted(order)


@given(lanes())
def test_a_lane_survives_the_plan(lane: Lane) -> None:
    for one in (lane, replace(lane, rate_bit_s=math.inf)):
        assert plan.decode(json.loads(json.dumps(plan.encode(one), allow_nan=False))) == one


def test_only_the_way_to_a_shared_switch_uses_its_medium() -> None:
    air = Switch("air", "shared", 20e6)
    out, to = Lane(math.inf), Lane(20e6)
    links = [Link("h1", "air", up=to, down=out), Link("air", "h2", up=out, down=to)]
    found = plan.plan("s", 3, [(link, f"a{i}", f"b{i}") for i, link in enumerate(links)], [air, Switch("s1")])
    made = {way.name: way for way in ways(found, {"a0": 1, "b0": 2, "a1": 3, "b1": 4}).values()}
    assert made["h1 -> air"].line.medium is made["h2 -> air"].line.medium
    assert len({id(way.line.medium) for way in made.values()}) == 3
    assert (made["h1 -> air"].out, made["air -> h1"].out, made["h2 -> air"].out) == (2, 1, 3)
