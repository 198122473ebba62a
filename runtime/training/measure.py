"""How good a model is on data, by itself and over devices with codes: one machine, the arithmetic of many."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.codecs.vq import GroupedVQ
from runtime.layer import Layer
from runtime.mixed import Holding, Quantize, alone, contiguous, next_tokens, results
from runtime.model import Model, load
from runtime.plan import Span, even_spans
from runtime.task import TASKS
from runtime.training.data import Data

_BATCH = 32


def outputs(
    model: Model, raw: Tensor, holding: Holding, streams: Collection[str] = (), quantize: Quantize | None = None
) -> Tensor:
    """What the task's loss is taken of: results [B, outputs], or logits [B, T, vocabulary] of a causal model, which is
    given ids [B, T + 1] and does not read the last."""
    if model.shape.causal:
        return next_tokens(model, raw[:, :-1], holding, streams, quantize or _unseen)
    return results(model, raw, holding, streams, quantize or _unseen)


def streams_of(books: Mapping[str, Tensor]) -> frozenset[str]:
    """What is coded in each layer, by the names of the codebooks."""
    return frozenset(name.rpartition(".")[2] for name in books)


def targets(folder: Path, raw: Tensor, labels: Tensor | None) -> Tensor:
    """What outputs ought to be: labels; the ids that follow; or the embeddings of the model in the folder."""
    model = load(folder)
    if model.shape.result == "classes":
        assert labels is not None, "data of classes has labels"
        return labels
    if model.shape.causal:
        return raw[:, 1:]
    with torch.inference_mode():
        pieces = [outputs(model, part, alone(*part.shape[:2])) for part in torch.split(raw, _BATCH)]
    return torch.cat(pieces).clone()


def score(
    folder: Path, books: Mapping[str, Tensor] | None, data: Data, spans: Sequence[Span] | int = 1,
    reference: Path | None = None, one_class_token: bool = False,
) -> dict[str, object]:  # fmt: skip
    """{"metric", "value", "n", "each": one figure for each row} of a model on data.test.

    books: codebooks `layers.<i>.<stream>`; None: the model by itself. spans: content tokens of each device, or how many
    devices there are, evenly. reference: the folder of the original, whose embeddings are the aim; default the model's
    own. each: 0 or 1 for classes, nats per token, or cosine.
    """
    model = load(folder)
    task, aim = TASKS[model.shape.result], targets(reference or folder, data.test, data.test_labels)
    tokens = data.test.shape[1] - int(model.shape.causal)
    cut = even_spans(tokens, spans) if isinstance(spans, int) else list(spans)
    streams, quantize = streams_of(books or {}), coded(books or {})
    each = []
    with torch.inference_mode():
        for raw, target in zip(torch.split(data.test, _BATCH), torch.split(aim, _BATCH), strict=True):
            held = contiguous(cut if books is not None else [Span(0, tokens)], len(raw))
            held = Holding(held.owners, held.devices, one_class_token and held.devices > 1)
            each += task.score(outputs(model, raw, held, streams, quantize), target).tolist()
    return {
        "metric": task.metric,
        "value": task.figure(sum(each) / len(each)),
        "n": len(each),
        "each": each,
    }


def coded(books: Mapping[str, Tensor]) -> Quantize:
    """What other devices see: the nearest codewords."""
    codecs = {name: GroupedVQ(book) for name, book in books.items()}

    def quantize(layer: Layer, stream: str, x: Tensor) -> Tensor:
        name = f"layers.{layer.index}.{stream}"
        codec = codecs[name]
        flat = x.reshape(-1, x.shape[-1])
        return codec.decode(codec.encode(flat)).view_as(x)

    return quantize


def _unseen(layer: Layer, stream: str, x: Tensor) -> Tensor:
    raise AssertionError("one device codes nothing")
