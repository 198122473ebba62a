"""The Ray actor that hosts one device: Ray tells it what to load and when to begin, and takes its records away.

No tensor goes through Ray: inputs and references lie in a file on the source's host, activations and results travel
over the device's own sockets.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from runtime import methods
from runtime.collectives import Exchange
from runtime.device import Device, forget_peak_memory
from runtime.errors import PeerLost, RuntimeFault
from runtime.fidelity import agreement, fidelity, score
from runtime.hollow import HollowExchange, HollowWeights
from runtime.model import Folder, fingerprint
from runtime.plan import Plan
from runtime.profile import Profile
from runtime.record import Record
from runtime.shape import Shape
from runtime.stages import Replayed, Timed
from runtime.transport.tcp import TcpMesh
from runtime.transport.udp import UdpMesh

log = logging.getLogger("device")


@dataclass(frozen=True)
class Station:
    """Where one device stands. addresses: those it listens at; interfaces: those whose counters are its own (none: on
    loopback); threads: of torch; token: 32 bytes that every connection of the run presents."""

    host: str
    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]
    threads: int
    token: bytes
    log: Path


@dataclass(frozen=True)
class Assignment:
    """What a mesh runs: the plan, the converted model's folder, the method's extra file, the file of requests.

    profile: whose times are waited for in place of computing; then there is no folder, but the model's shape.
    patience_s: how long a live device may keep another waiting; congestion: TCP's congestion control, None for the
    machine's own.
    """

    plan: Plan
    folder: Path | None
    shape: Shape
    profile: Profile | None
    extra: Path | None
    requests: Path
    inputs: int
    patience_s: float
    congestion: str | None


class DeviceActor:
    """One device. Calls come in this order: load, join, then `infer` on the source and `take` on the others, stop."""

    def __init__(self, station: Station) -> None:
        torch.set_num_threads(station.threads)
        torch.set_grad_enabled(False)
        handler = logging.FileHandler(station.log)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(name)s %(message)s", handlers=[handler], force=True
        )
        self._station = station
        self._device: Device | None = None
        self._mesh: TcpMesh | None = None
        self._server: threading.Thread | None = None
        self._rows: queue.Queue[dict[str, Any]] = queue.Queue()
        self._requests: dict[str, torch.Tensor] = {}
        self._inputs = 1
        log.info("host %s: device process %d, torch threads %d", station.host, os.getpid(), station.threads)

    def load(self, assignment: Assignment, rank: int) -> dict[str, Any]:
        """Load this rank's share and listen. Returns pid, ports by address, and fingerprint of `extra` (None without).

        Raises RuntimeFault for a model or method that cannot be loaded.
        """
        self.stop()
        forget_peak_memory()
        plan, extra, station = assignment.plan, assignment.extra, self._station
        weights = HollowWeights(assignment.shape) if assignment.folder is None else Folder(assignment.folder)
        method = methods.load(plan.method)(weights, plan, rank, extra, _stages(assignment, rank))
        kind = UdpMesh if method.datagrams else TcpMesh
        mesh = kind(rank, plan.world, station.token, station.addresses, assignment.patience_s, assignment.congestion)
        everywhere = plan.input_at == "everywhere"
        exchange, inputs = HollowExchange if assignment.profile else Exchange, self._input if everywhere else None
        self._device = Device(method, mesh, station.interfaces, exchange, inputs)
        self._mesh, self._inputs = mesh, assignment.inputs
        if rank == plan.source or everywhere:
            self._requests = load_file(assignment.requests)
        log.info("method %s %s: rank %d of %d loaded", plan.method, dict(plan.options), rank, plan.world)
        extra_hash = None if extra is None else fingerprint(extra.parent, extra.name)
        return {"pid": os.getpid(), "ports": dict(mesh.ports), "extra": extra_hash}

    def join(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """Connect the mesh; devices other than the source then wait for requests. Raises PeerLost."""
        assert self._mesh is not None and self._device is not None, "load comes first"
        self._mesh.join(peers)
        self._rows = queue.Queue()
        if self._device.rank != self._device.plan.source:
            self._server = threading.Thread(target=self._serve, args=(self._device, self._rows), daemon=True)
            self._server.start()

    def infer(self, request: int, index: int) -> dict[str, Any]:
        """On the source: run input `index` as request number `request` -> row with fidelity and score, or an error."""
        assert self._device is not None, "load comes first"
        torch.set_grad_enabled(False)  # the switch belongs to the thread
        device = self._device
        try:
            raw = self._requests[f"input.{index}"]
            result, record = device.infer(request, raw)
            reference = self._requests.get(f"reference.{index}")
            shape, target = device.method.model.shape, self._requests.get(f"target.{index}")
            found = None if reference is None else fidelity(shape, result, reference)
            scored = None if reference is None or target is None else score(shape, raw, result, reference, target)
            if found is not None and record.generated is not None:
                tokens, leads = (self._requests[f"{name}.{index}"].tolist() for name in ("tokens", "leads"))
                found |= agreement(record.generated, tokens, leads)
        except Exception as error:  # whatever it is: the others wait for this device, and the driver for a row
            return _failed(device, request, error)
        return {**_row(device, record), "fidelity": found, "score": scored}

    def _input(self, request: int) -> torch.Tensor:
        """Raw input of a request, from this device's own copy of the file."""
        return self._requests[f"input.{request % self._inputs}"]

    def take(self, timeout_s: float) -> dict[str, Any]:
        """On every other device: the row of its next finished request. Raises queue.Empty after timeout_s."""
        return self._rows.get(timeout=timeout_s)

    def stop(self) -> None:
        """Leave the mesh. Safe to call at any time."""
        mesh, self._mesh, self._device = self._mesh, None, None
        if mesh is not None:
            mesh.close()
        if self._server is not None:
            self._server.join()
            self._server = None

    def _serve(self, device: Device, rows: queue.Queue[dict[str, Any]]) -> None:
        """Requests one after another until the mesh is closed; in its own thread, so that no call has to come first."""
        torch.set_grad_enabled(False)
        torch.set_num_threads(self._station.threads)
        for request in count():
            try:
                rows.put(_row(device, device.serve(request)))
            except Exception as error:
                # Between two requests the mesh ends because the method does; a fault shows in the next request's row.
                rows.put(_failed(device, request, error, quiet=isinstance(error, PeerLost) and error.layer is None))
                return


