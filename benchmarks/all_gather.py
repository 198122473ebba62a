"""All-gather of small slices over the declared network: `Exchange.all_gather` against gloo's, in the same run.

    sudo .venv/bin/python benchmarks/all_gather.py [topologies/star4_10mbps.yaml] [--repeats 100]

Three figures per size: ours, torch.distributed's gloo, and the time in which the links can carry the bytes at all.
Every timed all-gather follows directly on a filler all-gather of some kilobytes. The limiter of a link is a bucket:
after a pause it lets a frame or two pass at once, and small messages timed from rest would ride free on that credit.
The filler spends it, and as it ends on all ranks at about the same moment it also is the barrier. So what is timed is
one all-gather in a busy row of them, as the layers of a model make them. Both take turns at each repetition, so that
whatever else the machine does hits both. No CPU share is applied: this is about the transports.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.collectives import Exchange

SIZES_BYTES = (320, 5_120, 10_240)
FILLER_BYTES = 2_000
PAUSE_S = 0.02
WARM_UP = 5
MEET_S = 60.0
# Ethernet 14, IPv4 20, TCP 20 with its timestamps 12; 24 more on the line (preamble, check sequence, gap).
FRAME_OVERHEAD_BYTES, LINE_OVERHEAD_BYTES, SEGMENT_BYTES, HEADER_BYTES = 66, 24, 1448, 32
ROOT = Path(__file__).resolve().parent.parent


def wire_time_s(world: int, size_bytes: int, rate_bit_s: float) -> float:
    """Seconds that one device's link is busy with what it sends: N - 1 messages with all their headers."""
    message = HEADER_BYTES + size_bytes
    frames = -(-message // SEGMENT_BYTES)
    return (world - 1) * 8 * (message + frames * (FRAME_OVERHEAD_BYTES + LINE_OVERHEAD_BYTES)) / rate_bit_s


def put(path: Path, content: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(content))
    scratch.rename(path)


def meet(folder: Path, world: int) -> list[dict[str, int]]:
    """The ports of all ranks, as soon as all have written theirs. Raises TimeoutError."""
    until = time.monotonic() + MEET_S
    files = [folder / f"ports.{rank}.json" for rank in range(world)]
    while not all(file.exists() for file in files):
        if time.monotonic() > until:
            raise TimeoutError(f"ranks are missing in {folder} after {MEET_S:g} s")
        time.sleep(0.02)
    return [json.loads(file.read_text()) for file in files]


def rank_main(folder: Path, rank: int) -> None:
    """What runs inside one host: join both meshes, take turns, write the durations."""
    import torch
    import torch.distributed as gloo

    from runtime.collectives import Exchange
    from runtime.transport.tcp import TcpMesh

    plan = json.loads((folder / "plan.json").read_text())
    world, addresses = plan["world"], plan["addresses"][rank]
    torch.set_num_threads(1)
    mesh = TcpMesh(rank, world, bytes.fromhex(plan["token"]), plan["listen"][rank])
    put(folder / f"ports.{rank}.json", mesh.ports)
    ports = meet(folder, world)
    mesh.join({peer: (addresses[peer], ports[peer][addresses[peer]]) for peer in range(world) if peer != rank})
    limit = timedelta(seconds=MEET_S)
    gloo.init_process_group("gloo", f"file://{folder}/gloo", rank=rank, world_size=world, timeout=limit)
    exchange = Exchange(mesh, 0)
    put(folder / f"durations.{rank}.json", {size: take_turns(exchange, size, plan["repeats"]) for size in SIZES_BYTES})
    mesh.flush()
    gloo.barrier()
    gloo.destroy_process_group()
    mesh.close()


def take_turns(exchange: Exchange, size_bytes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each all-gather of slices of one size. Raises RuntimeError if anything else arrives than was sent."""
    import torch
    import torch.distributed as gloo

    filler = torch.zeros(FILLER_BYTES, dtype=torch.uint8)
    ours = torch.full((size_bytes,), exchange.rank, dtype=torch.uint8)
    into = [torch.empty_like(ours) for _ in range(exchange.world)]
    truth = [torch.full_like(ours, rank) for rank in range(exchange.world)]
    durations: dict[str, list[float]] = {"ours": [], "gloo": []}
    for repeat in range(-WARM_UP, repeats):
        for name, taken in durations.items():
            time.sleep(PAUSE_S)
            exchange.all_gather(0, filler).wait()
            begun_s = time.perf_counter()
            if name == "ours":
                received = exchange.all_gather(0, ours).wait()
            else:
                gloo.all_gather(into, ours)
            took_s = time.perf_counter() - begun_s
            if repeat >= 0:
                taken.append(took_s)
            got = [received.get(rank, ours) for rank in range(exchange.world)] if name == "ours" else into
            if not all(map(torch.equal, got, truth)):
                raise RuntimeError(f"{name}: something else arrived than was sent, at {size_bytes} bytes")
    return durations


def gather(network: Any, names: list[str], repeats: int) -> list[dict[str, dict[str, list[float]]]]:
    """Start one rank in each host and wait for their durations. Raises RuntimeError with the log of a failed rank."""
    folder = network.directory
    hosts = [network.hosts[name] for name in names]
    plan = {
        "world": len(hosts),
        "repeats": repeats,
        "token": secrets.token_hex(32),
        "listen": [list(host.data_addresses) for host in hosts],
        "addresses": [[peer.address_for(name) for peer in hosts] for name in names],
    }
    (folder / "plan.json").touch(mode=0o600)  # it holds the token
    (folder / "plan.json").write_text(json.dumps(plan))
    ranks: list[subprocess.Popen[Any]] = []
    try:
        for rank, host in enumerate(hosts):
            interface = host.data_interfaces[0] if host.data_interfaces else "lo"
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface, "PYTHONPATH": str(ROOT)}
            argv = [sys.executable, str(Path(__file__).resolve()), "--folder", str(folder), "--rank", str(rank)]
            ranks.append(host.start(argv, folder / f"rank.{rank}.log", environment))
        for rank, process in enumerate(ranks):
            if process.wait(timeout=600):
                raise RuntimeError(f"rank {rank} failed:\n" + (folder / f"rank.{rank}.log").read_text())
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [json.loads((folder / f"durations.{rank}.json").read_text()) for rank in range(len(hosts))]


def table(durations: list[dict[str, dict[str, list[float]]]], rate_bit_s: float | None) -> str:
    """The figures as text, ms; all ranks and repetitions together. Without a rate there is no wire time."""
    from testbed.statistics import spread

    world = len(durations)
    heading = "slice B   ours ms  p95    gloo ms  p95    gloo/ours"
    lines = [heading if rate_bit_s is None else heading + "   wire ms  ours/wire   payload alone ms"]
    for size in SIZES_BYTES:
        ours, gloo = (spread([s for rank in durations for s in rank[str(size)][name]]) for name in ("ours", "gloo"))
        late = [f"{one['p95'] * 1e3:6.2f}" if one["p95"] is not None else "     -" for one in (ours, gloo)]
        line = f"{size:7d}  {ours['median'] * 1e3:8.2f} {late[0]}"
        line += f" {gloo['median'] * 1e3:8.2f} {late[1]}  {gloo['median'] / ours['median']:8.2f} x"
        if rate_bit_s is not None:
            wire_s = wire_time_s(world, size, rate_bit_s)
            payload_s = (world - 1) * size * 8 / rate_bit_s
            line += f"  {wire_s * 1e3:8.2f}  {ours['median'] / wire_s:7.2f} x  {payload_s * 1e3:12.2f}"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    """Bring the network up, run the ranks, print the table."""
    from testbed import topology
    from testbed.hosts import HOSTS
    from testbed.manifest import machine
    from testbed.paths import path
    from testbed.units import show_rate

    declared = topology.load(arguments.topology)
    names = [host.name for host in declared.hosts]
    shaped = declared.backend != "local"
    rates = {path(declared, a, b).rate_bit_s for a in names for b in names if a != b} if shaped else set()
    with HOSTS[declared.backend](declared, secrets.token_hex(4)) as network:
        if any(len(network.hosts[name].data_interfaces) > 1 for name in names):
            sys.exit(f"{arguments.topology}: gloo speaks over one interface only; give a star, one link per host")
        durations = gather(network, names, arguments.repeats)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{declared.name}: {len(names)} hosts, {', '.join(map(show_rate, sorted(rates))) or 'not shaped'}", end="; ")
    print(f"{arguments.repeats} repetitions on every rank, each after a filler of {FILLER_BYTES} B")
    print(table(durations, min(rates) if shaped else None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="All-gather of small slices, ours against gloo's.")
    parser.add_argument("topology", nargs="?", default=str(ROOT / "topologies" / "star4_10mbps.yaml"))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # given to the ranks inside the hosts
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is None:
        main(given)
    else:
        rank_main(given.folder, given.rank)
