"""What a method does in one request, device by device, as a list of steps: the program itself, read off, not a copy.

`steps` runs the very code that runs requests, on a model without weights and a network that only takes notes. So what
is predicted is what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from runtime import methods
from runtime.collectives import Exchange
from runtime.device import Device, input_span
from runtime.hollow import HollowWeights
from runtime.methods.method import Method, positions, rows
from runtime.plan import Plan, even_spans
from runtime.shape import Shape
from runtime.stages import Kind as StageKind
from runtime.stages import Timed
from runtime.transport import Traffic
from runtime.transport.wire import NO_LAYER, Kind

Purpose = Literal["exchange", "scatter", "gather"]
_PURPOSES: dict[Kind, Purpose] = {Kind.EXCHANGE: "exchange", Kind.SCATTER: "scatter", Kind.GATHER: "gather"}


@dataclass(frozen=True)
class Compute:
    """A stage of computing or coding; how long it takes, a profile says."""

    stage: str
    layer: int | None
    kind: StageKind


@dataclass(frozen=True)
class Send:
    """A message of payload_bytes to each rank of `to`, in that order; it does not block."""

    layer: int | None
    to: tuple[int, ...]
    payload_bytes: int
    purpose: Purpose


@dataclass(frozen=True)
class Receive:
    """Blocks until a message from each of `sources` is there."""

    layer: int | None
    sources: tuple[int, ...]
    purpose: Purpose


@dataclass(frozen=True)
class AllReduce:
    """A ring over all ranks: 2(N-1) shifts of 1/N of payload_bytes each, see `Exchange.all_reduce`."""

    layer: int
    payload_bytes: int


Step = Compute | Send | Receive | AllReduce


def steps(plan: Plan, shape: Shape, rank: int) -> list[Step]:
    """The steps of one rank in one request. Raises KeyError for a method that does not exist."""
    found: list[Step] = []
    method = methods.load(plan.method)(HollowWeights(shape, "meta"), plan, rank, stages=_Noted(found))
    patches = (shape.patch**2 * shape.channels,) if shape.embedding == "patches" else ()
    raw = torch.zeros(plan.tokens, *patches, dtype=torch.uint8 if patches else torch.int32, device="meta")
    inputs = (lambda _: raw) if plan.input_at == "everywhere" else None
    device = Device(method, _Notes(method, found), exchange=_noting(found), inputs=inputs)
    if rank == plan.source:
        device.infer(0, raw)
    else:
        device.serve(0)
    return _joined(found)


class _Noted(Timed):
    """Writes down stages in place of timing them."""

    def __init__(self, found: list[Step]) -> None:
        self._found = found
        super().__init__()

    def leave(self, name: str, layer: int | None, kind: StageKind, start_s: float) -> None:
        self._found.append(Compute(name, layer, kind))


class _Notes:
    """A `Transport` that writes down what is sent and received; what comes has the sizes of what others would send."""

    def __init__(self, method: Method, found: list[Step]) -> None:
        self.rank, self.world, self.traffic, self.header_at_s = method.rank, method.plan.world, Traffic(), 0.0
        self._method, self._found = method, found
        self._sent: torch.Tensor | None = None
        plan, shape = method.plan, method.model.shape
        self._cuts = [
            [rows(shape, share.tokens) for share in plan.shares],
            *([len(s) for s in even_spans(whole, plan.world)] for whole in (positions(shape, plan), shape.width)),
        ]

    def send(self, peer: int, kind: Kind, request: int, layer: int, tensor: torch.Tensor) -> None:
        self._found.append(Send(_layer(layer), (peer,), tensor.nbytes, _PURPOSES[kind]))
        if kind is Kind.EXCHANGE:
            self._sent = tensor

    def receive(self, peer: int, kind: Kind, request: int, layer: int) -> torch.Tensor:
        self._found.append(Receive(_layer(layer), (peer,), _PURPOSES[kind]))
        plan, shape = self._method.plan, self._method.model.shape
        if kind is Kind.SCATTER:
            return torch.zeros(len(input_span(self._method, self.rank)), 1, device="meta")
        if kind is Kind.GATHER:
            return torch.zeros(shape.width, device="meta")
        if self._sent is None:
            return torch.zeros(positions(shape, plan), shape.width, device="meta")
        sizes = [self._theirs(size, peer) for size in self._sent.shape]
        return torch.zeros(sizes, dtype=self._sent.dtype, device="meta")

    def _theirs(self, size: int, peer: int) -> int:
        """What a peer sends has the size of what this device sent last, but along the side that is divided."""
        return next((cut[peer] for cut in self._cuts if cut[self.rank] == size), size)

    def flush(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing is open."""


def _noting(found: list[Step]) -> type[Exchange]:
    class Noting(Exchange):
        """A whole all-reduce is one step: a ring of a thousand devices has two thousand messages each."""

        def all_reduce(self, layer: int, tensor: torch.Tensor) -> torch.Tensor:
            if self.world > 1:
                found.append(AllReduce(layer, tensor.nbytes))
            return tensor

    return Noting


def _joined(found: Sequence[Step]) -> list[Step]:
    """Messages of one size to several ranks in a row are one step, likewise several that are waited for in a row."""
    joined: list[Step] = []
    for step in found:
        last = joined[-1] if joined else None
        if isinstance(step, Send) and isinstance(last, Send) and replace(step, to=last.to) == last:
            joined[-1] = replace(last, to=last.to + step.to)
        elif isinstance(step, Receive) and isinstance(last, Receive) and replace(step, sources=last.sources) == last:
            joined[-1] = replace(last, sources=last.sources + step.sources)
        else:
            joined.append(step)
    return joined


def _layer(number: int) -> int | None:
    return None if number == NO_LAYER else number
