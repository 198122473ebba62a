"""A network that is not the declared one is found out, with the link and the numbers; the declared one passes."""

import io
import itertools
import json
import math
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
from rich.console import Console

from runtime import datagrams
from runtime.datagrams import Arrival
from testbed import counting, crossings, judge, probe, shape, trials, withheld
from testbed.hosts import HOSTS, Network
from testbed.linktable import render_links
from testbed.paths import path
from testbed.topology import Host, Lane, Link, Loss, RunSpec, Switch, Topology, dump
from testbed.units import parse_duration, parse_rate

pytestmark = [pytest.mark.alone, pytest.mark.measures]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec: hosts are network namespaces"
)
LANE = Lane(10e6)


def _topology(hosts: int, switches: int, links: list[Link]) -> Topology:
    names = tuple(Host(f"h{i + 1}") for i in range(hosts))
    joints = tuple(Switch(f"s{i + 1}") for i in range(switches))
    return Topology("t", "mininet", names, joints, tuple(links), RunSpec("h1", "vit-base"))


def _star(hosts: int, lane: Lane = LANE) -> Topology:
    return _topology(hosts, 1, [Link.both(f"h{i + 1}", "s1", lane) for i in range(hosts)])


def _mesh(hosts: int) -> Topology:
    pairs = [(i, j) for i in range(hosts) for j in range(i + 1, hosts)]
    return _topology(hosts, 0, [Link.both(f"h{i + 1}", f"h{j + 1}", LANE) for i, j in pairs])


def _ring(hosts: int, closed: bool = True) -> Topology:
    steps = range(hosts if closed else hosts - 1)
    return _topology(hosts, 0, [Link.both(f"h{i + 1}", f"h{(i + 1) % hosts + 1}", LANE) for i in steps])


def _sites(trunk_bit_s: float = 5e6) -> Topology:
    edges = [Link.both(f"h{i}", "s1" if i < 3 else "s2", LANE) for i in range(1, 5)]
    return _topology(4, 2, [*edges, Link.both("s1", "s2", Lane(trunk_bit_s))])


def _medium(hosts: int) -> Topology:
    links = [Link(f"h{i + 1}", "s1", LANE, Lane(math.inf)) for i in range(hosts)]
    return replace(_topology(hosts, 1, links), switches=(Switch("s1", "shared", 10e6),))


TOPOLOGIES = {
    "two": _star(2),
    "star": _star(4),
    "odd star": _star(5),
    "mesh": _mesh(4),
    "sites": _sites(),
    "ring": _ring(5),
    "line": _ring(4, closed=False),
    "medium": _medium(4),
}
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


# What is measured


@every_topology
def test_the_chosen_paths_cross_every_direction_of_every_link(topology: Topology) -> None:
    chosen = crossings.chosen_paths(topology)
    crossed = {direction for over in chosen for direction in crossings.directions(over)}
    both = [(link.a, link.b) for link in topology.links] + [(link.b, link.a) for link in topology.links]
    assert crossed == {f"{a} -> {b}" for a, b in both}
    assert len(chosen) <= len(both)


@every_topology
def test_a_path_names_as_few_links_as_can_be_and_is_measured_with_nothing_beside_it(topology: Topology) -> None:
    chosen = crossings.chosen_paths(topology)
    assert all(len(over.hops) == 1 for over in chosen) or topology.switches
    for group in crossings.batches(chosen):
        ends = [end for over in group for end in (over.source, over.target)]
        links = [link for over in group for link in {hop.link for hop in (*over.hops, *over.answers)}]
        assert len(ends) == len(set(ends)) and len(links) == len(set(links))
        assert len(group) == 1 or not any(switch.kind == "shared" for switch in topology.switches)


def test_edges_behind_a_narrow_trunk_are_also_measured_without_it() -> None:
    chosen = crossings.chosen_paths(_sites())
    told = {hop.words for over in chosen for hop in over.hops if hop.lane.rate_bit_s == over.rate_bit_s}
    assert told == {hop.words for over in chosen for hop in over.hops}


def test_a_star_is_probed_as_a_ring_in_two_rounds() -> None:
    rounds = crossings.batches(crossings.chosen_paths(_star(4)))
    assert [[(p.source, p.target) for p in group] for group in rounds] == [
        [("h1", "h2"), ("h3", "h4")],
        [("h2", "h3"), ("h4", "h1")],
    ]


