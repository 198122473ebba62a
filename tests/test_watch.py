"""What is watched between two probes, how it is judged, and how long devices wait for each other meanwhile."""

import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from testbed import cost
from testbed.hosts import Counters, Lateness
from testbed.patience import LEAST_S, patience_s
from testbed.topology import Event, Host, Lane, Link, Loss, RunSpec, Step, Switch, Topology, Trace
from testbed.watch import SIGMAS, allowed_late_s, allowed_loss, judge, judge_loss, losses

LANE = Lane(10e6, delay_s=0.02, loss=Loss(0.01))
STAR = Topology(
    "star", "mininet", tuple(Host(f"h{i}") for i in (1, 2, 3)), (Switch("s1"),),
    tuple(Link.both(f"h{i}", "s1", LANE) for i in (1, 2, 3)), RunSpec("h1", "vit-tiny"),
)  # fmt: skip


def row(p99_s: float = 1e-4, overruns: int = 0) -> dict[str, Any]:
    """A row of watch.json, as far as it is judged."""
    late = Lateness(100, 4e-5, p99_s, 2 * p99_s, 0.1)
    seen = Counters(frames=1000, bytes=10**6, queue_drops=50, lost=10, overruns=overruns)
    return {"lateness": asdict(late), "directions": {"h1 -> s1": asdict(seen)}}


def test_full_queues_and_declared_loss_are_the_network_as_declared() -> None:
    assert judge(row(), 0.3e-3) == []
    assert judge({**row(), "lateness": None}, 0.3e-3) == []


def test_late_frames_and_frames_lost_by_the_emulation_are_not() -> None:
    (late,) = judge(row(p99_s=2e-3), 0.3e-3)
    assert "2 ms late" in late and "300 us are allowed" in late
    (lost,) = judge(row(overruns=3), 0.3e-3)
    assert "h1 -> s1 3" in lost


@pytest.mark.parametrize(("delay_s", "allowed_s"), [(0.0, 0.3e-3), (0.005, 0.3e-3), (0.02, 1e-3), (0.1, 5e-3)])
def test_what_is_late_is_measured_by_the_shortest_delay(delay_s: float, allowed_s: float) -> None:
    first, *others = STAR.links
    links = (replace(first, up=replace(LANE, delay_s=delay_s)), *others)
    longer = tuple(Link.both(link.a, link.b, replace(LANE, delay_s=0.5)) for link in others)
    assert allowed_late_s(replace(STAR, links=(links[0], *longer))) == pytest.approx(min(allowed_s, 1e-3))


def test_loss_is_compared_where_the_file_does_not_change_it() -> None:
    assert set(losses(STAR).values()) == {0.01} and len(losses(STAR)) == 6
    down = Event(1.0, "down", ends=("s1", "h2"), for_s=1.0)
    changing = losses(replace(STAR, events=(down, Event(2.0, "set", change=Step(0, rate_bit_s=1e6)))))
    assert {name for name, loss in changing.items() if loss is None} == {"h2 -> s1", "s1 -> h2"}
    assert set(losses(replace(STAR, events=(Event(2.0, "set", change=Step(0, loss=0.5)),))).values()) == {None}
    traced = replace(STAR.links[0], up=replace(LANE, trace=Trace((Step(1.0, loss=0.2), Step(2.0, rate_bit_s=1e6)))))
    assert losses(replace(STAR, links=(traced, *STAR.links[1:])))["h1 -> s1"] is None


def counted(frames: int, lost: int | None, declared: float | None = 0.01) -> dict[str, Any]:
    """A row of watch.json, as far as its losses are judged."""
    seen = asdict(Counters(frames=frames, bytes=10**6, queue_drops=50, lost=lost, overruns=0))
    return {"directions": {"h1 -> s1": seen | {"declared_loss": declared}}}


def test_losses_that_are_not_the_declared_ones_are_told_with_the_numbers() -> None:
    declared = {"h1 -> s1": Loss(0.01)}
    assert judge_loss(counted(9900, 100), declared) == []
    (more,) = judge_loss(counted(9500, 500), declared)
    assert more == "h1 -> s1 lost 500 of 10000 frames, 5 %: 1 % is declared, 52 to 148 are allowed"
    assert judge_loss(counted(10_000, 0), declared)
    assert judge_loss(counted(10_000, 1, 0.0), {"h1 -> s1": Loss()})


