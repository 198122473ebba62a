"""Why a topology cannot run on this machine, though its file is sound; what no machine can do is `check`'s.

What no program or kernel here can do is refused, never ignored. Nothing is left behind on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testbed import abilities, cgroup, shape
from testbed.envelope import Unfit
from testbed.hosts import HostError
from testbed.topology import MAX_HOSTS, Topology

PROGRAMS = {  # program -> Debian package; without these there is no network
    "mnexec": "mininet",
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "ethtool": "ethtool",
    "ifconfig": "net-tools",
    "brctl": "bridge-utils",
}
KERNEL_USES = {
    "veth": "cables between hosts",
    "bridge": "switches",
    "gso_max_segs": "a message counts packet by packet",
}
CGROUP_FIX = "mount them writable; in a container, start it with --privileged"


def problems(topology: Topology, path: str | Path, shaper: str | None = None) -> list[str]:
    """Why this machine cannot be the network of `topology`, loaded from `path`: full lines, `file:line key: why`.

    shaper: the one that is to do it; None: the best that can.
    """
    from testbed import cables  # takes a while to import, as does schema
    from testbed.schema import draft

    document = draft(Path(path)).document
    for unfit in _refusals(topology, shaper):
        document.problem(cables.place(document, unfit), unfit.text)
    return document.problems


def refusal(topology: Topology, shaper: str | None = None) -> list[str]:
    """The same without file and line: one text each, none when it can."""
    return [unfit.line for unfit in _refusals(topology, shaper)]


def _refusals(topology: Topology, shaper: str | None) -> list[Unfit]:
    if len(topology.hosts) > MAX_HOSTS:  # what else such a network lacks does not matter
        text = f"{len(topology.hosts)} hosts: a run is on 1 to {MAX_HOSTS} devices; `testbed predict` goes beyond"
        return [Unfit("", "", "hosts", text)]
    if topology.backend == "local":
        text = f"local shapes nothing: leave out shaper {shaper}, or use backend: mininet"
        return [] if shaper is None else [Unfit("", "", "backend", text)]
    found = [Unfit("", "", "backend", text) for text in (*_programs(), *_kernel(topology))]
    if abilities.is_root() and any(switch.kind == "ovs" for switch in topology.switches) and not abilities.ovs_works():
        text = "type ovs needs a running Open vSwitch (`ovs-vsctl show` fails): use type bridge"
        found.append(Unfit("", "", "switches", text))
    if abilities.is_root() and topology.links:
        found += _shapers(topology, shaper)
    return found + [Unfit("", "", "hosts", text) for text in _shares(topology)]


def _programs() -> Iterator[str]:
    if not abilities.is_root():
        yield "mininet makes network namespaces and needs root: use sudo, or a file with backend: local"
    for program, package in PROGRAMS.items():
        if abilities.program(program) is None:
            yield f"mininet needs the program {program}: sudo apt-get install {package}"


def _kernel(topology: Topology) -> Iterator[str]:
    if not abilities.is_root() or not topology.links:
        return
    for kind, use in KERNEL_USES.items():
        why = abilities.why_not(kind)
        if why is not None:
            yield f"this kernel cannot do {kind} ({use}): {why}"


def _shapers(topology: Topology, forced: str | None) -> list[Unfit]:
    """None if a shaper can do it; else what the most able of those that may be taken here cannot."""
    try:
        shape.choose(topology, forced)
    except shape.NoShaper as error:
        allowed = shape.SHAPERS if forced is None else (forced,)
        here = [name for name in allowed if name in shape.SHAPERS and abilities.shaper_why_not(name) is None]
        if forced is not None and not here:
            return [Unfit("", "", "backend", f"{error}; leave --shaper out, or name another")]
        if not here:
            return [Unfit("", "", "backend", f"no link can be made as declared, {error}")]
        # The one that comes nearest: what it cannot do is the least that the file must do without.
        nearest = min(here, key=lambda name: len(shape.unfit(topology, name)))
        others = [f"{name} is not here" for name in allowed if name not in here]
        return [row._replace(text="; ".join([row.text, *others])) for row in shape.unfit(topology, nearest)]
    return []


def _shares(topology: Topology) -> Iterator[str]:
    if not abilities.is_root():
        return
    try:
        hierarchy = cgroup.find()
    except HostError as error:
        yield str(error)
        return
    why = cgroup.why_not(hierarchy, hierarchy.tracks)
    if why is not None:
        yield f"each needs a cgroup, and none can be made ({why}): {CGROUP_FIX}"
        return
    cpu_asked = any(host.cpu is not None for host in topology.hosts)
    asked = {"cpu": cpu_asked, "memory": any(host.memory_bytes is not None for host in topology.hosts)}
    for controller, tree in (("cpu", hierarchy.cpu), ("memory", hierarchy.memory)):
        if not asked[controller]:
            continue
        why = "there is none" if tree is None else cgroup.why_not(hierarchy, tree, controller)
        if why is not None:
            yield f"{controller} needs a cgroup controller that can be used ({why}): leave {controller} out"
