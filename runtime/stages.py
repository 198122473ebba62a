"""What a device does during a request, stage by stage: where its time goes, and where a profile's time takes its place.

A stage is the work between two points at which a device meets the network. Its name says what it is, whatever the
method: embed, input (norms before attention), project (queries, keys, values), attention (among own tokens), expand
(keys and values of other tokens), remote (attention to them), output, mlp, residual, join, read_out, head; encode and
decode are of kind "code". What the network costs is in spans of the kinds send, wait, scatter and gather.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter
from types import TracebackType
from typing import Literal

_PR_SET_TIMERSLACK = 29
Kind = Literal["compute", "code", "wait", "scatter", "gather", "send"]
Spanned = tuple[Kind, str, int | None, float, float]
"""kind, name, layer, start in seconds after the request began, seconds."""


class Stages:
    """As it stands nothing is timed: for a model that runs by itself."""

    def __call__(self, name: str, layer: int | None = None, kind: Kind = "compute") -> AbstractContextManager[None]:
        """To be used as `with stages("mlp", 3):`."""
        return _untimed

    def note(self, kind: Kind, name: str, layer: int | None, start_s: float, end_s: float) -> None:
        """A span that is over, of the network's: its ends on the machine's monotonic clock."""


_untimed = nullcontext()
untimed = Stages()


class Timed(Stages):
    """Times every stage of a request. began_s: of the request, on the machine's monotonic clock.

    settle: returns once what was asked of a device that works on its own, such as a GPU, is done.
    """

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self._settle = settle
        self.restart()

    def restart(self, at_s: float | None = None) -> None:
        """A new request begins, or began at at_s."""
        self.spans: list[Spanned] = []
        self.began_s = perf_counter() if at_s is None else at_s

    def __call__(self, name: str, layer: int | None = None, kind: Kind = "compute") -> AbstractContextManager[None]:
        return _Stage(self, name, layer, kind)

    def leave(self, name: str, layer: int | None, kind: Kind, start_s: float) -> None:
        """A stage that began at start_s ends now."""
        if self._settle is not None:
            self._settle()
        self.note(kind, name, layer, start_s, perf_counter())

    def note(self, kind: Kind, name: str, layer: int | None, start_s: float, end_s: float) -> None:
        self.spans.append((kind, name, layer, start_s - self.began_s, end_s - start_s))

    def total_s(self, kind: Kind) -> float:
        """Seconds of this request so far in spans of a kind."""
        return sum(seconds for found, _, _, _, seconds in self.spans if found == kind)

    @property
    def late_s(self) -> list[float]:
        """By how much each wait of this request ended later than due; none where nothing is replayed."""
        return []


class _Stage:
    """A context manager around one stage's work."""

    __slots__ = ("_kind", "_layer", "_name", "_stages", "_start_s")

    def __init__(self, stages: Timed, name: str, layer: int | None, kind: Kind) -> None:
        self._stages, self._name, self._layer, self._kind = stages, name, layer, kind

    def __enter__(self) -> None:
        self._start_s = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._stages.leave(self._name, self._layer, self._kind, self._start_s)


class Replayed(Timed):
    """Stages of computing and coding last as long as a profile says, whatever really happens in them.

    seconds(name, layer): of the profile. A stage that ends late shortens the next one, and what a device then waits
    for data makes up for it as well, so that lateness does not add up. The network's stages take what they take.
    """

    def __init__(self, seconds: Callable[[str, int | None], float]) -> None:
        self._seconds = seconds
        super().__init__()

    def restart(self, at_s: float | None = None) -> None:
        super().restart(at_s)
        _wake_at_once()
        self._late_s: list[float] = []
        self._behind_s = 0.0

    @property
    def late_s(self) -> list[float]:
        return self._late_s

    def leave(self, name: str, layer: int | None, kind: Kind, start_s: float) -> None:
        seconds = self._seconds(name, layer)
        due_s = start_s + seconds - self._behind_s
        sleep_until(due_s)
        self._behind_s = perf_counter() - due_s
        if seconds:  # what no time is allowed for is made up for by a later stage, and not by itself late
            self._late_s.append(self._behind_s)
        super().leave(name, layer, kind, start_s)

    def note(self, kind: Kind, name: str, layer: int | None, start_s: float, end_s: float) -> None:
        if kind in ("wait", "scatter", "gather"):
            self._behind_s = max(0.0, self._behind_s - (end_s - start_s))
        super().note(kind, name, layer, start_s, end_s)


def _wake_at_once() -> None:
    """Linux may let a thread sleep 50 us longer than it asked, to wake several at once: not this thread."""
    with suppress(OSError, AttributeError):  # of another system
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def sleep_until(due_s: float) -> None:
    """Return as soon after due_s, of the monotonic clock, as the machine lets a process that sleeps."""
    while (left_s := due_s - perf_counter()) > 0:
        time.sleep(left_s)
