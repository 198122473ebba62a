"""The network of a prediction: routes without a search per pair, and what a direction of a link is over time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from heapq import heapreplace

from testbed.changes import Change, schedule
from testbed.linetime import FULL_FRAME_BYTES, medium_of
from testbed.paths import Hop, next_hops
from testbed.predict.work import Costs, PredictError
from testbed.shape import free_bytes, superpacket_frames
from testbed.topology import Lane, Link, Topology


class Routes:
    """The ways of `testbed.paths`, each found once. Own cables and the only common switch need no search."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._hosts = {host.name for host in topology.hosts}
        self._cables: dict[tuple[str, str], Link] = {}
        self._ports: dict[str, dict[str, list[Link]]] = {name: {} for name in self._hosts}
        for link in topology.links:
            for host in {link.a, link.b} & self._hosts:
                other = link.other(host)
                if other in self._hosts:
                    self._cables.setdefault((host, other), link)
                else:
                    self._ports[host].setdefault(other, []).append(link)
        self._tables: dict[str, dict[str, Hop]] = {}

    def hops(self, a: str, b: str) -> tuple[Hop, ...]:
        """The way from host to host; () from one to itself, and on loopback. Raises PredictError if there is none."""
        if a == b or self._topology.backend == "local":
            return ()
        found, node = [], a
        while node != b:
            hop = self.next_hop(node, a, b)
            found.append(hop)
            node = hop.receiver
        return tuple(found)

    def next_hop(self, node: str, source: str, target: str) -> Hop:
        """Where `node` hands on what comes from `source`. Raises PredictError if there is no way."""
        cable = self._cables.get((node, target))
        if cable is not None:
            return Hop(node, target, cable)
        ports, others = self._ports.get(source, {}), self._ports[target]
        common = ports.keys() & others.keys() if (source, target) not in self._cables else set()
        if len(common) == 1:
            switch = next(iter(common))
            up, down = ports[switch], others[switch]
            if len(up) == len(down) == 1 and node in (source, switch):
                return Hop(source, switch, up[0]) if node == source else Hop(switch, target, down[0])
        table = self.table(target)
        if node not in table:
            raise PredictError(f"{source} and {target} have no way between them")
        return table[node]

    def table(self, target: str) -> dict[str, Hop]:
        """Of every node that reaches `target`, the first hop there."""
        if target not in self._tables:
            self._tables[target] = next_hops(self._topology, target)
        return self._tables[target]


class Course:
    """What one direction of a link is over time, from the start of the requests on: its trace, and the events."""

    def __init__(self, hop: Hop, topology: Topology) -> None:
        self._words = hop.words
        self._at_s: list[float] = [-math.inf]
        self._lanes: list[Lane | None] = [hop.lane]
        ends = {hop.link.a, hop.link.b}
        events = tuple(event for event in topology.events if event.ends is None or set(event.ends) == ends)
        events = tuple(event for event in events if event.kind != "kill")
        self.changes = hop.lane.trace is not None or bool(events)
        self._coming: Iterator[Change] = iter(())
        if self.changes:
            alone = replace(topology, links=(hop.link,), events=events)
            self._coming = (change for change in schedule(alone) if change.sender == hop.sender)
        self._next = next(self._coming, None)

    def lane(self, at_s: float) -> Lane | None:
        """As it is at that time; None: down."""
        return self._lanes[self._index(at_s)] if self.changes else self._lanes[0]

    def after(self, start_s: float, bits: float) -> float:
        """When `bits` that begin to be sent at start_s are through. Raises PredictError on a link that stays down."""
        if not self.changes:
            assert self._lanes[0] is not None, "nothing takes it down"
            return start_s + bits / self._lanes[0].rate_bit_s
        index = self._index(start_s)
        while True:
            lane, until_s = self._lanes[index], self._until(index)
            rate_bit_s = lane.rate_bit_s if lane is not None else 0.0
            if rate_bit_s and start_s + bits / rate_bit_s <= until_s:
                return start_s + bits / rate_bit_s
            if math.isinf(until_s):
                raise PredictError(f"{self._words} is down to the end: what is sent never arrives")
            bits -= rate_bit_s * (until_s - start_s)
            start_s, index = until_s, index + 1

    def _index(self, at_s: float) -> int:
        while self._next is not None and self._next.at_s <= at_s:
            self._take()
        return bisect_right(self._at_s, at_s) - 1

    def _until(self, index: int) -> float:
        """When the values of `index` end."""
        if index + 1 == len(self._at_s) and self._next is not None:
            self._take()
        return self._at_s[index + 1] if index + 1 < len(self._at_s) else math.inf

    def _take(self) -> None:
        assert self._next is not None
        self._at_s.append(self._next.at_s)
        self._lanes.append(self._next.lane)
        self._next = next(self._coming, None)


class Server:
    """What a direction, or a shared medium, is busy with: frames wait for its rate in the order in which they come."""

    def __init__(self, common: bool = False) -> None:
        self.free_s, self.common = 0.0, common


