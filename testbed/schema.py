"""A topology file to frozen types; `testbed/dump.py` is the way back.

Everything that is wrong with a file is found in one pass, each with its line, its key and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.methods import METHODS, load
from testbed import cables, dump, generate, happenings, wiring
from testbed.door import enter, unknown
from testbed.sections import HeadDoor, HostDoor, RunDoor, SwitchDoor
from testbed.sweep import grid
from testbed.topology import MOST_HOSTS, Event, Host, Link, MethodSpec, RunSpec, Switch, Topology, TopologyError
from testbed.tracefiles import MOST_STEPS
from testbed.yamlfile import Document, Place
from testbed.yamlfile import read as read_yaml

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
_SECTIONS = ("hosts", "switches", "topology", "defaults", "links", "events", "run")
_SWEEP = "that makes a sweep, not one run"
_LOCAL = "the local backend has plain processes on loopback; leave this out, or use backend: mininet"


@dataclass(frozen=True)
class Draft:
    """A file with what of it is sound, also when other parts are wrong; links and methods by their place in the list.

    devices: how many hosts, None where that is in doubt. topology: None if anything is wrong.
    """

    document: Document
    devices: int | None
    links: Mapping[int, Link]
    methods: Mapping[int, MethodSpec]
    events: tuple[Event, ...]
    topology: Topology | None


def read(path: Path) -> Topology:
    """The topology of a file. Raises TopologyError with all its problems."""
    found = draft(path)
    if found.topology is None:
        raise TopologyError(found.document.problems)
    return found.topology


def draft(path: Path) -> Draft:
    """What can be understood of a file. Raises TopologyError only if it is no YAML, or a sweep."""
    document = read_yaml(path)
    if "sweep" in document.value:
        document.found.clear()
        document.problem(("sweep",), f"{_SWEEP}: testbed sweep {path}")
        raise TopologyError(document.problems)
    lists = [place for place, _ in grid.lists(document.value)]
    found = interpret(document)
    for place in [place for place in lists if document.wrong(*place) and place not in document.unknown][:1]:
        document.problem(place, f"if these are values to try one after the other, {_SWEEP}: testbed sweep {path}")
    return found


def interpret(document: Document) -> Draft:
    """What can be understood of a file that has been read; short forms in it are written out."""
    # Of a name that is there twice, one may have been meant to be another: what would follow from that is not said.
    named = not any(document.wrong(section) for section in ("hosts", "switches", "topology"))
    countable = not any(document.wrong(section) for section in ("hosts", "topology"))
    whole = not document.wrong("links")
    allowed = [*HeadDoor.model_fields, *_SECTIONS]
    for key in document.value:
        if key not in allowed:
            document.unknown.add((key,))
            document.problem((key,), unknown(key, allowed))
    head = enter(
        HeadDoor, {key: value for key, value in document.value.items() if key in HeadDoor.model_fields}, (), document
    )
    generated = generate.expand(document)
    cables.write_out(document)
    hosts = _hosts(document)
    switches = _switches(document, hosts)
    links = cables.read(document, switches)
    _refuse_long(document, links)
    given = generated or "topology" not in document.value
    if document.value.get("backend") == "local":
        _refuse_network(document, generated)
    elif named and given and not generated:
        _check_wiring(document, hosts, switches, whole)
    names = [host.name for host in hosts] if countable and given else None
    events = happenings.read(document, names, links)
    methods = _methods(document)
    run = _run(document, names, methods)
    topology = None
    if not document.found and head is not None and run is not None:
        topology = Topology(head.name, head.backend, tuple(hosts), tuple(switches), tuple(links.values()), run, events)
    devices = len(hosts) if names and len(hosts) <= MOST_HOSTS else None
    return Draft(document, devices, links, methods, events, topology)


def _mapping(document: Document, *place: str) -> dict[str, Any]:
    """The mapping at a place of the file; nothing there is an empty one, anything else is a problem."""
    value: Any = document.value
    for part in place:
        value = value.get(part) if isinstance(value, dict) else None
    if value is not None and not isinstance(value, dict):
        document.problem(place, "give a mapping {key: value}", value)
    return value if isinstance(value, dict) else {}


def _good_name(document: Document, place: Place, name: str) -> bool:
    good = _NAME.fullmatch(name) is not None
    if not good:
        document.problem(place, f"{name!r} is no name: a letter, then up to 30 letters, digits, _ or -")
    return good


def _defaults(document: Document, key: str) -> dict[str, Any]:
    entries = _mapping(document, "defaults")
    for other in entries:
        if other not in ("link", "host"):
            document.problem(("defaults", other), unknown(other, ["link", "host"]))
    return _mapping(document, "defaults", key)


def _hosts(document: Document) -> list[Host]:
    """Every host that has a name, also those with a wrong value: a link to them is not dangling."""
    entries = _mapping(document, "hosts")
    if not entries and "topology" not in document.value:
        document.problem(("hosts",), "give at least one host, e.g. {h1: {cpu: 0.4}, h2: {cpu: 0.4}}")
    if len(entries) > MOST_HOSTS:
        document.problem(("hosts",), f"{len(entries)} hosts: at most {MOST_HOSTS} can be predicted")
    default = enter(HostDoor, _defaults(document, "host"), ("defaults", "host"), document) or HostDoor()
    found = []
    for name, entry in entries.items():
        _good_name(document, ("hosts", name), name)
        door = enter(HostDoor, entry, ("hosts", name), document) or HostDoor()
        cpu = default.cpu if door.cpu is None else door.cpu
        found.append(Host(name, cpu, default.memory if door.memory is None else door.memory))
    return found


def _switches(document: Document, hosts: list[Host]) -> list[Switch]:
    """`[s1, s2]`, or `{s1: {type: ovs}, air: {type: shared, rate: 20 Mbit/s}}`."""
    entries = document.value.get("switches")
    if entries is not None and not isinstance(entries, (list, dict)):
        document.problem(("switches",), "give a list [s1] or a mapping {s1: {type: bridge}}", entries)
    listed: list[tuple[Place, Any, Any]] = []
    if isinstance(entries, list):
        listed = [(("switches", index), name, None) for index, name in enumerate(entries)]
    elif isinstance(entries, dict):
        listed = [(("switches", name), name, entry) for name, entry in entries.items()]
    names = {host.name for host in hosts}
    found = []
    for place, name, entry in listed:
        if not isinstance(name, str):
            document.problem(place, 'give a name, or switches as a mapping {s1: {type: "ovs"}}', name)
            continue
        door = _switch(document, place, entry)
        if not _good_name(document, place, name):
            continue
        if name in names:
            document.problem(place, f"the name {name} is taken already, names are unique among hosts and switches")
            continue
        names.add(name)
        found.append(Switch(name, door.type, door.rate))
    return found


def _switch(document: Document, place: Place, entry: Any) -> SwitchDoor:
    """A shared medium has a rate, a switch has none; what is wrong counts as a bridge."""
    door = enter(SwitchDoor, entry, place, document)
    if door is not None and door.type == "shared" and door.rate is None:
        document.problem((*place, "rate"), 'is missing: that of the shared medium, e.g. "20 Mbit/s"')
    elif door is not None and door.type != "shared" and door.rate is not None:
        said = document.at((*place, "rate"), None)
        document.problem(
            (*place, "rate"), "only a switch of type: shared has a rate, others have it at each link", said
        )
    return door or SwitchDoor()


def _check_wiring(document: Document, hosts: list[Host], switches: list[Switch], whole: bool) -> None:
    """whole: False when some links could not be read."""
    entries = document.value.get("links")
    entries = entries if isinstance(entries, list) else []
    pairs = {index: cables.ends(entry) for index, entry in enumerate(entries)}
    joined = {document.source(("links", index)): pair for index, pair in pairs.items() if pair is not None}
    found = wiring.problems(
        [host.name for host in hosts],
        [switch.name for switch in switches],
        [(place, *pair) for place, pair in joined.items()],
        whole and len(joined) == len(entries),
        {switch.name for switch in switches if switch.kind == "shared"},
    )
    for place, text in found:
        said = (" - ".join(joined[place]),) if place in joined else ()
        document.problem(place, text, *said)


def _refuse_long(document: Document, links: Mapping[int, Link]) -> None:
    """A run's file has every trace written out: what is accepted can be read again."""
    for index, steps in zip(links, dump.steps_before(list(links.values())), strict=True):
        if steps > MOST_STEPS:
            place = cables.written(document, index, "", "trace") or ("links", index)
            shared = "a trace counts once for each direction of each link, but once if all links are equal"
            document.problem(place, f"with this the traces have {steps} steps, {MOST_STEPS} at most: {shared}")
            return


