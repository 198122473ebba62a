"""The relay as a process: frames between real TAP devices in namespaces, against what the lanes declare."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.hosts import HostError
from testbed.relay.client import Relay, write_plan
from testbed.relay.line import OVERHEAD_BYTES
from testbed.topology import Lane, Link, Loss
from tests.runs import ROOT

pytestmark = [pytest.mark.alone, pytest.mark.measures]

NEEDS = "needs root, /dev/net/tun, ip, unshare, nsenter and ping: TAP devices are joined to two namespaces"
root = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/dev/net/tun").exists()
    or not all(map(shutil.which, ("ip", "unshare", "nsenter", "ping"))),
    reason=NEEDS,
)
IPS = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True)
class Net:
    """Two namespaces that the relay joins, h1 - h2."""

    relay: Relay
    process: subprocess.Popen[bytes]
    inside: tuple[list[str], list[str]]  # the starts of command lines
    holders: tuple[subprocess.Popen[bytes], ...]  # of the namespaces
    lane: Lane

    def run(self, host: int, *argv: str) -> str:
        """What a command says in host 0 or 1; it must succeed."""
        done = subprocess.run([*self.inside[host], *argv], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def python(self, host: int, program: str) -> subprocess.Popen[str]:
        """A Python program that runs in a host."""
        argv = [*self.inside[host], sys.executable, "-c", program]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def _started(folder: Path, lane: Lane, taps: Sequence[str]) -> subprocess.Popen[bytes]:
    argv = write_plan(folder / "plan.json", folder / "socket", 1, [(Link.both("h1", "h2", lane), *taps)], [])
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)


def _names() -> tuple[str, str]:
    return f"rt{os.getpid() % 100000}a", f"rt{os.getpid() % 100000}b"


@pytest.fixture
def net(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Net]:
    """The parameter is the lane of both directions."""
    taps, processes, relay = _names(), list[subprocess.Popen[bytes]](), None
    try:
        processes.append(_started(tmp_path, request.param, taps))
        relay = Relay(tmp_path / "socket", processes[0], tmp_path / "log")
        inside = []
        for tap, ip in zip(taps, IPS, strict=True):
            # It says something once it is in its namespace; cat then waits until its input is closed.
            holder = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            processes.append(holder)
            assert holder.stdout and holder.stdout.readline()
            enter = ["nsenter", "-t", str(holder.pid), "-n"]
            subprocess.run(["ip", "link", "set", "dev", tap, "netns", str(holder.pid)], check=True)
            quiet = "for knob in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $knob ] || echo 1 > $knob; done"
            subprocess.run([*enter, "sh", "-c", quiet], check=True)
            subprocess.run([*enter, "ip", "addr", "add", f"{ip}/24", "dev", tap], check=True)
            subprocess.run([*enter, "ip", "link", "set", "dev", tap, "up"], check=True)
            inside.append(enter)
        yield Net(relay, processes[0], (inside[0], inside[1]), tuple(processes[1:]), request.param)
    finally:
        if relay:
            relay.close()
        for process in processes:
            if process.stdin:
                process.stdin.close()
            elif relay is None:
                process.kill()
            process.wait(10)


def lane_id(lane: Lane) -> str:
    return f"{lane.rate_bit_s / 1e6:g}Mbit-{lane.delay_s * 1e3:g}ms"


_FAST = Lane(100e6, 2e-3)


@root
@pytest.mark.parametrize("net", [Lane(1e6), Lane(100e6, 5e-3), _FAST], indirect=True, ids=lane_id)
def test_an_echo_takes_what_is_declared(net: Net) -> None:
    said = net.run(0, "ping", "-q", "-c", "20", "-i", "0.02", IPS[1])
    least_ms = float(re.findall(r"= ([\d.]+)/", said)[0])
    due_ms = 2e3 * (net.lane.delay_s + (98 + OVERHEAD_BYTES) * 8 / net.lane.rate_bit_s)
    assert due_ms - 0.03 <= least_ms <= due_ms * 1.05 + 1  # the loop hands on up to 15 us early
    counters, late = net.relay.counters(), net.relay.lateness()
    assert set(counters) == {"h1 -> h2", "h2 -> h1"}
    for count in counters.values():
        assert 20 <= count["frames"] <= 24  # with ARP
        assert count["bytes"] >= 20 * 98
        assert count["queue_drops"] == count["lost"] == count["overruns"] == 0
    assert late["frames"] == sum(count["frames"] for count in counters.values())
    assert 0 <= late["median_s"] <= late["p99_s"] <= late["most_s"]
    assert late["cpu_s"] > 0 and late["waited_s"] >= 0
    assert net.relay.lateness()["frames"] == 0


_SINK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("10.77.0.2", 7)); print(flush=True); got = []
while (data := s.recv(99)) != b"end": got.append(int(data))
print(*got)
"""
_SOURCE = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); there = ("10.77.0.2", 7)
for n in range({count}):
    s.sendto(b"%d" % n, there)
    if n % {row} == {row} - 1: time.sleep({gap_s})
