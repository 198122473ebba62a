"""Networks by name: `topology: {star: {hosts: 8, link: {rate: 10 Mbit/s}}}` in place of hosts, switches and links.

A generator writes the sections that a person would have written; they then go through the same doors, and what is wrong
with them is reported at the place in the file that they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from testbed.door import Door, enter, unknown
from testbed.sections import HostDoor, LinkDoor
from testbed.topology import MOST_HOSTS
from testbed.units import parse_rate
from testbed.yamlfile import Document, Place

Raw = dict[str, Any]


def _rate(value: Any) -> Any:
    parse_rate(value)
    return value


RawRate = Annotated[Any, AfterValidator(_rate)]
SECTIONS = ("hosts", "switches", "links")
MOST_IN_MESH = 64  # 2016 cables


class StarDoor(Door):
    """topology.star, and the names that need no more: how many hosts, what each link and each host is like."""

    hosts: int = Field(ge=1, le=MOST_HOSTS, description="how many, e.g. 4")
    link: Raw | None = None
    host: Raw | None = None


class MeshDoor(StarDoor):
    """topology.mesh: a cable for every pair soon is more than anybody has."""

    hosts: int = Field(ge=1, le=MOST_IN_MESH, description="how many, e.g. 4; more are joined by switches")


class RingDoor(StarDoor):
    """topology.ring: with two hosts its two links would join the same pair."""

    hosts: int = Field(ge=3, le=MOST_HOSTS, description="how many, e.g. 4")


class SitesDoor(StarDoor):
    """topology.sites. trunk: the link between the two; what `link` says is not of it."""

    hosts: int = Field(ge=2, le=MOST_HOSTS, description="how many at both sites together, e.g. 4")
    trunk: Raw = Field(description="the link between the sites, e.g. {rate: 1 Mbit/s, delay: 20 ms}")


class SharedDoor(StarDoor):
    """topology.shared. rate: of the medium, common to all."""

    rate: RawRate = Field(description='of the medium, e.g. "20 Mbit/s"')


class HomeDoor(StarDoor):
    """topology.home. up, down: rates from a home to the switch and back."""

    up: RawRate = Field(description='rate from a home, e.g. "2 Mbit/s"')
    down: RawRate = Field(description='rate to a home, e.g. "20 Mbit/s"')


@dataclass
class Sections:
    """What a generator writes. sources: where in its own mapping a place comes from, if not from `link` or `host`."""

    hosts: Raw
    switches: Any = None
    links: list[Raw] = field(default_factory=list)
    sources: dict[Place, Place] = field(default_factory=dict)


def _hosts(door: StarDoor) -> Raw:
    return {f"h{number}": door.host for number in range(1, door.hosts + 1)}


def _join(a: str, b: str, link: Raw | None) -> Raw:
    return {**(link or {}), "between": f"{a} - {b}"}


def star(door: StarDoor) -> Sections:
    """Every host at one switch."""
    hosts = _hosts(door)
    return Sections(hosts, {"s1": None}, [_join(host, "s1", door.link) for host in hosts])


def mesh(door: StarDoor) -> Sections:
    """A cable for every pair of hosts."""
    hosts = _hosts(door)
    return Sections(hosts, None, [_join(a, b, door.link) for a, b in combinations(hosts, 2)])


def line(door: StarDoor) -> Sections:
    """A cable from each host to the next."""
    hosts = list(_hosts(door))
    return Sections(_hosts(door), None, [_join(a, b, door.link) for a, b in pairwise(hosts)])


def ring(door: StarDoor) -> Sections:
    """A line whose ends are joined."""
    sections = line(door)
    hosts = list(sections.hosts)
    sections.links.append(_join(hosts[-1], hosts[0], door.link))
    return sections


def sites(door: SitesDoor) -> Sections:
    """Two switches: the first half of the hosts at s1, the rest at s2, a trunk between them."""
    hosts = _hosts(door)
    first = (door.hosts + 1) // 2
    links = [_join(host, "s1" if index < first else "s2", door.link) for index, host in enumerate(hosts)]
    trunk: dict[Place, Place] = {("links", len(links)): ("trunk",)}
    return Sections(hosts, {"s1": None, "s2": None}, [*links, _join("s1", "s2", door.trunk)], trunk)


def shared(door: SharedDoor) -> Sections:
    """Every host on one medium, one frame at a time."""
    sections = star(door)
    sections.switches = {"s1": {"type": "shared", "rate": door.rate}}
    sections.sources["switches", "s1"] = ()
    return sections


def home(door: HomeDoor) -> Sections:
    """A star whose links are slower one way than the other."""
    sections = star(door)
    for index, link in enumerate(sections.links):
        for direction, rate in (("up", door.up), ("down", door.down)):
            lane = link.get(direction)
            link[direction] = {**(lane if isinstance(lane, dict) else {}), "rate": rate}
            sections.sources["links", index, direction, "rate"] = (direction,)
    return sections


GENERATORS: dict[str, tuple[type[StarDoor], Callable[[Any], Sections]]] = {
    "star": (StarDoor, star),
    "mesh": (MeshDoor, mesh),
    "ring": (RingDoor, ring),
    "line": (StarDoor, line),
    "sites": (SitesDoor, sites),
    "shared": (SharedDoor, shared),
    "home": (HomeDoor, home),
}


def expand(document: Document) -> bool:
    """Write out `topology:` as hosts, switches and links in `document`. False: not there, or wrong, which is noted."""
    if "topology" not in document.value:
        return False
    said = [section for section in SECTIONS if section in document.value]
    for section in said:
        document.problem((section,), "leave it out: topology gives hosts, switches and links; or leave that out")
    entry = document.value["topology"]
    if not isinstance(entry, dict) or len(entry) != 1:
        names = ", ".join(GENERATORS)
        document.problem(
            ("topology",), f"give one name with what it needs, e.g. {{star: {{hosts: 4}}}}: {names}", entry
        )
        return False
    name, options = next(iter(entry.items()))
    if name not in GENERATORS:
        document.problem(("topology", name), unknown(name, list(GENERATORS)))
        return False
    kind, generator = GENERATORS[name]
    door = enter(kind, options, ("topology", name), document)
    if isinstance(options, dict):
        _check_parts(document, name, kind, options)
    if door is None or said:
        return False
    _write(document, ("topology", name), generator(door))
    return True


def _check_parts(document: Document, name: str, kind: type[StarDoor], options: Raw) -> None:
    """Before a link is written out as many: `between` in it, say, would get lost on the way."""
    place: Place = ("topology", name)
    parts: dict[str, type[Door]] = {"host": HostDoor, "link": LinkDoor, "trunk": LinkDoor}
    for key, part in parts.items():
        if key in kind.model_fields and isinstance(options.get(key), dict):
            enter(part, options[key], (*place, key), document)
    for way in ((), ("up",), ("down",)) if kind is HomeDoor else ():
        where: Place = (*place, "link", *way, "rate")
        if document.at(where, None) is not None:
            document.problem(where, "leave it out: up and down beside link are the rates", document.at(where, None))


def _write(document: Document, place: Place, sections: Sections) -> None:
    written: Mapping[str, Any] = {
        "hosts": sections.hosts, "switches": sections.switches or {}, "links": sections.links
    }  # fmt: skip
    document.value = {**document.value, **written}
    for host in sections.hosts:
        document.sources["hosts", host] = (*place, "host")
    for index in range(len(sections.links)):
        document.sources["links", index] = (*place, "link")
        document.sources["links", index, "between"] = place
    for here, there in sections.sources.items():
        document.sources[here] = (*place, *there)
