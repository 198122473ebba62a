"""A sweep file -> its points, each a sound topology of its own; all that is wrong with any of them is told at once.

sweep:
  repetitions: 3            # each point so often, every time in a fresh network
  seed: 0                   # of the order of blocks, and of methods in a block
  except:                   # what is left out: all that has these values; axes by name or by the end of it
    - {tokens: 4096, method: tensor}
    - {topology: mesh, hosts: [6, 8]}
  unfit: leave_out          # points that this machine cannot carry; default refuse
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model

from testbed import check, schema, yamlfile
from testbed.door import Door, enter, unknown
from testbed.sweep import grid, keys
from testbed.sweep.grid import METHODS, Variant
from testbed.topology import MethodSpec, Topology, TopologyError
from testbed.wiring import nearest
from testbed.yamlfile import Document, Place

Unfit = Literal["refuse", "leave_out"]
METHOD = "method"
_EXCEPT: Place = ("sweep", "except")
_FIELDS: dict[str, Any] = {
    "repetitions": (int, Field(default=1, ge=1, le=1000, description="how often each point, e.g. 3")),
    "seed": (int, Field(default=0, ge=0, lt=2**63)),
    "unfit": (Unfit, Field(default="refuse")),
    "except": (list[Any], Field(default_factory=list, description="e.g. [{tokens: 4096, method: tensor}]")),
}
SweepDoor = create_model("SweepDoor", __base__=Door, **_FIELDS)  # `except` cannot be written as a class attribute


@dataclass(frozen=True)
class Point:
    """One combination of values: a network and the methods to run on it. chosen: axis -> value, as shown."""

    topology: Topology
    chosen: Mapping[str, Any]

    @property
    def words(self) -> str:
        """ "tokens 64, topology.star.link.rate 10 Mbit/s"."""
        return words(self.chosen)


@dataclass(frozen=True)
class Sweep:
    """path: of the file; text: what stood in it; left_out: what each `except` leaves out, a line each.

    unfit: points that a machine cannot carry make it "refuse" the sweep, or it will "leave_out" them.
    """

    path: Path
    text: str
    name: str
    points: tuple[Point, ...]
    repetitions: int = 1
    seed: int = 0
    left_out: tuple[str, ...] = ()
    unfit: Unfit = "refuse"


def words(chosen: Mapping[str, Any]) -> str:
    """The values of a point for people; axes by as much of their names as tells them apart."""
    return ", ".join(f"{name} {chosen[axis]}" for axis, name in short_names(list(chosen)).items()) or "the one point"


def short_names(axes: Sequence[str]) -> dict[str, str]:
    """The shortest end of each name that no other has: {"run.tokens": "tokens"}."""
    found = {}
    for axis in axes:
        ends = _ends(axis)
        found[axis] = next((end for end in ends if sum(end in _ends(other) for other in axes) == 1), axis)
    return found


def _ends(axis: str) -> list[str]:
    """ "a.b.c" -> ["c", "b.c", "a.b.c"]."""
    parts = axis.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def read(path: Path) -> Sweep:
    """The sweep of a file. Raises TopologyError with all problems of all its points."""
    document = yamlfile.read(path)
    text = path.read_text(encoding="utf-8")
    if isinstance(document.value.get("name"), list):
        document.problem(("name",), "give one: it is the name of the sweep", document.value["name"])
    section = document.value.get(grid.SECTION)
    door = enter(SweepDoor, section, (grid.SECTION,), document)
    variants = grid.expand(document)
    if door is None or document.found:
        raise TopologyError(document.problems)
    said = door.model_dump()
    exceptions = _exceptions(document, said["except"], variants)
    kept = [one for one in (_without(variant, exceptions) for variant in variants) if one is not None]
    _say_idle(document, exceptions, bool(kept))
    points = _sound(document, kept)
    left_out = tuple(exception.line for exception in exceptions)
    name, own = points[0].topology.name, {key: said[key] for key in ("repetitions", "seed", "unfit")}
    return Sweep(path, text, name, tuple(points), left_out=left_out, **own)


# What is left out


@dataclass
class _Exception:
    """values: axis -> the shown values meant; methods: names or labels, none: all. hits: cells left out by it."""

    index: int
    values: dict[str, list[Any]]
    methods: list[Any] = field(default_factory=list)
    hits: int = 0

    @property
    def line(self) -> str:
        """What it leaves out, for people."""
        parts = [f"{axis} {' or '.join(map(str, values))}" for axis, values in self.values.items()]
        parts += [f"method {' or '.join(map(str, self.methods))}"] if self.methods else []
        return f"left out, {self.hits} of each repetition: {', '.join(parts)}"

    def meets(self, variant: Variant, label: tuple[str, str]) -> bool:
        """label: name and label of one of the variant's methods."""
        at_point = all(
            axis in variant.chosen and variant.chosen[axis] in values for axis, values in self.values.items()
        )
        return at_point and (not self.methods or any(name in self.methods for name in label))


