"""One method's turn: devices placed, joined, driven, rows checked and saved; a fault ends the turn, not the run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from agents.cluster import Cluster
from agents.place import place
from runtime import methods
from runtime.actor import Assignment
from runtime.decoding import token_bytes
from runtime.memory import full_bytes
from runtime.plan import Plan
from runtime.shape import Shape
from testbed import store
from testbed.changes import Change, Clock
from testbed.events import show
from testbed.fleet import Fleet
from testbed.hosts import HostHandle
from testbed.material import Material
from testbed.patience import on_the_way_s, patience_s
from testbed.progress import Progress
from testbed.store import RunFolder
from testbed.topology import MethodSpec, Topology
from testbed.truth import untold, untrue
from testbed.units import show_duration
from testbed.watch import watched

if TYPE_CHECKING:
    from agents.drive import DeviceLost  # loads Ray

NO_DEVICE = "nothing to kill: no device here"


class Run(Protocol):
    """What a turn needs of the experiment it belongs to."""

    topology: Topology
    folder: RunFolder
    progress: Progress

    def save_entries(self) -> None:
        """Write methods.json as it stands."""

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a file of the run folder."""


def data_congestion(backend: str) -> str | None:
    """TCP's congestion control between devices: the same on every machine's emulated links; on loopback, which is no
    network to measure and needs no root, the machine's own (None)."""
    return None if backend == "local" else "cubic"


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
        plan = planned(self.experiment.topology, self.ready.shape, self.spec)
        self.entry |= {"status": "failed", "error": "the run was ended in the middle of it"}
        self.entry["timed"] = {key: one for key, one in plan.options.items() if key not in self.spec.options}
        self.entry["payload_formula"] = self._formula(plan)
        self.entry["generation"] = self._generation(plan)
        self.experiment.save_entries()
        hosts = [host.name for host in self.experiment.topology.hosts]
        progress.method(self.spec.label, run.repeats, run.budget_s, hosts, self.fleet.gauge())
        self.fleet.killed.clear()
        try:
            with self._mesh(plan) as mesh, limited(self._hosts(plan)), self._watched(), self._changing():
                count = drive(mesh, run.repeats, run.budget_s, self._saver(plan))
            self.entry |= {"status": "failed" if self.fault else "ok", "error": self.fault}
            progress.done(self.entry["status"], self.fault or f"{count} of {run.repeats} requests")
        except DeviceLost as error:
            self.entry |= self._blamed(error)
            progress.done("failed", self.entry["error"])
            self.fleet.end()
        self.fleet.end(self.fleet.killed)

    def _blamed(self, error: DeviceLost) -> dict[str, Any]:
        """What the entry says of a lost device: that the kernel or the file ended it, if one of them did."""
        over = self.fleet.over_memory()
        killed = {name: words for name, words in self.fleet.killed.items() if name in error.hosts}
        if over:
            return {"error": "; ".join(over.values()), "failed_host": ", ".join(over), "failed_by": "memory"}
        if killed:
            when = "; ".join(f"the file kills the device on {name} {words}" for name, words in killed.items())
            return {"error": f"{when}: {error}", "failed_host": ", ".join(killed), "failed_by": "event"}
        return {"error": str(error), "failed_host": ", ".join(error.hosts)}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The traces and events of the file, from time 0, into changes.json."""
        topology = self.experiment.topology
        if topology.events:
            self.fleet.know_pids()
        clock = Clock(topology, self._apply)
        try:
            with clock:
                yield
        finally:
            self.entry["not_reached"] = [show(event) for event in clock.not_reached()]
            done = [{"label": self.spec.label, **row} for row in clock.rows]
            if done:
                self.experiment.add(store.CHANGES, done)

    def _apply(self, change: Change) -> str | None:
        """One change, on the clock's thread; what came of it, if that is not what it says. Raises HostError."""
        if change.host is not None:
            killed = self.fleet.kill(change.host, f"at {show_duration(change.at_s)}")
            return None if killed else NO_DEVICE
        if self.fleet.network.shaping is not None:
            self.fleet.network.shaping.change(change.sender, change.receiver, change.lane)
            self.experiment.progress.changed(change.where, change.lane)
        return None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """What the network tells of itself meanwhile, into watch.json."""
        rows: list[dict[str, Any]] = []
        try:
            with watched(self.fleet.network, self.experiment.topology, self.spec.label, rows):
                yield
        finally:
            self.experiment.add(store.WATCH, rows)

    def _formula(self, plan: Plan) -> list[int]:
        return formula(plan, self.ready.shape)

    def _generation(self, plan: Plan) -> dict[str, Any] | None:
        """What is promised of the new tokens: how many, bytes of their ids by rank, and of what is kept of all tokens
        to make them; full_bytes: of what one device alone would keep."""
        how, shape, kind = plan.generation, self.ready.shape, methods.load(self.spec.method)
        if how is None:
            return None
        own = len(plan.shares[-1].tokens) + how.tokens - 1
        full, alone = (full_bytes(shape.layers, shape.kv_width, n) for n in (own, plan.tokens + how.tokens - 1))
        return {
            "tokens": how.tokens,
            "greedy": how.temperature is None,
            "token_bytes": [token_bytes(plan, rank) for rank in range(plan.world)],
            "kept_bytes": full + kind.kept_bytes(shape, kind.Options(**self.spec.options), plan),
            "full_bytes": alone,
        }

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
        assignment = Assignment(
            plan, ready.folder, ready.shape, ready.profile, extra, ready.requests, ready.inputs, patience_s, congestion
        )
        reach = [[h.address_for(peer.name) if peer is not h else "" for peer in hosts] for h in hosts]
        actors = [self.fleet.actor(host.name) for host in hosts]
        mesh = Mesh(assignment, actors, reach, self.fleet.alive, self.experiment.progress.device)
        yield mesh
        mesh.close()

    def _patience_s(self, plan: Plan) -> float:
        """How long a device may wait for another that lives."""
        topology = self.experiment.topology
        share = min((host.cpu for host in topology.hosts if host.cpu is not None), default=1.0)
        # A token may cost as much as the prompt where what is kept has to be rebuilt each time.
        passes = 1 if plan.generation is None else 1 + plan.generation.tokens
        compute_s = 10 * self.ready.reference_s * passes * len(os.sched_getaffinity(0)) / share
        kind = methods.load(plan.method)
        # Who waits for what was lost, and who waits for that one meanwhile.
        silent_s = 2 * kind.deadline_s(kind.Options(**plan.options))
        return silent_s + patience_s(topology, sum(self._formula(plan)), self.ready.shape.layers, compute_s)

    def _saver(self, plan: Plan) -> Callable[[list[dict[str, Any]], bool], None]:
        measured = 0

        def save(rows: list[dict[str, Any]], warmup: bool) -> None:
            nonlocal measured
            own = {"method": self.spec.method, "label": self.spec.label, "warmup": warmup}
            for row in rows:
                host = plan.shares[row["rank"]].host
                timeline = row.pop("timeline", None)
                self.experiment.folder.append_record({**row, "host": host, **own})
                if timeline is not None:
                    which = {"label": self.spec.label, "request": row["request"], "rank": row["rank"], "host": host}
                    self.experiment.folder.append_timeline({**which, "warmup": warmup, **timeline})
            good = not any(row["error"] for row in rows)
            measured += good and not warmup
            source = next((row for row in rows if row["rank"] == plan.source), None)
            if good and source is not None:
                equals_single = None if self.ready.profile else self.entry["equals_single"]
                self.fault = self.fault or untrue(rows, self.entry["payload_formula"], equals_single)
                if (promised := self.entry["generation"]) is not None:
                    self.fault = self.fault or untold(rows, promised, self.entry["equals_single"])
                self.experiment.progress.request(source["latency_s"], measured, warmup)

        return save


def planned(topology: Topology, shape: Shape, spec: MethodSpec) -> Plan:
    """What a method's devices do, with what follows from the links where the file leaves it open. Raises Unfit."""
    run, names = topology.run, [host.name for host in topology.hosts]
    devices = (run.source, *(name for name in names if name != run.source))
    plan = place(spec.method, spec.options, shape, run.tokens, Cluster(devices))
    kind = methods.load(spec.method)
    arrived_s = on_the_way_s(topology, math.ceil(sum(formula(plan, shape)) / shape.layers))
    options = {**plan.options, **kind.timed(kind.Options(**plan.options), arrived_s)}
    return replace(plan, options=options, input_at=run.input_at, generation=run.generate)


def formula(plan: Plan, shape: Shape) -> list[int]:
    """Bytes that each rank must send by the method's formula."""
    kind = methods.load(plan.method)
    options = kind.Options(**plan.options)
    return [kind.payload_bytes(shape, options, plan, rank) for rank in range(plan.world)]


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
