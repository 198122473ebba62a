"""When links change and hosts are killed: traces and events of a topology in order, and the clock that applies them.

While events hold, their values win over the trace, the later event over the earlier; a link that is down carries
nothing whatever else is said. When an event ends, a lane is what its trace says at that time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import count, groupby
from types import TracebackType
from typing import Any, Self

from testbed.topology import Event, Lane, Link, Loss, Step, Topology, Trace
from testbed.units import show_duration, show_fraction, show_rate


@dataclass(frozen=True)
class Change:
    """From at_s on, the direction `sender` -> `receiver` is as `lane` says, None: it carries nothing; or the device on
    `host` is killed. text: what is new, in words, "rate 2 Mbit/s, delay 20 ms"."""

    at_s: float
    text: str
    sender: str = ""
    receiver: str = ""
    lane: Lane | None = None
    host: str | None = None

    @property
    def where(self) -> str:
        """ "h1 -> s1", or the host."""
        return f"{self.sender} -> {self.receiver}" if self.host is None else self.host


def schedule(topology: Topology, until_s: float = math.inf) -> Iterator[Change]:
    """Every change before until_s, seconds from the start, in order of time, then of links; kills come last.

    Made as it is asked for, because a trace may repeat for ever. What would change nothing is left out.
    """
    links = topology.links if topology.backend != "local" else ()
    lanes = [_changes_of(link, end, topology.events, until_s) for link in links for end in (link.a, link.b)]
    kills = sorted((e for e in topology.events if e.kind == "kill" and e.at_s < until_s), key=lambda e: e.at_s)
    killed = (Change(_moment(event.at_s), "killed", host=event.host) for event in kills)
    return merge(*lanes, killed, key=lambda change: change.at_s)


def _moment(at_s: float) -> float:
    """To the nanosecond, so that what is meant to be at the same time is."""
    return round(at_s, 9)


Held = tuple[float, int]  # when an event begins, and its number: the order in which events go over each other


@dataclass(frozen=True)
class _Turn:
    """Something that may change one lane: a step of its trace, or an event that begins or ends."""

    at_s: float
    step: Step | None = None  # of the trace; None: as declared
    event: Held | None = None
    begins: bool = False


def _steps(trace: Trace | None) -> Iterator[_Turn]:
    if trace is None:
        return
    for cycle in count():
        start_s = cycle * (trace.period_s or 0.0)
        if cycle and trace.steps[0].at_s > 0:
            yield _Turn(_moment(start_s))
        for step in trace.steps:
            yield _Turn(_moment(start_s + step.at_s), step)
        if trace.period_s is None:
            return


def _beginnings_and_ends(events: dict[Held, Event]) -> list[_Turn]:
    found = [_Turn(_moment(event.at_s), event=held, begins=True) for held, event in events.items()]
    for held, event in events.items():
        if event.for_s is not None:
            found.append(_Turn(_moment(event.at_s + event.for_s), event=held))
    return sorted(found, key=lambda turn: turn.at_s)


def _changes_of(link: Link, sender: str, events: Sequence[Event], until_s: float) -> Iterator[Change]:
    """The changes of one direction."""
    declared = replace(link.lane(sender), trace=None)
    own = {
        (event.at_s, number): event
        for number, event in enumerate(events)
        if event.kind != "kill" and (event.ends is None or set(event.ends) == {link.a, link.b})
    }
    trace, turns = link.lane(sender).trace, _beginnings_and_ends(own)
    step: Step | None = None
    holding: set[Held] = set()
    now: Lane | None = declared
    last_up, ahead, quiet = declared, len(turns), 0
    for at_s, together in groupby(merge(_steps(trace), turns, key=_time_of), _time_of):
        if at_s >= until_s:
            return
        for turn in together:
            if turn.event is None:
                step, quiet = turn.step, quiet + 1
            else:
                (holding.add if turn.begins else holding.discard)(turn.event)
                ahead, quiet = ahead - 1, 0
        lane = _lane(declared, step, [own[held] for held in sorted(holding)])
        if lane != now:
            yield Change(at_s, _words(last_up, now is None, lane), sender, link.other(sender), lane)
            now, last_up, quiet = lane, lane or last_up, 0
        elif trace is not None and not ahead and quiet > len(trace.steps) + 1:
            return  # it starts over for ever, and no step of it shows


def _time_of(turn: _Turn) -> float:
    return turn.at_s


def _lane(declared: Lane, step: Step | None, holding: Sequence[Event]) -> Lane | None:
    """The lane under a step of its trace and events, of which the later go over the earlier."""
    if any(event.kind == "down" for event in holding):
        return None
    lane = declared
    for values in (step, *(event.change for event in holding)):
        if values is not None:
            lane = replace(
                lane,
                rate_bit_s=lane.rate_bit_s if values.rate_bit_s is None else values.rate_bit_s,
                delay_s=lane.delay_s if values.delay_s is None else values.delay_s,
                loss=lane.loss if values.loss is None else Loss(values.loss),
            )
    return lane


def _words(before: Lane, was_down: bool, lane: Lane | None) -> str:
    """What is new about a lane; before: as it was when it was last up."""
    if lane is None:
        return "down"
    words = []
    if lane.rate_bit_s != before.rate_bit_s:
        words.append(f"rate {show_rate(lane.rate_bit_s)}")
    if lane.delay_s != before.delay_s:
        words.append(f"delay {show_duration(lane.delay_s)}")
    if lane.loss != before.loss:
        words.append(f"loss {show_fraction(lane.loss.mean)}{' in bursts' if lane.loss.bursty else ''}")
    return ", ".join(["up again"] * was_down + words)


class Clock:
    """Applies the changes of a topology, each at its time, while a `with` block runs; its entry is time 0.

    What is due at 0 s is applied before the block starts. At its end nothing more is applied, and directions that are
    not as declared are made so again. An exception of `apply` neither ends the clock nor leaves the block: it is in its
    row and in `errors`, and the network was not the declared one.

    apply: called from a thread of the clock, for what is declared from the thread that leaves the block; one at a time.
    What `apply` returns, if not None, is what came of the change in place of its text.
    rows: {"at_s", "applied_s" (when `apply` was through, seconds since time 0), "where", "what", "error" (text or
    None)} of every change that was due, and of a direction that could not be made as declared again.
    """

    def __init__(self, topology: Topology, apply: Callable[[Change], str | None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.errors: list[Exception] = []
        self._topology, self._apply = topology, apply
        self._moved: dict[tuple[str, str], Lane | None] = {}  # as what each direction is; None: down, or nobody knows
        self._next_s = 0.0  # when the next change is due; infinite after the last one
        self._began: float | None = None  # time 0 on the monotonic clock
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for link in self._topology.links:
            for sender in (link.a, link.b):
                self._restore(sender, link.other(sender), replace(link.lane(sender), trace=None))

    def not_reached(self) -> list[Event]:
        """Events whose time had not come when the block ended, or to which a clock that was behind did not come."""
        return [event for event in self._topology.events if _moment(event.at_s) >= self._next_s]

    def _run(self) -> None:
        try:
            for change in schedule(self._topology):
                self._next_s = change.at_s
                if change.at_s > 0:
                    self._begin()
                    if self._stop.wait(min(max(0.0, change.at_s - self._now()), threading.TIMEOUT_MAX)):
                        return
                self._do(change)
            self._next_s = math.inf
        except Exception as error:  # a thread that ends without a word would leave a network that nobody declared
            self._note(Change(self._now(), "all later changes", host="every link"), error)
        finally:
            self._begin()

    def _begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()
            self._ready.set()

    def _now(self) -> float:
        """Seconds since time 0; 0 until then."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _do(self, change: Change) -> None:
        lane = None
        try:
            instead = self._apply(change)
            lane = change.lane
            self._note(change if instead is None else replace(change, text=instead))
        except Exception as error:
            self._note(change, error)
        finally:
            if change.host is None:
                self._moved[change.sender, change.receiver] = lane

    def _restore(self, sender: str, receiver: str, declared: Lane) -> None:
        if self._moved.get((sender, receiver), declared) == declared:
            return
        change = Change(self._now(), "as declared again", sender, receiver, declared)
        try:
            self._apply(change)
        except Exception as error:
            self._note(change, error)

    def _note(self, change: Change, error: Exception | None = None) -> None:
        row = {"at_s": change.at_s, "applied_s": self._now(), "where": change.where, "what": change.text}
        self.rows.append(row | {"error": None if error is None else str(error) or type(error).__name__})
        if error is not None:
            self.errors.append(error)
