"""How the codes of a layer get from device to device: as frames that all arrive, or as datagrams of which some may not.

A deadline counts from when a device begins to wait, which it does after what it can compute alone, so that one that is
slow itself misses nothing by it; in the first layer not before all have their input, which they tell each other over
TCP. It must be longer than what devices may be apart in a layer: who is later than that is done without. Nobody is
waited for once something of a later layer has come from it: what is missing then was lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from runtime.collectives import Exchange
from runtime.layer import Part
from runtime.plan import Plan
from runtime.transport.gather import ROOM_BYTES, Arrived, Cut, byte_end

# **decided**: how far apart devices may be in a layer, unless a file says so: half of the shortest time after which TCP
# sends again. To it comes, where the links are known, the time that they take.
DEADLINE_S: Final = 0.1
LEAST_S: Final = 1e-3  # datagrams are waited for in whole milliseconds
MOST_S: Final = 3600.0
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)\s*", re.ASCII)


def seconds(deadline: object) -> float:
    """ "5 ms" -> 0.005. Raises ValueError for anything but a duration from 1 ms to an hour."""
    match = _DURATION.fullmatch(deadline) if isinstance(deadline, str) else None
    found = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not LEAST_S <= found <= MOST_S:
        raise ValueError(
            f'deadline is a duration from 1 ms to {MOST_S:g} s, in us, ms or s, e.g. "20 ms", not {deadline!r}'
        )
    return found


@dataclass(frozen=True)
class Coded:
    """What is sent of each token: bits in each of so many streams; deadline_s: of a layer."""

    bits: int
    streams: int
    deadline_s: float

    def refusal(self) -> str | None:
        """Why it cannot be sent as datagrams, or None."""
        least = byte_end(self.bits)
        needed = self.streams * least * self.bits // 8
        if needed <= ROOM_BYTES:
            return None
        tokens = "a token" if least == 1 else f"{least} tokens, the fewest that end with a byte,"
        return (
            f"the codes of {tokens} need {needed} bytes, a datagram has {ROOM_BYTES}: fewer groups, or transport: tcp"
        )


class Frames:
    """Every device's codes in one frame each, which all arrive."""

    def __init__(self, exchange: Exchange, receivers: Sequence[int], senders: Sequence[int]) -> None:
        self._exchange, self._receivers, self._senders = exchange, receivers, senders

    def send(self, layer: int, frame: Tensor) -> None:
        """Packed codes of this device's tokens, stream by stream."""
        self._exchange.send_to(layer, self._receivers, frame)

    def take(self, layer: int) -> dict[int, Arrived]:
        """What the others sent, by rank."""
        return {rank: Arrived(one) for rank, one in self._exchange.receive_from(layer, self._senders).items()}


class Datagrams(Frames):
    """Every device's codes in datagrams of whole tokens, sent once; what has not come by the deadline is lost."""

    def __init__(
        self, exchange: Exchange, plan: Plan, receivers: Sequence[int], senders: Sequence[int], coded: Coded
    ) -> None:
        # Its right neighbour first: sent in rank order, all would queue at rank 0's link, and a full queue drops.
        by_distance = sorted(receivers, key=lambda rank: (rank - exchange.rank) % exchange.world)
        super().__init__(exchange, by_distance, senders)
        cuts = [Cut(share.tokens, coded.bits, coded.streams) for share in plan.shares]
        self._own, self._cuts = cuts[exchange.rank], {rank: cuts[rank] for rank in senders}
        self._deadline_s = coded.deadline_s
        if receivers or senders:
            # Whoever works on a request knows of the source that it has the input.
            told = by_distance if exchange.rank != plan.source else []
            exchange.begin(told, [rank for rank in senders if rank != plan.source])

    def send(self, layer: int, frame: Tensor) -> None:
        self._exchange.cast_to(layer, self._receivers, frame, self._own)

    def take(self, layer: int) -> dict[int, Arrived]:
        return self._exchange.collect_from(layer, self._cuts, self._deadline_s)


def heard(part: Part, arrived: Sequence[Arrived], tokens: Sequence[int]) -> Part:
    """A part of several devices' tokens, so many of each, without those whose codes were lost.

    Their positions are in the keys already; of the others nothing changes, also in a causal model, which sees all of a
    part that is over before its own tokens begin.
    """
    if not any(one.lost for one in arrived):
        return part
    masks = [torch.ones(count, dtype=torch.bool, device=part.k.device) for count in tokens]
    for mask, one in zip(masks, arrived, strict=True):
        for span in one.lost:
            mask[span.slice()] = False
    kept = torch.cat(masks).nonzero()[:, 0]
    return replace(part, k=part.k.index_select(1, kept), v=part.v.index_select(1, kept))
