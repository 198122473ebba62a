"""What is due on links that are exactly as declared, against formulas and simulation."""

import math
import random
from statistics import pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import linetime, shape
from testbed.paths import Hop, Path, path
from testbed.topology import Host, Lane, Link, Loss, RunSpec, Switch, Topology

FRAME_BITS, ACK_BITS, ANSWER_BITS = 1538 * 8, 90 * 8, 91 * 8


def _path(*lanes: Lane, back: tuple[Lane, ...] = ()) -> Path:
    """A path over these lanes; `back` are those of the same links the other way, if they differ."""
    names = [f"n{i}" for i in range(len(lanes) + 1)]
    ends = list(zip(names[:-1], names[1:], lanes, back or lanes, strict=True))
    hops = tuple(Hop(a, b, Link(a, b, up, down)) for a, b, up, down in ends)
    return Path(names[0], names[-1], hops, tuple(hop.back for hop in reversed(hops)))


def _star(hosts: int, lane: Lane, down: Lane | None = None, kind: str = "bridge") -> Topology:
    names = tuple(Host(f"h{i + 1}") for i in range(hosts))
    medium = lane.rate_bit_s if kind == "shared" else None
    links = tuple(Link(host.name, "s1", lane, down or lane) for host in names)
    return Topology("t", "mininet", names, (Switch("s1", kind, medium),), links, RunSpec("h1", "vit-base"))


def _medium(hosts: int, rate_bit_s: float) -> Topology:
    return _star(hosts, Lane(rate_bit_s), Lane(math.inf), "shared")


@pytest.mark.parametrize(
    ("size_bytes", "truth_ms"), [(1000, 0.87), (4000, 3.4), (10000, 8.5), (15000, 12.8), (60000, 51.0), (250000, 212.5)]
)
def test_expected_times_are_those_of_the_line(size_bytes: int, truth_ms: float) -> None:
    expected_s = linetime.expected(_path(Lane(10e6)), size_bytes, "netem")
    assert expected_s - ANSWER_BITS / 10e6 == pytest.approx(truth_ms / 1e3, rel=0.01)


def test_a_switch_stores_and_forwards_one_frame_and_buckets_let_one_go_free() -> None:
    star = path(_star(2, Lane(10e6)), "h1", "h2")
    line_s = 100 * FRAME_BITS / 10e6
    assert linetime.expected(star, 144800, "netem") == pytest.approx(
        line_s + FRAME_BITS / 10e6 + 2 * ANSWER_BITS / 10e6
    )
    assert linetime.expected(star, 144800, "tbf") == pytest.approx(line_s - 1600 * 8 / 10e6)


@given(st.integers(1, 300_000), st.integers(1, 50_000), st.floats(1e6, 200e6), st.floats(1e6, 200e6), st.floats(0, 0.5))
def test_more_bytes_take_longer_and_a_bucket_never_makes_it_slower(
    size_bytes: int, more_bytes: int, up_bit_s: float, down_bit_s: float, delay_s: float
) -> None:
    over = _path(Lane(up_bit_s, delay_s), Lane(down_bit_s))
    times_s = {shaper: linetime.expected(over, size_bytes, shaper) for shaper in shape.SHAPERS}
    assert 2 * delay_s <= times_s["tbf"] <= times_s["netem"] == times_s["relay"]
    assert linetime.expected(over, size_bytes + more_bytes, "tbf") >= times_s["tbf"]
    assert times_s["relay"] >= size_bytes * 8 / over.rate_bit_s + over.rtt_s


def test_answers_take_the_way_back_with_its_own_rate_and_delay() -> None:
    over = _path(Lane(50e6, 2e-3), back=(Lane(1e6, 30e-3),))
    assert linetime.expected(over, 1448, "relay") == pytest.approx(FRAME_BITS / 50e6 + 2e-3 + ANSWER_BITS / 1e6 + 30e-3)
    # 100 frames come every 0.25 ms; an answer to two of them takes 0.72 ms: the last waits for the 49 before it.
    last_s = 2 * FRAME_BITS / 50e6 + 49 * ACK_BITS / 1e6 + ANSWER_BITS / 1e6
    assert linetime.expected(over, 144800, "relay") == pytest.approx(last_s + 32e-3)


