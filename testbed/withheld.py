"""What a hypervisor withheld: time in which a processor of this guest had work and did not run ("steal").

Nobody in the guest is to blame for it, and nothing in it can help: frames and messages are late by it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
MUCH = 0.01  # of a processor's time: a transfer may be late by 5 %
_LEAST_TICKS = 5  # counted in steps of 10 ms, mostly: fewer may be chance
_STEAL = 8  # column


def ticks() -> dict[str, int]:
    """Processor -> ticks withheld since the machine started; none where the kernel does not count them."""
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[_STEAL]) for words in lines
            if len(words) > _STEAL and words[0].startswith("cpu") and words[0] != "cpu"}  # fmt: skip


class Withheld:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began_s, self._before = time.monotonic(), ticks()

    def share(self) -> float:
        """Of the time since then, of the processor that it was withheld from most; 0 to 1."""
        most = max((now - self._before.get(name, now) for name, now in ticks().items()), default=0)
        took_s = time.monotonic() - self._began_s
        if most < _LEAST_TICKS or took_s <= 0:
            return 0.0
        return min(1.0, most / os.sysconf("SC_CLK_TCK") / took_s)
