"""Real data to train a model on and to measure it with: `load` makes the tensors that runtime.training reads.

digits.py images.py             pictures of classes: scikit-learn's digits, a folder; pictures.py: how they become rows
corpus.py docstrings.py textfile.py   text: Python's own library (library.py finds it), a file; windows.py: cut to rows
hub.py                          either, from the hub
wanted.py                       what a model needs

Whatever the kind: what is tested on does not depend on the seed, and a row to train on that equals one to test on is
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.shape import Shape, grid, is_strip
from runtime.training.data import Data
from testbed.data import corpus, digits, docstrings, hub, images, textfile
from testbed.data.wanted import Only, Told, Wanted, unheard
from testbed.inputs import BadInputs, refuse_channels

__all__ = ["KINDS", "Data", "load"]


@dataclass(frozen=True)
class Kind:
    """load: (what follows the colon of the name, what is wanted) -> Data. place: what has to follow, "" for nothing.
    reads: the models it is for, by Shape.embedding."""

    load: Callable[[str, Wanted], Data]
    place: str
    reads: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "digits": Kind(digits.load, "", ("patches",)),
    "corpus": Kind(corpus.load, "", ("tokens",)),
    "docstrings": Kind(docstrings.load, "", ("tokens",)),
    "images": Kind(images.load, "FOLDER", ("patches",)),
    "text": Kind(textfile.load, "FILE", ("tokens",)),
    "hub": Kind(hub.load, "NAME", ("patches", "tokens")),
}


def load(
    name: str, shape: Shape, tokens: int, model_folder: Path | None, seed: int, only: Only | None = None,
    told: Told = unheard,
) -> Data:  # fmt: skip
    """The data of this name for a model of this shape, `tokens` content tokens a request.

    name: a key of KINDS, with ":" and a place where it takes one: "digits", "images:~/photos", "hub:uoft-cs/cifar10".
    model_folder: a converted model, whose tokenizer reads the text; None, or without one: bytes are the ids.
    seed: which rows are trained on where there are more than enough. only, told: see `Wanted`. Raises BadInputs.
    """
    kind, _, place = name.partition(":")
    try:
        _refuse_name(kind, place)
        _refuse_model(kind, shape, tokens)
        return KINDS[kind].load(place, Wanted(shape, tokens, model_folder, seed, only, told))
    except BadInputs as error:
        raise BadInputs(f"data {name!r}: {error}") from None
    except OSError as error:
        raise BadInputs(f"data {name!r}: cannot be read ({error})") from None


def _refuse_name(kind: str, place: str) -> None:
    if kind not in KINDS:
        raise BadInputs(f"give {_names(KINDS)}")
    if bool(place) != bool(KINDS[kind].place):
        raise BadInputs(f"give {_names([kind])}")


def _names(kinds: list[str] | dict[str, Kind]) -> str:
    return ", ".join(f"{kind}:{KINDS[kind].place}" if KINDS[kind].place else kind for kind in kinds)


def _refuse_model(kind: str, shape: Shape, tokens: int) -> None:
    if shape.embedding not in KINDS[kind].reads:
        fitting = _names([name for name in KINDS if shape.embedding in KINDS[name].reads])
        raise BadInputs(f"this model reads {'images' if shape.embedding == 'patches' else 'text'}: give {fitting}")
    if tokens < 1 or (shape.max_tokens is not None and tokens > shape.max_tokens):
        raise BadInputs(f"tokens {tokens}: give 1 to {shape.max_tokens or 'as many as fit'}")
    if shape.embedding == "patches":
        refuse_channels(shape)
        if is_strip(tokens):
            rows, columns = grid(tokens)
            side = round(tokens**0.5)
            raise BadInputs(
                f"tokens {tokens}: {rows} x {columns} patches are a strip, no picture: give {side**2} ({side} x {side})"
            )
