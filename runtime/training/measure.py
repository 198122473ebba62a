"""How good a model is on data, by itself and over devices with codes: one machine, the arithmetic of many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runtime.codecs.vq import GroupedVQ
from runtime.layer import Layer
from runtime.mixed import Holding, Quantize, alone, contiguous, next_tokens, results
from runtime.model import Model
from runtime.plan import Span, even_spans
from runtime.task import TASKS
from runtime.training.data import Data
from runtime.training.quantizer import encode

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


def targets(model: Model, raw: Tensor, labels: Tensor | None) -> Tensor:
    """What outputs ought to be, on the CPU: labels; the ids that follow; or the embeddings of the model itself."""
    if model.shape.result == "classes":
        assert labels is not None, "data of classes has labels"
        return labels
    if model.shape.causal:
        return raw[:, 1:]
    with torch.inference_mode():
        pieces = []
        for part in torch.split(raw, _BATCH):
            held = alone(*part.shape[:2]).to(str(model.place))
            pieces.append(outputs(model, part.to(model.place), held).cpu())
    return torch.cat(pieces).clone()


def score(
    model: Model, books: Mapping[str, Tensor] | None, data: Data, spans: Sequence[Span] | int = 1,
    aim: Tensor | None = None, one_class_token: bool = False,
) -> dict[str, object]:  # fmt: skip
    """{"metric", "value", "n", "each": one figure for each row} of a model on data.test.

    books: codebooks `layers.<i>.<stream>` where the model is; None: the model by itself. spans: content tokens of each
    device, or how many devices there are, evenly. aim: of `targets`, by the original where there is another; None: by
    this model. each: 0 or 1 for classes, nats per token, or cosine.
    """
    aim = targets(model, data.test, data.test_labels) if aim is None else aim
    tokens = data.test.shape[1] - int(model.shape.causal)
    cut = even_spans(tokens, spans) if isinstance(spans, int) else list(spans)
    if books is None:
        cut = [Span(0, tokens)]

    def held(rows: int) -> Holding:
        found = contiguous(cut, rows)
        return replace(found, one_class_token=one_class_token and found.devices > 1)

    each = figures(model, data.test, aim, held, streams_of(books or {}), coded(books or {}))
    task = TASKS[model.shape.result]
    return {"metric": task.metric, "value": task.figure(sum(each) / len(each)), "n": len(each), "each": each}


def figures(
    model: Model, inputs: Tensor, aim: Tensor, held: Callable[[int], Holding], streams: Collection[str],
    quantize: Quantize,
) -> list[float]:  # fmt: skip
    """One figure for each of inputs [n, ...], see `score`. aim: of `targets`; held: who holds what, of so many rows."""
    task, each = TASKS[model.shape.result], list[float]()
    with torch.inference_mode():
        for raw, target in zip(torch.split(inputs, _BATCH), torch.split(aim, _BATCH), strict=True):
            there = held(len(raw)).to(str(model.place))
            out = outputs(model, raw.to(model.place), there, streams, quantize)
            each += task.score(out, target.to(model.place)).tolist()
    return each


def coded(books: Mapping[str, Tensor]) -> Quantize:
    """What other devices see: the nearest codewords."""
    codecs = {name: GroupedVQ(book) for name, book in books.items()}

    def quantize(layer: Layer, stream: str, x: Tensor) -> Tensor:
        name = f"layers.{layer.index}.{stream}"
        codec = codecs[name]
        flat = x.reshape(-1, x.shape[-1])
        return codec.decode(encode(codec, flat)).view_as(x)

    return quantize


def _unseen(layer: Layer, stream: str, x: Tensor) -> Tensor:
    raise AssertionError("one device codes nothing")
