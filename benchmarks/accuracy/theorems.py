"""The paper's two theorems as measurements on real activations, and how embeddings rank.

arXiv 2505.19342 claims that noise like the residuals (NAVQ) brings codes closer to the activations in distribution, by
the 2-Wasserstein distance, and that averaging the class tokens of N devices lowers their error as 1/N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.accuracy.figures import MOST_DEVICES, Subject
from benchmarks.accuracy.grid import DEVICES, NOISES
from runtime import mixed
from runtime.layer import Layer
from runtime.plan import even_spans
from runtime.training import measure
from testbed.prepare import similarity

POINTS = 512  # of each cloud: the assignment takes their cube
INPUTS = 128  # of which activations are taken, for each half
_BATCH = 32


@torch.inference_mode()
def distances(subject: Subject, seed: int) -> list[dict[str, Any]]:
    """W2 per layer between what is coded, X, and the codes of other inputs with noise of lambda times the residuals'.

    {"layer", "points": {...}, "gauss": {...}}, each {"other X": of X to X of other inputs, "<lambda>": ...}: by the
    best assignment of POINTS points, and between the normal distributions fitted to all.
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
            clouds[f"{noise:g}"] = decoded + noise * _like(residuals, draw)
        rows.append(
            {
                "layer": index,
                "points": {name: by_points(_some(x, draw), _some(cloud, draw)) for name, cloud in clouds.items()},
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


def _some(rows: Tensor, draw: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=draw)[:POINTS]]


def _like(residuals: Tensor, draw: torch.Generator) -> Tensor:
    """Draws from N(mean, diagonal covariance) of the residuals."""
    drawn = torch.randn(residuals.shape, generator=draw)
    return residuals.mean(0) + residuals.std(0, correction=0) * drawn


def by_points(x: Tensor, y: Tensor) -> float:
    """W2 between two clouds [n, D] of equally many points, by the best assignment."""
    squares = torch.cdist(x.double(), y.double()).square().numpy()
    rows, columns = linear_sum_assignment(squares)
    return float(squares[rows, columns].mean() ** 0.5)


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

    {"devices": over N = 2 to 8 devices, "copies": over the first k = 1 to 8 of 8}, means over held-out inputs.
    """
    by_devices, of_copies = torch.zeros(MOST_DEVICES - 1), torch.zeros(MOST_DEVICES)
    for raw in torch.split(subject.inputs, _BATCH):
        held = mixed.alone(len(raw), subject.tokens)
        true = _class_tokens(subject, raw, held)
        for n in range(2, MOST_DEVICES + 1):
            copies = _class_tokens(subject, raw, subject.held(even_spans(subject.tokens, n), len(raw)))
            by_devices[n - 2] += (copies.mean(1, keepdim=True) - true).square().sum()
        pooled = copies.cumsum(1) / torch.arange(1, MOST_DEVICES + 1).view(1, -1, 1)
        of_copies += (pooled - true).square().sum(-1).sum(0)
    count = len(subject.inputs)
    return {"devices": (by_devices / count).tolist(), "copies": (of_copies / count).tolist()}


def _class_tokens(subject: Subject, raw: Tensor, held: mixed.Holding) -> Tensor:
    """[B, copies, D] after the final norm."""
    hidden = mixed.forward(subject.model, raw, held, subject.streams, subject.quantize)
    return mixed.final_norm(subject.model, hidden[:, : held.copies(subject.model)])


@torch.inference_mode()
def ranks(subject: Subject) -> float:
    """Of embeddings over devices: Spearman's correlation with the aim of the cosines of all pairs of inputs."""
    cut = even_spans(subject.tokens, DEVICES)
    pieces = [
        measure.outputs(subject.model, raw, subject.held(cut, len(raw)), subject.streams, subject.quantize)
        for raw in torch.split(subject.inputs, _BATCH)
    ]
    return similarity.rank_correlation(subject.aim, torch.cat(pieces))
