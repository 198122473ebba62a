"""Cables that are pairs of TAP devices, with the relay process between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import testbed
from testbed.hosts.layout import Cable
from testbed.processes import checked
from testbed.relay.client import Relay, write_plan
from testbed.topology import Lane, Link, Loss, Topology

LOG = "relay.log"


def open_relay(
    topology: Topology,
    cables: Sequence[Cable],
    directory: Path,
    start: Callable[[Sequence[str], Path, Mapping[str, str] | None], Popen[bytes]],
) -> Relay:
    """Start the relay for these cables; their devices exist when this returns, in the root namespace, not up yet.

    So that a network is made as fast whatever it is to be, lanes have no delay and no loss before `declare`.
    start: as of Network. Raises HostError.
    """
    laid = [(_plain(cable.link), cable.a.interface, cable.b.interface) for cable in cables if cable.link is not None]
    socket, log = directory / "relay", directory / LOG
    argv = write_plan(directory / "relay.json", socket, topology.run.seed, laid, topology.switches)
    # It is found wherever we are, even where the package is not installed.
    env = {**os.environ, "PYTHONPATH": str(Path(testbed.__file__).parent.parent)}
    return Relay(socket, start(argv, log, env), log)


def declare(relay: Relay, topology: Topology) -> None:
    """From now on every lane is as the file says. Raises HostError."""
    for link in topology.links:
        relay.change(f"{link.a} -> {link.b}", link.up)
        relay.change(f"{link.b} -> {link.a}", link.down)


def move(interface: str, pid: int) -> None:
    """Put a device into the network namespace of a process. Raises HostError."""
    checked(["ip", "link", "set", "dev", interface, "netns", str(pid)])


def join(interface: str, bridge: str, kind: str) -> None:
    """Plug a device into a switch, of kind "ovs" or any that is a Linux bridge. Raises HostError."""
    if kind == "ovs":
        checked(["ovs-vsctl", "--timeout=10", "add-port", bridge, interface])
    else:
        checked(["ip", "link", "set", "dev", interface, "master", bridge])


def _plain(link: Link) -> Link:
    def plain(lane: Lane) -> Lane:
        return replace(lane, delay_s=0.0, jitter_s=0.0, loss=Loss())

    return replace(link, up=plain(link.up), down=plain(link.down))
