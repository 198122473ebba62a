"""What messages that are under way together cost, by numpy: a million pairs of a thousand devices at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.transport.wire import HEADER_BYTES
from testbed.linetime import FULL_FRAME_BYTES, HEADERS_BYTES, SEGMENT_BYTES, medium_of
from testbed.paths import Hop
from testbed.predict.flow import Tcp
from testbed.predict.network import Routes
from testbed.topology import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MOST_ROUNDS = 24  # of a window that doubles: 160 million frames


@dataclass(frozen=True)
class Phase:
    """Messages from ranks src to ranks dst, at most one of a pair, handed over at at_s; payload in bytes."""

    src: Ints
    dst: Ints
    payload: Floats
    at_s: Floats


class Pricing:
    """The lines of a topology as arrays, until when each is busy, and how far each sender's windows have opened."""

    def __init__(self, topology: Topology, hosts: Sequence[str]) -> None:
        self._tcp, self._local = Tcp(), topology.backend == "local"
        self._hops: dict[tuple[str, str], int] = {}
        self._found: list[Hop] = []
        nodes = {name: number for number, name in enumerate(dict.fromkeys((*hosts, *_nodes(topology))))}
        self._next = np.full((len(nodes), len(hosts)), -1, dtype=np.int64)
        if not self._local:
            self._fill(topology, hosts, nodes)
        self._rate = np.array([hop.lane.rate_bit_s for hop in self._found])
        self._delay_s = np.array([hop.lane.delay_s for hop in self._found])
        self._receiver = np.array([nodes[hop.receiver] for hop in self._found], dtype=np.int64)
        media = [medium_of(hop) for hop in self._found]
        servers = {medium: number for number, medium in enumerate(dict.fromkeys(filter(None, media)))}
        own = len(servers)
        self._server = np.array(
            [servers.get(medium or "", own + number) for number, medium in enumerate(media)], dtype=np.int64
        )
        self._server_rate = np.full(own + len(self._found), np.inf)
        self._server_rate[self._server] = self._rate
        self._free_s = np.zeros(own + len(self._found))
        self._carried = np.zeros(len(self._found))
        self._windows = np.full(len(hosts), float(self._tcp.initial_frames))
        self._sent_s = np.zeros(len(hosts))

    def _fill(self, topology: Topology, hosts: Sequence[str], nodes: dict[str, int]) -> None:
        """Which hop every node on a way takes towards each host."""
        routes, leaves = Routes(topology), _leaves(topology)
        ups: dict[str, list[tuple[int, int]]] = {}
        for host, up in leaves.items():
            ups.setdefault(up.receiver, []).append((nodes[host], self._number(up)))
        for column, target in enumerate(hosts):
            if target in leaves:  # all others at its switch go through it: the usual case, without a look at each pair
                up = leaves[target]
                rows, hops = zip(*ups[up.receiver], strict=True)
                self._next[list(rows), column] = hops
                self._next[nodes[up.receiver], column] = self._number(up.back)
            for source in hosts:
                node = source
                while node != target and self._next[nodes[node], column] < 0:
                    hop = routes.next_hop(node, source, target)
                    self._next[nodes[node], column] = self._number(hop)
                    node = hop.receiver

    def _number(self, hop: Hop) -> int:
        key = hop.sender, hop.receiver
        if key not in self._hops:
            self._hops[key] = len(self._found)
            self._found.append(hop)
        return self._hops[key]

    def sent_bytes(self) -> dict[str, float]:
        """Bytes on the line of every direction that carried some."""
        return {self._found[i].words: float(self._carried[i]) for i in np.flatnonzero(self._carried)}

    def idle_until(self, at_s: float) -> None:
        """All lines are free again at that time."""
        self._free_s[:] = at_s

    def arrivals(self, phase: Phase, times: int = 1) -> Floats:
        """When each message is there, on lines that may still be busy. times: how often this happens, for the bytes."""
        if self._local or not self._found:
            return phase.at_s
        size = phase.payload + HEADER_BYTES
        frames = np.ceil(size / SEGMENT_BYTES)
        line, last = size + frames * HEADERS_BYTES, size - (frames - 1) * SEGMENT_BYTES + HEADERS_BYTES
        levels = list(self._walk(phase.src, phase.dst))
        load, begin_s = self._loads(phase, levels, (line, np.minimum(line, FULL_FRAME_BYTES)), times)
        answers = self._answers(phase, frames, times)
        done_s = np.maximum(begin_s, self._free_s) + (load + answers) * 8 / self._server_rate
        first = levels[0][1]
        slower = (load + answers)[self._server[first]] / load[self._server[first]]  # acknowledgements go the same way
        turn = self._turns(self._server[first], line, frames) * slower * 8 / self._rate[first]
        starts_s = np.maximum(begin_s, self._free_s)[self._server[first]]
        now_s: Floats = np.maximum(starts_s + turn, phase.at_s + line * 8 / self._rate[first])
        now_s += self._opening_s(phase, frames, levels) + self._delay_s[first]
        for which, hop in levels[1:]:
            passed_s = np.maximum(now_s[which] + last[which] * 8 / self._rate[hop], done_s[self._server[hop]])
            now_s[which] = passed_s + self._delay_s[hop]
        self._free_s = np.where(load + answers > 0, done_s, self._free_s)
        return now_s

    def _walk(self, src: Ints, dst: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Line by line: which of the messages still travel, and the hop that each takes."""
        node, which = src.copy(), np.arange(len(src))
        while len(which):
            hop = self._next[node[which], dst[which]]
            yield which, hop
            node[which] = self._receiver[hop]
            which = which[node[which] != dst[which]]

    def _loads(
        self, phase: Phase, levels: Sequence[tuple[Ints, Ints]], sizes: tuple[Floats, Floats], times: int
    ) -> tuple[Floats, Floats]:
        """Bytes through every server, and when the first is there. sizes: of messages, and of their first frames."""
        line, first = sizes
        load, begin_s = np.zeros(len(self._free_s)), np.full(len(self._free_s), np.inf)
        enter_s = phase.at_s.copy()
        for which, hop in levels:
            server = self._server[hop]
            load += np.bincount(server, line[which], len(load))
            np.minimum.at(begin_s, server, enter_s[which])
            self._carried += times * np.bincount(hop, line[which], len(self._carried))
            enter_s[which] += first[which] * 8 / self._rate[hop] + self._delay_s[hop]
        return load, np.where(np.isinf(begin_s), phase.at_s.min(), begin_s)

    def _answers(self, phase: Phase, frames: Floats, times: int) -> Floats:
        """Bytes of acknowledgements through every server: of pairs of which only one side sends."""
        sends = np.zeros((self._next.shape[1],) * 2, dtype=bool)
        sends[phase.src, phase.dst] = True
        alone = ~sends[phase.dst, phase.src]
        size = (frames[alone] // 2) * HEADERS_BYTES
        load = np.zeros(len(self._free_s))
        for which, hop in self._walk(phase.dst[alone], phase.src[alone]):
            load += np.bincount(self._server[hop], size[which], len(load))
            self._carried += times * np.bincount(hop, size[which], len(self._carried))
        return load

    def _turns(self, server: Ints, line: Floats, frames: Floats) -> Floats:
        """Bytes that have left when a message has: small ones go in order, larger ones share the line by frames."""
        found, order = line.copy(), np.argsort(server, kind="stable")
        bounds = np.flatnonzero(np.diff(server[order])) + 1
        if len(bounds) + 1 == len(server):
            return found  # each has a line of its own
        for mine in np.split(order, bounds):
            found[mine] = _shared(line[mine], frames[mine] <= self._tcp.initial_frames)
        return found

    def _opening_s(self, phase: Phase, frames: Floats, levels: Sequence[tuple[Ints, Ints]]) -> Floats:
        """Seconds that lines are idle because windows are small: per round trip what a window does not fill of it."""
        if not self._delay_s.any():
            return np.zeros(len(frames))  # the first window is larger than any line without delay holds
        rtt_s, rate = np.zeros(len(frames)), np.full(len(frames), np.inf)
        for which, hop in levels:
            rtt_s[which] += self._delay_s[hop] + FULL_FRAME_BYTES * 8 / self._rate[hop]
            rate[which] = np.minimum(rate[which], self._rate[hop])
        for which, hop in self._walk(phase.dst, phase.src):
            rtt_s[which] += self._delay_s[hop] + HEADERS_BYTES * 8 / self._rate[hop]
        flows = np.bincount(phase.src, minlength=len(self._windows))[phase.src]
        rto_s = rtt_s + self._tcp.least_rto_s
        idle = np.maximum(0.0, phase.at_s - self._sent_s[phase.src]) // rto_s
        window = np.maximum(self._windows[phase.src] / 2 ** np.minimum(idle, 60), self._tcp.initial_frames)
        opened = np.where(frames > window, window + frames, window)  # by a frame for each that is acknowledged
        sent, found = np.zeros(len(frames)), np.zeros(len(frames))
        for _ in range(_MOST_ROUNDS):
            gap_s = rtt_s - flows * window * FULL_FRAME_BYTES * 8 / rate
            waits = (sent + window < frames) & (gap_s > 0)
            if not waits.any():
                break
            found += np.where(waits, gap_s, 0.0)
            sent, window = np.where(waits, sent + window, sent), np.where(waits, 2 * window, window)
        self._windows[phase.src] = self._tcp.initial_frames  # those that were idle are small again
        np.maximum.at(self._windows, phase.src, opened)
        np.maximum.at(self._sent_s, phase.src, phase.at_s)
        return found


def _shared(line: Floats, small: NDArray[np.bool_]) -> Floats:
    """Bytes that have left a line when each of the messages has, that are handed to it together in this order."""
    count, position = len(line), np.arange(len(line))
    order = np.argsort(line, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = position
    shares = (np.cumsum(line[order]) + line[order] * (count - 1 - position))[rank]  # of equal parts for all
    shares -= (count - 1 - position) * min(float(FULL_FRAME_BYTES), float(line.min()))
    return np.where(small, np.cumsum(np.minimum(line, Tcp.initial_frames * FULL_FRAME_BYTES)), shares)


def _leaves(topology: Topology) -> dict[str, Hop]:
    """Hosts with one link, to a switch, and the hop there."""
    switches, hops = {switch.name for switch in topology.switches}, dict[str, list[Hop]]()
    for link in topology.links:
        for end in (link.a, link.b):
            hops.setdefault(end, []).append(Hop(end, link.other(end), link))
    return {node: own[0] for node, own in hops.items() if len(own) == 1 and own[0].receiver in switches}


def _nodes(topology: Topology) -> list[str]:
    return [host.name for host in topology.hosts] + [switch.name for switch in topology.switches]
