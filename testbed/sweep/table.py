"""What a sweep found, a row per point and method."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed import profiles, report, tables
from testbed.statistics import interval, median, paired_ratio
from testbed.sweep.blocks import Block
from testbed.sweep.folder import Row, is_bad
from testbed.sweep.points import Point, Sweep
from testbed.topology import TopologyError

MOST_ROWS = 40
VERDICTS = ("ok", "degraded", "wrong", "failed")  # the last that any repetition has is the row's
SPEEDUP = "vs single\n95 % CI"
LEGEND = (
    "n: repetitions with a latency, not requests; latency: median of each run's\n"
    "median; vs single: geometric mean; intervals from 3 repetitions on"
)
Line = tuple[str, Sequence[Row]]  # what stands first, and a method's cells; none: the title of a point


def print_cells(sweep: Sweep, blocks: Sequence[Block], rows: Mapping[str, Row], path: Path, console: Console) -> None:
    """The table of those cells that the file asks for; a wide grid is cut, and said where the rest is.

    blocks: all of the sweep; rows: of their cells, by key, as far as there are any.
    """
    computed = _computed(sweep.points)
    if computed[0] and len(set(computed)) == 1:
        words = f"{computed[0]}: devices waited those times and sent real bytes"
        tables.print_wrapped("Compute ", words, console)
        computed = [""] * len(computed)
    lines = list(_lines(sweep.points, computed, blocks, rows))
    table = tables.open_table("point\n  method", "n", "latency\n95 % CI", SPEEDUP, "verdict")
    table.columns[0].justify = "left"
    for title, own in islice(lines, MOST_ROWS):
        table.add_row(Text(title), *(_result(own) if own else []))  # a value may be [at 1 s: ...]
    if lines:
        tables.print_table(table, console, (SPEEDUP,))
        console.print(Text(LEGEND, "dim"))
    place = os.path.relpath(path)
    if len(lines) > MOST_ROWS:
        console.print(Text(f"and {len(lines) - MOST_ROWS} more rows: testbed report {place}"), soft_wrap=True)
    console.print(Text(f"saved in {place}"), soft_wrap=True)


def _lines(
    points: Sequence[Point], computed: Sequence[str], blocks: Sequence[Block], rows: Mapping[str, Row]
) -> Iterator[Line]:
    """A line for each point, in the order of the file, and below it one for each method, as far as there are cells."""
    cells: dict[tuple[int, str], list[Row]] = {}
    for block in blocks:
        for cell in block.cells:
            if cell.key in rows:  # whatever its row says of the point: the file may have been written anew since
                cells.setdefault((id(block.point), cell.spec.label), []).append(rows[cell.key])
    for point, how in zip(points, computed, strict=True):
        labels = [spec.label for spec in point.topology.run.methods]
        found = [(f"  {label}", cells[id(point), label]) for label in labels if (id(point), label) in cells]
        if found:
            yield f"{point.words}, compute {how}" if how else point.words, ()
            yield from found


def _computed(points: Sequence[Point]) -> list[str]:
    """ "replayed from NAME" for each point, nothing where computing is real."""
    paths = [point.topology.run.compute for point in points]
    names = {path: _profile(Path(path)) for path in set(paths) if path is not None}
    return ["" if path is None else f"replayed from {names[path]}" for path in paths]


def _profile(path: Path) -> str:
    """The name of a profile; of one that is gone since, of its file."""
    try:
        return profiles.read(path).name
    except TopologyError:
        return path.stem


def _result(rows: Sequence[Row]) -> list[str | Text]:
    latencies = [row["latency_s"] for row in rows if row.get("latency_s")]
    speedups = {index: row["speedup"] for index, row in enumerate(rows) if row.get("speedup")}
    verdict = max((_verdict(row) for row in rows), key=VERDICTS.index)
    bad = sum(map(is_bad, rows))
    words = f"{verdict} {bad} of {len(rows)}" if bad and len(rows) > 1 else verdict
    return [
        str(len(latencies)),
        report.latency({"latency_s": {"median": median(latencies), "ci95": interval(latencies)}}),
        report.speedup(paired_ratio(speedups, dict.fromkeys(speedups, 1.0)), len(latencies)),
        Text(words, "red" if bad else ""),
    ]


def _verdict(row: Mapping[str, object]) -> str:
    if row["status"] != "ok":
        return "failed"
    network = row.get("network")
    return "wrong" if network in ("wrong", "unverified") else "degraded" if network == "degraded" else "ok"
