"""The steps that the runtime executes, in the accounting of the ASTRA paper: t = compute + bits / rate.

Every pair of devices has a link of that rate to itself, in either direction, and what the busiest pair sends between
layers follows computing: no headers, no delay, nothing hidden behind anything, neither input nor result. What computing
takes, a profile says.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd

from agents.cluster import Cluster
from agents.place import place
from runtime import families
from runtime.errors import Unfit
from runtime.profile import Profile, ProfileError
from runtime.shape import Shape
from runtime.steps import AllReduce, Send, steps
from testbed.predict import paper
from testbed.predict.paper import PUBLISHED_SIZE as SIZE
from testbed.predict.work import build, shifts
from testbed.topology import MethodSpec

NAME = "paper_encoder"  # of the profile whose times the paper publishes
RING = "tensor"
LINK = "compute + bits / bandwidth of the busiest pair of devices, without headers, delay or overlap"


@cache
def encoder() -> Shape:
    """Of the model whose times are published."""
    return families.describe("vit-base", "random")


def pair_bits(spec: MethodSpec, shape: Shape, tokens: int, devices: int) -> int:
    """Bits that one device sends another between layers in one request, of the pair of which that is most. Raises
    Unfit."""
    return _pair_bits(spec.method, json.dumps(dict(spec.options), sort_keys=True), shape, tokens, devices)


@cache
def _pair_bits(method: str, options: str, shape: Shape, tokens: int, devices: int) -> int:
    plan = place(method, json.loads(options), shape, tokens, Cluster(tuple(f"h{i + 1}" for i in range(devices))))
    sent: dict[tuple[int, int], int] = defaultdict(int)
    for rank, own in enumerate(build(plan, lambda rank: steps(plan, shape, rank))):
        for step in own:
            for part in shifts(step, rank, plan.world) if isinstance(step, AllReduce) else (step,):
                if isinstance(part, Send) and part.purpose == "exchange":
                    for peer in part.to:
                        sent[rank, peer] += part.payload_bytes
    return 8 * max(sent.values(), default=0)


def seconds(spec: MethodSpec, profile: Profile, size: tuple[int, int], rate_bit_s: float) -> float | None:
    """Of one request to the paper's encoder at a rate; size: tokens and devices. None of what the profile does not know
    or the encoder cannot."""
    tokens, devices = size
    try:
        plan = place(spec.method, spec.options, encoder(), tokens, Cluster(tuple(f"h{i + 1}" for i in range(devices))))
        compute_s = profile.entry(plan).whole_s(profile.layers)
    except (ProfileError, Unfit):
        return None
    return compute_s + pair_bits(spec, encoder(), tokens, devices) / rate_bit_s


def speedups(data: Mapping[str, Any], profile: Profile) -> pd.DataFrame:
    """One row per published speedup that the profile has times for: as `paper.speedups`, of the steps that run."""
    published_of = data["encoder"]
    known = [entry for entry in profile.entries if (entry.tokens, entry.devices) == SIZE]
    specs = {paper.name_of(spec): spec for spec in (MethodSpec(one.method, one.options) for one in known)}
    rows = []
    for name, published in published_of["speedup_over_single"].items():
        for mbps, value in zip(published_of["bandwidth_mbps"], published, strict=True):
            rate_bit_s = mbps * published_of["mbps_bits"]
            single_s = seconds(MethodSpec("single"), profile, SIZE, rate_bit_s)
            own_s = seconds(specs[name], profile, SIZE, rate_bit_s) if name in specs else None
            if single_s and own_s:
                rows.append((specs[name].label, mbps, value, single_s / own_s))
    return paper.with_error(rows)


def ring_factor(data: Mapping[str, Any]) -> float:
    """How many times the bits that the paper charges a pair of devices for tensor parallelism the runtime's ring sends
    over one: 2(N-1), and a little for the class token."""
    (tokens, devices), shape = SIZE, encoder()
    values = {"L": float(shape.layers), "S": tokens / devices * shape.width * 32}
    charged = paper.volume_bits("tp", data["encoder"]["volume_bits"], values)
    return pair_bits(MethodSpec(RING), shape, tokens, devices) / charged


def told(data: Mapping[str, Any], profile: Profile) -> str | None:
    """How near the steps that run are to what is published, in words; None of another profile."""
    if profile.name != NAME:
        return None
    frame = speedups(data, profile)
    met = frame[frame["method"] != RING]
    if met.empty:
        return None
    worst = met["error"].abs().max()
    return (
        f"In the paper's accounting ({LINK}) the steps that the runtime executes give its published speedups of "
        f"{met['method'].nunique()} methods to {worst:.1%} ({len(met)} figures). Not those of tensor: its all-reduce "
        f"is a ring, in which 2(N-1) parts of 1/N of the activation follow each other over the link to one neighbour; "
        f"the paper charges one such part each time: the ring takes {ring_factor(data):.1f} times its bits"
    )
