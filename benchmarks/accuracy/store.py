"""Where trained models and what was measured of them lie: folders named by what they depend on.

A result depends on its settings, on the code that made it (comments and docstrings aside) and on the versions of Python
(whose library is the corpus) and torch. What is there is whole, and is not made again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from testbed import disk

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINING = (
    "runtime/training/*.py", "runtime/codecs/*.py", "runtime/families/*.py", "runtime/layer.py", "runtime/mixed.py",
    "runtime/model.py", "runtime/plan.py", "runtime/shape.py", "runtime/task.py", "runtime/methods/astra.py",
    "runtime/methods/activations.py", "runtime/methods/coding.py", "runtime/methods/prism.py", "testbed/inputs.py",
    "testbed/data/*.py", "testbed/prepare/source.py", "testbed/prepare/stages.py",
)  # fmt: skip
MEASURING = (
    "benchmarks/accuracy/choice.py", "benchmarks/accuracy/figures.py", "benchmarks/accuracy/theorems.py",
    "benchmarks/accuracy/work.py", "testbed/prepare/similarity.py",
)  # fmt: skip


@functools.cache
def sources(patterns: Sequence[str]) -> str:
    """Digest of what files of these patterns do, and of the versions they run on."""
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    texts = [f"{file.relative_to(ROOT)}\n{_code(file.read_text(encoding='utf-8'))}" for file in files]
    return _digest([platform.python_version(), version("torch"), *texts])


def _code(text: str) -> str:
    """A module without comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def place(work: Path, name: str, depends: Any) -> Path:
    """The folder of something trained that depends on this."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return work / f"{plain}-{_digest([depends, sources(TRAINING)])}"


def measured(folder: Path, depends: Any) -> Path:
    """The file of what was measured of something trained."""
    return folder / f"measured-{_digest([depends, sources(MEASURING)])}.json"


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    disk.replace(path, json.dumps(found))


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