def test_on_a_shared_medium_a_frame_takes_its_time_once_and_answers_share_it() -> None:
    over = path(_medium(3, 10e6), "h1", "h2")
    assert linetime.expected(over, 1448, "relay") == pytest.approx((FRAME_BITS + ANSWER_BITS) / 10e6)
    frames = (100 * FRAME_BITS + 49 * ACK_BITS + ANSWER_BITS) / 10e6
    assert linetime.expected(over, 144800, "relay") == pytest.approx(frames)
    assert linetime.expected_goodput_bit_s(over) == pytest.approx(10e6 * 2 * 1448 / (2 * 1538 + 90))


@pytest.mark.parametrize("topology", [_star(3, Lane(10e6)), _medium(3, 10e6)], ids=["star", "medium"])
def test_two_at_once_take_the_time_of_both(topology: Topology) -> None:
    fan = path(topology, "h1", "h2"), path(topology, "h1", "h3")
    both_s = 2 * 10 * FRAME_BITS / 10e6
    pushed_s = linetime.expected_push(*fan, 14480, "relay")
    pulled_s = linetime.expected_pull(*fan, 14480, 9, "relay")
    for took_s in (pushed_s, pulled_s):
        assert both_s < took_s < both_s + 1.2 * FRAME_BITS / 10e6
    back = path(topology, "h2", "h1"), path(topology, "h3", "h1")
    assert linetime.expected_together_bit_s(*fan, fan[0].hops[0]) == 10e6
    assert linetime.expected_together_bit_s(*back, back[0].hops[-1]) == 10e6


def test_what_is_lost_before_the_slowest_link_does_not_burden_it() -> None:
    before, after = (
        _path(*lanes) for lanes in ((Lane(20e6, loss=Loss(0.2)), Lane(10e6)), (Lane(10e6, loss=Loss(0.2)),))
    )
    assert linetime.expected_train_bit_s(before) == pytest.approx(10e6 / 0.8)
    assert linetime.expected_train_bit_s(after) == 10e6


def _loses(loss: Loss, count: int, draw: random.Random) -> float:
    lost, bad = 0, False
    for _ in range(count):
        bad = draw.random() >= loss.leave if bad else draw.random() < loss.enter
        lost += draw.random() < (loss.bad if bad else loss.good)
    return lost / count


@pytest.mark.parametrize("loss", [Loss(0.02), Loss(0.0, 0.02, 0.3), Loss(0.01, 0.05, 0.5, 0.6)], ids=str)
def test_the_variance_of_losses_is_that_of_a_simulation(loss: Loss) -> None:
    draw, count = random.Random(3), 300
    found = pvariance([_loses(loss, count, draw) for _ in range(800)])
    assert linetime.loss_variance(_path(Lane(10e6, loss=loss)), count) == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize(
    ("lane", "is_plain"), [(Lane(10e6), True), (Lane(10e6, 1e-3), False), (Lane(10e6, loss=Loss(0.01)), False)]
)
def test_only_without_delay_and_loss_does_every_message_count(lane: Lane, is_plain: bool) -> None:
    assert linetime.plain(path(_star(3, lane), "h1", "h2"), "relay") is is_plain


def test_jitter_widens_what_is_accepted() -> None:
    calm, shaky = _path(Lane(10e6, 10e-3)), _path(Lane(10e6, 10e-3, 2e-3))
    assert linetime.tolerance_s(shaky, 0.03) == pytest.approx(linetime.tolerance_s(calm, 0.03) + 4e-3)
    assert linetime.rtt_tolerance_s(shaky, 0.02, 10) > linetime.rtt_tolerance_s(calm, 0.02, 10) == pytest.approx(1e-3)
