"""What can be emulated truthfully: what no shaper anywhere can do, and what each of the three cannot. Asks no kernel.

The numbers are measured, see `docs/network.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from testbed.topology import Event, Lane, Link, Step, Switch, Topology
from testbed.units import show_duration, show_fraction, show_rate, show_size

LINE_OVERHEAD_BYTES = 24  # preamble 8, check sequence 4, gap 12: on the line, but not in what the kernel calls a packet
FRAME_BYTES = 1514  # 1500 bytes of IP and the 14 bytes of Ethernet header
LOWEST_RATE_BIT_S = 64e3
HIGHEST_RATE_BIT_S = 1e9
HIGHEST_TOTAL_BIT_S = 400e6  # of the relay: all its lanes together, a shared medium counts twice
LONGEST_DELAY_S = 1.0
HIGHEST_LOSS = 0.2  # mean, of one direction: a probe of one cable takes a minute then, TCP waiting most of it
SHAPERS = ("netem", "tbf", "relay")  # the first that can do it is chosen
_FIRST_BURST_FRAMES = 10


class NoShaper(Exception):
    """No shaper here can do it: one line with what is missing or too much."""


class Unfit(NamedTuple):
    """One thing that cannot be done.

    where: the index of the link, the name of the switch, or "" for the file as a whole. direction: "up", "down", or ""
    for both or none. key: as files call it: "rate", "delay", "jitter", "loss", "queue", "trace", "type", or for the
    file as a whole "links" or "events[2]". text: what is allowed.
    """

    where: int | str
    direction: str
    key: str
    text: str

    @property
    def at(self) -> str:
        """Where, as in "links[2].up.delay"."""
        place = f"links[{self.where}]" if isinstance(self.where, int) else self.where
        return ".".join(part for part in (place, self.direction, self.key) if part)

    @property
    def line(self) -> str:
        """For people who have no file before them."""
        return f"{self.at}: {self.text}"


Row = tuple[str, str]  # a key and what is allowed


def refusal(topology: Topology) -> list[Unfit]:
    """What no shaper makes of this network, on any machine; [] if there may be one that can."""
    media = shared_media(topology)
    found = [Unfit(name, "", "rate", text) for name, medium in media.items() for _, text in _rate(medium.rate_bit_s)]
    for index, link in enumerate(topology.links):
        found += link_refusal(index, link, media)
    for index, event in enumerate(topology.events):
        found += [Unfit("", "", f"events[{index}]", text) for _, text in _step(event.change)]
    return found + (_relay(topology) if media else [])


def link_refusal(index: int, link: Link, media: Mapping[str, Switch]) -> list[Unfit]:
    """The same for one link alone. media: the shared media of its network by name; the rate of one is its own, not the
    link's."""
    return _directions(index, link, lambda lane: [*_values(lane, bool({link.a, link.b} & set(media))), *_trace(lane)])


def shared_media(topology: Topology) -> dict[str, Switch]:
    """The switches that are shared media, by name."""
    return {switch.name: switch for switch in topology.switches if switch.kind == "shared"}


def unfit(topology: Topology, shaper: str) -> list[Unfit]:
    """What this one of SHAPERS cannot do of a network that `refusal` has nothing against. Raises KeyError."""
    return _UNFIT[shaper](topology)


def beyond_rate(lane: Lane) -> list[str]:
    """What a lane has that is neither a rate nor a queue."""
    values = (("delay", lane.delay_s), ("jitter", lane.jitter_s), ("loss", lane.loss.mean))
    return [key for key, value in values if value > 0]


def words(shaper: str) -> str:
    """The envelope of one of SHAPERS, for people. Raises KeyError."""
    rates = f"{show_rate(LOWEST_RATE_BIT_S)} to {show_rate(HIGHEST_RATE_BIT_S)}"
    all_but_rate = f"delay to {show_duration(LONGEST_DELAY_S)}, jitter, loss, changes"
    return {
        "netem": f"rates of {rates}, {all_but_rate}; no shared medium",
        "tbf": f"rates of {rates}, also changing ones; no delay, jitter, loss, shared medium, and links stay up",
        "relay": f"all rates together to {show_rate(HIGHEST_TOTAL_BIT_S)}, {all_but_rate}, shared media",
    }[shaper]


def _directions(index: int, link: Link, judge: Callable[[Lane], list[Row]]) -> list[Unfit]:
    """What is said of both directions is said once."""
    up, down = judge(link.up), judge(link.down)
    found = [Unfit(index, "" if row in down else "up", *row) for row in up]
    return found + [Unfit(index, "down", *row) for row in down if row not in up]


