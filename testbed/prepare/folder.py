"""A finished folder of `testbed prepare`: what a run takes from it, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from runtime import families, methods
from runtime.errors import BadModel
from runtime.families.source import MODEL
from runtime.methods.astra import AstraOptions, streams
from runtime.model import fingerprint, load, load_shape
from runtime.shape import Shape
from runtime.training import measure
from runtime.training.data import Data
from testbed.inputs import BadInputs
from testbed.topology import MethodSpec

if TYPE_CHECKING:
    from testbed.data.wanted import Only

CODEBOOKS, ORIGINAL = "codebooks.safetensors", "original"
HELD_OUT = "held_out.safetensors"  # digests of the rows to test on
CODED = "astra"  # the method whose codebooks these are


@dataclass(frozen=True)
class Prepared:
    """config: what config.json says; shape: of the model in it."""

    path: Path
    config: Mapping[str, Any]
    shape: Shape

    @property
    def model(self) -> Path:
        """The fine-tuned model, converted."""
        return self.path / MODEL

    def verify(self) -> None:
        """Raises BadModel if weights or codebooks are not those that were measured; or those of the original, where
        its embeddings are what is right."""
        asked = {"weights": "weights", "codebooks": "codebooks"}
        if self._asks_original:
            asked["original"] = "original's weights"
        for name, words in asked.items():
            try:
                same = self._fingerprint(name) == self.config["sha256"][name]
            except OSError as error:
                raise BadModel(
                    f"{error.filename}: cannot be read ({error.strerror}): prepare it again in another folder"
                ) from None
            if not same:
                raise BadModel(
                    f"{self.path}: its {words} are not those of its config.json: prepare it again in another folder"
                )

    def _fingerprint(self, name: str) -> str:
        if name == "codebooks":
            return fingerprint(self.path, CODEBOOKS)
        return fingerprint(self.path / ORIGINAL if name == "original" else self.model)

    @property
    def _asks_original(self) -> bool:
        """Whether what is right is what the original says, not a class or the id that follows."""
        return self.shape.result == "embedding"

    def refusal(self, spec: MethodSpec) -> str | None:
        """Why a method cannot run with these codebooks, or None."""
        if spec.method != CODED or self._fits(spec):
            return None
        said = ", ".join(f"{key}: {value}" for key, value in self.config["astra"].items())
        return f"the codebooks of {self.path.name} are {{{said}}}: give these, or prepare the model for others"

    def extra(self, spec: MethodSpec) -> Path | None:
        """What a method needs beside the model and finds here."""
        return self.path / CODEBOOKS if spec.method == CODED else None

    def task(self, spec: MethodSpec, tokens: int, devices: int) -> dict[str, Any] | None:
        """{"metric", "original", "single", "this", "n"} of a method on so many devices, tokens cut evenly: as it was
        measured when the model was prepared, original before any training for codes. None where it was not."""
        found, this = self.config["task"], None
        if tokens == self.config["tokens"]:
            if methods.equals_single(spec.method, spec.options):
                this = found["single"]
            elif spec.method == CODED and self._measured(spec):
                this = found["by_devices"].get(str(devices))
        if this is None:
            return None
        return {key: found[key] for key in ("metric", "original", "single", "n")} | {"this": this}

    @property
    def held_out(self) -> int:
        """How many inputs there are that the model was not trained on."""
        return int(self.config["inputs"]["test"])

    def inputs(self, tokens: int, seed: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
        """`count` raw inputs that the model was not trained on, and what would be right for each: a class, the next id,
        or the original model's embedding. `seed` decides their order; over and over if few. Raises BadInputs, also if
        the data have changed since: some of them may be what the model was trained on."""

        def only(rows: int) -> list[int]:
            return _order(f"held out {seed}", rows, count)

        own = self._data(self.config["tokens"], only)
        self._refuse_changed(own, only)
        found = own if tokens == self.config["tokens"] else self._data(tokens, only)
        original = self.path / ORIGINAL if self._asks_original else self.model
        right = measure.targets(load(original), found.test, found.test_labels)
        right = right[:, -1] if self.shape.causal else right
        return [row[:tokens].clone() for row in found.test], [one.clone() for one in right]

    def samples(self, tokens: int, seed: int, count: int) -> list[Tensor]:
        """Inputs that it was trained on. Raises BadInputs."""
        if not count:
            return []
        rows = self._data(tokens).train
        return [rows[i][:tokens].clone() for i in _order(f"samples {seed}", len(rows), count)]

    def says(self) -> str:
        """One line for people: which inputs `inputs` makes."""
        return f"held-out inputs of {self.config['inputs']['name']}"

    def _data(self, tokens: int, only: Only | None = None) -> Data:
        from testbed import data  # of runs, only those of prepared models read it

        return data.load(self.config["data"], self.shape, tokens, self.model, self.config["seed"], only)

    def _refuse_changed(self, found: Data, only: Only) -> None:
        """Raises BadInputs if these are not what `only` chooses of the rows that were held out."""
        from testbed.data.wanted import digests

        try:
            then = load_file(self.path / HELD_OUT)["digests"]
        except (OSError, SafetensorError, KeyError) as error:
            raise BadInputs(
                f"{self.path / HELD_OUT}: cannot be read ({error}): prepare it again in another folder"
            ) from None
        if not torch.equal(then[list(only(len(then)))], digests(found.test)):
            was = self.config["inputs"]["name"]
            now = was if found.name == was else f"{was}, now {found.name}"
            raise BadInputs(
                f"the data of {self.path.name} ({now}) have changed since it was prepared, or are read otherwise here: "
                "what was held out may be among what it was trained on; prepare it again in another folder, or give "
                "inputs of your own"
            )

    def _fits(self, spec: MethodSpec) -> bool:
        """Whether a method wants the codebooks that are here."""
        asked, here = (AstraOptions(**options) for options in (spec.options, self.config["astra"]))
        sizes = [(one.groups, one.codewords, streams(self.shape, one)) for one in (asked, here)]
        return sizes[0] == sizes[1]

    def _measured(self, spec: MethodSpec) -> bool:
        """Whether it computes what was measured: another option, whatever it does, was not."""
        plainly = {key: value for key, value in spec.options.items() if key in self.config["astra"]}
        one_token = self.config["training"]["class_tokens"] == "one" and self.shape.class_token
        return self._fits(spec) and AstraOptions(**spec.options) == AstraOptions(**plainly) and not one_token


def _order(key: str, rows: int, count: int) -> list[int]:
    """`count` of so many rows in an order that the key decides."""
    order = random.Random(key).sample(range(rows), rows)
    return [order[i % rows] for i in range(count)]


def read(path: Path) -> Prepared:
    """A finished folder. Raises BadModel."""
    found = of(str(path), "pretrained")
    if found is None:
        raise BadModel(f"{path}: not a folder of testbed prepare")
    return found


def of(model: str, weights: str) -> Prepared | None:
    """The prepared folder that a run's model names; None for any other model. Raises BadModel."""
    source = families.resolve(model, weights)
    if not source.prepared:
        return None
    assert source.folder is not None and source.converted is not None
    return Prepared(source.folder, source.config, load_shape(source.converted))
