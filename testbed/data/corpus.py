"""The sources of Python's standard library as windows of text, whole files held back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.training.data import Data
from testbed.data import library, windows
from testbed.data.wanted import Wanted
from testbed.inputs import Encoder

BETWEEN = "\n\n"


def load(place: str, wanted: Wanted) -> Data:
    """Windows of files to train on, and of other files to test on. Raises BadInputs."""
    encoder = windows.encoder(wanted)
    train_files, test_files = library.split()
    train, train_origins = _rows(train_files if wanted.only is None else (), encoder, wanted)
    test, test_origins = _rows(test_files, encoder, wanted)
    origins = train_origins, test_origins
    return windows.data(f"corpus ({library.version()})", train, test, encoder, wanted, origins)


def _rows(files: Sequence[Path], encoder: Encoder, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """(rows int32 [n, content] of the files one after another, int64 [n] the number of the file each begins in)."""
    texts = [windows.encoded([library.read(file) + BETWEEN], encoder) for file in files]
    numbers = torch.repeat_interleave(torch.tensor([len(ids) for ids in texts], dtype=torch.int64))
    ids = torch.cat([encoder.before[:0], *texts])
    return windows.cut(ids, encoder, wanted), windows.cut(numbers, encoder, wanted)[:, 0]
