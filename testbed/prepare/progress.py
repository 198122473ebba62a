"""How far a preparation is: a bar on a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.text import Text

PLAIN_EVERY_S = 5.0
Step = Callable[[int, int, Mapping[str, float]], None]


class Progress:
    """What is said of one preparation."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock

    def stage(self, text: str) -> None:
        """Something is done, or begins."""
        self._console.print(Text(text, "dim"), soft_wrap=True)

    @contextmanager
    def steps(self, title: str) -> Iterator[Step]:
        """What is to be called after each step of something long: (done, of, losses, of which there may be none)."""
        make = self._bar if self._console.is_interactive else self._lines
        with make(title) as step:
            yield step

    @contextmanager
    def _bar(self, title: str) -> Iterator[Step]:
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[losses]}"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self._console, transient=True) as shown:
            bar = shown.add_task(title, total=None, losses="")

            def step(done: int, of: int, losses: Mapping[str, float]) -> None:
                shown.update(bar, completed=done, total=of, losses=_words(losses))

            yield step

    @contextmanager
    def _lines(self, title: str) -> Iterator[Step]:
        first: tuple[int, float] | None = None
        printed = self._clock()

        def step(done: int, of: int, losses: Mapping[str, float]) -> None:
            nonlocal first, printed
            now = self._clock()
            first = first or (done, now)
            if now - printed < PLAIN_EVERY_S or done == first[0]:
                return
            printed = now
            left_s = (of - done) * (now - first[1]) / (done - first[0])
            words = filter(None, (f"{title} {done} of {of}", _words(losses), f"{left_s:.0f} s left"))
            self._console.print(Text(", ".join(words)), soft_wrap=True)

        yield step


def _words(losses: Mapping[str, float]) -> str:
    """ "task 0.123, commitment 4.56"."""
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
