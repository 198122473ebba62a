"""A declared link becomes `tc` commands; `docs/network.md` has the measurements behind every choice made here.

Each direction is shaped once, at the interface that sends it, as a network card does. Nothing here runs anything except
`choose`, which asks the kernel what it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.topology import Link
from testbed.units import show_rate, show_size

LINE_OVERHEAD_BYTES = 24  # preamble 8, check sequence 4, gap 12: on the line, but not in what the kernel calls a packet
FRAME_BYTES = 1514  # 1500 bytes of IP and the 14 bytes of Ethernet header
LOWEST_RATE_BIT_S = 64e3
HIGHEST_RATE_BIT_S = 200e6  # one flow is true to 500 Mbit/s, but four hosts at once are not: see docs/network.md
_LEAST_BURST_BYTES = 1600  # a full frame on the line, 1538, and room for the kernel's rounding; less drops it
_FIRST_BURST_FRAMES = 10


class NoShaper(Exception):
    """This kernel has no queue discipline that limits a rate."""


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


def free_bytes(rate_bit_s: float, shaper: str) -> float:
    """Bytes on the line that pass at once after idle: none with netem, one frame or 0.2 ms of the rate with tbf."""
    if shaper == "netem":
        return 0.0
    return max(float(_LEAST_BURST_BYTES), float(int(rate_bit_s * 0.2e-3 / 8)))


def _tbf(link: Link) -> tuple[str, ...]:
    burst = str(int(free_bytes(link.rate_bit_s, "tbf")))
    rate = ("rate", f"{round(link.rate_bit_s)}bit", "overhead", str(LINE_OVERHEAD_BYTES))
    return ("tbf", *rate, "burst", burst, "limit", str(link.queue_bytes))


def _netem(link: Link) -> tuple[str, ...]:
    # netem counts its queue in packets. Its default of 1000 would be a queue of 1.2 s at 10 Mbit/s.
    packets = str(max(2, link.queue_bytes // FRAME_BYTES))
    return ("netem", "rate", f"{round(link.rate_bit_s)}bit", str(LINE_OVERHEAD_BYTES), "limit", packets)


SHAPERS: dict[str, Callable[[Link], tuple[str, ...]]] = {"tbf": _tbf, "netem": _netem}


def commands(ports: Sequence[Port], shaper: str) -> list[Command]:
    """Commands, in order, that give every port its declared rate and queue. Raises KeyError on an unknown shaper."""
    found = []
    for port in ports:
        # A TCP superpacket of 64 kB counts as one packet: it would pass an idle link whole, in no time at all.
        found.append(Command(port.host, ("ip", "link", "set", "dev", port.interface, "gso_max_segs", "1")))
        queue = SHAPERS[shaper](port.link)
        found.append(Command(port.host, ("tc", "qdisc", "replace", "dev", port.interface, "root", *queue)))
    return found


def refusal(link: Link) -> dict[str, str]:
    """What no shaper here makes of this link, on any machine: quantity, as files call it -> what is allowed."""
    found = {}
    for quantity, value in (("delay", link.delay_s), ("jitter", link.jitter_s), ("loss", link.loss)):
        if value > 0:
            found[quantity] = "links have a rate and a queue only in this release; leave it out"
    if not LOWEST_RATE_BIT_S <= link.rate_bit_s <= HIGHEST_RATE_BIT_S:
        found["rate"] = f"links are true to rates of {show_rate(LOWEST_RATE_BIT_S)} to {show_rate(HIGHEST_RATE_BIT_S)}"
    least = _FIRST_BURST_FRAMES * FRAME_BYTES
    if link.queue_bytes < least:
        found["queue"] = f"must hold the frames that TCP starts with, {show_size(least)}"
    return found


def choose() -> str:
    """The best shaper of this kernel, found by trying: "netem" (no credit after idle), else "tbf". Raises NoShaper."""
    from testbed.abilities import qdisc_works

    for shaper in ("netem", "tbf"):
        if qdisc_works(shaper):
            return shaper
    raise NoShaper("this kernel has neither netem nor tbf: no rate can be emulated (Ubuntu: linux-modules-extra-...)")