@pytest.mark.parametrize(
    "row", [counted(500, 400), counted(5000, 5000, None), counted(5000, None), counted(5000, 0, 0.0)]
)
def test_losses_are_not_judged_of_few_frames_where_they_change_or_are_not_counted(row: dict[str, Any]) -> None:
    declared = row["directions"]["h1 -> s1"]["declared_loss"]
    assert judge_loss(row, {"h1 -> s1": Loss(declared or 0.0)}) == []


def test_the_band_of_independent_losses_is_the_binomial_and_little_more() -> None:
    low, high = allowed_loss(Loss(0.01), 100_000)
    sigma = (100_000 * 0.01 * 0.99) ** 0.5
    assert SIGMAS * sigma < high - 1000 == pytest.approx(1000 - low) and high - 1000 < SIGMAS * sigma + 4


@pytest.mark.parametrize("loss", [Loss(1e-4), Loss(0.05), Loss(enter=0.001, leave=0.1), Loss(0.01, 0.01, 0.25, 0.5)])
@pytest.mark.parametrize("count", [1000, 5000])
def test_an_honest_lane_is_never_outside_and_three_times_its_loss_always_is(loss: Loss, count: int) -> None:
    """Lanes drawn frame by frame, two states, as `Loss` says."""
    draw, (low, high) = random.Random(1), allowed_loss(loss, count)
    for _ in range(60):
        bad, lost = draw.random() < loss.enter / (loss.enter + loss.leave), 0
        for _ in range(count):
            bad = draw.random() >= loss.leave if bad else draw.random() < loss.enter
            lost += draw.random() < (loss.bad if bad else loss.good)
        assert low <= lost <= high
    assert 100_000 * 3 * loss.mean > allowed_loss(loss, 100_000)[1]


def test_devices_wait_longer_than_any_request_takes() -> None:
    """The time of the payload on the slowest rate that the file ever gives, of all round trips, and of outages."""
    payload = 10_000_000
    plain = replace(STAR, links=tuple(Link.both(f"h{i}", "s1", Lane(10e6)) for i in (1, 2, 3)))
    assert patience_s(replace(STAR, links=()), payload, 12, 1.0) < LEAST_S + 2
    assert patience_s(plain, payload, 12, 1.0) > LEAST_S + 2 * payload * 8 / 10e6
    slow = Trace((Step(0.0, rate_bit_s=1e6),))
    traced = replace(plain, links=(replace(plain.links[0], down=Lane(10e6, trace=slow)), *plain.links[1:]))
    assert patience_s(traced, payload, 12, 1.0) > LEAST_S + 2 * payload * 8 / 1e6
    far = replace(plain, links=tuple(Link.both(f"h{i}", "s1", Lane(10e6, delay_s=1.0)) for i in (1, 2, 3)))
    assert patience_s(far, 0, 12, 1.0) > LEAST_S + 12 * 2 * 4.0
    assert patience_s(STAR, payload, 12, 1.0) > patience_s(plain, payload, 12, 1.0)
    outage = Event(1.0, "down", ends=("h1", "s1"), for_s=100.0)
    assert patience_s(replace(plain, events=(outage,)), 0, 12, 0.0) > LEAST_S + 200
    medium = replace(plain, links=tuple(Link(f"h{i}", "s1", Lane(10e6), Lane(float("inf"))) for i in (1, 2, 3)))
    assert patience_s(medium, payload, 12, 1.0) == patience_s(plain, payload, 12, 1.0)


def test_memory_of_a_process_counts_its_children() -> None:
    hold = "import sys; block = bytearray(32 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with_child, alone = cost.memory_bytes([os.getpid()]), cost.memory_bytes([child.pid])
        child.communicate()
    without = cost.memory_bytes([os.getpid()])
    assert with_child is not None and alone is not None and without is not None
    assert alone > 32 << 20 and with_child - without > 24 << 20
    assert cost.memory_bytes([child.pid]) is None


def test_management_bytes_are_told_of_hosts_with_interfaces_of_their_own() -> None:
    assert cost.management_bytes([(os.getpid(), ())]) is None
    first = cost.management_bytes([(os.getpid(), ("no-such",))])
    assert first is not None and first >= 0
