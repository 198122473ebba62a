"""Any topology: what is dumped loads again; whatever is wrong with a file is refused in lines that name it."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from testbed import refusals, shape
from testbed.check import makeable
from testbed.hosts import HOSTS, HostError, Network
from testbed.topology import (
    MAX_HOSTS,
    Event,
    Host,
    Lane,
    Link,
    Loss,
    MethodSpec,
    RunSpec,
    Step,
    Switch,
    Topology,
    TopologyError,
    Trace,
    dump,
    load,
)

bounded = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
METHODS = [
    MethodSpec("single"),
    MethodSpec("tensor"),
    MethodSpec("sequence", {"gather": "kv"}),
    MethodSpec("block", {"joins": 2, "exchange": "sp"}),
    MethodSpec("pipeline"),
    MethodSpec("astra", {"groups": 4}),
]
# Not "." or "~": what exists is kept by its absolute path.
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda word: not os.path.exists(os.path.expanduser(word))
)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
rates = st.floats(64e3, 1e9)
delays = st.floats(0, 1)
below_one = st.floats(0, 1, exclude_max=True)
times = st.integers(0, 10**8).map(lambda ms: ms / 1000)  # the steps of a trace are at least 1 ms apart
losses = st.builds(Loss, below_one) | st.builds(
    Loss, below_one, below_one, st.floats(0.01, 1), below_one
).filter(lambda loss: loss.mean < 1)  # fmt: skip


@st.composite
def traces(draw, jitter_s: float, with_rate: bool) -> Trace:
    at = sorted(draw(st.lists(times, min_size=1, max_size=4, unique=True)))
    steps = tuple(
        Step(
            at_s,
            draw(st.none() | rates) if with_rate else None,
            draw(st.floats(jitter_s, 1)),  # a step says something
            draw(st.none() | below_one),
        )
        for at_s in at
    )
    return Trace(steps, draw(st.none() | st.floats(at[-1] + 1, 1e6)))


@st.composite
def lanes(draw, rate_bit_s: float | None = None) -> Lane:
    """rate_bit_s: where a shared medium gives it; infinite, out of it, where nothing waits either."""
    delay_s = draw(delays)
    jitter_s = draw(st.floats(0, delay_s))
    return Lane(
        rate_bit_s or draw(rates),
        delay_s,
        jitter_s,
        draw(st.booleans()),
        draw(losses),
        0 if rate_bit_s == math.inf else draw(st.integers(15140, 2**32 - 1)),
        draw(st.none() | traces(jitter_s, rate_bit_s is None)) if draw(st.integers(0, 3)) == 0 else None,
    )


@st.composite
def links(draw, a: str, b: str) -> Link:
    up = draw(lanes())
    return Link(a, b, up, draw(st.just(up) | lanes()))


def _tree(draw, hosts: list[str], switches: list[str]) -> list[tuple[str, str]]:
    """Switches in a tree, each host at one of them, some cables between hosts besides."""
    pairs = [(switches[i], switches[draw(st.integers(0, i - 1))]) for i in range(1, len(switches))]
    pairs += [(host, draw(st.sampled_from(switches))) for host in hosts]
    return pairs + draw(st.lists(st.sampled_from(list(combinations(hosts, 2))), unique=True, max_size=3))


def _hosts_only(draw, hosts: list[str], _: list[str]) -> list[tuple[str, str]]:
    """A tree of hosts, that is, a line or something with branches, and any further cables."""
    pairs = {frozenset((hosts[i], hosts[draw(st.integers(0, i - 1))])) for i in range(1, len(hosts))}
    more = draw(st.lists(st.sampled_from(list(combinations(hosts, 2))), unique=True, max_size=3))
    return [tuple(sorted(pair)) for pair in {*pairs, *map(frozenset, more)}]


@st.composite
def topologies(draw) -> Topology:
    found = draw(st.lists(names, min_size=4, max_size=8, unique=True))
    switches, hosts = found[:2], found[2:]
    run = draw(runs(hosts))
    name = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True))
    if draw(st.integers(0, 9)) == 0:
        kills = tuple(draw(st.lists(kill(hosts), max_size=2)))
        return Topology(name, "local", tuple(Host(host) for host in hosts), (), (), run, kills)
    cpus, memories = st.none() | st.floats(0.001, 4096), st.none() | st.integers(1, 2**50)
    wiring = draw(st.sampled_from([_tree, _hosts_only]))
    switches = switches[: draw(st.integers(1, 2))] if wiring is _tree else []
    joined = [draw(links(a, b)) for a, b in wiring(draw, hosts, switches)]
    kinds = [Switch(switch, draw(st.sampled_from(["bridge", "ovs"]))) for switch in switches]
    if draw(st.booleans()):
        medium = Switch("medium-of-all", "shared", draw(rates))
        kinds.append(medium)
        ways = [(draw(lanes(medium.rate_bit_s)), draw(lanes(math.inf))) for _ in hosts]
        joined += [Link(host, medium.name, up, down) for host, (up, down) in zip(hosts, ways, strict=True)]
    shown = tuple(Host(host, draw(cpus), draw(memories)) for host in hosts)
    events = tuple(draw(st.lists(kill(hosts) | link_events(joined), max_size=3)))
    return Topology(name, "mininet", shown, tuple(kinds), tuple(draw(st.permutations(joined))), run, events)


def runs(hosts: list[str]) -> st.SearchStrategy[RunSpec]:
    return st.builds(
        RunSpec,
        source=st.sampled_from(hosts),
        model=words,
        weights=st.sampled_from(["random", "pretrained"]),
        seed=st.integers(0, 2**63 - 1),
        tokens=st.integers(1, 10**7),
        inputs=words,
        methods=st.lists(st.sampled_from(METHODS), min_size=1, unique_by=lambda spec: spec.method).map(tuple),
        repeats=st.integers(1, 10**6),
        budget_s=st.floats(0, 1e6, exclude_min=True),
    )


def kill(hosts: list[str]) -> st.SearchStrategy[Event]:
    return st.builds(Event, times, st.just("kill"), host=st.sampled_from(hosts))


@st.composite
def link_events(draw, joined: list[Link]) -> Event:
    """A link goes down, or one or all links lose and delay otherwise than before, or have another rate."""
    link = draw(st.sampled_from(joined))
    ends = draw(st.sampled_from([(link.a, link.b), (link.b, link.a)]))
    at_s, for_s = draw(times), draw(st.floats(1e-3, 1e4))
    if draw(st.booleans()):
        return Event(at_s, "down", ends, for_s=for_s)
    everywhere = draw(st.booleans())
    least_s = max(lane.jitter_s for other in (joined if everywhere else [link]) for lane in (other.up, other.down))
    media = any(math.isinf(other.down.rate_bit_s) for other in (joined if everywhere else [link]))
    change = Step(
        at_s, None if media else draw(st.none() | rates), draw(st.floats(least_s, 1)), draw(st.none() | below_one)
    )
    return Event(at_s, "set", None if everywhere else ends, change=change, for_s=draw(st.none() | st.just(for_s)))


@bounded
@given(topology=topologies())
def test_what_is_dumped_loads_again(topology, tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(dump(topology), encoding="utf-8")
    assert load(file) == topology


@bounded
@given(
    name=st.sampled_from(["star", "mesh", "ring", "line", "sites", "shared", "home"]),
    hosts=st.integers(3, MAX_HOSTS),
    link=lanes(),
)
def test_any_network_by_name_loads_and_is_dumped_as_files_must_be(name, hosts, link, tmp_path):
    pair = Topology("n", "mininet", (Host("a"), Host("b")), (), (Link.both("a", "b", link),), RunSpec("a", "vit-tiny"))
    quantities = yaml.safe_load(dump(pair))["links"][0]
    del quantities["between"], quantities["rate"]
    if name == "shared":
        quantities.pop("trace", None)
    own: dict[str, Any] = {
        "sites": {"trunk": {"rate": "1 Mbit/s"}},
        "shared": {"rate": "20 Mbit/s"},
        "home": {"up": "2 Mbit/s", "down": "20 Mbit/s"},
    }
    if name not in ("shared", "home"):
        quantities["rate"] = "5 Mbit/s"
    text = {
        "name": "n",
        "backend": "mininet",
        "topology": {name: {"hosts": hosts, "link": quantities, **own.get(name, {})}},
    }
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump({**text, "run": {"model": "vit-tiny", "tokens": 64}}), encoding="utf-8")
    topology = load(file)
    assert len(topology.hosts) == hosts
    assert {(lane.delay_s, lane.loss) for lane in (topology.links[0].up, topology.links[0].down)} == {
        (link.delay_s, link.loss)
    }
    file.write_text(dump(topology), encoding="utf-8")
    assert load(file) == topology


NAMED: dict[str, dict[str, Any]] = {
    "star": {},
    "mesh": {},
    "ring": {},
    "line": {},
    "sites": {"trunk": {"rate": "10 Mbit/s", "delay": "2 ms"}},
    "shared": {"rate": "20 Mbit/s"},
    "home": {"up": "5 Mbit/s", "down": "20 Mbit/s"},
}


def judged(file: Path) -> Topology | None:
    """The network of a file if `check` and `doctor` say nothing against it; what they say is lines that name it."""
    try:
        topology = makeable(file)
        found = refusals.problems(topology, file)
    except TopologyError as error:
        topology, found = None, error.problems
        assert found
    assert all(re.match(rf"{re.escape(str(file))}:\d+ \S+( =|:) ", line) and line.isprintable() for line in found), (
        found
    )
    return None if found else topology


@bounded
@given(topology=topologies())
def test_what_is_accepted_has_a_shaper_here_or_doctor_says_why_not(topology, tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(dump(topology), encoding="utf-8")
    accepted = judged(file)
    if accepted is not None and accepted.links:
        assert accepted == topology
        assert shape.choose(accepted) in shape.SHAPERS


@st.composite
def small_files(draw) -> str:
    """Two to four hosts, drawn one by one or by name, with links that a ping passes within a moment."""
    rate = f"{draw(st.integers(1, 20))} Mbit/s"
    delay_ms = draw(st.integers(0, 20))
    link = {"delay": f"{delay_ms} ms", "jitter": f"{draw(st.integers(0, delay_ms))} ms"}
    link |= {"loss": draw(st.sampled_from(["0 %", "2 %", "10 %"])), "reorder": draw(st.booleans())}
    text: dict[str, Any] = {"name": "n", "backend": "mininet", "run": {"model": "vit-tiny", "tokens": 64}}
    name = draw(st.sampled_from(["tree", "hosts", *NAMED]))
    if name in NAMED:
        link |= {} if name in ("shared", "home") else {"rate": rate}
        hosts = draw(st.integers(3 if name == "ring" else 2, 4))
        return yaml.safe_dump({**text, "topology": {name: {"hosts": hosts, "link": link, **NAMED[name]}}})
    hosts = [f"h{i}" for i in range(1, draw(st.integers(3, 5)))]
    switches = ["s1", "s2"] if name == "tree" else []
    pairs = (_tree if switches else _hosts_only)(draw, hosts, switches)
    links = [{"between": " - ".join(pair), **link, "rate": rate, "up": {"delay": "20 ms"}} for pair in pairs]
    return yaml.safe_dump({**text, "hosts": {host: {} for host in hosts}, "switches": switches, "links": links})


def answers(network: Network, a: str, b: str) -> bool:
    """Whether `b` answers `a` over the shaped links; on lossy ones one answer of many pings will do."""
    argv = ["ping", "-n", "-c", "1", "-W", "0.5", network.hosts[b].address_for(a)]
    for _ in range(30):  # at 10 % on each of up to six crossings there and back, one of two comes through
        with suppress(HostError):
            network.hosts[a].run(argv)
            return True
    return False


@pytest.mark.alone
@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mnexec") or not shutil.which("ping"), reason="needs root, mnexec and ping"
)
@settings(bounded, max_examples=6, phases=[Phase.generate])
@given(text=small_files())
def test_a_small_network_that_is_accepted_comes_up_and_all_its_pairs_answer(text, tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    topology = judged(file)
    if topology is None:
        return
    with HOSTS["mininet"](topology, uuid.uuid4().hex[:8]) as network:
        silent = [(a, b) for a, b in combinations(network.hosts, 2) if not answers(network, a, b)]
    assert silent == []


# A file with everything in it, and what can be done to it. Each mistake is made at a place of its own, so that any set
# of them can be made together.
GOOD: dict[str, Any] = {
    "name": "demo",
    "backend": "mininet",
    "hosts": {"h1": {"cpu": 0.4}, "h2": {"memory": "2 GiB"}, "h3": {}, "h4": {}, "h5": {}, "h6": {}},
    "switches": {"s1": {"type": "bridge"}, "air": {"type": "shared", "rate": "20 Mbit/s"}},
    "defaults": {"host": {"cpu": 0.2}, "link": {"delay": "1 ms"}},
    "links": [
        {"between": "h1 - s1", "rate": "10 Mbit/s"},
        {"between": "h2 - s1", "rate": "10 Mbit/s", "up": {"loss": {"mean": "1 %", "burst": 4}}},
        {"h3 - s1": {"rate": "10 Mbit/s", "queue": "50 ms"}},
        {"between": "h4 - s1", "rate": "10 Mbit/s"},
        {"between": "h5 - s1", "up": {"rate": "2 Mbit/s"}, "down": {"rate": "20 Mbit/s", "jitter": "1 ms"}},
        {"between": "h6 - s1", "rate": "10 Mbit/s", "reorder": True},
        {"h5 - air": {"loss": {"enter": "1 %", "leave": "25 %"}}},
        {"h6 - air": None},
    ],
    "events": ["at 30 s: h2 - s1 down for 5 s", "at 60 s: loss 5 %", "at 90 s: kill h3"],
    "run": {"model": "vit-tiny", "tokens": 64, "methods": ["single", {"block": {"joins": 2}}]},
}


def at(text: dict[str, Any], *place: str | int) -> Any:
    value: Any = text
    for part in place:
        value = value[part]
    return value


def put(*place: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(text: dict[str, Any]) -> None:
        at(text, *place[:-1])[place[-1]] = to

    return change


def misspell(*place: str | int, to: str) -> Callable[[dict[str, Any]], None]:
    def change(text: dict[str, Any]) -> None:
        inside = at(text, *place[:-1])
        inside[to] = inside.pop(place[-1])

    return change


def leave_out(*place: str | int) -> Callable[[dict[str, Any]], None]:
    def change(text: dict[str, Any]) -> None:
        del at(text, *place[:-1])[place[-1]]

    return change


# (what is done, the key of the line, what the line says)
MISTAKES: list[tuple[Callable[[dict[str, Any]], None], str, str]] = [
    (put("name", to="../x"), "name", "letters, digits"),
    (misspell("hosts", "h1", "cpu", to="cpuu"), "hosts.h1.cpuu", 'did you mean "cpu"?'),
    (put("hosts", "h2", "memory", to="2 GX"), "hosts.h2.memory", "is no unit of a size"),
    (put("hosts", "h3", "cpu", to=-1), "hosts.h3.cpu", "at least 0.001"),
    (put("defaults", "hst", to={}), "defaults.hst", 'did you mean "host"?'),
    (put("defaults", "host", "cpu", to="0.2"), "defaults.host.cpu", "give a number"),
    (put("links", 0, "between", to="h1 - s9"), "links[0]", "no host or switch s9"),
    (misspell("links", 1, "up", "loss", "burst", to="brst"), "links[1].up.loss.brst", 'did you mean "burst"?'),
    (put("links", 2, "h3 - s1", "queue", to="50 mz"), "links[2].h3 - s1.queue", "is no unit of a queue"),
    (leave_out("links", 3, "rate"), "links[3].rate", "is missing"),
    (leave_out("links", 4, "up", "rate"), "links[4].up.rate", "is missing"),
    (misspell("links", 4, "down", "jitter", to="jiter"), "links[4].down.jiter", 'did you mean "jitter"?'),
    (put("links", 5, "rate", to=10), "links[5].rate", "give a unit"),
    (put("links", 5, "reorder", to="yes"), "links[5].reorder", "true or false"),
    (put("links", 6, "h5 - air", "rate", to="1 Mbit/s"), "links[6].h5 - air.rate", "leave it out"),
    (put("links", 6, "h5 - air", "loss", "leave", to="1"), "links[6].h5 - air.loss.leave", "give a unit"),
    (lambda text: text["links"].append({"s1 - h6": {"rate": "1 Mbit/s"}}), "links[8].s1 - h6", "joined already"),
    (put("events", 0, to="at 30 s: h2 - s9 down for 5 s"), "events[0]", 'did you mean "h2 - s1"?'),
    (put("events", 1, to=["loss 5 %"]), "events[1]", "give one line"),
    (put("events", 2, to="at 90 s: kill h33"), "events[2]", 'did you mean "h3"?'),
    (misspell("run", "tokens", to="tokns"), "run.tokns", 'did you mean "tokens"?'),
    (put("run", "methods", 1, to={"block": {"jons": 2}}), "run.methods[1].block.jons", 'did you mean "joins"?'),
    (put("nets", to=[]), "nets", 'unknown key, '),
]  # fmt: skip


def refused(tmp_path: Path, text: Any) -> list[str]:
    """The lines that a file with these values is refused with, `t.yaml:` left out; none if it loads."""
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(text, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        load(file)
    except TopologyError as error:
        assert error.problems
        assert all(re.match(rf"{re.escape(str(file))}:\d+[: ]", line) and line.isprintable() for line in error.problems)
        return [line.removeprefix(f"{file}:") for line in error.problems]
    return []


def line_of(tmp_path: Path, number: str) -> str:
    return (tmp_path / "t.yaml").read_text(encoding="utf-8").splitlines()[int(number) - 1]


def test_the_file_that_mistakes_are_made_in_is_good(tmp_path):
    assert refused(tmp_path, GOOD) == []


@bounded
@given(chosen=st.lists(st.sampled_from(MISTAKES), min_size=1, max_size=6, unique_by=lambda mistake: mistake[1]))
def test_every_mistake_of_a_file_is_a_line_that_names_its_key_however_many_there_are(chosen, tmp_path):
    text = copy.deepcopy(GOOD)
    for change, _, _ in chosen:
        change(text)
    found = refused(tmp_path, text)
    for _, key, said in chosen:
        (line,) = [line for line in found if re.match(rf"\d+ {re.escape(key)}( =|:) ", line) and said in line]
        last = re.split(r"[.\[]", key)[-1]  # the line of the file has the key, or what it should have been in
        if not last.endswith("]") and "is missing" not in said:
            assert last in line_of(tmp_path, line.split()[0])
    assert len(found) <= len(chosen) + 2, found  # little is said of what only follows


def places(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a value, the value itself left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inside for place in ((*here, key), *places(part, (*here, key)))]


quantity = st.builds(
    lambda number, unit: f"{number} {unit}",
    st.integers(-2, 10**30) | st.floats(),
    st.sampled_from(["Mbit/s", "ms", "s", "%", "KiB", "B", "x", "h1 - s1", "down"]),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | quantity
    | words
    | st.sampled_from(
        ["h1 - s1", "at 1 s: kill h1", "at 1 s: loss 5 %", "at 1 s", "", " - ", "a - b - c", "\x1f - \x85 - x"]
    )
)
KEYS = (
    "rate up down loss mean burst enter leave trace steps repeat between star hosts link host trunk type file markov"
    " constant on off seed"
)
keys = st.sampled_from([*KEYS.split(), "h1 - s1", "at 1 s"]) | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
OTHER: dict[str, Any] = {
    "name": "g",
    "backend": "mininet",
    "topology": {
        "sites": {"hosts": 4, "link": {"rate": "1 Mbit/s", "up": {"loss": "1 %"}}, "trunk": {"rate": "1 Mbit/s"}}
    },
    "events": ["at 1 s: kill h1"],
    "run": {"model": "vit-tiny", "tokens": 9},
}


@settings(bounded, max_examples=250)
@given(data=st.data(), good=st.sampled_from([GOOD, OTHER]), count=st.integers(1, 3))
def test_any_value_in_any_place_is_read_or_refused_in_lines(data, good, count, tmp_path):
    text = copy.deepcopy(good)
    for _ in range(count):
        place = data.draw(st.sampled_from(places(text)))
        put(*place, to=data.draw(values))(text)
    refused(tmp_path, text)


@settings(bounded, max_examples=100)
@given(
    section=st.sampled_from(["links", "events", "topology", "switches", "hosts", "defaults"]),
    quantity=st.sampled_from(["loss", "queue", "trace", "up", "reorder"]),
    value=values,
)
def test_any_value_as_a_section_or_as_a_quantity_of_a_link(section, quantity, value, tmp_path):
    refused(tmp_path, {**GOOD, section: value})
    text = copy.deepcopy(GOOD)
    text["links"][0][quantity] = value
    refused(tmp_path, text)


@pytest.mark.parametrize(
    "text", [[], "x", 5, None, {}, {"topology": None}, {"topology": {"star": None}, "backend": "local"}]
)
def test_files_with_next_to_nothing(text, tmp_path):
    assert refused(tmp_path, text)
