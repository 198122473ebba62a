"""The sources of Python's standard library as windows of text, whole files held back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from runtime.training.data import Data
from testbed.data import library, windows
from testbed.data.wanted import Wanted

BETWEEN = "\n\n"


def load(place: str, wanted: Wanted) -> Data:
    """Windows of files to train on, and of other files to test on. Raises BadInputs."""
    encoder = windows.encoder(wanted)
    train_files, test_files = library.split()
    train = windows.encoded(_texts(train_files if wanted.only is None else ()), encoder)
    files = [windows.encoded([text], encoder) for text in _texts(test_files)]
    numbers = torch.repeat_interleave(torch.tensor([len(ids) for ids in files]))
    rows = [windows.cut(ids, encoder, wanted) for ids in (train, torch.cat(files), numbers)]
    return windows.data(f"corpus ({library.version()})", rows[0], rows[1], encoder, wanted, rows[2][:, 0])


def _texts(files: Iterable[Path]) -> Iterator[str]:
    return (library.read(file) + BETWEEN for file in files)
