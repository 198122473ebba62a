"""What this kernel can do to a network, found by trying it in a scratch namespace, never by version.

Each try is one command in a namespace of its own that ends with the command: nothing is left even after kill -9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_LIMIT_S = 10.0
_QDISC = ("tc", "qdisc", "add", "dev", "lo")
PROBES: Mapping[str, tuple[str, ...]] = {
    "tbf": (*_QDISC, "root", "tbf", "rate", "10mbit", "burst", "1600", "limit", "65536", "overhead", "24"),
    "netem": (
        *_QDISC,
        "root",
        "netem",
        "rate",
        "10mbit",
        "24",
        "limit",
        "100",
        "loss",
        "gemodel",
        "1%",
        "30%",
        "90%",
        "1%",
    ),
    "veth": ("ip", "link", "add", "tbprobe0", "type", "veth", "peer", "name", "tbprobe1"),
    "bridge": ("ip", "link", "add", "tbprobe0", "type", "bridge"),
    "gso_max_segs": ("ip", "link", "set", "dev", "lo", "gso_max_segs", "1"),
    "tap": ("ip", "tuntap", "add", "dev", "tbprobe0", "mode", "tap"),
    # tc and kernels before 2023 take no seed: the former refuse it, the latter ignore it.
    "netem_seed": (
        "sh",
        "-c",
        f"{' '.join(_QDISC)} root netem loss 1% seed 7 && tc qdisc show dev lo | grep -q 'seed 7'",
    ),
    "fifo": ("chrt", "--fifo", "1", "true"),
}
_SHAPERS = {"netem": "netem", "tbf": "tbf", "relay": "tap"}  # what each cannot do without
_NETFILTER_ON_BRIDGES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
# Debian keeps ip, tc and brctl in folders that su, cron and others leave out of PATH. Mininet and the devices call them
# by name from processes of their own, so it is not enough that we know where they are.
os.environ["PATH"] = ":".join(dict.fromkeys([*os.environ.get("PATH", os.defpath).split(":"), "/usr/sbin", "/sbin"]))


def is_root() -> bool:
    """Whether namespaces and interfaces can be made at all."""
    return os.geteuid() == 0


def program(name: str) -> str | None:
    """Where a program is, None if nowhere."""
    return shutil.which(name)


@lru_cache
def why_not(ability: str) -> str | None:
    """None if this machine has `ability`, a key of PROBES, else what the trial command said. Needs root.

    Raises KeyError for a name that is not in PROBES, PermissionError without root.
    """
    argv = PROBES[ability]
    if not is_root():
        raise PermissionError("only root can try it")
    if program(argv[0]) is None:
        return f"no program {argv[0]}"
    try:
        tried = subprocess.run(
            ["unshare", "--net", "--", *argv], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode == 0:
        return None
    said = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
    return said[0] if said else f"{argv[0]} ended with {tried.returncode}"


def works(ability: str) -> bool | None:
    """Whether this machine has `ability`, a key of PROBES; None without root, when it cannot be tried."""
    return why_not(ability) is None if is_root() else None


def shaper_why_not(shaper: str) -> str | None:
    """None if this machine has the shaper, one of shape.SHAPERS, else why not, also when it cannot be tried."""
    return why_not(_SHAPERS[shaper]) if is_root() else "only root can try it"


def forget() -> None:
    """The machine may have changed: try everything anew when asked next."""
    why_not.cache_clear()
    ovs_works.cache_clear()


@lru_cache
def ovs_works() -> bool:
    """Whether Open vSwitch answers: its program is there and its daemon runs."""
    if program("ovs-vsctl") is None:
        return False
    try:
        return subprocess.run(["ovs-vsctl", "--timeout=3", "show"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def walls() -> dict[str, str]:
    """What this machine's firewall drops of a network's frames: each with the command that lets ours in.

    Docker and ufw set such policies. Rules that drop without a policy are not looked for. Empty without root.
    """
    ways = {"INPUT": "what hosts send to the machine itself"}
    if _NETFILTER_ON_BRIDGES.exists() and _NETFILTER_ON_BRIDGES.read_text().strip() == "1":
        ways["FORWARD"] = "what hosts send each other over a bridge"
    if not is_root() or program("iptables") is None:
        return {}
    return {what: f"iptables -I {chain} -i tb+ -j ACCEPT" for chain, what in ways.items() if _drops(chain)}


def _drops(chain: str) -> bool:
    listed = subprocess.run(["iptables", "-w", "-S", chain], capture_output=True, text=True, check=False)
    rules = listed.stdout.splitlines()
    return f"-P {chain} DROP" in rules and f"-A {chain} -i tb+ -j ACCEPT" not in rules
