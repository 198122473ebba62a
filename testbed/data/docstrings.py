"""Sentences of the docstrings of Python's standard library, for models of sentences; whole files held back."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.training.data import Data
from testbed.data import library, windows
from testbed.data.wanted import Wanted
from testbed.inputs import BadInputs, Encoder, docstrings

LEAST_WORDS = 4
_PARAGRAPHS = re.compile(r"\n\s*\n")
_BETWEEN = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_SENTENCE = re.compile(r"[A-Z].*[.!?]")


def load(place: str, wanted: Wanted) -> Data:
    """Rows of exactly `tokens` ids, each from the start of a sentence on, filled up by those that follow in the file.

    There is no padding here: the end of a sentence that does not fit is cut. A sentence of a file that is tested on is
    trained on nowhere. Raises BadInputs.
    """
    if wanted.shape.result != "embedding":
        raise BadInputs("these sentences are for models that give embeddings: give corpus or text:FILE")
    encoder = windows.encoder(wanted)
    train, test = split()
    held_out = {sentence for file in test for sentence in file}
    length = windows.content(encoder, wanted)
    train_rows, train_origins = _rows(train if wanted.only is None else (), held_out, length, encoder)
    test_rows, test_origins = _rows(test, (), length, encoder)
    origins = train_origins, test_origins
    return windows.data(f"docstrings ({library.version()})", train_rows, test_rows, encoder, wanted, origins)


@functools.cache
def split() -> tuple[list[list[str]], list[list[str]]]:
    """(train, test): the sentences of each file of the library. Raises BadInputs."""
    train, test = ([list(_sentences(file)) for file in files] for files in library.split())
    return train, test


def _sentences(file: Path) -> Iterator[str]:
    """The sentences of a source's docstrings, on one line each; tables and examples are not among them."""
    for docstring in docstrings(library.read(file).encode()):
        for paragraph in _PARAGRAPHS.split(docstring):
            for sentence in _BETWEEN.split(" ".join(paragraph.split())):
                if ">>>" not in sentence and _SENTENCE.fullmatch(sentence) and sentence.count(" ") >= LEAST_WORDS - 1:
                    yield sentence


def _rows(files: Sequence[Sequence[str]], but: Collection[str], length: int, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """(rows int32 [n, length], number of the file of each); no row goes from one file on to the next."""
    rows, numbers = list[Tensor](), list[int]()
    for number, file in enumerate(files):
        row = encoder.before[:0]
        for sentence in file:
            if sentence in but:
                continue
            row = torch.cat([row, encoder.encode(f"{sentence} ")])
            if len(row) >= length:
                rows.append(row[:length])
                numbers.append(number)
                row = row[:0]
    whole = torch.stack(rows) if rows else torch.zeros(0, length, dtype=torch.int32)
    return whole, torch.tensor(numbers, dtype=torch.int64)
