"""What is predicted: the steps of every rank, what they cost, and what comes out. Shared by both models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import RuntimeFault
from runtime.plan import Plan, even_spans
from runtime.steps import AllReduce, Compute, Purpose, Receive, Send, Step
from runtime.transport.wire import HEADER_BYTES

Bytes = TypeVar("Bytes", float, NDArray[np.float64])
ELEMENT_BYTES = 4  # partial sums are fp32: an all-reduce cuts between elements
EMULATED, LOOPBACK, GIVEN = "emulated", "loopback", "given"
KINDS = {  # of costs
    EMULATED: "as measured between emulated hosts of this machine",
    LOOPBACK: "as measured over loopback, where links cost nothing",
    GIVEN: "as given, not measured",
}
_EACH_RANK = 32  # up to so many devices nothing is gained by building the steps of one for all that are alike


class PredictError(RuntimeFault):
    """What cannot be predicted: one line that says why."""


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU that a message costs the rank that sends it and the one that takes it, and a byte either of them.

    Where all devices are emulated on one machine, they share its `cores`, and so do its links: packet_s and frame_s are
    what a packet and each of its frames cost the machine from end to end over one line, hop_s what a packet costs over
    each further one. None, zero: each has its own.
    rest_s: what taking the input costs more, and sending a result: nothing like it has run since the last request.
    late_s, stage_s, code_s: of devices there whose computing is replayed: how late one wakes, and what a stage of
    computing or coding takes for which the profile allows no time.
    They are measured, on the machine whose runs are predicted; zero where nothing is known. kind: how they were found,
    see KINDS.
    """

    send_s: float = 0.0
    receive_s: float = 0.0
    per_byte_s: float = 0.0
    packet_s: float = 0.0
    frame_s: float = 0.0
    hop_s: float = 0.0
    rest_s: float = 0.0
    late_s: float = 0.0
    stage_s: float = 0.0
    code_s: float = 0.0
    cores: int | None = None
    kind: str = GIVEN

    def alone(self) -> Costs:
        """The same where every device is a machine of its own: handing over a packet is all of its way."""
        send_s = self.send_s + self.line_s(1, 1, 0)
        return Costs(send_s, self.receive_s, self.per_byte_s, rest_s=self.rest_s, kind=self.kind)

    def line_s(self, frames: float, packets: float, index: int) -> float:
        """Seconds of a core that packets of so many frames take, on the line of that place on their way."""
        return packets * self.hop_s if index else packets * self.packet_s + frames * self.frame_s

    def sending_s(self, payload_bytes: int, purpose: Purpose = "exchange") -> float:
        """Of one message, header included."""
        return self.send_s + self.per_byte_s * (payload_bytes + HEADER_BYTES) + self._rested_s(purpose == "gather")

    def receiving_s(self, payload_bytes: Bytes, purpose: Purpose = "exchange") -> Bytes:
        """Of one message, or of an array of them, headers included."""
        return self.receive_s + self.per_byte_s * (payload_bytes + HEADER_BYTES) + self._rested_s(purpose == "scatter")

    def _rested_s(self, first: bool) -> float:
        return self.rest_s if first else 0.0


@dataclass(frozen=True)
class Work:
    """One request of one method: hosts by rank, steps by rank, and what a stage takes.

    seconds(rank, step): of a Compute, e.g. from a profile; may raise what it likes. replayed: a run would wait these
    seconds instead of computing.
    """

    hosts: tuple[str, ...]
    steps: Sequence[Sequence[Step]]
    seconds: Callable[[int, Compute], float]
    source: int = 0
    replayed: bool = False

    @property
    def world(self) -> int:
        """Number of devices."""
        return len(self.hosts)

    @cached_property
    def messages(self) -> int:
        """How many cross the network in one request."""
        shifts = 2 * (self.world - 1)
        return sum(
            len(step.to) if isinstance(step, Send) else shifts if isinstance(step, AllReduce) else 0
            for steps in self.steps
            for step in steps
        )


