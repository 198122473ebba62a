"""A recipe file to frozen values, and back: model, data, how it is trained, how its codes look.

Every mistake of the file is found in one pass, each with its line, its key and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from runtime.families import PRESETS
from runtime.methods.astra import AstraOptions
from runtime.training.train import Settings
from testbed.data.wanted import LIMIT
from testbed.door import Door, enter, settled, unknown
from testbed.topology import TopologyError
from testbed.wiring import nearest
from testbed.yamlfile import Document
from testbed.yamlfile import read as read_yaml

WHAT = "a recipe is a mapping that starts with name, model, data, tokens"
MODEL = "a model, e.g. vit-digits, a folder or hub id of a checkpoint, or {preset: vit-digits, num_channels: 3}"
_POWER = re.compile(r"[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
_OF_FILES = ("images", "text")  # kinds of data whose other half is a path


@dataclass(frozen=True)
class Recipe:
    """What is to be prepared. model: as `run.model` of a topology; overrides: of a preset's configuration, by the keys
    of transformers. original: training of the model by itself, None: its weights are taken as they are.
    training: of model and codebooks together, no steps: codebooks by k-means alone."""

    name: str
    model: str
    overrides: Mapping[str, Any]
    weights: Literal["random", "pretrained"]
    data: str
    tokens: int
    original: Settings | None
    astra: AstraOptions
    training: Settings
    seed: int


def _number(value: Any) -> Any:
    """3e-4 is a number to people, and text to YAML 1.1."""
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


def _data(text: str) -> str:
    """A path by its absolute one, so that a recipe that was kept means the same from anywhere."""
    kind, colon, place = text.partition(":")
    path, mark, limit = place.partition(LIMIT)
    if not colon or not path or kind not in _OF_FILES:
        return text
    return f"{kind}:{os.path.abspath(os.path.expanduser(settled(path)))}{mark}{limit}"


Number = Annotated[float, BeforeValidator(_number)]


class RecipeDoor(Door):
    """The top of the file, without its model and its sections."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="it names a folder: letters, digits, _ . and -"
    )
    weights: Literal["random", "pretrained"] = "random"
    data: Annotated[str, AfterValidator(_data)] = Field(
        min_length=1, description="e.g. digits, corpus, images:FOLDER, text:FILE or hub:NAME"
    )
    tokens: int = Field(ge=1, le=10**7, description="how many an input has, e.g. 64")
    seed: int = Field(default=0, ge=0, lt=2**63)


class OriginalDoor(Door):
    """original."""

    steps: int = Field(default=Settings.steps, ge=1, le=10**8)
    batch: int = Field(default=Settings.batch, ge=1, le=10**6)
    lr: Number = Field(default=Settings.lr, gt=0, le=10)
    warmup: int | None = Field(default=None, ge=0, le=10**8)
    weight_decay: Number = Field(default=Settings.weight_decay, ge=0, le=10)


class TrainingDoor(OriginalDoor):
    """training."""

    steps: int = Field(default=Settings.steps, ge=0, le=10**8)
    devices: int = Field(default=Settings.devices, ge=2, le=1024)
    noise: Number = Field(default=Settings.noise, ge=0, le=100)
    class_tokens: Literal["distributed", "one"] = Settings.class_tokens
    commitment: Number = Field(default=Settings.commitment, ge=0, le=100)
    ema: Number = Field(default=Settings.ema, ge=0, lt=1)
    reseed: bool = Settings.reseed
    assignment: Literal["random", "even"] = Settings.assignment
    message_dropout: Number = Field(default=Settings.message_dropout, ge=0, lt=1)


class AstraDoor(Door):
    """astra."""

    groups: int = AstraOptions.groups
    codewords: int = AstraOptions.codewords
    code: Literal["auto", "input", "residual", "kv"] = "auto"


TRAININGS: dict[str, type[OriginalDoor]] = {"original": OriginalDoor, "training": TrainingDoor}
SECTIONS: dict[str, type[Door]] = {"astra": AstraDoor, **TRAININGS}


def kept(path: Path) -> Recipe:
    """The recipe of a file that was accepted before. Raises TopologyError."""
    return sound(*read(path))


