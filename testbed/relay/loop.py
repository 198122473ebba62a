"""The relay's loop: frames in from TAP devices, through their lines, out again when they are due."""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from math import inf

from testbed.relay.line import Line
from testbed.relay.punctual import Sleeps
from testbed.relay.tap import MOST_BYTES
from testbed.topology import Lane

# A frame that is due within this time goes out now: to sleep and wake up again costs more than the error.
EARLY_S = 15e-6
_IDLE_S = 1.0
_BATCH_FRAMES = 16  # read from one device before the others have their turn
_BULK_BYTES = 1000  # after a frame of this size more often wait, so it pays to try at once


class Way:
    """One direction: its line, and the device at its end. Frames and bytes are those that the kernel took there."""

    __slots__ = ("bytes", "frames", "line", "name", "out", "overruns", "unheard", "wake_s")

    def __init__(self, name: str, line: Line, out: int) -> None:
        self.name, self.line, self.out = name, line, out
        self.frames = self.bytes = 0
        self.overruns = 0  # could not be written
        self.unheard = 0  # the device at the end was down, as a cable's end may be: lost, but not by the relay
        self.wake_s = inf  # when the loop looks at it next

    def refused(self, error: OSError) -> None:
        """Count a frame that could not be written."""
        if error.errno in (errno.EIO, errno.EBADFD):
            self.unheard += 1
        else:
            self.overruns += 1


class Lateness:
    """By how much frames were handed on later than due: counted in steps of 5 us up to 2 ms, of 1 ms up to 2 s."""

    __slots__ = ("counts", "most_s")
    _FINE, _ALL = 400, 2398

    def __init__(self) -> None:
        self.counts, self.most_s = [0] * self._ALL, 0.0

    @property
    def frames(self) -> int:
        """How many were counted."""
        return sum(self.counts)

    def add(self, late_s: float) -> None:
        """Count one frame; one that was handed on early counts as in time."""
        if late_s > self.most_s:
            self.most_s = late_s
        if late_s < 2e-3:
            self.counts[int(late_s * 2e5) if late_s > 0 else 0] += 1
        else:
            self.counts[min(self._FINE + int(late_s * 1e3) - 2, self._ALL - 1)] += 1

    def quantile_s(self, fraction: float) -> float:
        """What this fraction of the frames was not later than, rounded up to the step; 0 without frames."""
        wanted, seen = fraction * self.frames, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                step_s = (index + 1) / 2e5 if index < self._FINE else (index - self._FINE + 3) / 1e3
                return min(self.most_s, step_s)
        return 0.0


class Waits:
    """How long frames may have waited before the relay looked at them, which is when their own clock starts.

    A frame that came since the last look waited at most as long as the relay was awake since then, or, if it woke the
    relay up, as long as that then stood in the kernel's queue for a processor. One sample for each device of a look.
    Not seen: what a hypervisor withholds while the relay sleeps, a relay that is stopped, a kernel that does not count.
    """

    __slots__ = ("_file", "_looked_s", "_queued_s", "_slept_s", "_waited_s", "seen")

    def __init__(self) -> None:
        self.seen = Lateness()
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1
        self._queued_s, self._waited_s, self._slept_s = self._read_s(), 0.0, 0.0
        self._looked_s = time.monotonic()

    def _read_s(self) -> float:
        """Seconds in the queue for a processor so far."""
        return int(os.pread(self._file, 64, 0).split()[1]) / 1e9 if self._file >= 0 else 0.0

    def woke(self, slept_s: float) -> None:
        """The relay slept for so long, which includes how long it then stood in the queue."""
        queued_s = self._read_s()
        self._waited_s, self._queued_s, self._slept_s = queued_s - self._queued_s, queued_s, slept_s

    def look(self, devices: int) -> None:
        """The relay looks now, and finds frames at so many devices."""
        now_s = time.monotonic()
        waited_s = max(self._waited_s, now_s - self._looked_s - self._slept_s)
        self._looked_s, self._waited_s, self._slept_s = now_s, 0.0, 0.0
        for _ in range(devices):
            self.seen.add(waited_s)


