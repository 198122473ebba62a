"""What of a sweep folder counts: of every cell that its file asks for the last row, and of every run what rows name."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed import store
from testbed.store import RunData
from testbed.sweep import folder

SINGLE = "single"


@dataclass(frozen=True)
class Counted:
    """runs: in the order in which they ran, each with those methods alone that have no later row, and with its single,
    to which they are compared. failed: cells for which there is no run, a line each. code: hash of the sources."""

    runs: tuple[RunData, ...]
    failed: tuple[str, ...]
    code: str


def counted(path: Path) -> Counted:
    """Of a sweep folder. Raises StoreError."""
    rows = folder.cells(path)
    labels: dict[str, set[str]] = {}
    for row in rows:
        if row["run"]:
            labels.setdefault(row["run"], set()).add(row["label"])
    runs = tuple(_part(store.load(path / name), own) for name, own in labels.items())
    failed = tuple(_failure(row) for row in rows if row["status"] == "failed" and row["run"] is None)
    return Counted(runs, failed, next((row["code"] for row in rows), ""))


def _part(run: RunData, labels: Container[str]) -> RunData:
    methods = [
        one for one in run.methods
        if one["label"] in labels or (one["method"] == SINGLE and one["status"] == "ok")
    ]  # fmt: skip
    left = {one["label"] for one in methods}
    records, timeline = ([row for row in rows if row["label"] in left] for rows in (run.records, run.timeline))
    return replace(run, methods=methods, records=records, timeline=timeline)


def _failure(row: Mapping[str, Any]) -> str:
    point = ", ".join(f"{axis} {value}" for axis, value in row["point"].items())
    return f"{row['label']}, {point}: {row.get('error')}"