def sound(recipe: Recipe | None, document: Document) -> Recipe:
    """Raises TopologyError with all problems found."""
    if recipe is None or document.found:
        raise TopologyError(document.problems)
    return recipe


def read(path: Path) -> tuple[Recipe | None, Document]:
    """The recipe of a file, None if anything is wrong with it. Raises TopologyError if it is no YAML."""
    document = read_yaml(path, WHAT)
    allowed = ["model", *RecipeDoor.model_fields, *SECTIONS]
    for key in document.value:
        if key not in allowed:
            document.unknown.add((key,))
            document.problem((key,), unknown(key, allowed))
    own = {key: value for key, value in document.value.items() if key in RecipeDoor.model_fields}
    head = enter(RecipeDoor, own, (), document)
    model = _model(document)
    astra = _astra(document, enter(AstraDoor, document.value.get("astra"), ("astra",), document))
    trainings = {name: enter(door, document.value.get(name), (name,), document) for name, door in TRAININGS.items()}
    original, training = (_settings(trainings[name], head) for name in TRAININGS)
    if document.found or head is None or model is None or astra is None or training is None:
        return None, document
    if head.weights == "pretrained" and "original" not in document.value:
        original = None
    return Recipe(**(head.model_dump() | model), original=original, astra=astra, training=training), document


def _settings(part: OriginalDoor | None, head: RecipeDoor | None) -> Settings | None:
    """Where the file gives no warm-up it is half of a training that is shorter: the rate asked for is to be reached."""
    if part is None or head is None:
        return None
    usual = part.steps // 2 if 0 < part.steps < Settings.warmup else Settings.warmup
    values = part.model_dump() | {"warmup": usual if part.warmup is None else part.warmup}
    return Settings(seed=head.seed, **values)


def _astra(document: Document, door: Door | None) -> AstraOptions | None:
    """The method's own options object, or None and the problem noted."""
    try:
        return None if door is None else AstraOptions(**door.model_dump())
    except ValueError as error:
        document.problem(("astra",), str(error), document.value.get("astra"))
        return None


def _model(document: Document) -> dict[str, Any] | None:
    """{"model", "overrides"}, or None and the problem noted."""
    said = document.value.get("model")
    if "model" not in document.value:
        document.problem(("model",), f"is missing ({MODEL})")
    elif isinstance(said, str) and said:
        return {"model": settled(said), "overrides": {}}
    elif not isinstance(said, dict) or not isinstance(said.get("preset"), str):
        document.problem(("model",), f"give {MODEL}", said)
    elif said["preset"] not in PRESETS or "package" in PRESETS[said["preset"]]:
        names = [name for name, config in PRESETS.items() if "package" not in config]
        hint = nearest(said["preset"], names)
        document.problem(("model", "preset"), f"is no configuration; {hint}allowed: {', '.join(names)}", said["preset"])
    elif document.value.get("weights", "random") != "random":
        document.problem(("weights",), "a preset has no weights: give weights: random", document.value["weights"])
    else:
        overrides = {key: value for key, value in said.items() if key != "preset"}
        return {"model": said["preset"], "overrides": overrides}
    return None


def dump(recipe: Recipe) -> str:
    """YAML, every default written out, that `kept` reads back to an equal recipe."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def plain(recipe: Recipe) -> dict[str, Any]:
    """The same as plain values."""
    found: dict[str, Any] = {"name": recipe.name, "model": recipe.model}
    if recipe.overrides:
        found["model"] = {"preset": recipe.model, **recipe.overrides}
    found |= {"weights": recipe.weights, "data": recipe.data, "tokens": recipe.tokens}
    if recipe.original is not None:
        found["original"] = _section(OriginalDoor, recipe.original)
    found["astra"] = {key: getattr(recipe.astra, key) for key in AstraDoor.model_fields}
    return found | {"training": _section(TrainingDoor, recipe.training), "seed": recipe.seed}


def _section(door: type[Door], settings: Settings) -> dict[str, Any]:
    said = asdict(settings)
    return {key: said[key] for key in door.model_fields}


def differing(one: Recipe, other: Recipe) -> list[str]:
    """Keys at which two recipes are not the same, "astra.groups"."""
    first, second = _flat(plain(one)), _flat(plain(other))
    return [key for key in first | second if first.get(key) != second.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
