"""What happens to a frame on one direction of a link, decided by a clock that the caller reads: nothing waits.

A frame is put on the line at the lane's rate, behind those before it, and comes out delay and jitter after its last bit
was sent. Runs for every frame of every link, so it is plain Python: slots, no dataclasses, no properties on the way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from testbed.topology import Lane, Loss

OVERHEAD_BYTES = 24  # preamble 8, check sequence 4, gap 12: on the line, not in the frame that the kernel hands over


class Crossing:
    """A frame on its way. off_s: when its last bit is on the line; due_s: when it comes out at the far end."""

    __slots__ = ("data", "draw", "due_s", "line", "number", "off_s", "size")

    def __init__(self, line: Line, number: int, data: bytes, size: int, off_s: float) -> None:
        self.line, self.number, self.data, self.size, self.off_s = line, number, data, size, off_s
        self.due_s = off_s
        self.draw = 0.0  # -1 to 1: its place within the jitter

    def __lt__(self, other: Crossing) -> bool:
        return (self.due_s, self.number) < (other.due_s, other.number)


class Medium:
    """What frames take turns on, first come first served: the wire of one line, or a channel that lines share."""

    __slots__ = ("free_s", "waiting")

    def __init__(self) -> None:
        self.free_s = 0.0  # when the last frame so far will be on it
        self.waiting: deque[Crossing] = deque()  # of all lines, the one being sent included, those to be lost included

    def settle(self, now_s: float) -> None:
        """Forget the frames whose last bit was sent by now: they no longer fill their line's queue."""
        waiting = self.waiting
        while waiting and waiting[0].off_s <= now_s:
            crossing = waiting.popleft()
            crossing.line.held_bytes -= crossing.size

    def retime(self, now_s: float, first_left_bytes: float) -> None:
        """Send what waits one after the other from now on, at the rates that lines have now; the first goes on."""
        left, self.free_s = first_left_bytes, now_s
        for crossing in self.waiting:
            self.free_s += (left or crossing.size) * crossing.line.byte_s
            crossing.off_s, left = self.free_s, 0.0
        for line in {crossing.line for crossing in self.waiting}:
            line.due_again({crossing for crossing in self.waiting if crossing.line is line})


