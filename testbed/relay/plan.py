"""What the relay is told at its start and of changes, as JSON: lanes, and the cables that they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from testbed.topology import Lane, Link, Loss, Switch


def encode(lane: Lane) -> dict[str, Any]:
    """A lane without its trace; an infinite rate is null, which JSON has a word for."""
    found = asdict(lane)
    del found["trace"]
    found["rate_bit_s"] = lane.rate_bit_s if math.isfinite(lane.rate_bit_s) else None
    return found


def decode(found: dict[str, Any]) -> Lane:
    """The lane that `encode` was given. Raises KeyError, TypeError on anything else."""
    rate_bit_s = math.inf if found["rate_bit_s"] is None else found["rate_bit_s"]
    return Lane(**{**found, "rate_bit_s": rate_bit_s, "loss": Loss(**found["loss"])})


def plan(socket: str, seed: int, cables: Sequence[tuple[Link, str, str]], switches: Iterable[Switch]) -> dict[str, Any]:
    """What the relay is to do. cables: (link, its TAP at link.a, its TAP at link.b) in the order of the file, whose
    position with `seed` decides the random numbers of each direction."""
    media = {switch.name: switch for switch in switches if switch.kind == "shared"}
    found = []
    for link, tap_a, tap_b in cables:
        shared = media.get(link.a) or media.get(link.b)
        medium = shared and {"name": shared.name, "rate_bit_s": shared.rate_bit_s, "node": shared.name}
        ends = {"a": {"node": link.a, "tap": tap_a}, "b": {"node": link.b, "tap": tap_b}}
        found.append({**ends, "up": encode(link.up), "down": encode(link.down), "medium": medium})
    return {"socket": socket, "seed": seed, "cables": found}
