"""All-gather, all-reduce, scatter and gather, on `send` and `receive` only; and an all-gather that may lose tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from runtime.errors import BadFrame, RuntimeFault
from runtime.plan import even_spans
from runtime.stages import Stages, untimed
from runtime.transport import Lossy, Transport
from runtime.transport.gather import Arrived, Cut
from runtime.transport.wire import NO_LAYER, Kind


@dataclass(frozen=True)
class Pending:
    """An all-gather that has been sent; what the others sent is still to be taken."""

    exchange: Exchange
    layer: int

    def wait(self) -> dict[int, torch.Tensor]:
        """The other ranks' tensors, in rank order. Call it once. Raises PeerLost, BadFrame."""
        return self.exchange.receive_from(self.layer, self.exchange.others)


class Exchange:
    """What a method may do with the network during one request.

    waited_s: seconds blocked on activations; result_waited_s: on results and new tokens, up to the first byte of each;
    input_transfer_s, result_transfer_s: from the first byte of the input, or of each of those, to its last.
    due_tokens: of other ranks, in datagrams that were waited for; lost_tokens: those that did not come in time.
    Tensors may have any shape of at most three dimensions; what is sent must not be changed until the transport is
    flushed. All verbs raise PeerLost when a peer is gone and BadFrame when it sent something else.
    """

    def __init__(
        self, transport: Transport, request: int, stages: Stages = untimed, place: torch.device | None = None
    ) -> None:
        """place: where tensors are wanted that come in; None: as they come, on the CPU."""
        self.rank, self.world, self.request = transport.rank, transport.world, request
        self.others = tuple(rank for rank in range(self.world) if rank != self.rank)
        self.waited_s = self.input_transfer_s = self.result_waited_s = self.result_transfer_s = 0.0
        self.lost_tokens = self.due_tokens = 0
        self._transport, self._stages, self._place = transport, stages, place

    def all_gather(self, layer: int, tensor: torch.Tensor) -> Pending:
        """Send the tensor to all other ranks at once; compute, then take theirs with `.wait()`. Shapes may differ."""
        # Each rank begins with its own right neighbour: sent in rank order, all would queue at rank 0's link first.
        self.send_to(layer, ((self.rank + step) % self.world for step in range(1, self.world)), tensor)
        return Pending(self, layer)

    def send_to(self, layer: int, ranks: Iterable[int], tensor: torch.Tensor) -> None:
        """Send one tensor to each of the ranks, in the order given."""
        begun_s = time.perf_counter()
        tensor = _ready(tensor)
        for rank in ranks:
            self._transport.send(rank, Kind.EXCHANGE, self.request, layer, tensor)
        self._stages.note("send", "send", layer, begun_s, time.perf_counter())

    def receive_from(self, layer: int, ranks: Iterable[int]) -> dict[int, torch.Tensor]:
        """One tensor from each of the ranks, in the order given."""
        begun_s = time.perf_counter()
        received = {rank: self._receive(rank, Kind.EXCHANGE, layer) for rank in ranks}
        ended_s = time.perf_counter()
        self.waited_s += ended_s - begun_s
        self._stages.note("wait", "receive", layer, begun_s, ended_s)
        return received

    def begin(self, tell: Iterable[int], hear: Iterable[int]) -> None:
        """Before the first of the two verbs below: say that the input is here; those to be heard of will say so too."""
        self._lossy().begin(self.request, tell, hear)

    def cast_to(self, layer: int, ranks: Iterable[int], frame: torch.Tensor, cut: Cut) -> None:
        """Send a uint8 frame of codes to each of the ranks as datagrams, which may be lost, in the order given."""
        begun_s = time.perf_counter()
        self._lossy().cast(ranks, self.request, layer, _ready(frame), cut)
        self._stages.note("send", "send", layer, begun_s, time.perf_counter())

    def collect_from(self, layer: int, cuts: Mapping[int, Cut], deadline_s: float) -> dict[int, Arrived]:
        """What has come within deadline_s of what the ranks of `cuts` cast; on the CPU, where codes are unpacked."""
        if not cuts:
            return {}
        begun_s = time.perf_counter()
        found = self._lossy().collect(self.request, layer, cuts, deadline_s)
        ended_s = time.perf_counter()
        self.waited_s += ended_s - begun_s
        self.due_tokens += sum(len(cut.tokens) for cut in cuts.values())
        self.lost_tokens += sum(len(span) for arrived in found.values() for span in arrived.lost)
        self._stages.note("wait", "receive", layer, begun_s, ended_s)
        return found

    def _lossy(self) -> Lossy:
        if not isinstance(self._transport, Lossy):
            raise RuntimeFault(
                "transport: udp needs devices on a network: what may be lost there is neither predicted nor profiled"
            )
        return self._transport

    def all_reduce(self, layer: int, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks of tensors of equal shape and dtype, bit for bit the same on every rank.

        A ring over the flattened tensor: N - 1 steps in which each chunk collects its sum on the way round, N - 1 in
        which the sums go round. Sends `all_reduce_bytes`. The argument is not changed; alone, it is the result.
        """
        if self.world == 1:
            return tensor
        flat = tensor.reshape(-1)
        chunks = [flat[span.slice()] for span in even_spans(flat.numel(), self.world)]
        for step in range(self.world - 1):
            ours, taken = (self.rank - step) % self.world, (self.rank - step - 1) % self.world
            # Added into the received memory: what was sent before is never written to again.
            chunks[taken] = self._sum(self._shift(layer, chunks[ours], chunks[taken]), chunks[taken])
        for step in range(self.world - 1):
            ours, taken = (self.rank + 1 - step) % self.world, (self.rank - step) % self.world
            chunks[taken] = self._shift(layer, chunks[ours], chunks[taken])
        return self._whole(chunks, tensor)

    def _sum(self, received: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return received.add_(own)

    def _whole(self, chunks: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        return torch.cat(chunks).view(like.shape)

    def send_input(self, rank: int, tensor: torch.Tensor) -> None:
        """Give a rank its part of the input."""
        begun_s = time.perf_counter()
        self._transport.send(rank, Kind.SCATTER, self.request, NO_LAYER, _ready(tensor))
        self._stages.note("scatter", "send", None, begun_s, time.perf_counter())

    def receive_input(self, source: int) -> torch.Tensor:
        """This rank's part of the input."""
        received = self._receive(source, Kind.SCATTER)
        self.input_transfer_s += time.perf_counter() - self._transport.header_at_s
        return received

    def send_result(self, rank: int, tensor: torch.Tensor) -> None:
        """Return this rank's part of the result."""
        begun_s = time.perf_counter()
        self._transport.send(rank, Kind.GATHER, self.request, NO_LAYER, _ready(tensor))
        self._stages.note("gather", "send", None, begun_s, time.perf_counter())

    def receive_result(self, rank: int) -> torch.Tensor:
        """A rank's part of the result."""
        return self._awaited(rank, Kind.GATHER)

    def send_token(self, rank: int, token: int) -> None:
        """Tell a rank the id of a token that was generated."""
        begun_s = time.perf_counter()
        told = torch.tensor([token], dtype=torch.int32)
        self._transport.send(rank, Kind.TOKEN, self.request, NO_LAYER, told)
        self._stages.note("gather", "send", None, begun_s, time.perf_counter())

    def receive_token(self, rank: int) -> int:
        """The id of the next token that a rank generated."""
        return int(self._awaited(rank, Kind.TOKEN))

    def _awaited(self, rank: int, kind: Kind) -> torch.Tensor:
        begun_s = time.perf_counter()
        received = self._receive(rank, kind)
        came_s, ended_s = self._transport.header_at_s, time.perf_counter()
        self.result_waited_s += came_s - begun_s
        self.result_transfer_s += ended_s - came_s
        self._stages.note("wait", "result", None, begun_s, came_s)
        self._stages.note("gather", "receive", None, came_s, ended_s)
        return received

    def _receive(self, rank: int, kind: Kind, layer: int = NO_LAYER) -> torch.Tensor:
        received = self._transport.receive(rank, kind, self.request, layer)
        return received if self._place is None else received.to(self._place)

    def _shift(self, layer: int, chunk: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """One step of the ring: the chunk to the right neighbour, theirs from the left one. Raises BadFrame."""
        left = (self.rank - 1) % self.world
        self.send_to(layer, [(self.rank + 1) % self.world], chunk)
        received = self.receive_from(layer, [left])[left]
        if received.shape != like.shape or received.dtype != like.dtype:
            # Without this a chunk of one element would be broadcast into the sum without a word.
            raise BadFrame(
                f"all-reduce at layer {layer}: rank {left} sent {tuple(received.shape)} of {received.dtype}, "
                f"expected {tuple(like.shape)} of {like.dtype}; do all ranks reduce the same shape?"
            )
        return received


def _ready(tensor: torch.Tensor) -> torch.Tensor:
    """As a transport takes it."""
    return tensor.cpu().contiguous() if tensor.is_cuda else tensor.contiguous()


def all_reduce_bytes(numel: int, itemsize: int, world: int, rank: int) -> int:
    """Payload bytes that `rank` sends in one `Exchange.all_reduce` of numel elements of itemsize bytes.

    All chunks but one in either half of the ring: 2(N-1)/N of the tensor where N divides it.
    """
    if world == 1:
        return 0
    chunks = even_spans(numel, world)
    kept = len(chunks[(rank + 1) % world]) + len(chunks[(rank + 2) % world])
    return (2 * numel - kept) * itemsize
