"""What a lane promises, in words for people: drawings and diagrams say it the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from testbed.topology import Host, Lane, Link, Loss, Step, Switch, Topology, Trace
from testbed.units import show_duration, show_fraction, show_rate, show_size

KINDS = {"bridge": "bridge", "ovs": "Open vSwitch", "shared": "shared medium"}


def counted(number: int, noun: str) -> str:
    """ "1 link", "2 links", "2 switches"."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('ch') else 's'}"


def of_host(host: Host) -> list[str]:
    """Its limits, ["0.4 cores", "1 GiB"]; [] if it has none."""
    found = [] if host.cpu is None else [f"{host.cpu:g} core{'' if host.cpu == 1 else 's'}"]
    return found if host.memory_bytes is None else [*found, show_size(host.memory_bytes)]


def of_switch(switch: Switch) -> str:
    """ "bridge", "Open vSwitch", "shared medium, 20 Mbit/s"."""
    rate = "" if switch.rate_bit_s is None else f", {show_rate(switch.rate_bit_s)}"
    return KINDS[switch.kind] + rate


def of_lane(lane: Lane, brief: bool = False) -> list[str]:
    """Quantity by quantity. brief: without delay and loss that are 0, of the queue only its length.

    The way out of a shared medium has no rate and no queue of its own.
    """
    found = [show_rate(lane.rate_bit_s)] if math.isfinite(lane.rate_bit_s) else []
    if lane.delay_s or not brief:
        found.append(_delay(lane))
    if lane.loss.mean or not brief:
        found.append(f"loss {_loss(lane.loss)}")
    if math.isfinite(lane.rate_bit_s):
        found.append(f"queue {show_size(lane.queue_bytes)}" + ("" if brief else f" ({_full(lane)})"))
    if lane.trace is not None:
        found.append(_trace(lane.trace))
    return found or ["no delay"]


def of_link(topology: Topology, link: Link, brief: bool = False) -> list[tuple[str, list[str]]]:
    """[("", quantities)] if both directions are the same, else one entry for each, ("h1 -> s1", quantities).

    At a shared medium, whose rate is common to all, the two are the same if they differ in rate and queue alone.
    """
    media = {switch.name for switch in topology.switches if switch.kind == "shared"}
    found = []
    for sender, receiver in ((link.a, link.b), (link.b, link.a)):
        words = of_lane(link.lane(sender), brief)
        # The rate into a medium is said of the medium.
        found.append((f"{sender} -> {receiver}", words[1:] if receiver in media else words))
    if media & {link.a, link.b}:
        inward = found[0 if link.b in media else 1][1]
        up, down = (replace(lane, rate_bit_s=1.0, queue_bytes=1) for lane in (link.up, link.down))
        return [("", inward)] if up == down else found
    return [("", found[0][1])] if link.up == link.down else found


def slowest_bit_s(lane: Lane) -> float:
    """The lowest rate that a lane ever has by its own trace."""
    steps = lane.trace.steps if lane.trace else ()
    return min([lane.rate_bit_s, *(step.rate_bit_s for step in steps if step.rate_bit_s is not None)])


def worst_queue_s(topology: Topology, link: Link, sender: str) -> float:
    """Seconds that the last byte waits if the queue of this direction is full while the rate is at its lowest.

    At a shared medium, if those of all links to it are: they are served by one.
    """
    medium = next((switch for switch in topology.switches if switch.name == link.other(sender)), None)
    if medium is not None and medium.kind == "shared":
        return medium_queue_s(topology, medium)
    lane = link.lane(sender)
    return lane.queue_bytes * 8 / slowest_bit_s(lane)


def medium_queue_s(topology: Topology, medium: Switch) -> float:
    """Seconds that the last byte waits if the queues of all links to a shared medium are full."""
    links = [link for link in topology.links if medium.name in (link.a, link.b)]
    waiting = sum(link.lane(link.other(medium.name)).queue_bytes for link in links)
    return waiting * 8 / (medium.rate_bit_s or math.inf)


def span(values: Iterable[float], show: Callable[[float], str]) -> str:
    """ "20-100 Mbit/s", "100 kbit/s - 1 Mbit/s", "5 ms": the least and the most of some values."""
    found = sorted(values)
    low, high = show(found[0]), show(found[-1])
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number}-{high}" if high.endswith(f" {unit}") else f"{low} - {high}"


def _delay(lane: Lane) -> str:
    text = f"delay {show_duration(lane.delay_s)}"
    if lane.jitter_s:
        text += f" ± {show_duration(lane.jitter_s)}"
    return f"{text}, order not kept" if lane.reorder and lane.jitter_s else text


def _loss(loss: Loss) -> str:
    """The mean; of bursts also how many packets in a row are lost, or if they are not lost for certain all four."""
    mean = show_fraction(loss.mean)
    if not loss.bursty:
        return mean
    if (loss.good, loss.bad) == (0.0, 1.0):
        return f"{mean} in bursts of {1 / loss.leave:.4g}" if loss.leave else f"{mean} from some packet on"
    states = f"{show_fraction(loss.good)} or, when bad, {show_fraction(loss.bad)}"
    return f"{mean} in bursts ({states}; bad begins {show_fraction(loss.enter)}, ends {show_fraction(loss.leave)})"


def _full(lane: Lane) -> str:
    text = f"full: {show_duration(lane.worst_queue_s)}"
    slowest = slowest_bit_s(lane)
    if slowest < lane.rate_bit_s:
        text += f", at {show_rate(slowest)} {show_duration(lane.queue_bytes * 8 / slowest)}"
    return text


def _trace(trace: Trace) -> str:
    """ "trace of 600 steps, 20-100 Mbit/s, repeats after 600 s"."""
    parts = [f"trace of {counted(len(trace.steps), 'step')}", *_spans(trace.steps)]
    if trace.period_s is not None:
        return ", ".join([*parts, f"repeats after {show_duration(trace.period_s)}"])
    return ", ".join([*parts, f"stays after {show_duration(trace.steps[-1].at_s)}"] if trace.steps else parts)


def _spans(steps: Sequence[Step]) -> list[str]:
    rates = [step.rate_bit_s for step in steps if step.rate_bit_s is not None]
    delays = [step.delay_s for step in steps if step.delay_s is not None]
    losses = [step.loss for step in steps if step.loss is not None]
    named = (("", rates, show_rate), ("delay ", delays, show_duration), ("loss ", losses, show_fraction))
    return [name + span(values, show) for name, values, show in named if values]
