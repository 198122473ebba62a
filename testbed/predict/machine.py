"""What emulated links cost this machine: messages and frames between namespaces, measured in some that vanish after.

`measure` runs this file as `python -m testbed.predict.machine` in namespaces of its own: two hosts with some cables,
shaped as those of a run, more than the machine carries in all, then with a switch in each, then so
fast that several frames are handed down as one packet. Their processes send
messages to each other with the runtime's own sockets; nothing is left behind when they end. That needs root, like the
networks themselves.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

from agents.cluster import Cluster
from agents.place import place
from runtime import methods
from runtime.collectives import Exchange
from runtime.hollow import HollowWeights
from runtime.shape import Shape
from runtime.stages import Replayed
from runtime.transport.tcp import TcpMesh
from runtime.transport.wire import TOKEN_BYTES, Kind
from testbed.linetime import SEGMENT_BYTES
from testbed.predict.work import EMULATED, Costs
from testbed.shape import LINE_OVERHEAD_BYTES, ONE_BY_ONE_BIT_S, SUPERPACKET_FRAMES, free_bytes, superpacket_frames
from testbed.topology import MIN_QUEUE_BYTES

MODULE = "testbed.predict.machine"
LIMIT_S = 60.0
CABLE, SWITCH, FAST = "cable", "switch", "fast"
CABLES = 6
FAST_BIT_S = 1e9  # at which several frames go as one packet
_IDLE, _IO_WAIT, _STEAL = 3, 4, 7  # columns of /proc/stat
_SMALL_BYTES, _LARGE_BYTES = 64, 1 << 20
_REPEATS, _REST_S, _LARGE, _ROUNDS = 200, 3e-3, 4, 4
_REPLAYED = ("late_s", "stage_s", "code_s")
_SHAPE, _TOKENS = Shape("vit", layers=12, width=768, heads=12, kv_heads=12, head_dim=64, hidden=3072), 64
_STAGES_FROM = 1 << 16  # numbers of requests that no other measurement uses


@cache
def measure() -> Costs | None:
    """Takes some seconds, once in a process. None where it is not possible: without root, or without the programs that
    make networks."""
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-m", MODULE]
    if os.geteuid():
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return Costs(**json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main() -> None:
    """Print the costs as JSON. To be run in namespaces of its own only."""
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "none", "/run")
    cable, switch, fast = (_talk(_network(kind, number), kind) for number, kind in enumerate((CABLE, SWITCH, FAST)))
    # Of a packet with one frame, and of one with several: what the packet costs, and what each frame does.
    one_s, several_s = cable["frame_s"], SUPERPACKET_FRAMES * fast["frame_s"]
    frame_s = min(one_s, max(0.0, several_s - one_s) / (SUPERPACKET_FRAMES - 1))
    lines = {"packet_s": one_s - frame_s, "frame_s": frame_s, "hop_s": max(0.0, switch["frame_s"] - one_s)}
    messages = {name: cable[name] for name in ("send_s", "receive_s", *_REPLAYED)}
    print(json.dumps(asdict(Costs(**messages, **lines, cores=len(os.sched_getaffinity(0)), kind=EMULATED))))


def _network(kind: str, number: int) -> tuple[str, str]:
    """Two namespaces, joined by some cables, each with a switch in it or not, all shaped; their names."""
    names = (f"a{number}", f"b{number}")
    for name in names:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
    rate_bit_s = FAST_BIT_S if kind == FAST else ONE_BY_ONE_BIT_S
    frames, words = str(superpacket_frames(rate_bit_s)), _tbf(rate_bit_s)
    for cable in range(CABLES):
        eth, ports = f"eth{cable}", [(name, f"eth{cable}") for name in names]
        if kind != SWITCH:
            _run("ip", "link", "add", "name", eth, "netns", names[0],
                 "type", "veth", "peer", "name", eth, "netns", names[1])  # fmt: skip
        else:
            switch = f"sw{cable}"
            _run("ip", "link", "add", "name", switch, "type", "bridge")
            _run("ip", "link", "set", switch, "up")
            for name in names:
                port = f"{name}p{cable}"
                _run("ip", "link", "add", "name", port, "type", "veth", "peer", "name", eth, "netns", name)
                _run("ip", "link", "set", port, "master", switch)
                ports.append(("", port))
        for name, port in ports:
            inside = ("ip", "netns", "exec", name) if name else ()
            _run(*inside, "ip", "link", "set", port, "gso_max_segs", frames, "up")
            _run(*inside, "tc", "qdisc", "replace", "dev", port, *words)
        for rank, name in enumerate(names):
            _run("ip", "-n", name, "address", "add", f"{_address(cable, rank)}/24", "dev", eth)
    return names


def _tbf(rate_bit_s: float) -> tuple[str, ...]:
    """As `testbed.shape` has it."""
    overhead = str(LINE_OVERHEAD_BYTES * superpacket_frames(rate_bit_s))
    words = ("rate", f"{round(rate_bit_s)}bit", "overhead", overhead, "burst", str(int(free_bytes(rate_bit_s, "tbf"))))
    return ("root", "tbf", *words, "limit", str(MIN_QUEUE_BYTES))


def _address(cable: int, rank: int) -> str:
    return f"10.0.{cable}.{1 + rank}"


def _talk(hosts: Sequence[str], kind: str) -> dict[str, float]:
    """A process in each host; what the first one finds. Raises OSError, RuntimeError."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    running = [context.Process(target=_host, args=(name, rank, kind, theirs)) for rank, name in enumerate(hosts)]
    for process in running:
        process.start()
    found: dict[str, float] = ours.recv() if ours.poll(LIMIT_S / 2) else {}
    for process in running:
        process.join(LIMIT_S / 4)
    if any(process.exitcode for process in running) or not found:
        raise RuntimeError("the hosts did not find each other")
    return found


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