def _trial(lane: Lane) -> trials.Trial:
    return trials.trial(path(_star(2, lane), "h1", "h2"), "relay", thorough=True)


@pytest.mark.parametrize(
    ("lane", "not_judged"),
    [
        (LANE, []),
        (Lane(10e6, 5e-3), []),
        (Lane(10e6, loss=Loss(0.005)), ["goodput_bit_s", "message_s 256000"]),
        (Lane(10e6, loss=Loss(0.03)), ["goodput_bit_s", "message_s 256000", "message_s 64000"]),
        (Lane(100e6, 5e-3, queue_bytes=65536), ["goodput_bit_s", "message_s 256000", "message_s 64000"]),
        (Lane(10e6, 5e-3, 1e-3, reorder=True), ["goodput_bit_s"]),
    ],
    ids=str,
)
def test_what_tcp_cannot_tell_is_left_out_with_the_reason(lane: Lane, not_judged: list[str]) -> None:
    found = _trial(lane)
    assert sorted(found.not_judged) == not_judged and all(found.not_judged.values())
    assert ("rate_bit_s" in found.wanted) == ("goodput_bit_s" in not_judged)
    assert {"1000", "4000"} <= set(found.wanted["message_s"])


@pytest.mark.parametrize("rate_bit_s", [64e3, 1e6, 10e6, 1e9])
@pytest.mark.parametrize("loss", [0.0, 0.001, 0.01, 0.2])
def test_datagrams_are_as_many_as_fit_and_never_fill_a_queue(rate_bit_s: float, loss: float) -> None:
    words = _trial(Lane(rate_bit_s, loss=Loss(loss))).words
    count, size_bytes, spacing_s, head = (float(word) for word in words[words.index("--loss") + 1].split(":"))
    assert 20 <= count <= 12000 and count * spacing_s <= 3.1 and head == 0
    assert (size_bytes + 42 + 24) * 8 / spacing_s <= 0.7 * rate_bit_s


@pytest.mark.parametrize("rate_bit_s", [64e3, 10e6, 1e9])
def test_a_train_fits_into_the_queue_and_would_show_a_faster_link(rate_bit_s: float) -> None:
    count, spacing_s, head = trials.train_shape(rate_bit_s, 65536)
    assert head * 1538 <= 65536 / 2 and count / (count - head) >= 1.05
    assert 1538 * 8 / spacing_s == pytest.approx(rate_bit_s)


@pytest.mark.parametrize("loss", [Loss(0.001), Loss(0.01), Loss(0.0, 0.01, 0.33), Loss(0.2)], ids=str)
@pytest.mark.parametrize("rate_bit_s", [64e3, 1e6, 10e6])
def test_no_loss_at_all_is_found_out_or_it_is_said_that_it_would_not_be(rate_bit_s: float, loss: Loss) -> None:
    lane = Lane(rate_bit_s, loss=loss)
    found = _trial(lane)
    least = judge.loss_band(path(_star(2, lane), "h1", "h2"), found.datagrams)[0]
    assert (least > 0) is ("loss" not in found.not_judged)
    assert least > 0 or f"{found.datagrams} datagrams are too few" in found.not_judged["loss"]
    assert least > 0 or rate_bit_s < 10e6


def test_sizes_that_take_too_long_are_named() -> None:
    assert "it takes" in _trial(Lane(64e3)).not_judged["message_s 64000"]


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_a_path_that_never_answers_costs_minutes_at_most(delay_s: float, loss: float) -> None:
    assert _trial(Lane(64e3, delay_s, loss=Loss(loss))).limit_s <= 120 + 4 * 70 * delay_s + 60


HOME = replace(
    _topology(3, 1, [Link(f"h{i}", "s1", Lane(2e6, 8e-3, 4e-3), Lane(20e6, 8e-3, 4e-3)) for i in (1, 2, 3)]),
    name="home",
)
UNSHOWN = {
    "star": (_star(4), set(), ""),
    "mesh": (_mesh(3), set(), ""),
    "medium": (_medium(4), set(), ""),
    "two": (_star(2), {"h1 -> s1", "s1 -> h1", "h2 -> s1", "s1 -> h2"}, "no other link as slow"),
    "home": (HOME, {"s1 -> h1", "s1 -> h2", "s1 -> h3"}, "no pair of hosts can fill it, only .* below 2 Mbit/s"),
    "short queues": (
        _star(3, Lane(10e6, queue_bytes=20000)),
        {f"{a} -> {b}" for i in (1, 2, 3) for a, b in ((f"h{i}", "s1"), ("s1", f"h{i}"))},
        "queues of 64 KiB",
    ),
}


