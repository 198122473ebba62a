"""A folder of images in folders of classes: with train/ and val/ as ImageNet is laid out, or to be split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runtime.training.data import Data
from testbed import inputs
from testbed.data import pictures
from testbed.data.pictures import Pictures
from testbed.data.wanted import Wanted, limited
from testbed.inputs import BadInputs

TRAIN, HELD_OUT = "train", ("val", "validation", "test")


def load(place: str, wanted: Wanted) -> Data:
    """FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg, or FOLDER/CLASS/*.jpg, of which a quarter is held back.

    Labels are the places of the class names in alphabetical order. Raises BadInputs.
    """
    given, limit = limited(place)
    folder = Path(os.path.expanduser(given))
    if not folder.is_dir():
        raise BadInputs("no such folder: give one with a folder of jpg or png images for every class")
    if _classes(folder / TRAIN):
        held_out = next((folder / name for name in HELD_OUT if _classes(folder / name)), None)
        if held_out is None:
            raise BadInputs(f"train/ is there, and none of {', '.join(HELD_OUT)} with folders of classes beside it")
        classes = _classes(folder / TRAIN)
        pictures.refuse_classes(len(classes), wanted)
        train, test = _pictures(folder / TRAIN, classes), _pictures(held_out, classes, every=False)
    else:
        classes = _classes(folder)
        if len(classes) < 2:
            raise BadInputs(f"{len(classes)} folders in it: give one with a folder of images for every class")
        pictures.refuse_classes(len(classes), wanted)
        train, test = pictures.split(_pictures(folder, classes))
    return pictures.data(f"images:{given} ({len(classes)} classes)", train, test, limit, wanted)


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path, classes: Sequence[str], every: bool = True) -> Pictures:
    """every: whether each class has to have some; of what is tested on, a class may have none."""
    if unknown := sorted(set(_classes(folder)) - set(classes)):
        raise BadInputs(f"{folder.name}/{unknown[0]} is a class that {TRAIN}/ does not have")
    files, labels = list[Path](), list[int]()
    for label, name in enumerate(classes):
        if every or _pictured(folder / name):
            found = inputs.image_files(str(folder / name))
            files += found
            labels += [label] * len(found)
    if not files:
        raise BadInputs(f"{folder.name}/ has no image in any of its folders of classes")
    return Pictures(labels, lambda i: inputs.photo(files[i]))


def _pictured(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in inputs.IMAGES for file in folder.iterdir())
