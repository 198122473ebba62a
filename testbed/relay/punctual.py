"""How much sooner the relay wakes up than a frame is due. Standard library only.

Where the kernel cannot keep processors from sleeping (no cpuidle driver, as in many guests, so that `awake` has no
effect) whoever sleeps is woken up late: 0.05 to 0.1 ms where this was measured, twice a round trip of one cable. There
the relay sleeps less long, and watches the clock for the rest.
"""

from __future__ import annotations

_STEP_S = 1e-6
_QUANTILE = 0.9  # of sleeps so many are not later
_ENOUGH_S = 30e-6  # not worth the cores
_MOST_S = 200e-6
_MOST_OF_WAIT = 0.1  # the cores are there for others too


class Sleeps:
    """Learns from each sleep how late they end."""

    __slots__ = ("late_s",)

    def __init__(self) -> None:
        self.late_s = 0.0  # what nine of ten sleeps are not later than, as far as it is known

    def ended(self, late_s: float) -> None:
        """One sleep ended so late."""
        up = late_s > self.late_s
        odds = _QUANTILE / (1 - _QUANTILE)
        self.late_s = min(_MOST_S, max(0.0, self.late_s + (odds * _STEP_S if up else -_STEP_S)))

    def ahead_s(self, wait_s: float) -> float:
        """How much sooner than the end of this wait to wake up: 0 where sleeps end in time, at most a tenth of it."""
        return min(self.late_s, wait_s * _MOST_OF_WAIT) if self.late_s > _ENOUGH_S else 0.0
