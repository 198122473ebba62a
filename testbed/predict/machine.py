"""What emulated links cost this machine: messages and frames between namespaces, measured in some that vanish after.

`measure` runs this file as `python -m testbed.predict.machine` in namespaces of its own: four hosts, as a small run,
that share its cores; with a cable between any two, shaped as those of a run to more than the machine carries in all,
then with a switch between them, then with cables so fast that several frames are handed down as one packet. Two more
are by themselves: with two cores, what a stage takes there holds no waiting for one, which predictions add themselves.
Their processes send messages to each other with the runtime's own sockets; nothing is left behind when they end. That
needs root, like the networks themselves.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import combinations
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
from testbed.predict.flow import frames_of
from testbed.predict.work import ELEMENT_BYTES, EMULATED, Costs
from testbed.shape import LINE_OVERHEAD_BYTES, ONE_BY_ONE_BIT_S, SUPERPACKET_FRAMES, free_bytes, superpacket_frames

MODULE = "testbed.predict.machine"
LIMIT_S = 60.0
CABLE, SWITCH, FAST, PAIR = "cable", "switch", "fast", "pair"
HOSTS = {CABLE: 4, SWITCH: 4, FAST: 4, PAIR: 2}
# Cables carry more than the machine, one frame at a time or several as one packet. A switch's lines, on which all that
# a host sends and is sent waits in one queue, keep packets waiting: that costs as well.
RATES_BIT_S = {CABLE: ONE_BY_ONE_BIT_S, SWITCH: ONE_BY_ONE_BIT_S / 3, FAST: 500e6, PAIR: ONE_BY_ONE_BIT_S}
_IDLE, _IO_WAIT = 3, 4  # columns of /proc/stat
_SMALL_BYTES = 64
_REPEATS, _REST_S, _ROUNDS = 60, 3e-3, 7
_QUEUE_BYTES = 1 << 22  # all that is sent to a host at once: what is dropped would be sent again, and counted
_PAUSES, _PAUSE_S, _CACHED_BYTES = 9, 20e-3, 1 << 24
_SHAPE, _TOKENS = Shape("vit", layers=12, width=768, heads=12, kv_heads=12, head_dim=64, hidden=3072), 64
# Each of four hosts sends its share of the tokens, as wide as the model, to each other one in every layer.
_MANY, _MANY_TOKENS = replace(_SHAPE, layers=3), 1024
_FRAMES = frames_of(_MANY_TOKENS // 4 * _MANY.width * ELEMENT_BYTES)
_FROM = 1 << 16  # numbers of requests that no other measurement uses


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
    cable, switch, fast, pair = (_talk(_network(kind), kind) for kind in (CABLE, SWITCH, FAST, PAIR))
    # Of a packet with one frame, and of one with several: what the packet costs, and what each frame does.
    own_s = (cable["send_s"] + cable["take_s"]) / _FRAMES  # of a message, which is counted by itself
    one_s, several_s = cable["frame_s"] - own_s, SUPERPACKET_FRAMES * (fast["frame_s"] - own_s)
    frame_s = min(one_s, max(0.0, several_s - one_s) / (SUPERPACKET_FRAMES - 1))
    lines = {"packet_s": one_s - frame_s, "frame_s": frame_s, "hop_s": max(0.0, switch["frame_s"] - cable["frame_s"])}
    # The packet's way to whom it is for is part of the call that hands it over, and is counted by itself. Half of a
    # round trip is that call, waking who waits, and taking.
    messages = {
        "send_s": max(0.0, cable["send_s"] - one_s),
        "receive_s": max(cable["take_s"], cable["half_s"] - max(cable["send_s"], one_s)),
        "rest_s": max(0.0, cable["cold_s"] - cable["half_s"]),
    }
    cores = len(os.sched_getaffinity(0))
    print(json.dumps(asdict(Costs(**messages, **lines, **pair, cores=cores, kind=EMULATED))))


def _network(kind: str) -> list[str]:
    """Namespaces, joined by cables or by a switch, all shaped; their names."""
    names = [f"{kind}{rank}" for rank in range(HOSTS[kind])]
    rate_bit_s = RATES_BIT_S[kind]
    for name in names:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
    if kind == SWITCH:
        _run("ip", "link", "add", "name", kind, "type", "bridge")
        _run("ip", "link", "set", kind, "up")
        for rank, name in enumerate(names):
            _run("ip", "link", "add", "name", name, "type", "veth", "peer", "name", "eth", "netns", name)
            _run("ip", "link", "set", name, "master", kind)
            _shape("", name, rate_bit_s)
            _port(name, "eth", _address(kind, rank, 0), rate_bit_s)
        return names
    for a, b in combinations(range(len(names)), 2):
        eth = f"eth{a}{b}"
        _run("ip", "link", "add", "name", eth, "netns", names[a],
             "type", "veth", "peer", "name", eth, "netns", names[b])  # fmt: skip
        _port(names[a], eth, _address(kind, a, b), rate_bit_s)
        _port(names[b], eth, _address(kind, b, a), rate_bit_s)
    return names


def _port(host: str, name: str, address: str, rate_bit_s: float) -> None:
    _shape(host, name, rate_bit_s)
    _run("ip", "-n", host, "address", "add", f"{address}/24", "dev", name)


def _shape(host: str, port: str, rate_bit_s: float) -> None:
    inside = ("ip", "netns", "exec", host) if host else ()
    _run(*inside, "ip", "link", "set", port, "gso_max_segs", str(superpacket_frames(rate_bit_s)), "up")
    _run(*inside, "tc", "qdisc", "replace", "dev", port, *_tbf(rate_bit_s))


def _tbf(rate_bit_s: float) -> tuple[str, ...]:
    """As `testbed.shape` has it, but for a queue that loses nothing."""
    overhead = str(LINE_OVERHEAD_BYTES * superpacket_frames(rate_bit_s))
    words = ("rate", f"{round(rate_bit_s)}bit", "overhead", overhead, "burst", str(int(free_bytes(rate_bit_s, "tbf"))))
    return ("root", "tbf", *words, "limit", str(_QUEUE_BYTES))


def _address(kind: str, rank: int, peer: int) -> str:
    """Of a host, on its link to another."""
    return f"10.0.0.{1 + rank}" if kind == SWITCH else f"10.{min(rank, peer)}.{max(rank, peer)}.{1 + rank}"


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
    torch.set_num_threads(1)  # as devices there
    world = HOSTS[kind]
    others = [other for other in range(world) if other != rank]
    addresses = sorted({_address(kind, rank, other) for other in others})
    mesh = TcpMesh(rank, world, bytes(TOKEN_BYTES), addresses, LIMIT_S / 4)
    meeting = Path("/run")
    draft = meeting / f"{name}.new"
    draft.write_text(json.dumps(mesh.ports))
    draft.replace(meeting / f"{name}.ports")
    peers = {}
    for lower in range(rank):
        path, address = meeting / f"{kind}{lower}.ports", _address(kind, lower, rank)
        while not path.exists():
            time.sleep(0.01)
        peers[lower] = (address, json.loads(path.read_text())[address])
    mesh.join(peers)
    found = _stages(mesh) if kind == PAIR else _frames(mesh)
    if kind == CABLE:  # with each of the others in turn: where two processes run makes a difference
        pairs = [_messages(mesh, other) for other in (others if rank == 0 else [0])]
        found |= {name: median(pair[name] for pair in pairs) for name in pairs[0]}
    mesh.flush()
    if rank == 0:
        out.send(found)
    mesh.close()


def _messages(mesh: TcpMesh, peer: int) -> dict[str, float]:
    """Seconds of handing over a small message; of half a round trip; of taking a message that has come meanwhile, of
    CPU. After a rest, as between layers: what has just run is faster. And of half a round trip after a pause, as
    between requests.
    """
    tensor = torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    sends_s, halves_s = _round_trips(mesh, peer, range(_FROM, _FROM + _REPEATS), _rest)
    takes_s = list[float]()
    for number in range(_FROM + _REPEATS, _FROM + 2 * _REPEATS):
        mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
        time.sleep(_REST_S)
        began = time.thread_time()
        mesh.receive(peer, Kind.EXCHANGE, number, 0)
        takes_s.append(time.thread_time() - began)
    _, cold_s = _round_trips(mesh, peer, range(_FROM + 2 * _REPEATS, _FROM + 2 * _REPEATS + _PAUSES), _pause)
    if mesh.rank:
        return {}
    return {
        "send_s": median(sends_s), "half_s": median(halves_s), "take_s": median(takes_s), "cold_s": median(cold_s)
    }  # fmt: skip


def _round_trips(
    mesh: TcpMesh, peer: int, numbers: Iterable[int], rest: Callable[[int], None]
) -> tuple[list[float], list[float]]:
    """Of small messages from rank 0 to another and back: seconds of handing one over, and half of the whole."""
    tensor, sends_s, halves_s = torch.zeros(_SMALL_BYTES, dtype=torch.uint8), list[float](), list[float]()
    for number in numbers:
        rest(2 if mesh.rank == 0 else 1)  # who asks rests longer: whom it asks waits by then
        began = time.perf_counter()
        if mesh.rank == 0:
            mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
            sends_s.append(time.perf_counter() - began)
        mesh.receive(peer, Kind.EXCHANGE, number, 0)
        halves_s.append((time.perf_counter() - began) / 2)
        if mesh.rank:
            mesh.send(peer, Kind.EXCHANGE, number, 0, tensor)
    return sends_s, halves_s


def _rest(times: int) -> None:
    time.sleep(times * _REST_S)


def _pause(times: int) -> None:
    """Long, with other work in it that leaves nothing in the caches."""
    torch.ones(_CACHED_BYTES, dtype=torch.uint8).sum()
    time.sleep(times * _PAUSE_S)


def _stages(mesh: TcpMesh) -> dict[str, float]:
    """Seconds by which a device that replays wakes late, and of a stage that no time is allowed for: a small run."""
    late_s, code_s, other_s = list[float](), list[float](), list[float]()
    for stages in _requests(mesh, "astra", (_SHAPE, _TOKENS), range(_REPEATS // _SHAPE.layers)):
        late_s += stages.late_s
        code_s += [seconds for kind, *_, seconds in stages.spans if kind == "code"]
        # What is neither replayed, nor coding, nor the network's, what lies between stages included.
        counted = [seconds for kind, name, *_, seconds in stages.spans if kind != "compute" or name == "input"]
        whole_s = stages.spans[-1][-2] + stages.spans[-1][-1]
        other_s.append((whole_s - sum(counted)) / (len(stages.spans) - len(counted)))
    return {"late_s": median(late_s), "stage_s": median(other_s), "code_s": median(code_s)}


def _frames(mesh: TcpMesh) -> dict[str, float]:
    """Seconds of CPU of the whole machine for each frame, while all hosts send to all others what a layer of sequence
    parallelism sends, after a rest, and hold it as long: memory that was given back has to be had again.

    In each request all wait for all at the end, so that nothing of it is under way when the next one begins.
    """
    found, began_s = list[float](), 0.0
    for number, stages in enumerate(_requests(mesh, "sequence", (_MANY, _MANY_TOKENS), range(1 + _ROUNDS))):
        Exchange(mesh, _FROM - 1 - number, stages).all_gather(0, torch.zeros(1)).wait()
        ended_s = _busy_s()
        found.append(ended_s - began_s)
        began_s = ended_s
    messages = mesh.world * (mesh.world - 1) * _MANY.layers
    return {"frame_s": median(found[1:]) / messages / _FRAMES}  # the first one also begins all


def _requests(mesh: TcpMesh, name: str, size: tuple[Shape, int], numbers: Iterable[int]) -> Iterator[Replayed]:
    """Forward passes of a method without weights, that rests once in a layer; the stages of each. size: with tokens."""
    shape, tokens = size
    plan = place(name, {}, shape, tokens, Cluster(tuple(f"h{rank}" for rank in range(mesh.world))))
    stages = Replayed(lambda stage, _: _REST_S if stage == "input" else 0.0)
    method = methods.load(name)(HollowWeights(shape), plan, mesh.rank, stages=stages)
    for number in numbers:
        stages.restart()
        method.forward(torch.zeros(tokens // mesh.world, shape.width), Exchange(mesh, number, stages))
        yield stages


def _busy_s() -> float:
    """Of all cores that this process may use, since some moment: all but idling and waiting for disks. Only these are
    measured; a kernel may count what is done by whoever it meets when its clock ticks."""
    cores, ticks = os.sched_getaffinity(0), 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            ticks += int(words[_IDLE]) + int(words[_IO_WAIT])
    return time.perf_counter() * len(cores) - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
