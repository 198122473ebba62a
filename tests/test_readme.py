"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import runtime.methods.single
from runtime import methods
from runtime.layer import Given
from runtime.methods.method import FLOAT_BYTES, Method, rows
from runtime.model import load, load_shape
from tests.devices import planned, random_input, request, shaken

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


@pytest.mark.parametrize("devices", [1, 3, 4])
def test_the_method_of_the_readme_equals_single_and_keeps_its_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"Method": Method, "FLOAT_BYTES": FLOAT_BYTES, "rows": rows, "Given": Given}
    exec(code, names)
    monkeypatch.setattr(runtime.methods.single, "Patient", names["Patient"], raising=False)
    monkeypatch.setitem(methods.METHODS, "patient", "runtime.methods.single:Patient")
    folder = shaken("vit-tiny", tmp_path / "model")
    shape, raw = load_shape(folder), random_input(load_shape(folder), 37)
    plan = planned("patient", {}, shape, 37, devices)
    result, records = request(folder, plan, raw)
    torch.testing.assert_close(result, load(folder)(raw), atol=1e-5, rtol=1e-5)
    kind = methods.load("patient")
    assert [r.sent_bytes for r in records] == [kind.payload_bytes(shape, None, plan, rank) for rank in range(devices)]


def test_every_file_of_the_map_is_there() -> None:
    root = Path(__file__).resolve().parent.parent
    tree = README.partition("## The house")[2].partition("```")[2].partition("```")[0]
    folder = root
    for line in tree.splitlines():
        if not line.strip():
            continue
        words = line.split()
        if not line.startswith(" "):
            folder = root / words[0]
        for word in (word.rstrip(";,") for word in words):
            if word.endswith(".py") or (word.endswith("/") and line.startswith(" ")):
                assert (folder / word).exists() or (root / word).exists(), f"{folder / word}"
