"""The folder of a sweep: what was asked, which cells are finished, and their runs. One sweep at a time works on it.

sweep.yaml    the file as it was given last
sweep.json    {"schema_version", "name", "code", "keys": of the cells that it asks for}
cells.jsonl   a row per finished or failed cell, on disk before the next block starts; the last row of a key counts
blocks/       <name>/: run folders; <name>.log: what the run said; <name>.partial: of a run that is not finished
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testbed import disk, store
from testbed.rows import is_number, is_text, or_none
from testbed.store import StoreError

SCHEMA_VERSION = 1
FILE, ABOUT, CELLS, BLOCKS, LOCK = "sweep.yaml", "sweep.json", "cells.jsonl", "blocks", ".lock"
PARTIAL = ".partial"
STATUSES = ("ok", "failed")
NEEDED: dict[str, type] = {
    **dict.fromkeys(("key", "block", "label", "method", "status", "code"), str),
    **dict.fromkeys(("options", "point"), dict),
    **dict.fromkeys(("repetition", "seed"), int),
}
RESULT = {  # what a row may have, too
    **dict.fromkeys(("latency_s", "speedup", "block_s"), or_none(is_number)),
    **dict.fromkeys(("error", "network"), or_none(is_text)),
}
_RUN = re.compile(BLOCKS + r"/[A-Za-z0-9][A-Za-z0-9._=-]*")
Row = dict[str, Any]


class SweepFolder:
    """An open one. rows: the last one of each key; dropped: what was passed over in cells.jsonl, in words."""

    def __init__(self, path: Path, about: Mapping[str, Any], rows: Sequence[Row], dropped: Sequence[str]) -> None:
        self.path, self.about = path, about
        self.rows = {row["key"]: row for row in rows}
        self.blocks = {row["block"] for row in rows}
        self.dropped = tuple(dropped)

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows of cells.jsonl; all are on disk when this returns, or none. Raises StoreError."""
        path = self.path / CELLS
        lines = "".join(json.dumps(store.finite(row), allow_nan=False) + "\n" for row in rows)
        try:
            with path.open("ab", buffering=0) as file:
                disk.append(file, lines.encode())
        except OSError as error:
            raise cannot_write(path, error) from None
        self.rows |= {row["key"]: row for row in rows}
        self.blocks |= {row["block"] for row in rows}

    def write(self, name: str, text: str) -> Path:
        """Replace a file below the folder by `text`; readers see the old or the new one. Raises StoreError."""
        return _write(self.path / name, text)

    def run_of(self, row: Row) -> Path | None:
        """The run folder of a row, None where there was no run or it is there no more."""
        path = self.path / row["run"] if row["run"] else None
        return path if path is not None and path.is_dir() else None

    def finished(self, retry: bool) -> set[str]:
        """Keys that need no run. retry: failed cells do, and those whose network was not the declared one."""
        good = {key for key, row in self.rows.items() if row["run"] is None or self.run_of(row) is not None}
        return good - {key for key, row in self.rows.items() if retry and is_bad(row)}


def is_bad(row: Mapping[str, Any]) -> bool:
    """Whether a cell has no result that counts."""
    return row["status"] != "ok" or row.get("network") in ("wrong", "unverified")


def is_sweep(path: Path) -> bool:
    """Whether a folder is one of a sweep."""
    return (path / ABOUT).is_file()


def asked(path: Path) -> list[str]:
    """Keys of the cells that the file of a sweep folder asks for. Raises StoreError."""
    return list(_about(path)["keys"])


def cells(path: Path) -> list[Row]:
    """The last row of each of these, in the order in which they ran; those that have not run have none.

    One whose `run` is null failed without a run. Raises StoreError.
    """
    wanted = set(asked(path))
    last = {row["key"]: row for row in _rows(path / CELLS)[0]}
    return [row for key, row in last.items() if key in wanted]


def runs(path: Path) -> list[Path]:
    """Their run folders, in the order in which they ran. Raises StoreError."""
    return [path / name for name in dict.fromkeys(row["run"] for row in cells(path) if row["run"])]


