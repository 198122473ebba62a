"""What makes a cell the same cell: a hash of all that decides its result, and of nothing that does not."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.topology import MethodSpec, Topology

PACKAGES = ("agents", "runtime", "testbed")
ROOT = Path(__file__).resolve().parents[2]


def digests(topologies: Iterable[Topology]) -> list[str]:
    """Hash of each network and of what runs on it (model, weights, seed, tokens, ...), without its name and methods.

    Of files and folders that the run names (a model, inputs, a profile) the content counts, not only the path; each is
    read once for all of them.
    """
    content = functools.cache(_content)
    return [_digest(topology, content) for topology in topologies]


def cell(point: str, spec: MethodSpec, repetition: int, code: str) -> str:
    """Key of a cell. point: one of `digests`; code: of `code_version`."""
    method = [spec.method, dict(spec.options)]
    return _hash({"point": point, "method": method, "repetition": repetition, "code": code})


def code_version() -> str:
    """Hash of every source file of the three packages as they are now: a commit knows nothing of what was edited."""
    whole = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return whole.hexdigest()[:16]


def _digest(topology: Topology, content: Callable[[str], str | None]) -> str:
    facts = asdict(topology)
    del facts["name"], facts["run"]["methods"]
    facts["files"] = {key: content(value) for key, value in facts["run"].items() if isinstance(value, str)}
    return _hash(facts)


def _content(text: str) -> str | None:
    """Hash of the file that an absolute path names, of a folder that of all files in it; None for no such path."""
    path = Path(text)
    try:
        if not path.is_absolute() or not path.exists():
            return None
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            return _hash({str(file.relative_to(path)): [file.stat().st_size, _sha256(file)] for file in files})
        return _sha256(path)
    except OSError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
