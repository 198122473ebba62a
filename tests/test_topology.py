"""Topology files: the contract loads, a mistake is one line with file, line and key, and what is dumped loads again."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from testbed.paths import Unreachable, path
from testbed.topology import Host, Lane, Link, Loss, MethodSpec, RunSpec, Switch, Topology, TopologyError, dump, load
from tests.files import loaded, problems

SHIPPED = sorted(Path(__file__).parent.parent.joinpath("topologies").glob("*.yaml"))
SWEEPS = [file for file in SHIPPED if "\nsweep:" in file.read_text()]
RUNS = [file for file in SHIPPED if file not in SWEEPS]
GOOD = """\
name: demo
backend: mininet
hosts: {h1: {cpu: 0.4}, h2: {cpu: 0.4, memory: 2 GiB}}
switches: [s1]
defaults: {link: {rate: 10 Mbit/s}}
links:
  - h1 - s1
  - {between: h2 - s1, rate: 5 Mbit/s, delay: 5 ms, jitter: 1 ms, loss: 1 %, queue: 128 KiB}
run:
  model: vit-tiny
  tokens: 64
  methods: [single, {block: {joins: 2}}]
"""


def test_the_contract_file_means_what_it_says():
    topology = load(next(file for file in SHIPPED if file.stem == "star4_10mbps"))
    assert topology == Topology(
        name="star4_10mbps",
        backend="mininet",
        hosts=tuple(Host(f"h{i}", 0.4) for i in range(1, 5)),
        switches=(Switch("s1"),),
        links=tuple(Link.both(f"h{i}", "s1", Lane(1e7, queue_bytes=65536)) for i in range(1, 5)),
        run=RunSpec(
            source="h1",
            model="vit-base",
            tokens=196,
            methods=(
                MethodSpec("single"),
                MethodSpec("tensor"),
                MethodSpec("sequence"),
                MethodSpec("block", {"joins": 1}),
                MethodSpec("pipeline"),
                MethodSpec("astra", {"groups": 1}),
                MethodSpec("astra", {"groups": 32}),
            ),
        ),
    )
    assert topology.run.repeats == 10
    assert topology.run.budget_s == 60.0


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_every_shipped_file_loads_and_survives_a_round_trip(file, tmp_path):
    topology = load(file)
    assert topology.name == file.stem
    assert loaded(tmp_path, dump(topology)) == topology


def test_what_a_link_says_goes_before_the_defaults(tmp_path):
    first, second = loaded(tmp_path, GOOD).links
    assert first == Link.both("h1", "s1", Lane(1e7))
    assert second == Link.both("h2", "s1", Lane(5e6, 0.005, 0.001, False, Loss(0.01), 131072))


def test_a_queue_left_out_is_one_bandwidth_delay_product_or_64_kib():
    assert Lane(1e7, 0.001).queue_bytes == 65536
    assert Lane(1e8, 0.1).queue_bytes == 1_250_000
    assert Lane(1e7).worst_queue_s == pytest.approx(0.0524288)


def test_defaults_of_the_run(tmp_path):
    text = "name: d\nbackend: local\nhosts: {b: , a: {}}\nrun: {model: vit-tiny, tokens: 9}\n"
    run = loaded(tmp_path, text).run
    assert run == RunSpec("b", "vit-tiny", "random", 0, 9, "sample", (MethodSpec("single"),), 10, 60.0)


def test_host_defaults_and_switch_types(tmp_path):
    text = GOOD.replace("{h1: {cpu: 0.4}, ", "{h1: {}, ").replace("[s1]", "{s1: {type: ovs}}")
    topology = loaded(tmp_path, text.replace("defaults: {", "defaults: {host: {cpu: 0.25, memory: 1 GB}, "))
    assert topology.hosts == (Host("h1", 0.25, 10**9), Host("h2", 0.4, 2**31))
    assert topology.switches == (Switch("s1", "ovs"),)


BAD = [
    ("name: demo", "name: ../demo", '1 name = "../demo"', "letters, digits"),
    ("name: demo\n", "", "1 name", "is missing"),
    ("backend: mininet", "backend: mininett", '2 backend = "mininett"', "'mininet' or 'local'"),
    ("backend: mininet", "backnd: mininet", "2 backnd", 'did you mean "backend"?'),
    ("h1: {cpu: 0.4}", "h1: {cpu: -0.4}", "3 hosts.h1.cpu = -0.4", "must be at least 0.001"),
    ("h1: {cpu: 0.4}", "h1: {cpu: 0}", "3 hosts.h1.cpu = 0", "must be at least 0.001"),
    ("h1: {cpu: 0.4}", "h1: {cpu: .inf}", '3 hosts.h1.cpu = ".inf"', "give a number"),
    ("h1: {cpu: 0.4}", "h1: {cpu: true}", "3 hosts.h1.cpu = true", "give a number"),
    ("h1: {cpu: 0.4}", "h1: {cpuu: 0.4}", "3 hosts.h1.cpuu", 'did you mean "cpu"?'),
    ("h1: {cpu: 0.4}", "h1: 0.4", "3 hosts.h1 = 0.4", "give a mapping"),
    ("memory: 2 GiB", "memory: 2", "3 hosts.h2.memory = 2", "give a unit"),
    ("{h1:", "{h1: {}, h1:", "3 hosts.h1", "is there twice"),
    ("{h1:", "{1h: {}, h1:", "3 hosts.1h", "a letter, then"),
    ("{h1:", "{h;rm: {}, h1:", "3 hosts.h;rm", "a letter, then"),
    ("[s1]", "[s1, h1]", "4 switches[1]", "taken already"),
    ("[s1]", "[s1, s1]", "4 switches[1]", "taken already"),
    ("[s1]", "[s1, s2]", "4 switches", "s2 has no link"),
    ("[s1]", "{s1: {type: hub}}", '4 switches.s1.type = "hub"', "'bridge', 'ovs' or 'shared'"),
    ("[s1]", "{s1: {rate: 1 Mbit/s}}", '4 switches.s1.rate = "1 Mbit/s"', "only a switch of type: shared has a rate"),
    ("[s1]", "{s1: {type: shared}}", "4 switches.s1.rate", "is missing: that of the shared medium"),
    ("[s1]", "s1", '4 switches = "s1"', "give a list"),
    ("rate: 10 Mbit/s", "rate: 10", "5 defaults.link.rate = 10", 'give a unit, e.g. "10 Mbit/s"'),
    ("rate: 10 Mbit/s", "delay: 1 ms", "7 links[0].rate", "is missing"),
    ("{link:", "{lnk:", "5 defaults.lnk", 'did you mean "link"?'),
    ("- h1 - s1", "- h1 - s9", '7 links[0] = "h1 - s9"', 'no host or switch s9; did you mean "s1"?'),
    ("- h1 - s1", "- h1-s1", '7 links[0].between = "h1-s1"', 'e.g. "h1 - s1"'),
    ("- h1 - s1", "- h1 - h1", '7 links[0] = "h1 - h1"', "to itself"),
    ("- h1 - s1", "- h1 - s1\n  - s1 - h1", '8 links[1] = "s1 - h1"', "joined already by links[0]"),
    ("  - h1 - s1\n", "", "3 hosts.h1", "h1 has no link"),
    ("rate: 5 Mbit/s", "rate: 0 Mbit/s", '8 links[1].rate = "0 Mbit/s"', "above 0"),
    ("rate: 5 Mbit/s", "rate: 5 mbps", '8 links[1].rate = "5 mbps"', "use bit/s, kbit/s, Mbit/s"),
    ("delay: 5 ms", "delay: 0.5 ms", "8 links[1].jitter", "must not exceed the delay"),
    ("delay: 5 ms", "delay: 1.1 s", '8 links[1].delay = "1.1 s"', "0 to 1 s one way"),
    ("delay: 5 ms", "reorder: 1", "8 links[1].reorder = 1", "true or false"),
    ("loss: 1 %", "loss: 100 %", '8 links[1].loss = "100 %"', "below 100 %"),
    ("loss: 1 %", "loss: [1 %]", '8 links[1].loss = ["1 %"]', "or bursts"),
    ("loss: 1 %", "loss: {mean: 1 %}", "8 links[1].loss.burst", "is missing"),
    ("loss: 1 %", "loss: {mean: 1 %, brst: 4}", "8 links[1].loss.brst", 'did you mean "burst"?'),
    ("loss: 1 %", "loss: {mean: 1 %, burst: 0.5}", "8 links[1].loss.burst = 0.5", "at least 1"),
    ("loss: 1 %", "loss: {mean: 90 %, burst: 4}", "8 links[1].loss", "longer bursts"),
    ("loss: 1 %", "loss: {enter: 1 %, leve: 25 %}", "8 links[1].loss.leve", 'did you mean "leave"?'),
    ("loss: 1 %", "loss: {enter: 1, leave: 25 %}", "8 links[1].loss.enter = 1", "give a unit"),
    ("loss: 1 %", "loss: {enter: 1 %, leave: 0 %}", "8 links[1].loss", "below 100 %"),
    ("loss: 1 %", "up: 5 ms", '8 links[1].up = "5 ms"', "give a mapping"),
    ("loss: 1 %", "up: {los: 1 %}", "8 links[1].up.los", 'did you mean "loss"?'),
    ("loss: 1 %", "up: {loss: 1}", "8 links[1].up.loss = 1", "give a unit"),
    ("loss: 1 %", "down: {jitter: 6 ms}", "8 links[1].down.jitter", "must not exceed the delay"),
    ("loss: 1 %", "up: {up: {loss: 1 %}}", "8 links[1].up.up", "unknown key"),
    ("loss: 1 %", "trace: [[0 s]]", "8 links[1].trace", ""),
    ("loss: 1 %", "trace: nowhere.csv", '8 links[1].trace = "nowhere.csv"', ""),
    ("queue: 128 KiB", "queue: 1 ms", "8 links[1].queue", "1 ms at 5 Mbit/s are 625 bytes; must hold"),
    ("queue: 128 KiB", "queue: 5 Mbit/s", '8 links[1].queue = "5 Mbit/s"', "is no unit of a queue"),
    ("queue: 128 KiB", "queue: 8 GiB", '8 links[1].queue = "8 GiB"', "below 4 GiB"),
    ("- h1 - s1", "- h1 - s1: 5 Mbit/s", '7 links[0].h1 - s1 = "5 Mbit/s"', "give a mapping"),
    ("- h1 - s1", "- h1 - s1: {rat: 5 Mbit/s}", "7 links[0].h1 - s1.rat", 'did you mean "rate"?'),
    ("- h1 - s1", "- h1-s1: {rate: 5 Mbit/s}", '7 links[0].h1-s1 = "h1-s1"', "two names"),
    ("- h1 - s1", "- h1 - s9: {}", '7 links[0].h1 - s9 = "h1 - s9"', "no host or switch s9"),
    ("- h1 - s1", "- h1 - s1: {between: h2 - s1}", "7 links[0].h1 - s1", "leave out between"),
    ("- h1 - s1", "- 5", "7 links[0] = 5", "give a mapping"),
    ("run:", "events: at 30 s\nrun:", '9 events = "at 30 s"', "give a list"),
    ("run:", "events: [[1]]\nrun:", "9 events[0] = [[1]]"[:11], "give one line"),
    ("run:", "events: [some day]\nrun:", '9 events[0] = "some day"', ""),
    (
        "run:",
        "events: [at 30 s: kill h3]\nrun:",
        '9 events[0] = "at 30 s: kill h3"',
        'did you mean "h2"? hosts: h1, h2',
    ),
    ("run:", "events: [at 3 s: h2 - s9 down for 5 s]\nrun:", "9 events[0]", 'did you mean "h2 - s1"?'),
    (
        "run:",
        "events: [at 3 s: delay 100 us]\nrun:",
        "9 events[0]",
        "on h2 - s1 the delay is 100 us, less than the jitter",
    ),
    ("run:", "topology: {star: {hosts: 2}}\nrun:", "3 hosts", "leave it out: topology gives"),
    ("loss: 1 %", "loss: 101 %", '8 links[1].loss = "101 %"', "0 % to 100 %"),
    ("loss: 1 %", "los: 1 %", "8 links[1].los", 'did you mean "loss"?'),
    ("queue: 128 KiB", "queue: 1 B", '8 links[1].queue = "1 B"', "frames that TCP starts with, 15140 B"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  source: h3\n", '11 run.source = "h3"', "hosts: h1, h2"),
    ("  model: vit-tiny\n", "", "9 run.model", "is missing"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  seed: -1\n", "11 run.seed = -1", "at least 0"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  weights: trained\n", '11 run.weights = "trained"', "pretrained"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  repeats: 0\n", "11 run.repeats = 0", "at least 1"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  budget: 60\n", "11 run.budget = 60", "give a unit"),
    ("  model: vit-tiny\n", "  model: vit-tiny\n  budget: 0 s\n", '11 run.budget = "0 s"', "must be above 0"),
    ("tokens: 64", "tokens: 0", "11 run.tokens = 0", "at least 1"),
    ("tokens: 64", "tokens: 010", '11 run.tokens = "010"', "whole number"),
    ("tokens: 64", "tokens: 64.0", "11 run.tokens = 64.0", "whole number"),
    ("[single, {block: {joins: 2}}]", "[]", "12 run.methods = []", "must not be empty"),
    ("[single, {block: {joins: 2}}]", "[sngle]", '12 run.methods[0] = "sngle"', 'did you mean "single"?'),
    ("[single, {block: {joins: 2}}]", "[single, single]", '12 run.methods[1] = "single"', "the same as methods[0]"),
    ("{joins: 2}", "{jions: 2}", "12 run.methods[1].block.jions", 'did you mean "joins"?'),
    ("{joins: 2}", "{joins: 0}", "12 run.methods[1].block", "joins is a whole number of at least 1"),
    ("single,", "{single: {fast: true}},", "12 run.methods[0].single.fast", "single has no options"),
    ("single,", "{single: , tensor: },", "12 run.methods[0]", "one name with its options"),
]


@pytest.mark.parametrize(("good", "bad", "where", "allowed"), BAD)
def test_a_mistake_is_one_line_with_file_line_key_and_what_is_allowed(tmp_path, good, bad, where, allowed):
    assert good in GOOD
    found = problems(tmp_path, GOOD.replace(good, bad, 1))
    line = next((line for line in found if line.startswith(f"t.yaml:{where}")), None)
    assert line is not None, found
    assert allowed in line
    assert "\n" not in line


def test_all_mistakes_of_a_file_at_once_in_its_order(tmp_path):
    text = (
        GOOD.replace("cpu: 0.4}, h2", "cpu: -1}, h2").replace("h1 - s1", "h1 - s9").replace("tokens: 64", "tokens: 0")
    )
    found = problems(tmp_path, text.replace("rate: 10 Mbit/s", "rate: 10").replace("single,", "sigle,"))
    assert [re.match(r"t.yaml:(\d+) (\S+?)(:| =)", line)[2] for line in found] == [
        "hosts.h1.cpu",
        "defaults.link.rate",
        "links[0]",
        "run.tokens",
        "run.methods[0]",
    ]


def test_switches_in_a_ring_are_refused(tmp_path):
    text = GOOD.replace("[s1]", "[s1, s2, s3]").replace(
        "  - h1 - s1\n", "  - h1 - s1\n  - s1 - s2\n  - s2 - s3\n  - s3 - s1\n"
    )
    assert any(":10 links[3]" in line and "loop of switches" in line for line in problems(tmp_path, text))


def test_two_links_of_a_host_into_one_network_are_refused(tmp_path):
    text = GOOD.replace("[s1]", "[s1, s2]").replace("  - h1 - s1\n", "  - h1 - s1\n  - s1 - s2\n  - h1 - s2\n")
    assert any(":9 links[2]" in line and "one link per host and network" in line for line in problems(tmp_path, text))


def test_hosts_forward_so_a_line_through_one_is_a_network(tmp_path):
    text = GOOD.replace("{h1:", "{h3: {}, h1:").replace("  - h1 - s1\n", "  - h1 - s1\n  - h1 - h3\n")
    way = path(loaded(tmp_path, text), "h3", "h2")
    assert [hop.words for hop in way.hops] == ["h3 -> h1", "h1 -> s1", "s1 -> h2"]


def test_hosts_out_of_reach_are_a_line_each(tmp_path):
    hosts = "{h1: {}, h2: {}, h3: {}, h4: {}, h5: {}}"
    text = f"name: d\nbackend: mininet\nhosts: {hosts}\nswitches: [s1, s2]\ndefaults: {{link: {{rate: 1 Mbit/s}}}}\n"
    links = "links: [h1 - s1, h2 - s1, h3 - s1, h4 - s2]\nrun: {model: vit-tiny, tokens: 9}\n"
    assert problems(tmp_path, text + links) == [
        "t.yaml:3 hosts.h5: h5 has no link: give it one",
        "t.yaml:6 links: h4 cannot reach h1, h2, h3: give them a link, or join their switches",
    ]
    assert problems(tmp_path, text + links.replace("h3 - s1", "h3 - s2, h5 - s1")) == [
        "t.yaml:6 links: h3, h4 cannot reach h1, h2, h5: give them a link, or join their switches",
    ]


def test_of_a_host_that_is_there_twice_nothing_else_is_said(tmp_path):
    text = GOOD.replace("h2: {cpu: 0.4, memory", "h1: {cpu: 0.4, memory").replace("  model:", "  source: h2\n  model:")
    assert problems(tmp_path, text) == ["t.yaml:3 hosts.h1: is there twice, first in line 3"]


LOCAL = "name: d\nbackend: local\nhosts: {h1: {}}\nrun: {model: %s, tokens: 9, inputs: %s}\n"


def test_what_exists_is_kept_by_its_absolute_path_so_that_a_saved_file_is_the_same_run_from_anywhere(
    tmp_path, monkeypatch
):
    for folder in ("here", "here/own", "here/vit-tiny", "here/sample", "there"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here/text").write_text("short")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    topology = loaded(tmp_path, LOCAL % ("./own", "text"))
    assert (topology.run.model, topology.run.inputs) == (f"{tmp_path}/here/own", f"{tmp_path}/here/text")
    monkeypatch.chdir(tmp_path / "there")
    assert loaded(tmp_path, dump(topology)) == topology
    assert loaded(tmp_path, LOCAL % ("vit-tiny", '"~/text"')).run.inputs == f"{tmp_path}/here/text"
    monkeypatch.chdir(tmp_path / "here")
    for names in (("vit-tiny", "sample"), ("org/model", "nowhere"), ('"~nobody-at-all/x"', '"~/nowhere"')):
        run = loaded(tmp_path, LOCAL % names).run
        assert (run.model, run.inputs) == tuple(name.strip('"') for name in names)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has been somebody else before sudo")
def test_home_is_that_of_whoever_called_sudo(tmp_path, monkeypatch):
    user = next(user for user in pwd.getpwall() if user.pw_uid and os.path.isdir(user.pw_dir))
    monkeypatch.setenv("SUDO_USER", user.pw_name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "only-here").mkdir()
    assert loaded(tmp_path, LOCAL % ("vit-tiny", '"~/"')).run.inputs == os.path.abspath(user.pw_dir)
    assert loaded(tmp_path, LOCAL % ("vit-tiny", '"~/only-here"')).run.inputs == f"{tmp_path}/only-here"


def test_more_hosts_than_anything_can_do_are_refused(tmp_path):
    hosts = ", ".join(f"h{i}: {{}}" for i in range(1025))
    text = f"name: d\nbackend: local\nhosts: {{{hosts}}}\nrun: {{model: vit-tiny, tokens: 9}}\n"
    assert problems(tmp_path, text) == ["t.yaml:3 hosts: 1025 hosts: at most 1024 can be predicted"]


def test_the_local_backend_refuses_what_it_cannot_do(tmp_path):
    text = (
        GOOD.replace("mininet", "local") + "events: [at 3 s: kill h2, at 4 s: h1 - s1 down for 1 s, at 5 s: loss 5 %]\n"
    )
    assert [line.split()[1].rstrip(":") for line in problems(tmp_path, text)] == [
        "hosts.h1.cpu",
        "hosts.h2.cpu",
        "hosts.h2.memory",
        "switches",
        "defaults.link",
        "links",
        "events[1]",
        "events[2]",
    ]
    named = "name: d\nbackend: local\ntopology: {star: {hosts: 2}}\nrun: {model: vit-tiny, tokens: 9}\n"
    assert [line.split(":")[1] for line in problems(tmp_path, named)] == ["3 topology"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a topology is a mapping"),
        ("- a\n- b\n", "a topology is a mapping"),
        ("a: [1, 2\n", "not YAML"),
        ("a: &x 1\nb: *x\n", "anchors and aliases are not allowed"),
        ("a: !!python/object:os.system {}\n", "is not allowed"),
        ("a: \x07\n", "not YAML text"),
        ("a: " + "[" * 5000, "not usable YAML"),
        ("a: !!int x\n", "not usable YAML"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("a\x1b[31m: 1\n", "not YAML text"),
        ('"a\\nb\\e[31m": 1\n', "unknown key"),
    ],
)
def test_what_is_no_topology_gets_its_lines_too(tmp_path, text, said):
    found = problems(tmp_path, text)
    assert any(said in line for line in found), found
    assert all(line.isprintable() for line in found)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TopologyError, match=r"cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(TopologyError, match=r"cannot be read"):
        load(tmp_path)


def test_labels():
    specs = [
        MethodSpec("sequence"),
        MethodSpec("sequence", {"gather": "kv"}),
        MethodSpec("block", {"joins": 1}),
        MethodSpec("block", {"joins": 4, "exchange": "sp"}),
        MethodSpec("astra", {"groups": 32}),
    ]
    assert [spec.label for spec in specs] == [
        "sequence",
        "sequence gather=kv",
        "block AG joins=1",
        "block SP joins=4",
        "astra G=32",
    ]


def test_path_goes_through_switches_and_the_slowest_link_counts():
    links = (
        Link.both("a", "s", Lane(1e7, 0.001)),
        Link("s", "t", Lane(2e6, 0.02), Lane(1e6, 0.01)),
        Link.both("b", "t", Lane(1e7, 0.002)),
        Link.both("a", "c", Lane(1e5)),
    )
    hosts = (Host("a"), Host("b"), Host("c"), Host("d"))
    topology = Topology("p", "mininet", hosts, (Switch("s"), Switch("t")), links, RunSpec("a", "vit-tiny"))
    way = path(topology, "b", "a")
    assert [hop.words for hop in way.hops] == ["b -> t", "t -> s", "s -> a"]
    assert way.rate_bit_s == 1e6
    assert way.delay_s == pytest.approx(0.013)
    assert way.rtt_s == pytest.approx(0.036)
    assert [hop.words for hop in path(topology, "c", "a").hops] == ["c -> a"]
    with pytest.raises(Unreachable):
        path(topology, "c", "d")