def _exceptions(document: Document, entries: Sequence[Any], variants: Sequence[Variant]) -> list[_Exception]:
    """`sweep.except`, checked against the axes and methods that there are; what is wrong is noted."""
    known = dict[str, list[Any]]()
    labels = list[str]()
    for variant in variants:
        for axis, value in variant.chosen.items():
            known.setdefault(axis, [])
            known[axis] += [] if value in known[axis] else [value]
        labels += [name for item in _method_items(variant) for name in _labels(item) if name not in labels]
    found = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not entry:
            document.problem((*_EXCEPT, index), "give a mapping of axes to values, e.g. {tokens: 4096}", entry)
            continue
        made = _Exception(index, {})
        for key, value in entry.items():
            _read_exception(document, made, key, value if isinstance(value, list) else [value], known, labels)
        found.append(made)
    return found


def _read_exception(
    document: Document, made: _Exception, key: str, values: list[Any], known: Mapping[str, list[Any]], labels: list[str]
) -> None:
    place: Place = (*_EXCEPT, made.index, key)
    if key == METHOD:
        allowed: list[Any] = labels
        made.methods = values
    else:
        axes = [axis for axis in known if key in _ends(axis)]
        if len(axes) != 1:
            text = f"could be {' or '.join(axes)}" if axes else unknown(key, [METHOD, *known])
            document.problem(place, text)
            return
        allowed = known[axes[0]]
        made.values[axes[0]] = values
    for value in values:
        if value not in allowed:
            hint = nearest(str(value), map(str, allowed))
            document.problem(place, f"no point has it; {hint}there are: {', '.join(map(str, allowed))}", value)


def _without(variant: Variant, exceptions: Sequence[_Exception]) -> Variant | None:
    """The variant with the methods that are left in; None if none is."""
    items = _method_items(variant)
    if not isinstance(variant.value.get("run"), dict) or not exceptions:
        return variant
    kept = []
    for index, item in enumerate(items):
        hit = [one for one in exceptions if one.meets(variant, _labels(item))]
        for one in hit:
            one.hits += 1
        kept += [] if hit else [index]
    if len(kept) == len(items):
        return variant
    run = {**variant.value["run"], "methods": [items[index] for index in kept]}
    places = {(*METHODS, old): (*METHODS, new) for new, old in enumerate(kept)}
    lines = {place: line for place, line in variant.lines.items() if place[:2] != METHODS}
    moved = {places[p[:3]] + p[3:]: line for p, line in variant.lines.items() if p[:3] in places}
    return Variant({**variant.value, "run": run}, {**lines, **moved}, variant.chosen) if kept else None


def _method_items(variant: Variant) -> list[Any]:
    run = variant.value.get("run")
    items = run.get("methods", ["single"]) if isinstance(run, dict) else []
    return items if isinstance(items, list) else []


def _labels(item: Any) -> tuple[str, str]:
    """Name and label of a method as it is written; what is no method has none that anybody could mean."""
    name, options = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
    if not isinstance(name, str) or not isinstance(options, dict):
        return "", ""
    return name, MethodSpec(name, options).label


def _say_idle(document: Document, exceptions: Sequence[_Exception], some: bool) -> None:
    for one in exceptions:
        if not one.hits and not document.wrong(*_EXCEPT, one.index):
            document.problem((*_EXCEPT, one.index), "leaves nothing out: no point has all of these values")
    if not some:
        document.problem(_EXCEPT, "leaves out everything")


# What is wrong


def _sound(document: Document, variants: Sequence[Variant]) -> list[Point]:
    """A topology for each variant. Raises TopologyError with the problems of all of them, each line once."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    points: list[Point] = []
    for variant in variants:
        lines = {**document.lines, **variant.lines}
        own = Document(document.name, variant.value, lines, traces=document.traces)
        topology = _topology(own)
        for problem in own.found:
            found.setdefault(problem, []).append(variant.chosen)
        if topology is not None:
            points.append(Point(topology, variant.chosen))
    _refuse_twins(document, points)
    problems = [(line, text + _where(at, len(variants))) for (line, text), at in found.items()]
    if problems or document.found:
        raise TopologyError([text for _, text in sorted([*problems, *document.found], key=lambda one: one[0])])
    return points


def _topology(document: Document) -> Topology | None:
    """The topology of one point, or None and what is wrong noted: in the file, with this model."""
    draft = check.examined(schema.interpret(document))
    if draft.topology is None or document.found:
        return None
    return draft.topology


def _where(points: Sequence[Mapping[str, Any]], total: int) -> str:
    """At which points, if not at all of them."""
    if len(points) == total:
        return ""
    return f" (at {words(points[0])}{f', and {len(points) - 1} more points' if len(points) > 1 else ''})"


def _refuse_twins(document: Document, points: Sequence[Point]) -> None:
    """Two ways to write one value would be one cell that is measured twice."""
    seen: dict[str, Point] = {}
    for point, digest in zip(points, keys.digests(point.topology for point in points), strict=True):
        twin = seen.setdefault(digest, point)
        if twin is not point:
            document.problem((), f"the point {point.words} is the same as {twin.words}: give each once")
            return
