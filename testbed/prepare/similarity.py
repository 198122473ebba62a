"""Do embeddings still order sentences by how alike they are: rank correlation of all pairs with the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
INTERVAL_NEEDS = 10  # sentences or files: of fewer, draws of one or two, which have no order, are no rarity


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of the cosines of all pairs of rows, for embeddings [n, D] of the same n sentences."""
    from scipy.stats import spearmanr

    return float(spearmanr(_cosines(one).numpy(), _cosines(other).numpy()).statistic)


def interval(one: Tensor, other: Tensor, origins: Tensor | None = None) -> tuple[float, float] | None:
    """95 % interval of `rank_correlation` over sentences, by the percentile bootstrap.

    origins: int [n], the file of each: files are drawn whole; None: sentences by themselves. What is drawn twice makes
    no pairs with itself. Pairs are put in order once: in a draw each counts as often as it comes up. None under
    INTERVAL_NEEDS of what is drawn.
    """
    files = np.unique(np.arange(len(one)) if origins is None else origins.numpy(), return_inverse=True)[1]
    count = int(files.max()) + 1
    if count < INTERVAL_NEEDS:
        return None
    from scipy.stats import bootstrap

    first, second = torch.triu_indices(len(one), len(one), 1).numpy()
    orders = [np.unique(_cosines(x).numpy(), return_inverse=True)[1] for x in (one, other)]

    def resampled(rows: NDArray[np.int64]) -> float:
        drawn = np.bincount(rows, minlength=count).astype(np.float64)[files]
        # Of one file each copy has its own pairs, and there are none between copies.
        times = np.where(files[first] == files[second], drawn[first], drawn[first] * drawn[second])
        if np.count_nonzero(times) < 2:
            return 0.0  # of one pair: it has no order that could be alike
        found = np.cov(_ranks(orders[0], times), _ranks(orders[1], times), aweights=times)
        return float(found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]))

    found = bootstrap(
        (np.arange(count),), resampled, n_resamples=_RESAMPLES, vectorized=False, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _ranks(order: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean rank of the copies of each value. order: of the distinct values, from 0; times: copies of each."""
    copies = np.bincount(order, times)
    ranks: NDArray[np.float64] = (np.cumsum(copies) - (copies - 1) / 2)[order]
    return ranks


def embeddings(
    model: Model,
    raw: Tensor,
    books: Mapping[str, Tensor] | None = None,
    devices: int = 1,
    one_class_token: bool = False,
) -> Tensor:
    """Of inputs [n, T] by a model alone, or with codebooks on so many devices, tokens cut evenly: [n, D] on the CPU."""
    coded = books or {}
    streams, quantize = measure.streams_of(coded), measure.coded(coded)
    spans = even_spans(raw.shape[1], devices if coded else 1)

    def held(rows: int) -> Holding:
        found = replace(contiguous(spans, rows), one_class_token=one_class_token and len(spans) > 1)
        return found.to(str(model.place))

    with torch.inference_mode():
        pieces = [
            measure.outputs(model, part.to(model.place), held(len(part)), streams, quantize).cpu()
            for part in torch.split(raw, _BATCH)
        ]
    return torch.cat(pieces)


def _cosines(x: Tensor) -> Tensor:
    unit = normalize(x, dim=-1)
    first, second = torch.triu_indices(len(x), len(x), 1)
    return (unit @ unit.T)[first, second]
