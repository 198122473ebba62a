"""What the relay costs and how much it carries in time: links between pairs of namespaces, loaded both ways at once.

    sudo .venv/bin/python benchmarks/relay.py [--links 1 4] [--rates 10 50 100 200] [--sizes 98 1514] [--seconds 2]

First long TCP transfers in both directions of every link, then datagrams of one frame size, one way over one link, as
fast as the line allows. `total` is the sum of the rates of all directions, `carried` what came out at the far ends.
Late: by how much frames were handed on after they were due. In time means: 99 % within 0.3 ms, none lost by the relay.
Everything runs on this machine's cores, the sending and receiving included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from testbed.hosts import HostError  # noqa: E402
from testbed.manifest import machine  # noqa: E402
from testbed.relay.client import Relay, write_plan  # noqa: E402
from testbed.relay.line import OVERHEAD_BYTES  # noqa: E402
from testbed.topology import Lane, Link  # noqa: E402

IN_TIME_S = 0.3e-3
WARM_UP_S = 0.5
HEADERS_BYTES = 42  # Ethernet, IPv4, UDP
_ECHO = (sys.executable, "-m", "runtime.echo")
# Sends what is due by the clock, then sleeps a little: frames come in rows, as an application's do.
_DATAGRAMS = """
import socket, sys, time
address, size, rate, seconds = sys.argv[1], *map(float, sys.argv[2:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); data = bytes(int(size)); begun = time.monotonic(); sent = 0
while (passed := time.monotonic() - begun) < seconds:
    while sent < passed * rate: s.sendto(data, (address, 7)); sent += 1
    time.sleep(0.0005)
"""


@dataclass(frozen=True)
class Joined:
    """Links that are up. hosts: for each link the starts of two command lines and two addresses."""

    relay: Relay
    hosts: list[tuple[tuple[list[str], str], tuple[list[str], str]]]


@contextmanager
def joined(lane: Lane, links: int) -> Iterator[Joined]:
    """Pairs of namespaces, each joined by a link; all is gone afterwards. Raises HostError, CalledProcessError."""
    taps = [(f"tbr{index}a", f"tbr{index}b") for index in range(links)]
    cables = [(Link.both(f"a{index}", f"b{index}", lane), *pair) for index, pair in enumerate(taps)]
    with ExitStack() as closing, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = write_plan(folder / "plan.json", folder / "socket", 0, cables, [])
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        closing.callback(process.wait)
        closing.callback(process.terminate)
        relay = Relay(folder / "socket", process, folder / "log")
        closing.callback(relay.close)
        for warning in relay.warnings:
            print(f"warning: {warning}")
        ends = [
            [_host(closing, tap, f"10.78.{i}.{j + 1}") for j, tap in enumerate(pair)] for i, pair in enumerate(taps)
        ]
        yield Joined(relay, [(a, b) for a, b in ends])


def _host(closing: ExitStack, tap: str, address: str) -> tuple[list[str], str]:
    """A namespace that holds `tap`: the start of a command line that runs in it, and its address."""
    argv = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    holder = closing.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    assert holder.stdout
    holder.stdout.readline()  # it is in its namespace; cat ends when its input is closed, as the context does
    enter = ["nsenter", "-t", str(holder.pid), "-n"]
    for command in (
        ["ip", "link", "set", "dev", tap, "netns", str(holder.pid)],
        [*enter, "ip", "addr", "add", f"{address}/24", "dev", tap],
        [*enter, "ip", "link", "set", "dev", tap, "up"],
    ):
        subprocess.run(command, check=True)
    return enter, address


@contextmanager
def transfers(net: Joined, last_s: float) -> Iterator[None]:
    """A long TCP transfer in both directions of every link at once, ended by its own limit or with the context."""
    with ExitStack() as closing:
        for source, target in [way for a, b in net.hosts for way in ((a, b), (b, a))]:
            argv = [*target[0], *_ECHO, "serve", target[1]]
            server = closing.enter_context(subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            closing.callback(server.terminate)
            assert server.stdout
            port = server.stdout.readline().split()[1]
            wanted = ["--stream-bytes", str(1 << 40), "--stream-s", str(last_s)]
            argv = [*source[0], *_ECHO, "measure", target[1], port, *wanted]
            client = closing.enter_context(subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL))
            closing.callback(client.terminate)
        yield


@contextmanager
def datagrams(net: Joined, lane: Lane, size: int, last_s: float) -> Iterator[None]:
    """Frames of `size` bytes from the first host to its peer, at the rate of the line."""
    (enter, _), (_, address) = net.hosts[0]
    frames_s = lane.rate_bit_s / 8 / (size + OVERHEAD_BYTES)
    argv = [*enter, sys.executable, "-c", _DATAGRAMS, address, str(size - HEADERS_BYTES), str(frames_s), str(last_s)]
    with subprocess.Popen(argv) as source:
        yield
        source.terminate()


def window(relay: Relay, seconds: float) -> dict[str, Any]:
    """What the relay carries within so many seconds, and at what cost."""
    before, _, begun_s = relay.counters(), relay.lateness(), monotonic()
    sleep(seconds)
    late, after, took_s = relay.lateness(), relay.counters(), monotonic() - begun_s
    more = {key: sum(after[name][key] - before[name][key] for name in after) for key in ("frames", "bytes", "overruns")}
    frames = max(1, more["frames"])
    return {
        "carried_bit_s": 8 * (more["bytes"] + OVERHEAD_BYTES * more["frames"]) / took_s,
        "frames_s": frames / took_s,
        "cpu_frame_s": late["cpu_s"] / frames,
        "core": late["cpu_s"] / took_s,
        "overruns": more["overruns"],
        "in_time": late["p99_s"] <= IN_TIME_S and not more["overruns"],
        **late,
    }


def measured(lane: Lane, links: int, size: int | None, seconds: float) -> dict[str, Any]:
    """One row: transfers over all links, or datagrams of one frame size."""
    last_s = seconds + WARM_UP_S + 1.0
    with joined(lane, links) as net, transfers(net, last_s) if size is None else datagrams(net, lane, size, last_s):
        sleep(WARM_UP_S)
        found = window(net.relay, seconds)
    total = lane.rate_bit_s * (2 * links if size is None else 1)
    return {"links": links, "rate_bit_s": lane.rate_bit_s, "size": size, "total_bit_s": total, **found}


def line(found: dict[str, Any]) -> str:
    """A row as text."""
    load = "transfers" if found["size"] is None else f"{found['size']} B"
    late = "  ".join(f"{found[key] * 1e6:6.0f}" for key in ("median_s", "p99_s", "most_s"))
    text = f"{found['links']:5d} {found['rate_bit_s'] / 1e6:6g}  {load:9}  {found['total_bit_s'] / 1e6:6.0f}"
    text += f"  {found['carried_bit_s'] / 1e6:7.1f}  {found['frames_s']:8.0f}  {found['cpu_frame_s'] * 1e6:8.1f}"
    return text + f"  {found['core']:5.2f}  {late}  {found['overruns']:8d}  {'yes' if found['in_time'] else 'no'}"


def main(given: argparse.Namespace) -> None:
    """Print a row for every case, then the most that was carried in time."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print("                         Mbit/s                     CPU   cores      late us")
    print(
        "links   rate  load        total  carried  frames/s  us/frame   used  median     p99    most  overruns  in time"
    )
    lanes = [Lane(rate * 1e6) for rate in given.rates]
    cases: Sequence[tuple[Lane, int, int | None]] = [
        *((lane, links, None) for links in given.links for lane in lanes),
        *((lane, 1, size) for size in given.sizes for lane in lanes),
    ]
    rows = []
    for lane, links, size in cases:
        rows.append(measured(lane, links, size, given.seconds))
        print(line(rows[-1]), flush=True)
    for links in given.links:
        good = [one for one in rows if one["in_time"] and one["links"] == links and one["size"] is None]
        if good:
            best = max(good, key=lambda one: float(one["total_bit_s"]))
            most = f"{best['total_bit_s'] / 1e6:g} Mbit/s in all, {best['frames_s']:.0f} frames/s"
            print(f"most in time over {links} links: {most}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 50, 100, 200], help="Mbit/s, of each direction")
    parser.add_argument("--sizes", type=int, nargs="*", default=[98, 1514], help="of frames, bytes")
    parser.add_argument("--seconds", type=float, default=2.0)
    try:
        main(parser.parse_args())
    except HostError as error:
        sys.exit(str(error))
