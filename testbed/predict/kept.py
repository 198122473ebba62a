"""prediction.json of a run or sweep folder: predictions are kept as long as what makes them stays the same.

{"predictions" or "maps": {key: {"costs": what messages and frames cost, see `Costs`, "found": what was predicted}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from testbed import store
from testbed.disk import give
from testbed.predict.work import KINDS, Costs
from testbed.sweep import keys

NAME = "prediction.json"


@dataclass(frozen=True)
class Entry:
    """What was predicted, as plain data, and with which costs."""

    costs: Costs
    found: Any


def key(*facts: Any) -> str:
    """Equal where these facts, dataclasses among them, and all sources are equal: nearly all of them have a part in
    what a run does, and so in what is predicted of it."""
    plain = [asdict(fact) if is_dataclass(fact) and not isinstance(fact, type) else fact for fact in facts]
    text = json.dumps([*plain, _sources()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    return keys.code_version()


def read(folder: Path, section: str) -> dict[str, Entry]:
    """What was predicted before, by key; nothing of what cannot be read, as it can be made again."""
    try:
        entries = _content(folder)[section].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    found = {}
    for name, value in entries:
        with suppress(KeyError, TypeError):
            costs = Costs(**value["costs"])
            if costs.kind in KINDS:
                found[name] = Entry(costs, value["found"])
    return found


def write(folder: Path, section: str, content: Mapping[str, Entry]) -> None:
    """Replace a section. A folder that cannot be written is left as it is: nothing is lost but time."""
    try:
        whole = _content(folder)
    except (OSError, ValueError, TypeError):
        whole = {}
    draft, plain = folder / f".{NAME}.new", {name: asdict(entry) for name, entry in content.items()}
    with suppress(OSError):
        draft.write_text(json.dumps(store.finite({**whole, section: plain}), indent=1) + "\n", encoding="utf-8")
        give(draft)
        draft.replace(folder / NAME)


def _content(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError("no object")
    return content
