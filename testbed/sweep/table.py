"""What a sweep found, a row per point and method."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed import report, tables
from testbed.sweep.folder import Row, is_bad
from testbed.sweep.points import Sweep

MOST_ROWS = 40
VERDICTS = ("ok", "degraded", "wrong", "failed")  # the last that any repetition has is the row's


def print_cells(sweep: Sweep, rows: Sequence[Row], path: Path, console: Console) -> None:
    """The table of those cells that the file asks for; a wide grid is cut, and said where the rest is."""
    table = tables.open_table("point\n  method", "n", "latency", "vs\nsingle", "verdict")
    table.columns[0].justify = "left"
    lines = list(_lines(sweep, rows))
    for line in lines[:MOST_ROWS]:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in line))  # a value may be [at 1 s: ...]
    if lines:
        tables.print_table(table, console, ("n",))
        console.print(Text("latency: median over repetitions of each run's median; n: repetitions", "dim"))
    place = os.path.relpath(path)
    if len(lines) > MOST_ROWS:
        console.print(Text(f"and {len(lines) - MOST_ROWS} more rows: testbed report {place}"), soft_wrap=True)
    console.print(Text(f"saved in {place}"), soft_wrap=True)


def _lines(sweep: Sweep, rows: Sequence[Row]) -> Iterator[list[str | Text]]:
    """A row for each point, in the order of the file, and below it one for each method."""
    for point in sweep.points:
        found = [row for row in rows if row["point"] == point.chosen]
        if found:
            yield [point.words]
        for spec in point.topology.run.methods:
            own = [row for row in found if row["label"] == spec.label]
            if own:
                yield [f"  {spec.label}", *_result(own)]


def _result(rows: Sequence[Row]) -> list[str | Text]:
    latencies = [row["latency_s"] for row in rows if row.get("latency_s")]
    speedups = [row["speedup"] for row in rows if row.get("speedup")]
    verdict = max((_verdict(row) for row in rows), key=VERDICTS.index)
    bad = sum(map(is_bad, rows))
    words = f"{verdict} {bad} of {len(rows)}" if bad and len(rows) > 1 else verdict
    return [
        str(len(rows)),
        tables.duration(statistics.median(latencies) if latencies else None),
        report.against(statistics.geometric_mean(speedups) if speedups else None),
        Text(words, "red" if bad else ""),
    ]


def _verdict(row: Mapping[str, object]) -> str:
    if row["status"] != "ok":
        return "failed"
    network = row.get("network")
    return "wrong" if network in ("wrong", "unverified") else "degraded" if network == "degraded" else "ok"
