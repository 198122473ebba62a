"""How long each stage of a method takes on some device: read from a file, waited for in place of computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime import methods
from runtime.errors import RuntimeFault
from runtime.plan import Plan

Seconds = float | tuple[float, ...]
"""Of one stage: the same in every layer, or one value for each layer of the model."""
STAGES = (
    "embed", "input", "project", "attention", "expand", "remote", "output", "mlp", "residual", "join", "encode",
    "decode", "read_out", "head",
)  # fmt: skip
"""All that a method may pass, see `runtime.stages`: what a profile names besides would never be waited for."""
_ONCE = ("embed", "read_out", "head")  # in a request, of whatever layers


class ProfileError(RuntimeFault):
    """A profile that does not say what is asked of it; the text is one line."""


@dataclass(frozen=True)
class Entry:
    """One method as it was measured, on so many tokens and devices.

    ranks: by rank, seconds of each stage, each time it is passed; one entry stands for all ranks. Or total_s: seconds
    of computing and coding of a whole request, of which no more is known: dealt out evenly to the layers of the model,
    each before anything of that layer is sent, so that nothing is hidden behind the network, as papers account for it.
    """

    method: str
    options: Mapping[str, Any]
    tokens: int
    devices: int
    ranks: Sequence[Mapping[str, Seconds]] = ()
    total_s: float | None = None

    def seconds(self, rank: int, stage: str, layer: int | None, layers: int) -> float:
        """Of one passing of a stage, of a model of so many layers."""
        if self.total_s is not None:
            return self.total_s / layers if stage == "input" else 0.0
        found = self.ranks[rank if len(self.ranks) > 1 else 0].get(stage, 0.0)
        return found if isinstance(found, float) else found[layer or 0]

    def whole_s(self, layers: int) -> float:
        """Of a whole request on its slowest rank, if every stage of every layer is passed once."""
        if self.total_s is not None:
            return self.total_s
        return max(
            sum(sum(s) if isinstance(s, tuple) else s * (1 if stage in _ONCE else layers) for stage, s in own.items())
            for own in self.ranks
        )


@dataclass(frozen=True)
class Profile:
    """Entries, and of which model they tell: its layers and width. name: what tables call it."""

    name: str
    layers: int
    width: int
    entries: tuple[Entry, ...]

    def entry(self, plan: Plan) -> Entry:
        """The one of this method, its options, tokens and number of devices. Raises ProfileError."""
        kind = methods.load(plan.method)
        wanted = kind.Options(**plan.options)
        same = [entry for entry in self.entries if entry.method == plan.method]
        alike = [entry for entry in same if kind.Options(**entry.options) == wanted]
        for entry in alike:
            if (entry.tokens, entry.devices) == (plan.tokens, plan.world):
                return entry
        asked = f"{plan.method} {dict(plan.options) or ''}".strip()
        known = ", ".join(f"{entry.tokens} on {entry.devices}" for entry in alike)
        only = f"only with {known}" if known else "at all"
        raise ProfileError(f"profile {self.name}: no {asked} with {plan.tokens} tokens on {plan.world} devices, {only}")

    def seconds(self, plan: Plan, rank: int, stage: str, layer: int | None) -> float:
        """Of one passing of a stage by a rank of a plan. Raises ProfileError."""
        return self.entry(plan).seconds(rank, stage, layer, self.layers)
