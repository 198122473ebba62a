"""A declared link becomes `tc` commands. Pure: nothing here runs anything, see `docs/network.md` for what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.topology import Link

LINE_OVERHEAD_BYTES = 24  # preamble 8, check sequence 4, gap 12: on the line, but not in what the kernel calls a packet
FRAME_BYTES = 1514  # 1500 bytes of IP and the 14 bytes of Ethernet header
LOWEST_RATE_BIT_S = 64e3
HIGHEST_RATE_BIT_S = 200e6


@dataclass(frozen=True)
class Port:
    """The egress of one direction of one link: `interface` in the namespace of `host` (None: the root namespace)."""

    link: Link
    sender: str
    receiver: str
    host: str | None
    interface: str


@dataclass(frozen=True)
class Command:
    """One program to run in the namespace of `host` (None: the root namespace). Never goes through a shell."""

    host: str | None
    argv: tuple[str, ...]


def burst_bytes(rate_bit_s: float) -> int:
    """Bytes that may pass at once after idle: one full frame, or 0.2 ms of the rate where that is more."""
    return max(FRAME_BYTES + LINE_OVERHEAD_BYTES + 62, int(rate_bit_s * 0.2e-3 / 8))


def _tbf(port: Port) -> list[Command]:
    link = port.link
    shape = ("rate", f"{round(link.rate_bit_s)}bit", "burst", str(burst_bytes(link.rate_bit_s)))
    queue = ("limit", str(link.queue_bytes), "overhead", str(LINE_OVERHEAD_BYTES))
    return [Command(port.host, ("tc", "qdisc", "replace", "dev", port.interface, "root", "tbf", *shape, *queue))]


def _netem(port: Port) -> list[Command]:
    link = port.link
    packets = max(1, link.queue_bytes // FRAME_BYTES)
    shape = ("rate", f"{round(link.rate_bit_s)}bit", str(LINE_OVERHEAD_BYTES), "limit", str(packets))
    return [Command(port.host, ("tc", "qdisc", "replace", "dev", port.interface, "root", "netem", *shape))]


SHAPERS: dict[str, Callable[[Port], list[Command]]] = {"tbf": _tbf, "netem": _netem}


def commands(ports: Sequence[Port], shaper: str) -> list[Command]:
    """Commands, in order, that give every port its declared rate and queue. Raises KeyError on an unknown shaper."""
    found: list[Command] = []
    for port in ports:
        # A TCP superpacket of 64 kB counts as one packet: it would pass an idle link whole, in no time at all.
        found.append(Command(port.host, ("ip", "link", "set", "dev", port.interface, "gso_max_segs", "1")))
        found += SHAPERS[shaper](port)
    return found


def created_interfaces(found: Sequence[Command]) -> list[str]:
    """Names of the interfaces that these commands create in the root namespace, for the ledger. None at present."""
    return [c.argv[4] for c in found if c.host is None and c.argv[:4] == ("ip", "link", "add", "dev")]
