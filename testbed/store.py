"""The run folder: every row is on disk before the next request starts, and everything in it belongs to the user.

Written by `RunFolder` while a run lasts, read by `load` afterwards; reports read the folder, never live objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import disk, rows

SCHEMA_VERSION = 1
TOPOLOGY, MANIFEST, LINKS = "run.yaml", "manifest.json", "links.json"
METHODS, RECORDS, SUMMARY = "methods.json", "records.jsonl", "summary.json"
TIMELINE, PROFILE = "timeline.jsonl", "profile.yaml"
WATCH, CHANGES, CONTROL = "watch.json", "changes.json", "control.json"


class StoreError(Exception):
    """A run folder that cannot be written or read; the text is one line that names it."""


@dataclass(frozen=True)
class RunData:
    """What a run folder holds. `topology` is run.yaml as plain data; `skipped` says in words what could not be read."""

    path: Path
    topology: Mapping[str, Any]
    manifest: Mapping[str, Any]
    links: list[dict[str, Any]]
    methods: list[dict[str, Any]]
    records: list[dict[str, Any]]
    summary: dict[str, Any] | None
    skipped: tuple[str, ...] = ()
    watch: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    control: dict[str, Any] | None = None
    timeline: list[dict[str, Any]] = field(default_factory=list)


class RunFolder:
    """The open folder of one run. A context manager; `close` hands what others wrote (logs) to the user too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records, self._timeline = ((path / name).open("ab", buffering=0) for name in (RECORDS, TIMELINE))
        for name in (RECORDS, TIMELINE):
            disk.give(path / name)

    @classmethod
    def create(cls, name: str, out: Path | None = None, runs: Path | None = None) -> RunFolder:
        """Make `runs/<name>/<UTC time>/`, or `out`, which may exist if it is empty.

        `runs` is the folder of all runs, by default `runs` below the working directory. Raises StoreError where it
        cannot be written, before anything else of the run is started.
        """
        try:
            path = _made(out) if out is not None else _unique((runs or Path("runs")) / _plain_name(name))
            return cls(path.resolve())
        except OSError as error:
            raise StoreError(f"{error.filename or out}: the run folder cannot be written: {error.strerror}") from None

    def append_record(self, row: Mapping[str, Any]) -> None:
        """Add one row of records.jsonl; it is on disk when this returns. Raises StoreError."""
        self._append(self._records, row)

    def append_timeline(self, row: Mapping[str, Any]) -> None:
        """Add one row of timeline.jsonl, where the time of one device went in one request. Raises StoreError."""
        self._append(self._timeline, row)

    def _append(self, file: FileIO, row: Mapping[str, Any]) -> None:
        try:
            disk.append(file, json.dumps(finite(row), allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"{file.name}: cannot be written: {error.strerror}") from None

    def write_json(self, name: str, content: Any) -> None:
        """Replace a file of the folder by `content` as JSON. Raises StoreError."""
        self.write_text(name, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the folder; readers see the old or the new one, after a crash too. Raises StoreError."""
        path = self.path / name
        try:
            disk.replace(path, text)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None

    def log_path(self, host: str) -> Path:
        """`<host>.log`, made here so that it is the user's from its first byte, whoever appends to it."""
        path = self.path / f"{_plain_name(host)}.log"
        try:
            disk.touch(path)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
        return path

    def close(self) -> None:
        """Close the files and give every one of the folder to the invoking user. Safe to call twice."""
        self._records.close()
        self._timeline.close()
        for path in self.path.rglob("*"):
            disk.give(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(path: Path) -> RunData:
    """Read a run folder, finished or not, of this version or an older one: what that lacks is as it was then.

    Only a last line of records.jsonl that was cut off (the run was killed while it wrote) is passed over, and said so.
    Raises StoreError for a folder that is none, is damaged, or was written by a newer program.
    """
    for name in (TOPOLOGY, MANIFEST):
        if not (path / name).is_file():
            raise StoreError(f"{path}: not a run folder (it has no {name})")
    manifest = {"compute": "real", **_json(path / MANIFEST, dict)}
    _refuse_newer(path / MANIFEST, manifest.get("schema_version"))
    methods = _entries(path / METHODS, ("method", "label", "status"))
    records, skipped = _rows(path / RECORDS, rows.RECORD, methods)
    timeline, cut_off = _rows(path / TIMELINE, rows.TIMELINE, methods)
    return RunData(
        path=path,
        topology=_topology(path / TOPOLOGY),
        manifest=manifest,
        links=_entries(path / LINKS, ("from", "to")),
        methods=methods,
        records=[{**rows.LATER, **row} for row in records],
        summary=_object(path / SUMMARY),
        skipped=(*skipped, *cut_off),
        watch=_entries(path / WATCH, ("label", "verdict")),
        changes=_entries(path / CHANGES, ("label", "where", "what")),
        control=_object(path / CONTROL),
        timeline=timeline,
    )


def _refuse_newer(path: Path, version: Any) -> None:
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        newer = "written by a newer program, " if type(version) is int and version > SCHEMA_VERSION else ""
        raise StoreError(f"{path}: schema_version = {version}: {newer}this one reads 1 to {SCHEMA_VERSION}")


def finite(value: Any) -> Any:
    """The same data with null for every number that is not finite: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _rows(
    path: Path, checks: Mapping[str, rows.Check], methods: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Rows of a file of lines that pass these checks, and what was passed over."""
    if not path.exists():
        return [], ()
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    worlds = {m["label"]: len(m["payload_formula"]) for m in methods if isinstance(m.get("payload_formula"), list)}
    found: list[dict[str, Any]] = []
    last = max((number for number, line in enumerate(lines, 1) if line), default=0)
    for number, line in enumerate(lines[:last], 1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == last:
                return found, (f"{path}:{number}: the last line is cut off and was skipped",)
            raise StoreError(f"{path}:{number}: not JSON; the file was damaged after it was written") from None
        if wrong := _wrong(row, checks, worlds):
            raise StoreError(f"{path}:{number}: not a record ({wrong})")
        found.append(row)
    return found, ()


def _wrong(row: Any, checks: Mapping[str, rows.Check], worlds: Mapping[str, int]) -> str:
    """Why a row is none of this run, nothing if it is. worlds: number of devices by the label of a method."""
    if not isinstance(row, dict):
        return "no object"
    if wrong := rows.wrong(row, checks):
        return ", ".join(wrong)
    devices = worlds.get(row["label"], math.inf)  # with one too many, no request would have come from all
    return f"rank {row['rank']} of {row['label']}, which has {devices} devices" if row["rank"] >= devices else ""


def _json(path: Path, kind: type) -> Any:
    """Content of a JSON file of that type. Raises StoreError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, kind):
        raise StoreError(f"{path}: expected a JSON {'object' if kind is dict else 'list'}")
    return content


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the run ended before it wrote the file."""
    return _json(path, dict) if path.exists() else None


def _entries(path: Path, needed: tuple[str, ...]) -> list[dict[str, Any]]:
    """Objects of a JSON list, each with these texts; none where the run ended before it wrote the file."""
    if not path.exists():
        return []
    entries: list[Any] = _json(path, list)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in needed):
            raise StoreError(f"{path}: entry {number} needs {', '.join(needed)}")
    return entries


def _topology(path: Path) -> dict[str, Any]:
    """run.yaml as plain data, not checked again: it was when the run was made. Raises StoreError."""
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("run"), dict) or "name" not in content:
        raise StoreError(f"{path}: not the topology of a run (it needs name and run)")
    return content


def _unique(parent: Path) -> Path:
    """A new folder named by the time, UTC, below `parent`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):  # another run of the same second: take the next number
            disk.make_folders(parent)
            path.mkdir()
            disk.give(path)
            return path
        if not parent.is_dir():
            raise StoreError(f"{parent}: the run folder cannot be written: it is not a directory")
        number += 1


def _made(path: Path) -> Path:
    """`path` as an empty folder, made if it is missing."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path}: exists and is not an empty folder; name another one with --out")
    disk.make_folders(path)
    return path


def _plain_name(name: str) -> str:
    """`name` if it is one plain part of a path. Raises StoreError."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise StoreError(f"name = {name!r}: give a plain name, without a slash")
    return name