def _refuse_network(document: Document, generated: bool) -> None:
    """What only an emulated network can do is refused on plain processes, never ignored."""
    for section in ("topology",) if generated else ("switches", "topology", "links"):
        if document.value.get(section):
            document.problem((section,), _LOCAL)
    for kind in ("link", "host"):
        if _defaults(document, kind):
            document.problem(("defaults", kind), _LOCAL)
    for name, entry in {} if generated else _mapping(document, "hosts").items():
        for key in entry if isinstance(entry, dict) else ():
            if key in HostDoor.model_fields and entry[key] is not None:
                document.problem(("hosts", name, key), _LOCAL, entry[key])


def _run(document: Document, names: list[str] | None, methods: Mapping[int, MethodSpec]) -> RunSpec | None:
    """names: of the hosts, None where they are in doubt."""
    if "run" not in document.value:
        document.problem(("run",), "is missing, e.g. {model: vit-base, tokens: 196, methods: [single, sequence]}")
        return None
    entry = document.value["run"]
    door = enter(RunDoor, entry, ("run",), document)
    source = document.at(("run", "source"), None)
    if isinstance(source, str) and names is not None and source not in names:
        document.problem(
            ("run", "source"), f"is no host; {wiring.nearest(source, names)}hosts: {', '.join(names)}", source
        )
    if door is None or not names:
        return None
    return RunSpec(
        source=door.source or names[0],
        model=door.model,
        weights=door.weights,
        seed=door.seed,
        tokens=door.tokens,
        inputs=door.inputs,
        methods=tuple(methods.values()),
        repeats=door.repeats,
        budget_s=door.budget,
        compute=door.compute,
        input_at=door.input_at,
        generate=door.generation,
    )


