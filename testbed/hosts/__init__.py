"""Where devices run: context managers that build a network and take it down again, whatever happens in between.

`HOSTS[backend](topology, run_id)` yields a `Network`. Everything it makes is in the run's ledger before it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import ClassVar, Protocol

from testbed.shape import Port
from testbed.topology import Lane, Topology


class HostError(Exception):
    """A host, its network or its clean-up failed; one line that names the command or the thing."""

    exit_status: ClassVar[int] = 3  # of the command


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

    def killed_for_memory(self) -> int:
        """How many of its processes the kernel has killed so far because the host was over its memory."""


@dataclass(frozen=True)
class Counters:
    """What became of the frames of one direction since the network came up.

    frames, bytes: handed on at the far end (kernel shapers: sent), bytes as the kernel counts them, without line
    overhead. queue_drops: the declared queue was full. lost: by declared loss, or on a link that was down; None where
    the kernel does not tell. overruns: lost by the emulation itself, which nobody declared.
    """

    frames: int
    bytes: int
    queue_drops: int
    lost: int | None
    overruns: int


@dataclass(frozen=True)
class Lateness:
    """How much later than due the relay handed frames on, since last asked. cpu_s: processor time it took for that.

    When a frame is due counts from when the relay read it. waited_s: what 99 of 100 frames had waited at most before
    that (an upper bound: time since the relay last looked, or in the kernel's queue for a processor). Not seen: time
    that a hypervisor takes from a machine whose relay sleeps, and a relay that was stopped.
    """

    frames: int
    median_s: float
    p99_s: float
    most_s: float
    cpu_s: float
    waited_s: float = 0.0


class Shaping(Protocol):
    """The shaper at work on the links of one network."""

    @property
    def name(self) -> str:
        """ "netem", "tbf" or "relay"."""

    @property
    def warnings(self) -> Sequence[str]:
        """What it could not do and goes on without, one line each."""

    def change(self, sender: str, receiver: str, lane: Lane | None) -> None:
        """From now on this direction is as `lane` says (its trace is ignored); None: it carries nothing.

        Drops no frame that waits and resets no flow. Raises HostError.
        """

    def counters(self) -> dict[str, Counters]:
        """Of every direction, "h1 -> s1". Raises HostError."""

    def lateness(self) -> Lateness | None:
        """Of the relay; None for a shaper of the kernel. Raises HostError."""


@dataclass(frozen=True)
class Network:
    """A network that is up.

    directory: a short scratch folder (sockets need short paths), removed at exit. control_address: this machine itself,
    as hosts reach it on the management network. ports: every shaped egress, () for local. start: like HostHandle.start,
    outside any host. shaping: what shapes the links; None for local.
    """

    run_id: str
    directory: Path
    control_address: str
    hosts: dict[str, HostHandle]
    ports: tuple[Port, ...]
    start: Callable[[Sequence[str], Path, Mapping[str, str] | None], Popen[bytes]]
    shaping: Shaping | None = None


class Backend(Protocol):
    """How a network is built: an entry of HOSTS."""

    def __call__(self, topology: Topology, run_id: str, shaper: str | None = None) -> AbstractContextManager[Network]:
        """A network that is up inside `with`. shaper: one of shape.SHAPERS, forced; None: the best that can."""


def _mininet(topology: Topology, run_id: str, shaper: str | None = None) -> AbstractContextManager[Network]:
    from testbed.hosts.mininet import network

    return network(topology, run_id, shaper)


def _local(topology: Topology, run_id: str, shaper: str | None = None) -> AbstractContextManager[Network]:
    from testbed.hosts.local import network

    return network(topology, run_id, shaper)


HOSTS: dict[str, Backend] = {"mininet": _mininet, "local": _local}
