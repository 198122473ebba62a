"""The links of a file, in any of the ways to write them, to frozen types: what one says of a direction goes before what
it says of both, and that before the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from testbed.door import enter
from testbed.envelope import Unfit
from testbed.sections import MAX_QUEUE_BYTES, MIN_QUEUE_BYTES, QUEUE_ALLOWED, CableDoor, LaneDoor, LinkDoor, pair
from testbed.topology import Lane, Link, Loss, Step, Switch, default_queue_bytes
from testbed.units import Waiting, show_duration, show_rate
from testbed.yamlfile import Document, Place

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
_MISSING = 'is missing: give it here or in defaults.link, e.g. "10 Mbit/s"'
_AT_MEDIUM = "leave it out: the rate is that of the shared medium"
_MISSING_AT_START = "is missing: give it here, in defaults.link, or in the trace at 0 s"


def write_out(document: Document) -> None:
    """Turn the short forms of `links` into a list of mappings with `between`; `document` knows where each was."""
    entries = document.value.get("links")
    if isinstance(entries, dict):
        items = [_named(document, ("links", index), *entry) for index, entry in enumerate(entries.items())]
    elif isinstance(entries, list):
        items = [_item(document, ("links", index), item) for index, item in enumerate(entries)]
    else:
        if entries is not None:
            example = "[h1 - s1, {between: h2 - s1, rate: 5 Mbit/s}]"
            document.problem(("links",), f"give a list, e.g. {example}, or a mapping {{h1 - s1: {{...}}}}", entries)
        return
    document.value = {**document.value, "links": items}


def _item(document: Document, place: Place, item: Any) -> Any:
    if isinstance(item, str):
        return {"between": item}
    if isinstance(item, dict) and len(item) == 1:
        ((key, value),) = item.items()
        if key not in CableDoor.model_fields and (" - " in key or isinstance(value, dict)):
            return _named(document, place, key, value, (*place, key))
    return item


def _named(document: Document, place: Place, key: str, value: Any, source: Place | None = None) -> dict[str, Any]:
    """`h1 - s1: {...}` as a mapping with `between`."""
    document.sources[place] = document.sources[(*place, "between")] = source or ("links", key)
    if not isinstance(value, dict | None):
        document.problem(place, "give a mapping of quantities, e.g. {rate: 10 Mbit/s}", value)
        return {"between": key}
    if value and "between" in value:
        document.problem(place, "leave out between, the key names the two nodes", value)
    return {**(value or {}), "between": key}


def ends(entry: Any) -> tuple[str, str] | None:
    """The two names of a link as it is written, None if they are not two."""
    try:
        return pair(entry["between"])
    except (TypeError, KeyError, AttributeError, ValueError):
        return None


def written(document: Document, index: int, direction: str, key: str) -> Place | None:
    """Where the file gives `key` for link number `index`: for the direction, for both, or in defaults.link; or None.

    direction: "up", "down", or "" for what is so in both. `Document.problem` and `Document.at` take such a place.
    """
    homes: tuple[Place, Place] = (("links", index), ("defaults", "link"))
    inside = [(direction, key), (key,)] if direction else [(key,), *((way, key) for way in DIRECTIONS)]
    places = [(*home, *way) for home in homes for way in inside]
    return next((place for place in places if document.at(place, None) is not None), None)


def place(document: Document, unfit: Unfit) -> Place:
    """Where the file says what cannot be done: at the link, in the defaults, or where the network is made by name."""
    if isinstance(unfit.where, int):
        found = written(document, unfit.where, unfit.direction, unfit.key)
        return found or ("links", unfit.where, *filter(None, (unfit.direction, unfit.key)))
    if unfit.where:
        return ("switches", unfit.where, unfit.key)
    section, _, index = unfit.key.removesuffix("]").partition("[")
    if section == "links" and "topology" in document.value:
        return ("topology",)
    return (section, int(index)) if index else (section,)


@dataclass(frozen=True)
class _Way:
    """One direction of one link on its way from the file to a Lane."""

    document: Document
    index: int
    direction: Direction
    values: Mapping[str, Any]

    def refuse(self, key: str, text: str, other: str | None = None) -> None:
        """Note a problem where the link gives `key` or `other`; if it gives neither, where the defaults give `key`."""
        places = [written(self.document, self.index, self.direction, name) for name in (key, other) if name]
        own = any(place is not None and place[0] == "links" for place in places)
        place = places[0]
        if place is None or (own and place[0] != "links"):
            place = ("links", self.index, key)
        self.document.problem(place, text)


def read(document: Document, switches: Sequence[Switch]) -> dict[int, Link]:
    """The links whose quantities are right, whatever they join, by their place in the list."""
    default = enter(LinkDoor, document.at(("defaults", "link"), None), ("defaults", "link"), document)
    entries = document.value.get("links")
    media = {switch.name: switch.rate_bit_s for switch in switches if switch.kind == "shared"}
    wanted = document.value.get("backend") != "local"  # else they are refused, and what they lack need not be said
    entries = entries if isinstance(entries, list) else []
    if wanted and entries and all(set(ends(entry) or ()) & set(media) for entry in entries):
        _refuse_default_rate(document)
    found = {}
    for index, entry in enumerate(entries):
        place: Place = ("links", index)
        door, joined = _enter(document, place, entry), ends(entry) or ()
        doubtful = any(document.wrong("switches", end) for end in joined)
        if doubtful or not wanted:
            continue
        if any(end in media for end in joined):
            _check_at_medium(document, index, [known for known in (default, door) if known is not None])
        else:
            _check_rate(document, index)
        if door is None or default is None or document.unsound(*place) or document.unsound("defaults", "link"):
            continue
        link = _link(document, index, (default, door), media)
        if link is not None:
            found[index] = link
    return found


def _enter(document: Document, place: Place, entry: Any) -> LinkDoor | None:
    """The quantities of one link. Where the two names stand is `between` only if it is written so."""
    if (*place, "between") not in document.sources:
        return enter(CableDoor, entry, place, document)
    try:
        pair(entry["between"])
    except ValueError as error:
        document.problem((*place, "between"), str(error), entry["between"])
    return enter(LinkDoor, {key: value for key, value in entry.items() if key != "between"}, place, document)


def _refuse_default_rate(document: Document) -> None:
    """Where every link is at a shared medium, the default holds for none of them."""
    for way in ((), *((direction,) for direction in DIRECTIONS)):
        place: Place = ("defaults", "link", *way, "rate")
        value = document.at(place, None)
        if value is not None:
            document.problem(place, "leave it out: every link is at a shared medium, whose rate is its own", value)


def _check_at_medium(document: Document, index: int, doors: Sequence[LinkDoor]) -> None:
    """A link to a shared medium has no rate of its own and no trace that has one."""
    for direction in DIRECTIONS:
        place = written(document, index, direction, "rate")
        if place is not None and place[0] == "links":
            document.problem(place, _AT_MEDIUM, document.at(place, None))
        trace = _values(doors, direction).get("trace")
        if trace is not None and any(step.rate_bit_s is not None for step in trace.steps):
            way = _Way(document, index, direction, {})
            way.refuse("trace", "leave rates out of it: the rate is that of the shared medium")


def _check_rate(document: Document, index: int) -> None:
    """A link has a rate, or a trace that has one."""
    if not isinstance(document.at(("links", index), None), dict):
        return
    places = {direction: written(document, index, direction, "rate") for direction in DIRECTIONS}
    bare = [way for way in DIRECTIONS if places[way] is None and written(document, index, way, "trace") is None]
    for direction in bare:
        inside = () if len(bare) == 2 else (direction,)
        document.problem(("links", index, *inside, "rate"), _MISSING)


def _values(doors: Sequence[LinkDoor], direction: Direction) -> dict[str, Any]:
    """What they say of a direction, the last one first; of both, what is said of the direction."""
    values: dict[str, Any] = {}
    for door in doors:
        values |= door.values()
        lane: LaneDoor | None = getattr(door, direction)
        values |= lane.values() if lane else {}
    return values


def _link(
    document: Document, index: int, doors: tuple[LinkDoor, LinkDoor], media: Mapping[str, float | None]
) -> Link | None:
    a, b = pair(document.at(("links", index, "between"), ""))
    ways: tuple[tuple[Direction, str, str], ...] = (("up", a, b), ("down", b, a))
    lanes = []
    for direction, sender, receiver in ways:
        way = _Way(document, index, direction, _values(doors, direction))
        if sender in media or receiver in media:
            lanes.append(_lane_at_medium(way, media.get(receiver, math.inf)))
        else:
            lanes.append(_lane(way))
    up, down = lanes
    return None if up is None or down is None else Link(a, b, up, down)


def _lane_at_medium(way: _Way, rate_bit_s: float | None) -> Lane | None:
    """rate_bit_s: of the medium, infinite out of it; None where that is wrong, which is noted already."""
    values = {**way.values, "rate": rate_bit_s}
    if rate_bit_s == math.inf:
        place = written(way.document, way.index, way.direction, "queue")
        if place is not None and place[-2] == way.direction:
            way.refuse("queue", "leave it out: nothing waits on the way out of a shared medium")
            return None
        values.pop("queue", None)
    return None if rate_bit_s is None else _lane(replace(way, values=values))


def _lane(way: _Way) -> Lane | None:
    """The lane that the values make, or None and what does not fit together noted."""
    values = way.values
    trace = values.get("trace")
    steps: tuple[Step, ...] = trace.steps if trace else ()
    rate_bit_s = values.get("rate", steps[0].rate_bit_s if steps and steps[0].at_s == 0 else None)
    if rate_bit_s is None:
        way.refuse("rate", _MISSING_AT_START)
        return None
    delay_s, jitter_s = values.get("delay", 0.0), values.get("jitter", 0.0)
    if jitter_s > delay_s:
        way.refuse("jitter", "must not exceed the delay, no packet arrives before it was sent", "delay")
        return None
    for step in steps:
        why = unfit(step, jitter_s)
        if why is not None:
            way.refuse("trace", f"at {show_duration(step.at_s)} {why}")
            return None
    states = [
        (rate_bit_s, delay_s),
        *((step.rate_bit_s or rate_bit_s, delay_s if step.delay_s is None else step.delay_s) for step in steps),
    ]
    queue_bytes = _queue_bytes(way, values.get("queue"), rate_bit_s, states)
    if queue_bytes is None:
        return None
    return Lane(
        rate_bit_s, delay_s, jitter_s, values.get("reorder", False), values.get("loss", Loss()), queue_bytes, trace
    )


def unfit(step: Step, jitter_s: float) -> str | None:
    """Why a lane with this jitter cannot take the values of `step`, or None."""
    if step.delay_s is not None and step.delay_s < jitter_s:
        return f"the delay is {show_duration(step.delay_s)}, less than the jitter of {show_duration(jitter_s)}"
    return None


def _queue_bytes(
    way: _Way, queue: int | Waiting | None, rate_bit_s: float, states: Iterable[tuple[float, float]]
) -> int | None:
    """Bytes of the queue; if the file has none the largest default of the lane's states, each bit/s and seconds."""
    if queue is None:
        return min(MAX_QUEUE_BYTES, max(default_queue_bytes(*state) for state in states))
    if isinstance(queue, int):
        return queue
    exact = rate_bit_s * queue.seconds / 8
    if MIN_QUEUE_BYTES <= exact <= MAX_QUEUE_BYTES:
        return round(exact)
    meant = f"{show_duration(queue.seconds)} at {show_rate(rate_bit_s)} are {exact:.4g} bytes"
    way.refuse("queue", f"{meant}; {QUEUE_ALLOWED}", "rate")
    return None