@pytest.mark.parametrize("case", UNSHOWN)
def test_a_rate_that_nothing_shows_is_named_with_the_reason(case: str) -> None:
    topology, directions, why = UNSHOWN[case]
    found = crossings.unshown(topology)
    assert set(found) == directions and all(re.search(why, reason) for reason in found.values()), found


# How it is judged


def _as_declared() -> dict[str, Any]:
    times = {"rtt_s": 0.0, "message_s": {"4000": 0.0021, "256000": 0.216}}
    return {"goodput_bit_s": 9.4e6, "loss": 0.0, "datagrams": 1000, **times}


def _judge(measured: dict[str, Any], lane: Lane = LANE) -> list[judge.Deviation]:
    over = path(_star(2, lane), "h1", "h2")
    wanted = {key: value for key, value in _as_declared().items() if key != "datagrams"} | {"loss": over.loss}
    return judge.judge(measured, wanted, judge.bands(over, wanted, datagrams=1000))


@pytest.mark.parametrize(
    ("change", "says", "slight"),
    [
        ({"rtt_s": 0.0004}, "RTT is 400 us", True),
        ({"rtt_s": 0.0007}, "RTT is 700 us", False),
        ({"goodput_bit_s": 9.4e6 * 0.94}, "long transfer", False),
        ({"goodput_bit_s": 9.4e6 * 1.02}, "long transfer", False),
        ({"loss": 0.001}, "0.1 % of 1000 datagrams are lost, not 0 %", False),
        ({"message_s": {"4000": 0.0001, "256000": 0.216}}, "4000 B takes 100 us", False),
        ({"message_s": {"4000": 0.0021, "256000": 0.230}}, "256000 B takes 230 ms", True),
        ({"message_s": {"4000": 0.0021, "256000": 0.250}}, "256000 B takes 250 ms", False),
        ({"message_s": {"4000": 0.0021}}, "256000 B was not over in time", False),
    ],
)
def test_each_deviation_is_named_and_the_declared_passes(change: dict[str, Any], says: str, slight: bool) -> None:
    assert _judge(_as_declared()) == []
    wrong = _judge(_as_declared() | change)
    assert len(wrong) == 1 and says in wrong[0].text and wrong[0].slight is slight
    assert [judge.verdict_of(wrong, attempt) for attempt in (1, 2)] == ["wrong", "degraded" if slight else "wrong"]


@pytest.mark.parametrize(("lost", "fine"), [(0.0, False), (0.005, True), (0.02, True), (0.033, True), (0.036, False)])
def test_loss_may_be_off_by_three_standard_deviations(lost: float, fine: bool) -> None:
    lane = Lane(10e6, loss=Loss(0.01))  # two links: 1.99 % of 1000, sigma 0.44 %
    assert (_judge(_as_declared() | {"loss": lost}, lane) == []) is (fine and lost > 0.0067)


def test_bursts_widen_what_is_accepted_of_the_same_mean() -> None:
    bursts = Loss(0.0, 0.01, 0.24)
    assert bursts.mean == pytest.approx(0.04)
    at, bursty = (
        judge.loss_band(path(_star(2, Lane(10e6, loss=one)), "h1", "h2"), 1000) for one in (Loss(0.04), bursts)
    )
    assert bursty[0] < at[0] < at[1] < bursty[1]


def test_the_second_measurement_of_a_path_decides_before_and_after_a_run() -> None:
    declared = {"rate_bit_s": 10e6, "rtt_s": 0.01, "loss": 0.02}
    first = {"when": "before", "from": "h1", "to": "h2", "links": ["h1 -> h2"], "declared": declared}
    first |= {"verdict": "wrong", "why": "late"}
    good = first | {"verdict": "ok", "why": ""}
    assert probe.verdict([first]) == "wrong" and probe.verdict([]) == "ok"
    assert probe.complaints([first]) == ["h1 -> h2 (declared 10 Mbit/s, RTT 10 ms, 2 % loss): late"]
    assert probe.verdict([first, good]) == "ok"
    assert probe.verdict([first, good, first | {"when": "after", "verdict": "degraded"}]) == "degraded"
    assert probe.verdict([good, first | {"when": "after"}]) == "wrong"


