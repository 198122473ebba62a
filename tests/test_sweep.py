"""A sweep file is every combination of its lists; its folder keeps what is finished, refuses what is damaged, and what
is there already is not run again."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import check
from testbed.store import StoreError
from testbed.sweep import blocks, drive, folder, grid, keys, points
from testbed.sweep.pace import Pace
from testbed.sweep.points import Sweep
from testbed.topology import MethodSpec, TopologyError
from testbed.yamlfile import Document, dotted
from tests import runs

GRID = """\
name: small
backend: mininet
topology:
  star:
    hosts: [2, 3]
    link:
      rate:
        - 10 Mbit/s
        - 50 Mbit/s
run:
  model: vit-tiny
  tokens: [16, 64]
  methods: [single, {astra: {groups: [1, 16, 32]}}, {block: {joins: 1}}]
"""
LOCAL = """\
name: local
backend: local
hosts: {h1: {}, h2: {}}
run: {model: vit-tiny, tokens: [16, 64], methods: [single, sequence], repeats: 1}
sweep: {repetitions: 2}
"""


def written(tmp_path: Path, text: str, name: str = "t.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    """Those of a sweep file, its folder left out."""
    with pytest.raises(TopologyError) as caught:
        points.read(written(tmp_path, text))
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def labels(specs: Sequence[MethodSpec]) -> list[str]:
    return [spec.label for spec in specs]


# Lists to points


def put(value: dict[str, Any], place: Sequence[str], leaf: Any) -> None:
    for key in place[:-1]:
        value = value.setdefault(key, {})
    value[place[-1]] = leaf


places = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(tuple)
values = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(places, st.one_of(values, st.integers(0, 9)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_points_are_the_product_of_the_lists(axes: dict[tuple[str, ...], Any]) -> None:
    """In the order of itertools.product, the last axis fastest."""
    apart = {p: v for p, v in axes.items() if not any(p != q and q[: len(p)] == p for q in axes)}
    nested: dict[str, Any] = {}
    for place, value in apart.items():
        put(nested, place, value)
    listed = [dotted(place) for place, _ in grid.lists(nested)]
    by_name = {dotted(place): value for place, value in apart.items()}
    assert sorted(listed) == sorted(name for name, value in by_name.items() if isinstance(value, list))
    truth = [dict(zip(listed, chosen, strict=True)) for chosen in product(*(by_name[name] for name in listed))]
    variants = grid.expand(Document("t.yaml", nested))
    assert [one.chosen for one in variants] == truth
    for one in variants:
        plain: dict[str, Any] = {}
        for place, value in apart.items():
            put(plain, place, one.chosen.get(dotted(place), value))
        assert one.value == plain


def test_every_combination_is_a_topology(tmp_path: Path) -> None:
    sweep = points.read(written(tmp_path, GRID))
    found = [
        (len(point.topology.hosts), point.topology.links[0].up.rate_bit_s, point.topology.run.tokens)
        for point in sweep.points
    ]
    assert found == list(product((2, 3), (10e6, 50e6), (16, 64)))
    methods = ["single", "astra G=1", "astra G=16", "astra G=32", "block AG joins=1"]
    assert all(labels(point.topology.run.methods) == methods for point in sweep.points)
    assert sweep.points[1].words == "hosts 2, rate 10 Mbit/s, tokens 64"


def test_an_axis_inside_a_value_is_one_only_there(tmp_path: Path) -> None:
    text = """\
name: nested
backend: mininet
topology:
  - star: {hosts: [2, 4], link: {rate: 10 Mbit/s}}
  - mesh: {hosts: 3, link: {rate: 10 Mbit/s}}
events: [[], ["at 1 s: loss 5 %"]]
run: {model: vit-tiny, tokens: 16}
"""
    found = [(len(p.topology.hosts), len(p.topology.events)) for p in points.read(written(tmp_path, text)).points]
    assert found == [(2, 0), (2, 1), (4, 0), (4, 1), (3, 0), (3, 1)]


def test_lists_by_nature_are_no_axes(tmp_path: Path) -> None:
    text = """\
name: natural
backend: mininet
hosts: {h1: {}, h2: {}}
switches: [s1]
links:
  - h1 - s1
  - {between: h2 - s1, up: {trace: {steps: [[1 s, 5 Mbit/s], [2 s, 10 Mbit/s]]}}, delay: [1 ms, 2 ms]}
