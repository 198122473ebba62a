"""The sources of Python's standard library: text that every machine has, and which files of it are held back."""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from testbed.inputs import BadInputs

# Generated tables of which one tells the next, near copies of other modules, and a program that may not be installed.
LEFT_OUT = {"encodings", "pydoc_data", "lib2to3", "idlelib"}
TESTS = {"test", "tests"}
HELD_OUT_OF = 10


def version() -> str:
    """ "Python 3.11.7": the sources differ by it."""
    return f"Python {platform.python_version()}"


def split() -> tuple[list[Path], list[Path]]:
    """(train, test): the files by the hash of their path in the library, about one in ten held back.

    Raises BadInputs where Python came without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    train, test = list[Path](), list[Path]()
    for file in _files(root):
        (test if held_out(file.relative_to(root).as_posix()) else train).append(file)
    if not train or not test:
        raise BadInputs(f"no sources of Python's library in {root}: give text:FILE")
    return train, test


def held_out(path: str) -> bool:
    """Whether a file of this path within the library is one to test on, the same on every machine.

    Of the usual hashes this one leaves the most even test text: in Python 3.9 to 3.13 it is 11 % of all, and a ninth of
    it is the largest file; by SHA-256 a third would be one file of decimal arithmetic.
    """
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest()) % HELD_OUT_OF == 0


def read(file: Path) -> str:
    """A source, decoded as it declares. Raises BadInputs."""
    try:
        with tokenize.open(file) as opened:
            return opened.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise BadInputs(f"{file}: not a source that can be read ({error})") from None


def _files(root: Path) -> Iterator[Path]:
    """Modules and packages that Python itself names: site-packages and what a system adds are not among them."""
    names = sys.stdlib_module_names - LEFT_OUT
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        if entry.suffix == ".py" and entry.stem in names:
            yield entry
        elif entry.name in names and entry.is_dir():
            inside = sorted(entry.rglob("*.py"))
            yield from (file for file in inside if not TESTS & set(file.relative_to(root).parts))
