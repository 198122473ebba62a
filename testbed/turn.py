"""One method's turn: devices placed, joined, driven, rows checked and saved; a fault ends the turn, not the run."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from agents.cluster import Cluster
from agents.place import place
from runtime import methods
from runtime.actor import Assignment, Station
from runtime.plan import Plan
from testbed import control
from testbed.hosts import HostHandle, Network
from testbed.material import Material
from testbed.progress import Progress
from testbed.store import RunFolder
from testbed.topology import MethodSpec, Topology
from testbed.truth import untrue


class Run(Protocol):
    """What a turn needs of the experiment it belongs to."""

    topology: Topology
    folder: RunFolder
    progress: Progress

    def save_entries(self) -> None:
        """Write methods.json as it stands."""


def data_congestion(backend: str) -> str | None:
    """TCP's congestion control between devices: the same on every machine's emulated links; on loopback, which is no
    network to measure and needs no root, the machine's own (None)."""
    return None if backend == "local" else "cubic"


class Fleet:
    """Device processes, one per host, kept from method to method (loading torch takes seconds) until one is lost."""

    def __init__(self, topology: Topology, folder: RunFolder, network: Network, ray: control.Control) -> None:
        self.hosts = network.hosts
        self._cpu = {host.name: host.cpu for host in topology.hosts}
        self._folder, self._ray = folder, ray
        self._token = secrets.token_bytes(32)
        self._actors: dict[str, Any] = {}

    def actor(self, name: str) -> Any:
        """The device process of a host, started if there is none."""
        if name not in self._actors:
            self._actors[name] = self._ray.actor(self._station(self.hosts[name]))
        return self._actors[name]

    def alive(self, name: str, pid: int | None) -> bool:
        """Whether a host's device process runs; with pid None, whether its Ray node does."""
        return self._ray.node_lives(name) if pid is None else self.hosts[name].alive(pid)

    def end(self) -> None:
        """End all device processes: after a loss, what the others still hold of the request is not worth saving."""
        for actor in self._actors.values():
            self._ray.end(actor)
        self._actors.clear()

    def _station(self, host: HostHandle) -> Station:
        declared = self._cpu[host.name]
        cores = len(os.sched_getaffinity(0))
        threads = max(1, cores // len(self.hosts)) if declared is None else max(1, math.floor(declared))
        log = self._folder.log_path(host.name)
        return Station(host.name, host.data_addresses, host.data_interfaces, threads, self._token, log)


@dataclass
class Turn:
    """One method's turn on the network."""

    experiment: Run
    fleet: Fleet
    ready: Material
    spec: MethodSpec
    entry: dict[str, Any]
    fault: str | None = None  # what was wrong with a request that came to its end

    def take(self) -> None:
        """Set up devices, drive them, take them down; the entry tells how it went, also if the run ends here."""
        from agents.drive import DeviceLost, drive  # loads Ray, which control has set up by now

        run, progress = self.experiment.topology.run, self.experiment.progress
        plan = self._plan()
        self.entry |= {"status": "failed", "error": "the run was ended in the middle of it"}
        self.entry["payload_formula"] = self._formula(plan)
        self.experiment.save_entries()
        progress.method(self.spec.label, run.repeats, run.budget_s)
        held = {host.name: host.throttled_s() for host in self._hosts(plan)}
        try:
            with self._mesh(plan) as mesh, limited(self._hosts(plan)):
                count = drive(mesh, run.repeats, run.budget_s, self._saver(plan))
            self.entry |= {"status": "failed" if self.fault else "ok", "error": self.fault}
            progress.done(self.entry["status"], self.fault or f"{count} of {run.repeats} requests")
        except DeviceLost as error:
            self.entry |= {"error": str(error), "failed_host": ", ".join(error.hosts)}
            progress.done("failed", str(error))
            self.fleet.end()
        now = {host.name: host.throttled_s() for host in self._hosts(plan)}
        self.entry["throttled_s"] = {n: round(s - (held[n] or 0.0), 3) for n, s in now.items() if s is not None}

    def _formula(self, plan: Plan) -> list[int]:
        """Bytes that each rank must send by the method's formula."""
        kind = methods.load(self.spec.method)
        options = kind.Options(**self.spec.options)
        return [kind.payload_bytes(self.ready.shape, options, plan, rank) for rank in range(plan.world)]

    def _plan(self) -> Plan:
        run, names = self.experiment.topology.run, [host.name for host in self.experiment.topology.hosts]
        devices = (run.source, *(name for name in names if name != run.source))
        return place(self.spec.method, self.spec.options, self.ready.shape, run.tokens, Cluster(devices))

    def _hosts(self, plan: Plan) -> list[HostHandle]:
        return [self.fleet.hosts[share.host] for share in plan.shares]

    @contextmanager
    def _mesh(self, plan: Plan) -> Iterator[Any]:
        """The devices of a plan, joined, and out of the mesh again; after a fault `take` ends them instead."""
        from agents.drive import Mesh

        hosts = self._hosts(plan)
        extra = self.ready.extras.get(self.spec.label)
        ready = self.ready
        congestion = data_congestion(self.experiment.topology.backend)
        patience_s = self._patience_s(plan)
        assignment = Assignment(plan, ready.folder, extra, ready.requests, ready.inputs, patience_s, congestion)
        reach = [[h.address_for(peer.name) if peer is not h else "" for peer in hosts] for h in hosts]
        actors = [self.fleet.actor(host.name) for host in hosts]
        mesh = Mesh(assignment, actors, reach, self.fleet.alive)
        yield mesh
        mesh.close()

    def _patience_s(self, plan: Plan) -> float:
        """How long a device may wait for another that lives: far longer than a whole request can take.

        A process that ends is noticed at once by its connections and its host; this is for one that hangs.
        """
        topology = self.experiment.topology
        slowest_bit_s = min((link.rate_bit_s for link in topology.links), default=1e9)
        share = min((host.cpu for host in topology.hosts if host.cpu is not None), default=1.0)
        cores = len(os.sched_getaffinity(0))
        return 60 + 4 * sum(self._formula(plan)) * 8 / slowest_bit_s + 10 * self.ready.reference_s * cores / share

    def _saver(self, plan: Plan) -> Callable[[list[dict[str, Any]], bool], None]:
        measured = 0

        def save(rows: list[dict[str, Any]], warmup: bool) -> None:
            nonlocal measured
            own = {"method": self.spec.method, "label": self.spec.label, "warmup": warmup}
            for row in rows:
                self.experiment.folder.append_record({**row, "host": plan.shares[row["rank"]].host, **own})
            good = not any(row["error"] for row in rows)
            measured += good and not warmup
            source = next((row for row in rows if row["rank"] == plan.source), None)
            if good and source is not None:
                self.fault = self.fault or untrue(rows, self.entry["payload_formula"], self.entry["equals_single"])
                self.experiment.progress.request(source["latency_s"], measured, warmup)

        return save


@contextmanager
def limited(hosts: list[HostHandle]) -> Iterator[None]:
    """CPU shares hold while requests run; set-up is not what is measured and goes at full speed."""
    try:
        for host in hosts:
            host.limit(True)
        yield
    finally:
        for host in hosts:
            host.limit(False)
