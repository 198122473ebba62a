"""What goes wrong while a run goes on: devices, Ray nodes and runs are killed, links change, memory does not suffice.

Computing is replayed where a test has to meet a method at work: then a number of requests is a time, on any machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import families
from tests import networks, runs

# Ten seconds of requests of sequence, far more than what is done to it takes; little of the others.
STREAM = {"single": 0.01, "sequence": 0.5, "tensor": 0.01, "pipeline": 0.01}
LONG = {"repeats": 20, "budget": 60, "tokens": 16}

LOSSY = """
name: lossy
backend: local
hosts: {h1: {}, h2: {}, h3: {}}
run:
  model: gpt2-bytes
  tokens: 24
  methods: [{astra: {groups: 2, codewords: 16, transport: udp, deadline: 60 s}}]
  repeats: 20000
  budget: 60 s
"""


def crossed(local: Any, mininet: Any) -> list[Any]:
    """A case for either backend; both cases on both would cost minutes and tell no more."""
    return [
        pytest.param(runs.LOCAL, local, id=f"local-{local}"),
        pytest.param(runs.STAR, mininet, id=f"mininet-{mininet}", marks=networks.alone),
    ]


@pytest.mark.parametrize(("text", "victim"), crossed("h1", "h3"))
def test_a_device_that_dies_is_named_and_the_rest_still_runs(tmp_path: Path, text: str, victim: str) -> None:
    """Killed in the middle of a stream of requests: the source itself (h1), or one that the others wait for (h3)."""
    out = tmp_path / "out"
    with runs.started(runs.paced(tmp_path, text, STREAM, **LONG), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if r["method"] == "sequence" and not r["warmup"]], process)
        before = runs.records(out)
        os.kill(runs.device_pid(out, victim), signal.SIGKILL)
        killed = time.monotonic()
        failed = runs.until(lambda: _failed(out), process)
        assert time.monotonic() - killed < 5  # as promised
        output, _ = process.communicate(timeout=runs.LIMIT_S)
    assert process.returncode == 1, output
    assert failed["method"] == "sequence"
    for word in (victim, "sequence", "layer"):
        assert word in failed["error"]
        assert word in output
    assert failed["failed_host"] == victim
    status = {m["method"]: (m["status"], m["requests"]) for m in runs.read(out, "summary.json")["methods"]}
    assert [status[m][0] for m in ("single", "sequence", "tensor", "pipeline")] == ["ok", "failed", "ok", "ok"]
    assert status["pipeline"][1] >= 1
    assert runs.records(out)[: len(before)] == before
    assert runs.left_behind(out) == []


def test_a_device_that_dies_is_no_lost_packet(tmp_path: Path) -> None:
    """Codes over UDP whose deadline is a minute: neither it nor TCP's patience is waited for."""
    (tmp_path / "t.yaml").write_text(LOSSY)
    out = tmp_path / "out"
    with runs.started(tmp_path / "t.yaml", out) as process:
        runs.until(lambda: [row for row in runs.records(out) if not row["warmup"]], process)
        os.kill(runs.device_pid(out, "h2"), signal.SIGKILL)
        killed = time.monotonic()
        failed = runs.until(lambda: _failed(out), process)
        assert time.monotonic() - killed < 10
        output, _ = process.communicate(timeout=runs.LIMIT_S)
    assert process.returncode == 1, output
    assert failed["failed_host"] == "h2" and "h2 lost in astra" in failed["error"]
    assert runs.left_behind(out) == []


