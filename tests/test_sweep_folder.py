"""The folder of a sweep keeps what is finished, refuses what is damaged, and is no other sweep's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testbed.store import StoreError
from testbed.sweep import child, drive, folder
from tests.limits import largest_file
from tests.sweeps import LOCAL, REPLAYED, filled, opened, ordered, rows, written


def test_rows_are_read_back_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with opened(path) as found:
        assert len(found.rows) == 8 and not found.dropped
        one = next(iter(found.rows.values()))
        found.add([{**one, "status": "failed"}])
        assert found.rows[one["key"]]["status"] == "failed"
        assert found.finished(retry=False) == set(found.rows)
        assert found.finished(retry=True) == set(found.rows) - {one["key"]}
    with opened(path) as found:
        assert len(found.rows) == 8 and found.rows[one["key"]]["status"] == "failed"


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_last_line_that_was_cut_off_is_dropped_and_said(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path)
    content = (path / folder.CELLS).read_bytes()
    (path / folder.CELLS).write_bytes(content[:-cut])
    with opened(path) as found:
        assert len(found.rows) == 7
        assert found.dropped == (f"{path}/cells.jsonl:8: the last line was cut off: dropped, its cell is not finished",)
        found.add(rows(ordered(tmp_path, LOCAL)[-1:], "code"))
    with opened(path) as found:
        assert len(found.rows) == 8 and not found.dropped


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{]\n", "cells.jsonl:4: not JSON; the file was damaged after it was written"),
        (b"\n", "cells.jsonl:4: not JSON"),
        (b"\xff\xfe\x00\n", "cells.jsonl:4: not JSON"),
        (b"[1]\n", "cells.jsonl:4: not a cell (no object)"),
        (b'{"rank": 0, "latency_s": 3}\n', "cells.jsonl:4: not a cell (key, block"),
        ({"status": "fine"}, "cells.jsonl:4: not a cell (status)"),
        ({"run": "../../elsewhere"}, "cells.jsonl:4: not a cell (run)"),
        ({"latency_s": "fast", "speedup": float("nan")}, "cells.jsonl:4: not a cell (latency_s, speedup)"),
    ],
)
def test_any_other_damage_is_refused_and_nothing_is_lost(tmp_path: Path, line: Any, expected: str) -> None:
    path = filled(tmp_path)
    whole = (path / folder.CELLS).read_bytes().splitlines(keepends=True)
    if isinstance(line, Mapping):
        line = json.dumps({**json.loads(whole[3]), **line}).encode() + b"\n"
    damaged = b"".join([*whole[:3], line, *whole[3:]])
    (path / folder.CELLS).write_bytes(damaged)
    with pytest.raises(StoreError, match=r"^[^\n]*$") as caught, opened(path):
        pass
    assert expected in str(caught.value)
    assert (path / folder.CELLS).read_bytes() == damaged


def test_two_sweeps_on_one_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path), pytest.raises(StoreError, match=rf"another sweep \(process {os.getpid()}\) works on it"):
        drive.execute(written(tmp_path, LOCAL), path)
    with opened(path):
        pass


def test_folders_of_others_are_not_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    written(home, "mine", "letter.txt")
    with pytest.raises(StoreError, match="exists and is not the folder of a sweep; name another one with --out"):
        drive.execute(written(tmp_path, LOCAL), home)
    assert [path.name for path in home.iterdir()] == ["letter.txt"]
    path = filled(tmp_path)
    with pytest.raises(StoreError, match="is of the sweep local, not of other"):
        drive.execute(written(tmp_path, LOCAL.replace("name: local", "name: other")), path)
    (path / folder.ABOUT).write_text('{"schema_version": 99, "name": "local", "keys": []}')
    with pytest.raises(StoreError, match="schema_version = 99: this program reads up to 1"), opened(path):
        pass


def test_what_does_not_fit_on_the_disk_leaves_no_half_row(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = (path / folder.CELLS).read_bytes()
    refused = r"^.*cells\.jsonl: cannot be written: File too large; finished cells are kept, run it again to go on$"
    with opened(path) as found, largest_file(len(before) + 100), pytest.raises(StoreError, match=refused):
        found.add(rows(ordered(tmp_path, LOCAL), "code"))
    assert (path / folder.CELLS).read_bytes() == before


def test_a_folder_that_is_a_sweeps_has_its_rows_from_the_first_moment(tmp_path: Path) -> None:
    """What is made last is sweep.json; ended just before that, the same command goes on there."""
    path, many = tmp_path / "s", [f"{number:032x}" for number in range(200)]
    with (
        largest_file(4000),
        pytest.raises(StoreError, match=r"sweep\.json: cannot be written"),
        opened(path, "s", many),
    ):
        pass
    assert (path / folder.CELLS).read_bytes() == b"" and not folder.is_sweep(path)
    with opened(path, "s", many):
        assert folder.is_sweep(path) and folder.cells(path) == []
    (path / folder.ABOUT).unlink()
    written(path, "somebody's\n", folder.CELLS)
    with pytest.raises(StoreError, match="is not the folder of a sweep"), opened(path, "s", many):
        pass


def test_a_run_that_found_no_room_ends_the_sweep_and_is_no_result(tmp_path: Path) -> None:
    (block, *_) = ordered(tmp_path, REPLAYED)
    path = tmp_path / "s"
    refused = r"^.*profile\.yaml: cannot be written: File too large; finished cells are kept, make room and .*$"
    with opened(path) as found, largest_file(5000), pytest.raises(StoreError, match=refused):
        child.run(found, block)
    assert [place.name for place in (path / "blocks").iterdir()] == [f"{block.name}.log"]
    assert folder.cells(path) == []


def test_runs_are_those_that_the_file_asks_for(tmp_path: Path) -> None:
    found = ordered(tmp_path, LOCAL)
    path = tmp_path / "s"
    wanted = [cell.key for block in found[:2] for cell in block.cells]
    with opened(path, wanted=wanted) as sweep:
        for block in found[:3]:
            sweep.add(rows([block], "code", run=f"blocks/{block.name}"))
        sweep.add(rows(found[3:], "code"))
    assert folder.is_sweep(path) and not folder.is_sweep(tmp_path)
    assert folder.runs(path) == [path / "blocks" / block.name for block in found[:2]]
