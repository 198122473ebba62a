"""What a hypervisor withheld: time in which a processor of this guest had work and did not run ("steal").

Nobody in the guest is to blame for it, and nothing in it can help: frames and messages are late by it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
MUCH = 0.01  # of the processors' time: a transfer may be late by 5 %
_STEAL = 8  # column


def total_s() -> float:
    """Of all processors, since the machine started; 0 where the kernel does not count it."""
    try:
        words = STAT.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(words[_STEAL]) / os.sysconf("SC_CLK_TCK") if len(words) > _STEAL else 0.0


class Withheld:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began_s, self._before_s = time.monotonic(), total_s()

    def share(self) -> float:
        """Of the processors' time since then, 0 to 1."""
        took_s = (time.monotonic() - self._began_s) * (os.cpu_count() or 1)
        return max(0.0, total_s() - self._before_s) / took_s if took_s > 0 else 0.0
