"""A data set of the hub by the package `datasets`, which is asked for only here."""

from __future__ import annotations

import importlib
from typing import Any

from runtime.training.data import Data
from testbed.data import pictures, textfile
from testbed.data.pictures import Pictures
from testbed.data.wanted import Wanted, limited
from testbed.inputs import BadInputs

IMAGES, LABELS, TEXT = ("image", "img"), ("label", "fine_label"), ("text",)
TRAIN, HELD_OUT = "train", ("test", "validation")


def load(place: str, wanted: Wanted) -> Data:
    """NAME, OWNER/NAME or OWNER/NAME/CONFIGURATION: images with labels, or text, by what the model reads.

    What is tested on is the part "test" or "validation"; where there is neither, or it has no labels, a part of
    "train" is held back. Raises BadInputs.
    """
    name, limit = limited(place)
    parts = _downloaded(name)
    if TRAIN not in parts:
        raise BadInputs(f'it has no part "{TRAIN}", only {", ".join(parts)}')
    if wanted.shape.embedding == "patches":
        return _images(name, parts, limit, wanted)
    return _text(name, parts, limit, wanted)


def _downloaded(name: str) -> Any:
    """The parts of a data set by name; whatever the package raises becomes BadInputs."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise BadInputs("the package datasets is not installed: pip install datasets") from None
    owner_and_name, configuration = name, None
    if name.count("/") == 2:
        owner_and_name, configuration = name.rsplit("/", 1)
    try:
        return datasets.load_dataset(owner_and_name, configuration)
    except Exception as error:  # of many libraries: network, files, the hub's answers
        raise BadInputs(f"it cannot be loaded ({' '.join(str(error).split())[:300] or type(error).__name__})") from None


def _column(part: Any, names: tuple[str, ...], model: str) -> str:
    found = next((name for name in names if name in part.column_names), None)
    if found is None:
        has = ", ".join(part.column_names)
        raise BadInputs(f"this model reads {model}, for which a column {' or '.join(names)} is needed; it has {has}")
    return found


def _images(name: str, parts: Any, limit: int | None, wanted: Wanted) -> Data:
    image = _column(parts[TRAIN], IMAGES, "images")
    label = _column(parts[TRAIN], LABELS, "images")
    train = _pictures(parts[TRAIN], image, label)
    classes = len(getattr(parts[TRAIN].features[label], "names", None) or set(train.labels))
    pictures.refuse_classes(classes, wanted)
    tested = next((part for part in HELD_OUT if part in parts and _labelled(parts[part], label)), None)
    train, test = (train, _pictures(parts[tested], image, label)) if tested else pictures.split(train)
    return pictures.data(f"hub:{name} ({tested or 'a quarter held back'})", train, test, limit, wanted)


def _labelled(part: Any, label: str) -> bool:
    """Whether the answers are there: a competition that keeps them to itself has -1 for each, none, or no column."""
    return label in part.column_names and all(answer is not None and answer >= 0 for answer in part[label])


def _pictures(part: Any, image: str, label: str) -> Pictures:
    return Pictures(list(part[label]), lambda i: part[i][image])


def _text(name: str, parts: Any, limit: int | None, wanted: Wanted) -> Data:
    """Rows of text one below the other; of more than `limit` the first ones."""
    column = _column(parts[TRAIN], TEXT, "text")
    texts = {part: "\n".join(parts[part][column][:limit]) for part in (TRAIN, *HELD_OUT) if part in parts}
    tested = next((part for part in HELD_OUT if part in texts), None)
    if tested is None:
        return textfile.of_text(f"hub:{name} (a tenth held back)", texts[TRAIN], wanted)
    return textfile.of_parts(f"hub:{name} ({tested})", texts[TRAIN], texts[tested], wanted)
