"""The relay as a process without links, and its loop on sockets in place of TAP devices: no root."""

from __future__ import annotations

import random
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from testbed.hosts import HostError, taps
from testbed.relay import client
from testbed.relay import loop as loops
from testbed.relay.client import Relay
from testbed.relay.line import Line
from testbed.relay.loop import Lateness, Loop, Way
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
        # Thousands of answers are before this one: were each waited for, it would not come within the client's limit.
        assert started.relay.counters() == {}
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


class Clock:
    """Time for the loop, which goes on by itself, and sleeps that end late by `late_s` unless a file is readable."""

    def __init__(self, late_s: float) -> None:
        self.now_s, self.late_s, self.sleeps = 1.0, late_s, 0

    def monotonic(self) -> float:
        self.now_s += 0.2e-6
        return self.now_s

    def select(self, files: list[int], _: list[int], __: list[int], wait_s: float) -> tuple[list[int], None, None]:
        ready = select.select(files, [], [], 0)[0]
        if not ready:
            self.sleeps += 1
            self.now_s += wait_s + self.late_s
        return ready, None, None


def _carried(clock: Clock, delay_s: float, frames: int, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop that carried so many frames, each sent when the one before has come; its lateness: of the second half."""
    near, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    out, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(loops, "time", clock)
    monkeypatch.setattr(
        loops, "select", SimpleNamespace(select=clock.select, epoll=select.epoll, EPOLLIN=select.EPOLLIN)
    )
    with near, source, out, sink:
        near.setblocking(False)
        way = Way("a -> b", Line(Lane(1e9, delay_s), 0), out.fileno())
        loop = Loop({near.fileno(): way})

        def came() -> None:
            sink.recv(100)
            if way.frames == frames // 2:
                loop.lateness, clock.sleeps = Lateness(), 0
            loop.running = way.frames < frames
            if loop.running:
                source.send(bytes(64))

        loop.watch(sink.fileno(), came)
        source.send(bytes(64))
        loop.carry()
    return loop


@pytest.mark.parametrize(("late_s", "left_s"), [(5e-6, 5e-6), (100e-6, 20e-6), (500e-6, 300e-6)])
def test_where_sleeps_end_late_the_relay_wakes_up_sooner(
    late_s: float, left_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(late_s)
    loop = _carried(clock, 5e-3, 400, monkeypatch)
    assert loop.lateness.frames == 200
    assert loop.lateness.quantile_s(0.9) <= left_s + 10e-6  # of half a millisecond it makes up for 0.2
    assert clock.sleeps == 200  # and for none of them is the whole wait watched


def test_the_clock_is_watched_for_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of 0.3 ms, of which sleeps that end 0.1 ms late would take a third."""
    clock = Clock(100e-6)
    loop = _carried(clock, 300e-6, 2000, monkeypatch)
    assert clock.sleeps == 1000
    assert 50e-6 <= loop.lateness.quantile_s(0.1) <= loop.lateness.quantile_s(0.9) <= 80e-6  # 0.1 ms less 0.03 to 0.04


def test_how_late_sleeps_end_is_what_nine_of_ten_do_not_exceed() -> None:
    sleeps, draw = Sleeps(), random.Random(0)
    assert sleeps.ahead_s(1.0) == 0.0
    for _ in range(20_000):
        sleeps.ended(draw.uniform(0.0, 100e-6))
    assert sleeps.ahead_s(2.0) == pytest.approx(90e-6, abs=15e-6)
    for _ in range(1000):
        sleeps.ended(5e-6)
    assert sleeps.ahead_s(3.0) == 0.0  # sleeps end in time now
