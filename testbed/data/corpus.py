"""The sources of Python's standard library as windows of text, whole files held back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.training.data import Data
from testbed.data import library, windows
from testbed.data.wanted import Wanted

BETWEEN = "\n\n"


def load(place: str, wanted: Wanted) -> Data:
    """Windows of files to train on, and of other files to test on. Raises BadInputs."""
    encoder = windows.encoder(wanted)
    files = library.split() if wanted.only is None else ([], library.split()[1])
    train, test = (windows.encoded(_texts(some), encoder) for some in files)
    rows = [windows.cut(ids, encoder, wanted) for ids in (train, test)]
    return windows.data(f"corpus ({library.version()})", rows[0], rows[1], encoder, wanted)


def _texts(files: Iterable[Path]) -> Iterator[str]:
    return (library.read(file) + BETWEEN for file in files)
