"""Discrete events, on simpy: every rank walks through its steps, every direction of a link is a queue with a rate.

Frames go in trains, see `testbed.predict.network`; TCP's window opens, closes after idle and after losses, see
`testbed.predict.flow`; traces and events change lines at their times. What is rough:
- A queue drops from its tail what it has no room for, but not where the sender sees its own queue, and never on a
  shared medium. `down` makes frames wait, it does not lose them.
- Jitter is its mean; bursts of loss are independent losses of the same mean, drawn at the end of a path, and what is
  lost has crossed all of it. A loss is told by any later frame of the connection and repeated a round trip later, else
  after a probe's or the retransmission timeout, which count from the sending and know the idle round trip only.
- The window doubles per round trip until round trips become longer (HyStart) or something is lost, then grows as cubic
  does where it is slow; after idle it is halved per timeout down to ten frames. The receiver's window is large at once.
- Acknowledgements are never lost or delayed on purpose; of two frames one is sent, and none alone where data of the
  same connection waits to go that way.
- Where one machine emulates all, messages and packets wait for its cores in the order in which they come; who sends is
  busy until those that may go at once are through. Computing takes what the profile says, and what is replayed also the
  little that waiting instead takes, of these cores. A device killed by an event lives on.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from itertools import count

import simpy

from runtime.steps import AllReduce, Compute, Receive, Send
from testbed.predict.flow import Flow, Tcp
from testbed.predict.network import Network
from testbed.predict.work import Costs, Load, Outcome, PredictError, Work, shifts
from testbed.topology import Topology

Waits = Generator[simpy.Event, object, None]


def simulate(
    topology: Topology, work: Work, load: Load | None = None, costs: Costs | None = None,
    tcp: Tcp | None = None, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Latency of every request of `load` (default: one on an idle network). seed: losses are drawn from it.

    Raises PredictError: no way between two hosts, a link that stays down, a rank that waits for what nobody sends.
    """
    return _Requests(topology, work, costs or Costs(), tcp or Tcp(), seed).run(load or Load())


class _Requests:
    """One simulation."""

    def __init__(self, topology: Topology, work: Work, costs: Costs, tcp: Tcp, seed: int) -> None:
        self._work, self._costs, self._tcp = work, costs, tcp
        self._env, self._network, self._draw = (
            simpy.Environment(),
            Network(topology, costs, tcp.shaper),
            random.Random(seed),
        )
        self._flows: dict[tuple[int, int], Flow] = {}
        self._busy_s, self._waited_s = [0.0] * work.world, [0.0] * work.world
        self._behind_s = [0.0] * work.world  # see `runtime.stages.Replayed`, which this follows
        self._at = ["has not begun"] * work.world  # what each rank is doing, for whoever asks why it never ended
        self._latencies_s: list[float] = []
        self._ended_s: list[float] = []

    def run(self, load: Load) -> Outcome:
        done = self._env.process(self._requests(load))
        self._env.run()
        if not done.processed:
            stuck = "; ".join(f"rank {rank} {what}" for rank, what in enumerate(self._at) if what)
            raise PredictError(f"the steps never end: {stuck}")
        return Outcome(
            "events",
            tuple(self._latencies_s),
            tuple(self._ended_s),
            tuple(self._busy_s),
            tuple(self._waited_s),
            self._network.sent_bytes(),
            self._network.dropped(),
        )

    def _requests(self, load: Load) -> Waits:
        """One request after the other: the next begins when every rank is through."""
        env = self._env
        for number in count() if load.for_s is not None and load.arrivals is None else range(_number(load)):
            began_s = env.now
            if load.arrivals is not None:
                began_s = load.arrivals[number]
                yield env.timeout(max(0.0, began_s - env.now))
            if load.for_s is not None and env.now >= load.for_s:
                return
            ranks = [env.process(self._rank(rank)) for rank in range(self._work.world)]
            yield ranks[self._work.source]
            self._latencies_s.append(env.now - began_s)
            self._ended_s.append(env.now)
            yield env.all_of(ranks)

    def _rank(self, rank: int) -> Waits:
        """One rank's part of one request."""
        for number, step in enumerate(self._work.steps[rank]):
            if isinstance(step, Compute):
                yield from self._compute(rank, step)
                continue
            for part in shifts(step, rank, self._work.world) if isinstance(step, AllReduce) else (step,):
                self._at[rank] = f"at step {number}, {part}"
                if isinstance(part, Send):
                    yield from self._send(rank, part)
                else:
                    yield from self._receive(rank, part)
        self._at[rank] = ""

    def _compute(self, rank: int, step: Compute) -> Waits:
        seconds = self._work.seconds(rank, step)
        if self._costs.cores is None or not self._work.replayed:
            yield from self._spend(rank, seconds)
            return
        due_s = self._env.now + seconds - self._behind_s[rank]
        yield from self._spend(rank, due_s - self._env.now)
        own_s = self._costs.code_s if step.kind == "code" else self._costs.stage_s
        yield from self._handle(rank, self._costs.late_s if seconds else own_s)
        self._behind_s[rank] = self._env.now - due_s

    def _spend(self, rank: int, seconds: float) -> Waits:
        if seconds > 0:
            self._busy_s[rank] += seconds
            yield self._env.timeout(seconds)

    def _handle(self, rank: int, seconds: float) -> Waits:
        """CPU for a message, of those cores that all devices share where one machine emulates them."""
        done_s = self._network.machine.done_s(self._env.now, seconds)
        if done_s > self._env.now:
            self._busy_s[rank] += seconds
            yield self._env.timeout(done_s - self._env.now)

    def _send(self, rank: int, step: Send) -> Waits:
        for peer in step.to:
            yield from self._handle(rank, self._costs.sending_s(step.payload_bytes, step.purpose))
            through_s = self._flow(rank, peer).send(step.payload_bytes)
            yield from self._spend(rank, through_s - self._env.now)

    def _receive(self, rank: int, step: Receive) -> Waits:
        for peer in step.sources:
            began_s = self._env.now
            message = yield self._flow(peer, rank).inbox.get()
            waited_s = self._env.now - began_s
            self._waited_s[rank] += waited_s
            self._behind_s[rank] = max(0.0, self._behind_s[rank] - waited_s)
            size: int = message.payload_bytes  # type: ignore[attr-defined]
            yield from self._handle(rank, self._costs.receiving_s(size, step.purpose))

    def _flow(self, a: int, b: int) -> Flow:
        """The connection between two ranks, in the direction from a to b."""
        if (a, b) not in self._flows:
            hosts = self._work.hosts
            forth, back = self._network.way(hosts[a], hosts[b]), self._network.way(hosts[b], hosts[a])
            machine = self._network.machine
            one, other = (
                Flow(self._env, ways, machine, self._tcp, self._draw) for ways in ((forth, back), (back, forth))
            )
            one.twin, other.twin = other, one
            self._flows[a, b], self._flows[b, a] = one, other
        return self._flows[a, b]


def _number(load: Load) -> int:
    return load.requests if load.arrivals is None else len(load.arrivals)
