"""Datagrams with numbers on them: how many of a train arrive, how late and in which order, and at what rate.

A train leaves `head` datagrams at once, so that a queue builds up at the slowest link, and then one per `spacing_s`;
while that queue lasts, datagrams arrive at exactly the rate of that link. Standard library only.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from runtime.messages import Bad, exactly

NUMBER = struct.Struct("!Id")  # a datagram's number, seconds on the sender's clock
REPORT = struct.Struct("!IddI")  # of a `Seen`
TRAIN = struct.Struct("!IIdI")
GRACE = struct.Struct("!d")  # seconds that what is still on its way may be silent, when all was sent
BUFFER_BYTES = 4 << 20
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("=qq")
_FORCED = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}  # past the machine's limit, where we may
_MOST_MADE_UP = 8  # datagrams sent at once after the sender was late, where a queue must stay empty
Address = tuple[str, int]


class Arrival(NamedTuple):
    """One datagram: when it reached the machine and, on the sender's clock, when it was sent; seconds."""

    number: int
    at_s: float
    sent_s: float = 0.0


class Seen(NamedTuple):
    """What a receiver says of a train: how many arrived; seconds between two numbers and `spread_s` of the delays (0:
    cannot be told); how many came behind a later one."""

    arrived: int
    spacing_s: float
    spread_s: float
    late: int


@dataclass(frozen=True)
class Train:
    """count datagrams of size_bytes (>= 12) payload each, spacing_s apart, the first `head` at once.

    head 0: none may queue, so a sender that is late does not hurry afterwards.
    """

    count: int
    size_bytes: int
    spacing_s: float
    head: int = 0

    @property
    def seconds(self) -> float:
        """How long sending it takes."""
        return max(0, self.count - self.head) * self.spacing_s

    def pack(self) -> bytes:
        """Its bytes in a request."""
        return TRAIN.pack(self.count, self.size_bytes, self.spacing_s, self.head)


def large_buffer(end: socket.socket, which: int) -> None:
    """4 MiB for SO_RCVBUF or SO_SNDBUF, or what the machine allows: what is lost there was not lost on the link."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _FORCED[which], BUFFER_BYTES)
    except OSError:
        end.setsockopt(socket.SOL_SOCKET, which, BUFFER_BYTES)


@contextmanager
def opened(address: str) -> Iterator[socket.socket]:
    """An end for datagrams at `address` that notes when each one reached the machine, not when Python came to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        large_buffer(end, socket.SO_RCVBUF)
        large_buffer(end, socket.SO_SNDBUF)
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        end.bind((address, 0))
        end.setblocking(False)
        yield end


def send(end: socket.socket, targets: Sequence[Address], train: Train) -> None:
    """Send a train to every target, in turn. Where the sender's own buffer is full it waits."""
    due_s = time.monotonic() - train.head * train.spacing_s
    rest = bytes(train.size_bytes - NUMBER.size)
    end.setblocking(True)
    for number in range(train.count):
        now_s = time.monotonic()
        if due_s > now_s:
            time.sleep(due_s - now_s)
        elif not train.head:
            due_s = max(due_s, now_s - _MOST_MADE_UP * train.spacing_s)
        for target in targets:
            end.sendto(NUMBER.pack(number, time.time()) + rest, target)
        due_s += train.spacing_s
    end.setblocking(False)


def _read(end: socket.socket, into: dict[Address, list[Arrival]]) -> int:
    """Take what is there; how many there were."""
    count = 0
    while True:
        try:
            data, extra, _, sender = end.recvmsg(NUMBER.size, socket.CMSG_SPACE(_TIMESPEC.size))
        except BlockingIOError:
            return count
        at_s = time.time()
        for level, kind, value in extra:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                at_s = seconds + nanoseconds / 1e9
        if len(data) == NUMBER.size:
            number, sent_s = NUMBER.unpack(data)
            into.setdefault(sender, []).append(Arrival(number, at_s, sent_s))
            count += 1


def collect(
    end: socket.socket, controls: Sequence[socket.socket], count: int, limit_s: float
) -> dict[Address, list[Arrival]]:
    """Arrivals of each sender until `count` in all are there, at most limit_s.

    controls: connections on which senders say that they sent everything, and for how many seconds what is still on its
    way may be silent; each is read, whatever arrives. Raises OSError where one of them goes away.
    """
    found: dict[Address, list[Arrival]] = {}
    waiting, grace_s, end_s = list(controls), limit_s if not controls else 0.0, time.monotonic() + limit_s
    while (waiting or count > 0) and (left_s := end_s - time.monotonic()) > 0:
        ready, _, _ = select.select([end, *waiting], [], [], left_s if waiting else min(grace_s, left_s))
        if not ready:
            break
        if end in ready:
            count -= _read(end, found)
        for control in (control for control in ready if control is not end):
            waiting.remove(control)
            grace_s = max(grace_s, _grace_s(control))
    return found


def _grace_s(control: socket.socket) -> float:
    try:
        said = exactly(control, GRACE.size)
    except Bad as error:
        raise ConnectionError("the other end went away") from error
    return float(GRACE.unpack(said)[0])


def spacing_s(arrivals: Sequence[Arrival]) -> float:
    """Seconds from one number to the next: the slope of a straight line through the arrivals; 0 if there is none.

    Lost numbers leave gaps that change nothing; single late ones change little.
    """
    numbers = [float(one.number) for one in arrivals]
    if len(set(numbers)) < 2:
        return 0.0
    mean = sum(numbers) / len(numbers)
    start_s = arrivals[0].at_s
    mean_s = sum(one.at_s - start_s for one in arrivals) / len(arrivals)
    across = sum((one.number - mean) * (one.at_s - start_s - mean_s) for one in arrivals)
    return across / sum((number - mean) ** 2 for number in numbers)


def spread_s(arrivals: Sequence[Arrival]) -> float:
    """Seconds within which the delays of the middle half of them lie; 0 of fewer than eight.

    The two clocks may differ. Single late ones change nothing.
    """
    if len(arrivals) < 8:
        return 0.0
    delays_s = sorted(one.at_s - one.sent_s for one in arrivals)
    quarter = len(delays_s) // 4
    return delays_s[-quarter - 1] - delays_s[quarter]


def late_numbers(arrivals: Sequence[Arrival]) -> int:
    """How many came behind one with a higher number."""
    highest = accumulate((one.number for one in arrivals), max)
    return sum(one.number < most for one, most in zip(arrivals, highest, strict=True))


def seen(arrivals: Sequence[Arrival]) -> Seen:
    """What to report of one train."""
    arrived = len({one.number for one in arrivals})
    return Seen(arrived, spacing_s(arrivals), spread_s(arrivals), late_numbers(arrivals))


def overlapping(trains: Sequence[Sequence[Arrival]]) -> list[list[Arrival]]:
    """Of trains from several senders, what arrived while all of them were arriving."""
    begin_s = max(min(one.at_s for one in train) for train in trains)
    end_s = min(max(one.at_s for one in train) for train in trains)
    return [[arrival for arrival in train if begin_s <= arrival.at_s <= end_s] for train in trains]
