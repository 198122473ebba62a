"""Changes of links: the schedule against the lane looked up at every time, and the clock with real, short times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.changes import Change, Clock, schedule
from testbed.events import parse
from testbed.topology import Event, Host, Lane, Link, Loss, RunSpec, Step, Switch, Topology, Trace

PLAIN = Lane(10e6, 0.005, loss=Loss(0.01))
TICK_S = 0.1
HORIZON = 40  # ticks


def network(*links: Link, events: tuple[Event, ...] = ()) -> Topology:
    hosts = (Host("h1"), Host("h2"))
    return Topology("n", "mininet", hosts, (Switch("s1"),), links, RunSpec("h1", "vit-tiny"), events)


def star(up: Lane = PLAIN, down: Lane = PLAIN, events: tuple[Event, ...] = ()) -> Topology:
    return network(Link("h1", "s1", up, down), Link.both("h2", "s1", PLAIN), events=events)


def at(ticks: int) -> float:
    return round(ticks * TICK_S, 9)


def truth(topology: Topology, link: Link, sender: str, tick: int) -> Lane | None:
    """The lane at a time, looked up from nothing but the declaration."""
    lane = link.lane(sender)
    values = {"rate_bit_s": lane.rate_bit_s, "delay_s": lane.delay_s, "loss": lane.loss}
    given: list[Step] = []
    if lane.trace is not None:
        period = None if lane.trace.period_s is None else round(lane.trace.period_s / TICK_S)
        inside = tick if period is None else tick % period
        given += [step for step in lane.trace.steps if round(step.at_s / TICK_S) <= inside][-1:]
    for event in sorted(topology.events, key=lambda event: event.at_s):
        begin = round(event.at_s / TICK_S)
        end = HORIZON + 1 if event.for_s is None else begin + round(event.for_s / TICK_S)
        if event.ends not in (None, (link.a, link.b), (link.b, link.a)) or not begin <= tick < end:
            continue
        if event.kind == "down":
            return None
        if event.change is not None:
            given.append(event.change)
    for step in given:
        said = {"rate_bit_s": step.rate_bit_s, "delay_s": step.delay_s}
        values |= {key: value for key, value in said.items() if value is not None}
        values |= {} if step.loss is None else {"loss": Loss(step.loss)}
    return replace(lane, trace=None, **values)


def replayed(topology: Topology) -> dict[tuple[str, str], list[Lane | None]]:
    """The lane of every direction at every tick, by the schedule."""
    found: dict[tuple[str, str], list[Lane | None]] = {}
    for link in topology.links:
        for sender in (link.a, link.b):
            found[sender, link.other(sender)] = [replace(link.lane(sender), trace=None)] * HORIZON
    for change in schedule(topology, at(HORIZON)):
        if change.host is None:
            row = found[change.sender, change.receiver]
            row[:] = [change.lane if at(tick) >= change.at_s else lane for tick, lane in enumerate(row)]
    return found


def some(values: list[float]) -> st.SearchStrategy[float | None]:
    return st.none() | st.sampled_from(values)


def steps(at_s: float | st.SearchStrategy[float]) -> st.SearchStrategy[Step]:
    times = st.just(at_s) if isinstance(at_s, float) else at_s
    return st.builds(Step, times, some([1e6, 10e6]), some([0.0, 0.005]), some([0.0, 0.01]))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    ticks = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=4)))
    period = draw(st.none() | st.integers(1, 9).map(lambda extra: at(ticks[-1] + extra)))
    return Trace(tuple(draw(steps(at(tick))) for tick in ticks), period)


lanes = st.builds(replace, st.just(PLAIN), trace=st.none() | traces())
moments = st.integers(0, 20).map(at)
lengths = st.integers(1, 15).map(at)
ends = st.sampled_from([("h1", "s1"), ("s1", "h1"), ("h2", "s1")])
events = st.one_of(
    st.builds(Event, moments, st.just("down"), ends, for_s=lengths),
    st.builds(Event, moments, st.just("set"), st.none() | ends, change=steps(0.0), for_s=st.none() | lengths),
    st.builds(Event, moments, st.just("kill"), host=st.sampled_from(["h1", "h2"])),
)
topologies = st.builds(star, lanes, lanes, st.lists(events, max_size=5).map(tuple))


@given(topologies)
def test_at_every_time_each_direction_is_what_trace_and_events_say(topology: Topology) -> None:
    for link in topology.links:
        for sender in (link.a, link.b):
            due = [truth(topology, link, sender, tick) for tick in range(HORIZON)]
            assert replayed(topology)[sender, link.other(sender)] == due


@given(topologies)
def test_changes_are_in_order_each_changes_something_and_every_kill_is_there(topology: Topology) -> None:
    changes = list(schedule(topology, at(HORIZON)))
    assert [change.at_s for change in changes] == sorted(change.at_s for change in changes)
    assert all(change.at_s < at(HORIZON) and change.text for change in changes)
    for link in topology.links:
        for sender in (link.a, link.b):
            own = [
                change.lane for change in changes if (change.sender, change.receiver) == (sender, link.other(sender))
            ]
            assert all(one != next_ for one, next_ in pairwise([replace(link.lane(sender), trace=None), *own]))
    killed = sorted((event.at_s, event.host) for event in topology.events if event.kind == "kill")
    assert sorted((change.at_s, change.host) for change in changes if change.host) == killed


def test_a_trace_goes_on_for_ever_and_is_made_as_it_is_asked_for() -> None:
    trace = Trace((Step(0.0, 1e6), Step(0.7, 2e6)), 1.0)
    found = list(islice(schedule(star(replace(PLAIN, trace=trace))), 2001))
    assert [change.at_s for change in found[:4]] == [0.0, 0.7, 1.0, 1.7]
    assert (found[-1].at_s, found[-1].lane) == (1000.0, replace(PLAIN, rate_bit_s=1e6))


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ((Step(0.0, 10e6), Step(0.5, loss=0.01)), None),
        ((Step(0.0, 1e6), Step(0.5, 2e6)), "at 3 s: rate 5 Mbit/s"),
    ],
)
def test_a_trace_that_never_shows_comes_to_an_end(steps: tuple[Step, ...], line: str | None) -> None:
    happening = () if line is None else (parse(line),)
    found = list(schedule(network(Link("h1", "h2", replace(PLAIN, trace=Trace(steps, 1.0)), PLAIN), events=happening)))
    assert max((change.at_s for change in found), default=0.0) <= 3.0


def test_what_a_person_reads() -> None:
    lines = ["at 1 s: h1 - s1 rate 2 Mbit/s delay 20 ms for 3 s", "at 2 s: s1 - h1 down for 1 s", "at 5 s: kill h2"]
    topology = star(replace(PLAIN, loss=Loss(enter=0.01, leave=0.99)), events=tuple(parse(line) for line in lines))
    found = [(change.at_s, change.where, change.text) for change in schedule(topology)]
    assert found[:2] == [(1.0, way, "rate 2 Mbit/s, delay 20 ms") for way in ("h1 -> s1", "s1 -> h1")]
    assert found[2::2] == [
        (2.0, "h1 -> s1", "down"),
        (3.0, "h1 -> s1", "up again"),
        (4.0, "h1 -> s1", "rate 10 Mbit/s, delay 5 ms"),
        (5.0, "h2", "killed"),
    ]
    bursts = star(replace(PLAIN, loss=Loss(enter=0.01, leave=0.99)), events=(parse("at 1 s: loss 5 % for 1 s"),))
    texts = [change.text for change in schedule(bursts) if change.where == "h1 -> s1"]
    assert texts == ["loss 5 %", "loss 1 % in bursts"]


def test_a_change_while_a_link_is_down_shows_when_it_is_up_again() -> None:
    lines = ("at 1 s: h1 - s1 down for 2 s", "at 2 s: h1 - s1 rate 1 Mbit/s for 5 s")
    topology = star(events=tuple(parse(line) for line in lines))
    found = [(change.at_s, change.text) for change in schedule(topology) if change.sender == "h1"]
    assert found == [(1.0, "down"), (3.0, "up again, rate 1 Mbit/s"), (7.0, "rate 10 Mbit/s")]


def test_plain_processes_have_no_links_to_change() -> None:
    local = replace(star(events=(parse("at 1 s: loss 5 %"), parse("at 2 s: kill h2"))), backend="local")
    assert list(schedule(local)) == [Change(2.0, "killed", host="h2")]


class Shapers:
    """The links as `apply` made them, as a network would have them, and how long after the start."""

    def __init__(self, refuse: Callable[[Change], bool] = lambda change: False) -> None:
        self.lanes: dict[str, Lane | None] = {}
        self.killed: list[str] = []
        self.changed = threading.Condition()
        self._refuse = refuse

    def apply(self, change: Change) -> None:
        with self.changed:
            if self._refuse(change):
                raise OSError(f"tc refuses {change.where}")
            if change.host is None:
                self.lanes[change.where] = change.lane
            else:
                self.killed.append(change.host)
            self.changed.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, 20.0)


def test_the_clock_applies_each_change_at_its_time_records_it_and_restores() -> None:
    lines = ("at 0.1 s: h1 - s1 rate 2 Mbit/s", "at 0.2 s: h2 - s1 down for 100 ms", "at 0.4 s: kill h2")
    topology, net = star(events=tuple(parse(line) for line in lines)), Shapers()
    with Clock(topology, net.apply) as clock:
        net.until(lambda: net.killed == ["h2"])
        assert net.lanes["h1 -> s1"] == net.lanes["s1 -> h1"] == replace(PLAIN, rate_bit_s=2e6)
    assert net.lanes == dict.fromkeys(("h1 -> s1", "s1 -> h1", "h2 -> s1", "s1 -> h2"), PLAIN)
    due = [(change.at_s, change.where, change.text) for change in schedule(topology)]
    assert [(row["at_s"], row["where"], row["what"]) for row in clock.rows] == due
    assert all(row["error"] is None and row["applied_s"] >= row["at_s"] for row in clock.rows)
    assert clock.errors == []


def test_what_came_of_a_change_is_said_and_events_after_the_end_were_not_reached() -> None:
    lines = ("at 0 s: kill h2", "at 0.05 s: kill h1", "at 3600 s: kill h1", "at 3600 s: h2 - s1 loss 5 %")
    topology, done = star(events=tuple(parse(line) for line in lines)), threading.Event()

    def apply(change: Change) -> str | None:
        if change.host == "h1":
            done.set()
        return "no device here" if change.host == "h2" else None

    with Clock(topology, apply) as clock:
        assert done.wait(20.0)
    assert [(row["what"], row["error"]) for row in clock.rows] == [("no device here", None), ("killed", None)]
    assert clock.not_reached() == list(topology.events[2:])


def test_a_clock_that_came_to_the_end_of_its_changes_reached_every_event() -> None:
    net = Shapers()
    with Clock(star(events=(parse("at 0 s: kill h2"),)), net.apply) as clock:
        pass
    assert net.killed == ["h2"] and clock.not_reached() == []


def test_what_is_due_at_the_start_holds_before_the_block_and_the_end_stops_at_once() -> None:
    trace = Trace((Step(0.0, 1e6), Step(3600.0, 2e6)))
    net = Shapers()
    began = time.monotonic()
    with Clock(star(replace(PLAIN, trace=trace)), net.apply) as clock:
        assert net.lanes == {"h1 -> s1": replace(PLAIN, rate_bit_s=1e6)}
    assert time.monotonic() - began < 60  # not the hour until the next change
    assert net.lanes == {"h1 -> s1": PLAIN}
    assert clock.rows == [{"at_s": 0.0, "applied_s": 0.0, "where": "h1 -> s1", "what": "rate 1 Mbit/s", "error": None}]


def test_a_trace_that_repeats_is_followed_until_the_end_and_nothing_is_applied_after_it() -> None:
    trace = Trace((Step(0.0, 1e6), Step(0.01, 2e6)), 0.02)
    topology, net = star(replace(PLAIN, trace=trace)), Shapers()
    with Clock(topology, net.apply) as clock:
        net.until(lambda: len(clock.rows) >= 6)
    rows = len(clock.rows)
    assert [row["at_s"] for row in clock.rows] == [change.at_s for change in islice(schedule(topology), rows)]
    assert net.lanes == {"h1 -> s1": PLAIN}
    assert "changes" not in {thread.name for thread in threading.enumerate()}


def test_an_error_is_in_its_row_the_rest_goes_on_and_the_direction_is_restored() -> None:
    lines = ("at 0 s: h1 - s1 rate 2 Mbit/s", "at 0.05 s: kill h2")
    lane = replace(PLAIN, rate_bit_s=2e6)
    net = Shapers(lambda change: change.where == "h1 -> s1" and change.lane == lane)
    with Clock(star(events=tuple(parse(line) for line in lines)), net.apply) as clock:
        net.until(lambda: net.killed == ["h2"])
    assert [row["error"] for row in clock.rows] == ["tc refuses h1 -> s1", None, None]
    assert [str(error) for error in clock.errors] == ["tc refuses h1 -> s1"]
    assert net.lanes == {"h1 -> s1": PLAIN, "s1 -> h1": PLAIN}


def test_a_direction_that_cannot_be_restored_has_a_row() -> None:
    net = Shapers(lambda change: change.lane == PLAIN)
    with Clock(star(events=(parse("at 0 s: h1 - s1 loss 5 %"),)), net.apply) as clock:
        pass
    failed = [(row["where"], row["what"], row["error"]) for row in clock.rows if row["error"]]
    assert failed == [(way, "as declared again", f"tc refuses {way}") for way in ("h1 -> s1", "s1 -> h1")]
    assert len(clock.errors) == 2


def test_what_ends_the_block_gets_out_and_the_links_are_restored() -> None:
    net = Shapers()
    topology = star(events=(parse("at 0 s: h2 - s1 down for 9 s"),))
    with pytest.raises(KeyboardInterrupt), Clock(topology, net.apply):
        assert net.lanes == {"h2 -> s1": None, "s1 -> h2": None}
        raise KeyboardInterrupt
    assert net.lanes == {"h2 -> s1": PLAIN, "s1 -> h2": PLAIN}


def test_what_is_as_declared_by_itself_is_left_alone() -> None:
    net = Shapers()
    with Clock(star(events=(parse("at 0 s: h2 - s1 rate 2 Mbit/s for 10 ms"),)), net.apply) as clock:
        net.until(lambda: len(clock.rows) + 1 >= 4 and net.lanes == {"h2 -> s1": PLAIN, "s1 -> h2": PLAIN})
        net.lanes.clear()
    assert len(clock.rows) == 4
    assert net.lanes == {}
