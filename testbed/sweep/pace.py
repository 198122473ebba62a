"""How far a sweep is: a line per finished block, on a terminal a live one for the block that runs, and time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from testbed.sweep.blocks import Block
from testbed.sweep.folder import Row, is_bad
from testbed.topology import Topology

Estimate = Callable[[Topology], float | None]  # seconds of a run's requests, None where it cannot be said
ERROR_CHARS = 300


def unknown(_topology: Topology) -> float | None:
    """The estimate of who has none."""
    return None


class Pace:
    """Seconds that blocks take: as estimated, and what others took beyond that, for starting and proving the links and
    for what the estimate does not know; without an estimate the mean of the others.

    A mean and not a median: what is left is a sum.
    """

    def __init__(self, estimate: Estimate = unknown, before: Sequence[float] = ()) -> None:
        """before: seconds of blocks of this sweep that ended in earlier sessions."""
        self._estimate = estimate
        self._taken, self._beyond = list(before), list[float]()

    def add(self, topology: Topology, seconds: float) -> None:
        """A block ended."""
        self._taken.append(seconds)
        expected = self._estimate(topology)
        if expected is not None:
            self._beyond.append(seconds - expected)

    def of(self, topology: Topology) -> float | None:
        """Seconds that a block will take, None as long as nothing is known."""
        expected = self._estimate(topology)
        if expected is not None:
            return expected + max(0.0, statistics.fmean(self._beyond) if self._beyond else 0.0)
        return statistics.fmean(self._taken) if self._taken else None


class Progress:
    """A context manager; `blocks` are those that are still to run, `done` are finished already."""

    def __init__(self, console: Console, blocks: Sequence[Block], done: int, pace: Pace) -> None:
        self._console, self._left, self._pace = console, list(blocks), pace
        self._expected = self._paced()
        self._done, self._total = done, done + len(blocks)
        self._began = time.monotonic()
        self._live = Live(console=console, transient=True, get_renderable=self.line, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = []
        self._live.stop()

    def started(self) -> None:
        """The first of the blocks that are left has started."""
        self._began = time.monotonic()

    def finished(self, rows: Sequence[Row], seconds: float | None) -> None:
        """It ended, with these rows; seconds: None of one that was found finished."""
        block = self._left.pop(0)
        self._done += 1
        if seconds is not None:
            self._pace.add(block.topology, seconds)
        self._expected = self._paced()
        good = sum(not is_bad(row) for row in rows)
        counts = [f"{good} ok"] * (good > 0) + [f"{len(rows) - good} failed"] * (good < len(rows))
        taken = "found finished" if seconds is None else _seconds(seconds)
        line = f"{self._done} of {self._total}  {block.title}: {', '.join(counts)}, {taken}{self._left_words(0)}"
        self._console.print(Text(line, "red" if good < len(rows) else ""), soft_wrap=True)
        for text in _reasons(rows):
            self._console.print(Text(f"      {text}", "red"), soft_wrap=True)

    def _paced(self) -> list[float]:
        """Seconds of each block that is left, none where one is not known. To be asked between blocks only: it looks at
        every topology, and must not keep the cores from what is timed."""
        found = [self._pace.of(block.topology) for block in self._left]
        known = [seconds for seconds in found if seconds is not None]
        return known if len(known) == len(found) else []

    def _left_words(self, running_s: float) -> str:
        """ "; 12 min left", nothing where that is not known."""
        known = self._expected
        if not known:
            return ""
        left_s = max(0.0, known[0] - running_s) + sum(known[1:])
        return f"; {_seconds(left_s)} left"

    def line(self) -> Text:
        """What stands in the live line at this moment."""
        if not self._left:
            return Text("")
        running_s = time.monotonic() - self._began
        line = f"{self._done + 1} of {self._total}  {self._left[0].title}: {_seconds(running_s)}"
        return Text(line + self._left_words(running_s), no_wrap=True, overflow="ellipsis")


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why cells failed, a reason that several share once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            reasons.setdefault(str(row["error"]), []).append(row["label"])
    if any(row.get("network") in ("wrong", "unverified") for row in rows) and not reasons:
        return [f"the network was not the declared one, see {rows[0]['run']}"]
    return [f"{', '.join(labels)}: {' '.join(why.split())[:ERROR_CHARS]}" for why, labels in reasons.items()]


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
