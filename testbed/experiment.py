"""One experiment: refuse or prepare, network up, probe, place, drive, save, network down, report.

Everything is saved as it comes and released beside where it was acquired, so that an end at any moment (a fault,
Ctrl-C, SIGTERM) leaves a readable run folder and nothing else.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from agents.cluster import Cluster
from agents.place import place
from runtime import methods
from runtime.actor import Station
from runtime.plan import Plan
from testbed import check, clean, control, doctor, inputs, material, probe, shape, store
from testbed.hosts import HOSTS, HostError, HostHandle, Network
from testbed.manifest import manifest
from testbed.material import Material
from testbed.notes import notes
from testbed.progress import Progress
from testbed.report import render
from testbed.store import RunFolder
from testbed.summary import summary
from testbed.topology import MethodSpec, Topology, TopologyError, dump

OK, METHOD_FAILED, BAD_INPUT, WRONG_NETWORK, INTERRUPTED = 0, 1, 2, 3, 130
PATIENCE_S = 120.0  # how long a live peer may stay silent: the slowest stage of a large model computes for a while


def execute(path: Path, out: Path | None = None) -> int:
    """Run the file and print what came of it; the exit status of the command.

    Raises TopologyError, StoreError, BadModel.
    """
    topology = check.load(path)
    refusals = doctor.problems(topology, path)
    if refusals:
        raise TopologyError(refusals)
    console = Console(highlight=False)
    _clean_up(console)
    with RunFolder.create(topology.name, out) as folder, Progress(console) as progress, terminable():
        experiment = Experiment(topology, folder, progress)
        try:
            code = experiment.run()
        finally:
            experiment.finish()
    report(folder.path, console)
    return code


def _clean_up(console: Console) -> None:
    """Remove what crashed runs left; what cannot be removed does not stop this run, whose names are its own."""
    try:
        for line in clean.clean():
            console.print(f"removed what a crashed run had left: {line}", style="yellow")
    except HostError as error:
        console.print(f"left by a crashed run, and not removed: {error}", style="yellow")


def report(path: Path, console: Console) -> None:
    """Print what a run folder holds: tables, notes, where it is."""
    run = store.load(path)
    found = summary(run)
    render(found, run.links, notes(found, run), console)
    console.print(f"saved in {os.path.relpath(path)}", soft_wrap=True)


class Experiment:
    """A topology, its run folder, and how far it got: one entry per method in methods.json."""

    def __init__(self, topology: Topology, folder: RunFolder, progress: Progress) -> None:
        self.topology, self.folder, self.progress = topology, folder, progress
        self.run_id = secrets.token_hex(4)
        self.entries = [_entry(spec) for spec in topology.run.methods]
        self.folder.write_text(store.TOPOLOGY, dump(self.topology))
        self._write_manifest({})

    def run(self) -> int:
        """From the file to records; the exit status. What went wrong with a method is in its entry."""
        try:
            ready = self._prepare()
            self._skip("the network did not come up")
            with HOSTS[self.topology.backend](self.topology, self.run_id) as network:
                self.progress.stage(f"{len(network.hosts)} hosts up ({self.topology.backend})")
                if not self._network_is_declared(network):
                    return WRONG_NETWORK
                began = time.monotonic()
                self._skip("Ray did not come up")
                with control.cluster(network, self.folder.log_path) as ray, terminable():
                    self.progress.stage(f"Ray up: one node per host, {time.monotonic() - began:.1f} s")
                    self._skip("the run ended before its turn")
                    fleet = Fleet(self.topology, self.folder, network, ray)
                    for index, spec in enumerate(self.topology.run.methods):
                        Turn(self, fleet, ready, spec, self.entries[index]).take()
                        self.save_entries()
        except KeyboardInterrupt:
            self.progress.stage("interrupted; what was measured is kept")
            return INTERRUPTED
        return METHOD_FAILED if any(entry["status"] != "ok" for entry in self.entries) else OK

    def finish(self) -> None:
        """Write summary.json from the records alone."""
        self.save_entries()
        self.folder.write_json(store.SUMMARY, summary(store.load(self.folder.path)))

    def _prepare(self) -> Material:
        run = self.topology.run
        self._skip("the run ended before its network was up")
        ready = material.gather(run, self.folder.path / "requests.safetensors", self.progress.stage)
        self._write_manifest({"byte_tokens": inputs.bytes_as_ids(ready.shape, ready.folder)})
        return ready

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        shaper = None if self.topology.backend == "local" else shape.choose()
        facts = {"run_id": self.run_id, "backend": self.topology.backend, "shaper": shaper, **more}
        self.folder.write_json(store.MANIFEST, manifest(sys.argv, {"run": self.topology.run.seed}, facts))

    def _network_is_declared(self, network: Network) -> bool:
        """Probe every link, save what was measured, and say what is wrong. A run on a wrong network does not start."""
        rows = probe.probe(network, self.topology)
        self.folder.write_json(store.LINKS, rows)
        if probe.verdict(rows) == "wrong":
            complaints = probe.complaints(rows)
            self._skip(f"the network is not the declared one: {'; '.join(complaints)}")
            return False
        self.progress.stage(f"network probed: {len(rows)} paths as declared" if rows else "network not shaped")
        return True

    def _skip(self, why: str) -> None:
        """Until a method has had its turn, this is why not."""
        for entry in self.entries:
            if entry["status"] == "skipped":
                entry["error"] = why
        self.save_entries()

    def save_entries(self) -> None:
        """Write methods.json as it stands."""
        self.folder.write_json(store.METHODS, self.entries)


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
        return Station(host.name, host.data_addresses, host.data_interfaces, threads, self._token, PATIENCE_S, log)


@dataclass
class Turn:
    """One method's turn on the network."""

    experiment: Experiment
    fleet: Fleet
    ready: Material
    spec: MethodSpec
    entry: dict[str, Any]

    def take(self) -> None:
        """Set up devices, drive them, take them down; the method's entry tells how it went, also if the run ends here."""
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
            self.entry |= {"status": "ok", "error": None}
            progress.done("ok", f"{count} of {run.repeats} requests")
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
        """The devices of a plan, joined; out of the mesh afterwards, whatever happened to them."""
        from agents.drive import Assignment, Mesh

        hosts = self._hosts(plan)
        extra = self.ready.extras.get(self.spec.label)
        assignment = Assignment(plan, self.ready.folder, extra, self.ready.requests, self.ready.inputs)
        reach = [[h.address_for(peer.name) if peer is not h else "" for peer in hosts] for h in hosts]
        actors = [self.fleet.actor(host.name) for host in hosts]
        mesh = Mesh(assignment, actors, reach, self.fleet.alive)
        try:
            yield mesh
        finally:
            mesh.close()

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
                self.experiment.progress.request(source["latency_s"], measured, warmup)

        return save


def _entry(spec: MethodSpec) -> dict[str, Any]:
    """A method's entry of methods.json before its turn."""
    return {
        "method": spec.method,
        "label": spec.label,
        "options": dict(spec.options),
        "status": "skipped",
        "error": None,
        "equals_single": methods.load(spec.method).equals_single,
        "payload_formula": None,
    }


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


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP (a lost terminal) end the run as Ctrl-C does.

    Ray puts its own handler in place, so this is set again once it is up.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
