"""No events: every rank has a clock, and messages that are under way together are one phase, priced by formula.

A phase takes compute, then bytes/rate of the most loaded line of each message's way, a frame's time per further line,
delays, the round trips that TCP's window needs to open, and the CPU that messages cost; what a rank computes between a
Send and its Receive hides transfer. Ranks advance until all wait, then what they have sent is priced at once, by numpy:
a thousand devices take seconds. Rough where the simulation is exact: in a phase all messages through a line are done
when its last one is (but small ones leave their host in order); losses, jitter, traces, events and drops do not exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.plan import even_spans
from runtime.steps import AllReduce, Compute, Receive, Send
from testbed.predict.phases import Phase, Pricing
from testbed.predict.work import ELEMENT_BYTES, Costs, Outcome, PredictError, Work
from testbed.topology import Topology

Floats = NDArray[np.float64]
_RING = 4  # messages of one pair that may be under way at first; more make room for more


def analyse(topology: Topology, work: Work, costs: Costs | None = None) -> Outcome:
    """Latency of one request on an idle network. Raises PredictError: no way between hosts, steps that never end."""
    return _Clocks(topology, work, costs or Costs()).run()


@dataclass
class _Rank:
    """Where a rank is in its steps."""

    step: int = 0
    clock_s: float = 0.0
    busy_s: float = 0.0
    waited_s: float = 0.0


class _Mail:
    """Messages that have a time of arrival, by pair of ranks, in the order sent."""

    def __init__(self, world: int) -> None:
        self._arrived_s = np.zeros((_RING, world, world))
        self._bytes = np.zeros((_RING, world, world))
        self._put = np.zeros((world, world), dtype=np.int64)
        self._taken = np.zeros((world, world), dtype=np.int64)

    def put(self, phase: Phase, arrived_s: Floats) -> None:
        """One message of each of some pairs."""
        src, dst = phase.src, phase.dst
        if (self._put[src, dst] - self._taken[src, dst] >= len(self._arrived_s)).any():
            self._grow()
        slot = self._put[src, dst] % len(self._arrived_s)
        self._arrived_s[slot, src, dst], self._bytes[slot, src, dst] = arrived_s, phase.payload
        self._put[src, dst] += 1

    def take(self, sources: Sequence[int], rank: int) -> tuple[Floats, Floats] | None:
        """When the next message from each of `sources` arrives, and its bytes; None if one has no time yet."""
        peers = np.asarray(sources)
        taken = self._taken[peers, rank]
        if (self._put[peers, rank] <= taken).any():
            return None
        slot = taken % len(self._arrived_s)
        self._taken[peers, rank] += 1
        return self._arrived_s[slot, peers, rank], self._bytes[slot, peers, rank]

    def _grow(self) -> None:
        """Twice the room: what is numbered n stays at n modulo the room."""
        world, before = self._put.shape[0], len(self._arrived_s)
        numbers = np.arange(2 * before)
        for name in ("_arrived_s", "_bytes"):
            old, new = getattr(self, name), np.zeros((2 * before, world, world))
            new[numbers] = old[numbers % before]
            setattr(self, name, new)


class _Clocks:
    """One evaluation."""

    def __init__(self, topology: Topology, work: Work, costs: Costs) -> None:
        self._work, self._costs = work, costs.alone()
        self._pricing = Pricing(topology, work.hosts)
        self._ranks = [_Rank() for _ in range(work.world)]
        self._mail = _Mail(work.world)
        self._outbox: dict[tuple[str, int | None], list[tuple[int, Send, Floats]]] = defaultdict(list)

    def run(self) -> Outcome:
        while True:
            moved = [self._advance(rank) for rank in range(self._work.world)]
            if self._outbox:
                self._deliver()
            elif not any(moved):
                break
            self._reduce()
        stuck = [rank for rank in range(self._work.world) if self._next(rank) is not None]
        if stuck:
            raise PredictError(f"the steps never end: rank {stuck[0]} waits at {self._next(stuck[0])}")
        source = self._ranks[self._work.source].clock_s
        return Outcome(
            "analytic",
            (source,),
            (source,),
            tuple(rank.busy_s for rank in self._ranks),
            tuple(rank.waited_s for rank in self._ranks),
            self._pricing.sent_bytes(),
        )

    def _next(self, rank: int) -> Compute | Send | Receive | AllReduce | None:
        steps, number = self._work.steps[rank], self._ranks[rank].step
        return steps[number] if number < len(steps) else None

    def _advance(self, rank: int) -> bool:
        """As far as this rank gets; whether it got anywhere."""
        state, moved = self._ranks[rank], False
        while (step := self._next(rank)) is not None:
            if isinstance(step, Compute):
                self._spend(state, self._work.seconds(rank, step))
            elif isinstance(step, Send):
                self._send(rank, step)
            elif isinstance(step, AllReduce) or not self._receive(rank, step):
                break
            state.step, moved = state.step + 1, True
        return moved

    def _spend(self, state: _Rank, seconds: float) -> None:
        state.clock_s += seconds
        state.busy_s += seconds

    def _send(self, rank: int, step: Send) -> None:
        state = self._ranks[rank]
        cost_s = self._costs.sending_s(step.payload_bytes, step.purpose)
        at_s = state.clock_s + cost_s * np.arange(1.0, len(step.to) + 1, dtype=np.float64)
        self._outbox[step.purpose, step.layer].append((rank, step, at_s))
        self._spend(state, cost_s * len(step.to))

    def _receive(self, rank: int, step: Receive) -> bool:
        if not step.sources:
            return True
        found = self._mail.take(step.sources, rank)
        if found is None:
            return False
        state, (arrived_s, payload) = self._ranks[rank], found
        cost_s = self._costs.receiving_s(payload, step.purpose)
        behind_s = np.cumsum(cost_s[::-1])[::-1]  # of this message and those after it
        ends_s = max(state.clock_s + behind_s[0], float((arrived_s + behind_s).max()))
        state.busy_s += behind_s[0]
        state.waited_s += ends_s - state.clock_s - behind_s[0]
        state.clock_s = ends_s
        return True

    def _deliver(self) -> None:
        """Price all that has been sent, exchange by exchange, in the order of time."""
        groups = sorted(self._outbox.values(), key=lambda group: min(at_s[0] for _, _, at_s in group if len(at_s)))
        self._outbox.clear()
        for group in groups:
            for phase in _distinct(group):
                self._mail.put(phase, self._pricing.arrivals(phase))

    def _reduce(self) -> None:
        """Let all ranks through an all-reduce at which all of them wait: in lock-step, the last one sets the time."""
        world, waiting = self._work.world, [self._next(rank) for rank in range(self._work.world)]
        step = waiting[0]
        if not isinstance(step, AllReduce) or any(other != step for other in waiting):
            return
        ranks = np.arange(world)
        began_s = max(state.clock_s for state in self._ranks)
        longest = len(even_spans(step.payload_bytes // ELEMENT_BYTES, world)[0]) * ELEMENT_BYTES
        payload = np.full(world, float(longest))
        cost_s = self._costs.sending_s(longest) + self._costs.receiving_s(longest)
        now_s, count = began_s, 2 * (world - 1)
        for number, times in ((0, 1), (1, count - 1)):  # the first opens the window; the others are all like the second
            phase = Phase(ranks, (ranks + 1) % world, payload, np.full(world, now_s + self._costs.sending_s(longest)))
            took_s = float(self._pricing.arrivals(phase, times).max()) - now_s + self._costs.receiving_s(longest)
            now_s += took_s * times if number else took_s
        self._pricing.idle_until(now_s)
        for state in self._ranks:
            state.busy_s += cost_s * count
            state.waited_s += now_s - state.clock_s - cost_s * count
            state.clock_s, state.step = now_s, state.step + 1


def _distinct(group: Sequence[tuple[int, Send, Floats]]) -> list[Phase]:
    """The messages of one exchange; those that a pair has more than one of are phases after the first."""
    rounds: list[list[tuple[int, NDArray[np.int64], int, Floats]]] = []
    seen: dict[int, list[set[int]]] = defaultdict(list)
    for rank, step, at_s in group:
        if not step.to:
            continue
        to, before = set(step.to), seen[rank]
        turn = next((i for i, used in enumerate(before) if not used & to), len(before))
        if turn == len(before):
            before.append(set())
        before[turn] |= to
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append((rank, np.asarray(step.to), step.payload_bytes, at_s))
    return [
        Phase(
            np.concatenate([np.full(len(to), rank) for rank, to, _, _ in sends]),
            np.concatenate([to for _, to, _, _ in sends]),
            np.concatenate([np.full(len(to), float(size)) for _, to, size, _ in sends]),
            np.concatenate([at_s for _, _, _, at_s in sends]),
        )
        for sends in rounds
    ]
