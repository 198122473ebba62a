"""Sections of docs/accuracy.md on the paper's two theorems. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.accuracy.figures import MOST_DEVICES
from benchmarks.accuracy.grid import NOISES, recipe
from benchmarks.accuracy.intervals import Mean, of_seeds
from benchmarks.accuracy.results import TITLES, Results, section, spread, table
from benchmarks.accuracy.theorems import FULL, INPUTS, POOLED

NAMES = ("other X", *(f"{noise:g}" for noise in NOISES), FULL)
KINDS = {"sliced": "slices", "gauss": "fitted normals"}
NOISY = {"1": "as NAVQ draws it (a diagonal Σ)", FULL: "of the whole Σ"}
STUDIES = ("digits", "corpus")


def sections(results: Results) -> list[str]:
    """Both of them."""
    return [_distances(results), _pooling(results)]


def _distances(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        "2-Wasserstein distance between what is coded, X, and the codes of other held-out inputs with noise of λ times "
        "the residuals' own distribution: λ = 0 is X̂, λ = 1 is X̃ as NAVQ has it, with the variance of each feature; "
        "`full Σ`: λ = 1 and noise with the residuals' whole covariance. `other X`: X of those inputs. X is of "
        "the first of the held-out inputs in their order, all else of those that follow: of text mostly of other "
        "files. G = 1, intervals over seeds. By slices: W2² along each direction of a random orthonormal basis, "
        "summed, of all points (a lower bound of W2); and between the normal distributions fitted to all points, "
        "which look at means and covariances only.",
    ]
    for study in STUDIES:
        rows = results.of(study, "G=1")
        half, tokens = min(INPUTS, rows[0]["inputs"] // 2), recipe(study, 0, None).tokens
        texts.append(f"{TITLES[study]}: {half * tokens} points on either side, of {half} inputs.")
        for kind, called in KINDS.items():
            made = []
            for layer in range(len(rows[0]["distances"])):
                one = [row["distances"][layer][kind] for row in rows]
                means = [spread(of_seeds([each[name] for each in one]), "{:.2f}") for name in NAMES]
                nearer = [spread(_nearer(rows, layer, kind, name), "{:+.2f}") for name in NOISY]
                made.append([str(layer), *means, *nearer])
            head = (f"{TITLES[study]}: layer", "other X", *(f"λ = {noise:g}" for noise in NOISES), "full Σ",
                    "X̃ nearer than X̂ by", "with full Σ by")  # fmt: skip
            texts += [f"By {called}:", table(head, made)]
    said = [_counted(results, kind, noise) for kind in KINDS for noise in NOISY]
    closing = (
        "Neither is the distance itself: both are lower bounds of it. Slices see distributions along as many "
        "directions as there are features, each by itself; normals see how features vary together, which a diagonal Σ "
        "does not have. With the whole Σ normals are a weak test: where codewords are the means of their vectors, "
        "their covariance and that of the residuals add up to that of X, whatever the distributions are."
    )
    return section("Theorem 1: does noise bring codes closer to activations?", *texts, " ".join(said), closing)


def _nearer(rows: Sequence[Mapping[str, Any]], layer: int, kind: str, noise: str) -> Mean:
    """How much nearer than X̂ codes with such noise are."""
    found = [row["distances"][layer][kind] for row in rows]
    return of_seeds([each["0"] - each[noise] for each in found])


def _counted(results: Results, kind: str, noise: str) -> str:
    nearer, farther, layers = _layers(results, kind, noise)
    return (
        f"By {KINDS[kind]}, noise {NOISY[noise]} brings codes nearer in {nearer} of {layers} layers beyond the "
        f"interval, and takes them farther away in {farther}."
    )


def _layers(results: Results, kind: str, noise: str) -> tuple[int, int, int]:
    """In how many layers codes are nearer, in how many farther away, and of how many."""
    found = []
    for study in STUDIES:
        rows = results.of(study, "G=1")
        found += [_nearer(rows, layer, kind, noise) for layer in range(len(rows[0]["distances"]))]
    nearer = sum(mean.low is not None and mean.low > 0 for mean in found)
    farther = sum(mean.high is not None and mean.high < 0 for mean in found)
    return nearer, farther, len(found)


def _pooling(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        "Digits. Squared error of the class token after the final norm, averaged over devices, against one device "
        f"without codes: the sum over features, the mean over {POOLED} inputs at most; intervals over seeds. First "
        "over k of 8 devices' copies, averaged over every choice of k: were the copies' errors independent and without "
        "bias, this would fall as 1/k. Then over all of N devices, each of which has fewer tokens as N grows, so that "
        "one copy's error grows too.",
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
    said, refuted = [], []
    for groups in (1, 16):
        rows = results.of("digits", f"G={groups}")
        at_eight = of_seeds([_ratio(row, MOST_DEVICES) for row in rows])
        said.append(f"G = {groups}: {spread(at_eight, '{:.2f}')}")
        beyond = at_eight.low is not None and at_eight.low > 1 / MOST_DEVICES
        refuted.append(f"{'does not hold' if beyond else 'is not refuted'} at G = {groups}")
    return (
        f"That the error falls as 1/N {' and '.join(refuted)}. "
        f"At k = {MOST_DEVICES}, {'; '.join(said)} of one copy's error is left. Independent errors would leave "
        f"{1 / MOST_DEVICES:.3f}; what is above that, all copies have in common."
    )