def _methods(document: Document) -> dict[int, MethodSpec]:
    """`single`, or `{block: {joins: 1}}`: a name of `METHODS` and options that its class accepts."""
    items = document.at(("run", "methods"), ["single"])
    found: dict[int, MethodSpec] = {}
    seen: list[tuple[str, Any]] = []
    if not isinstance(items, list):  # RunDoor says so
        return {}
    for index, item in enumerate(items):
        place: Place = ("run", "methods", index)
        name, options = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, None)
        if not isinstance(name, str) or not isinstance(options, (dict, type(None))):
            document.problem(place, "give a name, or one name with its options, e.g. {block: {joins: 1}}", item)
            continue
        if name not in METHODS:
            hint = wiring.nearest(name, METHODS)
            document.problem(place, f"unknown method; {hint}allowed: {', '.join(METHODS)}", name)
            continue
        made = _options(document, place if options is None else (*place, name), name, options or {})
        if made is None:
            continue
        if (name, made) in seen:
            document.problem(place, f"is the same as methods[{seen.index((name, made))}], give each method once", item)
        seen.append((name, made))
        found[index] = MethodSpec(name, options or {})
    return found


def _options(document: Document, place: Place, name: str, options: dict[str, Any]) -> Any:
    """The method's own options object, or None and the problem noted."""
    allowed = list(getattr(load(name).Options, "__dataclass_fields__", {}))
    strange = [key for key in options if key not in allowed]
    for key in strange:
        if allowed:
            document.problem((*place, key), unknown(key, allowed))
        else:
            document.problem((*place, key), f"unknown key, {name} has no options")
    if strange:
        return None
    try:
        return load(name).Options(**options)
    except (TypeError, ValueError) as error:
        document.problem(place, str(error), options)
        return None
