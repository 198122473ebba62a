"""A file with lists in place of values -> one plain file per combination. Pure; what the values mean is not looked at.

Every list where one value is expected is an axis, named by its place: `run.tokens`, `topology.star.link.rate`. An axis
inside a value of another (`topology: [{star: {hosts: [2, 4]}}, {mesh: {hosts: 3}}]`) is one only where that is chosen.
A list of options under `run.methods` makes several methods of one point, not several points.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from testbed.yamlfile import Document, Place, dotted

MOST_POINTS = 10_000
SECTION = "sweep"
METHODS: Place = ("run", "methods")
# Lists by nature, and what their items are; a list of anything else (of such lists, say) is an axis here, too.
NATURAL: dict[Place, type | tuple[type, ...]] = {("switches",): str, ("links",): (str, dict), ("events",): (str, dict)}
ALWAYS_LISTS = ("steps",)  # of a trace
Lines = Mapping[Place, int]


@dataclass(frozen=True)
class Variant:
    """One combination. value: what a file without lists would say; lines: of places that stand elsewhere in the file
    than in `value`; chosen: axis -> its value here, short enough to be shown."""

    value: Any
    lines: Lines
    chosen: Mapping[str, Any]


def lists(value: Any, place: Place = (), source: Place | None = None) -> Iterator[tuple[Place, list[Any]]]:
    """Every list that stands for several points or methods, also those inside another, by its place in the file."""
    source = place if source is None else source
    if _is_axis(place, value):
        yield source, value
        for index, item in enumerate(value):
            yield from lists(item, place, (*source, index))
    elif place[:2] == METHODS and len(place) == 5 and isinstance(value, list):
        yield source, value
    elif isinstance(value, (dict, list)):
        for key, item in _items(value):
            yield from lists(item, (*place, key), (*source, key))


def expand(document: Document) -> list[Variant]:
    """Every combination, in the order of the file, the last axis fastest.

    What is wrong with a list itself is noted in `document`; then, and if there are too many, there are none.
    """
    given = {key: value for key, value in document.value.items() if key != SECTION}
    known = len(document.found)
    for place, items in lists(given):
        _check(document, place, items)
    count = _count(given, ())
    if count > MOST_POINTS:
        document.problem((), f"the lists make {count} points, {MOST_POINTS} at most")
    return [] if len(document.found) > known else _expand(given, (), (), document.lines)


def _is_axis(place: Place, value: Any) -> bool:
    if not isinstance(value, list) or not place or isinstance(place[-1], int) or place[:2] == METHODS:
        return False
    if place in NATURAL:
        return bool(value) and not any(isinstance(item, NATURAL[place]) for item in value)
    return place[-1] not in ALWAYS_LISTS and place[0] != SECTION


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    yield from value.items() if isinstance(value, dict) else enumerate(value)


def _expand(value: Any, place: Place, source: Place, lines: Lines) -> list[Variant]:
    """The variants of what stands at `source` in the file and at `place` in each of them."""
    here = {} if place == source or source not in lines else {place: lines[source]}
    if _is_axis(place, value):
        return [
            Variant(one.value, {**here, **one.lines}, {dotted(place): _shown(item, value), **one.chosen})
            for index, item in enumerate(value)
            for one in _expand(item, place, (*source, index), lines)
        ]
    if place == METHODS and isinstance(value, list):
        return [_methods(value, source, lines)]
    if not isinstance(value, (dict, list)) or (place == source and not _varied(value, place)):
        return [Variant(value, here, {})]
    keys = [key for key, _ in _items(value)]
    found = []
    for parts in product(*(_expand(item, (*place, key), (*source, key), lines) for key, item in _items(value))):
        values = [part.value for part in parts]
        whole = dict(zip(keys, values, strict=True)) if isinstance(value, dict) else values
        found.append(Variant(whole, _merged([here, *(p.lines for p in parts)]), _merged([p.chosen for p in parts])))
    return found


def _varied(value: Any, place: Place) -> bool:
    """Whether there is anything to expand at or below a place: a long trace is not walked through for every point."""
    if _is_axis(place, value) or place == METHODS:
        return True
    return isinstance(value, (dict, list)) and any(_varied(item, (*place, key)) for key, item in _items(value))


def _methods(items: Sequence[Any], source: Place, lines: Lines) -> Variant:
    """`[single, {astra: {groups: [1, 16]}}]` as three methods."""
    found: list[Any] = []
    moved: dict[Place, int] = {}
    for index, item in enumerate(items):
        origin = (*source, index)
        for made, chosen in _method(item):
            place: Place = (*METHODS, len(found))
            found.append(made)
            moved |= {place + at[len(origin) :]: line for at, line in lines.items() if at[: len(origin)] == origin}
            for inside, number in chosen.items():
                moved[(*place, *inside)] = lines.get((*origin, *inside, number), 1)
    return Variant(found, moved, {})


def _method(item: Any) -> Iterator[tuple[Any, dict[Place, int]]]:
    """The methods that an item stands for, and which value of each listed option it is."""
    if not (isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item.values())), dict)):
        yield item, {}
        return
    ((name, options),) = item.items()
    listed = [key for key, value in options.items() if isinstance(value, list)]
    for numbers in product(*(range(len(options[key])) for key in listed)):
        chosen = {key: options[key][number] for key, number in zip(listed, numbers, strict=True)}
        yield {name: {**options, **chosen}}, {(name, key): n for key, n in zip(listed, numbers, strict=True)}


def _merged(parts: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    whole: dict[Any, Any] = {}
    for part in parts:
        whole |= part
    return whole


def _check(document: Document, place: Place, items: list[Any]) -> None:
    if not items:
        document.problem(place, "give at least one value, or leave it out", items)
    for index, item in enumerate(items):
        if item in items[:index]:
            document.problem((*place, index), "is there twice", item)
        if isinstance(item, list) and place not in NATURAL:
            document.problem((*place, index), "a list in a list: give the values in one", item)


def _count(value: Any, place: Place) -> int:
    """How many variants there are, without making them."""
    if _is_axis(place, value):
        return sum(_count(item, place) for item in value)
    if not isinstance(value, (dict, list)) or place == METHODS:
        return 1
    return math.prod(_count(item, (*place, key)) for key, item in _items(value))


def _shown(item: Any, items: Sequence[Any]) -> Any:
    """A value as it was written; a mapping by the one key that tells it from the others, or whole."""
    if not isinstance(item, (dict, list)):
        return item
    keys = [next(iter(other)) if isinstance(other, dict) and len(other) == 1 else None for other in items]
    if isinstance(item, dict) and None not in keys and len(set(keys)) == len(keys):
        return next(iter(item))
    return json.dumps(item, ensure_ascii=False).replace('"', "")
