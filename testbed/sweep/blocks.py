"""Points and repetitions -> blocks in the order in which they run, the same for everybody who has the file.

A block is one run: a point's methods in a fresh network, in an order of their own. Order is by hash of the seed, so it
is as random as can be, and what is added to a file later does not move the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.sweep import keys
from testbed.sweep.points import Point, Sweep, words
from testbed.topology import MethodSpec, Topology

SINGLE = "single"


@dataclass(frozen=True)
class Cell:
    """A method in a block."""

    key: str
    spec: MethodSpec


@dataclass(frozen=True)
class Block:
    """cells: in the order in which they run. wanted: keys of those whose result is missing; the others (single, to
    which they are compared) run along."""

    point: Point
    repetition: int
    cells: tuple[Cell, ...]
    wanted: frozenset[str]

    @property
    def topology(self) -> Topology:
        """What `testbed run` is given."""
        whole = self.point.topology
        return replace(whole, run=replace(whole.run, methods=tuple(cell.spec for cell in self.cells)))

    @property
    def name(self) -> str:
        """Name of its folder: for people where it is, and a hash of what is wanted of it."""
        values = "-".join(str(value) for value in self.point.chosen.values())
        readable = re.sub(r"[^A-Za-z0-9.=]+", "_", values)[:60].strip("_.")
        mark = hashlib.sha256(" ".join(sorted(self.wanted)).encode()).hexdigest()[:8]
        return "-".join(filter(None, [f"r{self.repetition}", readable, mark]))

    @property
    def title(self) -> str:
        """ "tokens 64, rate 10 Mbit/s, repetition 1"."""
        return f"{words(self.point.chosen)}, repetition {self.repetition}"

    def row(self, cell: Cell) -> dict[str, Any]:
        """What cells.jsonl says of one of its cells before anything is known of the result."""
        spec, run = cell.spec, self.point.topology.run
        point: Mapping[str, Any] = dict(self.point.chosen)
        facts = {"key": cell.key, "block": self.name, "label": spec.label, "method": spec.method}
        return {
            **facts, "options": dict(spec.options), "point": point, "repetition": self.repetition, "seed": run.seed
        }  # fmt: skip


def ordered(sweep: Sweep, code: str) -> list[Block]:
    """All blocks of a sweep: every point once in random order, then every point again, as often as repetitions."""
    digests = list(zip(keys.digests(point.topology for point in sweep.points), sweep.points, strict=True))
    found = []
    for repetition in range(1, sweep.repetitions + 1):
        turn = f"{sweep.seed} {repetition}"
        for digest, point in sorted(digests, key=lambda one: _chance(turn, one[0])):
            specs = sorted(point.topology.run.methods, key=lambda spec: _chance(turn, digest, spec.label))
            cells = tuple(Cell(keys.cell(digest, spec, repetition, code), spec) for spec in specs)
            found.append(Block(point, repetition, cells, frozenset(cell.key for cell in cells)))
    return found


def missing(block: Block, done: Collection[str]) -> Block | None:
    """What of a block is still to be run: cells whose keys are not `done`, and single beside them; None if none is."""
    wanted = block.wanted - set(done)
    cells = tuple(cell for cell in block.cells if cell.key in wanted or cell.spec.method == SINGLE)
    return replace(block, cells=cells, wanted=frozenset(wanted)) if wanted else None


def _chance(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
