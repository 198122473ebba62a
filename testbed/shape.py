"""A declared lane becomes `tc` commands; `docs/network.md` has the measurements behind every choice made here.

The kernel's two shapers shape each direction once, at the interface that sends it, as a network card does; the third,
the relay, does it in between (`testbed/relay`). Nothing here runs anything except `choose`, which tries the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from testbed.envelope import FRAME_BYTES as FRAME_BYTES
from testbed.envelope import HIGHEST_RATE_BIT_S as HIGHEST_RATE_BIT_S
from testbed.envelope import HIGHEST_TOTAL_BIT_S as HIGHEST_TOTAL_BIT_S
from testbed.envelope import LINE_OVERHEAD_BYTES as LINE_OVERHEAD_BYTES
from testbed.envelope import LONGEST_DELAY_S as LONGEST_DELAY_S
from testbed.envelope import LOWEST_RATE_BIT_S as LOWEST_RATE_BIT_S
from testbed.envelope import SHAPERS as SHAPERS
from testbed.envelope import NoShaper as NoShaper
from testbed.envelope import Unfit as Unfit
from testbed.envelope import beyond_rate
from testbed.envelope import link_refusal as link_refusal
from testbed.envelope import refusal as refusal
from testbed.envelope import unfit as unfit
from testbed.paths import Hop
from testbed.topology import Lane, Loss, Topology

ONE_BY_ONE_BIT_S = 250e6  # above it TCP may hand down a few frames at once, which costs less and is as true
SUPERPACKET_FRAMES = 4  # 8 are dropped together where one should be; must fit the bucket of this rate and above
_LEAST_BURST_BYTES = 1600  # a full frame on the line, 1538, and room for the kernel's rounding; less drops it
_SMALLEST_FRAME_BYTES = 84  # on the line
# More frames than the fastest lane holds during the longest delay: behind the rate, netem never drops for want of room.
_UNDER_WAY_FRAMES = math.ceil(HIGHEST_RATE_BIT_S * LONGEST_DELAY_S / 8 / _SMALLEST_FRAME_BYTES)


@dataclass(frozen=True)
class Port:
    """The egress of one direction of one link: `interface` in the namespace of `host` (None: the root namespace)."""

    hop: Hop
    host: str | None
    interface: str


@dataclass(frozen=True)
class Command:
    """One program to run in the namespace of `host` (None: the root namespace). Never goes through a shell."""

    host: str | None
    argv: tuple[str, ...]


def free_bytes(rate_bit_s: float, shaper: str) -> float:
    """Bytes on the line that pass at once after idle: with tbf one frame or 0.2 ms of the rate, else none."""
    if shaper != "tbf":
        return 0.0
    return max(float(_LEAST_BURST_BYTES), float(int(rate_bit_s * 0.2e-3 / 8)))


def superpacket_frames(rate_bit_s: float) -> int:
    """How many full frames TCP may hand down as one packet (`gso_max_segs`)."""
    return 1 if rate_bit_s <= ONE_BY_ONE_BIT_S else SUPERPACKET_FRAMES


def _rate(lane: Lane) -> tuple[str, str]:
    return "rate", f"{round(lane.rate_bit_s)}bit"


def _overhead(lane: Lane) -> str:
    # The kernel adds it once per packet, also to one of several frames.
    return str(LINE_OVERHEAD_BYTES * superpacket_frames(lane.rate_bit_s))


def _tbf(lane: Lane, _: int | None) -> list[tuple[str, ...]]:
    burst = str(int(free_bytes(lane.rate_bit_s, "tbf")))
    words = (*_rate(lane), "overhead", _overhead(lane), "burst", burst, "limit", str(lane.queue_bytes))
    return [("root", "handle", "1:", "tbf", *words)]


def _netem(lane: Lane, seed: int | None) -> list[tuple[str, ...]]:
    """Delay and jitter, in a child of them the rate with its queue, in a child of that the loss.

    In this order, because older kernels count a child's packets against the parent's limit: what is under way would
    take room in the queue of the rate. What is lost has used the line.
    """
    # netem counts its queue in packets. Its default of 1000 would be a queue of 1.2 s at 10 Mbit/s.
    packets = str(max(2, lane.queue_bytes // (FRAME_BYTES + LINE_OVERHEAD_BYTES)))
    first, last = ["limit", str(_UNDER_WAY_FRAMES)], ["limit", str(_UNDER_WAY_FRAMES)]
    if lane.delay_s:
        first += ["delay", f"{lane.delay_s * 1e6:.3f}us", *([f"{lane.jitter_s * 1e6:.3f}us"] if lane.jitter_s else [])]
    if not lane.reorder:
        # With a rate, each packet leaves after the one before it; this one is so high that it delays nothing.
        first += ["rate", "100gbit"]
    if lane.loss.mean:
        last += ["loss", *_loss(lane.loss), *(["seed", str(seed)] if seed is not None else [])]
    rate = ("netem", *_rate(lane), _overhead(lane), "limit", packets)
    return [
        ("root", "handle", "1:", "netem", *first),
        ("parent", "1:1", "handle", "2:", *rate),
        ("parent", "2:1", "handle", "3:", "netem", *last),
    ]


def _loss(loss: Loss) -> list[str]:
    if not loss.bursty:
        return ["random", _percent(loss.good)]
    # p, r, 1-h (lost when bad), 1-k (lost when good): tc turns the third round for the kernel by itself.
    return ["gemodel", *(_percent(value) for value in (loss.enter, loss.leave, loss.bad, loss.good))]


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.7f}%"


_QDISCS: dict[str, Callable[[Lane, int | None], list[tuple[str, ...]]]] = {"tbf": _tbf, "netem": _netem}


def commands(ports: Sequence[Port], shaper: str, seed: int | None = None) -> list[Command]:
    """Commands, in order, that shape every port with a shaper of the kernel. Raises KeyError on another.

    ports: both directions of every link, in the order of the file. seed: losses are drawn from it plus the direction's
    index; None where tc or the kernel takes none.
    """
    found = []
    for index, port in enumerate(ports):
        found.append(_superpackets(port, port.hop.lane))
        for words in _QDISCS[shaper](port.hop.lane, None if seed is None else seed + index):
            found.append(Command(port.host, ("tc", "qdisc", "replace", "dev", port.interface, *words)))
    return found


def change(port: Port, lane: Lane | None, shaper: str, seed: int | None = None) -> list[Command]:
    """Commands after which a port, shaped already, is as `lane` says; None: it carries nothing. What waits in it stays.

    Raises KeyError for a shaper that is none of the kernel's, ValueError for what it cannot do.
    """
    if lane is None:
        lane = replace(port.hop.lane, loss=Loss(1.0))
    if shaper == "tbf" and (keys := beyond_rate(lane)):
        raise ValueError(f"{port.hop.words}: tbf keeps a rate and a queue, not {' and '.join(keys)}")
    found = [_superpackets(port, lane)]
    for words in _QDISCS[shaper](lane, seed):
        found.append(Command(port.host, ("tc", "qdisc", "change", "dev", port.interface, *words)))
    return found


def _superpackets(port: Port, lane: Lane) -> Command:
    # A TCP superpacket of 64 kB counts as one packet: it would pass an idle link whole, in no time at all.
    frames = str(superpacket_frames(lane.rate_bit_s))
    return Command(port.host, ("ip", "link", "set", "dev", port.interface, "gso_max_segs", frames))


def choose(topology: Topology, forced: str | None = None) -> str:
    """The shaper for a network: `forced`, or the first of SHAPERS that this machine has and that can do it.

    Raises NoShaper, one line, if there is none, or `forced` is not here or cannot.
    """
    from testbed import abilities

    if forced is not None and forced not in SHAPERS:
        raise NoShaper(f"shaper {forced}: there are {', '.join(SHAPERS)}")
    why = []
    for shaper in SHAPERS if forced is None else [forced]:
        missing = abilities.shaper_why_not(shaper)
        wrong = unfit(topology, shaper)
        if missing is None and not wrong:
            return shaper
        why.append(f"{shaper}: {f'not here ({missing})' if missing else wrong[0].line}")
    raise NoShaper("; ".join(why))
