"""Hosts as plain processes on loopback: no root, no shaping. Each host has its own address inside 127.0.0.0/8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, Popen

from testbed import clean
from testbed.hosts import HostError, HostHandle, Network
from testbed.ledger import Ledger
from testbed.processes import checked, look, spawn
from testbed.topology import Topology

CONTROL_NUMBER = 254


class Starter:
    """Starts processes of a run and notes them, so that they are found again."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.started: list[Popen[bytes]] = []

    def __call__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        """Start a process in its own session. Raises HostError."""
        # Its mark, in the environment, finds it should we be killed before the next line.
        process = spawn(argv, log, env, self.ledger.run_id)
        self.started.append(process)
        found = look(process.pid)
        if found:
            self.ledger.add("process", str(process.pid), found.start)
        return process


@dataclass(frozen=True)
class LocalHost:
    """A host that is only an address of loopback: a `HostHandle`."""

    name: str
    control_address: str
    starter: Starter

    @property
    def data_addresses(self) -> tuple[str, ...]:
        """Its one address."""
        return (self.control_address,)

    @property
    def data_interfaces(self) -> tuple[str, ...]:
        """None of its own."""
        return ()

    def address_for(self, peer: str) -> str:
        """Its one address, whoever asks."""
        return self.control_address

    def run(self, argv: Sequence[str], timeout_s: float = 30.0) -> CompletedProcess[str]:
        """Run a command to its end. Raises HostError."""
        try:
            return checked(argv, timeout_s)
        except HostError as error:
            raise HostError(f"{self.name}: {error}") from error

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        """Start a process. Raises HostError."""
        return self.starter(argv, log, env)

    def alive(self, pid: int) -> bool:
        """Whether the process runs."""
        return look(pid) is not None

    def limit(self, on: bool) -> None:
        """Nothing to apply: a share needs a cgroup, a cgroup needs root; a file that asks for one is refused."""

    def throttled_s(self) -> float | None:
        """None: there is no share."""
        return None

    def killed_for_memory(self) -> int:
        """0: there is no limit."""
        return 0


@contextmanager
def network(topology: Topology, run_id: str, shaper: str | None = None) -> Iterator[Network]:
    """Addresses on loopback for every host of a topology; at exit every process started on it has ended.

    Raises HostError, also for a host with a CPU share or a memory limit, and for a shaper: nothing is shaped.
    """
    if shaper is not None:
        raise HostError(f"backend local shapes nothing: leave out shaper {shaper}, or set backend: mininet")
    for host in topology.hosts:
        if host.cpu is not None or host.memory_bytes is not None:
            raise HostError(f"{host.name}: cpu and memory need backend mininet, leave them out")
    ledger = Ledger.create(run_id)
    starter = Starter(ledger)
    try:
        directory = clean.scratch(run_id)
        ledger.add("directory", str(directory))
        directory.mkdir(mode=0o700)
        # Two octets of the run id, so that another run on this machine has other addresses.
        net = f"127.{64 + int(run_id[:2], 16) % 128}.{int(run_id[2:4], 16)}"
        hosts: dict[str, HostHandle] = {
            host.name: LocalHost(host.name, f"{net}.{index + 1}", starter) for index, host in enumerate(topology.hosts)
        }
        yield Network(run_id, directory, f"{net}.{CONTROL_NUMBER}", hosts, (), starter)
    finally:
        try:
            clean.undo(ledger)
        finally:
            for process in starter.started:
                process.poll()
