"""The paper's two theorems as measurements on real activations, and how embeddings rank.

arXiv 2505.19342 claims that noise like the residuals (NAVQ) brings codes closer to the activations in distribution, by
the 2-Wasserstein distance, and that averaging the class tokens of N devices lowers their error as 1/N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.figures import MOST_DEVICES, Subject
from benchmarks.accuracy.grid import DEVICES, NOISES
from runtime import mixed
from runtime.layer import Layer
from runtime.plan import even_spans
from runtime.training import measure
from testbed.prepare import similarity

FULL = "full"
INPUTS = 128  # of which activations are taken, for each half
POOLED = 200  # inputs of which class tokens are pooled
_BATCH = 32


@torch.inference_mode()
def distances(subject: Subject, seed: int) -> list[dict[str, Any]]:
    """W2 per layer between what is coded, X, and the codes of other inputs with noise of lambda times the residuals'.

    {"layer", "sliced": {...}, "gauss": {...}}, each {"other X": of X to X of other inputs, "<lambda>": with noise of a
    diagonal covariance, as NAVQ draws it, FULL: of lambda 1 and the whole covariance}: see `sliced`, `between_normals`.
    """
    half = min(INPUTS, len(subject.inputs) // 2)
    first, second = (activations(subject, subject.inputs[i * half : (i + 1) * half]) for i in (0, 1))
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for index, layer in enumerate(subject.model.layers):
        x, other = first[index], second[index]
        decoded = subject.quantize(layer, "input", other)
        residuals = other - decoded
        clouds = {"other X": other}
        for noise in NOISES:
            clouds[f"{noise:g}"] = decoded + noise * diagonal(residuals, draw)
        clouds[FULL] = decoded + full(residuals, draw)
        rows.append(
            {
                "layer": index,
                "sliced": {name: sliced(x, cloud) for name, cloud in clouds.items()},
                "gauss": {name: between_normals(x, cloud) for name, cloud in clouds.items()},
            }
        )
    return rows


@torch.inference_mode()
def activations(subject: Subject, inputs: Tensor) -> list[Tensor]:
    """What is coded in each layer, [n, D] of content tokens, where the subject runs over devices."""
    seen: list[list[Tensor]] = [[] for _ in subject.model.layers]

    def note(layer: Layer, stream: str, x: Tensor) -> Tensor:
        seen[layer.index].append(x.flatten(0, 1))
        return subject.quantize(layer, stream, x)

    for raw in torch.split(inputs, _BATCH):
        content = raw[:, : subject.tokens]
        held = subject.held(even_spans(subject.tokens, DEVICES), len(raw))
        mixed.forward(subject.model, content, held, subject.streams, note)
    return [torch.cat(rows) for rows in seen]


def diagonal(residuals: Tensor, draw: torch.Generator) -> Tensor:
    """Draws from N(mean, diagonal covariance) of the residuals [n, D]."""
    drawn = torch.randn(residuals.shape, generator=draw)
    return residuals.mean(0) + residuals.std(0, correction=0) * drawn


def full(residuals: Tensor, draw: torch.Generator) -> Tensor:
    """Draws from N(mean, covariance) of the residuals [n, D]."""
    values, vectors = torch.linalg.eigh(torch.cov(residuals.double().T, correction=0))
    drawn = torch.randn(residuals.shape, generator=draw).double() * values.clamp_min(0).sqrt()
    made: Tensor = residuals.mean(0) + (drawn @ vectors.T).float()
    return made


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced W2 between clouds [n, D] of equally many points: W2² along each direction of a random orthonormal basis,
    summed, its root. W2 is never less; for clouds that are shifted, or scaled around their mean, it is the same.

    In one dimension the sorted points are the best assignment, so that all points count. The best assignment of few
    points in D dimensions takes a shrunken cloud for nearer than the cloud's own law: all its points are far apart.
    """
    basis = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(0)))[0]
    one, other = ((cloud @ basis).sort(0).values.double() for cloud in (x, y))
    return float((one - other).square().mean(0).sum().sqrt())


def between_normals(x: Tensor, y: Tensor) -> float:
    """W2 between normal distributions fitted to clouds [n, D]: |m1-m2|² + tr(C1 + C2 - 2 (C1 C2)^½), its root."""
    one, other = x.double(), y.double()
    first, second = torch.cov(one.T), torch.cov(other.T)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # The root of C1 C2 has the trace of that of C1^½ C2 C1^½, which is symmetric.
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return float((apart + first.trace() + second.trace() - 2 * shared).clamp_min(0).sqrt())


@torch.inference_mode()
def pooling(subject: Subject) -> dict[str, Sequence[float]]:
    """Squared error of the class token, pooled after the final norm, against that of one device without codes.

    {"devices": over N = 2 to 8 devices, "copies": over k = 1 to 8 of 8, every choice of k alike}, means over inputs.
    """
    inputs = subject.inputs[:POOLED]
    by_devices, own = torch.zeros(MOST_DEVICES - 1), 0.0
    for raw in torch.split(inputs, _BATCH):
        true = _class_tokens(subject, raw, mixed.alone(len(raw), subject.tokens))
        for n in range(2, MOST_DEVICES + 1):
            errors = _class_tokens(subject, raw, subject.held(even_spans(subject.tokens, n), len(raw))) - true
            by_devices[n - 2] += errors.mean(1).square().sum()
        own += float(errors.square().sum()) / MOST_DEVICES
    pooled = (by_devices / len(inputs)).tolist()
    return {"devices": pooled, "copies": of_copies(own / len(inputs), pooled[-1], MOST_DEVICES)}


def of_copies(own: float, pooled: float, copies: int) -> list[float]:
    """Squared error of the mean of k = 1, 2 ... copies, on average over every choice of k.

    own: mean over copies of |e_i|²; pooled: |mean of all e_i|². With B the mean of e_i·e_j over i != j, the error of k
    is own / k + (1 - 1/k) B, and that of all of them gives B.
    """
    shared = (copies * pooled - own) / (copies - 1)
    return [own / k + (1 - 1 / k) * shared for k in range(1, copies + 1)]


def _class_tokens(subject: Subject, raw: Tensor, held: mixed.Holding) -> Tensor:
    """[B, copies, D] after the final norm."""
    hidden = mixed.forward(subject.model, raw, held, subject.streams, subject.quantize)
    return mixed.final_norm(subject.model, hidden[:, : held.copies(subject.model)])


@torch.inference_mode()
def ranks(subject: Subject) -> dict[str, float | None]:
    """Of embeddings over devices: Spearman's correlation with the aim of the cosines of all pairs of inputs, and its
    interval over inputs, None of few: {"value", "low", "high"}."""
    cut = even_spans(subject.tokens, DEVICES)
    pieces = [
        measure.outputs(subject.model, raw, subject.held(cut, len(raw)), subject.streams, subject.quantize)
        for raw in torch.split(subject.inputs, _BATCH)
    ]
    ours = torch.cat(pieces)
    low, high = similarity.interval(subject.aim, ours) or (None, None)
    return {"value": similarity.rank_correlation(subject.aim, ours), "low": low, "high": high}
