"""One training and what is measured of it: jobs, each in a process of its own with one thread of torch.

Results are files (see store.py): {"study", "label", "seed", "seconds": {stage: s}, "metric", "figures": {what: one for
each held-out input}, and what `WANTED` adds}.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.accuracy import choice, figures, grid, store, theorems
from benchmarks.accuracy.figures import Subject
from benchmarks.accuracy.grid import DEVICES, RIVALS, Cell, recipe, untuned, varied
from runtime.methods.astra import Astra
from runtime.model import load, load_shape
from runtime.plan import even_spans
from runtime.task import TASKS
from runtime.training import measure, train
from runtime.training.data import Data
from testbed import data
from testbed.prepare import source
from testbed.prepare.recipe import Recipe, plain
from testbed.prepare.stages import VECTORS_PER_CODEWORD

DONE = "done.json"  # written last: what is beside it is whole
TEXT_INPUTS = 200  # held-out windows of text; of images all there are
WANTED: Mapping[str, Callable[[Subject, Cell], dict[str, Any]]] = {
    "devices": lambda subject, cell: {"figures": figures.by_devices(subject)},
    "uneven": lambda subject, cell: {"figures": figures.uneven(subject)},
    "lost": lambda subject, cell: {"figures": figures.lost(subject)},
    "distances": lambda subject, cell: {"distances": theorems.distances(subject, cell.seed)},
    "pooling": lambda subject, cell: {"pooling": theorems.pooling(subject)},
    "ranks": lambda subject, cell: {"ranks": theorems.ranks(subject)},
}


class Bench:
    """Where results lie, and how long trainings are: steps at most, None for as many as the recipes say."""

    def __init__(self, work: Path, steps: int | None, inputs: int | None) -> None:
        """inputs: held-out inputs at most, None: all."""
        self.work, self.steps, self.inputs = work, steps, inputs

    def original(self, study: str, seed: int) -> Path:
        """The trained original of a study, measured by itself and under codes that were not trained."""
        found = recipe(study, seed, self.steps)
        folder = self._folder(study, seed)
        if not (folder / DONE).exists():
            seconds: dict[str, float] = {}
            with made(folder) as draft:
                with timed(seconds, "original"):
                    self._train_original(found, draft)
                store.write(draft / DONE, seconds)
        codes = [repr(options) for options in untuned(found)]
        result = store.measured(folder, [self.inputs, codes, [repr(rival) for rival in RIVALS.values()]])
        if not result.exists():
            store.write(result, self._measure_original(study, seed, found, folder))
        return result

    def rates(self, study: str) -> Path:
        """Which rates suit codes and rivals, by an original of the first seed that has seen less (see choice.py)."""
        found = recipe(study, 0, self.steps)
        found = replace(found, astra=replace(found.astra, groups=1))
        depends = [self._folder(study, 0).name, plain(found), grid.RATES, choice.STEPS, choice.HELD_BACK, choice.INPUTS]
        folder = store.place(self.work, f"{study} rates", [*depends, [repr(RIVALS[one]) for one in grid.TRAINED]])
        result = store.measured(folder, [])
        if not result.exists():
            seconds: dict[str, float] = {}
            with timed(seconds, "rates"), tempfile.TemporaryDirectory() as scratch:
                original = Path(scratch) / "original"
                original.mkdir()
                rows = self._train_original(found, original, choice.parted)
                chosen = choice.rates(original, found, self._books(original, rows, found), rows, Path(scratch))
            folder.mkdir(parents=True, exist_ok=True)
            store.write(result, {"study": study, "label": "rates", "seed": 0, "seconds": seconds} | chosen)
        return result

    def cell(self, cell: Cell) -> Path:
        """What is trained from an original, measured."""
        found = varied(recipe(cell.study, cell.seed, self.steps), cell)
        original = self._folder(cell.study, cell.seed)
        depends = [original.name, plain(found), repr(cell.rival and RIVALS[cell.rival])]
        folder = store.place(self.work, f"{cell.study} {cell.label} s{cell.seed}", depends)
        if not (folder / DONE).exists():
            seconds: dict[str, float] = {}
            with made(folder) as draft:
                self._train(cell, found, original, draft, seconds)
                store.write(draft / DONE, seconds)
        result = store.measured(folder, [self.inputs, cell.wants])
        if not result.exists():
            store.write(result, self._measure(cell, found, original, folder))
        return result

    def _folder(self, study: str, seed: int) -> Path:
        said = plain(recipe(study, seed, self.steps))
        for section in ("name", "astra", "training"):
            said.pop(section)
        return store.place(self.work, f"{study} original s{seed}", said)

    def _train_original(self, found: Recipe, folder: Path, part: Callable[[Data], Data] = lambda data: data) -> Data:
        """Returns what it was trained on, and what was held out: of `part` of the data."""
        initial = folder / "initial"
        source.convert(found, initial)
        rows = part(data.load(found.data, load_shape(initial), found.tokens, initial, found.seed))
        if found.original is None:
            for file in initial.iterdir():
                file.rename(folder / file.name)
            initial.rmdir()
            return rows
        with torch.enable_grad():
            train.original(initial, rows, found.original, folder)
        shutil.rmtree(initial)
        return rows

    def _train(self, cell: Cell, found: Recipe, original: Path, folder: Path, seconds: dict[str, float]) -> None:
        rows = _data(original, found.data, found.tokens, found.seed)
        if cell.rival is not None:
            with timed(seconds, "fine-tuning"), torch.enable_grad():
                train.adapt(original, RIVALS[cell.rival], rows, found.training, folder)
            return
        with timed(seconds, "k-means"):
            books = self._books(original, rows, found)
        with timed(seconds, "fine-tuning"), torch.enable_grad():
            train.finetune(original, books, rows, found.astra, found.training, folder)

    def _books(self, original: Path, rows: Data, found: Recipe) -> dict[str, Tensor]:
        """k-means codebooks of an original, kept beside it; the seed chooses what they are of."""
        astra, tokens = found.astra, found.tokens
        path = original / f"kmeans_{astra.groups}_{astra.codewords}_{astra.code}.safetensors"
        if not path.exists():
            count = min(len(rows.train), -(-VECTORS_PER_CODEWORD * astra.codewords // tokens))
            chosen = torch.randperm(len(rows.train), generator=torch.Generator().manual_seed(found.seed))[:count]
            draft = path.with_suffix(f".{id(self)}")
            with torch.inference_mode():
                Astra.prepare(original, astra, [rows.train[i][:tokens] for i in chosen], draft)
            draft.replace(path)
        return load_file(path)

    def _held_out(self, original: Path, found: Recipe) -> tuple[Data, Tensor]:
        """Data of which the held-out part is as large as asked, and the aim of it."""
        rows = _data(original, found.data, found.tokens, found.seed)
        count = len(rows.test) if self.inputs is None else min(self.inputs, len(rows.test))
        if rows.test_labels is None:
            count = min(count, TEXT_INPUTS)
        labels = None if rows.test_labels is None else rows.test_labels[_spread(len(rows.test), count)]
        chosen = _spread(len(rows.test), count)
        origins = None if rows.test_origins is None else rows.test_origins[chosen]
        rows = replace(rows, test=rows.test[chosen], test_labels=labels, test_origins=origins)
        return rows, _aim(original, rows, count)

    def _measure_original(self, study: str, seed: int, found: Recipe, folder: Path) -> dict[str, Any]:
        rows, aim = self._held_out(folder, found)
        cut = even_spans(found.tokens, DEVICES)
        seconds: dict[str, float] = store.read(folder / DONE)
        plainly = Subject(load(folder), frozenset(), measure.coded({}), rows.test, aim)
        result: dict[str, list[float]] = {"alone": plainly.alone()}
        with timed(seconds, "measuring"):
            for options in untuned(found):
                books = self._books(folder, rows, replace(found, astra=options))
                subject = figures.coded(folder, books, rows, aim)
                result[f"G={options.groups}"] = subject.cut(cut)
                result.setdefault(figures.UNHEARD, figures.unheard(subject))
            for name, rival in RIVALS.items() if study in grid.RIVALLED else ():
                result[name] = figures.fixed(folder, rival, rows, aim).cut(cut)
        return _result(study, "original", seed, rows, seconds, folder) | {"figures": result}

    def _measure(self, cell: Cell, found: Recipe, original: Path, folder: Path) -> dict[str, Any]:
        rows, aim = self._held_out(original, found)
        seconds: dict[str, float] = store.read(folder / DONE)
        with timed(seconds, "measuring"):
            if cell.rival is None:
                one = found.training.class_tokens == "one"
                subject = figures.coded(folder, load_file(folder / train.CODEBOOKS), rows, aim, one)
            else:
                subject = figures.fixed(folder, RIVALS[cell.rival], rows, aim)
            result: dict[str, Any] = {"figures": {"alone": subject.alone()}}
            result["figures"][f"devices {DEVICES}"] = subject.cut(even_spans(subject.tokens, DEVICES))
            for want in cell.wants:
                more = WANTED[want](subject, cell)
                result["figures"] |= more.pop("figures", {})
                result |= more
        return _result(cell.study, cell.label, cell.seed, rows, seconds, folder) | result


def _result(
    study: str, label: str, seed: int, rows: Data, seconds: Mapping[str, float], folder: Path
) -> dict[str, Any]:
    shape = load_shape(folder)
    return {
        "study": study, "label": label, "seed": seed, "metric": TASKS[shape.result].metric, "data": rows.name,
        "train": len(rows.train), "inputs": len(rows.test), "seconds": dict(seconds),
        "origins": None if rows.test_origins is None else rows.test_origins.tolist(),
    }  # fmt: skip


def _spread(total: int, count: int) -> list[int]:
    return [i * total // count for i in range(count)]


@functools.lru_cache(maxsize=4)
def _data(original: Path, name: str, tokens: int, seed: int) -> Data:
    return data.load(name, load_shape(original), tokens, original, seed)


_aims: dict[tuple[Path, int], Tensor] = {}


def _aim(original: Path, rows: Data, count: int) -> Tensor:
    """What outputs ought to be; of embeddings it takes as long as a measurement."""
    key = (original, count)
    if key not in _aims:
        _aims[key] = measure.targets(load(original), rows.test, rows.test_labels)
    return _aims[key]


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder that is there once all is in it."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    draft.rename(folder)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """What its body took, added to those of the stage."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - began, 1)
