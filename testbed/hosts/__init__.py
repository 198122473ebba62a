"""Where devices run: context managers that build a network and take it down again, whatever happens in between.

`HOSTS[backend](topology, run_id)` yields a `Network`. Everything it makes is in the run's ledger before it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Protocol

from testbed.shape import Port
from testbed.topology import Topology


class HostError(Exception):
    """A host, its network or its clean-up failed; one line that names the command or the thing."""


class HostHandle(Protocol):
    """One host of a network that is up."""

    @property
    def name(self) -> str:
        """Its name in the topology file."""

    @property
    def control_address(self) -> str:
        """Its address on the management network, which is never shaped."""

    @property
    def data_addresses(self) -> tuple[str, ...]:
        """Its addresses on the shaped network, one per link."""

    @property
    def data_interfaces(self) -> tuple[str, ...]:
        """Names, inside the host, of the interfaces that hold `data_addresses`; () for local."""

    def address_for(self, peer: str) -> str:
        """The address at which host `peer` reaches this one over the shaped network. Raises HostError if it cannot."""

    def run(self, argv: Sequence[str], timeout_s: float = 30.0) -> CompletedProcess[str]:
        """Run a command to its end in the host; its output is text. Raises HostError if it fails or takes longer."""

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        """Start a process in a session of its own, its output appended to `log`. env None: this process's own.

        Raises HostError if it cannot be started. It ends with the network at the latest.
        """

    def alive(self, pid: int) -> bool:
        """Whether this process runs (one that ended and was not waited for does not)."""

    def limit(self, on: bool) -> None:
        """Apply (True) or lift (False) the host's CPU share; lifted at first, so that set-up is fast."""

    def throttled_s(self) -> float | None:
        """Seconds for which the CPU share held the host back so far, summed over cores; None without a share."""


@dataclass(frozen=True)
class Network:
    """A network that is up.

    directory: a short scratch folder (sockets need short paths), removed at exit. control_address: this machine itself,
    as hosts reach it on the management network. ports: every shaped egress, () for local. start: like HostHandle.start,
    outside any host.
    """

    run_id: str
    directory: Path
    control_address: str
    hosts: dict[str, HostHandle]
    ports: tuple[Port, ...]
    start: Callable[[Sequence[str], Path, Mapping[str, str] | None], Popen[bytes]]


def _mininet(topology: Topology, run_id: str) -> AbstractContextManager[Network]:
    from testbed.hosts.mininet import network

    return network(topology, run_id)


def _local(topology: Topology, run_id: str) -> AbstractContextManager[Network]:
    from testbed.hosts.local import network

    return network(topology, run_id)


HOSTS: dict[str, Callable[[Topology, str], AbstractContextManager[Network]]] = {"mininet": _mininet, "local": _local}
