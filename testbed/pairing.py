"""What a RUN of `testbed compare` stands for, and which requests of two of them are one request.

A RUN is a run folder, or a sweep folder: then its runs by the point of the sweep's grid, and those of one point (its
repetitions) are read together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed import evidence, store, units
from testbed.differences import invalid
from testbed.statistics import paired_ratio, unpaired_ratio
from testbed.store import RunData, StoreError
from testbed.summary import latencies, summary
from testbed.sweep import folder

SAME = ("model", "weights", "tokens", "inputs")  # and the seed: then request i is the same one in both
Point = tuple[tuple[str, str], ...]  # ((axis, value), ...); of a run folder ()
Key = tuple[Any, int, int]  # seed, how many runs with that seed came before, request


@dataclass(frozen=True)
class Part:
    """One run folder of a side. turn: how many of the same seed come before it at its point."""

    run: RunData
    seed: Any
    turn: int


@dataclass(frozen=True)
class Side:
    """One RUN. left_out: why runs of a sweep are not among its points, a line each."""

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
    return None


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
    return {
        (part.seed, part.turn, request): seconds
        for part in parts
        for request, seconds in latencies(part.run, label).items()
    }


def _side(letter: str, path: Path, anyway: bool) -> Side:
    if not folder.is_sweep(path):
        run = store.load(path)
        return Side(letter, path, False, {(): (_part(run, 0),)})
    points = _points(path)
    found: dict[Point, list[Part]] = {}
    left_out = []
    for run in (store.load(place) for place in folder.runs(path)):
        if (why := invalid(run)) and not anyway:
            left_out.append(f"{run.path}: {why}")
            continue
        parts = found.setdefault(points.get(run.path.resolve(), ()), [])
        seed = run.topology["run"].get("seed")
        parts.append(_part(run, sum(part.seed == seed for part in parts)))
    if not found:
        raise StoreError(f"{path}: no run of this sweep can be compared{''.join(f'; {words}' for words in left_out)}")
    ordered = {point: tuple(found[point]) for point in sorted(found, key=_order)}
    return Side(letter, path, True, ordered, tuple(left_out))


def _part(run: RunData, turn: int) -> Part:
    return Part(run, run.topology["run"].get("seed"), turn)


def _points(path: Path) -> dict[Path, Point]:
    """Each run of a sweep -> where it lies in the grid: what is the same for all of its methods."""
    found: dict[Path, dict[str, str]] = {}
    with suppress(FileNotFoundError):
        for line in (path / folder.CELLS).read_bytes().splitlines():
            with suppress(ValueError):  # what is damaged is refused by who lists the runs
                cell = json.loads(line)
                if isinstance(cell, dict) and isinstance(cell.get("run"), str):
                    point = {str(axis): str(value) for axis, value in (cell.get("point") or {}).items()}
                    place = (path / cell["run"]).resolve()
                    found[place] = {k: v for k, v in found.get(place, point).items() if point.get(k) == v}
    return {place: tuple(point.items()) for place, point in found.items()}


def _order(point: Point) -> list[tuple[str, bool, float, str]]:
    """Points of a grid by their values as quantities: a sweep goes through them in no order."""
    return [(axis, *_quantity(value)) for axis, value in point]


def _quantity(value: str) -> tuple[bool, float, str]:
    for parse in (float, units.parse_rate, units.parse_duration, units.parse_fraction, units.parse_size):
        with suppress(ValueError):
            return False, parse(value), value
    return True, 0.0, value
