"""A host that is a network namespace and a cgroup of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess, Popen

from testbed import cgroup
from testbed.hosts import HostError
from testbed.hosts.layout import Layout
from testbed.processes import checked, look, spawn
from testbed.units import show_size


@dataclass(frozen=True)
class NamespaceHost:
    """A host in its own network namespace and cgroup: a `HostHandle`."""

    name: str
    run_id: str
    pid: int  # of the shell that holds the namespace open
    layout: Layout
    group: cgroup.Group
    started: list[Popen[bytes]] = field(default_factory=list, compare=False)

    @property
    def control_address(self) -> str:
        """Its address on the management network."""
        return self.layout.ends(self.name, shaped=False)[0].address or ""

    @property
    def data_addresses(self) -> tuple[str, ...]:
        """Its addresses on the shaped network."""
        return tuple(end.address or "" for end in self.layout.ends(self.name, shaped=True))

    @property
    def data_interfaces(self) -> tuple[str, ...]:
        """Its interfaces on the shaped network."""
        return tuple(end.interface for end in self.layout.ends(self.name, shaped=True))

    def address_for(self, peer: str) -> str:
        """Where `peer` reaches this host over the shaped network. Raises HostError if it cannot."""
        found = self.layout.reach(self.name, peer)
        if found is None:
            raise HostError(f"{self.name}: {peer} cannot reach it")
        return found

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return [*member(self.group), "mnexec", "-a", str(self.pid), *argv]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A failure in here is one of this host; if the kernel killed for its memory meanwhile, that is said first."""
        killed = self.killed_for_memory()
        try:
            yield
        except HostError as error:
            # How we got into the host is no news to the reader.
            text = str(error).replace(" ".join(self._enter(())) + " ", "")
            limit = self.group.memory_bytes
            if limit is not None and self.killed_for_memory() > killed:
                raise HostError(f"{self.name} went over its declared memory ({show_size(limit)}): {text}") from error
            raise HostError(f"{self.name}: {text}") from error

    def run(self, argv: Sequence[str], timeout_s: float = 30.0) -> CompletedProcess[str]:
        """Run a command to its end. Raises HostError."""
        with self._explained():
            return checked(self._enter(argv), timeout_s)

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        """Start a process. Raises HostError."""
        with self._explained():
            process = spawn(self._enter(argv), log, env, self.run_id)
        self.started.append(process)
        return process

    def alive(self, pid: int) -> bool:
        """Whether the process runs."""
        return look(pid) is not None

    def limit(self, on: bool) -> None:
        """Apply or lift the CPU share. Raises HostError."""
        self.group.limit(on)

    def throttled_s(self) -> float | None:
        """Seconds held back by the CPU share."""
        return self.group.throttled_s()

    def killed_for_memory(self) -> int:
        """Processes killed for being over its memory. Raises HostError."""
        return self.group.killed_for_memory()


def member(group: cgroup.Group) -> list[str]:
    """The start of a command line whose rest then runs inside the cgroup."""
    return [sys.executable, "-I", "-S", "-c", cgroup.ENTER, group.entrance()]
