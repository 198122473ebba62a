"""One or several run folders side by side: `testbed compare RUN...`. The first is what the others are held against."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed import report, store
from testbed.notes import notes
from testbed.store import RunData
from testbed.summary import summary


def compare(folders: Sequence[Path], console: Console) -> None:
    """Print a run's report, or for several one row per method and run. Raises StoreError."""
    runs = [store.load(folder) for folder in folders]
    summaries = [summary(run) for run in runs]
    if len(runs) == 1:
        report.render(summaries[0], runs[0].links, notes(summaries[0], runs[0]), console)
        return
    for letter, run, one in zip(_letters(), runs, summaries, strict=False):
        weights = "untrained (random) weights" if one["untrained"] else f"{run.topology['run'].get('weights')} weights"
        console.print(
            Text(f"{letter}  {run.topology['name']}, {weights}, {run.manifest.get('started_utc')}, {run.path}")
        )
    console.print(_methods(summaries))
    console.print(Text("x: how many times as fast as A", "dim"))
    for line in differences(runs):
        console.print(Text.assemble(("Differs: ", "bold yellow"), line))


def differences(runs: Sequence[RunData]) -> list[str]:
    """What may explain different times, one line per setting: those of the machine, the code and the topology."""
    found = [_settings(run) for run in runs]
    lines = []
    for key in dict.fromkeys(key for settings in found for key in settings):
        values = [settings.get(key) for settings in found]
        if any(value != values[0] for value in values):
            lines.append(f"{key}: " + "; ".join(f"{a} {_short(v)}" for a, v in zip(_letters(), values, strict=False)))
    return lines


def _methods(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Rows grouped by method, in the order in which methods first appear."""
    table = report.open_table("method", "run", "n", "latency\n95 % CI", "x", "compute", "waiting")
    table.add_column("sent\non wire", justify="right")
    table.add_column("fidelity")
    by_label = [{method["label"]: method for method in one["methods"]} for one in summaries]
    for label in dict.fromkeys(label for one in by_label for label in one):
        reference = by_label[0].get(label, {}).get("latency_s", {}).get("median")
        shown = label
        for letter, one in zip(_letters(), by_label, strict=False):
            if method := one.get(label):
                table.add_row(shown, letter, *_cells(method, reference))
                shown = ""
    return table


def _cells(method: Mapping[str, Any], reference_s: float | None) -> list[str]:
    """Latency, ratio to the first run, costs, fidelity; a method that failed has its status for a latency."""
    own = method["latency_s"]["median"]
    ratio = f"{reference_s / own:.3g}" if reference_s and own else report.NONE
    first = report.latency(method) if method["status"] == "ok" else method["status"]
    compute, waiting, _, sent = report.costs(method)
    return [str(method["requests"]), first, ratio, compute, waiting, sent, report.fidelity(method)]


def _settings(run: RunData) -> dict[str, Any]:
    """What matters for a comparison, flat: "machine.cpu" -> its value."""
    manifest = run.manifest
    settings = {f"git.{k}": v for k, v in (manifest.get("git") or {"commit": None}).items()}
    for part in ("versions", "machine", "sysctls"):
        settings |= {f"{part}.{k}": v for k, v in (manifest.get(part) or {}).items() if k != "load_1min"}
    settings["seeds"] = manifest.get("seeds")
    for key, value in run.topology.items():
        if key == "run":
            settings |= {f"run.{k}": v for k, v in value.items() if k != "methods"}
        elif key != "name":
            settings[key] = value
    return settings


def _short(value: Any) -> str:
    """A value in at most 40 characters."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _letters() -> Iterator[str]:
    """A, B, ... Z, A1, B1, ..."""
    number = 0
    while True:
        yield from (f"{chr(ord('A') + i)}{number or ''}" for i in range(26))
        number += 1


if __name__ == "__main__":
    from testbed.cli import main

    main(["compare", *sys.argv[1:]])
