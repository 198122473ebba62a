"""The device processes of a run: started when first needed, kept from method to method, ended after a loss."""

from __future__ import annotations

import math
import os
import secrets
import signal
from collections.abc import Iterable
from typing import Any

from runtime.actor import Station
from testbed import control
from testbed.gauge import Gauge, of_network
from testbed.hosts import HostHandle, Network
from testbed.store import RunFolder
from testbed.topology import Topology
from testbed.units import show_size


class Fleet:
    """Device processes, one per host, kept from method to method (loading torch takes seconds) until one is lost."""

    def __init__(self, topology: Topology, folder: RunFolder, network: Network, ray: control.Control) -> None:
        self.network, self.hosts = network, network.hosts
        self.killed: dict[str, str] = {}  # hosts whose device the file killed in this turn -> when, in words
        self._cpu = {host.name: host.cpu for host in topology.hosts}
        self._memory = {host.name: host.memory_bytes for host in topology.hosts if host.memory_bytes is not None}
        self._over = {name: self.hosts[name].killed_for_memory() for name in self._memory}
        self._folder, self._ray = folder, ray
        self._token = secrets.token_bytes(32)
        self._actors: dict[str, Any] = {}
        self._pids: dict[str, int] = {}

    def actor(self, name: str) -> Any:
        """The device process of a host, started if there is none."""
        if name not in self._actors:
            self._actors[name] = self._ray.actor(self._station(self.hosts[name]))
        return self._actors[name]

    def alive(self, name: str, pid: int | None) -> bool:
        """Whether a host's device process runs; with pid None, whether its Ray node does."""
        return self._ray.node_lives(name) if pid is None else self.hosts[name].alive(pid)

    def gauge(self) -> Gauge | None:
        """What reads the links; None where nothing is shaped."""
        return of_network(self.network, self._ray.leaders())

    def know_pids(self) -> None:
        """Learn which process each device is: `kill` must not have to ask one that computes."""
        new = [name for name in self._actors if name not in self._pids]
        self._pids |= dict(zip(new, self._ray.pids([self._actors[name] for name in new]), strict=True))

    def kill(self, name: str, when: str) -> bool:
        """Kill a host's device process, as the file says; False: there is none, as no method needed it since the last.

        Needs `know_pids`.
        """
        pid = self._pids.pop(name, None)
        if pid is None or not self.hosts[name].alive(pid):
            return False
        os.kill(pid, signal.SIGKILL)
        self.killed[name] = when
        return True

    def over_memory(self) -> dict[str, str]:
        """Hosts of which the kernel ended a process for memory since this was last asked -> what to say of each."""
        found = {}
        for name, limit in self._memory.items():
            count = self.hosts[name].killed_for_memory()
            if count > self._over[name]:
                words = f"{name} went over its memory of {show_size(limit)}: the kernel ended its device process"
                found[name] = words
            self._over[name] = count
        return found

    def end(self, names: Iterable[str] | None = None) -> None:
        """End these device processes, or all: after a loss, what the others hold of the request is not worth saving."""
        for name in list(self._actors) if names is None else [name for name in names if name in self._actors]:
            self._ray.end(self._actors.pop(name))
            self._pids.pop(name, None)

    def _station(self, host: HostHandle) -> Station:
        declared = self._cpu[host.name]
        cores = len(os.sched_getaffinity(0))
        threads = max(1, cores // len(self.hosts)) if declared is None else max(1, math.floor(declared))
        log = self._folder.log_path(host.name)
        return Station(host.name, host.data_addresses, host.data_interfaces, threads, self._token, log)
