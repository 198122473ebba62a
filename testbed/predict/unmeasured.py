"""What the file of a sweep asks for and its folder does not have: points that are left out, or have not run yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from runtime.profile import Profile
from testbed import profiles, schema, store, topology, yamlfile
from testbed.store import RunData
from testbed.summary import latencies
from testbed.sweep import folder, grid
from testbed.topology import Topology, TopologyError
from testbed.yamlfile import Document


def points(path: Path, runs: Sequence[RunData]) -> list[tuple[Topology, Profile]]:
    """Points of a sweep folder's file with those of their methods that none of its `runs` has measured.

    Only where all of them replay one profile: of computing that is real, what did not run is not known. A file that
    cannot be read any more has none.
    """
    if not (path / folder.FILE).is_file():
        return []
    replaying = [run for run in runs if run.manifest["compute"] == "replayed"]
    try:
        asked = _asked(path / folder.FILE)
        profile = profiles.read(replaying[0].path / store.PROFILE) if replaying else None
    except TopologyError:
        return []
    if profile is None or len(replaying) < len(runs):
        return []
    done = {pair for run in runs for pair in _measured(run)}
    found = []
    for point in asked:
        left = tuple(spec for spec in point.run.methods if (_place(point), spec.label) not in done)
        if left:
            found.append((replace(point, run=replace(point.run, methods=left)), profile))
    return found


def _asked(path: Path) -> list[Topology]:
    """All points of the file, what it leaves out among them. Raises TopologyError."""
    document = yamlfile.read(path)
    document.value.pop(grid.SECTION, None)
    run = document.value.get("run")
    if isinstance(run, dict) and isinstance(run.get("compute"), dict):
        del run["compute"]  # its path was relative to where the file stood
    found = []
    for variant in grid.expand(document):
        own = Document(document.name, variant.value, dict(document.lines))
        point = schema.interpret(own).topology
        if point is not None:
            found.append(point)
    return found


def _measured(run: RunData) -> list[tuple[str, str]]:
    """(place, label) of every method that has a request that counts."""
    try:
        place = _place(topology.load(run.path / store.TOPOLOGY))
    except TopologyError:
        return []
    return [(place, method["label"]) for method in run.methods if latencies(run, method["label"])]


def _place(point: Topology) -> str:
    """Equal for topologies that differ in no more than name, methods and where files lie."""
    facts = asdict(point)
    del facts["name"]
    for key in ("methods", "compute", "inputs"):
        del facts["run"][key]
    return json.dumps(facts, sort_keys=True, default=str)
