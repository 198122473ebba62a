"""`testbed predict` by the user's door: a topology and a profile in, a table or JSON out."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from testbed.cli import app
from testbed.units import parse_duration
from tests.works import frames, line_bytes

TOPOLOGY = """\
name: star
backend: mininet
topology: {star: {hosts: 4, link: {rate: 10 Mbit/s}}}
run:
  source: h1
  model: vit-base
  tokens: 196
  methods: [single, sequence, {astra: {groups: 1}}, {astra: {groups: 2}}]
"""
PROFILE = """\
profile: by_hand
model: {layers: 12, width: 768}
entries:
  - {method: single, tokens: 196, devices: 1, total: 960 ms}
  - {method: sequence, tokens: 196, devices: 4, total: 360 ms}
  - {method: astra, options: {groups: 1}, tokens: 196, devices: 4, total: 300 ms}
"""


def _predict(folder: Path, topology: str, *arguments: str) -> Result:
    (folder / "star.yaml").write_text(topology)
    (folder / "by_hand.yaml").write_text(PROFILE)
    with chdir(folder):
        return CliRunner().invoke(app, ["predict", "star.yaml", *arguments])


def _rows(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    return {row["label"]: row for row in json.loads(done.stdout)["methods"]}


def _handling_s(costs: dict[str, Any], bytes_: int) -> float:
    """Of one device: three messages of so many bytes a layer, the input and the result, each sent and taken; and a
    stage before and after each exchange, beyond its computing."""
    message_s = costs["send_s"] + costs["receive_s"] + 2 * costs["per_byte_s"] * bytes_
    stage_s = costs["late_s"] + costs["stage_s"] + costs["code_s"]
    return float((12 * 3 + 4) * message_s + (2 * 12 + 2) * stage_s + 2 * costs["rest_s"])


def _sharing_s(costs: dict[str, Any], bytes_: int) -> float:
    """What is not computing takes a device, and all four and their lines the cores that they share: none waits longer
    for one. On a slow machine that is long, so it is no fixed share of a latency."""
    lines_s = (12 * 3 + 4) * frames(bytes_) * (costs["packet_s"] + costs["frame_s"] + costs["hop_s"])
    own_s = _handling_s(costs, bytes_)
    return own_s + 4 * (own_s + lines_s) / (costs["cores"] or 4)


def test_figures_are_those_of_the_formulas(tmp_path: Path) -> None:
    done = _predict(tmp_path, TOPOLOGY, "--profile", "by_hand.yaml", "--json")
    rows, found = _rows(done), json.loads(done.stdout)
    assert rows["single"]["latency_s"] == pytest.approx(0.96)
    # Scatter of the pixels; then in each of 12 layers 3 slices of 49 or 50 rows of 768 floats, after its computing.
    slices_s = 12 * 3 * line_bytes(50 * 768 * 4) * 8 / 10e6
    pixels_s = 3 * line_bytes(49 * 768) * 8 / 10e6
    sequence_s, shared_s = 0.36 + slices_s + pixels_s, _sharing_s(found["costs"], 50 * 768 * 4)
    assert 0.98 * sequence_s <= rows["sequence"]["latency_s"] <= 1.02 * sequence_s + shared_s
    assert rows["sequence"]["speedup"] == pytest.approx(0.96 / rows["sequence"]["latency_s"])
    assert 0.36 <= rows["sequence"]["compute_s"] <= 0.36 + _handling_s(found["costs"], 50 * 768 * 4)
    assert rows["sequence"]["model"] == "events"
    codes_s = 12 * 3 * line_bytes(50 * 10 // 8) * 8 / 10e6  # one index of 10 bits for each row
    shared_s = _sharing_s(found["costs"], 50 * 10 // 8)
    assert 0.98 * (0.3 + pixels_s) <= rows["astra G=1"]["latency_s"] <= 1.02 * (0.3 + pixels_s + codes_s) + shared_s
    left = 12 * 3 * sum(line_bytes(rows * 768 * 4) for rows in (50, 49, 49, 49))
    assert rows["sequence"]["line_bytes"] == pytest.approx(left, rel=0.02)
    assert "no astra {'groups': 2}" in rows["astra G=2"]["error"]


def test_both_models_say_nearly_the_same_and_which_they_are(tmp_path: Path) -> None:
    topology = TOPOLOGY.replace(", {astra: {groups: 2}}", "")
    found, rows = {}, {}
    for model in ("events", "analytic"):
        done = _predict(tmp_path, topology, "--profile", "by_hand.yaml", "--json", "--model", model)
        found[model], rows[model] = json.loads(done.stdout), _rows(done)
        assert {row["model"] for row in rows[model].values()} == {model}
    assert found["events"]["costs"] == found["analytic"]["costs"]
    bytes_ = {"single": 0, "sequence": 50 * 768 * 4, "astra G=1": 50 * 10 // 8}
    assert rows["events"].keys() == rows["analytic"].keys() == bytes_.keys()
    for label, row in rows["events"].items():
        # Only with events do devices wait for a core that others have.
        shared_s = _sharing_s(found["events"]["costs"], bytes_[label]) if label != "single" else 0.0
        analytic_s = rows["analytic"][label]["latency_s"]
        assert 0.98 * analytic_s <= row["latency_s"] <= 1.02 * analytic_s + shared_s


def test_the_table_says_what_it_rests_on(tmp_path: Path) -> None:
    replayed = TOPOLOGY.replace("single, ", "").replace(", {astra: {groups: 2}}", "")
    done = _predict(tmp_path, replayed + "  compute: {replay: by_hand.yaml}\n")
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "nothing ran: stages take what profile by_hand says, and a message costs" in words
    assert "model events, small enough. Not modelled: computing that competes for the cores" in words
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    found = re.match(r"astra G=1 +([\d.]+ m?s) .* ([\d.]+)x events", rows["astra G=1"])
    assert found is not None  # of the latency that the profile says of single, which the file left out
    assert float(found[2]) == pytest.approx(0.96 / parse_duration(found[1]), rel=0.01)
    assert "single" not in rows


def test_cpu_shares_that_are_not_counted_are_told(tmp_path: Path) -> None:
    hosts = "hosts: {h1: {cpu: 0.5}, h2: {}}\nlinks: [{between: h1 - h2, rate: 10 Mbit/s}]"
    shared = TOPOLOGY.replace("topology: {star: {hosts: 4, link: {rate: 10 Mbit/s}}}", hosts)
    shared = shared.replace("[single, sequence, {astra: {groups: 1}}, {astra: {groups: 2}}]", "[single]")
    done = _predict(tmp_path, shared, "--profile", "by_hand.yaml", "--json")
    assert "CPU shares (h1) are not counted" in json.loads(done.stdout)["notes"][0]
    done = _predict(tmp_path, shared + "  compute: {replay: by_hand.yaml}\n", "--json")
    assert json.loads(done.stdout)["notes"] == []


@pytest.mark.parametrize(
    ("topology", "arguments", "line"),
    [
        (TOPOLOGY, (), "star.yaml: run.compute is real, so nothing says how long stages take"),
        (TOPOLOGY, ("--profile", "by_hand.yaml", "--model", "magic"), "model magic: there are events, analytic"),
        (
            TOPOLOGY.replace("hosts: 4", "hosts: 1000"),
            ("--profile", "by_hand.yaml", "other.yaml"),
            "give one topology file, or run folders and sweep folders only",
        ),
        (TOPOLOGY, ("--profile", "gone.yaml"), "gone.yaml: No such file"),
        (TOPOLOGY.replace("10 Mbit/s", "10"), ("--profile", "by_hand.yaml"), "star.yaml:3"),
        (
            TOPOLOGY.replace("vit-base", "vit-tiny"),
            ("--profile", "by_hand.yaml"),
            "by_hand.yaml: profile by_hand is of 12 layers of width 768, vit-tiny has 4 layers of width 192",
        ),
    ],
    ids=["no profile", "no model", "two files", "no file", "bad file", "other model"],
)
def test_mistakes_are_a_line_each(tmp_path: Path, topology: str, arguments: tuple[str, ...], line: str) -> None:
    done = _predict(tmp_path, topology, *arguments)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith(line) and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "network",
    [
        "topology: {star: {hosts: 400, link: {rate: 100 Mbit/s, delay: 1 ms}}}",
        "topology: {sites: {hosts: 300, link: {rate: 100 Mbit/s}, trunk: {rate: 1 Gbit/s, delay: 5 ms}}}",
    ],
    ids=["star", "sites"],
)
def test_many_devices_are_predicted_and_not_run(tmp_path: Path, network: str) -> None:
    file, count = tmp_path / "big.yaml", 400 if "400" in network else 300
    file.write_text(
        f"name: big\nbackend: mininet\n{network}\n"
        "run: {model: vit-tiny, tokens: 1024, methods: [single, {astra: {groups: 1}}, {astra: {groups: 2}}]}\n"
    )
    (tmp_path / "by_hand.yaml").write_text(
        "profile: by_hand\nmodel: {layers: 4, width: 192}\nentries:\n"
        "  - {method: single, tokens: 1024, devices: 1, total: 100 ms}\n"
        f"  - {{method: astra, options: {{groups: 1}}, tokens: 1024, devices: {count}, total: 12 ms}}\n"
        "  - {method: astra, options: {groups: 2}, tokens: 1024, devices: 4, total: 24 ms}\n"
    )
    runner = CliRunner()
    done = runner.invoke(app, ["predict", str(file), "--profile", str(tmp_path / "by_hand.yaml"), "--json"])
    rows, costs = _rows(done), json.loads(done.stdout)["costs"]
    # In each of 4 layers a message of few codes to all others leaves every host over its own link.
    least_s = 12e-3 + 4 * (count - 1) * line_bytes(2) * 8 / 100e6
    handled_s = 4 * (count - 1) * (costs["send_s"] + costs["receive_s"])
    assert rows["astra G=1"]["model"] == "analytic"
    trunk_s = 4 * (count // 2) ** 2 * line_bytes(2) * 8 / 1e9 if "trunk" in network else 0.0
    assert least_s + trunk_s < rows["astra G=1"]["latency_s"] < 3 * (least_s + handled_s + trunk_s)
    assert rows["astra G=2"]["error"].endswith(f"with 1024 tokens on {count} devices, only with 1024 on 4")
    drawn = runner.invoke(app, ["check", str(file)])
    assert drawn.exit_code == 0 and len(drawn.stdout.splitlines()) < 30
    assert f"pairs of h1 only: {count} hosts make {count * (count - 1) // 2} pairs" in drawn.stdout
    for command in ("run", "probe"):
        refused = runner.invoke(app, [command, str(file)])
        assert refused.exit_code == 2 and len(refused.stderr.splitlines()) == 1
        assert f"{count} hosts: a run is on 1 to 16 devices; `testbed predict` goes beyond" in refused.stderr
    asked = runner.invoke(app, ["doctor", str(file)])
    assert asked.exit_code == 1 and "a run is on 1 to 16 devices" in asked.stdout