time.sleep(0.2)
for n in range(30): s.sendto(b"end", there); time.sleep(0.002)
"""


def datagrams(net: Net, count: int, row: int) -> list[int]:
    """Numbers of the datagrams that h2 receives, in order, of `count` that h1 sends, `row` at once."""
    sink = net.python(1, _SINK)
    assert sink.stdout and sink.stdout.readline()
    net.run(0, sys.executable, "-c", _SOURCE.format(count=count, row=row, gap_s=1e-3))
    return [int(word) for word in sink.communicate(timeout=30)[0].split()]


@root
@pytest.mark.parametrize("net", [Lane(100e6, 1e-3, loss=Loss(0.05))], indirect=True, ids=lane_id)
def test_five_in_a_hundred_datagrams_are_lost(net: Net) -> None:
    got = datagrams(net, 4000, 20)
    count = net.relay.counters()["h1 -> h2"]
    assert abs(4000 - len(got) - 200) < 3 * math.sqrt(4000 * 0.05 * 0.95)
    assert 4000 - len(got) <= count["lost"] <= 4000 - len(got) + 30  # none lost elsewhere
    assert count["overruns"] == count["queue_drops"] == 0


@root
@pytest.mark.parametrize(
    "net", [Lane(100e6, 5e-3, 4e-3), Lane(100e6, 5e-3, 4e-3, reorder=True)], indirect=True, ids=lambda a: str(a.reorder)
)
def test_jitter_keeps_the_order_unless_said(net: Net) -> None:
    got = datagrams(net, 400, 1)
    assert sorted(got) == list(range(400))
    assert (got == sorted(got)) is not net.lane.reorder


@root
@pytest.mark.parametrize("net", [Lane(20e6, 1e-3)], indirect=True, ids=lane_id)
def test_a_transfer_lives_through_changes(net: Net) -> None:
    size = 2_000_000
    sink = net.python(
        1,
        "import socket, hashlib; s = socket.create_server(('10.77.0.2', 7)); print(flush=True); c, _ = s.accept();"
        " h = hashlib.sha256()\nwhile d := c.recv(1 << 16): h.update(d)\nprint(h.hexdigest())",
    )
    assert sink.stdout and sink.stdout.readline()
    source = net.python(
        0,
        "import socket, random, hashlib; s = socket.create_connection(('10.77.0.2', 7));"
        f" d = random.Random(0).randbytes({size}); s.sendall(d); print(hashlib.sha256(d).hexdigest())",
    )
    rates, stop = iter([50e6, 5e6, 100e6, 2e6, 40e6] * 100), threading.Event()
    while source.poll() is None and not stop.wait(0.05):
        net.relay.change("h1 -> h2", Lane(next(rates), 1e-3))
    sent, got = (process.communicate(timeout=30)[0].strip() for process in (source, sink))
    assert sent == got
    counters = net.relay.counters()
    assert counters["h1 -> h2"]["lost"] == counters["h1 -> h2"]["overruns"] == 0
    assert counters["h1 -> h2"]["bytes"] > size


@root
@pytest.mark.parametrize("net", [_FAST], indirect=True, ids=lane_id)
def test_down_is_down_and_up_again(net: Net) -> None:
    net.run(0, "ping", "-q", "-c", "1", IPS[1])
    net.relay.change("h1 -> h2", None)
    silent = subprocess.run([*net.inside[0], "ping", "-q", "-c", "3", "-i", "0.05", "-W", "0.2", IPS[1]], check=False)
    assert silent.returncode == 1
    assert net.relay.counters()["h1 -> h2"]["lost"] == 3
    net.relay.change("h1 -> h2", _FAST)
    net.run(0, "ping", "-q", "-c", "1", IPS[1])


@root
@pytest.mark.parametrize("net", [_FAST], indirect=True, ids=lane_id)
def test_what_a_stopped_relay_could_not_read_is_an_overrun(net: Net) -> None:
    net.run(0, "ping", "-q", "-c", "1", IPS[1])
    net.process.send_signal(signal.SIGSTOP)
    try:
        net.run(0, sys.executable, "-c", _SOURCE.format(count=6000, row=6000, gap_s=0))
    finally:
        net.process.send_signal(signal.SIGCONT)
    assert net.relay.counters()["h1 -> h2"]["overruns"] >= 6000 - 4096


@root
@pytest.mark.parametrize("net", [_FAST], indirect=True, ids=lane_id)
def test_what_it_does_not_understand_is_refused_in_one_line(net: Net) -> None:
    with pytest.raises(HostError, match=r"^relay: .*h1 -> h9"):
        net.relay.change("h1 -> h9", _FAST)
    net.run(0, "ping", "-q", "-c", "1", IPS[1])


@root
@pytest.mark.parametrize("net", [_FAST], indirect=True, ids=lane_id)
def test_it_survives_the_end_of_a_namespace(net: Net) -> None:
    assert net.holders[1].stdin
    net.holders[1].stdin.close()
    net.holders[1].wait(10)
    ping = [*net.inside[0], "ping", "-q", "-c", "1", "-W", "0.2", IPS[1]]
    assert _soon(lambda: subprocess.run(ping, capture_output=True, check=False).returncode == 1)
    assert net.relay.counters()["h1 -> h2"]["overruns"] == 0


_OWNER = """
import sys; from pathlib import Path; from subprocess import Popen; from testbed.relay.client import Relay
folder = Path(sys.argv[1]); argv = sys.argv[2:]
process = Popen(argv, stdin=-3, stdout=-3, stderr=-3)
relay = Relay(folder / "socket", process, folder / "log")
print(process.pid, flush=True); sys.stdin.read()
"""


def _soon(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within some seconds."""
    until_s = time.monotonic() + 10
    while not true():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)  # polling with a deadline, not a guess
    return True


@root
def test_it_ends_with_its_driver_and_leaves_nothing(tmp_path: Path) -> None:
    taps = _names()
    devices = [Path("/sys/class/net", tap) for tap in taps]
    argv = write_plan(tmp_path / "plan", tmp_path / "socket", 1, [(Link.both("h1", "h2", _FAST), *taps)], [])
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path), *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdin and owner.stdout
    with owner.stdin, owner.stdout:
        assert owner.stdout.readline().strip().isdigit()
        assert all(device.exists() for device in devices)
        owner.kill()
        owner.wait()
        assert _soon(lambda: not any(device.exists() for device in devices))


@root
def test_its_end_and_its_failure_to_start_are_said_with_the_reason(tmp_path: Path) -> None:
    process = _started(tmp_path, _FAST, _names())
    relay = Relay(tmp_path / "socket", process, tmp_path / "log")
    second = tmp_path / "second"
    second.mkdir()
    refused = _started(second, _FAST, _names())
    with pytest.raises(HostError, match=r"^the relay process ended: rt.*a: Device or resource busy$"):
        Relay(second / "socket", refused, second / "log")
    process.terminate()
    process.wait(10)
    with pytest.raises(HostError, match="the relay process ended: it said nothing"):
        relay.counters()
    relay.close()
