"""Drawings show every quantity of a network and what it implies, and pictures have room for all of it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from testbed import pairs
from testbed.diagram import MOST_SPELLED, mermaid, svg
from testbed.draw import draw
from testbed.topology import Event, Host, Lane, Link, Loss, RunSpec, Step, Switch, Topology, Trace

ROOT = Path(__file__).parent.parent
RUN = RunSpec("h1", "bert-tiny")
FAST, SLOW = Lane(10e6, 5e-3, 1e-3, loss=Loss(0.01)), Lane(1e6, 20e-3)
SVG = "{http://www.w3.org/2000/svg}"


def network(names: list[str], links: list[Link], *switches: Switch, events: tuple[Event, ...] = ()) -> Topology:
    return Topology("net", "mininet", tuple(Host(name, 0.4) for name in names), switches, tuple(links), RUN, events)


def hosts(count: int) -> list[str]:
    return [f"h{number}" for number in range(1, count + 1)]


def star(count: int) -> Topology:
    return network(hosts(count), [Link(host, "s1", FAST, SLOW) for host in hosts(count)], Switch("s1"))


def mesh(count: int) -> Topology:
    return network(hosts(count), [Link.both(a, b, FAST) for a, b in combinations(hosts(count), 2)])


def mesh_of_unlike_links(count: int) -> Topology:
    return network(
        hosts(count),
        [Link.both(a, b, Lane(1e6 * (i + 1))) for i, (a, b) in enumerate(combinations(hosts(count), 2))],
    )


def line(count: int) -> Topology:
    return network(hosts(count), [Link.both(a, b, FAST) for a, b in zip(hosts(count), hosts(count)[1:], strict=False)])


def ring(count: int) -> Topology:
    """With two hosts it is a line."""
    closing = [Link.both(f"h{count}", "h1", FAST)] if count > 2 else []
    return replace(line(count), links=(*line(count).links, *closing))


def sites(count: int) -> Topology:
    links = [Link.both(host, "s1" if i < count / 2 else "s2", FAST) for i, host in enumerate(hosts(count))]
    return network(hosts(count), [*links, Link("s1", "s2", SLOW, FAST)], Switch("s1"), Switch("s2", "ovs"))


def shared(count: int) -> Topology:
    links = [
        Link(host, "air", replace(FAST, rate_bit_s=20e6), replace(FAST, rate_bit_s=math.inf)) for host in hosts(count)
    ]
    return network(hosts(count), links, Switch("air", "shared", 20e6))


def three_switches(count: int) -> Topology:
    """No kind that has a name: switches in a row, and hosts joined to each other besides."""
    links = [Link.both(host, f"s{i % 3 + 1}", FAST) for i, host in enumerate(hosts(count))]
    links += [Link.both("h1", "h2", SLOW), Link.both("s1", "s2", FAST), Link.both("s2", "s3", FAST)]
    return network(hosts(count), links, Switch("s1"), Switch("s2"), Switch("s3"))


KINDS: list[Callable[[int], Topology]] = [
    star, mesh, mesh_of_unlike_links, line, ring, sites, shared, three_switches
]  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def table(topology: Topology) -> dict[str, list[str]]:
    """The table of pairs: what is between -> the other cells."""
    drawn = draw(topology).splitlines()
    start = next(index for index, text in enumerate(drawn) if text.startswith("between"))
    rows = [[cell.strip() for cell in row.split("  ") if cell] for row in drawn[start + 1 : -2]]
    return {row[0]: row[1:] for row in rows}


def test_a_line_of_its_own_for_each_direction_that_differs():
    drawn = draw(star(2)).splitlines()
    assert drawn[2:5] == [
        "s1 (bridge)",
        "├─ h1 (0.4 cores)  h1 -> s1: 10 Mbit/s, delay 5 ms ± 1 ms, loss 1 %, queue 64 KiB (full: 52.43 ms)",
        "│                  s1 -> h1: 1 Mbit/s, delay 20 ms, loss 0 %, queue 64 KiB (full: 524.3 ms)",
    ]


def test_the_way_back_where_it_is_not_the_way_there():
    # Up 5 ms and 10 Mbit/s, down 20 ms and 1 Mbit/s, and a trunk of 20 ms and 1 Mbit/s there, 5 ms and 10 Mbit/s back.
    links = [Link.both("h1", "s1", FAST), Link.both("h2", "s2", FAST), Link("s1", "s2", SLOW, FAST)]
    found = table(network(hosts(2), links, Switch("s1"), Switch("s2")))
    queue_ms = 65536 * 8 / 10e3, 65536 * 8 / 1e3  # at 10 and at 1 Mbit/s
    there, back = 2 * queue_ms[0] + queue_ms[1], 3 * queue_ms[0]
    assert found == {
        "h1 - h2": [
            "s1, s2",
            "1 Mbit/s, back 10 Mbit/s",
            "30 ms, back 15 ms",
            "45 ms",
            f"{1 - 0.99**2:.2%}, back {1 - 0.99**3:.2%}".replace("%", " %"),
            f"{there:.4g} ms, back {back:.4g} ms",
        ]
    }


def test_sixteen_hosts_stay_readable():
    for kind in KINDS:
        assert len(draw(kind(16)).splitlines()) < (280 if kind is mesh_of_unlike_links else 40), kind
    assert list(table(star(16))) == ["all 120 pairs"]
    assert list(table(mesh(16))) == ["all 120 pairs"]
    assert list(table(sites(16))) == ["any two of h1 to h8, any two of h9 to h16", "h1 to h8 with h9 to h16"]
    assert table(line(16))["15 pairs like h1 - h2"][0] == "their cable"
    assert table(line(16))["h1 - h16"][0] == "14 hosts"


@every_kind
@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_every_pair_has_exactly_one_row(kind, count):
    found = [pair for row in pairs.rows(kind(count)) for pair in row.pairs]
    assert sorted(found) == sorted(combinations(hosts(count), 2))


def test_pairs_without_a_pattern_are_listed():
    assert list(table(ring(4))) == ["h1 - h2, h4; h2 - h3; h3 - h4", "h1 - h3; h2 - h4"]
    assert [row[0] for row in table(ring(4)).values()] == ["their cable", "1 host"]


def test_rings_and_lines_are_drawn_as_such():
    assert "  h1 ── h2 ── h3 ── h4 ── h1" in draw(ring(4)).splitlines()
    assert "  h1 ── h2 ── h3 ── h4" in draw(line(4)).splitlines()
    assert "  h1 ── h2 to h16" in draw(mesh(16)).splitlines()


def test_a_shared_medium_serves_all_queues_in_turn():
    drawn = draw(shared(4))
    worst = f"{4 * 65536 * 8 / 20e3:.4g} ms"
    assert f"air (shared medium, 20 Mbit/s): one frame at a time, whoever sends it (all queues full: {worst})" in drawn
    assert "├─ h1 (0.4 cores)  delay 5 ms ± 1 ms, loss 1 %, queue 64 KiB (full: 26.21 ms)" in drawn.splitlines()
    assert table(shared(4)) == {"all 6 pairs": ["air", "20 Mbit/s", "10 ms", "20 ms", "1.99 %", worst]}


@pytest.mark.parametrize(
    ("lane", "said"),
    [
        (Lane(1e6, 0.01, 0.002, reorder=True), "delay 10 ms ± 2 ms, order not kept, "),
        (Lane(1e6, loss=Loss(enter=0.01, leave=0.25)), f"loss {100 / 26:.4g} % in bursts of 4"),
        (
            Lane(1e6, loss=Loss(0.01, 0.5, 0.5, 0.21)),
            "loss 11 % in bursts (1 % or, when bad, 21 %; bad begins 50 %, ends 50 %)",
        ),
        (Lane(1e6, queue_bytes=125_000), "queue 125 kB (full: 1 s)"),
        (
            Lane(50e6, trace=Trace(tuple(Step(float(i), 20e6 if i % 2 else 100e6) for i in range(600)), 600.0)),
            "queue 64 KiB (full: 10.49 ms, at 20 Mbit/s 26.21 ms), "
            "trace of 600 steps, 20-100 Mbit/s, repeats after 600 s",
        ),
        (
            Lane(1e6, trace=Trace((Step(0.0, 5e5), Step(3.0, delay_s=0.02), Step(7.5, 2e6, 0.03, 0.05)))),
            "trace of 3 steps, 500 kbit/s - 2 Mbit/s, delay 20-30 ms, loss 5 %, stays after 7.5 s",
        ),
    ],
)  # fmt: skip
def test_quantities_in_words(lane, said):
    assert said in draw(network(hosts(2), [Link.both("h1", "h2", lane)]))


def test_the_worst_queue_is_that_at_the_lowest_rate_of_a_trace():
    lane = Lane(50e6, trace=Trace((Step(1.0, 1e6),)))
    assert table(network(hosts(2), [Link.both("h1", "h2", lane)]))["h1 - h2"][-1] == f"{65536 * 8 / 1e3:.4g} ms"


def test_events_are_listed_in_words_and_pictures():
    happen = (Event(30, "down", ("h1", "s1"), for_s=5), Event(90, "kill", host="h2"))
    topology = replace(star(2), events=happen)
    for text in (draw(topology), svg(topology), mermaid(topology)):
        assert "at 30 s: h1 - s1 down for 5 s" in text
        assert "at 90 s: kill h2" in text
    local = Topology("l", "local", (Host("h1"), Host("h2")), (), (), RUN, happen[1:])
    assert "at 90 s: kill h2" in draw(local)
    assert "nothing is shaped" in svg(local)


def rectangles(root: ET.Element, kind: str) -> list[tuple[float, ...]]:
    found = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g") if group.get("class") == kind]
    return [
        tuple(float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
        for rect in found
        if rect is not None
    ]


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


@every_kind
@pytest.mark.parametrize("count", range(2, 17))
def test_a_picture_shows_everything_and_nothing_lies_on_another(kind, count):
    topology = kind(count)
    root = ET.fromstring(svg(topology))
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    nodes, labels = rectangles(root, "node"), rectangles(root, "label")
    assert len(nodes) == len(topology.hosts) + len(topology.switches)
    assert {node.name for node in (*topology.hosts, *topology.switches)} <= set(texts)
    assert not any(overlap(one, other) for one, other in combinations([*nodes, *labels], 2))
    x, y, width, height = (float(word) for word in root.get("viewBox", "").split())
    assert all(x < b[0] and y < b[1] and b[0] + b[2] < x + width and b[1] + b[3] < y + height for b in nodes + labels)
    if len(topology.links) <= MOST_SPELLED:
        assert len(labels) == len(topology.links)
        spelled = [text for text in texts if text.endswith("bit/s")]
        asymmetric = [link for link in topology.links if link.up != link.down and kind is not shared]
        on_air = len(topology.links) - 1 if kind is shared else 0  # its rate is said once, at the medium
        assert len(spelled) == len(topology.links) + len(asymmetric) - on_air
    else:
        kinds = {(link.up, link.down) for link in topology.links}
        legend = [text for text in texts if "bit/s, " in text]
        assert len(legend) == len(kinds)
        assert len(labels) == (0 if len(kinds) == 1 else len(topology.links))


@every_kind
@pytest.mark.parametrize("count", [2, 5, 16])
def test_mermaid_has_every_node_and_link(kind, count):
    topology = kind(count)
    head, *rest = mermaid(topology).splitlines()
    assert head == "graph LR"
    nodes = [text for text in rest if "|" not in text]
    ways = [text for text in rest if "|" in text]
    assert len(nodes) == len(topology.hosts) + len(topology.switches)
    assert len(ways) == sum(1 if kind is shared or link.up == link.down else 2 for link in topology.links)
    assert all(f'"{host.name}<br/>0.4 cores"' in text for host, text in zip(topology.hosts, nodes, strict=False))


def test_names_that_mean_something_to_the_format():
    lanes = Link('end"', "<b>&", Lane(2e6), Lane(1e6))
    topology = replace(network(['end"', "<b>&"], [lanes]), name="a<b>&c")
    root = ET.fromstring(svg(topology))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {'end"', "<b>&", 'end" → <b>&', "a<b>&c: 2 hosts, backend mininet"} <= set(texts)
    drawn = mermaid(topology)
    assert '    n0["end#34;<br/>0.4 cores"]' in drawn.splitlines()
    assert '    n1["#60;b#62;#38;<br/>0.4 cores"]' in drawn.splitlines()
    assert '    n0 -->|"2 Mbit/s<br/>queue 64 KiB"| n1' in drawn.splitlines()
    assert '    n1 -->|"1 Mbit/s<br/>queue 64 KiB"| n0' in drawn.splitlines()


def test_the_same_picture_in_every_process():
    script = "from tests.test_draw import *; print([svg(kind(7)) for kind in KINDS])"
    pictures = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(pictures) == 1
