"""How long the network and Ray take to come up and go, and device processes to start: medians over fresh processes.

    sudo .venv/bin/python benchmarks/startup.py [topologies/star4_10mbps.yaml] [--repeats 3]

Target: network and Ray up within 15 s for 4 hosts on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from testbed.manifest import machine  # noqa: E402


def once(topology_file: str) -> dict[str, float]:
    """Seconds of each step, in this process (Ray can be loaded only once in one)."""
    from runtime.actor import Station
    from testbed import control, topology
    from testbed.hosts import HOSTS

    topology_read = topology.load(topology_file)
    times, began = {}, perf_counter()
    with (
        tempfile.TemporaryDirectory() as logs,
        HOSTS[topology_read.backend](topology_read, secrets.token_hex(4)) as net,
    ):
        times["network up"] = perf_counter() - began
        with control.cluster(net, lambda name: Path(logs) / f"{name}.log") as ray:
            times["network and Ray up"] = perf_counter() - began
            stations = [
                Station(h.name, h.data_addresses, h.data_interfaces, 1, bytes(32), Path(logs) / f"{h.name}.log")
                for h in net.hosts.values()
            ]
            actors = [ray.actor(station) for station in stations]
            ray.wait([actor.stop.remote() for actor in actors])
            times["and devices up"] = perf_counter() - began
        ended = perf_counter()
    times["down"] = perf_counter() - ended
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("topology", nargs="?", default=str(ROOT / "topologies/star4_10mbps.yaml"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(given.topology)))
        return
    command = [sys.executable, __file__, given.topology, "--once"]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for _ in range(given.repeats)
    ]
    print(machine())
    print(f"{given.topology}: medians of {given.repeats}, seconds from the start but for the last")
    for step in found[0]:
        values = [one[step] for one in found]
        print(f"{step:20} {statistics.median(values):5.1f}  ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
