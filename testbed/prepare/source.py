"""The model of a recipe: what it is, whether it can be prepared as asked, and its folder in our form."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime import families
from runtime.errors import BadModel
from runtime.families import PRESETS
from runtime.families.source import CONFIG
from runtime.methods.astra import Astra
from runtime.shape import Shape, grid, is_strip
from testbed.prepare.recipe import Recipe, read, sound
from testbed.wiring import nearest
from testbed.yamlfile import Document


def load(path: Path) -> Recipe:
    """The recipe of a file, of a model that can be prepared so. Raises TopologyError with all problems."""
    recipe, document = read(path)
    if recipe is not None:
        _examine(recipe, document)
    return sound(recipe, document)


def _examine(recipe: Recipe, document: Document) -> None:
    """Note what is impossible about a recipe whose file is sound."""
    said = document.value["model"]
    _examine_trainings(recipe, document)
    if wrong := _wrong_overrides(recipe):
        for key, text in wrong.items():
            document.problem(("model", key), text)
        return
    try:
        shape = describe(recipe)
    except BadModel as error:
        document.problem(("model",), str(error), said)
        return
    _examine_tokens(recipe, shape, document)
    why = Astra.refuse(shape, recipe.astra, recipe.training.devices)
    if why is not None:
        document.problem(("astra",), why, document.value.get("astra", {}))
    if recipe.training.class_tokens == "one" and not shape.class_token:
        text = f"{recipe.model} has no class token that one device alone could have: leave it out"
        document.problem(("training", "class_tokens"), text, "one")
    if shape.result == "embedding" and recipe.original is not None:
        place = ("original",) if "original" in document.value else ("weights",)
        text = "the result is an embedding, which has no labels to learn from: give weights: pretrained, no original"
        document.problem(place, text)


def _wrong_overrides(recipe: Recipe) -> dict[str, str]:
    """Keys that the configuration does not have, or that nothing here follows, and what to say of each."""
    if not recipe.overrides:
        return {}
    from transformers import AutoConfig

    kind = PRESETS[recipe.model]["model_type"]
    known = {*AutoConfig.for_model(kind).to_dict(), *PRESETS[recipe.model], "num_labels"}
    known -= {"model_type", "architectures", "transformers_version"}
    found = {}
    for key in recipe.overrides:
        if key not in known:
            hint = nearest(key, known)
            found[key] = f"unknown key, {hint}allowed: the keys of transformers' {kind} configuration"
        elif "drop" in key:
            found[key] = "dropout is not built: nothing here would differ, leave it out"
    return found


def _examine_trainings(recipe: Recipe, document: Document) -> None:
    for name, part in (("original", recipe.original), ("training", recipe.training)):
        if part is not None and 0 < part.steps < part.warmup:
            text = f"must be at most steps ({part.steps}), or the rate asked for is never reached"
            document.problem((name, "warmup"), text, part.warmup)


def _examine_tokens(recipe: Recipe, shape: Shape, document: Document) -> None:
    tokens, place = recipe.tokens, ("tokens",)
    if shape.max_tokens is not None and tokens > shape.max_tokens:
        document.problem(place, f"{recipe.model} has positions for 1 to {shape.max_tokens}", tokens)
    if tokens < recipe.training.devices:
        text = f"training.devices are {recipe.training.devices}: at least one token each"
        document.problem(place, text, tokens)
    if shape.embedding == "patches" and is_strip(tokens):
        rows, columns = grid(tokens)
        document.problem(place, f"{rows} x {columns} patches are a strip, no picture: give e.g. 64 or 196", tokens)


def describe(recipe: Recipe) -> Shape:
    """The shape of its model, from the configuration alone. Raises BadModel."""
    with _configured(recipe) as model:
        return families.describe(model, recipe.weights)


def convert(recipe: Recipe, folder: Path) -> None:
    """Its model in our form, with its tokenizer, in a folder that appears once it is complete. Raises BadModel."""
    with _configured(recipe) as model:
        source = families.resolve(model, recipe.weights)
        if source.converted is None:
            families.convert(model, recipe.weights, recipe.seed, folder)
            return
    draft = folder.with_name(f"{folder.name}.copy")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source.converted, draft)
    os.rename(draft, folder)


@contextmanager
def _configured(recipe: Recipe) -> Iterator[str]:
    """What `families` knows the model by: a preset with overrides becomes a folder with a configuration."""
    if not recipe.overrides:
        source = families.resolve(recipe.model, recipe.weights)
        if source.prepared:
            raise BadModel(f"{recipe.model}: is prepared already; name the folder original or model in it")
        yield recipe.model
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / recipe.model
        folder.mkdir()
        (folder / CONFIG).write_text(json.dumps(PRESETS[recipe.model] | dict(recipe.overrides)))
        try:
            yield str(folder)
        except BadModel as error:
            raise BadModel(str(error).replace(str(folder), recipe.model)) from None
