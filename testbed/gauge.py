"""What crosses the links while a method runs: bytes by the interfaces' counters, drops and losses by the shaper's.

To read an interface takes a file of /proc and nobody's time who carries frames; no packet is sent for it. A shaper has
to be asked, over the relay's socket or by a `tc` for every direction: the longer that takes, the less often it is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.hosts import Counters, Network
from testbed.shape import Port

ASK_S, ASK_SHARE = 1.0, 0.01  # a shaper is asked once a second at most, and answers for 1 % of the time at most
_RECEIVED = 0  # column of /proc/net/dev behind the name


@dataclass(frozen=True)
class Flow:
    """One direction, "h1 -> s1". bit_s: what came out of it between the last two readings, bytes as the kernel counts
    them, without line overhead.

    line_bit_s: the rate of its line now; infinite: it has none of its own; 0: it is down. queue_drops, lost: frames
    since the gauge was first read; None: not asked, or the shaper does not tell.
    """

    name: str
    bit_s: float
    line_bit_s: float
    queue_drops: int | None = None
    lost: int | None = None


class Gauge:
    """Reads when it is told to; `flows` is what it found last, in the order of the file, () until the second reading.

    received: bytes that came out of every direction so far. counted: as of Shaping.counters. lines: rate of every
    direction, bit/s. All that is asked in a reading may raise, and the reading raises it.
    """

    def __init__(
        self,
        received: Callable[[], Mapping[str, int]],
        counted: Callable[[], Mapping[str, Counters]],
        lines: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.flows: tuple[Flow, ...] = ()
        self._received, self._counted, self._clock = received, counted, clock
        self._lines = dict(lines)
        self._before: tuple[float, Mapping[str, int]] | None = None
        self._first: Mapping[str, Counters] = {}
        self._last: Mapping[str, Counters] = {}
        self._ask_s = -math.inf  # when the shaper may be asked again

    def changed(self, name: str, line_bit_s: float) -> None:
        """The line of a direction has another rate from now on."""
        self._lines[name] = line_bit_s

    def read(self, ask: bool) -> None:
        """Take another reading. ask: the shaper, too, if it is time for that."""
        if ask and self._clock() >= self._ask_s:
            self._ask()
        now_s, now = self._clock(), self._received()
        if self._before is not None and now_s > self._before[0]:
            then_s, then = self._before
            self.flows = tuple(self._flow(name, (now[name] - then[name]) * 8 / (now_s - then_s)) for name in now)
        self._before = now_s, now

    def _ask(self) -> None:
        began_s = self._clock()
        self._last = self._counted()
        self._first = self._first or self._last
        ended_s = self._clock()
        self._ask_s = began_s + max(ASK_S, (ended_s - began_s) / ASK_SHARE)

    def _flow(self, name: str, bit_s: float) -> Flow:
        line_bit_s = self._lines.get(name, math.inf)
        if name not in self._last:
            return Flow(name, bit_s, line_bit_s)
        now, first = self._last[name], self._first[name]
        lost = None if now.lost is None else now.lost - (first.lost or 0)
        return Flow(name, bit_s, line_bit_s, now.queue_drops - first.queue_drops, lost)


def of_network(network: Network, pids: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> Gauge | None:
    """The gauge of a network whose links are shaped, None of another. pids: a process inside each host."""
    if network.shaping is None:
        return None
    lines = {port.hop.words: port.hop.lane.rate_bit_s for port in network.ports}
    far = {port.hop.back.words: port for port in network.ports}  # what comes out, comes in at the other end's port
    ends = {port.hop.words: far[port.hop.words] for port in network.ports}
    return Gauge(lambda: _received(ends, pids), network.shaping.counters, lines, clock)


def _received(ends: Mapping[str, Port], pids: Mapping[str, int]) -> dict[str, int]:
    """Bytes that came in at the port at the end of every direction. Raises OSError or KeyError for one that is gone."""
    seen = {host: _interfaces(None if host is None else pids[host]) for host in {port.host for port in ends.values()}}
    return {name: int(seen[port.host][port.interface][_RECEIVED]) for name, port in ends.items()}


def _interfaces(pid: int | None) -> dict[str, list[str]]:
    """Counters of the interfaces in the namespace of a process, None: this one's."""
    lines = Path("/proc", "self" if pid is None else str(pid), "net/dev").read_text().splitlines()[2:]
    return {name.strip(): columns.split() for name, _, columns in (line.partition(":") for line in lines)}