@dataclass(frozen=True)
class Load:
    """Requests: so many back to back; or at `arrivals` (seconds, rising), each served when those before it are done; or
    back to back until for_s have passed, when no new one begins."""

    requests: int = 1
    arrivals: tuple[float, ...] | None = None
    for_s: float | None = None

    @property
    def plain(self) -> bool:
        """Whether it is one request on an idle network."""
        return self.requests == 1 and self.arrivals is None and self.for_s is None


@dataclass(frozen=True)
class Outcome:
    """What a model says.

    latencies_s: of each request, from its arrival (back to back: its beginning) until the source has its result;
    ended_s: when that was; busy_s, waited_s: per rank, over all requests: computing, coding and handling messages, and
    blocked on others; hop_bytes: "h1 -> s1" -> bytes on the line, headers and acknowledgements included; dropped:
    frames that found no room in a queue.
    """

    model: str
    latencies_s: tuple[float, ...]
    ended_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    waited_s: tuple[float, ...]
    hop_bytes: Mapping[str, float]
    dropped: int = 0

    @property
    def latency_s(self) -> float:
        """Median of the requests."""
        return median(self.latencies_s)


@lru_cache(maxsize=4096)
def shifts(step: AllReduce, rank: int, world: int) -> tuple[Send | Receive, ...]:
    """The ring of an all-reduce, message by message, as `Exchange.all_reduce` sends them."""
    chunks = [len(span) * ELEMENT_BYTES for span in even_spans(step.payload_bytes // ELEMENT_BYTES, world)]
    right, left = ((rank + 1) % world,), ((rank - 1) % world,)
    found: list[Send | Receive] = []
    for half in range(2):
        for shift in range(world - 1):
            found.append(Send(step.layer, right, chunks[(rank + half - shift) % world], "exchange"))
            found.append(Receive(step.layer, left, "exchange"))
    return tuple(found)


def build(plan: Plan, make: Callable[[int], Sequence[Step]]) -> list[Sequence[Step]]:
    """The steps of all ranks. make(rank) gives those of one; with many devices it is asked of a few only.

    Ranks with equally long shares do the same to neighbours equally far, unless the method says otherwise (a causal
    model sends to later ranks only). So of each such class three ranks are built, and if they are the same, turned
    round, the others are; else all of the class are built.
    """
    if plan.world <= _EACH_RANK:
        return [make(rank) for rank in range(plan.world)]
    classes: dict[tuple[int, ...], list[int]] = {}
    for share in plan.shares:
        sizes = len(share.tokens), len(share.layers), len(share.heads)
        alone = (
            share.rank if share.rank in (0, plan.source, plan.world - 1) else -1
        )  # class token, input, last position
        classes.setdefault((*sizes, alone), []).append(share.rank)
    found: dict[int, Sequence[Step]] = {}
    for ranks in classes.values():
        first, samples = ranks[0], sorted({ranks[0], ranks[len(ranks) // 2], ranks[-1]})
        built = {rank: make(rank) for rank in samples}
        alike = all(_turned(built[first], rank - first, plan.world) == list(built[rank]) for rank in samples)
        for rank in ranks:
            if rank in built or not alike:
                found[rank] = built[rank] if rank in built else make(rank)
            else:
                found[rank] = _turned(built[first], rank - first, plan.world)
    return [found[rank] for rank in range(plan.world)]


def _turned(steps: Sequence[Step], by: int, world: int) -> list[Step]:
    """The same steps for a rank that is `by` further round. Input and result go from and to the source: they stay."""
    turned: dict[tuple[int, ...], tuple[int, ...]] = {}

    def ranks(before: tuple[int, ...]) -> tuple[int, ...]:
        if before not in turned:
            after = [(rank + by) % world for rank in before]
            turned[before] = tuple(sorted(after) if list(before) == sorted(before) else after)
        return turned[before]

    found: list[Step] = []
    for step in steps:
        if isinstance(step, Send) and step.purpose == "exchange":
            found.append(replace(step, to=ranks(step.to)))
        elif isinstance(step, Receive) and step.purpose == "exchange":
            found.append(replace(step, sources=ranks(step.sources)))
        else:
            found.append(step)
    return found
