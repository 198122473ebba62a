"""A frontier of a topology's own methods: its links with other rates and delays, its profile, its steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from runtime.profile import Profile
from runtime.shape import Shape
from testbed.predict.choice import choose, evaluate
from testbed.predict.command import How, work_of
from testbed.predict.frontier import Latency
from testbed.predict.work import Work
from testbed.topology import Lane, Link, Topology, default_queue_bytes


def latency_of(topology: Topology, profile: Profile, shape: Shape, how: How | None = None) -> Latency:
    """latency(label, rate, delay) of the run's methods, for `frontier`: every link has that rate and one-way delay.

    What it then raises: KeyError for a label that the run does not have, ProfileError, Unfit, PredictError.
    """
    how, specs = how or How(), {spec.label: spec for spec in topology.run.methods}

    @cache
    def work(label: str) -> Work:
        return work_of(topology, profile, shape, specs[label])

    def latency(label: str, rate_bit_s: float, delay_s: float) -> float:
        network, one = with_links(topology, rate_bit_s, delay_s), work(label)
        choice = choose(network, one, how.load, how.model)
        return evaluate(network, one, choice, how.load, how.costs, how.shaper).latency_s

    return latency


def with_links(topology: Topology, rate_bit_s: float, delay_s: float) -> Topology:
    """The same network with this rate and delay on every link, both ways; queues are the default ones, and what else
    lanes had (jitter, loss, traces) stays away. A shared medium has the rate itself."""
    lane = Lane(rate_bit_s, delay_s, queue_bytes=default_queue_bytes(rate_bit_s, delay_s))
    media = {switch.name for switch in topology.switches if switch.kind == "shared"}
    switches = tuple(replace(s, rate_bit_s=rate_bit_s) if s.name in media else s for s in topology.switches)
    links = tuple(
        Link(link.a, link.b, _lane(lane, link.a in media), _lane(lane, link.b in media)) for link in topology.links
    )
    return replace(topology, switches=switches, links=links, events=())


def _lane(lane: Lane, leaves_medium: bool) -> Lane:
    return replace(lane, rate_bit_s=float("inf")) if leaves_medium else lane
