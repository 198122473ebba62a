"""Sections of docs/accuracy.md on the paper's two theorems. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.accuracy.figures import MOST_DEVICES
from benchmarks.accuracy.grid import NOISES
from benchmarks.accuracy.intervals import Mean, of_seeds
from benchmarks.accuracy.results import TITLES, Results, section, spread, table
from benchmarks.accuracy.theorems import POINTS

NAMES = ("other X", *(f"{noise:g}" for noise in NOISES))
Distances = Mapping[str, Any]


def sections(results: Results) -> list[str]:
    """Both of them."""
    return [_distances(results), _pooling(results)]


def _distances(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        "2-Wasserstein distance between what is coded, X, and the codes of other held-out inputs with noise of λ times "
        "the residuals' own distribution: λ = 0 is X̂, λ = 1 is X̃ as NAVQ has it. `other X`: X of those "
        f"inputs, the least that can be seen. G = 1, intervals over seeds. First by the best assignment of {POINTS} "
        "points, which are few for so many features; then between the normal distributions fitted to all points.",
    ]
    for study in ("digits", "corpus"):
        rows = results.of(study, "G=1")
        for kind, called in (("points", f"{POINTS} points"), ("gauss", "fitted normals")):
            made = []
            for layer in range(len(rows[0]["distances"])):
                one = [row["distances"][layer][kind] for row in rows]
                means = [spread(of_seeds([each[name] for each in one]), "{:.2f}") for name in NAMES]
                made.append([str(layer), *means, _less(of_seeds([each["0"] - each["1"] for each in one]))])
            head = (f"{TITLES[study]}: layer", "other X", *(f"λ = {noise:g}" for noise in NOISES), "X̃ nearer than X̂ by")
            texts += [f"By {called}:", table(head, made)]
    return section("Theorem 1: does noise bring codes closer to activations?", *texts, _first(results))


def _less(mean: Mean) -> str:
    return spread(mean, "{:+.2f}")


def _first(results: Results) -> str:
    """In how many layers it holds."""
    nearer = farther = 0
    for study in ("digits", "corpus"):
        rows = results.of(study, "G=1")
        for layer in range(len(rows[0]["distances"])):
            for kind in ("points", "gauss"):
                found = of_seeds(
                    [row["distances"][layer][kind]["0"] - row["distances"][layer][kind]["1"] for row in rows]
                )
                nearer += found.low is not None and found.low > 0
                farther += found.high is not None and found.high < 0
    total = 2 * sum(len(results.of(study, "G=1")[0]["distances"]) for study in ("digits", "corpus"))
    return (
        f"Of {total} comparisons (layer and way of measuring) X̃ is nearer to X than X̂ in {nearer} beyond the interval, "
        f"and farther in {farther}."
    )


def _pooling(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        "Digits. Mean squared error of the class token after the final norm, averaged over devices, against one device "
        "without codes; intervals over seeds. First over the first k of 8 devices' copies: were the copies' errors "
        "independent and without bias, this would fall as 1/k. Then over all of N devices, each of which has fewer "
        "tokens as N grows, so that one copy's error grows too.",
    ]
    for groups in (1, 16):
        rows = results.of("digits", f"G={groups}")
        texts.append(_copies(rows, groups))
        texts.append(_counts(rows, groups))
    return section("Theorem 2: do class tokens average their errors out?", *texts, _second(results))


def _copies(rows: Sequence[Mapping[str, Any]], groups: int) -> list[str]:
    def mean(k: int) -> str:
        return spread(of_seeds([row["pooling"]["copies"][k - 1] for row in rows]), "{:.3g}")

    def ratio(k: int) -> str:
        return spread(of_seeds([_ratio(row, k) for row in rows]), "{:.2f}")

    counts = range(1, MOST_DEVICES + 1)
    return table((f"G = {groups}: k of 8 copies", *map(str, counts)),
                 [["error", *map(mean, counts)], ["of one copy's", *map(ratio, counts)],
                  ["1/k", *(f"{1 / k:.2f}" for k in counts)]])  # fmt: skip


def _ratio(row: Mapping[str, Any], k: int) -> float:
    copies = row["pooling"]["copies"]
    return float(copies[k - 1] / copies[0])


def _counts(rows: Sequence[Mapping[str, Any]], groups: int) -> list[str]:
    counts = range(2, MOST_DEVICES + 1)
    said: Callable[[int], str] = lambda n: spread(  # noqa: E731
        of_seeds([row["pooling"]["devices"][n - 2] for row in rows]), "{:.3g}"
    )
    return table((f"G = {groups}: all of N devices", *map(str, counts)), [["error", *map(said, counts)]])


def _second(results: Results) -> str:
    """Which part of the error the copies share."""
    said = []
    for groups in (1, 16):
        rows = results.of("digits", f"G={groups}")
        at_eight = of_seeds([_ratio(row, MOST_DEVICES) for row in rows])
        said.append(f"G = {groups}: {spread(at_eight, '{:.2f}')}")
    return (
        f"At k = {MOST_DEVICES}, {'; '.join(said)} of one copy's error is left. Independent errors would leave "
        f"{1 / MOST_DEVICES:.3f}; what is above that, all copies have in common."
    )
