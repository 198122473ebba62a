"""What makes a cell the same cell: a hash of all that decides its result, and of nothing that does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.topology import MethodSpec, Topology

PACKAGES = ("agents", "runtime", "testbed")
ROOT = Path(__file__).resolve().parents[2]


def digest(topology: Topology) -> str:
    """Hash of a network and of what runs on it (model, weights, seed, tokens, ...), without its name and its methods.

    Of files that the run names (inputs, profiles) the content counts, not only the path.
    """
    facts = asdict(topology)
    del facts["name"], facts["run"]["methods"]
    facts["files"] = {key: _content(value) for key, value in facts["run"].items() if isinstance(value, str)}
    return _hash(facts)


def cell(point: str, spec: MethodSpec, repetition: int, code: str) -> str:
    """Key of a cell. point: its `digest`; code: of `code_version`."""
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


def _content(text: str) -> str | None:
    """Hash of the file that an absolute path names; None for what is no such path."""
    path = Path(text)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_absolute() and path.is_file() else None
    except OSError:
        return None


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
