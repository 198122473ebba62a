"""`testbed predict RUN_OR_SWEEP...`: the table of predictions beside measurements, and how far off they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from testbed.page.setting import where
from testbed.predict import accounting, messages, paper
from testbed.predict.against import ONLY, REAL, REPLAYED, Cell, Errors, by, cells, errors, left_out
from testbed.tables import NONE, duration, open_table, print_table, print_wrapped

WORSE = 0.15  # an error beyond it is marked
TOLD = {
    ONLY: "predicted only: nothing was measured there, the sweep leaves it out or has not come to it",
    REAL: "compute was real: stages take what they took in the run itself, so that the network alone is predicted",
    REPLAYED: "compute was replayed from {profiles}: devices waited its times, and predictions are made of the same",
}
NOT_DECLARED = {"wrong": "not valid", "unverified": "not verified"}  # networks, in place of an error


def main(paths: Sequence[Path], as_text: bool, say: Callable[[str], None]) -> None:
    """Predict what was measured in run folders and sweeps, and what a sweep left out. Raises StoreError."""
    found = cells(paths)
    if as_text:
        show(found, Console(highlight=False))
    else:
        say(as_json(found))


def as_json(found: Sequence[Cell]) -> str:
    """{"cells": [rows], "errors": {"all", "by_method", "by_shaper", "left_out": cells}, "costs": [of messages]};
    seconds, errors as fractions. The error of a row whose network counts for nothing has no part in the errors."""
    groups = {name: {key: asdict(one) for key, one in by(found, of).items()} for name, of in _GROUPS.items()}
    whole, costs = errors(found), dict.fromkeys(cell.costs for cell in found if cell.costs is not None)
    summed = {"all": whole and asdict(whole), **groups, "left_out": left_out(found)}
    return json.dumps({"cells": [row(cell) for cell in found], "errors": summed, "costs": [*map(asdict, costs)]})


def row(cell: Cell) -> dict[str, Any]:
    """Plain values of a cell, for programs."""
    return {
        "run": cell.run and cell.run.name, "network": where(cell.topology), "devices": len(cell.topology.hosts),
        "tokens": cell.topology.run.tokens,
        "label": cell.spec.label, "kind": cell.kind, "shaper": cell.shaper, "model": cell.model,
        "predicted_s": cell.predicted_s, "measured_s": cell.measured_s, "n": cell.n, "error": cell.error,
        "verdict": cell.verdict, "why": cell.why,
    }  # fmt: skip


_GROUPS: dict[str, Callable[[Cell], str]] = {
    "by_method": lambda cell: cell.spec.label,
    "by_shaper": lambda cell: cell.shaper or "none",
}


def show(found: Sequence[Cell], console: Console) -> None:
    """A row per method and network, then errors by method and by shaper, then what must be known."""
    table = open_table("network", "method", "n", "measured", "predicted", "error")
    table.columns[1].justify = "left"
    above, sizes = "", {_size(cell) for cell in found}
    for cell in found:
        place = ", ".join([where(cell.topology), *([_size(cell)] if len(sizes) > 1 else [])])
        table.add_row(
            "" if place == above else place, cell.spec.label, str(cell.n) if cell.n else NONE,
            duration(cell.measured_s), duration(cell.predicted_s), _off(cell),
        )  # fmt: skip
        above = place
    print_table(table, console, ("n",))
    summed = errors(found)
    if summed is not None:
        _show_errors(found, summed, console)
    for words in notes(found):
        print_wrapped("Note: ", f"{words.rstrip('.')}.", console)


def notes(found: Sequence[Cell]) -> list[str]:
    """What must be known of the table, a sentence each, without its full stop."""
    profiles = {cell.case.profile.name: cell.case.profile for cell in found if cell.case and cell.kind != REAL}
    named = ", ".join(profiles) or "a profile that cannot be read"
    said = [words.format(profiles=named) for kind, words in TOLD.items() if any(cell.kind == kind for cell in found)]
    said += messages.told(cell.costs for cell in found if cell.costs is not None)
    said += [told for profile in profiles.values() if (told := accounting.told(paper.read(), profile))]
    if count := left_out(found):
        said.append(f"{count} of the cells are in no error: their network was not the declared one, or not verified")
    reasons: dict[str, list[str]] = {}
    for cell in found:
        if cell.why:
            reasons.setdefault(cell.why, []).append(cell.spec.label)
    return said + [f"no forecast of {', '.join(dict.fromkeys(labels))}: {why}" for why, labels in reasons.items()]


def _size(cell: Cell) -> str:
    return f"{len(cell.topology.hosts)} devices, {cell.topology.run.tokens} tokens"


def _show_errors(found: Sequence[Cell], summed: Errors, console: Console) -> None:
    table = open_table("|error| of", "cells", "median", "worst", "predicted /\nmeasured")
    rows = {"all": summed, **by(found, _GROUPS["by_method"]), **by(found, _GROUPS["by_shaper"])}
    for name, one in rows.items():
        table.add_row(name, str(one.n), f"{one.median:.1%}", f"{one.worst:.1%}", f"{one.ratio:.3f}")
    print_table(table, console, ("cells",))
    console.print("single is left out of the errors: it crosses no network")


def _off(cell: Cell) -> Text:
    """The error, or why it is none."""
    words = NOT_DECLARED.get(cell.verdict)
    return Text(words, "red") if words and cell.measured_s is not None else percent(cell.error)


def percent(error: float | None) -> Text:
    """ "+3.2 %", red beyond what may be."""
    if error is None:
        return Text(NONE)
    return Text(f"{error:+.1%}", "red" if abs(error) > WORSE else "")