defaults: {link: {rate: 10 Mbit/s}}
events: ["at 1 s: loss 5 %", "at 2 s: loss 0 %"]
run: {model: vit-tiny, tokens: 16, methods: [single, sequence]}
"""
    sweep = points.read(written(tmp_path, text))
    assert [dict(point.chosen) for point in sweep.points] == [{"links[1].delay": value} for value in ("1 ms", "2 ms")]
    assert [point.topology.links[1].up.delay_s for point in sweep.points] == [1e-3, 2e-3]


def test_exceptions_leave_out_cells_and_whole_points(tmp_path: Path) -> None:
    text = (
        GRID + 'sweep: {except: [{tokens: 64, method: astra}, {hosts: 3, rate: 50 Mbit/s}, {method: "astra G=32"}]}\n'
    )
    sweep = points.read(written(tmp_path, text))
    expected = {}
    for hosts, rate, tokens in product((2, 3), ("10 Mbit/s", "50 Mbit/s"), (16, 64)):
        if (hosts, rate) != (3, "50 Mbit/s"):
            astra = ["astra G=1", "astra G=16"] if tokens == 16 else []
            expected[hosts, rate, tokens] = ["single", *astra, "block AG joins=1"]
    assert {tuple(p.chosen.values()): labels(p.topology.run.methods) for p in sweep.points} == expected
    assert [line.split(":")[0] for line in sweep.left_out] == [
        "left out, 12 of each repetition", "left out, 10 of each repetition", "left out, 8 of each repetition"
    ]  # fmt: skip


# What is refused


def test_a_wrong_value_is_told_once_with_its_own_line(tmp_path: Path) -> None:
    found = problems(tmp_path, GRID.replace("50 Mbit/s", "50 Mbyte/s"))
    assert len(found) == 1
    assert found[0].startswith('t.yaml:9 topology.star.link.rate = "50 Mbyte/s": ')
    assert found[0].endswith("(at hosts 2, rate 50 Mbyte/s, tokens 16, and 3 more points)")


def test_what_is_wrong_at_every_point_does_not_name_them(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, GRID.replace("vit-tiny", "vit-tiny\n  repeets: 3"))
    assert line.startswith('t.yaml:12 run.repeets: unknown key, did you mean "repeats"?') and "(at " not in line


def test_a_method_that_a_point_cannot_run_is_told_with_its_option(tmp_path: Path) -> None:
    found = problems(tmp_path, GRID.replace("groups: [1, 16, 32]", "groups: [1, 7]"))
    assert found and all("astra G=7" in line and line.startswith("t.yaml:13 run.methods[2]") for line in found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[16, 64]", "[]", "t.yaml:12 run.tokens = []: give at least one value"),
        ("[1, 16, 32]", "[]", "t.yaml:13 run.methods[1].astra.groups = []: give at least one value"),
        ("[16, 64]", "[16, 64, 16]", "t.yaml:12 run.tokens[2] = 16: is there twice"),
        ("[16, 64]", "[[16], 64]", "t.yaml:12 run.tokens[0] = [16]: a list in a list"),
        ("- 50 Mbit/s", "- 10000 kbit/s", "the point hosts 2, rate 10000 kbit/s, tokens 16 is the same as hosts 2"),
        ("[2, 3]", str(list(range(1, 6000))), "the lists make 23996 points, 10000 at most"),
        ("name: small", "name: [a, b]", 't.yaml:1 name = ["a", "b"]: give one'),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert any(expected in line for line in problems(tmp_path, GRID.replace(old, new)))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{repetition: 3}", 'sweep.repetition: unknown key, did you mean "repetitions"? allowed: repetitions, seed'),
        ("{repetitions: 0}", "sweep.repetitions = 0: must be at least 1"),
        ("{except: 3}", "sweep.except = 3: give a list"),
        ("{except: [tokens]}", "sweep.except[0] = "),
        ("{except: [{tokns: 16}]}", 'sweep.except[0].tokns: unknown key, did you mean "run.tokens"? allowed: method'),
        ("{except: [{tokens: 17}]}", "sweep.except[0].tokens = 17: no point has it; "),
        ("{except: [{method: astre}]}", 'did you mean "astra"?'),
        ("{except: [{tokens: [16, 64]}]}", "sweep.except: leaves out everything"),
        ("{except: [{tokens: 16}, {tokens: 16, method: single}, {tokens: 16, hosts: 7}]}", "no point has it"),
    ],
)
def test_a_bad_section_is_refused(tmp_path: Path, section: str, expected: str) -> None:
    assert any(expected in line for line in problems(tmp_path, f"{GRID}sweep: {section}\n"))


@pytest.mark.parametrize("text", [GRID, LOCAL, GRID.split("topology:")[0] + "hosts: {h1: {cpu: [1, 2]}}\nrun: 5\n"])
def test_run_names_the_command_for_such_a_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    try:
        said = check.problems(path)
    except TopologyError as error:
        said = error.problems
    assert any(f"that makes a sweep, not one run: testbed sweep {path}" in line for line in said)


# Keys and order


def sweep_of(tmp_path: Path, text: str) -> Sweep:
    return points.read(written(tmp_path, text))


def ordered(tmp_path: Path, text: str, code: str = "code") -> list[blocks.Block]:
    return blocks.ordered(sweep_of(tmp_path, text), code)


def cells(found: Sequence[blocks.Block]) -> dict[str, tuple[str, str]]:
    return {cell.key: (block.title, cell.spec.label) for block in found for cell in block.cells}


def test_a_key_knows_what_decides_a_result_and_nothing_else(tmp_path: Path) -> None:
    """Every change that may change a figure makes another key; names, comments and other methods do not."""
    before = cells(ordered(tmp_path, LOCAL))
    assert len(before) == 2 * 2 * 2  # points, methods, repetitions: all different
    same = [
        LOCAL.replace("name: local", "name: other"),
        "# a comment\n" + LOCAL,
        LOCAL.replace("model: vit-tiny", "model: vit-tiny, weights: random"),
        LOCAL.replace("[single, sequence]", "[sequence, {single: {}}]"),
    ]
    for text in same:
        assert cells(ordered(tmp_path, text)).keys() == before.keys()
    other = [
        LOCAL.replace("vit-tiny", "vit-base"),
        LOCAL.replace("repeats: 1", "repeats: 2"),
        LOCAL.replace("model:", "seed: 1, model:"),
        LOCAL.replace("h2: {}", "h2: {}, h3: {}"),
        LOCAL.replace("[single, sequence]", "[pipeline, {block: {joins: 1}}]"),
    ]
    for text in other:
        assert not cells(ordered(tmp_path, text)).keys() & before.keys()
    assert not cells(ordered(tmp_path, LOCAL, "changed")).keys() & before.keys()


def test_a_file_of_inputs_counts_by_its_content(tmp_path: Path) -> None:
    story = written(tmp_path, "Once upon a time. " * 100, "story.txt")
    text = LOCAL.replace("vit-tiny", "gpt2-tiny").replace("repeats: 1", f"repeats: 1, inputs: {story}")
    before = cells(ordered(tmp_path, text)).keys()
    assert cells(ordered(tmp_path, text)).keys() == before
    story.write_text("It was a dark night. " * 100)
    assert not cells(ordered(tmp_path, text)).keys() & before


def test_points_take_turns_and_the_order_is_of_the_seed(tmp_path: Path) -> None:
    text = LOCAL.replace("[16, 64]", "[4, 9, 16, 25, 36, 49, 64]").replace("2}", "3}")
    first = ordered(tmp_path, text)
    assert [block.repetition for block in first] == [1] * 7 + [2] * 7 + [3] * 7
    turns = [[b.point.topology.run.tokens for b in first[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(turn) == [4, 9, 16, 25, 36, 49, 64] for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 3
    assert Counter(block.cells[0].spec.method for block in first).keys() == {"single", "sequence"}
    assert ordered(tmp_path, text) == first
    other = ordered(tmp_path, text.replace("3}", "3, seed: 1}"))
    assert [b.point.topology.run.tokens for b in other[:7]] != turns[0]
    assert cells(other).keys() == cells(first).keys()


def test_what_is_added_does_not_move_the_rest(tmp_path: Path) -> None:
    before = ordered(tmp_path, LOCAL)
    after = ordered(tmp_path, LOCAL.replace("[16, 64]", "[4, 16, 36, 64]").replace("2}", "3}"))
    known = cells(before).keys()
    assert [cells([block]) for block in after if cells([block]).keys() <= known] == [cells([b]) for b in before]


def test_of_a_block_what_is_missing_runs_beside_single(tmp_path: Path) -> None:
    (block, *_) = ordered(tmp_path, LOCAL.replace("sequence]", "sequence, pipeline]"))
    by_label = {cell.spec.label: cell.key for cell in block.cells}
    assert blocks.missing(block, set()) == block
    assert blocks.missing(block, by_label.values()) is None
    rest = blocks.missing(block, {by_label["single"], by_label["sequence"]})
    assert rest is not None and rest.wanted == {by_label["pipeline"]} and rest.name != block.name
    assert set(labels(rest.topology.run.methods)) == {"single", "pipeline"}
    assert labels(rest.topology.run.methods) == [
        cell.spec.label for cell in block.cells if cell.spec.label != "sequence"
    ]


# The folder


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
    with opened(path) as found:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
        try:
            with pytest.raises(StoreError, match=r"^.*cells\.jsonl: cannot be written: .*finished cells are kept.*$"):
                found.add(rows(ordered(tmp_path, LOCAL), "code"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path / folder.CELLS).read_bytes() == before


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


# The whole, where nothing has to run


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


def test_the_example_is_sound() -> None:
    found = points.read(runs.ROOT / "topologies" / "sweep_local.yaml")
    assert len(blocks.ordered(found, "code")) == 4
    assert yaml.safe_load(found.text)["name"] == found.name
    assert all(earlier.repetition <= later.repetition for earlier, later in pairwise(blocks.ordered(found, "code")))
