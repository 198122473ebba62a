"""One or several run folders or sweeps side by side: `testbed compare RUN...`. The first is what the others are held
against, request by request where they are the same requests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.errors import RuntimeFault
from testbed import differences, export, generated, here, pairing, report, tables
from testbed.notes import Note, notes
from testbed.pairing import Point, Side
from testbed.statistics import geometric_mean
from testbed.store import RunData

# What a reader must know of any of the runs before comparing them; the rest is in each run's own report.
ANNOUNCED = (
    "host-failed", "memory", "inexact", "not-finite", "payload", "leak", "far-outside", "local", "dirty", "cut-off",
)  # fmt: skip
GIVE_UP = (report.SENT, report.COMPUTE, report.WAITING)
WHY_MARKED = "Marked: no topology declares it, and a ratio may come from it alone."
ANYWAY = "--anyway shows them side by side all the same"
Summary = Mapping[str, Any]


class NotComparable(RuntimeFault):
    """Runs whose figures mean nothing beside each other; a line for each reason."""


def compare(
    folders: Sequence[Path], console: Console, *, anyway: bool = False, out: Path | None = None, force: bool = False
) -> None:
    """Print a run's report, or for several one row per method and run; write the export `out`.

    Raises StoreError, NotComparable, unless `anyway` for all but a folder that is given twice, and BadExport before
    anything is read or written.
    """
    if out is not None:
        export.check(out, force)
    _refuse_twice(folders)
    sides = pairing.read(folders, anyway)
    if len(sides) == 1 and not sides[0].sweep:
        (run,) = sides[0].runs
        found = pairing.summary_of(sides[0].points[()])
        report.render(found, run, notes(found, run), console)
    else:
        _side_by_side(sides, console, anyway)
    if out is not None:
        export.write(sides, out)
        console.print(f"exported to {out}", soft_wrap=True)


def _refuse_twice(folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in folders:
        if (first := seen.get(path.resolve())) is not None:
            raise NotComparable(f"not comparable: {path} is {first}, and a run with itself tells nothing: give it once")
        seen[path.resolve()] = path


def _side_by_side(sides: Sequence[Side], console: Console, anyway: bool) -> None:
    runs = {side.letter: side.runs for side in sides}
    points = list(dict.fromkeys(point for side in sides for point in side.points))
    refused = differences.refusals(runs, [_at(sides, point) for point in points])
    if refused and not anyway:
        raise NotComparable("\n".join([*(f"not comparable: {why}" for why in refused), ANYWAY]))
    found = {(side.letter, point): pairing.summary_of(parts) for side in sides for point, parts in side.points.items()}
    _heads(sides, found, console)
    for why in refused:
        tables.print_wrapped("NOT COMPARABLE: ", why, console, "bold red")
    for point in points:
        if point:
            tables.print_wrapped("At ", named(point), console, "bold")
        tables.print_table(_methods(sides, point, found), console, GIVE_UP)
    if len(points) > 1:
        _over_points(sides, points, found, console)
    _legend(sides, points, console)
    if said := generated.legend([method for one in found.values() for method in one["methods"]]):
        console.print(Text(said, "dim"))
    _announce(sides, found, console)
    _differences(runs, console)


def _at(sides: Sequence[Side], point: Point) -> dict[str, list[RunData]]:
    """The runs at a point, by letter."""
    return {side.letter: [part.run for part in side.points[point]] for side in sides if point in side.points}


def named(point: Point) -> str:
    """ "run.tokens 256, topology.star.link.rate 10 Mbit/s"."""
    return ", ".join(f"{axis} {value}" for axis, value in point)


def _heads(sides: Sequence[Side], found: Mapping[Any, Summary], console: Console) -> None:
    """Which letter is which run."""
    if any(one["untrained"] for one in found.values()):
        console.print(Text(report.UNTRAINED, "bold yellow"))
    for side in sides:
        first = side.runs[0]
        untrained = any(one["untrained"] for (letter, _), one in found.items() if letter == side.letter)
        weights = "untrained (random) weights" if untrained else f"{first.topology['run'].get('weights')} weights"
        size = [f"a sweep of {len(side.runs)} runs at {len(side.points)} points"] * side.sweep
        computed = list(dict.fromkeys(differences.computed(run) for run in side.runs if differences.replayed(run)))
        words = [first.topology["name"], *size, weights, *(f"compute {one}" for one in computed)]
        line = f"{', '.join(words)}, {first.manifest.get('started_utc')}, {side.path}"
        tables.print_wrapped(f"{side.letter}  ", line, console)


def _methods(sides: Sequence[Side], point: Point, found: Mapping[Any, Summary]) -> Table:
    """Rows grouped by method, in the order in which methods first appear."""
    several = len(sides) > 1
    versus = ["vs A\n95 % CI"] if several else [report.SPEEDUP]
    table = tables.open_table(
        "method", "run", "n", "latency\n95 % CI", *versus, report.COMPUTE, report.WAITING, report.SENT
    )
    table.add_column("fidelity", no_wrap=True)
    there = [(side, found[side.letter, point]) for side in sides if point in side.points]
    by_label = [(side, {method["label"]: method for method in one["methods"]}) for side, one in there]
    generates = any(method.get("generation") for _, methods in by_label for method in methods.values())
    if generates:
        table.add_column(generated.COLUMN, justify="right", no_wrap=True)
    for label in dict.fromkeys(label for _, methods in by_label for label in methods):
        shown = label
        for side, methods in by_label:
            if method := methods.get(label):
                ratio = _against(sides[0], side, point, label) if several else method["speedup"]
                more = [generated.times(method)] if generates else []
                table.add_row(shown, side.letter, *_cells(method, ratio), *more)
                shown = ""
    return table


def _against(first: Side, side: Side, point: Point, label: str) -> dict[str, Any]:
    """How many times as fast a side is as the first, at one point."""
    if point not in first.points:
        return {"ratio": None, "ci95": [None, None], "n": 0, "paired": True}
    return pairing.ratio(first.points[point], side.points[point], label)


def _cells(method: Mapping[str, Any], ratio: Mapping[str, Any]) -> list[str | Text]:
    """Count, latency, ratio, costs, fidelity; a method that did not end well has its status alone."""
    _, count, first, compute, waiting, _, sent, _, fidelity = report.cells(method)
    return [count, first, report.speedup(ratio, method["requests"]), compute, waiting, sent, fidelity]


def _over_points(
    sides: Sequence[Side], points: Sequence[Point], found: Mapping[Any, Summary], console: Console
) -> None:
    """One row per method and side over all points: geometric means of ratios, and where they lie."""
    several = len(sides) > 1
    tables.print_wrapped("Over all points", ": geometric means", console, "bold")
    more = ("vs A", "from - to") if several else ()
    table = tables.open_table("method", "run", "points", "vs single", "from - to", *more)
    labels = dict.fromkeys(method["label"] for one in found.values() for method in one["methods"])
    for label in labels:
        for number, side in enumerate(sides):
            single = [
                method["speedup"]["ratio"]
                for point in points
                for method in found.get((side.letter, point), {"methods": ()})["methods"]
                if method["label"] == label
            ]
            first = [_against(sides[0], side, point, label)["ratio"] for point in points if point in side.points]
            shown = "" if number else label
            table.add_row(shown, side.letter, *_means(single, counted=True), *(_means(first) if several else ()))
    tables.print_table(table, console, ())


def _means(ratios: Sequence[float | None], counted: bool = False) -> list[str]:
    known = [ratio for ratio in ratios if ratio is not None]
    ends = f"{report.against(min(known))} - {report.against(max(known))}" if known else tables.NONE
    return [*([str(len(known))] if counted else []), report.against(geometric_mean(known)), ends]


def _legend(sides: Sequence[Side], points: Sequence[Point], console: Console) -> None:
    """What the ratio is, and for whom it is another."""
    if len(sides) == 1:
        console.print(Text(report.SPEEDUP_LEGEND, "dim"))
        return
    words = "vs A: how many times as fast as A, the geometric mean over the same requests"
    console.print(Text(words, "dim"))
    for side, why in _unpaired(sides, points):
        tables.print_wrapped(f"Not paired: {side.letter}, ", f"{why}. Its vs A is the ratio of the medians.", console)
    for side in sides[1:]:
        for words in _without_ratio(sides[0], side):
            tables.print_wrapped(f"No vs A: {side.letter}, ", words, console)


def _unpaired(sides: Sequence[Side], points: Sequence[Point]) -> Iterator[tuple[Side, str]]:
    for side in sides[1:]:
        both = [point for point in points if point in side.points and point in sides[0].points]
        why = dict.fromkeys(pairing.not_paired(sides[0].points[point], side.points[point]) for point in both)
        yield from ((side, words) for words in why if words)


def _without_ratio(first: Side, side: Side) -> Iterator[str]:
    """Where a side has results that are held against none of the first, and why."""
    alone = [point for point in side.points if point not in first.points]
    if alone:
        more = f", and {len(alone) - 1} more points" * (len(alone) > 1)
        yield f"at {named(alone[0]) or 'its one point'}{more}: {first.letter} has nothing there"
    for point, parts in side.points.items():
        ours = first.points.get(point)
        if ours and pairing.not_paired(ours, parts) is None and (labels := pairing.apart(ours, parts)):
            place = f"{named(point)}: " if point else ""
            yield f"{place}{', '.join(labels)}: no request that both have measured (n = 0)"


def _announce(sides: Sequence[Side], found: Mapping[Any, Summary], console: Console) -> None:
    """What went wrong, side by side, then the notes that matter, each with the runs that it is about."""
    announced: dict[Note, list[str]] = {}
    for side in sides:
        for words in side.left_out:
            tables.print_wrapped(f"{side.letter}  left out: ", words, console)
        for point, parts in side.points.items():
            one = found[side.letter, point]
            where = f"{side.letter} at {named(point)}  " if point else f"{side.letter}  "
            report.print_verdict(one["network"], console, where)
            for line in (*report.reasons(one["methods"]), *pairing.failures(parts)):
                console.print(Text(f"{where}{line}", "red"))
            if worth := here.line(one["methods"]):
                tables.print_wrapped(where, worth, console, "")
            for note in notes(one, pairing.together(parts)):
                if note.code in ANNOUNCED and side.letter not in announced.setdefault(note, []):
                    announced[note].append(side.letter)
    for note, which in announced.items():
        report.print_note(note, console, ", ".join(which))


def _differences(runs: Mapping[str, Any], console: Console) -> None:
    """First what a ratio may come from although nobody declared it, then what is compared."""
    found = differences.differences(runs)
    marked = [one for one in found if one.marked]
    for one in marked:
        tables.print_wrapped("Marked: ", str(one), console)
    if marked:
        console.print(Text(WHY_MARKED, "dim"))
    for words in [str(one) for one in found if not one.marked] or ["nothing that was declared"] * (len(runs) > 1):
        tables.print_wrapped("Differs: ", words, console, "bold")


if __name__ == "__main__":
    from testbed.cli import main

    main(["compare", *sys.argv[1:]])
