"""What is trained: every shipped recipe, and what is changed about it from one model to the next. Pure but for reading.

In the paper a group has 24 features or more (ViT-Base with 32 groups), here 8 at most with 16 groups: only one group is
as coarse, so that what a part of the method does is looked for at G = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.layer import Layer
from runtime.methods.astra import AstraOptions
from runtime.training.fixed import Averaged, Largest, Rounded
from testbed.prepare import source
from testbed.prepare.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent.parent
STUDIES = {"digits": "digits_vit", "corpus": "corpus_gpt2", "llama": "corpus_llama", "minilm": "minilm"}
DEVICES = 4
GROUPS = (1, 16, 32)
NOISES = (0.0, 0.1, 0.3, 1.0)
COMMITMENTS = (0.0, 1e-4, 5e-4, 1e-2)
DROPOUT = 0.1
QUICK_CODEWORDS = 64
FIXED = 0.999999  # a decay with which codebooks stay where k-means put them
PLAIN = "no codes, fp32"


@dataclass(frozen=True)
class Exact:
    """Others' tokens as they are: fine-tuned, it shows what more training does by itself."""

    def __call__(self, layer: Layer, stream: str, x: Tensor) -> Tensor:
        return x

    def row_bytes(self, rows: int, width: int) -> float:
        """Of one token."""
        return 4.0 * width


Rival = Exact | Rounded | Largest | Averaged
RIVALS: Mapping[str, Rival] = {
    PLAIN: Exact(),
    "int8": Rounded(8),
    "int4": Rounded(4),
    "segment means, 4 per device": Averaged(4, DEVICES),
    "segment means, 1 per device": Averaged(1, DEVICES),
    "segment means, 1 per device, int8": Averaged(1, DEVICES, "int8"),
    "top-16": Largest(16),
    "top-8": Largest(8),
    "top-2": Largest(2),
}
"""Put on the original as they are; those of TRAINED also fine-tuned."""
TRAINED = tuple(name for name in RIVALS if name != "segment means, 1 per device")  # in int8 it is smaller and as good
AS_MEASURED: Mapping[str, Any] = {"assignment": "even"}  # of rivals' training: devices have consecutive tokens
RIVALLED = ("digits", "corpus")  # studies with rivals
CODES = "codes"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Of fine-tuning, from which codes and each of TRAINED are given the one that suits them."""


@dataclass(frozen=True)
class Cell:
    """One training after the original's. label: what is special about it; the same for all seeds.

    astra, training: what is changed about the recipe; rival: a key of RIVALS, trained in the place of codes.
    wants: what is measured beside the task on DEVICES devices, by the names of `work.WANTED`.
    """

    study: str
    label: str
    seed: int
    astra: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    rival: str | None = None
    wants: tuple[str, ...] = ()


def recipe(study: str, seed: int, steps: int | None) -> Recipe:
    """A shipped one with another seed. steps: at most so many of each training, and few codewords; None: its own."""
    found = source.load(ROOT / "topologies" / "recipes" / f"{STUDIES[study]}.yaml")

    def mine(settings: Any) -> Any:
        changed = replace(settings, seed=seed)
        return changed if steps is None else replace(changed, steps=min(steps, settings.steps))

    original = None if found.original is None else mine(found.original)
    astra = found.astra if steps is None else replace(found.astra, codewords=QUICK_CODEWORDS)
    return replace(found, seed=seed, original=original, training=mine(found.training), astra=astra)


def varied(found: Recipe, cell: Cell) -> Recipe:
    """The recipe of a cell."""
    astra = replace(found.astra, **cell.astra)
    return replace(found, astra=astra, training=replace(found.training, **cell.training))


def untuned(found: Recipe) -> list[AstraOptions]:
    """Codes that are put on the original as k-means leaves them."""
    return [replace(found.astra, groups=groups) for groups in GROUPS]


def cells(study: str, seed: int, rates: Mapping[str, float]) -> Iterator[Cell]:
    """All of one study and seed. rates: of CODES and of rivals by name, where they are not the recipe's."""
    for cell in _cells(study, seed):
        method = cell.rival or CODES
        given = {"lr": rates[method]} if method in rates else {}
        yield replace(cell, training={**given, **cell.training})


def _cells(study: str, seed: int) -> Iterator[Cell]:
    for groups in GROUPS:
        yield Cell(study, f"G={groups}", seed, {"groups": groups}, wants=_wants(study, groups))
    if study in RIVALLED:
        yield from _parts(study, seed)
        yield Cell(study, "G=1 dropout", seed, {"groups": 1}, {"message_dropout": DROPOUT}, wants=("lost",))
        for rival in TRAINED:
            yield Cell(study, rival, seed, training=AS_MEASURED, rival=rival)
    if study == "digits":
        yield from _only_digits(seed)


def noises(study: str) -> tuple[float, ...]:
    """Of NAVQ, from none to the recipe's. Those of a text model's trainings take long."""
    return NOISES if study == "digits" else (0.0, 0.3, 1.0)


def _wants(study: str, groups: int) -> tuple[str, ...]:
    if study == "minilm":
        return ("ranks",)
    if study == "llama":
        return ()
    found = ["devices"]
    if groups == 1:
        found += ["uneven", "distances", "lost"]
    if groups in (1, 16) and study == "digits":
        found += ["pooling"]
    return tuple(found)


def _parts(study: str, seed: int) -> Iterator[Cell]:
    """G = 1 with one part switched off."""
    off: dict[str, Mapping[str, Any]] = {
        "no noise": {"noise": 0.0},
        "codebooks fixed": {"ema": FIXED, "reseed": False},
        "commitment 0": {"commitment": 0.0},
        "no reseeding": {"reseed": False},
    }
    for name, training in off.items():
        yield Cell(study, f"G=1 {name}", seed, {"groups": 1}, training)
    for noise in noises(study)[1:-1]:
        yield Cell(study, f"G=1 noise {noise:g}", seed, {"groups": 1}, {"noise": noise})
    yield Cell(study, "G=1 K=256", seed, {"groups": 1, "codewords": 256})
    wants = ("devices", "uneven")  # for these, tokens are dealt out at random in training
    yield Cell(study, "G=1 even assignment", seed, {"groups": 1}, {"assignment": "even"}, wants=wants)


def _only_digits(seed: int) -> Iterator[Cell]:
    one = {"groups": 1}
    for commitment in (each for each in COMMITMENTS if each not in (0.0, 1e-4)):
        yield Cell("digits", f"G=1 commitment {commitment:g}", seed, one, {"commitment": commitment})
    for groups in (1, 16):
        yield Cell("digits", f"G={groups} one class token", seed, {"groups": groups}, {"class_tokens": "one"})
    yield Cell("digits", "G=1 code kv", seed, {**one, "code": "kv"})
