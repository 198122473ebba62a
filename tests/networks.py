"""Networks that tests bring up, and what a machine looks like before and after them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed import abilities
from testbed.clean import prefix
from testbed.hosts import Network
from testbed.topology import Host, Lane, Link, RunSpec, Switch, Topology

RUN = RunSpec(source="h1", model="vit-base")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec: use sudo make test"
)
root = [pytest.mark.root, needs_root]
alone = [*root, pytest.mark.alone]
measured = [*alone, pytest.mark.measures]

needs_relay = pytest.mark.skipif(
    abilities.works("tap") is not True, reason="no TAP devices here (or no root): the relay cannot run"
)
LANE = Lane(1e7)


def star(count: int = 3, lane: Lane = LANE, **host: float | int) -> Topology:
    hosts = tuple(Host(f"h{i + 1}", **host) for i in range(count))  # type: ignore[arg-type]
    links = tuple(Link.both(host.name, "s1", lane) for host in hosts)
    return Topology("star", "mininet", hosts, (Switch("s1"),), links, RUN)


def ring(count: int, lane: Lane = LANE) -> Topology:
    names = [f"h{i + 1}" for i in range(count)]
    links = tuple(Link.both(a, b, lane) for a, b in zip(names, [*names[1:], names[0]], strict=True))
    return Topology("ring", "mininet", tuple(Host(name) for name in names), (), links, RUN)


def marked(run_id: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TESTBED_RUN={run_id}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def machine() -> dict[str, object]:
    """What a run must leave as it was. Other runs' names are left out: they may come and go meanwhile."""
    settings = {}
    for folder in ("net/core", "net/ipv4", "kernel/pty"):
        for path in Path("/proc/sys", folder).glob("*"):
            if path.is_file() and path.name not in ("nr", "ping_group_range") and os.access(path, os.R_OK):
                settings[str(path)] = path.read_bytes()
    for path in Path("/proc/sys/net/ipv4/neigh/default").glob("*"):
        settings[str(path)] = path.read_bytes() if os.access(path, os.R_OK) else b""
    mounts = {line for line in Path("/proc/self/mounts").read_text().splitlines() if "/ray" not in line}
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    return {
        "interfaces": {name for name in os.listdir("/sys/class/net") if not re.match("tb[0-9a-f]{5}", name)},
        "settings": settings,
        "mounts": mounts,
        "rules": [line for line in rules.splitlines() if line.startswith("-")],
    }


def remains(run_id: str, namespaces: set[str]) -> list[str]:
    """Everything in the machine that is still of this run."""
    found = [name for name in os.listdir("/sys/class/net") if name.startswith(prefix(run_id))]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/testbed-{run_id}*")]
    found += [str(path) for path in (Path(f"/run/testbed/{run_id}.jsonl"), Path(f"/tmp/tb-{run_id}")) if path.exists()]
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if os.readlink(link) in namespaces:
                found.append(str(link))
        except OSError:
            continue
    return found + [str(pid) for pid in marked(run_id)]


def namespaces(network: Network) -> set[str]:
    return {host.run(["readlink", "/proc/self/ns/net"]).stdout.strip() for host in network.hosts.values()}


def qdiscs(network: Network, host: str) -> dict[str, str]:
    """Address -> queue discipline of the interface that holds it."""
    rows = json.loads(network.hosts[host].run(["ip", "-j", "addr"]).stdout)
    return {info["local"]: row["qdisc"] for row in rows for info in row["addr_info"]}
