"""benchmarks/lossy.py: the files it writes are good ones, and its table says what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.lossy import recipe, sweeps
from benchmarks.lossy_report import VARIANTS, Cell, Variant, document, draw
from testbed import yamlfile
from testbed.prepare import recipe as recipes
from testbed.sweep import grid
from testbed.topology import load


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_recipes_and_sweeps_are_good_files(tmp_path: Path, variant: Variant) -> None:
    made, file = recipe(variant, False), tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(made))
    kept = recipes.kept(file)
    assert kept.astra.groups == variant.groups and kept.training.message_dropout == 0
    found = set()
    for text in sweeps(variant, tmp_path, made["tokens"], False).values():
        file.write_text(text)
        for one in grid.expand(yamlfile.read(file)):
            (tmp_path / "one.yaml").write_text(yaml.safe_dump(one.value))
            loaded = load(tmp_path / "one.yaml")
            up, down = loaded.links[0].up.loss, loaded.links[0].down.loss
            over = [spec.options.get("transport", "tcp") for spec in loaded.run.methods]
            assert down.mean == 0 and over == ["tcp", "udp"] and loaded.run.input_at == "everywhere"
            found.add((round(up.mean, 6), up.enter > 0))
    assert found == {(0.0, False), *((loss, bursts) for loss in (0.01, 0.05, 0.1) for bursts in (False, True))}


SETTINGS = {"deadline": "25 ms", "burst": 2, "budgets": "15 s", "command": "this"}


def cell(loss: float, udp: bool, value: float, variant: Variant = VARIANTS[0], bursts: bool = False) -> Cell:
    here = {
        "metric": "top1", "value": value, "ci95": [value - 0.1, value + 0.1], "n": 40,
        "paired": {"kind": "difference", "value": value - 1, "ci95": [value - 1.1, value - 0.9]},
    }  # fmt: skip
    found: dict[str, Any] = {
        "status": "ok", "requests": 40, "here": here, "latency_s": {"median": 0.1 + loss, "ci95": [0.09, 0.3]},
        "lost": {"share": loss} if udp else None,
    }  # fmt: skip
    scores = {number: {"metric": "top1", "this": float(number < 16 * value), "single": 1.0} for number in range(16)}
    times_s = {number: 0.1 * (1 + number) / (2 if udp else 1) for number in range(3, 9)}
    missing = {number: loss * share for number, share in ((3, 0.5), (4, 1.0), (5, 1.5))} if udp else {}
    return Cell(variant, loss, bursts, udp, found, True, scores, times_s, missing)


def test_a_row_for_each_loss_with_what_was_measured_there(tmp_path: Path) -> None:
    cells = [cell(0.05, udp, 0.75 if udp else 0.875) for udp in (False, True)]
    cells += [cell(0.0, True, 0.5), cell(0.05, True, 0.25, bursts=True)]
    wrong = replace(cell(0.0, False, 0.125), valid=False)
    text = document([*cells, wrong], "plot.svg", SETTINGS)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "%" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| 0 %", "| 5 %", "| 5 % in bursts"]
    assert rows[1].count("150 ms (90 ms to 300 ms, n 40)") == 2 and "| 5 % (2.5 % to 7.5 %, n 3) |" in rows[1]
    for words in (
        "top-1 87.5% (77.5% to 97.5%, n 40)",
        "top-1 75.0% (",
        "-25.0% (",
        "| -12.5% (",
        ", n 16) | -25.0% (-35.0% to -15.0%, n 40) |",
        "| 0.50x (0.50x to 0.50x, n 6) |",
    ):
        assert words in rows[1]
    assert rows[0].startswith("| 0 % | - | 100 ms (90 ms to 300 ms, n 40) | - |") and "top-1 12.5%" not in text
    assert "Left out: 1 of 5 cells" in text
    draw(cells, tmp_path / "plot.svg")
    assert "UDP, bursts" in (tmp_path / "plot.svg").read_text()