# Inside a host


def _host(name: str, rank: int, kind: str, out: Connection) -> None:
    with open(f"/run/netns/{name}") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    meshes = [TcpMesh(rank, 2, bytes(TOKEN_BYTES), [_address(cable, rank)], LIMIT_S / 4) for cable in range(CABLES)]
    meeting = Path("/run") / f"{kind}.ports"
    if rank == 0:
        draft = meeting.with_suffix(".new")
        draft.write_text(json.dumps([mesh.ports[_address(cable, 0)] for cable, mesh in enumerate(meshes)]))
        draft.replace(meeting)
    while not meeting.exists():
        time.sleep(0.01)
    ports = json.loads(meeting.read_text())
    for cable, mesh in enumerate(meshes):
        mesh.join({0: (_address(cable, 0), ports[cable])} if rank else {})
    found = {**_messages(meshes[0], 1 - rank), **_stages(meshes[0])} if kind == CABLE else {}
    found |= _frames(meshes, 1 - rank)
    for mesh in meshes:
        mesh.flush()
    if rank == 0:
        out.send(found)
    for mesh in meshes:
        mesh.close()


def _messages(mesh: TcpMesh, peer: int) -> dict[str, float]:
    """Seconds of handing over a small message, and of its way through the kernel, waking who waits for it, and taking
    it: half of a round trip is both; of a message that has come meanwhile, the CPU that taking it needs. After a rest,
    as between layers: what has just run is faster."""
    tensor = torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    sends_s, halves_s, takes_s = list[float](), list[float](), list[float]()
    for number in range(_REPEATS):
        if mesh.rank:
            mesh.receive(peer, Kind.EXCHANGE, number, 0)
            mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
            continue
        time.sleep(_REST_S)
        began = time.perf_counter()
        mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
        sends_s.append(time.perf_counter() - began)
        mesh.receive(peer, Kind.EXCHANGE, number, 0)
        halves_s.append((time.perf_counter() - began) / 2)
    for number in range(_REPEATS, 2 * _REPEATS):
        mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
        time.sleep(_REST_S)
        began = time.thread_time()
        mesh.receive(peer, Kind.EXCHANGE, number, 0)
        takes_s.append(time.thread_time() - began)
    if mesh.rank:
        return {}
    send_s = median(sends_s)
    return {"send_s": send_s, "receive_s": max(median(takes_s), median(halves_s) - send_s)}


def _stages(mesh: TcpMesh) -> dict[str, float]:
    """Seconds by which a device that replays wakes late, and of a stage that no time is allowed for: a small run."""
    plan = place("astra", {}, _SHAPE, _TOKENS, Cluster(("a", "b")))
    stages = Replayed(lambda stage, _: _REST_S if stage == "input" else 0.0)
    method = methods.load("astra")(HollowWeights(_SHAPE), plan, mesh.rank, stages=stages)
    late_s, code_s, other_s = list[float](), list[float](), list[float]()
    for request in range(_REPEATS // _SHAPE.layers):
        stages.restart()
        method.forward(torch.zeros(_TOKENS // 2, _SHAPE.width), Exchange(mesh, _STAGES_FROM + request, stages))
        late_s += stages.late_s
        code_s += [seconds for kind, *_, seconds in stages.spans if kind == "code"]
        # What is neither replayed, nor coding, nor the network's, what lies between stages included.
        counted = [seconds for kind, name, *_, seconds in stages.spans if kind != "compute" or name == "input"]
        whole_s = stages.spans[-1][-2] + stages.spans[-1][-1]
        other_s.append((whole_s - sum(counted)) / (len(stages.spans) - len(counted)))
    return {"late_s": median(late_s), "stage_s": median(other_s), "code_s": median(code_s)}


def _frames(meshes: Sequence[TcpMesh], peer: int) -> dict[str, float]:
    """Seconds of CPU of the whole machine for each frame, while as many come in as go out.

    The least of some rounds: what else runs on the machine only adds to it.
    """
    tensor, found = torch.zeros(_LARGE_BYTES, dtype=torch.uint8), list[float]()
    count = 2 * _LARGE * len(meshes) * _LARGE_BYTES / SEGMENT_BYTES
    for begin in range(0, _ROUNDS * _LARGE, _LARGE):
        began_s = _busy_s()
        for number in range(begin, begin + _LARGE):
            for mesh in meshes:
                mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
            for mesh in meshes:
                mesh.receive(peer, Kind.EXCHANGE, number, 0)
        found.append((_busy_s() - began_s) / count)
    return {"frame_s": min(found)}


def _busy_s() -> float:
    """Of all cores together since the machine came up: all but idling and waiting for disks."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(word) for word in words]
    return (sum(ticks[:_STEAL]) - ticks[_IDLE] - ticks[_IO_WAIT]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
