"""How far a method is while it runs, how long a request takes, time left; on a terminal also links and devices.

On a terminal a thread reads and draws, twice a second; elsewhere there is none, and the links are read when a line is
printed, between two requests. What goes wrong with either ends the view and not the run.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable
from contextlib import suppress
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from testbed import live
from testbed.gauge import Gauge
from testbed.tables import duration
from testbed.topology import Lane

PLAIN_EVERY_S = 5.0
DRAW_S = 0.5
READ_S = 1.0  # links are not read more often
END_S = 2.0  # for a drawing to come to its end
COLOURS = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


class Progress:
    """Live on a terminal; elsewhere plain lines, one at most every few seconds. A context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._label: str | None = None
        self._repeats, self._budget_s = 0, 0.0
        self._done, self._last_s, self._warmup = 0, 0.0, True
        self._sorted_s: list[float] = []  # latencies of measured requests
        self._started = self._ended = self._printed = clock()
        self._devices: dict[str, str] = {}
        self._gauge: Gauge | None = None
        self._live = Live(console=console, transient=True, get_renderable=self._screen, auto_refresh=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._label = self._gauge = None
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(END_S)
        self._live.stop()

    def stage(self, text: str) -> None:
        """A step of the set-up that is done: "network up, 0.4 s"."""
        self._console.print(Text(text, "dim"))

    def method(
        self, label: str, repeats: int, budget_s: float, hosts: Iterable[str] = (), gauge: Gauge | None = None
    ) -> None:
        """A method starts: at most `repeats` measured requests within `budget_s` seconds. gauge: of its links."""
        self._devices = dict.fromkeys(hosts, live.IDLE)
        self._repeats, self._budget_s = repeats, budget_s
        self._done, self._last_s, self._warmup, self._sorted_s = 0, 0.0, True, []
        self._started = self._ended = self._printed = self._clock()
        self._label, self._gauge = label, gauge
        if not self._console.is_interactive:
            self._read(ask=False)

    def device(self, host: str, words: str) -> None:
        """What the device of a host does from now on, in words."""
        self._devices[host] = words

    def changed(self, direction: str, lane: Lane | None) -> None:
        """A direction, "h1 -> s1", is as `lane` says from now on; None: it carries nothing."""
        if self._gauge is not None:
            self._gauge.changed(direction, 0.0 if lane is None else lane.rate_bit_s)

    def request(self, latency_s: float, done: int, warmup: bool) -> None:
        """A request ended after `latency_s` seconds; `done` measured ones are there by now."""
        self._last_s, self._done, self._warmup = latency_s, done, warmup
        if not warmup:
            insort(self._sorted_s, latency_s)
        self._ended = self._clock()
        if warmup:
            self._started = self._ended - latency_s  # to load the devices takes none of the budget
        if not self._console.is_interactive and self._ended - self._printed >= PLAIN_EVERY_S:
            self._printed = self._ended
            self._read(ask=False)
            most = live.busiest(self._gauge.flows) if self._gauge else ""
            line = self._line(self._label or "")
            self._console.print(Text(f"{line}; {most}" if most else line), soft_wrap=True)

    def done(self, status: str, text: str) -> None:
        """The method ended: "ok", "failed" or "skipped", and what there is to say about it in a line."""
        label, self._label, self._gauge = self._label or "", None, None
        if self._console.is_interactive:
            self._live.refresh()  # away with it
        self._console.print(Text.assemble(f"{label:<16} ", (f"{status:<7} ", COLOURS.get(status, "")), text))

    def _draw(self) -> None:
        """Until the end: read the links, draw. Whatever fails here, it is not worth a run."""
        read_s = 0.0
        with suppress(Exception):  # such as a terminal that is gone: whoever prints next will say so
            while not self._stop.wait(DRAW_S):
                if self._label is None:
                    continue
                if time.monotonic() - read_s >= READ_S:
                    read_s = time.monotonic()
                    self._read(ask=True)
                self._live.refresh()

    def _read(self, ask: bool) -> None:
        """Read the links. A gauge that fails is not asked again: the network goes down, or `watched` says what is."""
        gauge = self._gauge
        try:
            if gauge is not None:
                gauge.read(ask)
        except Exception:
            if self._gauge is gauge:
                self._gauge = None

    def _screen(self) -> Text:
        """What a terminal shows at this moment."""
        label, gauge, size = self._label, self._gauge, self._console.size
        if label is None:
            return Text("")
        flows = gauge.flows if gauge else ()
        return live.screen(self._line(label), dict(self._devices), flows, size.width, size.height)

    def _line(self, label: str) -> str:
        """The method's line at this moment."""
        if not self._last_s:
            return f"{label:<16} starting"
        left_s = time_left_s(self._repeats - self._done, self._last_s, self._budget_s - (self._ended - self._started))
        left_s = max(0.0, left_s - (self._clock() - self._ended))
        what = "warming up" if self._warmup else f"{self._done} of {self._repeats}"
        return f"{label:<16} {what}, {self._latency()}, {_seconds(left_s)} left"

    def _latency(self) -> str:
        """Of the last request; on a terminal, where there is room, the median too, once that is another."""
        if len(self._sorted_s) < 2 or not self._console.is_interactive:
            return f"{duration(self._last_s)} a request"
        return f"last {duration(self._last_s)}, median {duration(_middle(self._sorted_s))}"


def time_left_s(requests: int, latency_s: float, budget_s: float) -> float:
    """Seconds until that many more requests are done, or the rest of the budget is spent, whichever is first."""
    return max(0.0, min(requests * latency_s, budget_s))


def _middle(ordered: list[float]) -> float:
    """The median of numbers in order, without a look at all of them."""
    half = (len(ordered) - 1) // 2
    return median(ordered[half : len(ordered) - half])


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
