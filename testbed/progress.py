"""A line per method while it runs: how far, how long a request takes, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from testbed.tables import duration

PLAIN_EVERY_S = 5.0
COLOURS = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


class Progress:
    """Live on a terminal; elsewhere plain lines, one at most every few seconds. A context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._label: str | None = None
        self._repeats, self._budget_s = 0, 0.0
        self._done, self._last_s, self._warmup = 0, 0.0, True
        self._started = self._ended = self._printed = clock()
        self._live = Live(console=console, transient=True, get_renderable=self._line, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._label = None
        self._live.stop()

    def stage(self, text: str) -> None:
        """A step of the set-up that is done: "network up, 0.4 s"."""
        self._console.print(Text(text, "dim"))

    def method(self, label: str, repeats: int, budget_s: float) -> None:
        """A method starts: at most `repeats` measured requests within `budget_s` seconds."""
        self._label, self._repeats, self._budget_s = label, repeats, budget_s
        self._done, self._last_s, self._warmup = 0, 0.0, True
        self._started = self._ended = self._printed = self._clock()

    def request(self, latency_s: float, done: int, warmup: bool) -> None:
        """A request ended after `latency_s` seconds; `done` measured ones are there by now."""
        self._last_s, self._done, self._warmup = latency_s, done, warmup
        self._ended = self._clock()
        if not self._console.is_terminal and self._ended - self._printed >= PLAIN_EVERY_S:
            self._printed = self._ended
            self._console.print(self._line())

    def done(self, status: str, text: str) -> None:
        """The method ended: "ok", "failed" or "skipped", and what there is to say about it in a line."""
        label, self._label = self._label or "", None
        self._console.print(Text.assemble(f"{label:<16} ", (f"{status:<7} ", COLOURS.get(status, "")), text))

    def _line(self) -> Text:
        """What stands in the live line at this moment."""
        if self._label is None:
            return Text("")
        if not self._last_s:
            return Text(f"{self._label:<16} starting")
        left_s = time_left_s(self._repeats - self._done, self._last_s, self._budget_s - (self._ended - self._started))
        left_s = max(0.0, left_s - (self._clock() - self._ended))
        what = "warming up" if self._warmup else f"{self._done} of {self._repeats}"
        return Text(f"{self._label:<16} {what}, {duration(self._last_s)} a request, {_seconds(left_s)} left")


def time_left_s(requests: int, latency_s: float, budget_s: float) -> float:
    """Seconds until that many more requests are done, or the rest of the budget is spent, whichever is first."""
    return max(0.0, min(requests * latency_s, budget_s))


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
