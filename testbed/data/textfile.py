"""One text file: the first nine tenths to train on, the rest to test on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runtime.training.data import Data
from testbed.data import windows
from testbed.data.wanted import Wanted
from testbed.inputs import BadInputs

TRAIN_PART = 0.9
MAX_BYTES = 256 * 2**20
PIECE = 2**20  # characters that a tokenizer is given at once: it needs a hundred bytes for each


def load(place: str, wanted: Wanted) -> Data:
    """Windows of a file in UTF-8, cut in two at the end of a line. Raises BadInputs."""
    file = Path(os.path.expanduser(place))
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadInputs(f"{file.stat().st_size} bytes: give a file of at most {MAX_BYTES}")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputs(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInputs(f"not a text file in UTF-8 ({error})") from None
    return of_text(f"text:{place}", text, wanted)


def of_text(name: str, text: str, wanted: Wanted) -> Data:
    """Windows of a text, cut in two at the end of a line. Raises BadInputs."""
    at = text.rfind("\n", 0, int(len(text) * TRAIN_PART)) + 1
    if at == 0:
        raise BadInputs("no line ends in the first nine tenths: give a text that can be cut in two there")
    return of_parts(name, text[:at], text[at:], wanted)


def of_parts(name: str, train: str, test: str, wanted: Wanted) -> Data:
    """Windows of a text to train on and of one to test on. Raises BadInputs."""
    encoder = windows.encoder(wanted)
    texts = (train if wanted.only is None else "", test)
    rows = [windows.cut(windows.encoded(_pieces(text), encoder), encoder, wanted) for text in texts]
    return windows.data(name, rows[0], rows[1], encoder, wanted)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of about `PIECE` characters that end with a line, where it has lines."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start + PIECE) + 1 or len(text)
        yield text[start:stop]
        start = stop