def _rate(rate_bit_s: float | None) -> Iterator[Row]:
    if rate_bit_s is not None and not LOWEST_RATE_BIT_S <= rate_bit_s <= HIGHEST_RATE_BIT_S:
        allowed = f"{show_rate(LOWEST_RATE_BIT_S)} to {show_rate(HIGHEST_RATE_BIT_S)}"
        yield "rate", f"links are true to rates of {allowed}"


def _delay(delay_s: float | None) -> Iterator[Row]:
    if delay_s is not None and not 0 <= delay_s <= LONGEST_DELAY_S:
        yield "delay", f"links are true to delays of 0 to {show_duration(LONGEST_DELAY_S)}"


def _loss(mean: float | None) -> Iterator[Row]:
    if mean is not None and mean > HIGHEST_LOSS:
        yield "loss", f"at most {show_fraction(HIGHEST_LOSS)} in the mean: beyond it TCP hardly works"


def _values(lane: Lane, shared: bool) -> Iterator[Row]:
    if not shared:
        yield from _rate(lane.rate_bit_s)
    yield from _delay(lane.delay_s)
    yield from _loss(lane.loss.mean)
    if lane.jitter_s > lane.delay_s:
        yield "jitter", f"at most the delay, {show_duration(lane.delay_s)}: nothing arrives before it was sent"
    least = _FIRST_BURST_FRAMES * FRAME_BYTES
    if math.isfinite(lane.rate_bit_s) and lane.queue_bytes < least:
        yield "queue", f"must hold the frames that TCP starts with, {show_size(least)}"


def _step(step: Step | None) -> Iterator[Row]:
    if step is not None:
        yield from _rate(step.rate_bit_s)
        yield from _delay(step.delay_s)
        yield from _loss(step.loss)


def _trace(lane: Lane) -> Iterator[Row]:
    """The first of each kind, of what may be thousands of steps."""
    said: dict[str, str] = {}
    for step in lane.trace.steps if lane.trace else ():
        for key, text in _step(step):
            said.setdefault(key, f"at {show_duration(step.at_s)}: {text}")
    return (("trace", text) for text in said.values())


def _netem(topology: Topology) -> list[Unfit]:
    text = "netem shapes links one by one, a shared medium needs the relay"
    return [Unfit(name, "", "type", text) for name in shared_media(topology)]


def _tbf(topology: Topology) -> list[Unfit]:
    only = "tbf keeps rates and queues only; this needs netem in the kernel, or the relay"

    def judge(lane: Lane) -> list[Row]:
        steps = lane.trace.steps if lane.trace else ()
        changes = any(_more_than_rate(step) for step in steps)
        return [(key, only) for key in [*beyond_rate(lane), *(["trace"] if changes else [])]]

    found = [Unfit(name, "", "type", only) for name in shared_media(topology)]
    for index, link in enumerate(topology.links):
        found += _directions(index, link, judge)
    for index, event in enumerate(topology.events):
        if event.kind == "down" or (event.change is not None and _more_than_rate(event.change)):
            found.append(Unfit("", "", f"events[{index}]", only))
    return found


def _more_than_rate(step: Step) -> bool:
    return bool(step.delay_s or step.loss)


def _relay(topology: Topology) -> list[Unfit]:
    media = shared_media(topology)
    # Each of its frames crosses the relay twice: to the switch, and from there to a host.
    total_bit_s = sum(2 * (medium.rate_bit_s or 0.0) for medium in media.values())
    for link in topology.links:
        if not {link.a, link.b} & set(media):
            total_bit_s += sum(_highest(topology.events, link, lane) for lane in (link.up, link.down))
    if total_bit_s <= HIGHEST_TOTAL_BIT_S:
        return []
    allowed, asked = show_rate(HIGHEST_TOTAL_BIT_S), show_rate(total_bit_s)
    text = f"the relay is true while all directions together have at most {allowed}, these have up to {asked}"
    text += ", where a shared medium counts twice: each frame crosses the relay twice" if media else ""
    return [Unfit("", "", "links", text)]


def _highest(events: tuple[Event, ...], link: Link, lane: Lane) -> float:
    """The highest rate that a lane ever has."""
    steps = [*(lane.trace.steps if lane.trace else ())]
    steps += [
        event.change for event in events if event.change and (event.ends is None or set(event.ends) == {link.a, link.b})
    ]
    return max([lane.rate_bit_s, *(step.rate_bit_s for step in steps if step.rate_bit_s is not None)])


_UNFIT: dict[str, Callable[[Topology], list[Unfit]]] = {"netem": _netem, "tbf": _tbf, "relay": _relay}
