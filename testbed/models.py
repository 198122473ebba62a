"""Converted models are kept in a cache folder, one per model, weights and seed, so that a second run starts at once."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

from runtime import families, model
from runtime.errors import BadModel
from runtime.families import Source
from runtime.shape import Shape
from testbed.topology import RunSpec

CONVERTER = 2  # raise it when the same source is converted to other tensors or another shape


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME or ~/.cache, then testbed/models. It may be deleted anytime."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "testbed" / "models"


def prepared(run: RunSpec) -> Path:
    """The folder of the run's model, converted if it is not there yet. Safe in two processes at once.

    Raises BadModel in one line, also when the folder cannot be written.
    """
    source = families.resolve(run.model, run.weights)
    if source.converted is not None:
        return source.converted
    folder = cache_folder() / key(source, run.seed)
    if not (folder / model.SHAPE).exists():
        try:
            families.convert(run.model, run.weights, run.seed, folder)
        except BadModel:
            if not (folder / model.SHAPE).exists():  # else another process was faster
                raise
    return folder


def shape(name: str, weights: str, seed: int) -> Shape:
    """The shape of a model: from the cache if it is there, which loads no foreign library, else from its configuration.

    Raises BadModel in one line.
    """
    source = families.resolve(name, weights)
    folder = source.converted or cache_folder() / key(source, seed)
    return model.load_shape(folder) if os.path.exists(folder / model.SHAPE) else families.describe(name, weights)


def identity(folder: Path) -> str:
    """What tells a converted model from every other: its name in the cache, elsewhere the hash of its weights."""
    return folder.name if folder.parent == cache_folder() else model.fingerprint(folder)


def key(source: Source, seed: int) -> str:
    """Name of a converted model: a hash of all that decides its content, and the model's own name for people."""
    facts: dict[str, object] = {"converter": CONVERTER, "config": dict(source.config), "pretrained": source.pretrained}
    if not source.pretrained:  # random weights come from transformers' initialisation and torch's generator
        facts |= {"seed": seed, "torch": version("torch"), "transformers": version("transformers")}
    facts["files"] = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(source.name).name)[:40]
    return f"{readable.lstrip('.') or 'model'}-{digest}"
