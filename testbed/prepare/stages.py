"""What is done to prepare a model, one stage after the other; a stage that is done is not done again."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.families import TOKENIZER
from runtime.families.source import MODEL, PREPARED_FORMAT
from runtime.methods.astra import Astra, streams
from runtime.model import SHAPE, fingerprint, load, load_shape
from runtime.task import TASKS
from runtime.training import measure, train
from runtime.training.data import Data
from runtime.training.train import Hooks
from testbed import data
from testbed.data.wanted import digests
from testbed.inputs import BadInputs
from testbed.prepare import card, similarity, source
from testbed.prepare.folder import CODEBOOKS, HELD_OUT, ORIGINAL
from testbed.prepare.progress import Progress
from testbed.prepare.recipe import plain
from testbed.prepare.work import Work
from testbed.statistics import mean_interval, share_interval
from testbed.store import StoreError
from testbed.tables import METRICS, duration, metric

INITIAL, KMEANS = "initial", "kmeans.safetensors"  # in the scratch folder
MOST_DEVICES = 8  # on how many the result is measured; the codebooks serve any number
VECTORS_PER_CODEWORD = 8  # that k-means sees
CHECKPOINTS = 10, 100  # of a training: at least, and about at most; between them one every 50 steps


class Preparation:
    """One recipe's. place: of torch, "cpu" or "cuda"."""

    def __init__(self, work: Work, progress: Progress, place: str) -> None:
        self.work, self.progress, self.place = work, progress, place
        self.recipe = work.recipe

    def run(self) -> dict[str, Any]:
        """All that is left to do; returns what config.json says. Raises BadModel, BadInputs, StoreError."""
        folder = self._converted()
        self.shape = load_shape(folder)
        self.data = self._read_data(folder)
        self.work.accept(_digest(self.data))
        original = self._original(folder)
        books = self._kmeans(original)
        model = self._tuned(original, books)
        self._measure(original, books, model)
        self._keep_digests()
        config = self._config()
        self.work.write(self.work.path / card.NAME, card.text(config, self.shape))
        self.work.finish(config)
        return config

    def _converted(self) -> Path:
        """The model as it comes, or its successor where that is there."""
        original, initial = self.work.path / ORIGINAL, self.work.scratch / INITIAL
        if (original / SHAPE).exists():
            return original
        if not (initial / SHAPE).exists():
            source.convert(self.recipe, initial)
        return initial

    def _read_data(self, folder: Path) -> Data:
        recipe = self.recipe
        with self.progress.steps("reading data") as step:
            found = data.load(
                recipe.data, self.shape, recipe.tokens, folder, recipe.seed, told=lambda done, of: step(done, of, {})
            )
        vectors = len(found.train) * recipe.tokens
        if vectors < recipe.astra.codewords:
            raise BadInputs(f"it has {vectors} tokens to train on, {recipe.astra.codewords} codewords need as many")
        self.progress.stage(f"data {found.name}: {len(found.train)} inputs to train on, {len(found.test)} held out")
        return found

    def _original(self, folder: Path) -> Path:
        """The model by itself, trained where the recipe says so."""
        settings = self.recipe.original
        if folder.parent == self.work.path:
            return folder
        if settings is None:
            return self.work.put(folder, ORIGINAL)
        fresh = self._fresh("original")
        self._train(
            "the model by itself", "original", settings.steps,
            lambda hooks: train.original(folder, self.data, settings, fresh, hooks),
        )  # fmt: skip
        return self.work.put(_whole(fresh, folder), ORIGINAL)

    def _kmeans(self, original: Path) -> Path:
        """Codebooks of the original's own activations."""
        path, recipe = self.work.scratch / KMEANS, self.recipe
        if path.exists():
            return path
        count = min(len(self.data.train), -(-VECTORS_PER_CODEWORD * recipe.astra.codewords // recipe.tokens))
        chosen = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(recipe.seed))[:count]
        draft = path.with_suffix(".new")
        with self.work.timed("k-means"), torch.inference_mode():
            Astra.prepare(original, recipe.astra, [self._input(self.data.train[i]) for i in chosen], draft)
        draft.replace(path)
        seconds = duration(self.work.seconds["k-means"])
        self.progress.stage(f"codebooks by k-means on {count * recipe.tokens} activations of each layer: {seconds}")
        return path

    def _input(self, row: Tensor) -> Tensor:
        """What a model reads of a row of the data."""
        return row[: self.recipe.tokens]

    def _tuned(self, original: Path, books: Path) -> Path:
        """Model and codebooks trained together."""
        recipe, target = self.recipe, self.work.path / MODEL
        if target.exists():
            return target
        fresh, settings = self._fresh("tuned"), recipe.training
        if settings.steps:
            self._train(
                "fine-tuning", "fine-tuning", settings.steps,
                lambda hooks: train.finetune(
                    original, load_file(books), self.data, recipe.astra, settings, fresh, hooks
                ),
            )  # fmt: skip
        else:
            shutil.copytree(original, fresh)
            shutil.copy(books, fresh / train.CODEBOOKS)
        _whole(fresh, original)
        self.work.put(fresh / train.CODEBOOKS, CODEBOOKS)
        return self.work.put(fresh, MODEL)

    def _fresh(self, name: str) -> Path:
        """A place in the scratch folder where nothing is."""
        path = self.work.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def _train(self, title: str, stage: str, steps: int, run: Callable[[Hooks], None]) -> None:
        """One training, from its checkpoint if a process was killed over it."""
        checkpoint = self.work.scratch / f"{stage}.{self.place}.pt"
        self._refuse_elsewhere(stage, checkpoint)
        if checkpoint.exists():
            self.progress.stage(f"{title}: goes on from its checkpoint")
        with self.work.timed(stage), torch.enable_grad(), self.progress.steps(title) as step:

            def hook(done: int, of: int, losses: Any) -> None:
                self.work.tick()
                step(done, of, losses)

            least, most = CHECKPOINTS
            run(Hooks(hook, checkpoint, max(1, min(50, steps // least), steps // most), self.place))
        self.progress.stage(f"{title}: {steps} steps, {duration(self.work.seconds[stage])}")

    def _refuse_elsewhere(self, stage: str, checkpoint: Path) -> None:
        """Raises StoreError if it was begun on the other device, whose generators these are not."""
        other = next((file for file in self.work.scratch.glob(f"{stage}.*.pt") if file != checkpoint), None)
        if other is not None:
            place = other.stem.removeprefix(f"{stage}.")
            raise StoreError(f"{other}: begun on {place}: give --device {place}, or remove this file to begin anew")

    def _measure(self, original: Path, books: Path, model: Path) -> None:
        """Every figure of config.json, each on all of the held-out inputs."""
        devices = self.recipe.training.devices
        tuned = self.work.path / CODEBOOKS
        self._score("original", "the original", original, None, 1, original)
        self._score("untuned", f"k-means codebooks, {devices} devices", original, books, devices, original)
        self._score("single", "the fine-tuned model, 1 device", model, None, 1, original)
        most = min(MOST_DEVICES, self.recipe.tokens)
        for count in sorted({devices, *range(2, most + 1)}):
            self._score(f"devices {count}", f"fine-tuned, {count} devices", model, tuned, count, original)

    def _score(self, name: str, title: str, folder: Path, books: Path | None, devices: int, original: Path) -> None:
        if name in self.work.measured:
            return
        one, test = self.recipe.training.class_tokens == "one", self.data.test
        with self.work.timed("measuring"):
            model, first = load(folder, place=self.place), load(original, place=self.place)
            loaded = None if books is None else load_file(books, device=self.place)
            aim = measure.targets(first, test, self.data.test_labels)
            found: dict[str, Any] = dict(measure.score(model, loaded, self.data, devices, aim, one))
            if self.shape.result == "embedding" and devices in (1, self.recipe.training.devices):
                ours = similarity.embeddings(model, test, loaded, devices, one)
                found["rank_correlation"] = similarity.rank_correlation(aim, ours)
                found["rank_correlation_ci95"] = similarity.interval(aim, ours, self.data.test_origins)
        found |= {"ci95": self._interval(found.pop("each"))}
        self.work.measured[name] = found
        self.work.save()
        self.progress.stage(f"{title}: {METRICS[found['metric']]} {metric(found['metric'], found['value'])}")

    def _interval(self, each: Sequence[float]) -> list[float | None]:
        """Of a mean of figures, one for each held-out input."""
        task, origins = TASKS[self.shape.result], self.data.test_origins
        if task.metric == "top1":
            return share_interval(each)
        ends = mean_interval(each, None if origins is None else origins.tolist())
        return [None if end is None else task.figure(end) for end in ends]

    def _keep_digests(self) -> None:
        """So that a run can tell whether its inputs were held out."""
        draft = self.work.scratch / HELD_OUT
        save_file({"digests": digests(self.data.test)}, draft)
        draft.chmod(0o644)
        self.work.put(draft, HELD_OUT)

    def _config(self) -> dict[str, Any]:
        recipe, path, origins = self.recipe, self.work.path, self.data.test_origins
        (coded, *more) = streams(self.shape, recipe.astra)
        return plain(recipe) | {
            "format": PREPARED_FORMAT,
            "astra": {
                "groups": recipe.astra.groups,
                "codewords": recipe.astra.codewords,
                "code": "kv" if more else coded,
            },
            "sha256": {
                "weights": fingerprint(path / MODEL),
                "codebooks": fingerprint(path, CODEBOOKS),
                "original": fingerprint(path / ORIGINAL),
            },
            "task": self._task(),
            "measured": self.work.measured,
            "inputs": {
                "name": self.data.name,
                "train": len(self.data.train),
                "test": len(self.data.test),
                "files": None if origins is None else len(set(origins.tolist())),
            },
            "seconds": {name: round(seconds, 1) for name, seconds in self.work.seconds.items()},
            "starts": self.work.starts,
            "device": self.place,
            "versions": {"python": platform.python_version(), "torch": version("torch")},
        }

    def _task(self) -> dict[str, Any]:
        """What runs show of what was measured."""
        measured, devices = self.work.measured, self.recipe.training.devices
        values = {name: one["value"] for name, one in measured.items()}
        by_devices = {name.split()[1]: value for name, value in values.items() if name.startswith("devices ")}
        return {
            "metric": measured["original"]["metric"],
            "original": values["original"],
            "untuned": values["untuned"],
            "single": values["single"],
            "this": values[f"devices {devices}"],
            "devices": devices,
            "by_devices": {"1": values["single"]} | by_devices,
            "n": measured["original"]["n"],
        }


def _digest(data: Data) -> str:
    """Of all rows, in their order."""
    found = hashlib.sha256()
    for part in (data.train, data.test, data.train_labels, data.test_labels):
        found.update(b"none" if part is None else f"{tuple(part.shape)}".encode())
        if part is not None:
            found.update(part.contiguous().numpy().data)
    return found.hexdigest()


def _whole(fresh: Path, before: Path) -> Path:
    """The folder of a trained model with the tokenizer of the one it comes from, for all to read."""
    if (before / TOKENIZER).exists() and not (fresh / TOKENIZER).exists():
        shutil.copy(before / TOKENIZER, fresh / TOKENIZER)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors leaves what it writes to its owner only
    return fresh