class Loop:
    """Carries frames until `running` is false. handlers: other files to watch -> what to do when they are readable."""

    def __init__(self, ways: dict[int, Way]) -> None:
        """ways: the file that frames come from -> where they go."""
        self.ways, self.running, self.lateness, self.waits = ways, True, Lateness(), Waits()
        self.sleeps = Sleeps()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.chores: deque[Iterator[None]] = deque()  # one step of the first is done after each round of frames
        self._epoll = select.epoll()
        self._agenda: list[tuple[float, int, Way]] = []  # a way is due when its time is its wake_s, else stale
        self._order = {way: number for number, way in enumerate(ways.values())}
        for file in ways:
            self._epoll.register(file, select.EPOLLIN)

    def watch(self, file: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever `file` is readable or its other end has gone."""
        self.handlers[file] = handler
        self._epoll.register(file, select.EPOLLIN)

    def forget(self, file: int) -> None:
        """Watch `file` no longer."""
        del self.handlers[file]
        self._epoll.unregister(file)

    def carry(self) -> None:
        """Run until `running` is false."""
        clock, agenda, poll, sleep = time.monotonic, self._agenda, self._epoll.poll, select.select
        watched, nothing, waits, sleeps = [self._epoll.fileno()], list[int](), self.waits, self.sleeps
        watch_until_s = 0.0  # awake on purpose: a frame is due then
        while self.running:
            now_s = clock()
            wait_s = agenda[0][0] - EARLY_S - now_s if agenda else _IDLE_S
            if self.chores:
                if next(self.chores[0], self) is self:
                    self.chores.popleft()
            elif wait_s > 0 and now_s >= watch_until_s:
                ahead_s = sleeps.ahead_s(now_s) if agenda else 0.0
                if wait_s <= ahead_s:
                    sleeps.watched(wait_s)
                    watch_until_s = now_s + wait_s
                    continue
                # epoll alone would round to milliseconds.
                woken = sleep(watched, nothing, nothing, wait_s - ahead_s)[0]
                slept_s = clock() - now_s
                waits.woke(slept_s)
                if not woken:
                    if agenda:  # from a whole idle second one wakes up later
                        sleeps.ended(slept_s + ahead_s - wait_s)
                        sleeps.watched(ahead_s)
                        watch_until_s = now_s + wait_s
                    waits.look(0)
                    self._hand_on()
                    continue
            found = poll(0)
            waits.look(len(found))
            for file, _ in found:
                way = self.ways.get(file)
                if way is None:
                    self.handlers[file]()
                else:
                    self._read(file, way)
            self._hand_on()

    def _read(self, file: int, way: Way) -> None:
        offer, now_s, data = way.line.offer, time.monotonic(), b""
        try:
            for _ in range(_BATCH_FRAMES):
                data = os.read(file, MOST_BYTES)
                offer(now_s, data)
                if len(data) < _BULK_BYTES:
                    break
        except BlockingIOError:
            pass
        except OSError:  # the device went with its namespace: a host was taken down before the relay
            self._epoll.unregister(file)
        if way.line.inside:
            self.schedule(way)

    def schedule(self, way: Way) -> None:
        """Look at a way when its next frame is due; to be called when that may have become sooner."""
        due_s = way.line.inside[0].due_s if way.line.inside else inf
        if due_s < way.wake_s:
            way.wake_s = due_s
            heappush(self._agenda, (due_s, self._order[way], way))

    def change(self, way: Way, lane: Lane | None) -> None:
        """From now on a way is as `lane` says; None: down."""
        way.line.change(time.monotonic(), lane)
        for other in self.ways.values():  # on a shared medium those behind it may be due sooner
            self.schedule(other)

    def _hand_on(self) -> None:
        agenda, clock, write, late = self._agenda, time.monotonic, os.write, self.lateness.add
        until_s = clock() + EARLY_S
        while agenda and agenda[0][0] <= until_s:
            wake_s, _, way = heappop(agenda)
            if wake_s != way.wake_s:
                continue
            way.wake_s = inf
            for crossing in way.line.take(until_s):
                try:
                    write(way.out, crossing.data)
                except OSError as error:
                    way.refused(error)
                else:
                    way.frames += 1
                    way.bytes += len(crossing.data)
                late(clock() - crossing.due_s)
            self.schedule(way)
