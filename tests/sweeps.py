"""Small sweep files, their blocks, and folders with finished rows, for the tests of sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.sweep import blocks, folder, points
from tests import runs

LOCAL = """\
name: local
backend: local
hosts: {h1: {}, h2: {}}
run: {model: vit-tiny, tokens: [16, 64], methods: [single, sequence], repeats: 1}
sweep: {repetitions: 2}
"""
PROFILE = runs.ROOT / "topologies" / "profiles" / "paper_encoder.yaml"
REPLAYED = f"""\
name: local
backend: local
hosts: {{h1: {{}}, h2: {{}}}}
run: {{model: vit-base, tokens: 1024, methods: [single, sequence], repeats: 1, compute: {{replay: {PROFILE}}}}}
"""


def written(tmp_path: Path, text: str, name: str = "t.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def ordered(tmp_path: Path, text: str, code: str = "code") -> list[blocks.Block]:
    return blocks.ordered(points.read(written(tmp_path, text)), code)


def cells(found: Sequence[blocks.Block]) -> dict[str, tuple[str, str]]:
    return {cell.key: (block.title, cell.spec.label) for block in found for cell in block.cells}


def rows(found: Sequence[blocks.Block], code: str, **values: Any) -> list[dict[str, Any]]:
    """A finished row for each cell of these blocks."""
    result = {"code": code, "run": None, "network": "ok", "status": "ok", "error": None, "latency_s": 0.5, "speedup": 2}
    return [{**block.row(cell), **result, **values} for block in found for cell in block.cells]


@contextmanager
def opened(path: Path, name: str = "local", wanted: Sequence[str] = ()) -> Iterator[folder.SweepFolder]:
    with folder.opened(path, name, "the file\n", "code", wanted) as found:
        yield found


def filled(tmp_path: Path) -> Path:
    """A sweep folder with eight finished cells."""
    path = tmp_path / "s"
    with opened(path) as found:
        found.add(rows(ordered(tmp_path, LOCAL), "code"))
    return path
