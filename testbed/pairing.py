"""What a RUN of `testbed compare` stands for, and which requests of two of them are one request.

A RUN is a run folder, or a sweep folder: then its runs by the point of the sweep's grid, and those of one point (its
repetitions) are read together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed import evidence, store, units
from testbed.differences import invalid
from testbed.predict.counted import counted
from testbed.statistics import paired_ratio, unpaired_ratio
from testbed.store import RunData, StoreError
from testbed.summary import latencies, summary
from testbed.sweep import folder
from testbed.sweep.folder import Row

SAME = ("model", "weights", "tokens", "inputs")  # and the seed: then request i is the same one in both
Point = tuple[tuple[str, str], ...]  # ((axis, value), ...); of a run folder ()
Key = tuple[Any, int, int]  # seed, repetition, request


@dataclass(frozen=True)
class Part:
    """One run folder of a side. repetition: of its point, 1 where there is no sweep.

    labels: methods whose results are those of the sweep's cells; others, of an earlier or a later run of the same
    repetition, only ran beside them.
    """

    run: RunData
    repetition: int = 1
    labels: frozenset[str] = frozenset()

    @property
    def seed(self) -> Any:
        """Of its inputs and weights."""
        return self.run.topology["run"].get("seed")


@dataclass(frozen=True)
class Side:
    """One RUN. left_out: what a sweep was asked for and is not among its points: runs and cells, a line each."""

    letter: str
    path: Path
    sweep: bool
    points: Mapping[Point, tuple[Part, ...]]
    left_out: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunData]:
        """All its runs, in the order of its points."""
        return [part.run for parts in self.points.values() for part in parts]


def read(paths: Sequence[Path], anyway: bool = False) -> list[Side]:
    """Each RUN as A, B, ...; of a sweep without the runs that are not valid, unless `anyway`. Raises StoreError."""
    return [_side(letter, path, anyway) for letter, path in zip(letters(), paths, strict=False)]


def letters() -> Iterator[str]:
    """A, B, ... Z, A1, B1, ..."""
    number = 0
    while True:
        yield from (f"{chr(ord('A') + i)}{number or ''}" for i in range(26))
        number += 1


def ratio(a: Sequence[Part], b: Sequence[Part], label: str) -> dict[str, Any]:
    """How many times as fast b is as a, by one method: {"ratio", "ci95", "n", "paired"}, see `testbed.statistics`."""
    ours, theirs = _seconds(a, label), _seconds(b, label)
    if not_paired(a, b) is None:
        return {**paired_ratio(ours, theirs), "paired": True}
    return {**unpaired_ratio(list(ours.values()), list(theirs.values())), "paired": False}


def not_paired(a: Sequence[Part], b: Sequence[Part]) -> str | None:
    """Why no request of b is one of a, in words; None where they are the same."""
    for key in SAME:
        one, other = ({str(part.run.topology["run"].get(key)) for part in parts} for parts in (a, b))
        if one != other:
            return f"run.{key}: {' or '.join(sorted(one))} against {' or '.join(sorted(other))}"
    if not {part.seed for part in a} & {part.seed for part in b}:
        return "run.seed: none in common"
    if not {(part.seed, part.repetition) for part in a} & {(part.seed, part.repetition) for part in b}:
        return "repetitions: none in common"
    return None


def apart(a: Sequence[Part], b: Sequence[Part]) -> list[str]:
    """Methods that both have measured, but on no request of both."""
    labels = dict.fromkeys(entry["label"] for part in b for entry in part.run.methods)
    times = {label: (_seconds(a, label), _seconds(b, label)) for label in labels}
    return [label for label, (ours, theirs) in times.items() if ours and theirs and not ours.keys() & theirs.keys()]


def together(parts: Sequence[Part]) -> RunData:
    """The runs of one point as one: requests of all, and of a method that failed in some those of the others."""
    first = parts[0].run
    if len(parts) == 1:
        return first
    entries: dict[str, dict[str, Any]] = {}
    for part in parts:
        for entry in part.run.methods:
            if entry["label"] not in entries or entries[entry["label"]]["status"] != "ok":
                entries[entry["label"]] = entry
    return replace(
        first,
        methods=list(entries.values()),
        records=[row for number, part in enumerate(parts) for row in _rows(number, part.run)],
        links=[row for part in parts for row in part.run.links],
        watch=[row for part in parts for row in part.run.watch],
        changes=[row for part in parts for row in part.run.changes],
        skipped=tuple(words for part in parts for words in part.run.skipped),
    )


def summary_of(parts: Sequence[Part]) -> dict[str, Any]:
    """The summary of one point; its network is the worst that one of its runs had."""
    found = [evidence.network(part.run) for part in parts]
    worst = max(found, key=lambda one: (*evidence.ORDER, "unshaped").index(one["verdict"]))
    return {**summary(together(parts)), "network": worst}


def failures(parts: Sequence[Part]) -> list[str]:
    """Methods that failed in some runs of a point and not in all: a line each."""
    lost: Counter[str] = Counter()
    why: dict[str, str] = {}
    for part in parts:
        for entry in part.run.methods:
            if entry["status"] != "ok":
                lost[entry["label"]] += 1
                why[entry["label"]] = f"{entry['status']}: {entry['error'] or 'no reason was recorded'}"
    return [
        f"{label} in {count} of {len(parts)} runs {why[label]}" for label, count in lost.items() if count < len(parts)
    ]


def _rows(number: int, run: RunData) -> Iterator[dict[str, Any]]:
    """Records of the methods that ended well, their requests told apart from those of other runs."""
    good = {entry["label"] for entry in run.methods if entry["status"] == "ok"}
    return ({**row, "request": (number, row["request"])} for row in run.records if row["label"] in good)


def _seconds(parts: Sequence[Part], label: str) -> dict[Key, float]:
    """Of a request that was measured twice, that of the run which the sweep's cell names."""
    return {
        (part.seed, part.repetition, request): seconds
        for part in sorted(parts, key=lambda part: label in part.labels)
        for request, seconds in latencies(part.run, label).items()
    }


