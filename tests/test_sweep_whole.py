"""`testbed sweep` from its file to its table, where nothing has to run, or what runs fails at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.sweep import blocks, drive, folder, keys, points
from testbed.sweep.pace import Pace, Progress
from testbed.topology import Topology, TopologyError
from tests import runs
from tests.sweeps import LOCAL, REPLAYED, cells, opened, ordered, rows, written


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({}, 0),
        ({"network": "unshaped"}, 0),
        ({"network": "degraded"}, 4),
        ({"status": "failed", "error": "h2 lost", "network": "degraded"}, 1),
        ({"status": "failed", "network": "wrong"}, 3),
        ({"network": "unverified"}, 3),
    ],
)
def test_a_finished_sweep_runs_nothing_and_tells_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: dict[str, Any], expected: int
) -> None:
    path, file = tmp_path / "s", written(tmp_path, LOCAL)
    made = rows(blocks.ordered(points.read(file), keys.code_version()), keys.code_version())
    with opened(path) as found:
        found.add([*made[:-1], {**made[-1], **last}])
    assert drive.execute(file, path) == expected
    said = capsys.readouterr().out
    assert "8 cells in 4 runs" in said and "8 cells finished before" in said
    verdict = {0: "ok", 4: "degraded", 1: "failed 1 of 2", 3: "1 of 2"}[expected]
    shown = [" ".join(line.split()) for line in said.splitlines()]
    assert sum(line.endswith("2 500 ms 2.00x ok") for line in shown) == (4 if expected == 0 else 3)
    assert any("500 ms" in line and line.endswith(verdict) for line in shown)
    assert not list((path / "blocks").iterdir())
    assert (path / folder.FILE).read_text() == LOCAL


@pytest.mark.parametrize(
    ("old", "new"), [("seed: 0", "seed: [0, 1]"), ("budget: 20 s", "budget: [20s, 30 s]"), ("seed: [1, 0]", "seed: 0")]
)
def test_finished_cells_keep_their_place_when_a_list_takes_that_of_a_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    path, code = tmp_path / "s", keys.code_version()
    before = ordered(tmp_path, LOCAL.replace("model:", f"{old}, model:"), code)
    file = written(tmp_path, LOCAL.replace("model:", f"{new}, model:"))
    now = points.read(file)
    known = cells(before).keys()
    added = [row for row in rows(blocks.ordered(now, code), code) if row["key"] not in known]
    with opened(path) as found:
        found.add([*rows(before, code), *added])
    assert drive.execute(file, path) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.endswith("2 500 ms 2.00x ok") for line in shown) == 2 * len(now.points)
    places = Counter(str(row["point"]) for row in folder.cells(path))
    assert places == {str(dict(point.chosen)): 4 for point in now.points}
    size = (path / folder.CELLS).stat().st_size
    assert drive.execute(file, path) == 0 and (path / folder.CELLS).stat().st_size == size


def test_from_three_repetitions_on_there_is_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = tmp_path / "s", written(tmp_path, LOCAL.replace("repetitions: 2", "repetitions: 3"))
    code = keys.code_version()
    made = rows(blocks.ordered(points.read(file), code), code)
    times = {1: (0.49, 1.9), 2: (0.5, 2.0), 3: (0.52, 2.2)}
    with opened(path) as found:
        for row in made:
            row["latency_s"], row["speedup"] = times[row["repetition"]]
        found.add(made)
    assert drive.execute(file, path) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.endswith("3 500 ms 2.03x ok") for line in shown) == 4
    assert sum(line == "490-520 ms 1.90-2.20" for line in shown) == 4
    assert any(line.startswith("n: repetitions") and "not requests" in line for line in shown)


def test_replayed_compute_is_told_above_the_table_or_at_its_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = REPLAYED.replace("{replay:", "[real, {replay:").replace("yaml}}", "yaml}]}")
    for name, text in (("one", REPLAYED), ("two", both)):
        file, code = written(tmp_path, text, f"{name}.yaml"), keys.code_version()
        with opened(tmp_path / name) as found:
            found.add(rows(blocks.ordered(points.read(file), code), code))
        assert drive.execute(file, tmp_path / name) == 0
    one, two = capsys.readouterr().out.split("saved in ")[:2]
    assert (
        "\nCompute replayed from paper_encoder: devices waited those times" in one and one.count("replayed from") == 1
    )
    assert "Compute replayed" not in two and two.count("compute replayed from paper_encoder") == 1


def test_points_that_the_machine_cannot_carry_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = "{h1: {}, h2: {}}", "{" + ", ".join(f"h{number}: {{}}" for number in range(1, 18)) + "}"
    text = LOCAL.replace("[16, 64]", "64").replace(few, f"[{few}, {many}]")
    with pytest.raises(TopologyError) as refused:
        drive.execute(written(tmp_path, text), tmp_path / "s")
    first, last = refused.value.problems
    assert "17 hosts: a run is on 1 to 16 devices" in first and first.endswith(f"(at hosts {many})")
    assert last.endswith("with sweep.except, or with sweep.unfit: leave_out") and not (tmp_path / "s").exists()
    fit = text.replace("repetitions: 2", "repetitions: 2, unfit: leave_out")
    file, code = written(tmp_path, fit), keys.code_version()
    with opened(tmp_path / "s") as found:
        found.add(rows([b for b in blocks.ordered(points.read(file), code) if len(b.topology.hosts) == 2], code))
    assert drive.execute(file, tmp_path / "s") == 0
    said = capsys.readouterr().out
    assert "left out, this machine cannot carry it: " in said and first.partition(": ")[2] in said
    assert "4 cells in 2 runs" in said and "4 cells finished before" in said
    with pytest.raises(TopologyError, match="17 hosts"):
        drive.execute(written(tmp_path, fit.replace(f"[{few}, {many}]", many)), tmp_path / "t")


def test_cells_of_other_code_are_kept_and_do_not_count(tmp_path: Path) -> None:
    path, file = tmp_path / "s", written(tmp_path, LOCAL)
    code = keys.code_version()
    with opened(path) as found:
        found.add(rows(blocks.ordered(points.read(file), "older"), "older"))
        found.add(rows(blocks.ordered(points.read(file), code), code))
    assert drive.execute(file, path) == 0
    assert len((path / folder.CELLS).read_text().splitlines()) == 16


def test_a_block_that_was_finished_but_not_noted_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a power cut between the run's last byte and the sweep's row."""
    path, file = tmp_path / "s", written(tmp_path, LOCAL)
    found = blocks.ordered(points.read(file), keys.code_version())
    with opened(path) as sweep:
        for block in found:
            entries = [
                {"label": cell.spec.label, "status": "ok", "latency_s": {"median": 0.1}, "speedup_over_single": 1.0}
                for cell in block.cells
            ]
            run = sweep.path / "blocks" / block.name
            run.mkdir()
            (run / "summary.json").write_text(json.dumps({"network": {"verdict": "unshaped"}, "methods": entries}))
        (sweep.path / "blocks" / f"{found[0].name}-x.partial").mkdir()
    assert drive.execute(file, path) == 0
    said = capsys.readouterr().out
    assert "thrown away: 1 run that was not finished" in said and said.count("found finished") == 4
    assert {row["key"] for row in map(json.loads, (path / folder.CELLS).open())} == cells(found).keys()
    assert folder.runs(path) == [path / "blocks" / block.name for block in found]


