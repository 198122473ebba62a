"""A network that is not the declared one is found out, with the link and the numbers; the declared one passes."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import crossings, linetime, probe, shape
from testbed.hosts import HOSTS, Network
from testbed.paths import Path, path
from testbed.topology import Host, Link, RunSpec, Switch, Topology

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec: hosts are network namespaces"
)


def _topology(hosts: int, switches: int, links: list[Link]) -> Topology:
    names = tuple(Host(f"h{i + 1}") for i in range(hosts))
    joints = tuple(Switch(f"s{i + 1}") for i in range(switches))
    return Topology("t", "mininet", names, joints, tuple(links), RunSpec("h1", "vit-base"))


def _star(hosts: int, rate_bit_s: float = 10e6) -> Topology:
    return _topology(hosts, 1, [Link(f"h{i + 1}", "s1", rate_bit_s) for i in range(hosts)])


def _mesh(hosts: int) -> Topology:
    pairs = [(i, j) for i in range(hosts) for j in range(i + 1, hosts)]
    return _topology(hosts, 0, [Link(f"h{i + 1}", f"h{j + 1}", 10e6) for i, j in pairs])


def _tree() -> Topology:
    edges = [Link(f"h{i}", "s1" if i < 3 else "s2", 10e6) for i in range(1, 5)]
    return _topology(4, 2, [*edges, Link("s1", "s2", 5e6)])


# What is true


@pytest.mark.parametrize(
    ("size_bytes", "truth_ms"), [(1000, 0.87), (4000, 3.4), (10000, 8.5), (15000, 12.8), (60000, 51.0), (250000, 212.5)]
)
def test_expected_times_are_those_of_the_line(size_bytes: int, truth_ms: float) -> None:
    cable = Path("h1", "h2", (Link("h1", "h2", 10e6),))
    answer_s = (1 + 90) * 8 / 10e6
    assert linetime.expected(cable, size_bytes, "netem") - answer_s == pytest.approx(truth_ms / 1e3, rel=0.01)


def test_a_switch_stores_and_forwards_one_frame_and_buckets_let_one_go_free() -> None:
    star = path(_star(2), "h1", "h2")
    frame_s, line_s = 1538 * 8 / 10e6, 100 * 1538 * 8 / 10e6
    assert linetime.expected(star, 144800, "netem") == pytest.approx(line_s + frame_s + 2 * 91 * 8 / 10e6)
    assert linetime.expected(star, 144800, "tbf") == pytest.approx(line_s - 1600 * 8 / 10e6)


@given(st.integers(1, 300_000), st.integers(1, 50_000), st.floats(1e6, 200e6), st.floats(1e6, 200e6))
def test_more_bytes_take_longer_and_a_bucket_never_makes_it_slower(
    size_bytes: int, more_bytes: int, up_bit_s: float, down_bit_s: float
) -> None:
    over = Path("h1", "h2", (Link("h1", "s1", up_bit_s), Link("h2", "s1", down_bit_s)))
    times_s = {shaper: linetime.expected(over, size_bytes, shaper) for shaper in shape.SHAPERS}
    assert 0 <= times_s["tbf"] <= times_s["netem"]
    assert linetime.expected(over, size_bytes + more_bytes, "tbf") >= times_s["tbf"]
    assert times_s["netem"] >= size_bytes * 8 / over.rate_bit_s


# What is measured


@pytest.mark.parametrize("topology", [_star(2), _star(4), _star(5), _mesh(4), _tree()], ids=str)
def test_the_chosen_paths_cross_every_direction_of_every_link(topology: Topology) -> None:
    chosen = crossings.chosen_paths(topology)
    crossed = {direction for over in chosen for direction in crossings.directions(over)}
    both = [(link.a, link.b) for link in topology.links] + [(link.b, link.a) for link in topology.links]
    assert crossed == {f"{a} -> {b}" for a, b in both}
    assert len(chosen) <= len(both)


def test_a_star_is_probed_as_a_ring_in_two_rounds() -> None:
    rounds = crossings.batches(crossings.chosen_paths(_star(4)))
    assert [[(p.source, p.target) for p in group] for group in rounds] == [
        [("h1", "h2"), ("h3", "h4")],
        [("h2", "h3"), ("h4", "h1")],
    ]


@pytest.mark.parametrize("topology", [_star(5), _mesh(4), _tree()], ids=str)
def test_paths_measured_at_once_share_nothing(topology: Topology) -> None:
    rounds = crossings.batches(crossings.chosen_paths(topology))
    for first, second in (group for group in rounds if len(group) > 1):
        assert {first.source, first.target}.isdisjoint((second.source, second.target))
        assert not set(first.links) & set(second.links)


# How it is judged


def _as_declared() -> dict[str, Any]:
    return {"rtt_s": 0.0, "goodput_bit_s": 9.4e6, "message_s": {"4000": 0.0021, "256000": 0.216}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rtt_s": 0.0004}, "RTT"),
        ({"goodput_bit_s": 9.4e6 * 0.94}, "long transfer"),
        ({"goodput_bit_s": 9.4e6 * 1.02}, "long transfer"),
        ({"message_s": {"4000": 0.0001, "256000": 0.216}}, "4000 B"),
        ({"message_s": {"4000": 0.0021, "256000": 0.230}}, "256000 B"),
        ({"message_s": {"4000": 0.0021}}, "not over in time"),
    ],
)
def test_each_deviation_is_named_and_the_declared_passes(change: dict[str, Any], says: str) -> None:
    over = path(_star(2), "h1", "h2")
    assert probe.judge(over, _as_declared(), _as_declared()) == []
    wrong = probe.judge(over, _as_declared() | change, _as_declared())
    assert len(wrong) == 1 and says in wrong[0]


def test_the_second_measurement_of_a_pair_decides() -> None:
    declared = {"rate_bit_s": 10e6}
    first = {"from": "h1", "to": "h2", "links": ["h1 -> h2"], "declared": declared, "verdict": "wrong", "why": "late"}
    assert probe.verdict([first]) == "wrong" and probe.verdict([]) == "ok"
    assert probe.complaints([first]) == ["h1 -> h2 (declared 10 Mbit/s): late"]
    assert probe.verdict([first, first | {"verdict": "ok", "why": ""}]) == "ok"


# The two ends, on loopback


@pytest.fixture
def receiver() -> Iterator[tuple[str, int]]:
    argv = [sys.executable, "-m", "runtime.echo", "serve", "127.0.0.1", "--idle-s", "20"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield "127.0.0.1", int(server.stdout.readline().split()[1])
        server.terminate()


def _echo(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.echo", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_stranger_is_dropped_and_the_next_measurement_is_whole(receiver: tuple[str, int]) -> None:
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n", b"M" + b"\xff" * 8, b"M"):
        with socket.create_connection(receiver) as stranger:
            stranger.sendall(rubbish)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(10)
            with suppress(ConnectionResetError):  # the receiving end hangs up on what it has not read
                assert stranger.recv(1) == b""
    said = json.loads(_echo("measure", *receiver, "--messages", "1000:3:0.001", "64000:2:0.001", "--pings", 4).stdout)
    assert {size: len(times) for size, times in said["message_s"].items()} == {"1000": 3, "64000": 2}
    assert len(said["rtt_s"]) == 4 and said["goodput_bit_s"] > 0
    said = json.loads(_echo("fan", "--peer", *receiver, "--repeats", 2, "--size-bytes", 300_000).stdout)
    assert [len(said[what]) for what in ("push_s", "pull_s")] == [2, 2]


def test_no_one_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    failed = _echo("measure", "127.0.0.1", port)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "refused" in failed.stderr


def test_the_device_end_loads_nothing_heavy() -> None:
    script = "import sys, runtime.echo; sys.exit(bool({'torch', 'numpy', 'ray', 'pydantic'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_what_is_not_shaped_is_not_judged() -> None:
    topology = replace(_star(2), backend="local")
    with HOSTS["local"](topology, secrets.token_hex(4)) as network:
        assert probe.probe(network, topology) == []


# Real networks


@pytest.fixture(scope="module")
def star() -> Iterator[tuple[Network, Topology]]:
    topology = _star(3)
    with HOSTS["mininet"](topology, secrets.token_hex(4)) as network:
        yield network, topology


@contextmanager
def _reshaped(network: Network, sender: str, receiver: str, lines: list[str]) -> Iterator[None]:
    """The egress of one direction, shaped by these lines (IF: its interface) instead; as declared again afterwards."""
    port = next(p for p in network.ports if (p.sender, p.receiver) == (sender, receiver))

    def run(*argv: str) -> None:
        if port.host is None:
            subprocess.run(argv, check=True)
        else:
            network.hosts[port.host].run(list(argv), 10.0)

    try:
        for line in lines:
            run(*(port.interface if word == "IF" else word for word in line.split()))
        yield
    finally:
        run("tc", "qdisc", "del", "dev", port.interface, "root")
        for command in shape.commands([port], shape.choose()):
            run(*command.argv)


@pytest.mark.root
@needs_root
def test_the_declared_network_passes(star: tuple[Network, Topology]) -> None:
    rows = probe.probe(*star)
    assert probe.verdict(rows) == "ok", probe.complaints(rows)
    ways = {f"h{i} -> s1" for i in (1, 2, 3)} | {f"s1 -> h{i}" for i in (1, 2, 3)}
    assert {hop for row in rows for hop in row["links"]} == ways
    assert {hop for row in rows for hop in row["links"] if len(row["links"]) == 1} == ways
    sizes = {"1000", "4000", "16000", "64000", "256000"}
    assert all(set(row["measured"]["message_s"]) == sizes for row in rows if len(row["links"]) == 2)


MININET_DEFAULT = [  # TCP's superpackets are left whole, and a whole one passes whenever the bucket is not empty
    "ip link set dev IF gso_max_segs 65535",
    "tc qdisc replace dev IF root handle 5: htb default 1",
    "tc class add dev IF parent 5: classid 5:1 htb rate 10mbit burst 15k",
]
LARGE_BUCKET = [*MININET_DEFAULT[1:2], MININET_DEFAULT[2] + " cburst 15k"]
UNSHAPED = ["tc qdisc replace dev IF root pfifo limit 1000"]
HALF = ["tc qdisc replace dev IF root tbf rate 5mbit burst 1600 limit 65536 overhead 24"]
DEAD = ["tc qdisc replace dev IF root tbf rate 10mbit burst 1600 limit 1"]
TOO_SOON = r" \(declared 10 Mbit/s\): 16000 B with two hosts at once takes 1\d[\d.]* ms, not 26[\d.]* ms"
TOO_SLOW = r" \(declared 10 Mbit/s\): .*a long transfer gets 4\.[67]\d* Mbit/s, not 9\.4\d* Mbit/s"
FAULTS = {
    "down, a large bucket": ("s1", "h2", LARGE_BUCKET, "^s1 -> h2" + TOO_SOON),
    "up, not shaped": ("h3", "s1", UNSHAPED, "^h3 -> s1" + TOO_SOON),
    "down, half the rate": ("s1", "h2", HALF, "s1 -> h2" + TOO_SLOW),
    "up, dead": ("h1", "s1", DEAD, "h1 -> s1 .* no measurement: "),
}


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_direction_is_found_and_named(star: tuple[Network, Topology], fault: str) -> None:
    sender, receiver, lines, says = FAULTS[fault]
    with _reshaped(star[0], sender, receiver, lines):
        rows = probe.probe(*star)
    assert probe.verdict(rows) == "wrong"
    assert any(re.search(says, line) for line in probe.complaints(rows)), probe.complaints(rows)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("lines", [MININET_DEFAULT, UNSHAPED], ids=["mininet's default", "not shaped"])
def test_a_network_whose_messages_ride_free_is_found_by_messages(
    star: tuple[Network, Topology], lines: list[str]
) -> None:
    network, topology = star
    with ExitStack() as faults:
        for link in topology.links:
            faults.enter_context(_reshaped(network, link.a, link.b, lines))
            faults.enter_context(_reshaped(network, link.b, link.a, lines))
        rows = probe.probe(network, topology)
    assert {row["verdict"] for row in rows} == {"wrong"}
    assert all(re.search(r"4000 B takes [\d.]+ us, not 2[\d.]* ms", row["why"]) for row in rows), rows