@contextmanager
def opened(path: Path, name: str, text: str, code: str, keys: Sequence[str]) -> Iterator[SweepFolder]:
    """The folder at `path` for the sweep `name` alone, made if it is missing. Raises StoreError.

    text: of its file; code, keys: what `sweep.json` says of it.
    """
    with ExitStack() as stack:
        try:
            fresh = not path.exists() or (path.is_dir() and not any(path.iterdir()))
            _refuse_foreign(path, fresh, name)
            disk.make_folders(path / BLOCKS)
            stack.enter_context(_alone(path))
            disk.touch(path / CELLS)  # before sweep.json makes it the folder of a sweep: none is without
            rows, dropped, end = _rows(path / CELLS)
            if dropped:
                os.truncate(path / CELLS, end)
        except OSError as error:
            raise cannot_write(path, error) from None
        about = {"schema_version": SCHEMA_VERSION, "name": name, "code": code, "keys": list(keys)}
        _write(path / FILE, text)
        _write(path / ABOUT, json.dumps(about, indent=1) + "\n")
        yield SweepFolder(path.resolve(), about, rows, dropped)


def discard(path: Path) -> None:
    """Remove what is left of a run that was not finished. Raises StoreError."""
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> StoreError:
    """One line that says what to do when the disk is full."""
    return StoreError(f"{path}: cannot be written: {error.strerror}; finished cells are kept, run it again to go on")


def _refuse_foreign(path: Path, fresh: bool, name: str) -> None:
    """Nothing of others is touched: not a folder of something else, nor that of another sweep."""
    if fresh:
        return
    # What a sweep has made that was killed at once: no cell yet.
    first = {LOCK, BLOCKS, FILE, f".{FILE}.new", f".{ABOUT}.new"}
    begun = (
        path.is_dir()
        and {entry.name for entry in path.iterdir() if entry.name != CELLS or entry.stat().st_size} <= first
    )
    if not begun and not is_sweep(path):
        raise StoreError(f"{path}: exists and is not the folder of a sweep; name another one with --out")
    if is_sweep(path) and _about(path)["name"] != name:
        raise StoreError(f"{path}: is of the sweep {_about(path)['name']}, not of {name}; name another with --out")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The lock of the folder; the kernel lets go of it when this process ends in any way. Raises StoreError."""
    with (path / LOCK).open("a+") as file:
        disk.give(path / LOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(f"{path}: another sweep (process {file.read().strip()}) works on it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _about(path: Path) -> dict[str, Any]:
    """Content of sweep.json. Raises StoreError."""
    file = path / ABOUT
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict) or "name" not in found or not _texts(found.get("keys")):
        raise StoreError(f"{file}: not what a sweep writes (it needs name and keys)")
    if not isinstance(found.get("schema_version"), int) or found["schema_version"] > SCHEMA_VERSION:
        version = found.get("schema_version")
        raise StoreError(f"{file}: schema_version = {version}: this program reads up to {SCHEMA_VERSION}")
    return found


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _rows(path: Path) -> tuple[list[Row], list[str], int]:
    """Rows, what was passed over, and where the sound part of the file ends. Raises StoreError.

    Only a last line without its end is passed over: the sweep was killed while it wrote that.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    *lines, rest = content.split(b"\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1)]
    dropped = [f"{path}:{len(lines) + 1}: the last line was cut off: dropped, its cell is not finished"] if rest else []
    return rows, dropped, len(content) - len(rest)


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        raise StoreError(f"{path}:{number}: not JSON; the file was damaged after it was written") from None
    if not isinstance(row, dict):
        raise StoreError(f"{path}:{number}: not a cell (no object)")
    wrong = [key for key, kind in NEEDED.items() if not isinstance(row.get(key), kind)]
    wrong += [key for key, check in RESULT.items() if not check(row.get(key))]
    wrong += ["status"] if row.get("status") not in STATUSES else []
    run = row.get("run", "")
    wrong += ["run"] if run is not None and not (isinstance(run, str) and _RUN.fullmatch(run)) else []
    if wrong:
        raise StoreError(f"{path}:{number}: not a cell ({', '.join(dict.fromkeys(wrong))})")
    return row


def _write(path: Path, text: str) -> Path:
    try:
        disk.replace(path, text)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path