def _delays(lane: Lane, hosts: int = 2) -> tuple[counting.Counted, counting.Spread]:
    over = path(_topology(2, 0, [Link.both("h1", "h2", lane)]) if hosts == 2 else _star(3, lane), "h1", "h2")
    counted = counting.for_jitter(over, thorough=True)
    return counted, counting.due_spread(over, counted)


def test_the_delays_that_are_due_are_those_of_a_uniform_jitter() -> None:
    _, calm = _delays(Lane(10e6, 0.02))
    assert calm.spread_band_s == [0.0, 0.3e-3] and calm.reordered_band == [0.0, 0.0]
    for reorder in (True, False):
        counted, due = _delays(Lane(100e6, 0.02, 0.01, reorder=reorder))
        assert counted.spacing_s == (0.005 if reorder else 0.01)
        # Of delays uniform in +- j the middle half spans j, or less where late ones hold up those behind them. With
        # spacing j/2, the three before it overtake one with 9/32, 1/8, 1/32.
        assert due.spread_s == pytest.approx(0.01, rel=0.1) if reorder else 0.007 < due.spread_s < 0.01
        assert 9 / 32 < due.reordered < 14 / 32 if reorder else due.reordered == 0
        assert 0.003 < due.spread_band_s[0] < due.spread_s < due.spread_band_s[1] < 0.017


def test_jitter_that_is_not_there_or_not_declared_and_a_lost_order_are_deviations() -> None:
    over = path(_star(3, Lane(10e6, 0.02, 0.005)), "h1", "h2")
    due = counting.due_spread(over, counting.for_jitter(over, thorough=True))
    wanted = {"spread_s": due.spread_s, "reordered": 0.0}
    accepted = judge.bands(over, wanted, spread=due)
    assert judge.judge(wanted, wanted, accepted) == []
    (one,) = judge.judge(wanted | {"spread_s": 0.1e-3}, wanted, accepted)
    assert "the middle half of the delays spans 100 us, not" in one.text and not one.slight
    (one,) = judge.judge(wanted | {"reordered": 0.1}, wanted, accepted)
    assert "10 % of the datagrams are overtaken, not 0 %" in one.text
    calm = judge.bands(over, {"spread_s": 0.0}, spread=counting.Spread(0.0, 0.0, 0.0, 0.0))
    (one,) = judge.judge({"spread_s": 2e-3}, {"spread_s": 0.0}, calm)
    assert "spans 2 ms" in one.text


def test_jitter_too_small_to_tell_is_said() -> None:
    assert "jitter" in _trial(Lane(10e6, 1e-3, 0.1e-3)).not_judged
    assert "jitter" not in _trial(Lane(10e6, 1e-3, 0.5e-3)).not_judged


# Datagrams


def test_the_spacing_of_a_train_is_found_behind_losses_and_a_late_one() -> None:
    arrivals = [Arrival(number, 5.0 + 1e-3 * number) for number in range(400) if number % 7]
    assert datagrams.spacing_s(arrivals) == pytest.approx(1e-3)
    arrivals[200] = Arrival(arrivals[200].number, arrivals[200].at_s + 5e-3)
    assert datagrams.spacing_s(arrivals) == pytest.approx(1e-3, rel=1e-3)
    assert datagrams.spacing_s(arrivals[:1]) == datagrams.spacing_s([]) == 0.0


def test_delays_are_compared_whatever_the_clocks_say_and_single_late_ones_change_nothing() -> None:
    arrivals = [Arrival(n, 5.0 + n * 1e-3 + n % 5 * 1e-3, 900.0 + n * 1e-3) for n in range(100)]
    assert datagrams.spread_s(arrivals) == pytest.approx(2e-3)  # of 0 to 4 ms, all equally often
    assert datagrams.spread_s([*arrivals[:-5], *(Arrival(n, 9.0, 900.0) for n in range(5))]) == pytest.approx(2e-3)
    assert datagrams.spread_s(arrivals[:7]) == 0.0
    assert [datagrams.late_numbers([Arrival(n, 0.0) for n in order]) for order in ((0, 1, 3), (0, 3, 1, 2))] == [0, 2]


