"""Ray: a head beside the network, one node per host, on the management network that is never shaped."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

from runtime.actor import DeviceActor, Station
from testbed.hosts import HostError, HostHandle, Network

UP_S = 60.0  # of a group of nodes
AT_ONCE = 2 * len(os.sched_getaffinity(0))  # nodes that start together
OBJECT_STORE_BYTES = 80_000_000  # the least that Ray accepts is enough: no tensor goes through it
FLAGS = [
    "--disable-usage-stats",
    "--include-log-monitor=false",  # nothing reads what it hands on: output goes to the run folder
    f"--object-store-memory={OBJECT_STORE_BYTES}",
    "--min-worker-port=0",  # any free port: the nodes of a local run share one machine's
    "--max-worker-port=0",
]
RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).resolve().parent.parent


class ControlError(HostError):
    """Ray did not come up; the text names the host and its log."""

    exit_status = 1  # the network was the declared one


class Control:
    """A Ray cluster that is up; makes one actor per host and ends it."""

    def __init__(self, ray: Any, nodes: Mapping[str, Popen[bytes]], up_s: float) -> None:
        self._ray, self._nodes = ray, nodes
        self.up_s = up_s  # seconds that Ray took to come up, head and nodes

    def node_lives(self, host: str) -> bool:
        """Whether the Ray node of a host still runs; without it no device of that host can be started or asked."""
        return self._nodes[host].poll() is None

    def leaders(self) -> dict[str, int]:
        """The first process of every Ray node, "control" being the head's."""
        return {name: process.pid for name, process in self._nodes.items()}

    def actor(self, station: Station) -> Any:
        """A device process on the host of `station`: a Ray handle to a `DeviceActor`."""
        remote = self._ray.remote(DeviceActor)
        place = {f"host:{station.host}": 1}
        # Of its four threads one infers or takes; the others stay free to stop it.
        return remote.options(num_cpus=0, resources=place, max_concurrency=4, max_restarts=0).remote(station)

    def wait(self, references: list[Any]) -> None:
        """Until all these calls of actors have returned. Raises what they raised."""
        self._ray.get(references)

    def pids(self, actors: list[Any]) -> list[int]:
        """Which processes these devices are. Waits until they have started."""
        found: list[int] = self._ray.get([actor.__ray_call__.remote(_own_pid) for actor in actors])
        return found

    def end(self, actor: Any) -> None:
        """End a device process; no-op if it is gone."""
        self._ray.kill(actor, no_restart=True)


def _own_pid(_actor: DeviceActor) -> int:
    return os.getpid()


@contextmanager
def cluster(network: Network, log: Callable[[str], Path]) -> Iterator[Control]:
    """Start Ray on a network; `log(name)` tells where a node's output goes. Raises ControlError.

    The processes belong to the network, which ends them when it is taken down.
    """
    began = time.monotonic()
    environment = _environment(network.directory)
    os.environ.update(environment)
    import ray  # only now: Ray reads its token's path once, when it is imported

    address, process = _head(network, log)
    environment = {**os.environ, **environment}
    nodes = {"control": process}
    try:
        own_address = network.control_address
        ray.init(address, _node_ip_address=own_address, log_to_driver=False, logging_level="ERROR")
        hosts = list(enumerate(network.hosts.values()))
        # Ray gives a node 30 s to come up, whatever it is told: on a busy machine sixteen at once take longer.
        for first in range(0, len(hosts), AT_ONCE):
            group = hosts[first : first + AT_ONCE]
            for index, host in group:
                folder = _made(network.directory / f"r{index}")
                nodes[host.name] = host.start(_node(address, host, folder), log(host.name), environment)
            wanted = [f"host:{host.name}" for _, host in group]
            _await(partial(_all_in, ray.cluster_resources, wanted), nodes, log)
        yield Control(ray, nodes, time.monotonic() - began)
    except ControlError:
        over = [name for name, host in network.hosts.items() if host.killed_for_memory()]
        if over:
            words = f"{' and '.join(over)} went over the declared memory"
            raise ControlError(f"{words}: the kernel ended a process of its Ray node, give it more") from None
        raise
    finally:
        ray.shutdown()


def _node(address: str, host: HostHandle, folder: Path) -> list[str]:
    """The command of a host's Ray node."""
    own = [f"--node-ip-address={host.control_address}", f"--temp-dir={folder}"]
    mark = f"--resources={json.dumps({f'host:{host.name}': 1})}"
    return [RAY, "start", "--block", f"--address={address}", "--num-cpus=1", mark, *own, *FLAGS]


def _head(network: Network, log: Callable[[str], Path]) -> tuple[str, Popen[bytes]]:
    """Start Ray's head on a port that is free, and wait for the file in which it says which one."""
    folder = _made(network.directory / "r")
    flags = [
        "--head",
        "--port=0",
        "--include-dashboard=false",
        "--no-monitor",  # of an autoscaler
        f"--node-ip-address={network.control_address}",
        "--num-cpus=0",
        *FLAGS,
    ]
    process = network.start([RAY, "start", "--block", *flags, f"--temp-dir={folder}"], log("control"), dict(os.environ))
    told = folder / "ray_current_cluster"
    _await(lambda: told.exists() and bool(told.read_text().strip()), {"control": process}, log)
    return told.read_text().strip(), process


def _environment(directory: Path) -> dict[str, str]:
    """Settings for head, nodes and driver alike. A token of this run keeps other Rays out, and its absence elsewhere
    (an old token file in the home folder) from refusing our own nodes."""
    if "ray" in sys.modules:
        raise ControlError("Ray is loaded already: one process runs one experiment")
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_DEDUP_LOGS": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


def _all_in(resources: Callable[[], Collection[str]], wanted: Sequence[str]) -> bool:
    return set(wanted) <= set(resources())


def _made(folder: Path) -> Path:
    """Each node its own folder: nodes that share one collide over their sockets."""
    folder.mkdir(exist_ok=True)
    return folder


def _await(ready: Callable[[], bool], processes: Mapping[str, Popen[bytes]], log: Callable[[str], Path]) -> None:
    """Poll until ready. Raises ControlError if a process ends first or time is up."""
    deadline = time.monotonic() + UP_S
    while not ready():
        for name, process in processes.items():
            if process.poll() is not None:
                raise ControlError(f"Ray on {name} ended with status {process.returncode}: see {log(name)}")
        if time.monotonic() > deadline:
            raise ControlError(f"Ray did not come up within {UP_S:.0f} s: see {log('control').parent}")
        time.sleep(0.05)
