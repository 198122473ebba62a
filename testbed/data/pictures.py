"""Labelled pictures to rows of patches, in memory, which is refused where there is too little of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runtime.shape import grid
from runtime.training.data import Data
from testbed import memory
from testbed.data.wanted import LIMIT, Wanted, some, unseen
from testbed.inputs import BadInputs, as_patches, centre_crop

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_PART = 0.25
LEAST = 4  # images of a class, for its quarter to be one


@dataclass(frozen=True)
class Pictures:
    """labels: the class of each; picture: its number -> the picture, of any size."""

    labels: Sequence[int]
    picture: Callable[[int], Image]

    def chosen(self, numbers: Sequence[int]) -> Pictures:
        """Those of these numbers, in this order."""
        return Pictures([self.labels[i] for i in numbers], lambda i: self.picture(numbers[i]))

    def at_most(self, limit: int | None, seed: int) -> Pictures:
        """All, or a seeded choice of `limit`."""
        return self.chosen(some(len(self.labels), limit, seed))


def size(wanted: Wanted) -> tuple[int, int]:
    """Width and height of the picture of which the patches are cut, pixels."""
    rows, columns = grid(wanted.tokens)
    return columns * wanted.shape.patch, rows * wanted.shape.patch


def refuse_classes(classes: int, wanted: Wanted) -> None:
    """Raises BadInputs for a model that tells another number of classes apart; one that tells none apart may do."""
    if wanted.shape.result == "classes" and wanted.shape.outputs != classes:
        raise BadInputs(f"{classes} classes, and the model has {wanted.shape.outputs}: give one with {classes} outputs")


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """(train, test): a fixed quarter of every class is held back. Raises BadInputs."""
    from sklearn.model_selection import train_test_split

    labels = pictures.labels
    least, count = min(Counter(labels).items(), key=lambda item: item[1])
    if count < LEAST:
        raise BadInputs(f"class {least} (by name, from 0) has {count} images: give {LEAST}, to hold a quarter back")
    train, test = train_test_split(range(len(labels)), test_size=TEST_PART, random_state=0, stratify=labels)
    return pictures.chosen(sorted(train)), pictures.chosen(sorted(test))


def data(name: str, train: Pictures, test: Pictures, limit: int | None, wanted: Wanted) -> Data:
    """Centre crops as rows of patches; of more than `limit` pictures to train on a seeded choice, to test a fixed one.

    Labels only for a model whose result is classes. Raises BadInputs.
    """
    train, test = train.at_most(limit, wanted.seed), test.at_most(limit, 0)
    if wanted.only is not None:
        train, test = train.chosen([]), test.chosen(wanted.only(len(test.labels)))
    _refuse_size(len(train.labels), len(test.labels), wanted)
    count = len(train.labels) + len(test.labels)
    train_rows, test_rows = _rows(train, wanted, 0, count), _rows(test, wanted, len(train.labels), count)
    train_labels, test_labels = (torch.tensor(part.labels, dtype=torch.int64) for part in (train, test))
    new = unseen(train_rows, test_rows)
    if len(new) and not bool(new.any()):
        raise BadInputs("every image to train on is one to test on too: give others to test on")
    if not bool(new.all()):
        train_rows, train_labels = train_rows[new], train_labels[new]
    if wanted.shape.result != "classes":
        return Data(name, train_rows, None, test_rows, None)
    return Data(name, train_rows, train_labels, test_rows, test_labels)


def _row_bytes(wanted: Wanted) -> int:
    return wanted.tokens * wanted.shape.patch**2 * wanted.shape.channels


def _rows(pictures: Pictures, wanted: Wanted, before: int, of: int) -> Tensor:
    """uint8 [n, tokens, patch x patch x channels]. before: pictures that were read already, of so many in all."""
    rows = torch.empty(len(pictures.labels), wanted.tokens, _row_bytes(wanted) // wanted.tokens, dtype=torch.uint8)

    def fill(i: int) -> None:
        rows[i] = as_patches(centre_crop(pictures.picture(i), size(wanted)), wanted.shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves the interpreter free
        for done, _ in enumerate(pool.map(fill, range(len(rows))), before + 1):
            wanted.told(done, of)
    return rows


def _refuse_size(train: int, test: int, wanted: Wanted) -> None:
    """Raises BadInputs where the rows would take more than half of the memory that is available."""
    room = memory.available_bytes() // 2
    needed, fitting = (train + test) * _row_bytes(wanted), room // _row_bytes(wanted)
    if needed > room:
        limit = max(fitting // 2, fitting - min(train, test))
        raise BadInputs(
            f"{train} + {test} images of {_row_bytes(wanted)} bytes take {needed / 2**30:.1f} GiB, half of the free "
            f"memory is {room / 2**30:.1f}: " + (f"append {LIMIT}N, N up to {limit}" if limit else "give fewer tokens")
        )
