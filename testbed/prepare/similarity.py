"""Do embeddings still order sentences by how alike they are: rank correlation of all pairs with the original's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from runtime.mixed import Holding, contiguous
from runtime.model import Model
from runtime.plan import even_spans
from runtime.training import measure

_BATCH = 32


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of the cosines of all pairs of rows, for embeddings [n, D] of the same n sentences."""
    from scipy.stats import spearmanr

    return float(spearmanr(_cosines(one).numpy(), _cosines(other).numpy()).statistic)


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


def _cosines(x: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(x, dim=-1)
    first, second = torch.triu_indices(len(x), len(x), 1)
    return (unit @ unit.T)[first, second]
