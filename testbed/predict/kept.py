"""prediction.json of a run or sweep folder: predictions are kept as long as what makes them stays the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from testbed import store
from testbed.sweep.folder import give
from testbed.sweep.keys import ROOT

NAME = "prediction.json"
SOURCES = ("testbed/predict/*.py", "runtime/steps.py", "runtime/methods/*.py")


def key(*facts: Any) -> str:
    """Equal where these facts, dataclasses among them, and the sources of predictions are equal."""
    plain = [asdict(fact) if is_dataclass(fact) and not isinstance(fact, type) else fact for fact in facts]
    text = json.dumps([*plain, _sources()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    whole = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        whole.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def read(folder: Path, section: str) -> dict[str, Any]:
    """What was predicted before, by key; nothing where that cannot be read, as it can be made again."""
    try:
        found = _content(folder)[section]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def write(folder: Path, section: str, content: Mapping[str, Any]) -> None:
    """Replace a section. A folder that cannot be written is left as it is: nothing is lost but time."""
    try:
        whole = _content(folder)
    except (OSError, ValueError, TypeError):
        whole = {}
    draft = folder / f".{NAME}.new"
    with suppress(OSError):
        draft.write_text(json.dumps(store.finite({**whole, section: content}), indent=1) + "\n", encoding="utf-8")
        give(draft)
        draft.replace(folder / NAME)


def _content(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError("no object")
    return content
