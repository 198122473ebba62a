"""A sweep file is every combination of its lists; what is wrong with any is told; a key knows what decides a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from testbed import check
from testbed.sweep import blocks, grid, points
from testbed.topology import MethodSpec, TopologyError
from testbed.yamlfile import Document, dotted
from tests import runs
from tests.sweeps import LOCAL, cells, ordered, written

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
        ("{unfit: perhaps}", 'sweep.unfit = "perhaps"'),
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


def test_a_folder_of_inputs_counts_by_all_that_is_in_it(tmp_path: Path) -> None:
    home = tmp_path / "photos"
    home.mkdir()
    Image.new("RGB", (300, 300), "red").save(home / "a.png")
    text = LOCAL.replace("repeats: 1", f"repeats: 1, inputs: {home}")
    seen = [cells(ordered(tmp_path, text)).keys()]
    (home / "a.png").write_bytes((home / "a.png").read_bytes())
    assert cells(ordered(tmp_path, text)).keys() == seen[0]
    changes = (
        lambda: Image.new("RGB", (300, 300), "blue").save(home / "a.png"),
        lambda: Image.new("RGB", (300, 300), "red").save(home / "b.png"),
        lambda: (home / "b.png").rename(home / "c.png"),
    )
    for change in changes:
        change()
        seen.append(cells(ordered(tmp_path, text)).keys())
    assert all(not one & other for index, one in enumerate(seen) for other in seen[:index])


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


def test_the_example_is_sound() -> None:
    found = points.read(runs.ROOT / "topologies" / "sweep_local.yaml")
    assert len(blocks.ordered(found, "code")) == 4
    assert yaml.safe_load(found.text)["name"] == found.name
    assert all(earlier.repetition <= later.repetition for earlier, later in pairwise(blocks.ordered(found, "code")))
