"""What was measured, looked up by study, label and name; and figures in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.grid import DEVICES
from benchmarks.accuracy.intervals import Mean, crossed, difference

NONE = "–"
HERE = f"devices {DEVICES}"
TITLES = {
    "digits": "ViT on digits",
    "corpus": "GPT-2 form on bytes of Python's library",
    "llama": "Llama form on the same, K and V coded each by itself",
    "minilm": "MiniLM with its real weights",
}
HIGHER = {"top1": True, "perplexity": False, "cosine": True}
Key = tuple[str, str, str]  # study, label, figures: what was measured of what


class Results:
    """All results of a study, one mapping for each training and seed."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self._by: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["seed"]):
            self._by.setdefault((row["study"], row["label"]), []).append(row)

    def of(self, study: str, label: str) -> list[Mapping[str, Any]]:
        """Results of all seeds, by seed."""
        return self._by[study, label]

    def metric(self, study: str) -> str:
        """top1, perplexity or cosine."""
        return str(self.of(study, "original")[0]["metric"])

    def figures(self, key: Key) -> list[list[float]]:
        """[seeds][held-out inputs]: 0 or 1 of classes, nats per token, cosines."""
        study, label, name = key
        return [row["figures"][name] for row in self.of(study, label)]

    def mean(self, key: Key) -> Mean:
        """In the unit of the figures."""
        return crossed(self.figures(key), self.origins(key[0]))

    def origins(self, study: str) -> list[int] | None:
        """The file that each held-out input comes from; None: each comes by itself."""
        found: list[int] | None = self.of(study, "original")[0]["origins"]
        return found

    def said(self, key: Key) -> str:
        """In the unit of the metric, with its interval."""
        return metric(self.metric(key[0]), self.mean(key))

    def gain(self, one: Key, other: Key) -> Mean:
        """How much better the first is, in pairs of seeds and inputs: in points of top-1, per cent of perplexity (of
        the other's) or thousandths of cosine; above zero is better whatever the metric."""
        name, origins = self.metric(one[0]), self.origins(one[0])
        if HIGHER[name]:
            scale = 100.0 if name == "top1" else 1000.0
            return difference(self.figures(one), self.figures(other), origins).mapped(lambda value: scale * value)
        found = difference(self.figures(other), self.figures(one), origins)
        return found.mapped(lambda value: 100 * -math.expm1(-value))


def metric(name: str, mean: Mean) -> str:
    """ "97.2 % (96.1 to 98.0)"."""
    if name == "perplexity":
        return spread(mean.mapped(math.exp), "{:.2f}")
    if name == "top1":
        return spread(mean.mapped(lambda value: 100 * min(max(value, 0.0), 1.0)), "{:.1f} %")
    return spread(mean, "{:.4f}")


def spread(mean: Mean, form: str) -> str:
    """A value, and its interval in brackets, the unit of the form once."""
    bare = form.split("}")[0] + "}"
    if mean.low is None or mean.high is None:
        return form.format(mean.value)
    return f"{form.format(mean.value)} ({bare.format(mean.low)} to {bare.format(mean.high)})"


UNITS = {"top1": "points", "perplexity": "% of perplexity", "cosine": "thousandths"}


def gained(mean: Mean) -> str:
    """A gain with its sign."""
    return spread(mean, "{:+.2f}")


def verdict(mean: Mean) -> str:
    """What an interval of a difference says."""
    if mean.low is None or mean.high is None:
        return "one seed: no interval"
    if mean.low > 0:
        return "better"
    return "worse" if mean.high < 0 else "no difference seen"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def section(title: str, *parts: Sequence[str] | str) -> str:
    """A heading, and paragraphs or tables with empty lines between."""
    texts = [part if isinstance(part, str) else "\n".join(part) for part in parts if part]
    return "\n\n".join([f"## {title}", *texts])
