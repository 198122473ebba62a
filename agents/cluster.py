"""What a planner may know of the machines: never a drawing of the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """devices: names of the hosts that compute, the source first. Speeds and rates: with a planner that uses them."""

    devices: tuple[str, ...]
