"""The relay as a process without links, and its loop on sockets in place of TAP devices: no root."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.hosts import HostError, taps
from testbed.relay import client
from testbed.relay.client import Relay
from testbed.relay.line import Line
from testbed.relay.loop import EARLY_S, Loop, Way
from testbed.relay.punctual import Sleeps
from testbed.topology import Host, Lane, Topology
from tests.networks import RUN

pytestmark = pytest.mark.alone

ALONE = Topology("alone", "mininet", (Host("h1"),), (), (), RUN)


@dataclass(frozen=True)
class Started:
    relay: Relay
    process: subprocess.Popen[bytes]
    socket: Path


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Started where a file has the name of a module that the relay needs."""
    (tmp_path / "random.py").write_text("raise SystemExit('this is not the standard library')")
    processes = list[subprocess.Popen[bytes]]()

    def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            processes.append(subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=output, stderr=output))
        return processes[0]

    try:
        relay = taps.open_relay(ALONE, [], tmp_path, start)
        yield Started(relay, processes[0], tmp_path / "relay")
        relay.close()
        processes[0].wait(10)
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def test_the_working_folder_is_not_where_it_finds_its_modules(started: Started) -> None:
    assert started.relay.counters() == {}


def test_the_first_failure_is_the_reason_for_good(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    started.relay._socket.settimeout(0.2)
    monkeypatch.setattr(client, "LIMIT_S", 0.2)
    started.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(2):
            with pytest.raises(HostError, match=r"^the relay process did not answer within 0\.2 s$"):
                started.relay.counters()
    finally:
        started.process.send_signal(signal.SIGCONT)
    with pytest.raises(HostError, match=r"^the relay process did not answer within 0\.2 s$"):
        started.relay.counters()


def test_that_it_ended_is_said_of_one_that_ended(started: Started) -> None:
    started.process.kill()
    with pytest.raises(HostError, match=r"^the relay process ended: it said nothing$"):
        started.relay.counters()


def test_who_does_not_read_is_not_waited_for(started: Started) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lazy:
        lazy.settimeout(10.0)
        lazy.connect(str(started.socket))
        try:
            for _ in range(50):
                lazy.sendall(b'{"do": "warnings"}\n' * 1000)
        except OSError:
            pass  # closed in the middle
        began_s = time.monotonic()
        assert started.relay.counters() == {}
        assert time.monotonic() - began_s < 0.9  # it used to be 1 s for every answer
        with pytest.raises((ConnectionError, EOFError)):
            while lazy.recv(1 << 16):
                pass
            raise EOFError


def test_a_frame_that_the_relay_came_late_to_is_seen() -> None:
    near, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    out, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, source, out, sink:
        near.setblocking(False)
        loop = Loop({near.fileno(): Way("a -> b", Line(Lane(1e9), 0), out.fileno())})

        def busy(seconds: float) -> Iterator[None]:
            yield
            source.send(bytes(64))
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                pass
            yield
            loop.running = False

        loop.chores.append(busy(0.02))
        loop.carry()
        assert sink.recv(100) == bytes(64)
    assert loop.waits.seen.frames == 1
    assert loop.waits.seen.quantile_s(0.99) >= 0.02
    assert loop.lateness.quantile_s(0.99) < 0.02  # by its own clock the frame was in time


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_no_frame_is_handed_on_too_early_and_the_clock_is_watched_for_a_tenth_of_a_wait(late_s: float) -> None:
    near, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    out, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, source, out, sink:
        near.setblocking(False)
        way = Way("a -> b", Line(Lane(1e9, 5e-3), 0), out.fileno())
        loop = Loop({near.fileno(): way})
        loop.sleeps.late_s = late_s

        def stop() -> None:
            sink.recv(100)
            loop.running = way.frames < 200
            if loop.running:
                source.send(bytes(64))

        loop.watch(sink.fileno(), stop)
        source.send(bytes(64))
        began_s, busy_s = time.monotonic(), time.thread_time()
        loop.carry()
        took_s, busy_s = time.monotonic() - began_s, time.thread_time() - busy_s
    assert loop.lateness.frames == way.frames == 200
    assert took_s >= 200 * (5e-3 - EARLY_S)
    # A tenth of each wait is watched at most, whatever it believes of its sleeps; the rest of the time it sleeps.
    assert busy_s <= 0.2 * took_s
    assert loop.sleeps.late_s <= 1e-3  # and it learns from those it has


def test_how_late_sleeps_end_is_what_nine_of_ten_do_not_exceed() -> None:
    sleeps, draw = Sleeps(), random.Random(0)
    assert sleeps.ahead_s(1.0) == 0.0
    late = [draw.uniform(0.0, 100e-6) for _ in range(20_000)]
    for late_s in late:
        sleeps.ended(late_s)
    assert sleeps.ahead_s(1.0) == pytest.approx(90e-6, abs=15e-6)
    assert sleeps.ahead_s(100e-6) == pytest.approx(10e-6)
    for _ in range(1000):
        sleeps.ended(5e-6)
    assert sleeps.ahead_s(1.0) == 0.0  # sleeps end in time now
