"""Do embeddings still order sentences by how alike they are: rank correlation of all pairs with the original's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from runtime.mixed import Holding, contiguous
from runtime.model import Model
from runtime.plan import even_spans
from runtime.training import measure

_BATCH = 32
_RESAMPLES = 1000


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of the cosines of all pairs of rows, for embeddings [n, D] of the same n sentences."""
    return _spearman(_cosines(one).numpy(), _cosines(other).numpy())


def interval(one: Tensor, other: Tensor) -> tuple[float, float]:
    """95 % interval of `rank_correlation` over sentences, 3 or more, each by itself, by the percentile bootstrap.

    A sentence that is drawn twice is no pair with itself.
    """
    from scipy.stats import bootstrap

    first, second = torch.triu_indices(len(one), len(one), 1).numpy()
    tables = [(unit @ unit.T).numpy() for unit in (normalize(x, dim=-1) for x in (one, other))]

    def resampled(rows: NDArray[np.int64]) -> float:
        pairs = rows[first], rows[second]
        apart = pairs[0] != pairs[1]
        return _spearman(*(table[pairs][apart] for table in tables))

    found = bootstrap(
        (np.arange(len(one)),), resampled, n_resamples=_RESAMPLES, vectorized=False, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def embeddings(model: Model, raw: Tensor, books: Mapping[str, Tensor] | None = None, devices: int = 1) -> Tensor:
    """Of inputs [n, T] by a model alone, or with codebooks on so many devices, tokens cut evenly: [n, D] on the CPU."""
    coded = books or {}
    streams, quantize = measure.streams_of(coded), measure.coded(coded)
    spans = even_spans(raw.shape[1], devices if coded else 1)

    def held(rows: int) -> Holding:
        return contiguous(spans, rows).to(str(model.place))

    with torch.inference_mode():
        pieces = [
            measure.outputs(model, part.to(model.place), held(len(part)), streams, quantize).cpu()
            for part in torch.split(raw, _BATCH)
        ]
    return torch.cat(pieces)


def _spearman(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def _cosines(x: Tensor) -> Tensor:
    unit = normalize(x, dim=-1)
    first, second = torch.triu_indices(len(x), len(x), 1)
    return (unit @ unit.T)[first, second]
