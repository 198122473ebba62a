"""One experiment: refuse or prepare, network up, probe, place, drive, save, network down, report.

Everything is saved as it comes and released beside where it was acquired, so that an end at any moment (a fault,
Ctrl-C, SIGTERM) leaves a readable run folder and nothing else.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from runtime import methods
from runtime.errors import BadModel
from runtime.model import fingerprint
from testbed import check, clean, control, cost, doctor, inputs, judge, material, probe, shape, store, yamlfile
from testbed.fleet import Fleet
from testbed.hosts import HOSTS, HostError, Network
from testbed.inputs import BadInputs
from testbed.manifest import manifest
from testbed.material import Collected, Material
from testbed.notes import notes
from testbed.progress import Progress
from testbed.report import render
from testbed.store import RunFolder
from testbed.summary import summary
from testbed.terminable import terminable
from testbed.topology import MethodSpec, Topology, TopologyError, dump
from testbed.turn import Turn, data_congestion

OK, METHOD_FAILED, BAD_INPUT, WRONG_NETWORK, DEGRADED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def execute(path: Path, out: Path | None = None, shaper: str | None = None) -> int:
    """Run the file and print what came of it; the exit status of the command. shaper: one to force, None: the best.

    Raises TopologyError, StoreError, BadModel, HostError.
    """
    topology = check.load(path)
    refusals = doctor.problems(topology, path, shaper)
    if refusals:
        raise TopologyError(refusals)
    collected = _collect(topology, path)
    console = Console(highlight=False)
    _clean_up(console)
    with RunFolder.create(topology.name, out) as folder, Progress(console) as progress, terminable():
        experiment = Experiment(topology, collected, folder, progress, shaper)
        try:
            whole = experiment.run()
        finally:
            found = experiment.finish()
    report(folder.path, console)
    return status(found) if whole else INTERRUPTED


def status(found: Mapping[str, Any]) -> int:
    """The exit status of a run that was not interrupted, by its summary: what makes a result worth less comes first."""
    verdict = found["network"]["verdict"]
    if verdict in ("wrong", "unverified"):
        return WRONG_NETWORK
    if any(method["status"] != "ok" for method in found["methods"]):
        return METHOD_FAILED
    return DEGRADED if verdict == "degraded" else OK


def _collect(topology: Topology, path: Path) -> Collected:
    """The model and the raw inputs, before anything of the run exists. Raises TopologyError with line and key."""
    try:
        return material.collect(topology.run)
    except (BadInputs, BadModel) as error:
        document = yamlfile.read(path)
        key = "inputs" if isinstance(error, BadInputs) else "model"
        document.problem(("run", key), str(error), getattr(topology.run, key))
        raise TopologyError(document.problems) from None


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
    render(found, run, notes(found, run), console)
    console.print(f"saved in {os.path.relpath(path)}", soft_wrap=True)


class Experiment:
    """A topology, its run folder, and how far it got: one entry per method in methods.json."""

    def __init__(
        self, topology: Topology, collected: Collected, folder: RunFolder, progress: Progress, shaper: str | None = None
    ) -> None:
        self.topology, self.collected, self.folder, self.progress = topology, collected, folder, progress
        self.shaper = shaper
        self.rows: dict[str, list[dict[str, Any]]] = {store.LINKS: [], store.WATCH: [], store.CHANGES: []}
        self.run_id = secrets.token_hex(4)
        self.entries = [_entry(spec) for spec in topology.run.methods]
        self.folder.write_text(store.TOPOLOGY, dump(self._kept()))
        self._write_manifest({})

    def _kept(self) -> Topology:
        """The topology as the run folder has it: with a profile of its own, so that it stays what was run."""
        run = self.topology.run
        if run.compute is None:
            return self.topology
        self.folder.write_text(store.PROFILE, Path(run.compute).read_text(encoding="utf-8"))
        return replace(self.topology, run=replace(run, compute=store.PROFILE))

    def run(self) -> bool:
        """From the file to records; False if it was interrupted. What went wrong with a method is in its entry."""
        try:
            ready = self._prepare()
            self._skip("the network did not come up")
            with HOSTS[self.topology.backend](self.topology, self.run_id, self.shaper) as network:
                self.progress.stage(f"{len(network.hosts)} hosts up ({self.topology.backend})")
                self._warn(network)
                if self._network_is_declared(network, "before"):
                    self._skip("Ray did not come up")
                    # Ray takes signals over when it comes up, and lets them go to nobody when it is down.
                    with terminable(), control.cluster(network, self.folder.log_path) as ray, terminable():
                        self._take_turns(network, ray, ready)
                    self._network_is_declared(network, "after")
        except KeyboardInterrupt:
            self.progress.stage("interrupted; what was measured is kept")
            return False
        return True

    def _take_turns(self, network: Network, ray: control.Control, ready: Material) -> None:
        """All methods, one after the other, and what control cost meanwhile."""
        self.progress.stage(f"Ray up: one node per host, {ray.up_s:.1f} s")
        self._skip("the run ended before its turn")
        fleet = Fleet(self.topology, self.folder, network, ray)
        meter = cost.Meter(ray.leaders(), {host.name: host.data_interfaces for host in network.hosts.values()})
        try:
            for index, spec in enumerate(self.topology.run.methods):
                Turn(self, fleet, ready, spec, self.entries[index]).take()
                self.save_entries()
                if any(row["verdict"] == "wrong" for row in self.rows[store.WATCH]):
                    self._skip(f"the network broke during {spec.label}")
                    break
        finally:
            self.folder.write_json(store.CONTROL, {"ray_up_s": ray.up_s, **meter.row()})

    def finish(self) -> dict[str, Any]:
        """Write summary.json from what is in the folder; returns it."""
        self.save_entries()
        found = summary(store.load(self.folder.path))
        self.folder.write_json(store.SUMMARY, found)
        return found

    def _prepare(self) -> Material:
        run = self.topology.run
        self._skip("the run ended before its network was up")
        requests = self.folder.path / "requests.safetensors"
        ready = material.gather(run, self.collected, requests, self.progress.stage)
        found = ready.prepared
        byte_tokens = found is None and inputs.bytes_as_ids(ready.shape, ready.folder)  # else it was trained on them
        facts: dict[str, Any] = {"byte_tokens": byte_tokens, "samples_seen": ready.samples_seen}
        if found is not None:
            facts |= {"prepared": {key: found.config[key] for key in ("name", "sha256", "seed")}}
            for spec, entry in zip(run.methods, self.entries, strict=True):
                entry["task"] = found.task(spec, run.tokens, len(self.topology.hosts))
        self._write_manifest(facts)
        return ready

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        shaper = None if self.topology.backend == "local" else shape.choose(self.topology, self.shaper)
        congestion = data_congestion(self.topology.backend) or "the machine's own"
        facts = {
            "data_congestion_control": congestion,
            "run_id": self.run_id,
            "backend": self.topology.backend,
            "shaper": shaper,
            "shaper_forced": self.shaper is not None,
            **self._computing(),
            **more,
        }
        self.manifest = manifest(sys.argv, {"run": self.topology.run.seed}, facts)
        self.folder.write_json(store.MANIFEST, self.manifest)

    def _computing(self) -> dict[str, Any]:
        """Whether the model is computed, or which profile is replayed."""
        profile = self.collected.profile
        if profile is None:
            return {"compute": "real"}
        sha256 = fingerprint(self.folder.path, store.PROFILE)
        return {"compute": "replayed", "profile": {"name": profile.name, "sha256": sha256}}

    def _warn(self, network: Network) -> None:
        """Say what the relay could not do and goes on without, and keep it for the report."""
        found = list(network.shaping.warnings) if network.shaping is not None else []
        self.folder.write_json(store.MANIFEST, self.manifest | {"shaper_warnings": found})
        for line in found:
            self.progress.stage(f"the relay goes on, but: {line}")

    def _network_is_declared(self, network: Network, when: str) -> bool:
        """Probe every link, save what was measured, and say what is wrong. A run on a wrong network does not start."""
        rows = probe.probe(network, self.topology, when)
        self.add(store.LINKS, rows)
        verdict = probe.verdict(rows)
        if verdict == "ok":
            said = f"network probed {when} the run: {len(judge.last(rows))} measurements as declared"
            self.progress.stage(said if rows else "nothing is shaped")
            return True
        words = f"the network is {'degraded' if verdict == 'degraded' else 'not the declared one'}"
        complaints = "; ".join(probe.complaints(rows))
        self.progress.stage(f"probed {when} the run: {words}")
        if verdict == "wrong":
            self._skip(f"{words}: {complaints}")
        return verdict != "wrong"

    def _skip(self, why: str) -> None:
        """Until a method has had its turn, this is why not."""
        for entry in self.entries:
            if entry["status"] == "skipped":
                entry["error"] = why
        self.save_entries()

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to links.json, watch.json or changes.json."""
        self.rows[name] += rows
        self.folder.write_json(name, self.rows[name])

    def save_entries(self) -> None:
        """Write methods.json as it stands."""
        self.folder.write_json(store.METHODS, self.entries)


def _entry(spec: MethodSpec) -> dict[str, Any]:
    """A method's entry of methods.json before its turn."""
    return {
        "method": spec.method,
        "label": spec.label,
        "options": dict(spec.options),
        "timed": {},  # options that followed from the links
        "status": "skipped",
        "error": None,
        "equals_single": methods.equals_single(spec.method, spec.options),
        "payload_formula": None,
        "generation": None,
    }
