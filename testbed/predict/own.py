"""What stages took in a run that computed, as a profile: so that of such a run the network alone is predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from runtime.profile import Entry, Profile, ProfileError, Seconds
from runtime.shape import Shape
from testbed.store import RunData

NAME = "the run's own stages"


def profile(run: RunData, shape: Shape) -> Profile:
    """Means over the measured requests of every stage of computing and coding, by rank and layer.

    Not medians: a CPU share holds a device back in few stages and long, and what few stages take adds up, too.
    Raises ProfileError for a run without a timeline.
    """
    if not run.timeline:
        raise ProfileError(f"{run.path}: it computed, and has no timeline.jsonl that says how long stages took")
    tokens = int(run.topology["run"]["tokens"])
    found = []
    for method in run.methods:
        rows = [row for row in run.timeline if row["label"] == method["label"] and not row["warmup"]]
        ranks = sorted({row["rank"] for row in rows})
        if ranks:
            by_rank = tuple(_stages([row for row in rows if row["rank"] == rank], shape.layers) for rank in ranks)
            found.append(Entry(method["method"], dict(method["options"]), tokens, len(ranks), by_rank))
    return Profile(NAME, shape.layers, shape.width, tuple(found))


def _stages(rows: list[dict[str, Any]], layers: int) -> Mapping[str, Seconds]:
    """Of one rank. A stage that is passed several times in a layer counts with what it takes each time."""
    seen: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for kind, stage, layer, _, seconds in row["spans"]:
            if kind in ("compute", "code"):
                seen[stage][layer].append(float(seconds))
    return {stage: _figures(by_layer, layers) for stage, by_layer in seen.items()}


def _figures(by_layer: Mapping[int | None, list[float]], layers: int) -> Seconds:
    if None in by_layer:
        return fmean(by_layer[None])
    return tuple(fmean(by_layer[layer]) if layer in by_layer else 0.0 for layer in range(layers))
