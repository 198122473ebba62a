"""One direction of a TCP connection: a window of frames on the way, acknowledged by the other end."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import simpy

from runtime.transport.wire import HEADER_BYTES
from testbed.linetime import FULL_FRAME_BYTES, HEADERS_BYTES, SEGMENT_BYTES
from testbed.predict.network import Line, Machine

_FRAMES_PER_ANSWER = 2
_LEAST_PIECE = 2  # frames
_PIECES_PER_WINDOW = 8  # so that acknowledgements come often enough to keep a small window moving
_PROBE_S = 8e-3  # what a tail loss probe waits beside two round trips: two ticks of a kernel with 250 Hz
_HYSTART_FRAMES = 16  # from here on slow start ends when round trips become longer by an eighth (4 to 16 ms)
_CUT, _GROWTH = 0.7, 0.53  # of the window after a loss, and frames per round trip from then on: cubic, where it is slow
Then = Callable[[], None]


@dataclass(frozen=True)
class Tcp:
    """Of Linux: initial_frames and least_rto_s are its defaults, most_frames what its receive buffer grows to.

    small_queue_frames: so many frames of a connection may wait for the first line at a time (TCP small queues); None:
    as many as the window, as where the sender's system does not see the queue: behind netem, or the relay.
    shaper: below it, where it matters to a line.
    pieces: a message goes in at most about so many trains of frames.
    """

    initial_frames: int = 10
    least_rto_s: float = 0.2
    most_frames: int = 2000
    idle_restart: bool = True
    small_queue_frames: int | None = 3
    shaper: str | None = None
    pieces: int = 64


@dataclass
class Message:
    """Bytes that one rank sends another; `unsent` and `missing` count frames."""

    payload_bytes: int
    frames: int = field(init=False)
    unsent: int = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.frames = self.unsent = self.missing = frames_of(self.payload_bytes)

    @property
    def last_bytes(self) -> int:
        """On the line, of the last frame."""
        return self.payload_bytes + HEADER_BYTES - (self.frames - 1) * SEGMENT_BYTES + HEADERS_BYTES


@dataclass(frozen=True, eq=False)
class Train:
    """Frames of a message that are on the line together. ends: the message's last one is among them; attempt: 0 for
    the first time; timeouts: how often nothing but the timer told that they were lost."""

    message: Message
    frames: int
    ends: bool
    sent_s: float
    attempt: int = 0
    timeouts: int = 0

    @property
    def sizes(self) -> tuple[float, float, float]:
        """Bytes on the line: of all frames, of the first, of the last."""
        last = self.message.last_bytes if self.ends else FULL_FRAME_BYTES
        return (self.frames - 1) * FULL_FRAME_BYTES + last, FULL_FRAME_BYTES if self.frames > 1 else last, last


def frames_of(payload_bytes: int) -> int:
    """Frames of a message, whose own header goes before the payload."""
    return math.ceil((payload_bytes + HEADER_BYTES) / SEGMENT_BYTES)


def at(env: simpy.Environment, when_s: float, then: Then) -> None:
    """Call `then` at that time."""
    timeout = env.timeout(max(0.0, when_s - env.now))
    assert timeout.callbacks is not None, "it has not happened yet"
    timeout.callbacks.append(lambda _: then())


class Flow:
    """Carries messages from one rank to another over `forth`, their acknowledgements over `back`.

    `inbox` is where they come out, in order. `twin`: the other direction of the same connection.
    """

    twin: Flow

    def __init__(
        self, env: simpy.Environment, ways: tuple[Sequence[Line], Sequence[Line]], machine: Machine, tcp: Tcp,
        draw: random.Random,
    ) -> None:  # fmt: skip
        """ways: there and back."""
        self._env, self._machine, self._tcp, self._draw = env, machine, tcp, draw
        self._forth, self._back = ways
        self.inbox: simpy.Store = simpy.Store(env)
        self._queue: deque[Message] = deque()  # not wholly sent
        self._order: deque[Message] = deque()  # not wholly arrived
        self._gaps: list[Train] = []  # lost, and not sent again yet
        self._window = float(tcp.initial_frames)
        self._threshold = math.inf
        self._on_the_way = self._unanswered = self._near = 0
        self._sent_s = self._cut_s = self._handed_s = -math.inf
        self._rtt_s = _least_s(self._forth, FULL_FRAME_BYTES) + _least_s(self._back, HEADERS_BYTES)

    def send(self, payload_bytes: int) -> float:
        """Hand over a message; it is on its way as the window allows. When the call is over: whoever hands packets down
        carries those that may go at once through the machine himself, one after the other."""
        message = Message(payload_bytes)
        self._handed_s = self._env.now
        if not self._on_the_way and not self._queue:
            self._restart()
        self._queue.append(message)
        self._order.append(message)
        self._push()
        return self._handed_s

    def _restart(self) -> None:
        """Idle for longer than the retransmission timeout: the window halves for each that went by."""
        idle_s, rto_s = self._env.now - self._sent_s, self._rtt_s + self._tcp.least_rto_s
        if not self._tcp.idle_restart or self._window <= self._tcp.initial_frames or idle_s <= rto_s:
            return
        self._threshold = max(self._threshold if math.isfinite(self._threshold) else 0.0, 0.75 * self._window)
        halvings = min(60, int(idle_s / rto_s))
        self._window = max(float(self._tcp.initial_frames), self._window / 2**halvings)

    def _push(self) -> None:
        while self._queue:
            message = self._queue[0]
            piece = max(_LEAST_PIECE, math.ceil(message.frames / self._tcp.pieces))
            piece = min(piece, max(_LEAST_PIECE, int(self._window) // _PIECES_PER_WINDOW), message.unsent)
            if self._on_the_way and self._on_the_way + piece > self._window:
                return
            if self._near and self._near + piece > (self._tcp.small_queue_frames or math.inf):
                return
            message.unsent -= piece
            if not message.unsent:
                self._queue.popleft()
            self._on_the_way += piece
            self._sent_s = self._env.now
            self._depart(Train(message, piece, message.unsent == 0, self._env.now))

    def _depart(self, train: Train) -> None:
        """Put it on the line."""
        if not self._forth:
            at(self._env, self._env.now, partial(self._arrived, train))
            return
        self._near += train.frames
        self._advance(train, 0, (self._env.now, self._env.now))
        at(self._env, self._forth[0].left_s, partial(self._left, train.frames))

    def _advance(self, train: Train, index: int, span_s: tuple[float, float]) -> None:
        """Over the next line; what its queue has no room for is lost, but a sender sees its own queue."""
        line = self._forth[index]
        if index or self._tcp.small_queue_frames is None:
            fits = line.fitting(*span_s, train.frames)
            if fits < train.frames:
                self._miss(replace(train, frames=train.frames - fits), told=False)
                train = replace(train, frames=fits, ends=False)
            if not fits:
                return
        head_s, tail_s = line.carry(*span_s, train.sizes)
        begins_s = span_s[0] if index else max(span_s[0], self._handed_s)
        through_s = self._machine.through_s(begins_s, line, train.frames, index)
        if not index:
            self._handed_s = through_s
        tail_s = max(tail_s, through_s)
        if index + 1 == len(self._forth):
            at(self._env, tail_s, partial(self._arrived, train))
        else:
            at(self._env, head_s, partial(self._advance, train, index + 1, (head_s, tail_s)))

    def _left(self, frames: int) -> None:
        """They are through the first line."""
        self._near -= frames
        self._push()

    def _arrived(self, train: Train) -> None:
        """A train is at the other end, but for what was lost on the way."""
        now, arrives = self._env.now, 1.0
        for line in self._forth:
            arrives *= 1 - line.loss(now)
        fates = [self._draw.random() < arrives for _ in range(train.frames)] if arrives < 1 else [True] * train.frames
        came = sum(fates)
        if came:
            self._notice()
        if came < train.frames:
            self._miss(replace(train, frames=train.frames - came, ends=train.ends and not fates[-1]), told=fates[-1])
        train.message.missing -= came
        while self._order and not self._order[0].missing:
            self.inbox.put(self._order.popleft())
        if came:
            self._answer(came, train.sent_s)

    def _answer(self, frames: int, sent_s: float) -> None:
        """Acknowledge: data that goes the other way carries it for nothing."""
        self._unanswered += frames
        count, self._unanswered = divmod(self._unanswered, _FRAMES_PER_ANSWER)
        size = 0.0 if self.twin._queue else float(HEADERS_BYTES)
        sizes = (count * size, min(count, 1) * size, min(count, 1) * size)
        self._return(self._back, sizes, (self._env.now, self._env.now), partial(self._answered, frames, sent_s))

    def _return(
        self, lines: Sequence[Line], sizes: tuple[float, float, float], span_s: tuple[float, float], then: Then
    ) -> None:
        """Over all `lines`, then `then`."""
        if not lines:
            at(self._env, span_s[1], then)
            return
        span_s = lines[0].carry(*span_s, sizes)
        at(self._env, span_s[1 if len(lines) == 1 else 0], partial(self._return, lines[1:], sizes, span_s, then))

    def _answered(self, frames: int, sent_s: float) -> None:
        waited_s = self._env.now - sent_s - self._rtt_s
        if self._window >= _HYSTART_FRAMES and waited_s > min(max(self._rtt_s / 8, 4e-3), 16e-3):
            self._threshold = min(self._threshold, self._window)
        if self._window < 2 * self._on_the_way:  # a window that was not needed does not grow
            grown = frames if self._window < self._threshold else _GROWTH * frames / self._window
            self._window = min(float(self._tcp.most_frames), self._window + grown)
        self._on_the_way -= frames
        self._push()

    def _miss(self, lost: Train, told: bool) -> None:
        """Frames were lost. told: a later frame has come, and its acknowledgement tells of them; else the next one that
        comes will, or a timer fires first: for the last frame alone the retransmission timeout, else a probe."""
        now, rto_s = self._env.now, (self._rtt_s + self._tcp.least_rto_s) * 2**lost.timeouts
        if now - self._cut_s > self._rtt_s:
            self._cut_s, self._window = now, max(2.0, _CUT * self._window)
            self._threshold = self._window
        self._gaps.append(lost)
        if told and not lost.attempt:
            self._notice()
        else:
            probe_s = 3 * self._rtt_s + _PROBE_S if lost.frames > 1 else rto_s
            at(self._env, max(now, lost.sent_s + min(rto_s, probe_s)), partial(self._expired, lost))

    def _expired(self, lost: Train) -> None:
        """A timer fired: if it was that of the last resort, the window starts from one frame."""
        if lost in self._gaps and (lost.frames == 1 or lost.attempt):
            self._window = 1.0
        self._again(lost, 1)

    def _notice(self) -> None:
        """Something came: the sender hears in its acknowledgement that what was sent before is missing."""
        for lost in self._gaps:
            at(self._env, self._env.now + _least_s(self._back, HEADERS_BYTES), partial(self._again, lost))

    def _again(self, lost: Train, timeouts: int = 0) -> None:
        """Send lost frames once more, if that has not been done. timeouts: 1 if a timer says so."""
        if lost in self._gaps:
            self._gaps.remove(lost)
            attempt, timeouts = lost.attempt + 1, lost.timeouts + timeouts
            self._depart(replace(lost, attempt=attempt, timeouts=timeouts, sent_s=self._env.now))


def _least_s(lines: Sequence[Line], size_bytes: int) -> float:
    """Seconds that one frame takes over idle lines as they are declared."""
    return sum(line.hop.lane.delay_s + size_bytes * 8 / line.hop.lane.rate_bit_s for line in lines)
