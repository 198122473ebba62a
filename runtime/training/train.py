"""Training: of a model by itself, and of a model together with the codebooks of its codes (ASTRA, arXiv 2505.19342).

Fine-tuning runs mixed-precision attention on one machine (`runtime.mixed`): every batch deals its tokens out to devices
anew, so that one set of codebooks serves any split. The loss is that of the task and the commitment of every coded
stream, the mean over tokens of |X - sg(X̂)|².
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime.errors import BadCheckpoint
from runtime.layer import Layer
from runtime.methods.astra import AstraOptions, streams
from runtime.mixed import Holding, Quantize, alone
from runtime.model import load, load_shape
from runtime.plan import even_spans
from runtime.task import TASKS
from runtime.training import measure
from runtime.training.data import Data
from runtime.training.quantizer import LearnedVQ, Learning
from runtime.training.weights import Trainable

CODEBOOKS = "codebooks.safetensors"
_CLIP = 1.0  # of the gradient's norm
_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Settings:
    """Of one training. lr: highest rate, after `warmup` steps, from where it falls to 0 as a cosine does.

    devices N: tokens are dealt out to so many, "random" (any token to any device, evenly many each) or "even"
    (consecutive ones). noise: NAVQ's lambda; commitment: beta; ema: decay of codebooks; class_tokens: "distributed" or
    "one"; message_dropout: share of the messages that get lost, each the codes of one device for another in one layer.
    """

    steps: int = 400
    batch: int = 32
    lr: float = 3e-4
    warmup: int = 20
    weight_decay: float = 0.01
    seed: int = 0
    devices: int = 4
    noise: float = 1.0
    class_tokens: Literal["distributed", "one"] = "distributed"
    commitment: float = 1e-4
    ema: float = 0.99
    reseed: bool = True
    assignment: Literal["random", "even"] = "random"
    message_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.class_tokens not in ("distributed", "one"):
            raise ValueError(f'class_tokens is "distributed" or "one", not {self.class_tokens!r}')
        if self.assignment not in ("random", "even"):
            raise ValueError(f'assignment is "random" or "even", not {self.assignment!r}')


@dataclass(frozen=True)
class Hooks:
    """step(done, of, losses): after each step. place: of torch, "cpu" or "cuda".

    checkpoint: a file that training goes on from where it exists, written every `every` steps; it is of no use to
    training with other settings or on another kind of device, which begins anew.
    """

    step: Callable[[int, int, Mapping[str, float]], None] = lambda done, of, losses: None
    checkpoint: Path | None = None
    every: int = 50
    place: str = "cpu"


def original(folder: Path, data: Data, settings: Settings, out: Path, hooks: Hooks | None = None) -> None:
    """Train the model of a folder by itself, without codes; `out` becomes a folder like it. Raises BadModel."""
    run = _Training(folder, data, settings, {}, hooks or Hooks())
    run.run()
    run.save(out)


def finetune(
    folder: Path, books: Mapping[str, Tensor], data: Data, options: AstraOptions, settings: Settings, out: Path,
    hooks: Hooks | None = None,
) -> None:  # fmt: skip
    """Train a model together with its codebooks (`layers.<i>.<stream>` -> [G, K, width / G]).

    `out` becomes a folder like it, with the codebooks beside the weights. Raises BadModel, and ValueError for codebooks
    that are not those of the options.
    """
    _refuse_others(folder, books, options)
    run = _Training(folder, data, settings, books, hooks or Hooks())
    run.run()
    run.save(out)
    save_file({name: vq.codebook.contiguous() for name, vq in run.quantizers.items()}, out / CODEBOOKS)


def adapt(
    folder: Path, coding: Quantize, data: Data, settings: Settings, out: Path, hooks: Hooks | None = None
) -> None:
    """Train a model to work with layer inputs that others see by a fixed rule (`runtime.training.fixed`).

    coding: has a repr that tells it from others. `out` becomes a folder like it. Raises BadModel.
    """
    run = _Training(folder, data, settings, {}, hooks or Hooks(), coding)
    run.run()
    run.save(out)


def _refuse_others(folder: Path, books: Mapping[str, Tensor], options: AstraOptions) -> None:
    shape = load_shape(folder)
    for index in range(shape.layers):
        for name, width in streams(shape, options).items():
            wanted = (options.groups, options.codewords, width // options.groups)
            found = books.get(f"layers.{index}.{name}")
            if found is None or tuple(found.shape) != wanted:
                raise ValueError(f"layer {index}: no codebook of {name} of size {wanted}")


class _Training:
    """One training, from its first step or from a checkpoint. With neither books nor a coding there is one device."""

    def __init__(
        self, folder: Path, data: Data, settings: Settings, books: Mapping[str, Tensor], hooks: Hooks,
        coding: Quantize | None = None,
    ) -> None:  # fmt: skip
        self._settings, self._hooks, self._data, self._coding = settings, hooks, data, coding
        self._place = hooks.place
        self._trainable = Trainable(folder, self._place)
        self._draw = torch.Generator().manual_seed(settings.seed)
        noise = torch.Generator(self._place).manual_seed(settings.seed)
        learning = Learning(settings.noise, settings.ema, settings.reseed)
        self.quantizers = {name: LearnedVQ(book.to(self._place), learning, noise) for name, book in books.items()}
        self._noise, self._streams = noise, measure.streams_of(books) if coding is None else frozenset({"input"})
        self._task = TASKS[self._trainable.shape.result]
        self._original = load(folder, place=self._place)
        self._optimiser = torch.optim.AdamW(
            self._trainable.decayed(), lr=settings.lr, betas=_BETAS, weight_decay=settings.weight_decay
        )
        self._done = 0
        sizes = {name: tuple(book.shape) for name, book in books.items()}
        said: tuple[Any, ...] = (torch.device(self._place).type, asdict(settings), data.name, sizes)
        if settings.message_dropout:
            said += ("by message",)  # checkpoints there were in which tokens got lost
        self._key = repr((*said, *([] if coding is None else [coding])))
        self._resume()

    def run(self) -> None:
        """All steps that are left."""
        while self._done < self._settings.steps:
            losses = self._step()
            self._done += 1
            self._hooks.step(self._done, self._settings.steps, losses)
            if self._hooks.checkpoint and self._done % self._hooks.every == 0:
                self._checkpoint(self._hooks.checkpoint)

    def save(self, out: Path) -> None:
        self._trainable.shape = replace(self._trainable.shape, untrained=False)
        self._trainable.save(out)

    @torch.enable_grad()
    def _step(self) -> dict[str, float]:
        settings = self._settings
        rows = torch.randint(len(self._data.train), (settings.batch,), generator=self._draw)
        raw, labels = self._data.train[rows].to(self._place), self._data.train_labels
        target = measure.targets(self._original, raw, None if labels is None else labels[rows]).to(self._place)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.lr * _rate(self._done, settings.warmup, settings.steps)
        out = measure.outputs(self._trainable.model(), raw, self._holding(raw), self._streams, self._quantize)
        task = self._task.loss(out, target)
        commitment = sum((vq.loss for vq in self.quantizers.values()), torch.zeros((), device=self._place))
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(task + settings.commitment * commitment)
        torch.nn.utils.clip_grad_norm_(self._trainable.parameters.values(), _CLIP)
        self._optimiser.step()
        return {"task": task.item(), "commitment": commitment.item()}

    def _quantize(self, layer: Layer, stream: str, x: Tensor) -> Tensor:
        if self._coding is not None:
            return self._coding(layer, stream, x)
        return self.quantizers[f"layers.{layer.index}.{stream}"](x)

    def _holding(self, raw: Tensor) -> Holding:
        """Who holds which token in this batch."""
        settings, shape = self._settings, self._trainable.shape
        batch, tokens = raw.shape[0], raw.shape[1] - int(shape.causal)
        if not self.quantizers and self._coding is None:
            return alone(batch, tokens).to(self._place)
        owners = torch.cat([torch.full((len(s),), i) for i, s in enumerate(even_spans(tokens, settings.devices))])
        owners = owners.expand(batch, -1)
        if settings.assignment == "random":
            owners = owners.gather(1, torch.rand(batch, tokens, generator=self._draw).argsort(1))
        heard = None
        if settings.message_dropout:
            size = (shape.layers, batch, settings.devices, settings.devices)
            heard = torch.rand(size, generator=self._draw) >= settings.message_dropout
        return Holding(owners, settings.devices, settings.class_tokens == "one", heard).to(self._place)

    def _checkpoint(self, path: Path) -> None:
        """All that the next steps depend on; whole or not at all."""
        draft = path.with_suffix(f".{os.getpid()}")
        torch.save(
            {
                "key": self._key,
                "done": self._done,
                "parameters": self._trainable.parameters,
                "optimiser": self._optimiser.state_dict(),
                "quantizers": {name: vq.state for name, vq in self.quantizers.items()},
                "draw": self._draw.get_state(),
                "noise": self._noise.get_state(),
            },
            draft,
        )
        draft.replace(path)

    def _resume(self) -> None:
        path = self._hooks.checkpoint
        if path is None or not path.exists():
            return
        # To the CPU, where the optimiser's count of steps belongs: from a GPU it would be fetched at every step.
        try:
            kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadCheckpoint(f"{path}: cannot be read ({why}): remove it to begin this training anew") from None
        if kept["key"] != self._key:
            return
        with torch.no_grad():
            for name, parameter in self._trainable.parameters.items():
                parameter.copy_(kept["parameters"][name])
        self._optimiser.load_state_dict(kept["optimiser"])
        for name, vq in self.quantizers.items():
            vq.state = {what: tensor.to(self._place) for what, tensor in kept["quantizers"][name].items()}
        self._draw.set_state(kept["draw"])
        self._noise.set_state(kept["noise"])
        self._done = kept["done"]


def _rate(done: int, warmup: int, steps: int) -> float:
    """Share of the highest learning rate."""
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, steps - warmup)))
