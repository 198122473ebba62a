"""One or several run folders side by side: `testbed compare RUN...`. The first is what the others are held against."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed import report, store, tables
from testbed.notes import Note, notes
from testbed.store import RunData
from testbed.summary import summary

# What a reader must know of any of the runs before comparing them; the rest is in each run's own report.
ANNOUNCED = ("host-failed", "memory", "inexact", "not-finite", "payload", "leak", "local", "cut-off")
GIVE_UP = (report.SENT, report.COMPUTE, report.WAITING, "n")


def compare(folders: Sequence[Path], console: Console) -> None:
    """Print a run's report, or for several one row per method and run. Raises StoreError."""
    runs = [store.load(folder) for folder in folders]
    summaries = [summary(run) for run in runs]
    if len(runs) == 1:
        report.render(summaries[0], runs[0], notes(summaries[0], runs[0]), console)
        return
    _heads(runs, summaries, console)
    tables.print_table(_methods(summaries), console, GIVE_UP)
    console.print(Text("vs A: how many times as fast as A", "dim"))
    _announce(runs, summaries, console)
    for line in differences(runs) or ["nothing that was recorded"]:
        tables.print_wrapped("Differs: ", line, console)


def _heads(runs: Sequence[RunData], summaries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Which letter is which run."""
    if any(one["untrained"] for one in summaries):
        console.print(Text(report.UNTRAINED, "bold yellow"))
    for letter, run, one in zip(_letters(), runs, summaries, strict=False):
        weights = "untrained (random) weights" if one["untrained"] else f"{run.topology['run'].get('weights')} weights"
        line = f"{run.topology['name']}, {weights}, {run.manifest.get('started_utc')}, {run.path}"
        tables.print_wrapped(f"{letter}  ", line, console)


def _announce(runs: Sequence[RunData], summaries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What went wrong, run by run, then the notes that matter, each with the runs that it is about."""
    announced: dict[Note, list[str]] = {}
    for letter, run, one in zip(_letters(), runs, summaries, strict=False):
        report.print_verdict(one["network"], console, f"{letter}  ")
        for line in report.reasons(one["methods"]):
            console.print(Text(f"{letter}  {line}", "red"))
        for note in notes(one, run):
            if note.code in ANNOUNCED:
                announced.setdefault(note, []).append(letter)
    for note, letters in announced.items():
        report.print_note(note, console, ", ".join(letters))


def differences(runs: Sequence[RunData]) -> list[str]:
    """What may explain different times, one line per setting: those of the machine, the code and the topology.

    Settings of one kind that differ alike share a line: "links.h1 - s1.rate, links.h2 - s1.rate: A 10 Mbit/s; ...".
    Of a link or switch that a run lacks only the name is told: its settings are compared among the runs that have it.
    """
    found = [_settings(run) for run in runs]
    alike: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(key for settings in found for key in settings):
        everywhere = not key.startswith(("links.", "switches."))
        values = [
            (letter, settings.get(key, "none"))
            for letter, settings in zip(_letters(), found, strict=False)
            if everywhere or key in settings
        ]
        if len({value for _, value in values}) > 1:
            words = "; ".join(f"{letter} {value}" for letter, value in values)
            alike.setdefault((key.partition(".")[0], words), []).append(key)
    return [f"{', '.join(keys)}: {words}" for (_, words), keys in alike.items()]


def _methods(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Rows grouped by method, in the order in which methods first appear."""
    table = tables.open_table(
        "method", "run", "n", "latency\n95 % CI", "vs\nA", report.COMPUTE, report.WAITING, report.SENT
    )
    table.add_column("fidelity", no_wrap=True)
    by_label = [{method["label"]: method for method in one["methods"]} for one in summaries]
    for label in dict.fromkeys(label for one in by_label for label in one):
        reference = by_label[0].get(label, {}).get("latency_s", {}).get("median")
        shown = label
        for letter, one in zip(_letters(), by_label, strict=False):
            if method := one.get(label):
                table.add_row(shown, letter, *_cells(method, reference))
                shown = ""
    return table


def _cells(method: Mapping[str, Any], reference_s: float | None) -> list[str | Text]:
    """Count, latency, ratio to the first run, costs, fidelity; a method that did not end well has its status alone."""
    _, count, first, compute, waiting, _, sent, _, fidelity = report.cells(method)
    own = method["latency_s"]["median"]
    ratio = report.against(reference_s / own if reference_s and own else None)
    return [count, first, ratio, compute, waiting, sent, fidelity]


def _settings(run: RunData) -> dict[str, str]:
    """What matters for a comparison, flat and in words: "machine.cpu" -> its value."""
    manifest, topology = run.manifest, run.topology
    git = manifest.get("git") or {}
    parts = {
        "git": {**git, "commit": (git.get("commit") or "unknown")[:8]},
        **{key: manifest.get(key) for key in ("versions", "machine", "sysctls", "seeds", "shaper")},
        "backend": topology.get("backend"),
        **{key: _named(topology.get(key) or {}) for key in ("hosts", "switches")},
        "links": _named(_links(topology)),
        "events": topology.get("events"),
        "run": {key: value for key, value in topology["run"].items() if key != "methods"},
    }
    settings = dict(_flat("", parts))
    settings.pop("machine.load_1min", None)
    if settings["events"] == "none":
        del settings["events"]
    return settings


def _links(topology: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every link whole, whether its values stand with it or, shared by all, in defaults.link."""
    shared = (topology.get("defaults") or {}).get("link") or {}
    listed = [{"between": link} if isinstance(link, str) else link for link in topology.get("links") or []]
    return [{**shared, **link} for link in listed]


def _named(things: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hosts, switches or links by their name, a link by its ends, with the list of names in front."""
    if not isinstance(things, Mapping):
        links = [(" - ".join(sorted(link["between"].split(" - "))), link) for link in things]
        things = {name: _from_first(link, turned=name != link["between"]) for name, link in links}
    return {"": list(things), **things}


def _from_first(link: Mapping[str, Any], turned: bool) -> dict[str, Any]:
    """Settings of a link as seen from the end that its name begins with: `turned`, its directions change names."""
    other = {"up": "down", "down": "up"} if turned else {}
    return {other.get(key, key): value for key, value in link.items() if key != "between"}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """{"run": {"tokens": 16}} -> ("run.tokens", "16"): no setting is shown as Python writes it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".strip("."), inner)
    elif isinstance(value, bool) or value is None:
        yield name, {True: "yes", False: "no", None: "none"}[value]
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, " ".join(str(value).split())


def _letters() -> Iterator[str]:
    """A, B, ... Z, A1, B1, ..."""
    number = 0
    while True:
        yield from (f"{chr(ord('A') + i)}{number or ''}" for i in range(26))
        number += 1


if __name__ == "__main__":
    from testbed.cli import main

    main(["compare", *sys.argv[1:]])