def _side(letter: str, path: Path, anyway: bool) -> Side:
    if not folder.is_sweep(path):
        return Side(letter, path, False, {(): (Part(store.load(path)),)})
    cells = folder.cells(path)
    found: dict[Point, list[Part]] = {}
    left_out = _not_run(path, cells)
    named = _by_run(path, cells)
    for run in counted(path).runs:
        own = named[run.path]
        if (why := invalid(run)) and not anyway:
            left_out.append(f"{run.path}: {why}")
            continue
        labels = frozenset(row["label"] for row in own)
        found.setdefault(_point(own[0]), []).append(Part(run, own[0]["repetition"], labels))
    if not found:
        raise StoreError(f"{path}: no run of this sweep can be compared{''.join(f'; {words}' for words in left_out)}")
    ordered = {point: tuple(found[point]) for point in sorted(found, key=_order)}
    return Side(letter, path, True, ordered, tuple(left_out))


def _by_run(path: Path, cells: Sequence[Row]) -> dict[Path, list[Row]]:
    """Run folder -> the cells whose results it has, which are all of one point and repetition."""
    found: dict[Path, list[Row]] = {}
    for row in cells:
        if row["run"] is not None:
            found.setdefault(path / row["run"], []).append(row)
    return found


def _not_run(path: Path, cells: Sequence[Row]) -> list[str]:
    """Cells that failed without a run, a line for those that failed alike, and how many have had no turn."""
    alike: dict[str, list[str]] = {}
    for row in cells:
        if row["run"] is None:
            place = ", ".join(f"{axis} {value}" for axis, value in _point(row)) or "the one point"
            alike.setdefault(str(row.get("error")), []).append(f"{row['label']} at {place}")
    lines = [f"{own[0]}{f' and {len(own) - 1} more cells' * (len(own) > 1)}: {why}" for why, own in alike.items()]
    left = len(folder.asked(path)) - len(cells)
    return [*lines, *[f"{left} cells that have not run yet"] * (left > 0)]


def _point(row: Row) -> Point:
    """Where a cell lies in the grid."""
    return tuple((str(axis), str(value)) for axis, value in row["point"].items())


def _order(point: Point) -> list[tuple[str, bool, float, str]]:
    """Points of a grid by their values as quantities: a sweep goes through them in no order."""
    return [(axis, *_quantity(value)) for axis, value in point]


def _quantity(value: str) -> tuple[bool, float, str]:
    for parse in (float, units.parse_rate, units.parse_duration, units.parse_fraction, units.parse_size):
        with suppress(ValueError):
            return False, parse(value), value
    return True, 0.0, value
