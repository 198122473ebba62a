"""Networks by name: what they are made of, and where their mistakes are reported."""

from __future__ import annotations

import math

import pytest

from testbed.topology import Host, Lane, Link, Topology, dump
from tests.files import loaded, problems


def pairs(topology: Topology) -> list[str]:
    return [f"{link.a} - {link.b}" for link in topology.links]


GENERATED = [
    ("star: {hosts: 3, link: {rate: 1 Mbit/s}}", 3, 1, ["h1 - s1", "h2 - s1", "h3 - s1"]),
    ("mesh: {hosts: 3, link: {rate: 1 Mbit/s}}", 3, 0, ["h1 - h2", "h1 - h3", "h2 - h3"]),
    ("ring: {hosts: 4, link: {rate: 1 Mbit/s}}", 4, 0, ["h1 - h2", "h2 - h3", "h3 - h4", "h4 - h1"]),
    ("line: {hosts: 3, link: {rate: 1 Mbit/s}}", 3, 0, ["h1 - h2", "h2 - h3"]),
    ("line: {hosts: 1}", 1, 0, []),
    (
        "sites: {hosts: 3, link: {rate: 1 Mbit/s}, trunk: {rate: 64 kbit/s}}",
        3, 2, ["h1 - s1", "h2 - s1", "h3 - s2", "s1 - s2"],
    ),
    ("shared: {hosts: 2, rate: 20 Mbit/s}", 2, 1, ["h1 - s1", "h2 - s1"]),
    ("home: {hosts: 2, up: 2 Mbit/s, down: 20 Mbit/s, link: {up: {delay: 9 ms}}}", 2, 1, ["h1 - s1", "h2 - s1"]),
]  # fmt: skip
NAMED = "name: g\nbackend: mininet\ntopology:\n  %s\nrun: {model: vit-tiny, tokens: 16}\n"


@pytest.mark.parametrize(("text", "hosts", "switches", "wanted"), GENERATED)
def test_networks_by_name(tmp_path, text, hosts, switches, wanted):
    topology = loaded(tmp_path, NAMED % text)
    assert [host.name for host in topology.hosts] == [f"h{i}" for i in range(1, hosts + 1)]
    assert [switch.name for switch in topology.switches] == [f"s{i}" for i in range(1, switches + 1)]
    assert pairs(topology) == wanted
    assert loaded(tmp_path, dump(topology)) == topology  # and so its written-out form is wired as files must be


def test_what_a_named_network_is_told_reaches_its_parts(tmp_path):
    star = loaded(tmp_path, NAMED % "star: {hosts: 16, link: {rate: 1 Mbit/s}, host: {cpu: 0.2, memory: 1 GiB}}")
    assert set(star.hosts) == {Host(f"h{i}", 0.2, 2**30) for i in range(1, 17)}
    home = loaded(tmp_path, NAMED % GENERATED[-1][0])
    assert home.links[1] == Link("h2", "s1", Lane(2e6, 0.009), Lane(2e7))
    sites = loaded(tmp_path, NAMED % GENERATED[-3][0].replace("link: {", "link: {loss: 1 %, "))
    assert (sites.links[0].up.loss.mean, sites.links[-1]) == (0.01, Link.both("s1", "s2", Lane(64e3)))
    shared = loaded(tmp_path, NAMED % GENERATED[-2][0])
    assert shared.links[0] == Link("h1", "s1", Lane(2e7), Lane(math.inf))
    defaults = "line: {hosts: 2}\ndefaults: {link: {rate: 3 Mbit/s, up: {delay: 1 ms}}}"
    assert loaded(tmp_path, NAMED % defaults).links == (Link("h1", "h2", Lane(3e6, 0.001), Lane(3e6)),)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("sar: {hosts: 3}", ['4 topology.sar: unknown key, did you mean "star"?']),
        ("star: {hosts: 1025}", ["4 topology.star.hosts = 1025: must be at most 1024"]),
        ("mesh: {hosts: 65}", ["4 topology.mesh.hosts = 65: must be at most 64 (how many, e.g. 4; more are joined"]),
        ("ring: {hosts: 2}", ["4 topology.ring.hosts = 2: must be at least 3"]),
        ("star: {}", ["4 topology.star.hosts: is missing"]),
        ("star:", ["4 topology.star.hosts: is missing"]),
        ("[star]", ['3 topology = ["star"]: give one name', "3 topology: if these are values to try"]),
        ("{star: {hosts: 1}, line: {hosts: 1}}", ["3 topology = {"]),
        ("star: {hosts: 2}", ["4 topology.star.link.rate: is missing"]),
        (
            "star: {hosts: 9, host: {cpuu: 1}, link: {rate: 1, delay: 1 us, jitter: 1 ms, los: 1 %, between: a - b}}",
            ["4 topology.star.host.cpuu", "4 topology.star.link.rate = 1: give a unit", "4 topology.star.link.los",
             "4 topology.star.link.between: unknown key"],
        ),
        ("mesh: {hosts: 3, link: {rate: 1 Mbit/s, jitter: 1 ms}}", ["4 topology.mesh.link.jitter: must not exceed"]),
        ("sites: {hosts: 4, link: {rate: 1 Mbit/s}}", ["4 topology.sites.trunk: is missing"]),
        ("sites: {hosts: 4, trunk: {rate: 1}}", ["4 topology.sites.trunk.rate = 1: give a unit",
                                                 "4 topology.sites.link.rate: is missing"]),
        ("shared: {hosts: 2, link: {rate: 1 Mbit/s}, rate: 2 Mbit/s}", ["4 topology.shared.link.rate = "]),
        ("shared: {hosts: 2}", ["4 topology.shared.rate: is missing"]),
        ("home: {hosts: 2, up: 1, link: {up: {rate: 1 Mbit/s}}}",
         ["4 topology.home.up = 1: give a unit", "4 topology.home.down: is missing",
          '4 topology.home.link.up.rate = "1 Mbit/s": leave it out']),
    ],
)  # fmt: skip
def test_mistakes_in_a_named_network_are_reported_where_they_are_written(tmp_path, text, lines):
    found = problems(tmp_path, NAMED % text)
    assert len(found) == len(lines), found
    assert [line for line in lines if not any(said.startswith(f"t.yaml:{line}") for said in found)] == []