def test_trains_from_two_count_while_both_arrive() -> None:
    first, second = ([Arrival(n, start + n * 1e-3) for n in range(10)] for start in (1.0, 1.0045))
    assert [len(part) for part in datagrams.overlapping([first, second])] == [5, 5]


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
            stranger.settimeout(10)
            with suppress(OSError):  # the receiving end hangs up on what it has not read, maybe before we are done
                stranger.sendall(rubbish)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
    said = json.loads(_echo("measure", *receiver, "--messages", "16:4:0", "1000:3:0.001", "64000:2:0.001").stdout)
    assert {size: len(times) for size, times in said["message_s"].items()} == {"1000": 3, "64000": 2}
    assert len(said["rtt_s"]) == 4 and said["goodput_bit_s"] > 0
    said = json.loads(_echo("fan", "--peer", *receiver, "--repeats", 2, "--size-bytes", 300_000).stdout)
    assert [len(said[what]) for what in ("push_s", "pull_s")] == [2, 2]


def test_messages_that_must_be_whole_and_trains_on_a_link_that_loses_nothing(receiver: tuple[str, int]) -> None:
    messages = ["--window-bytes", 400_000, "--messages", "16:4:0:0:5", "64000:3:0.001:64000:5"]
    trains = [
        "--loss",
        "300:22:0.0002:0",
        "--jitter",
        "40:22:0.001:0",
        "--train",
        "100:1472:0.001:5",
        "100:1472:0.001:5",
    ]
    said = json.loads(_echo("measure", *receiver, *messages, *trains).stdout)
    assert (len(said["rtt_s"]), len(said["message_s"]["64000"]), said["missing"]) == (4, 3, {})
    assert said["delays"][0] == 40 and 0 < said["delays"][1] < 0.01 and said["delays"][2] == 0
    assert said["arrived"] == 300 and len(said["spacing_s"]) == 2 and all(0 < s < 0.0012 for s in said["spacing_s"])
    peers = ["--peer", *receiver, "--peer", *receiver]
    said = json.loads(_echo("trains", *peers, "--push", "50:1472:0.001:5", "--pull", "50:1472:0.001:5").stdout)
    assert [len(train) for train in (*said["push"], *said["pull"])] == [2, 2]


def test_a_size_of_which_no_repeat_counts_has_a_reason(receiver: tuple[str, int]) -> None:
    no_time = "64000:1:0:64000:0"
    said = json.loads(_echo("measure", *receiver, "--window-bytes", 90_000, "--messages", "16:1:0:0:5", no_time).stdout)
    assert len(said["rtt_s"]) == 1 and said["message_s"] == {} and "window" in said["missing"]["64000"]


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
    with HOSTS["mininet"](topology, secrets.token_hex(4), "tbf") as network:
        yield network, topology


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Network, Topology]]:
    topology = _star(2)
    with HOSTS["mininet"](topology, secrets.token_hex(4), "tbf") as network:
        yield network, topology


@contextmanager
def _reshaped(network: Network, sender: str, receiver: str, lines: list[str]) -> Iterator[None]:
    """The egress of one direction, shaped by these lines (IF: its interface) instead; as declared again afterwards."""
    port = next(p for p in network.ports if (p.hop.sender, p.hop.receiver) == (sender, receiver))

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
        for command in shape.commands([port], "tbf"):
            run(*command.argv)


@pytest.mark.root
@needs_root
def test_the_declared_network_passes(star: tuple[Network, Topology]) -> None:
    rows = probe.probe(*star)
    late = [row for row in judge.last(rows) if row["verdict"] != "ok"]
    # A machine that is slow to wake up is a little late with a ping of no length, and with nothing else.
    assert all(re.fullmatch(r"RTT is [\d.]+ us, not 0 ms", row["why"]) for row in late), probe.complaints(rows)
    assert probe.verdict(rows) != "wrong", probe.complaints(rows)
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
TOO_SOON = (r" \(declared 10 Mbit/s\): 16000 B with two hosts at once takes", 0.4, 0.8)
TOO_SLOW = (r" \(declared 10 Mbit/s\): .*a long transfer gets", 0.45, 0.55)
FAULTS = {
    "down, a large bucket": ("s1", "h2", LARGE_BUCKET, "^s1 -> h2", TOO_SOON),
    "up, not shaped": ("h3", "s1", UNSHAPED, "^h3 -> s1", TOO_SOON),
    "down, half the rate": ("s1", "h2", HALF, "s1 -> h2", TOO_SLOW),
    "up, dead": ("h1", "s1", DEAD, "h1 -> s1 .* no measurement: ", None),
}


