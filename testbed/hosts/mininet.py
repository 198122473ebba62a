"""Hosts as network namespaces, switches as bridges, through Mininet; addresses and shaping by our own checked commands.

Mininet ignores the errors of the commands it runs and writes sysctls when it starts: so it only makes nodes and plain
cables here, everything it made is looked at afterwards, and its own start-up is left out.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

from testbed import abilities, cgroup, clean, shape
from testbed.hosts import HostError, HostHandle, Network
from testbed.hosts.knock import knock
from testbed.hosts.layout import PREFIX_LENGTH, Cable, End, Layout, layout, used_networks
from testbed.ledger import Ledger
from testbed.processes import checked, look, spawn
from testbed.topology import Topology

PROGRAMS = ("mnexec", "ip", "tc", "bash", "ifconfig", "brctl")
LOG = "mininet.log"


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
            raise HostError(f"{self.name}: {peer} cannot reach it without crossing another host")
        return found

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return [*_member(self.group), "mnexec", "-a", str(self.pid), *argv]

    def run(self, argv: Sequence[str], timeout_s: float = 30.0) -> CompletedProcess[str]:
        """Run a command to its end. Raises HostError."""
        try:
            return checked(self._enter(argv), timeout_s)
        except HostError as error:
            # How we got into the host is no news to the reader.
            raise HostError(f"{self.name}: {str(error).replace(' '.join(self._enter(())) + ' ', '')}") from error

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
        """Start a process. Raises HostError."""
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


def _member(group: cgroup.Group) -> list[str]:
    """The start of a command line whose rest then runs inside the cgroup."""
    return [sys.executable, "-I", "-S", "-c", cgroup.ENTER, group.entrance()]


@contextmanager
def network(topology: Topology, run_id: str) -> Iterator[Network]:
    """Build the network of a topology, shaped, and take it down again. Raises HostError, shape.NoShaper.

    Root only. It never changes the machine's settings, and removes what it made whatever ends it.
    """
    _refuse(topology)
    ledger = Ledger.create(run_id)
    builder = _Builder(topology, ledger)
    try:
        yield builder.build()
    finally:
        try:
            clean.undo(ledger)
        finally:
            builder.reap()


def _refuse(topology: Topology) -> None:
    if os.geteuid() != 0:
        raise HostError("backend mininet makes network namespaces: run as root, or set backend: local")
    kinds = {switch.kind for switch in topology.switches}
    for program in (*PROGRAMS, *(["ovs-vsctl"] if "ovs" in kinds else [])):
        if abilities.program(program) is None:
            raise HostError(f"{program}: not installed; `testbed doctor` says what to install")
    if "ovs" in kinds:
        checked(["ovs-vsctl", "--timeout=5", "show"])


class _Builder:
    """One network being made. Each thing goes into the ledger first; undoing is the ledger's, not the builder's."""

    def __init__(self, topology: Topology, ledger: Ledger) -> None:
        self.topology, self.ledger, self.run_id = topology, ledger, ledger.run_id
        self.hierarchy = cgroup.find()
        self.directory = clean.scratch(self.run_id)
        self.started: list[Popen[bytes]] = []
        self.handles: dict[str, NamespaceHost] = {}
        self.net: Any = None

    def build(self) -> Network:
        """Make everything, in order. What an error leaves half made is in the ledger."""
        self.ledger.add("directory", str(self.directory))
        try:
            self.directory.mkdir(mode=0o700)
        except OSError as error:
            raise HostError(f"{self.directory}: {error.strerror}") from error
        self.plan = self._layout()
        control = self._group("control")
        groups = {h.name: self._group(f"host-{h.name}", h.cpu, h.memory_bytes) for h in self.topology.hosts}
        self._nodes(self._group("nodes"))
        for name in self.plan.hosts:
            pid = self.net[self.plan.hosts[name]].pid
            self.handles[name] = NamespaceHost(name, self.run_id, pid, self.plan, groups[name], self.started)
            self._quiet_namespace(pid)
        for cable in self.plan.cables:
            self._lay(cable)
        self._start_switches()
        for cable in self.plan.cables:
            for end in (cable.a, cable.b):
                self._address(end)
        self._root_address()
        knock(self.plan, self._into)
        ports = self._ports()
        for command in shape.commands(ports, shape.choose()):
            checked([*self._into(command.host), *command.argv])
        hosts: dict[str, HostHandle] = dict(self.handles)
        return Network(
            self.run_id, self.directory, self.plan.control_address, hosts, ports, self._starter(_member(control))
        )

    def _layout(self) -> Layout:
        addresses, routes = (checked(["ip", "-j", "-4", *words]).stdout for words in (["addr"], _ALL_ROUTES))
        plan = layout(self.topology, self.run_id, used_networks(addresses, routes))
        start = clean.prefix(self.run_id)
        taken = [name for name in os.listdir("/sys/class/net") if name.startswith(start)]
        if taken:
            raise HostError(f"run id {self.run_id}: interface {taken[0]} is there already, take another run id")
        return plan

    def _group(self, name: str, cpu: float | None = None, memory_bytes: int | None = None) -> cgroup.Group:
        group = cgroup.Group(self.hierarchy, f"testbed-{self.run_id}/{name}", cpu, memory_bytes)
        for folder in group.folders():
            self.ledger.add("cgroup", str(folder.parent))
            self.ledger.add("cgroup", str(folder))
        group.make()
        return group

    def _nodes(self, group: cgroup.Group) -> None:
        """Mininet's hosts and switches: each a shell, born inside `group` so that it can be found after a crash."""
        from mininet.log import lg
        from mininet.net import Mininet
        from mininet.node import Host, OVSSwitch
        from mininet.nodelib import LinuxBridge

        for handler in list(lg.handlers):
            lg.removeHandler(handler)
        lg.addHandler(logging.FileHandler(self.directory / LOG))
        enter = _member(group)

        def inside(kind: Any) -> Any:
            def popen(_: Any, argv: Sequence[str], **options: Any) -> Popen[bytes]:
                return Popen([*enter, *argv], **options)

            return type(kind.__name__, (kind,), {"_popen": popen})

        Mininet.inited = True  # else it writes sysctls of the machine: TCP buffers, ARP tables, limits
        self.net = Mininet(controller=None, build=False)
        kinds = {"bridge": (inside(LinuxBridge), {}), "ovs": (inside(OVSSwitch), {"failMode": "standalone"})}
        for short in self.plan.hosts.values():
            self.net.addHost(short, cls=inside(Host), ip=None)
        bridges = [(self.plan.switches[s.name], s.kind) for s in self.topology.switches]
        for index, (short, kind) in enumerate([*bridges, (self.plan.management, "bridge")]):
            self.ledger.add(kind, short)
            cls, options = kinds[kind]
            self.net.addSwitch(short, cls=cls, dpid=f"{self.run_id}{index:04x}", **options)

    def _into(self, host: str | None) -> list[str]:
        return [] if host is None else ["mnexec", "-a", str(self.handles[host].pid)]

    def _quiet_namespace(self, pid: int) -> None:
        """No IPv6 in a host: router solicitations would count as bytes on the links."""
        checked(["mnexec", "-a", str(pid), "ip", "link", "set", "dev", "lo", "up"])
        for scope in ("all", "default"):
            knob = f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"
            if Path(knob).exists():
                checked(["mnexec", "-a", str(pid), "tee", knob], stdin="1")

    def _node(self, name: str) -> Any:
        return self.net[(self.plan.hosts | self.plan.switches | {self.plan.management: self.plan.management})[name]]

    def _lay(self, cable: Cable) -> None:
        from mininet.link import Link

        for end in (cable.a, cable.b):
            if end.node not in self.plan.hosts:
                self.ledger.add("interface", end.interface)
        names = {"intfName1": cable.a.interface, "intfName2": cable.b.interface}
        try:
            self.net.addLink(self._node(cable.a.node), self._node(cable.b.node), cls=Link, **names)
        except Exception as error:  # Mininet raises bare Exception; KeyboardInterrupt is none
            raise HostError(f"cable {cable.a.interface} - {cable.b.interface}: {str(error).strip()}") from error

    def _start_switches(self) -> None:
        self.net.start()
        for name in (*self.plan.switches, self.plan.management):
            short = self._node(name).name
            ends = [e.interface for c in self.plan.cables for e in (c.a, c.b) if e.node == name]
            for device in (short, *ends):
                if not Path("/sys/class/net", device).exists():
                    raise HostError(f"switch {name}: {device} was not made; Mininet said: {self._last_words()}")
                knob = Path("/proc/sys/net/ipv6/conf", device, "disable_ipv6")
                if knob.exists():
                    knob.write_text("1")
            for end in ends:
                if not Path("/sys/class/net", end, "master").exists():
                    raise HostError(f"switch {name}: {end} was not joined to it")

    def _last_words(self) -> str:
        """The end of Mininet's log, which goes with the network."""
        lines = (self.directory / LOG).read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def _address(self, end: End) -> None:
        into = self._into(end.node if end.node in self.plan.hosts else None)
        if end.address:
            checked([*into, "ip", "addr", "add", f"{end.address}/{PREFIX_LENGTH}", "dev", end.interface])
        checked([*into, "ip", "link", "set", "dev", end.interface, "up"])

    def _root_address(self) -> None:
        own = f"{self.plan.control_address}/{PREFIX_LENGTH}"
        checked(["ip", "addr", "add", own, "dev", self.plan.management])
        checked(["ip", "link", "set", "dev", self.plan.management, "up"])

    def _ports(self) -> tuple[shape.Port, ...]:
        found = []
        for cable in self.plan.cables:
            for near, far in ((cable.a, cable.b), (cable.b, cable.a)):
                if cable.link is not None:
                    host = near.node if near.node in self.plan.hosts else None
                    found.append(shape.Port(cable.link, near.node, far.node, host, near.interface))
        return tuple(found)

    def _starter(self, enter: list[str]) -> Callable[[Sequence[str], Path, Mapping[str, str] | None], Popen[bytes]]:
        def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
            process = spawn([*enter, *argv], log, env, self.run_id)
            self.started.append(process)
            return process

        return start

    def reap(self) -> None:
        """Collect what has ended, or it would stay in the process table; close Mininet's terminals."""
        for process in self.started:
            process.poll()
        for node in [*self.net.hosts, *self.net.switches] if self.net else []:
            node.cleanup()


_ALL_ROUTES = ["route", "show", "table", "all"]