class Line:
    """One direction of a link.

    - `medium` is its own unless given; a lane of infinite rate does not use it.
    - Queue: a frame is dropped if it and those of this line that are not wholly sent yet (the one being sent counts
      whole) have more than queue_bytes on the line; one that finds none is never dropped. So none waits longer than
      `Lane.worst_queue_s` on a line of its own.
    - Loss is decided by a number drawn for each frame that got past the queue, in order (two numbers if losses come in
      bursts): the same frames meet the same fates whatever their timing. A lost frame has used the line.
    - Jitter is uniform in delay_s +- jitter_s, drawn separately. A frame never comes out before the one before it,
      unless `reorder`; never before it was sent.
    """

    def __init__(self, lane: Lane, seed: int, medium: Medium | None = None) -> None:
        self.medium = medium or Medium()
        self.offered = self.queue_drops = self.lost = 0
        self.held_bytes = 0  # on the line: of frames not wholly sent yet
        self.up = True
        self.inside: deque[Crossing] | list[Crossing] = deque()  # in order of due_s; with `reorder` a heap
        self._reorder = False
        self._last_due_s = 0.0
        self._in_burst = False
        self._loss_draw = random.Random(seed).random
        self._jitter_draw = random.Random(f"jitter {seed}").random
        self._take_over(lane)

    def _take_over(self, lane: Lane) -> None:
        self.byte_s = 8 / lane.rate_bit_s  # seconds a byte takes; 0 at infinite rate
        self._delay_s, self._jitter_s, self._queue_bytes = lane.delay_s, lane.jitter_s, lane.queue_bytes
        self._loss: Loss | None = lane.loss if lane.loss.mean > 0 else None
        if not lane.loss.enter:
            self._in_burst = False  # nothing would end it
        if lane.reorder is not self._reorder:
            self._reorder = lane.reorder
            self._hold(self.inside)

    def _hold(self, frames: Iterable[Crossing]) -> None:
        ordered = sorted(frames)
        self.inside = ordered if self._reorder else deque(ordered)
        self._last_due_s = ordered[-1].due_s if ordered else 0.0

    def offer(self, now_s: float, data: bytes) -> bool:
        """A frame arrives at the line. False: dropped, because the queue is full or the line is down."""
        self.offered += 1
        if not self.up:
            self.lost += 1
            return False
        size, medium = len(data) + OVERHEAD_BYTES, self.medium
        if medium.waiting:
            medium.settle(now_s)
        off_s = now_s
        if self.byte_s:
            if self.held_bytes and self.held_bytes + size > self._queue_bytes:
                self.queue_drops += 1
                return False
            off_s = (medium.free_s if medium.free_s > now_s else now_s) + size * self.byte_s
            medium.free_s = off_s
        crossing = Crossing(self, self.offered, data, size, off_s)
        if self.byte_s:
            self.held_bytes += size
            medium.waiting.append(crossing)
        if self._loss and self._loses(self._loss):
            self.lost += 1
            return True
        if self._jitter_s:
            crossing.draw = 2 * self._jitter_draw() - 1
        self._enter(crossing)
        return True

    def _enter(self, crossing: Crossing) -> None:
        """Give the frame its due time and its place among those inside."""
        due_s = crossing.off_s + self._delay_s
        if self._jitter_s:
            due_s = max(crossing.off_s, due_s + self._jitter_s * crossing.draw)
        inside = self.inside
        if isinstance(inside, list):
            crossing.due_s = due_s
            heappush(inside, crossing)
        else:
            crossing.due_s = self._last_due_s = due_s if due_s > self._last_due_s else self._last_due_s
            inside.append(crossing)

    def _loses(self, loss: Loss) -> bool:
        draw = self._loss_draw
        if loss.enter:
            self._in_burst = draw() >= loss.leave if self._in_burst else draw() < loss.enter
        return draw() < (loss.bad if self._in_burst else loss.good)

    def take(self, until_s: float) -> list[Crossing]:
        """The frames that come out until then, in order; they are no longer inside."""
        inside, found = self.inside, []
        if isinstance(inside, list):
            while inside and inside[0].due_s <= until_s:
                found.append(heappop(inside))
        else:
            while inside and inside[0].due_s <= until_s:
                found.append(inside.popleft())
        return found

    def change(self, now_s: float, lane: Lane | None) -> None:
        """From now on the line is as `lane` says; None: down.

        Nothing that is inside is dropped by a new lane, not even if the new queue is shorter. The rest of the frame
        that is being sent and those behind it go at the new rate and have the new delay, with the place within the
        jitter that they drew; those that are wholly sent keep theirs. Loss and queue hold for frames that arrive from
        now on. A line that is down loses what arrives and what was not wholly sent; the rest still comes out.
        """
        medium = self.medium
        medium.settle(now_s)
        first = medium.waiting[0] if medium.waiting else None
        left_bytes = (first.off_s - now_s) / first.line.byte_s if first else 0.0
        self.up = lane is not None
        if lane is None:
            sent = [crossing for crossing in self.inside if crossing.off_s <= now_s]
            self.lost += len(self.inside) - len(sent)
            self._hold(sent)
            medium.waiting = deque(crossing for crossing in medium.waiting if crossing.line is not self)
            self.held_bytes = 0
            if first and first.line is self:
                left_bytes = 0.0
        else:
            self._take_over(lane)
        medium.retime(now_s, left_bytes)

    def due_again(self, moved: set[Crossing]) -> None:
        """Give these frames, all that are not wholly sent yet, their due times again after a change."""
        moved &= set(self.inside)  # not those that are to be lost
        self._hold(crossing for crossing in self.inside if crossing not in moved)
        for crossing in sorted(moved, key=_by_number):
            self._enter(crossing)


def _by_number(crossing: Crossing) -> int:
    return crossing.number
