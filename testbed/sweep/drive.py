"""A sweep from its file to its table: what is finished is skipped, the rest runs block by block, and every end is a
good one to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed import refusals
from testbed.experiment import DEGRADED, INTERRUPTED, METHOD_FAILED, OK, WRONG_NETWORK
from testbed.store import StoreError
from testbed.sweep import blocks, child, folder, keys, points
from testbed.sweep.blocks import Block
from testbed.sweep.child import Outcome
from testbed.sweep.folder import Row, SweepFolder
from testbed.sweep.pace import Estimate, Pace, Progress, unknown
from testbed.sweep.points import Point, Sweep
from testbed.sweep.table import print_cells
from testbed.terminable import terminable
from testbed.topology import TopologyError

HOME = Path("sweeps")


def execute(path: Path, out: Path | None = None, retry: bool = False, estimate: Estimate = unknown) -> int:
    """Run what is missing of a sweep and print its table; the exit status of the command.

    out: its folder, None for sweeps/<name>. retry: failed cells run again. estimate: seconds of a run, for the time
    left. Raises TopologyError, StoreError.
    """
    console = Console(highlight=False)
    sweep, code = _carried(points.read(path)), keys.code_version()
    all_blocks = blocks.ordered(sweep, code)
    asked = [cell.key for block in all_blocks for cell in block.cells]
    place = out or HOME / sweep.name
    with folder.opened(place, sweep.name, sweep.text, code, asked) as opened:
        whole = True
        try:
            with terminable():
                _run_missing(sweep, opened, all_blocks, retry, Pace(estimate, _taken(opened)), console)
        except KeyboardInterrupt:
            whole = False
            console.print("interrupted: finished cells are kept, the same command goes on", style="yellow")
        rows = {key: opened.rows[key] for key in asked if key in opened.rows}
        print_cells(sweep, all_blocks, rows, opened.path, console)
    return status(list(rows.values())) if whole else INTERRUPTED


def _carried(sweep: Sweep) -> Sweep:
    """What this machine can carry of it. The rest is told before anything runs: left out where the sweep says so, else
    refused. Raises TopologyError, a line for each kind of it."""
    found: dict[str, list[Point]] = {}
    for point in sweep.points:
        for text in refusals.refusal(point.topology):
            found.setdefault(text, []).append(point)
    unfit = {id(point) for own in found.values() for point in own}
    carried = tuple(point for point in sweep.points if id(point) not in unfit)
    if unfit and (sweep.unfit == "refuse" or not carried):
        lines = [f"{sweep.path}: {text}{at(own, len(sweep.points))}" for text, own in found.items()]
        raise TopologyError([*lines, "leave such points out with sweep.except, or with sweep.unfit: leave_out"])
    told = [
        f"left out, this machine cannot carry it: {text}{at(own, len(sweep.points))}" for text, own in found.items()
    ]
    return replace(sweep, points=carried, left_out=(*sweep.left_out, *told))


def at(own: Sequence[Point], total: int) -> str:
    """At which points, if not at all of them."""
    more = f", and {len(own) - 1} more points" if len(own) > 1 else ""
    return "" if len(own) == total else f" (at {own[0].words}{more})"


def status(rows: Sequence[Mapping[str, object]]) -> int:
    """The exit status of a sweep that was not interrupted: what makes a result worth less comes first, as of a run."""
    networks = {row.get("network") for row in rows}
    if networks & {"wrong", "unverified"}:
        return WRONG_NETWORK
    if any(row["status"] != "ok" for row in rows):
        return METHOD_FAILED
    return DEGRADED if "degraded" in networks else OK


def _run_missing(
    sweep: Sweep, opened: SweepFolder, all_blocks: Sequence[Block], retry: bool, pace: Pace, console: Console
) -> None:
    """Raises KeyboardInterrupt with all that was measured on disk, StoreError when nothing more can be written."""
    orphans = child.end_orphans(opened)
    thrown = child.discard_partials(opened)
    _say_where(opened, all_blocks)
    found = [blocks.missing(block, opened.finished(retry)) for block in all_blocks]
    missing = [block for block in found if block is not None]
    for line in [*sweep.left_out, *_beginning(opened, all_blocks, missing), *_recovered(orphans, thrown)]:
        console.print(Text(line, "dim"), soft_wrap=True)
    with Progress(console, missing, len(all_blocks) - len(missing), pace) as progress:
        for block in missing:
            progress.started()
            outcome = child.run(opened, block)
            _refuse_other_code(opened, outcome)
            rows = child.rows(opened, block, outcome)
            opened.add(rows)
            progress.finished(rows, outcome.seconds)


def _say_where(opened: SweepFolder, all_blocks: Sequence[Block]) -> None:
    """A cell keeps its key where a list takes the place of a value, or the value is written in another way; its row is
    to say where it lies in the grid as it is now."""
    moved = [
        {**row, "point": dict(block.point.chosen)}
        for block in all_blocks
        for cell in block.cells
        if (row := opened.rows.get(cell.key)) and json.dumps(row["point"]) != json.dumps(dict(block.point.chosen))
    ]
    if moved:
        opened.add(moved)


def _refuse_other_code(opened: SweepFolder, outcome: Outcome) -> None:
    """A cell counts for the code that its key names, and its run has loaded what was there when it started."""
    if keys.code_version() != opened.about["code"]:
        if outcome.run is not None:
            folder.discard(opened.path / outcome.run)
        text = "the sources were edited while a block ran, so it is not kept; finished cells are, but of other code now"
        raise StoreError(f"{keys.ROOT}: {text}: sweep from a copy that nobody edits")


def _taken(opened: SweepFolder) -> list[float]:
    """Seconds of each block that ended before."""
    return list({row["block"]: row["block_s"] for row in opened.rows.values() if row.get("block_s")}.values())


def _beginning(opened: SweepFolder, all_blocks: Sequence[Block], missing: Sequence[Block]) -> list[str]:
    """What is there already, and what of it does not count, in words."""
    asked = {cell.key for block in all_blocks for cell in block.cells}
    wanted = {key for block in missing for key in block.wanted}
    gone = [row for key, row in opened.rows.items() if key in asked & wanted and row["run"] and not _there(opened, row)]
    others = [row for key, row in opened.rows.items() if key not in asked]
    old = [row for row in others if row["code"] != opened.about["code"]]
    size = f"{len(asked)} cells in {len(all_blocks)} runs, in {os.path.relpath(opened.path)}"
    lines = [*opened.dropped, f"{size}; {len(asked) - len(wanted)} cells finished before"]
    if gone:
        lines.append(f"{len(gone)} cells were finished, but their run folders are gone: they run again")
    if old:
        lines.append(f"{len(old)} cells were measured with other code: they are kept, but do not count")
    if len(others) > len(old):
        lines.append(f"{len(others) - len(old)} finished cells are not in the file any more: they are kept")
    return lines


def _there(opened: SweepFolder, row: Row) -> bool:
    return opened.run_of(row) is not None


def _recovered(orphans: int, thrown: int) -> list[str]:
    """What an earlier sweep that was killed had left."""
    lines = [f"ended {orphans} run that a killed sweep had left"] if orphans else []
    return [*lines, *([f"thrown away: {thrown} run that was not finished"] if thrown else [])]