def test_a_ray_node_that_dies_costs_its_methods_and_not_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    methods = {name: STREAM[name] for name in ("sequence", "tensor", "single")}
    with runs.started(runs.paced(tmp_path, runs.PAIRS[runs.LOCAL], methods, **LONG), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if not r["warmup"]], process)
        run_id = runs.read(out, "manifest.json")["run_id"]
        os.kill(runs.raylet_pid(run_id, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    status = {m["method"]: m for m in runs.read(out, "summary.json")["methods"]}
    assert [status[m]["status"] for m in ("sequence", "tensor", "single")] == ["failed", "failed", "ok"]
    assert "h2" in status["sequence"]["error"] and "h2" in status["tensor"]["error"]
    assert runs.left_behind(out) == []


@pytest.mark.root
@networks.needs_root
@pytest.mark.alone
@pytest.mark.measures
def test_links_that_change_and_a_device_that_the_file_kills(tmp_path: Path) -> None:
    """Delay, loss, a trace, an outage and a kill in one run: measured before and after, told as they were applied.

    No machine is through with 14 requests of a quarter of a second before the last change of the file.
    """
    out = tmp_path / "out"
    path = runs.paced(tmp_path, runs.CHANGING, {"sequence": 0.25, "single": 0.25}, repeats=13, tokens=196)
    code, text = runs.run(path, out)
    assert code == 1, text
    found = runs.read(out, "summary.json")
    sequence, single = found["methods"]
    assert single["status"] == "ok" and sequence["failed_host"] == "h2", text
    assert sequence["error"].startswith("the file kills the device on h2 at 2 s: h2 lost in sequence")
    _told_before_and_after(out, found)
    changes = runs.read(out, "changes.json")
    assert all(row["error"] is None and row["applied_s"] >= row["at_s"] for row in changes)
    for label in ("sequence", "single"):
        met = [(row["at_s"], row["where"], row["what"]) for row in changes if row["label"] == label]
        down = [(0.2, "h2 -> s1", "down"), (0.2, "s1 -> h2", "down")]
        again = [(0.5, "h2 -> s1", "up again"), (0.5, "s1 -> h2", "up again")]
        assert met[:5] == [*down, (0.5, "h1 -> s1", "rate 10 Mbit/s"), *again]
        came = "killed" if label == "sequence" else "nothing to kill: no device here"
        assert met[5:7] == [(1.0, "h1 -> s1", "rate 20 Mbit/s"), (2.0, "h2", came)]
    lines = " ".join(text.split())
    for words in (
        "the network changed while sequence, single ran",
        "frames while methods ran: ",
        "control (Ray): up",
    ):
        assert words in lines
    assert runs.left_behind(out) == []


def _told_before_and_after(out: Path, found: dict[str, Any]) -> None:
    """Links with delay and loss as declared at both ends of the run, and what was seen of them in between."""
    links = runs.read(out, "links.json")
    for when in ("before", "after"):
        rows = [row for row in links if row["when"] == when]
        assert {hop for row in rows for hop in row["links"]} >= {f"h{i} -> s1" for i in (1, 2)}
        good = [row["measured"] for row in rows if row["verdict"] != "wrong"]
        assert any(abs(m["rtt_s"] - 0.02) < 0.005 for m in good if "rtt_s" in m)
        assert any(0 < m["loss"] < 0.06 for m in good if "loss" in m)
    assert found["network"]["verdict"] in ("ok", "degraded"), found["network"]
    for row in runs.read(out, "watch.json"):
        assert 0.0 <= row["withheld"] <= 1.0
        assert row["verdict"] in ("ok", "degraded")
        declared = {name: seen["declared_loss"] for name, seen in row["directions"].items()}
        assert declared["h2 -> s1"] is declared["s1 -> h2"] is None and declared["h1 -> s1"] == 0.01
    first = runs.read(out, "watch.json")[0]["directions"]
    assert sum(seen["lost"] for seen in first.values()) > 0 and all(seen["overruns"] == 0 for seen in first.values())
    assert found["control"]["nodes"] == 3 and found["control"]["memory_bytes"] > 100e6
    assert 0 < found["control"]["bytes_per_s"] < 10e6 and 0 < found["control"]["ray_up_s"] < 60


@pytest.mark.root
@networks.needs_root
@pytest.mark.alone
@pytest.mark.measures
def test_a_host_over_its_memory_is_said_so_and_a_link_that_is_wrong_afterwards_makes_all_not_valid(
    tmp_path: Path,
) -> None:
    """The second host holds a Ray node, half of its memory, and no model of 120 MB; meanwhile the test makes a link
    slower than it is declared."""
    out, model = tmp_path / "out", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(families.PRESETS["vit-base"] | {"num_hidden_layers": 4}))
    values = {"model": model, "methods": "[single, sequence]", "repeats": 1, "memory": "320 MiB"}
    with runs.started(runs.topology(tmp_path, runs.SMALL, **values), out, "--shaper", "tbf") as process:
        runs.until(lambda: runs.records(out), process)
        _slow_down(runs.read(out, "manifest.json")["run_id"])
        output, _ = process.communicate(timeout=runs.LIMIT_S)
    assert process.returncode == 3, output
    found = runs.read(out, "summary.json")
    single, sequence = found["methods"]
    assert single["status"] == "ok" and sequence["failed_by"] == "memory"
    assert sequence["error"] == "h2 went over its memory of 320 MiB: the kernel ended its device process"
    assert found["network"]["verdict"] == "wrong" and "after the run" in found["network"]["reasons"][0]
    lines = " ".join(output.split())
    assert "NOT VALID" in lines and "Note: h2 went over its memory of 320 MiB during sequence" in lines
    assert runs.read(out, "manifest.json")["shaper"] == "tbf"
    assert runs.left_behind(out) == []


def _slow_down(run_id: str) -> None:
    """Give one port of the run's switch a fifth of its rate, as somebody else on the machine might."""
    shown = subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout
    ports = [words[4] for line in shown.splitlines() if (words := line.split())[1] == "tbf"]
    port = next(name for name in ports if name.startswith(f"tb{run_id[:5]}"))
    slow = ["rate", "4mbit", "burst", "1600", "limit", "65536"]
    subprocess.run(["tc", "qdisc", "change", "dev", port, "root", "tbf", *slow], check=True)


def _failed(out: Path) -> dict[str, Any] | None:
    return next((m for m in runs.read(out, "methods.json") if m.get("failed_host")), None)


@pytest.mark.parametrize(("text", "number"), crossed(signal.SIGTERM, signal.SIGINT))
def test_an_interrupted_run_keeps_its_records_and_leaves_nothing(
    tmp_path: Path, text: str, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    methods = {name: STREAM[name] for name in ("single", "sequence", "pipeline")}
    with runs.started(runs.paced(tmp_path, runs.PAIRS[text], methods, **LONG), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if r["method"] == "sequence"], process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    methods = {m["method"]: m for m in runs.read(out, "summary.json")["methods"]}
    assert methods["single"]["status"] == "ok"
    assert methods["sequence"]["status"] == "failed"
    assert "middle" in methods["sequence"]["error"]
    assert runs.read(out, "summary.json")["network"]["verdict"] == ("unverified" if text == runs.STAR else "unshaped")
    assert methods["pipeline"]["status"] == "skipped"
    assert runs.records(out)
    assert runs.left_behind(out) == []


@pytest.mark.root
@networks.needs_root
@pytest.mark.alone
@pytest.mark.measures
def test_a_run_that_is_told_to_end_once_ray_is_down_leaves_nothing(tmp_path: Path) -> None:
    """Between the last method and the end, when links are measured again: Ray has had the signal, and let it go."""
    out = tmp_path / "out"
    file = runs.topology(tmp_path, runs.PAIRS[runs.STAR], methods="[single]", repeats=1)
    with runs.started(file, out) as process:
        runs.until(lambda: runs.records(out), process)
        words = Path("/proc", str(runs.raylet_pid(runs.read(out, "manifest.json")["run_id"], 1)), "cmdline")
        runs.until(lambda: not (words.exists() and words.read_text()), process)  # gone, or a zombie
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    found = runs.read(out, "summary.json")
    assert found["methods"][0]["status"] == "ok" and found["network"]["verdict"] in ("ok", "unverified")
    assert runs.left_behind(out) == []


def _killed(folder: Path) -> Path:
    """The folder of a run that left something behind."""
    out = folder / "out"
    with runs.started(runs.paced(folder, runs.PAIRS[runs.LOCAL], {"sequence": 0.5}, **LONG), out) as process:
        runs.until(lambda: runs.records(out), process)
        process.kill()
        process.communicate(timeout=60)
    assert runs.left_behind(out)
    return out


@pytest.mark.alone  # any run that starts meanwhile would clean up what this one left
def test_clean_restores_the_machine_after_kill_9(tmp_path: Path) -> None:
    """Of plain processes; tests/test_kill.py does it to networks."""
    out = _killed(tmp_path)
    command = [sys.executable, "-m", "testbed.clean"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert runs.left_behind(out) == []


@pytest.mark.alone  # any run that starts meanwhile would clean up what this one left
def test_the_next_run_restores_the_machine_too(tmp_path: Path) -> None:
    out = _killed(tmp_path)
    code, text = runs.run(runs.paced(tmp_path, runs.PAIRS[runs.LOCAL], {"single": 0.01}, repeats=1), tmp_path / "next")
    assert code == 0, text
    assert "removed what a crashed run had left" in text
    assert runs.left_behind(out) == []