def test_a_wide_grid_is_cut_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = LOCAL.replace("[16, 64]", str([n * n for n in range(2, 32)])).replace("vit-tiny", "vit-base")
    path, file = tmp_path / "s", written(tmp_path, text)
    with opened(path) as found:
        found.add(rows(blocks.ordered(points.read(file), keys.code_version()), keys.code_version()))
    assert drive.execute(file, path) == 0
    assert "and 50 more rows: testbed report " in capsys.readouterr().out


def test_time_left_is_the_mean_so_far_or_an_estimate_and_what_was_taken_beyond_it(tmp_path: Path) -> None:
    small, large = (point.topology for point in points.read(written(tmp_path, LOCAL)).points)
    pace = Pace()
    assert pace.of(small) is None
    pace.add(small, 10.0)
    pace.add(large, 40.0)
    assert pace.of(small) == pace.of(large) == 25.0
    assert Pace(before=[3.0, 5.0]).of(small) == 4.0
    predicted = Pace(lambda topology: float(topology.run.tokens), before=[3.0])
    assert (predicted.of(small), predicted.of(large)) == (16.0, 64.0)
    predicted.add(small, 32.0)  # 16 s longer than was said: as long as starting takes
    assert (predicted.of(small), predicted.of(large)) == (32.0, 80.0)


def test_while_a_block_runs_nothing_is_estimated(tmp_path: Path) -> None:
    """A look at every topology that is left costs time, and that is what the block is measuring."""
    asked: list[Topology] = []

    def estimate(topology: Topology) -> float:
        asked.append(topology)
        return 10.0

    progress = Progress(Console(file=StringIO()), ordered(tmp_path, LOCAL), 0, Pace(estimate))
    progress.started()
    before = len(asked)
    assert all("1 of 4" in str(progress.line()) and "40 s left" in str(progress.line()) for _ in range(3))
    assert len(asked) == before
    progress.finished([], 30.0)
    progress.started()
    assert "2 of 4" in str(progress.line()) and "90 s left" in str(progress.line())


# Runs that fail at once


def sweep(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed.sweep", *map(str, arguments)]
    options: dict[str, Any] = {"cwd": runs.ROOT, "env": os.environ | environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=runs.LIMIT_S, **options)


def test_a_failing_block_does_not_stop_the_rest(tmp_path: Path) -> None:
    """No model can be kept where the cache should be: every run ends with a line, and the sweep with all of them."""
    text = LOCAL.replace("2}", "1}")
    path, file, cache = tmp_path / "s", written(tmp_path, text), written(tmp_path, "", "cache")
    found = sweep(file, "--out", path, XDG_CACHE_HOME=str(cache))
    assert (found.returncode, found.stderr) == (1, "")
    first = [json.loads(line) for line in (path / folder.CELLS).open()]
    assert len({row["key"] for row in first}) == 4 and {row["status"] for row in first} == {"failed"}
    assert all(str(cache) in row["error"] and row["run"] is None for row in first)
    assert "1 of 2  tokens " in found.stdout and "2 of 2  tokens " in found.stdout and " left" in found.stdout
    assert drive.execute(file, path) == 1
    assert len((path / folder.CELLS).read_text().splitlines()) == 4
    assert [path.suffix for path in sorted((path / "blocks").iterdir())] == [".log", ".log"]