def _of_declared(words: str, line: str) -> float | None:
    """What follows these words as a share of what should have been, whatever its unit and digits; None: not there."""
    found = re.search(rf"{words} ([\d.]+ [^\s;,]+), not ([\d.]+ [^\s;,]+)", line)
    if found is None:
        return None
    read = parse_rate if found[1].endswith("bit/s") else parse_duration
    return read(found[1]) / read(found[2])


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_direction_is_found_and_named(star: tuple[Network, Topology], fault: str) -> None:
    sender, receiver, lines, named, says = FAULTS[fault]
    with _reshaped(star[0], sender, receiver, lines):
        rows = probe.probe(*star)
    assert probe.verdict(rows) == "wrong"
    complaints = [line for line in probe.complaints(rows) if re.search(named, line)]
    assert complaints, probe.complaints(rows)
    if says is not None:
        words, least, most = says
        shares = [_of_declared(named + words, line) for line in complaints]
        assert any(share is not None and least < share < most for share in shares), complaints


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("lines", [MININET_DEFAULT, UNSHAPED], ids=["mininet's default", "not shaped"])
def test_a_network_whose_messages_ride_free_is_found_by_messages(
    pair: tuple[Network, Topology], lines: list[str]
) -> None:
    network, topology = pair
    with ExitStack() as faults:
        for link in topology.links:
            faults.enter_context(_reshaped(network, link.a, link.b, lines))
            faults.enter_context(_reshaped(network, link.b, link.a, lines))
        rows = probe.probe(network, topology)
    assert {row["verdict"] for row in rows} == {"wrong"}
    assert all((_of_declared("4000 B takes", row["why"]) or 1.0) < 0.5 for row in rows), rows


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("ticks", [0, 100])
def test_what_is_out_while_a_hypervisor_withholds_processors_is_measured_again_and_says_so(
    pair: tuple[Network, Topology], ticks: int, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that counts `ticks` more every 10 ms as withheld from a processor, in place of this one's."""
    stat, over = tmp_path / "stat", threading.Event()

    def count() -> None:
        for number in itertools.count():
            (tmp_path / "next").write_text(f"cpu  1 2 3 4 5 6 7 0 0 0\ncpu0 1 2 3 4 5 6 7 {number * ticks} 0 0\n")
            os.replace(tmp_path / "next", stat)
            if over.wait(0.01):
                return

    counter = threading.Thread(target=count)
    counter.start()
    try:
        while not stat.exists():
            pass
        monkeypatch.setattr(withheld, "STAT", stat)
        with _reshaped(pair[0], "h1", "s1", HALF):
            rows = probe.probe(*pair)
    finally:
        over.set()
        counter.join()
    wrong = [row for row in rows if row["verdict"] == "wrong"]
    assert max(row["attempt"] for row in wrong) == (judge.MOST_ATTEMPTS if ticks else 2)
    assert all(row["withheld"] == (1.0 if ticks else 0.0) for row in rows)
    assert all(("the hypervisor withheld" in row["why"]) == bool(ticks) for row in wrong if row["slow"])
    told = io.StringIO()
    render_links(rows, Console(file=told, width=200))
    assert f"measured {'again, the last' if ticks else 'twice, the second'} counts: h1 > h2" in told.getvalue()


@pytest.mark.parametrize(
    ("found", "attempts"),
    [
        ([("ok", False, 0.2)], 2),
        ([("wrong", True, 0.2), ("ok", False, 0.2)], 3),
        ([("wrong", True, 0.2)], judge.MOST_ATTEMPTS),
        ([("wrong", True, 0.0)], 2),
        ([("wrong", False, 0.2)], 2),
        ([("wrong", True, 0.01), ("wrong", True, 0.001)], 3),
    ],
    ids=["good", "good at last", "never good", "nothing withheld", "not slow", "nothing withheld any more"],
)
def test_a_measurement_is_repeated_until_it_is_good_or_has_no_excuse(
    found: list[tuple[str, bool, float]], attempts: int
) -> None:
    """found: of each further attempt, the last of which stands for all after it; in time and too late for a third."""

    def measured(how: probe._How) -> list[judge.Row]:
        verdict, slow, share = found[min(how.attempt - 2, len(found) - 1)]
        return [{"attempt": how.attempt, "verdict": verdict, "slow": slow, "withheld": share}]

    for until_s, last in ((math.inf, attempts), (0.0, 2)):
        how = probe._How(None, "tbf", "before", 2, True, until_s)  # type: ignore[arg-type]
        assert [row["attempt"] for row in probe._repeated(measured, how)] == list(range(2, last + 1))


LOSSY = Topology(
    "cable",
    "mininet",
    (Host("h1"), Host("h2")),
    (),
    (Link("h1", "h2", Lane(10e6, 30e-3, loss=Loss(0.02)), Lane(20e6, 10e-3)),),
    RunSpec("h1", "vit-base"),
)  # delays so long that 5 % of them is more than a slow machine is late


@pytest.mark.root
@needs_root
def test_delay_and_loss_of_each_direction_are_measured_and_what_is_missing_is_named() -> None:
    up, down = LOSSY.links[0].up, LOSSY.links[0].down
    with HOSTS["mininet"](LOSSY, secrets.token_hex(4), "relay") as network:
        rows = probe.probe(network, LOSSY)
        assert probe.verdict(rows) == "ok", probe.complaints(rows)
        assert all("loss" in row["measured"] and row["not_judged"]["goodput_bit_s"] for row in rows)
        assert network.shaping is not None
        network.shaping.change("h1", "h2", replace(up, loss=Loss(0.0)))
        network.shaping.change("h2", "h1", replace(down, rate_bit_s=40e6, delay_s=30e-3))
        rows = probe.probe(network, LOSSY, when="after")
    assert {row["when"] for row in rows} == {"after"}
    there, back = probe.complaints(rows)
    assert re.search(r"^h1 -> h2 .*0 % of \d+ datagrams are lost, not [\d.]+ % to [\d.]+ %", there)
    assert back.startswith("h2 -> h1 ")
    assert 1.45 < (_of_declared("RTT is", back) or 0.0) < 1.6, back  # 20 ms were added to 40
    assert (_of_declared("a train of datagrams gets", back) or 0.0) > 1.1, back


@pytest.mark.root
@needs_root
def test_with_delay_two_trains_at_once_show_a_direction_alone() -> None:
    topology = _star(3, Lane(20e6, 10e-3))
    with HOSTS["mininet"](topology, secrets.token_hex(4), "relay") as network:
        assert network.shaping is not None
        network.shaping.change("h2", "s1", Lane(30e6, 10e-3))
        rows = probe.probe(network, topology)
    complaints = probe.complaints(rows)
    assert len(complaints) == 1 and complaints[0].startswith("h2 -> s1 "), complaints
    assert (_of_declared("two trains at once get", complaints[0]) or 0.0) > 1.1, complaints


@pytest.mark.root
@needs_root
def test_jitter_that_is_not_there_is_found_and_a_rate_that_nothing_shows_is_named() -> None:
    up, down = Lane(10e6, 4e-3, 3e-3), Lane(40e6, 4e-3, 3e-3)
    topology = _topology(2, 1, [Link(f"h{i}", "s1", up, down) for i in (1, 2)])
    with HOSTS["mininet"](topology, secrets.token_hex(4), "relay") as network:
        rows = probe.probe(network, topology)
        assert probe.verdict(rows) == "ok", probe.complaints(rows)
        told = "\n".join(probe.not_judged(rows))
        assert re.search(r"a rate not judged: no pair of hosts can fill it.* \((s1 -> h\d(, )?){2}\)", told), told
        assert network.shaping is not None
        for link in topology.links:
            network.shaping.change(link.a, link.b, replace(up, jitter_s=0.0))
            network.shaping.change(link.b, link.a, replace(down, jitter_s=0.0))
        rows = probe.probe(network, topology, when="after")
    assert {row["verdict"] for row in rows} == {"wrong"}
    assert all((_of_declared("middle half of the delays spans", row["why"]) or 1.0) < 0.5 for row in rows), rows


@pytest.mark.root
@needs_root
def test_a_file_is_probed_and_printed_without_anything_else(
    tmp_path: FilePath, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cable.yaml"
    file.write_text(dump(_topology(2, 0, [Link.both("h1", "h2", Lane(100e6))])))
    said = list[str]()
    assert probe.main(file, "tbf", said.append) == 0
    assert re.search(r"2 hosts, links by tbf, probed in [\d.]+ s", said[0])
    assert re.search(r"h1 > h2 .* ok", capsys.readouterr().out)
