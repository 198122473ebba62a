"""What a method's own outputs in a run are worth at the model's task: the one accuracy that holds under loss. Pure.

Requests of a prepared model are held-out inputs of which the right answer is known. A request's score is 1 or 0 for a
class, the nats of the token that follows the prompt, or the cosine to the embedding of the original model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.statistics import mean_interval, share_difference_interval, share_interval
from testbed.tables import METRICS, metric

LINE = "task, by the outputs of this run's requests"


def here(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the source's records of a method's measured requests: {"metric", "value", "ci95", "single", "paired", "n"}.

    single: of one device on the same inputs; paired: {"kind", "value", "ci95"} against it, request by request: "ratio"
    of perplexities, else "difference". Intervals: of shares Wilson's, of their difference Agresti and Min's, else
    bootstraps. n: of different inputs: what several requests made of the same one is averaged first, as asking again
    says nothing about others. None where answers are not known, or an output was not finite.
    """
    scores: list[Any] = [row.get("score") for row in rows]
    if not scores or any(one is None or one["this"] is None or one["single"] is None for one in scores):
        return None
    name = scores[0]["metric"]
    figure = math.exp if name == "perplexity" else float
    inputs = _by_input(scores)
    this, single = ([_mean([float(one[key]) for one in some]) for some in inputs] for key in ("this", "single"))
    apart = [a - b for a, b in zip(this, single, strict=True)]
    if name == "top1":
        ends, between = share_interval(this), share_difference_interval(this, single)
    else:
        ends, between = mean_interval(this), mean_interval(apart)
    return {
        "metric": name,
        "value": figure(_mean(this)),
        "ci95": [None if end is None else figure(end) for end in ends],
        "single": figure(_mean(single)),
        "paired": {
            "kind": "ratio" if name == "perplexity" else "difference",
            "value": figure(_mean(apart)),
            "ci95": [None if end is None else figure(end) for end in between],
        },
        "n": len(this),
    }


def _by_input(scores: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Together what is of one input; each by itself where records do not say of which."""
    found = defaultdict[Any, list[Mapping[str, Any]]](list)
    for number, one in enumerate(scores):
        found[one.get("input") or number].append(one)
    return list(found.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def says(found: Mapping[str, Any]) -> str:
    """ "95.0% (n 40, 83.5%-98.6%)"."""
    low, high = (metric(found["metric"], end) for end in found["ci95"])
    return f"{metric(found['metric'], found['value'])} (n {found['n']}, {low}-{high})"


def line(methods: Sequence[Mapping[str, Any]]) -> str:
    """One line for the methods whose outputs could be judged, nothing where none could."""
    known = [(method["label"], method["here"]) for method in methods if method["here"] is not None]
    words = "; ".join(f"{label} {says(found)}" for label, found in known)
    return f"{LINE}: {METRICS[known[0][1]['metric']]} {words}" if known else ""
