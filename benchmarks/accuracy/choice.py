"""Rates of fine-tuning: the best of the same few for codes and for each rival, on inputs held back from training.

One seed and few steps, from an original that has not seen them either: of what it fits already, whatever moves it least
looks best. They are not what the study measures on, and its own trainings have them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.accuracy.figures import Subject, coded, fixed
from benchmarks.accuracy.grid import AS_MEASURED, CODES, DEVICES, RATES, RIVALS, TRAINED
from runtime.model import load
from runtime.plan import even_spans
from runtime.task import TASKS
from runtime.training import measure, train
from runtime.training.data import Data
from runtime.training.train import Settings
from testbed.prepare.recipe import Recipe

STEPS = 40
HELD_BACK = 0.2  # of what there is to train on
INPUTS = 256  # of these at most, to compare rates on
_BATCH = 32


def rates(original: Path, found: Recipe, books: Mapping[str, Tensor], rows: Data, scratch: Path) -> dict[str, Any]:
    """{"rates": {method: the best of RATES}, "losses": {method: {rate: mean loss of the task}}}.

    found: of the codes that stand for all, whose codebooks `books` are. rows: of `parted`, as the original had them.
    """
    losses = dict[str, dict[str, float]]()
    for method in (CODES, *TRAINED):

        def tried(rate: float, method: str = method) -> float:
            recipe = replace(found, training=_short(found.training, rate))
            return loss(_trained(method, original, recipe, books, rows, scratch / f"{method} {rate:g}"))

        losses[method] = {f"{rate:g}": value for rate, value in sorted(between(tried).items())}
    best = {method: float(min(one, key=one.__getitem__)) for method, one in losses.items()}
    return {"rates": best, "losses": losses, "held back": len(rows.test)}


def between(tried: Callable[[float], float]) -> dict[float, float]:
    """{rate: its loss}: the three of RATES in the middle, and on from there as long as the best is at an end."""
    found = {rate: tried(rate) for rate in RATES[1:-1]}
    while True:
        best = RATES.index(min(found, key=found.__getitem__))
        new = [rate for rate in RATES[max(0, best - 1) : best + 2] if rate not in found]
        if not new:
            return found
        found |= {rate: tried(rate) for rate in new}


def parted(data: Data) -> Data:
    """A draw of what there is to train on, in whole files where rows come from files: the rest is trained on, some of
    it measured with. Nothing of what is held out."""
    count, draw = len(data.train), torch.Generator().manual_seed(0)
    origins = torch.arange(count) if data.train_origins is None else data.train_origins
    files = torch.unique(origins)
    drawn = files[torch.randperm(len(files), generator=draw)[: max(1, round(HELD_BACK * len(files)))]]
    held = torch.isin(origins, drawn)
    test = held.nonzero().flatten()
    test = test[torch.randperm(len(test), generator=draw)[:INPUTS]]
    train_labels = test_labels = None
    if data.train_labels is not None:
        train_labels, test_labels = data.train_labels[~held], data.train_labels[test]
    return Data(f"{data.name}, {len(drawn)} of {len(files)} held back",
                data.train[~held], train_labels, data.train[test], test_labels)  # fmt: skip


def _short(settings: Settings, rate: float) -> Settings:
    steps = min(STEPS, settings.steps)
    return replace(settings, lr=rate, steps=steps, warmup=min(settings.warmup, steps // 5))


def _trained(
    method: str, original: Path, found: Recipe, books: Mapping[str, Tensor], rows: Data, folder: Path
) -> Subject:  # fmt: skip
    aim = measure.targets(load(original), rows.test, rows.test_labels)
    with torch.enable_grad():
        if method == CODES:
            train.finetune(original, books, rows, found.astra, found.training, folder)
            return coded(folder, load_file(folder / train.CODEBOOKS), rows, aim)
        train.adapt(original, RIVALS[method], rows, replace(found.training, **AS_MEASURED), folder)
    return fixed(folder, RIVALS[method], rows, aim)


@torch.inference_mode()
def loss(subject: Subject) -> float:
    """Mean loss of the task over DEVICES devices: finer than what is right and wrong of few inputs."""
    task, cut, total = TASKS[subject.model.shape.result], even_spans(subject.tokens, DEVICES), 0.0
    for raw, aim in zip(torch.split(subject.inputs, _BATCH), torch.split(subject.aim, _BATCH), strict=True):
        out = measure.outputs(subject.model, raw, subject.held(cut, len(raw)), subject.streams, subject.quantize)
        total += float(task.loss(out, aim)) * len(raw)
    return total / len(subject.inputs)
