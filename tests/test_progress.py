"""What is shown while a method runs: throughput by counters and clock, in windows of any size, no codes in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import secrets
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.text import Text

from testbed import gauge, live
from testbed.gauge import Flow, Gauge
from testbed.hosts import HOSTS, Counters
from testbed.hosts.namespace import NamespaceHost
from testbed.progress import Progress
from testbed.topology import Lane
from tests import runs
from tests.networks import needs_relay, root, star

UP, DOWN = "h1 -> s1", "s1 -> h1"
COLOURS, MOVES = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Machine:
    """A clock and counters that the test moves; every question takes `takes_s`, and is counted."""

    def __init__(self, lost: int | None = 0, takes_s: float = 0.0) -> None:
        self.now_s, self.asked, self.broken = 0.0, 0, False
        self.bytes = {UP: 5000, DOWN: 7}
        self.drops, self.lost, self.takes_s = 40, lost, takes_s

    def clock(self) -> float:
        return self.now_s

    def received(self) -> Mapping[str, int]:
        if self.broken:
            raise OSError("the network is down")
        return dict(self.bytes)

    def counted(self) -> Mapping[str, Counters]:
        self.asked += 1
        self.now_s += self.takes_s
        return {name: Counters(0, 0, self.drops, self.lost, 0) for name in self.bytes}

    def gauge(self) -> Gauge:
        return Gauge(self.received, self.counted, {UP: 10e6, DOWN: 20e6}, self.clock)


def plain(width: int = 80) -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=width, highlight=False), text


def shown(text: Text, width: int, height: int = 24) -> list[str]:
    """Lines as a window of this size has them."""
    console = Console(file=StringIO(), width=width, height=height, highlight=False)
    console.print(Group(text))  # alone it would lose that it does not wrap
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_throughput_is_bytes_over_seconds_and_drops_count_from_the_first_reading() -> None:
    machine = Machine(lost=3)
    one = machine.gauge()
    one.read(ask=True)
    assert one.flows == ()
    machine.now_s, machine.drops, machine.lost = 2.5, 52, 10
    machine.bytes = {UP: 5000 + 1_250_000, DOWN: 7}
    one.read(ask=True)
    assert one.flows == (Flow(UP, 1_250_000 * 8 / 2.5, 10e6, 12, 7), Flow(DOWN, 0.0, 20e6, 12, 7))
    assert live.busiest(one.flows) == "h1 -> s1 4 of 10 Mbit/s"
    one.changed(UP, 2e6)
    machine.now_s, machine.bytes[UP] = 3.5, machine.bytes[UP] + 250_000
    one.read(ask=True)
    assert one.flows[0] == Flow(UP, 2e6, 2e6, 12, 7)


@pytest.mark.parametrize(("takes_s", "least_s"), [(0.0, 1.0), (0.002, 1.0), (0.12, 12.0)])
def test_a_shaper_is_asked_once_a_second_at_most_and_for_one_percent_of_the_time(
    takes_s: float, least_s: float
) -> None:
    machine = Machine(takes_s=takes_s)
    one = machine.gauge()
    asked_at = []
    for tick in range(300):
        machine.now_s, before = tick * 0.25, machine.asked
        one.read(ask=True)
        asked_at += [tick * 0.25] * (machine.asked - before)
    gaps = [b - a for a, b in pairwise(asked_at)]
    assert min(gaps) >= least_s and max(gaps) <= least_s + 0.25
    before = machine.asked
    machine.now_s = 1000.0
    one.read(ask=False)
    assert machine.asked == before


def test_a_shaper_that_does_not_count_losses_has_none() -> None:
    machine = Machine(lost=None)
    one = machine.gauge()
    for machine.now_s in (0.0, 1.0):
        one.read(ask=True)
    assert [flow.lost for flow in one.flows] == [None, None]
    assert shown(live.screen("tensor", {}, one.flows, 80, 24), 80)[2].split()[-2:] == ["0", "-"]


def many(count: int, name: str = "h") -> tuple[dict[str, str], list[Flow]]:
    """Devices in three states, and both directions of a link of each, the later the busier."""
    states = ("computing or waiting for request 7", "answered request 7", live.IDLE)
    hosts = [f"{name}{i + 1}" for i in range(count)]
    ways = [f"{a} -> {b}" for host in hosts for a, b in ((host, "s1"), ("s1", host))]
    flows = [Flow(way, 1e6 * i, 10e6, i, 1) for i, way in enumerate(ways)]
    return {host: states[i % 3] for i, host in enumerate(hosts)}, flows


@pytest.mark.parametrize("name", ["h", "the-laptop-in-the-kitchen-no-"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (60, 12), (40, 24), (30, 5), (20, 2)])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_it_fits_every_window(count: int, width: int, height: int, name: str) -> None:
    devices, flows = many(count, name)
    head = "astra G=32       12 of 100, last 1.23 s, median 1.25 s, 38 s left"
    text = live.screen(head, devices, flows, width, height)
    lines = shown(text, width, height)
    assert 1 <= len(lines) < min(height, 24)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("astra G=32")
    if height >= 12 and width >= 60:
        assert "38 s left" in " ".join(" ".join(lines).split())


def test_of_many_directions_the_busiest_are_shown_and_the_rest_as_a_sum() -> None:
    devices, flows = many(16)
    lines = shown(live.screen("tensor", devices, flows, 80, 24), 80)
    table = [line.split() for line in lines if " -> " in line]
    assert [f"{a} -> {b}" for a, _, b, *_ in table] == [flow.name for flow in flows[-8:]]
    assert table[-1][3:] == ["31", "10", "31", "1"]
    rest = next(line.split() for line in lines if "others" in line)
    assert rest == ["24", "others", str(sum(range(24))), "-", str(sum(range(24))), "24"]


def test_devices_are_grouped_by_what_they_do_and_none_is_forgotten() -> None:
    devices = {"h1": "answered request 2", "h2": live.LOST, "h3": "answered request 2", "h4": live.IDLE}
    lines = shown(live.screen("tensor", devices, (), 80, 24), 80)
    assert lines == ["tensor", "lost: h2", "answered request 2: h1, h3", "idle: h4"]
    line = shown(live.screen("tensor", dict.fromkeys(many(16)[0], "loading"), (), 30, 24), 30)[1]
    assert line == "loading: h1, h2 and 14 more"


def test_a_line_that_is_down_says_so_and_one_without_a_rate_has_none() -> None:
    flows = (Flow(UP, 0.0, 0.0), Flow(DOWN, 12_345.0, float("inf")))
    lines = shown(live.screen("tensor", {}, flows, 80, 24), 80)
    assert lines[2].split() == ["h1", "->", "s1", "0", "down", "-", "-"]
    assert lines[3].split() == ["s1", "->", "h1", "0.012", "-", "-", "-"]
    assert live.busiest(flows) == "s1 -> h1 0.012 Mbit/s"


def test_plain_lines_name_the_busiest_direction_and_have_no_codes() -> None:
    machine = Machine()
    console, text = plain(width=40)
    with Progress(console, machine.clock) as progress:
        progress.method("tensor", 100, 600.0, ["h1"], machine.gauge())
        progress.device("h1", "computing or waiting for request 0")
        for done in range(7):
            machine.now_s += 2.0
            machine.bytes[DOWN] += 500_000
            progress.request(2.0, done, warmup=done == 0)
        progress.changed(DOWN, None)
        progress.done("ok", "6 requests")
    lines = text.getvalue().splitlines()
    assert [line.partition("; ")[2] for line in lines] == ["s1 -> h1 2 of 20 Mbit/s"] * 2 + [""]
    assert lines[0].split()[:4] == ["tensor", "2", "of", "100,"]
    assert "\x1b" not in text.getvalue() and "\r" not in text.getvalue()
    assert machine.asked == 0


def test_a_network_that_cannot_be_read_ends_the_view_and_not_the_run() -> None:
    machine = Machine()
    console, text = plain()
    with Progress(console, machine.clock) as progress:
        progress.method("tensor", 10, 600.0, ["h1"], machine.gauge())
        machine.broken = True
        for done in range(2):
            machine.now_s += 6.0
            progress.request(6.0, done, warmup=done == 0)
        progress.changed(UP, Lane(1e6))
        progress.done("ok", "1 request")
    assert len(text.getvalue().splitlines()) == 3 and "Mbit/s" not in text.getvalue()


def test_a_terminal_that_knows_no_codes_gets_plain_lines() -> None:
    machine = Machine()
    text = StringIO()
    console = Console(file=text, width=80, force_terminal=True, force_interactive=False, color_system=None)
    with Progress(console, machine.clock) as progress:
        progress.method("tensor", 10, 600.0)
        machine.now_s = 6.0
        progress.request(6.0, 0, warmup=True)
    assert text.getvalue().split()[:3] == ["tensor", "warming", "up,"] and "\x1b" not in text.getvalue()


@pytest.mark.alone
@pytest.mark.parametrize("shaper", [pytest.param("tbf", marks=root), pytest.param("relay", marks=[*root, needs_relay])])
def test_interfaces_count_what_the_shaper_counts(shaper: str) -> None:
    """100 packets of 1000 bytes each way, with their headers: the same bytes by both, on every direction."""
    machine = Machine()
    with HOSTS["mininet"](star(2), secrets.token_hex(4), shaper) as network:
        h1, h2 = network.hosts["h1"], network.hosts["h2"]
        assert isinstance(h1, NamespaceHost) and isinstance(h2, NamespaceHost)
        pids = {"h1": h1.pid, "h2": h2.pid}
        one = gauge.of_network(network, pids, machine.clock)
        assert one is not None and network.shaping is not None
        one.read(ask=True)
        before = network.shaping.counters()
        h1.run(["ping", "-q", "-c", "100", "-i", "0.003", "-s", "992", h2.address_for("h1")])
        machine.now_s = 1.0
        one.read(ask=True)
        after = network.shaping.counters()
    assert [flow.name for flow in one.flows] == ["h1 -> s1", "s1 -> h1", "h2 -> s1", "s1 -> h2"]
    for flow in one.flows:
        grown = after[flow.name].bytes - before[flow.name].bytes
        assert flow.bit_s / 8 == pytest.approx(grown, abs=200)  # an ARP between two questions
        assert grown == pytest.approx(100 * (14 + 20 + 8 + 992), abs=500)
        assert (flow.line_bit_s, flow.queue_drops, flow.lost) == (10e6, 0, 0)


def terminal(command: list[str], width: int, height: int) -> tuple[int, str]:
    """Exit status and all output of a command that has a terminal of this size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    options = {"stdin": slave, "stdout": slave, "stderr": slave, "cwd": runs.ROOT}
    process = subprocess.Popen(command, env=environment | {"TERM": "xterm"}, **options)  # type: ignore[call-overload]
    os.close(slave)
    deadline, parts = time.monotonic() + runs.LIMIT_S, list[bytes]()
    try:
        while True:
            assert select.select([master], [], [], deadline - time.monotonic())[0], b"".join(parts).decode()
            try:
                parts.append(os.read(master, 1 << 16))
            except OSError:  # its last holder has gone
                break
        return process.wait(60), b"".join(parts).decode()
    finally:
        os.close(master)
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_a_terminal_shows_what_devices_do_as_a_run_goes_on(tmp_path: Path) -> None:
    text = runs.LOCAL.replace(", h3: {{}}", "")
    path = runs.topology(tmp_path, text, methods="[sequence]", repeats=100000, budget=1, tokens=196)
    command = [sys.executable, "-m", "testbed.run", str(path), "--out", str(tmp_path / "out")]
    code, output = terminal(command, 80, 24)
    seen = MOVES.sub("\n", COLOURS.sub("", output))
    assert code == 0, output
    for words in (
        r"sequence +starting",
        r"loading: h1(, h2)?",
        r"(computing or waiting for|answered) request \d+: h[12].*",
        r"sequence +\d+ of 100000, last [\d.]+ m?s, median [\d.]+ m?s, \d s left",
        r"sequence +ok +\d+ of 100000 requests",
    ):
        assert re.search(f"^{words}$", seen, re.MULTILINE), (words, output)
    assert all(len(line) <= 80 for line in seen.splitlines() if not line.startswith("saved in")), output
    assert runs.left_behind(tmp_path / "out") == []
