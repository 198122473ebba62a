"""How much sooner the relay wakes up than a frame is due. Standard library only.

Where the kernel cannot keep processors from sleeping (no cpuidle driver, as in many guests, so that `awake` has no
effect) whoever sleeps is woken up late: 0.05 to 0.1 ms where this was measured, twice a round trip of one cable. There
the relay sleeps less long, and watches the clock for the rest, a tenth of the time at most: the cores are there for
others too.
"""

from __future__ import annotations

_UP_S, _DOWN_S = 9e-6, 1e-6  # nine steps up for one down: what nine of ten sleeps are not later than
_ENOUGH_S = 30e-6  # not worth the cores
_MOST_S = 200e-6
_SHARE = 0.1
_MOST_SAVED_S = 1e-3


class Sleeps:
    """Learns from each sleep how late they end, and keeps account of the time for which the clock may be watched."""

    __slots__ = ("_now_s", "_saved_s", "late_s")

    def __init__(self) -> None:
        self.late_s = 0.0  # what nine of ten sleeps are not later than, as far as it is known
        self._now_s, self._saved_s = 0.0, 0.0

    def ended(self, late_s: float) -> None:
        """One sleep ended so late."""
        step_s = _UP_S if late_s > self.late_s else -_DOWN_S
        self.late_s = min(_MOST_S, max(0.0, self.late_s + step_s))

    def ahead_s(self, now_s: float) -> float:
        """How much sooner than a frame is due to wake up: 0 where sleeps end in time."""
        self._saved_s = min(_MOST_SAVED_S, self._saved_s + _SHARE * (now_s - self._now_s))
        self._now_s = now_s
        return min(self.late_s, self._saved_s) if self.late_s > _ENOUGH_S else 0.0

    def watched(self, seconds: float) -> None:
        """The clock is watched for so long."""
        self._saved_s -= seconds
