"""Hosts as network namespaces, switches as bridges, through Mininet; addresses and shaping by our own checked commands.

Mininet ignores the errors of the commands it runs and writes sysctls when it starts: so it only makes nodes and plain
cables here, everything it made is looked at afterwards, and its own start-up is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from testbed import abilities, awake, cgroup, clean, shape
from testbed.hosts import HostError, HostHandle, Network, Shaping, taps
from testbed.hosts.knock import knock
from testbed.hosts.layout import PREFIX_LENGTH, Cable, End, Layout, layout, used_networks
from testbed.hosts.namespace import NamespaceHost, member
from testbed.hosts.shaping import RelayShaping, TcShaping
from testbed.ledger import Ledger
from testbed.paths import Hop
from testbed.processes import checked, spawn
from testbed.relay.client import Relay
from testbed.topology import Topology

PROGRAMS = ("mnexec", "ip", "tc", "bash", "ifconfig", "brctl")
LOG = "mininet.log"


@contextmanager
def network(topology: Topology, run_id: str, shaper: str | None = None) -> Iterator[Network]:
    """Build the network of a topology, shaped, and take it down again. shaper: as of shape.choose. Raises HostError.

    Root only. It never changes the machine's settings, and removes what it made whatever ends it.
    """
    _refuse(topology)
    try:
        chosen = shape.choose(topology, shaper)
    except shape.NoShaper as error:
        raise HostError(f"no shaper: {error}") from error
    ledger = Ledger.create(run_id)
    builder = _Builder(topology, ledger, chosen)
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

    def __init__(self, topology: Topology, ledger: Ledger, shaper: str) -> None:
        self.topology, self.ledger, self.run_id, self.shaper = topology, ledger, ledger.run_id, shaper
        self.hierarchy = cgroup.find()
        self.directory = clean.scratch(self.run_id)
        self.started: list[Popen[bytes]] = []
        self.handles: dict[str, NamespaceHost] = {}
        self.net: Any = None
        self.relay: Relay | None = None
        self.awake: int | None = None

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
            self._settle_namespace(name)
        self._lay_cables()
        self._start_switches()
        for cable in self.plan.cables:
            for end in (cable.a, cable.b):
                self._address(end)
        self._root_address()
        for name in self.plan.hosts:
            self._route(name)
        knock(self.plan, self._into)
        ports = self._ports()
        shaping, start = self._shape(ports), self._starter(member(control))
        hosts: dict[str, HostHandle] = dict(self.handles)
        return Network(self.run_id, self.directory, self.plan.control_address, hosts, ports, start, shaping)

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
        return self._made(group)

    def _made(self, group: cgroup.Group) -> cgroup.Group:
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
        enter = member(group)

        def inside(kind: Any) -> Any:
            def popen(_: Any, argv: Sequence[str], **options: Any) -> Popen[bytes]:
                return Popen([*enter, *argv], **options)

            return type(kind.__name__, (kind,), {"_popen": popen})

        Mininet.inited = True  # else it writes sysctls of the machine: TCP buffers, ARP tables, limits
        self.net = Mininet(controller=None, build=False)
        bridge = inside(LinuxBridge)
        kinds = {"bridge": (bridge, {}), "shared": (bridge, {}), "ovs": (inside(OVSSwitch), {"failMode": "standalone"})}
        for short in self.plan.hosts.values():
            self.net.addHost(short, cls=inside(Host), ip=None)
        bridges = [(self.plan.switches[s.name], s.kind) for s in self.topology.switches]
        for index, (short, kind) in enumerate([*bridges, (self.plan.management, "bridge")]):
            self.ledger.add("ovs" if kind == "ovs" else "bridge", short)
            cls, options = kinds[kind]
            self.net.addSwitch(short, cls=cls, dpid=f"{self.run_id}{index:04x}", **options)

    def _into(self, host: str | None) -> list[str]:
        return [] if host is None else ["mnexec", "-a", str(self.handles[host].pid)]

    def _settle_namespace(self, name: str) -> None:
        """Before there are interfaces, which take these settings over.

        No IPv6: router solicitations would count as bytes on the links. Packets go where `paths` says, whatever others
        suggest, and are taken from where they come.
        """
        into = self._into(name)
        checked([*into, "ip", "link", "set", "dev", "lo", "up"])
        forward = "1" if name in self.plan.forwarding else "0"
        settings = [("ipv4/ip_forward", forward)]
        for scope in ("all", "default"):
            for knob in ("rp_filter", "send_redirects", "accept_redirects"):
                settings.append((f"ipv4/conf/{scope}/{knob}", "0"))
            settings.append((f"ipv6/conf/{scope}/disable_ipv6", "1"))
        script = "".join(f"[ ! -e {knob} ] || echo {value} > {knob}\n" for knob, value in settings)
        checked([*into, "sh", "-e"], stdin=f"cd /proc/sys/net\n{script}")

    def _node(self, name: str) -> Any:
        return self.net[(self.plan.hosts | self.plan.switches | {self.plan.management: self.plan.management})[name]]

    def _lay_cables(self) -> None:
        """Management cables are always the kernel's."""
        relayed = [cable for cable in self.plan.cables if self.shaper == "relay" and cable.link is not None]
        for cable in self.plan.cables:
            for end in (cable.a, cable.b):
                # The devices of the relay start in the root namespace, all of them.
                if end.node not in self.plan.hosts or cable in relayed:
                    self.ledger.add("interface", end.interface)
            if cable not in relayed:
                self._lay(cable)
        if relayed:
            group = self._made(cgroup.Group(self.hierarchy.for_real_time, f"testbed-{self.run_id}/relay"))
            start = self._starter(member(group))
            self.relay = taps.open_relay(self.topology, relayed, self.directory, start)
        for end in (end for cable in relayed for end in (cable.a, cable.b) if end.node in self.plan.hosts):
            taps.move(end.interface, self.handles[end.node].pid)

    def _lay(self, cable: Cable) -> None:
        from mininet.link import Link

        names = {"intfName1": cable.a.interface, "intfName2": cable.b.interface}
        try:
            self.net.addLink(self._node(cable.a.node), self._node(cable.b.node), cls=Link, **names)
        except Exception as error:  # Mininet raises bare Exception; KeyboardInterrupt is none
            raise HostError(f"cable {cable.a.interface} - {cable.b.interface}: {str(error).strip()}") from error

    def _start_switches(self) -> None:
        self.net.start()
        kinds = {switch.name: switch.kind for switch in self.topology.switches}
        for name in (*self.plan.switches, self.plan.management):
            short = self._node(name).name
            ends = [e.interface for c in self.plan.cables for e in (c.a, c.b) if e.node == name]
            if self.relay is not None and name in kinds:
                for end in ends:
                    taps.join(end, short, kinds[name])
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

    def _route(self, name: str) -> None:
        lines = [f"route add {r.address}/32 via {r.via} dev {r.interface}\n" for r in self.plan.routes[name]]
        if lines:
            checked([*self._into(name), "ip", "-batch", "-"], stdin="".join(lines))

    def _shape(self, ports: Sequence[shape.Port]) -> Shaping:
        if self.relay is not None:
            taps.declare(self.relay, self.topology)
            return RelayShaping(self.relay)
        seed = self.topology.run.seed if abilities.works("netem_seed") else None
        shaping = TcShaping(self.shaper, ports, self._into, seed)
        try:
            self.awake = awake.hold()  # the relay does so by itself
        except OSError as error:
            shaping.warnings = [f"{awake.WITHOUT} ({error.strerror})"]
        return shaping

    def _ports(self) -> tuple[shape.Port, ...]:
        found = []
        for cable in self.plan.cables:
            for near, far in ((cable.a, cable.b), (cable.b, cable.a)):
                if cable.link is not None:
                    host = near.node if near.node in self.plan.hosts else None
                    found.append(shape.Port(Hop(near.node, far.node, cable.link), host, near.interface))
        return tuple(found)

    def _starter(self, enter: list[str]) -> Callable[[Sequence[str], Path, Mapping[str, str] | None], Popen[bytes]]:
        def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Popen[bytes]:
            process = spawn([*enter, *argv], log, env, self.run_id)
            self.started.append(process)
            return process

        return start

    def reap(self) -> None:
        """Collect what has ended, or it would stay in the process table; close Mininet's terminals and the relay's
        socket."""
        if self.awake is not None:
            os.close(self.awake)
        if self.relay is not None:
            self.relay.close()
        for process in self.started:
            process.poll()
        for node in [*self.net.hosts, *self.net.switches] if self.net else []:
            node.cleanup()


_ALL_ROUTES = ["route", "show", "table", "all"]