def _stages(assignment: Assignment, rank: int) -> Timed:
    """Raises ProfileError."""
    plan = assignment.plan
    if assignment.profile is None:
        return Timed()
    entry, layers = assignment.profile.entry(plan), assignment.profile.layers
    return Replayed(lambda stage, layer: entry.seconds(rank, stage, layer, layers))


def _row(device: Device, record: Record) -> dict[str, Any]:
    """A record with where its time went: spans of `runtime.stages`, and when on the machine's clock it began."""
    return {**record.row(), "timeline": {"began_s": device.stages.began_s, "spans": device.stages.spans}}


def _failed(device: Device, request: int, error: Exception, quiet: bool = False) -> dict[str, Any]:
    """A row for a request that failed, naming the peer and the layer; the mesh is closed so that others notice."""
    expected = isinstance(error, RuntimeFault | OSError)
    if quiet:
        log.info("leaves the mesh: %s", error)
    else:
        log.error("request %d: %s", request, error, exc_info=None if expected else error)
    said = (str(error).strip() or "no message").splitlines()[0]
    row = replace(Record(request, device.rank), error=said if expected else f"{type(error).__name__}: {said}").row()
    device.transport.close()
    if isinstance(error, PeerLost):
        row |= {"lost_rank": error.rank, "lost_layer": error.layer}
    return row


def addresses_of(
    ports: Sequence[Mapping[str, int]], reach: Sequence[Sequence[str]], rank: int
) -> dict[int, tuple[str, int]]:
    """Where `rank` finds each peer: ports[peer] by address, reach[peer][rank] where rank reaches peer."""
    return {p: (reach[p][rank], ports[p][reach[p][rank]]) for p in range(len(ports)) if p != rank}
