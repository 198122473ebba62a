"""One request walking through one device, on whichever side of the mesh it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from runtime.collectives import Exchange
from runtime.decoding import Spoken, memory_for, speak
from runtime.errors import Unfit
from runtime.memory import Memory, Remembering
from runtime.methods.method import Method
from runtime.plan import Span
from runtime.record import Record
from runtime.stages import Stages
from runtime.transport import Traffic, Transport


class Device:
    """A method's part and a place in the mesh. The source runs `infer`, all others `serve`, request by request.

    The method's stages are timed anew for every request; `stages.spans` then tells of the last one.
    """

    def __init__(
        self,
        method: Method,
        transport: Transport,
        interfaces: Sequence[str] = (),
        exchange: Callable[[Transport, int, Stages, torch.device], Exchange] = Exchange,
        inputs: Callable[[int], Tensor] | None = None,
    ) -> None:
        """inputs: raw input by request number, where the plan says that every device has it."""
        self.method, self.transport, self.interfaces = method, transport, tuple(interfaces)
        self.plan, self.rank, self.stages = method.plan, method.rank, method.stages
        self._exchange, self._inputs = exchange, inputs
        self._memory: Memory | None = None
        if self.plan.generation is not None and not method.generates:
            raise Unfit(f"{self.plan.method}: after a prompt no device can go on alone")
        self._peers = [r for r in range(self.plan.world) if r != self.plan.source]

    def infer(self, request: int, raw: Tensor) -> tuple[Tensor, Record]:
        """On the source: raw input of one request -> (result [outputs], this device's record). Raises PeerLost."""
        exchange, wire = self._begin(request)
        began = perf_counter()
        self.stages.restart(began)
        for rank in self._peers:
            exchange.send_input(rank, raw[self._sent_span(rank).slice()])
        scattered = perf_counter()
        row = self._run(raw[input_span(self.method, self.rank).slice()], exchange)
        spoken = self._speak(row, exchange)
        # A user who is told tokens does not wait for the row behind the first: that is for the comparison with single.
        result = self._result(row, exchange) if spoken is None else None
        ended = perf_counter()
        record = self._record(request, ended - began, exchange)
        record.scatter_s, record.gather_s = scattered - began, exchange.result_transfer_s
        record.waited_s += exchange.result_waited_s
        if spoken is not None:
            record.generated = spoken.tokens
            record.ttft_s, record.token_s = spoken.at_s[0] - began, spoken.between_s
        return self._result(row, exchange) if result is None else result, self._close(record, wire)

    def _result(self, row: Tensor | None, exchange: Exchange) -> Tensor:
        """On the source: the result [outputs] of the rows of all holders, its own among them if it is one."""
        rows = {} if row is None else {self.rank: row}
        for rank in holders(self.method):
            if rank != self.rank:
                rows[rank] = exchange.receive_result(rank)
        with self.stages("head"):
            return self.method.model.head(combined(self.method, list(rows.values())))

    def serve(self, request: int) -> Record:
        """On every other device: take the input, do this device's part, return what is due. Raises PeerLost."""
        exchange, wire = self._begin(request)
        raw = exchange.receive_input(self.plan.source)
        arrived = perf_counter()
        self.stages.restart(arrived - exchange.input_transfer_s)
        self.stages.note("scatter", "receive", None, self.stages.began_s, arrived)
        if self._inputs is not None:
            raw = self._inputs(request)[input_span(self.method, self.rank).slice()]
        row = self._run(raw, exchange)
        self._speak(row, exchange)
        ran = perf_counter()
        if row is not None:
            exchange.send_result(self.plan.source, row)
        ended = perf_counter()
        record = self._record(request, ended - arrived + exchange.input_transfer_s, exchange)
        record.scatter_s, record.gather_s = exchange.input_transfer_s, ended - ran
        return self._close(record, wire)

    def _sent_span(self, rank: int) -> Span:
        """Input tokens that a rank is sent."""
        return Span(0, 0) if self.plan.input_at == "everywhere" else input_span(self.method, rank)

    def _begin(self, request: int) -> tuple[Exchange, int | None]:
        self.transport.traffic = Traffic()
        return self._exchange(self.transport, request, self.stages, self.method.model.place), self._sent_on_wire()

    def _run(self, raw: Tensor, exchange: Exchange) -> Tensor | None:
        """This device's layers on its part of the input; the row that the head needs, if this device has it."""
        model, tokens = self.method.model, self.method.share.tokens
        prefix = model.class_token() if self.method.own_class_token or tokens.start == 0 else model.class_token()[:0]
        x = torch.empty(0)
        if len(raw):
            with self.stages("embed"):
                x = model.joined([prefix, model.embed(raw.to(model.place), tokens.start, self.plan.tokens)])
        y = self._layers(x, exchange)
        if self.rank not in holders(self.method):
            return None
        with self.stages("read_out"):
            return model.read_out(y, len(prefix))

    def _layers(self, x: Tensor, exchange: Exchange) -> Tensor:
        """The layers on this device's rows; where it will go on alone, it remembers what it comes to know meanwhile."""
        self._memory = None
        if self.plan.generation is None or self.rank not in holders(self.method):
            return self.method.forward(x, exchange)
        self._memory = memory_for(self.plan)
        return self.method.through(x, Remembering(self.method.context(exchange), self._memory))

    def _speak(self, row: Tensor | None, exchange: Exchange) -> Spoken | None:
        """New tokens, as far as this device gets to know them; None where the plan has none."""
        if self.plan.generation is None:
            return None
        return speak(self.method, self._memory, row, exchange, holders(self.method)[0])

    def _record(self, request: int, latency_s: float, exchange: Exchange) -> Record:
        traffic = self.transport.traffic
        return Record(
            request,
            self.rank,
            latency_s=latency_s,
            code_s=self.stages.total_s("code"),
            waited_s=exchange.waited_s,
            sent_bytes=traffic.exchange_sent,
            received_bytes=traffic.exchange_received,
            scatter_bytes=traffic.scatter_sent,
            gather_bytes=traffic.gather_sent,
            token_bytes=traffic.token_sent,
            kept_bytes=None if self._memory is None else self._memory.held_bytes,
            messages=traffic.messages,
            lost_tokens=exchange.lost_tokens,
            due_tokens=exchange.due_tokens,
            dropped=asdict(traffic.dropped) if self.method.datagrams else None,
        )

    def _close(self, record: Record, wire: int | None) -> Record:
        """Off the clock: wait until all is sent, so that the interface counters belong to this request."""
        self._memory = None
        others = record.code_s + record.waited_s + record.scatter_s + record.gather_s
        record.compute_s = record.latency_s - others
        self.transport.flush()
        now = self._sent_on_wire()
        record.wire_bytes = None if now is None or wire is None else now - wire
        record.peak_memory_bytes = peak_memory_bytes()
        if late_s := self.stages.late_s:
            record.late_s = (median(late_s), max(late_s))
        return record

    def _sent_on_wire(self) -> int | None:
        """Bytes that left this host's data interfaces, or None where it has none of its own."""
        if not self.interfaces:
            return None
        # Not /sys/class/net: that shows the namespace of whoever mounted it. Column 9 behind the name is bytes sent.
        lines = (line.partition(":") for line in Path("/proc/self/net/dev").read_text().splitlines())
        counters = {name.strip(): rest.split() for name, _, rest in lines}
        return sum(int(counters[name][8]) for name in self.interfaces)


def forget_peak_memory() -> None:
    """Start the kernel's peak of this process anew: it may have held another method's share before."""
    with suppress(OSError):  # kernels without it report the peak of the whole process: only more than the truth
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most memory that was resident since then, shared pages of the model file included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def input_span(method: Method, rank: int) -> Span:
    """Input tokens that a rank needs; none for a later pipeline stage, which is told to begin by an empty frame."""
    if method.cuts == "layers" and rank != method.plan.source:
        return Span(0, 0)
    return method.plan.shares[rank].tokens


def holders(method: Method) -> list[int]:
    """Ranks that hold part of what the head needs once the layers are done."""
    plan, shape = method.plan, method.model.shape
    if method.cuts in ("nothing", "heads"):
        return [plan.source]
    last = plan.world - 1
    if method.cuts == "layers":
        return [last]
    everywhere = shape.readout == "mean" or (shape.readout == "first" and shape.class_token and method.own_class_token)
    return list(range(plan.world)) if everywhere else [last if shape.readout == "last" else 0]


def combined(method: Method, rows: list[Tensor]) -> Tensor:
    """Rows [D] of all holders -> the row that the head reads: a mean over tokens, or over copies of a class token."""
    divisor = method.plan.tokens if method.model.shape.readout == "mean" else len(rows)
    return torch.stack(rows).sum(0) / divisor