class Machine:
    """The cores that emulate all hosts and lines: messages, what waits instead of computing, and packets wait for one
    of them in the order in which they come. Where nothing is emulated each host has its own, and nobody waits."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._free_s = [0.0] * (costs.cores or 0)

    def done_s(self, at_s: float, seconds: float) -> float:
        """When a core is done with what needs one for so long from at_s on."""
        if not self._free_s or not seconds:
            return at_s + seconds
        end_s = max(self._free_s[0], at_s) + seconds
        heapreplace(self._free_s, end_s)
        return end_s

    def through_s(self, at_s: float, line: Line, frames: int, index: int) -> float:
        """When it is done with frames that come at at_s to a line, that of this place on their way."""
        packets = max(1.0, frames / superpacket_frames(line.hop.lane.rate_bit_s))
        return self.done_s(at_s, self._costs.line_s(frames, packets, index))


class Line:
    """One direction of one link, carrying trains of frames.

    A train is some frames of one message, that come one close behind the other: from head_s (when the first is wholly
    there) to tail_s (the last). So frames are stored and forwarded one by one although trains are handled whole; the
    gaps in a train that comes slowly are left to others.
    """

    def __init__(self, hop: Hop, topology: Topology, server: Server, shaper: str | None = None) -> None:
        """shaper: tbf lets the first bytes after idle pass at once."""
        self.hop, self.server = hop, server
        bits = 8 * free_bytes(hop.lane.rate_bit_s, shaper or "") if math.isfinite(hop.lane.rate_bit_s) else 0.0
        self._free_s = bits / hop.lane.rate_bit_s
        self.course = Course(hop, topology)
        self.sent_bytes, self.dropped = 0.0, 0
        self.left_s = 0.0  # when the last train was sent; its delay comes after
        self._reached_s = 0.0

    def carry(self, head_s: float, tail_s: float, sizes: tuple[float, float, float]) -> tuple[float, float]:
        """When the first and the last frame of a train are at the other end. sizes: bytes on the line of all frames, of
        the first and of the last. Call it in the order of head_s."""
        size, first, last = sizes
        self.sent_bytes += size
        if math.isfinite(self.hop.lane.rate_bit_s):
            # What a bucket has saved up is as if the line had begun that much earlier.
            start_s = max(head_s - self._free_s, self.server.free_s)
            self.server.free_s = through_s = self.course.after(start_s, size * 8)
            head_s = max(head_s, self.course.after(start_s, first * 8))
            tail_s = max(through_s, tail_s, self.course.after(tail_s - self._free_s, last * 8))
        self.left_s = tail_s
        if not self.course.changes:
            return head_s + self.hop.lane.delay_s, tail_s + self.hop.lane.delay_s
        head_s, tail_s = head_s + self._delay_s(head_s), tail_s + self._delay_s(tail_s)
        # Where the delay falls, order is kept.
        head_s, tail_s = max(head_s, self._reached_s), max(tail_s, self._reached_s)
        self._reached_s = tail_s
        return head_s, tail_s

    def fitting(self, head_s: float, tail_s: float, frames: int) -> int:
        """How many full frames of a train the queue has room for; on a shared medium, where each sender has a queue of
        its own that is not looked at, all. What has none is counted as dropped."""
        lane = self.course.lane(head_s)
        if lane is None or self.server.common or math.isinf(lane.rate_bit_s):
            return frames
        waiting_s = max(0.0, self.server.free_s - head_s) - (tail_s - head_s)
        room_bytes = lane.queue_bytes - waiting_s * lane.rate_bit_s / 8
        fits = max(0, min(frames, int(room_bytes / FULL_FRAME_BYTES) + 1))  # one more is being sent
        self.dropped += frames - fits
        return fits

    def loss(self, at_s: float) -> float:
        """Fraction of the frames that are lost then; none are while it is down: they wait."""
        lane = self.course.lane(at_s)
        return lane.loss.mean if lane is not None else 0.0

    def _delay_s(self, at_s: float) -> float:
        lane = self.course.lane(at_s)
        return lane.delay_s if lane is not None else self.hop.lane.delay_s


class Network:
    """All lines of a topology, made as they are needed. Everything towards one shared medium has one server."""

    def __init__(self, topology: Topology, costs: Costs | None = None, shaper: str | None = None) -> None:
        """costs, shaper: of what emulates it."""
        self._shaper = shaper
        self._topology, self._routes = topology, Routes(topology)
        self.machine = Machine(costs or Costs())
        self.lines: dict[Hop, Line] = {}
        self._media: dict[str, Server] = {}

    def way(self, a: str, b: str) -> tuple[Line, ...]:
        """The lines from host to host. Raises PredictError if there is no way."""
        return tuple(self._line(hop) for hop in self._routes.hops(a, b))

    def sent_bytes(self) -> dict[str, float]:
        """Bytes on the line of every direction that carried some."""
        return {line.hop.words: line.sent_bytes for line in self.lines.values() if line.sent_bytes}

    def dropped(self) -> int:
        """Frames for which queues had no room."""
        return sum(line.dropped for line in self.lines.values())

    def _line(self, hop: Hop) -> Line:
        if hop not in self.lines:
            medium = medium_of(hop)
            server = Server() if medium is None else self._media.setdefault(medium, Server(common=True))
            self.lines[hop] = Line(hop, self._topology, server, self._shaper)
        return self.lines[hop]
