"""The whole product, as a user runs it: a file in, a run folder and a table out, and nothing else left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testbed import topology as topologies
from tests import runs

NETWORK = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec: use sudo make test"
)
BACKENDS = [
    pytest.param(runs.LOCAL, id="local"),
    pytest.param(runs.STAR, id="mininet", marks=[pytest.mark.root, NETWORK]),
]
SUMMARY_KEYS = {
    "method", "label", "options", "status", "requests", "latency_s", "compute_s", "code_s", "exchange_wait_s",
    "scatter_s", "gather_s", "payload_bytes", "wire_bytes", "messages", "speedup_over_single", "fidelity",
}  # fmt: skip


@pytest.fixture(scope="module", params=BACKENDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """One run of all methods on three hosts: its folder, status and output."""
    folder = tmp_path_factory.mktemp("run")
    out = folder / "out"
    code, text = runs.run(runs.topology(folder, request.param), out)
    assert out.exists(), text
    return out, code, text


def test_it_ends_well_and_says_so(finished: tuple[Path, int, str]) -> None:
    out, code, text = finished
    assert code == 0, text
    assert "Untrained" in text
    assert str(out.name) in text
    for label in ("single", "tensor", "sequence", "block AG", "pipeline", "astra G=1"):
        assert label in text


def test_summary_is_the_contract(finished: tuple[Path, int, str]) -> None:
    out, _, _ = finished
    summary = runs.read(out, "summary.json")
    assert [m["label"] for m in summary["methods"]] == [
        "single", "tensor", "sequence", "block AG joins=1", "pipeline", "astra G=1 K=64",
    ]  # fmt: skip
    for method in summary["methods"]:
        assert method.keys() >= SUMMARY_KEYS
        assert method["status"] == "ok"
        assert method["requests"] == 2
        assert method["latency_s"].keys() >= {"median", "p95", "mean", "min", "ci95"}
        assert 0 < method["latency_s"]["min"] <= method["latency_s"]["median"]
        assert method["speedup_over_single"] > 0


def test_exact_methods_are_exact_and_the_others_say_how_far(finished: tuple[Path, int, str]) -> None:
    for method in runs.read(finished[0], "summary.json")["methods"]:
        fidelity = method["fidelity"]
        if method["method"] in ("block", "astra"):
            assert fidelity["max_abs_error"] > 1e-4
            assert -1 <= fidelity["cosine"] < 1
            assert 0 <= fidelity["top1_agreement"] <= 1
        else:
            assert fidelity["max_abs_error"] < 1e-4
            assert fidelity["cosine"] > 0.9999


def test_bytes_equal_the_formula_and_the_wire_covers_them(finished: tuple[Path, int, str]) -> None:
    """vit-tiny: 4 layers of width 192; 51 positions on 3 devices; 50 content tokens coded at 6 bits."""
    out, _, _ = finished
    layers, width, positions, n, item = 4, 192, 51, 3, 4
    codes = [layers * 2 * -(-tokens * 6 // 8) for tokens in (17, 17, 16)]
    expected = {
        "single": [0],
        "tensor": [layers * 4 * (n - 1) * positions * width * item // n] * n,
        "sequence": [(n - 1) * layers * positions // n * width * item] * n,
        "block": [(n - 1) * positions * width // n * item] * n,
        "pipeline": [positions * width * item, positions * width * item, 0],
        "astra": codes,
    }
    for method in runs.read(out, "summary.json")["methods"]:
        assert method["payload_bytes"] == expected[method["method"]]
    mininet = runs.read(out, "manifest.json")["backend"] == "mininet"
    for row in runs.records(out):
        payload = row["sent_bytes"] + row["scatter_bytes"] + row["gather_bytes"]
        if mininet and row["method"] != "single":
            assert row["wire_bytes"] >= payload + 32 * row["messages"] > 0 or payload == 0
        elif not mininet:
            assert row["wire_bytes"] is None


def test_records_hold_every_request_of_every_device(finished: tuple[Path, int, str]) -> None:
    out, _, _ = finished
    rows = runs.records(out)
    for label, devices in (("single", 1), ("tensor", 3), ("pipeline", 3), ("astra G=1 K=64", 3)):
        own = [row for row in rows if row["label"] == label]
        assert sorted((row["request"], row["rank"]) for row in own) == [
            (r, d) for r in range(3) for d in range(devices)
        ]
        assert all(row["warmup"] == (row["request"] == 0) for row in own)
        assert {row["host"] for row in own} == {f"h{d + 1}" for d in range(devices)}
        for row in own:
            parts = [row[key] for key in ("compute_s", "code_s", "waited_s", "scatter_s", "gather_s")]
            assert sum(parts) == pytest.approx(row["latency_s"])
            assert min(parts) >= 0


def test_the_folder_tells_what_the_run_stood_on(finished: tuple[Path, int, str]) -> None:
    out, _, _ = finished
    manifest = runs.read(out, "manifest.json")
    assert manifest["command"][-1] == str(out)
    assert manifest["versions"]["ray"] == "2.60.0"
    assert manifest["sysctls"]["net.ipv4.tcp_congestion_control"]
    links = runs.read(out, "links.json")
    if manifest["backend"] == "local":
        assert links == []
    else:
        crossed = {link for row in links for link in row["links"] if row["verdict"] == "ok"}
        assert crossed == {f"h{i} -> s1" for i in (1, 2, 3)} | {f"s1 -> h{i}" for i in (1, 2, 3)}
    for host in ("h1", "h2", "h3"):
        assert "device process" in (out / f"{host}.log").read_text()


def test_run_yaml_is_the_run_again(finished: tuple[Path, int, str]) -> None:
    out, _, _ = finished
    assert topologies.load(out / "run.yaml") == topologies.load(out.parent / "topology.yaml")


def test_nothing_is_left(finished: tuple[Path, int, str]) -> None:
    assert runs.left_behind(finished[0]) == []


def test_compare_shows_a_run_that_is_over(finished: tuple[Path, int, str]) -> None:
    command = [sys.executable, "-m", "testbed.compare", str(finished[0]), str(finished[0])]
    text = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout
    assert "astra G=1" in text


STREAM = {"methods": "[single, sequence, tensor, pipeline]", "repeats": 100000, "budget": 3, "tokens": 196}


@pytest.mark.parametrize("text", BACKENDS)
@pytest.mark.parametrize("victim", ["h1", "h3"])
def test_a_device_that_dies_is_named_and_the_rest_still_runs(tmp_path: Path, text: str, victim: str) -> None:
    """Killed in the middle of a stream of requests: the source itself (h1), or one that the others wait for (h3)."""
    out = tmp_path / "out"
    with runs.started(runs.topology(tmp_path, text, **STREAM), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if r["method"] == "sequence" and not r["warmup"]], process)
        before = runs.records(out)
        os.kill(runs.device_pid(out, victim), signal.SIGKILL)
        killed = time.monotonic()
        failed = runs.until(lambda: _failed(out), process)
        assert time.monotonic() - killed < 5
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


def test_a_ray_node_that_dies_costs_its_methods_and_not_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    methods = "[sequence, tensor, single]"
    with runs.started(runs.topology(tmp_path, **STREAM | {"methods": methods}), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if not r["warmup"]], process)
        run_id = runs.read(out, "manifest.json")["run_id"]
        os.kill(runs.raylet_pid(run_id, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    status = {m["method"]: m for m in runs.read(out, "summary.json")["methods"]}
    assert [status[m]["status"] for m in ("sequence", "tensor", "single")] == ["failed", "failed", "ok"]
    assert "h2" in status["sequence"]["error"] and "h2" in status["tensor"]["error"]
    assert runs.left_behind(out) == []


def _failed(out: Path) -> dict[str, Any] | None:
    return next((m for m in runs.read(out, "methods.json") if m.get("failed_host")), None)


@pytest.mark.parametrize("text", BACKENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_records_and_leaves_nothing(
    tmp_path: Path, text: str, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    with runs.started(runs.topology(tmp_path, text, **STREAM), out) as process:
        runs.until(lambda: [r for r in runs.records(out) if r["method"] == "sequence"], process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    methods = {m["method"]: m for m in runs.read(out, "summary.json")["methods"]}
    assert methods["single"]["status"] == "ok"
    assert methods["sequence"]["status"] == "failed"
    assert "middle" in methods["sequence"]["error"]
    assert methods["pipeline"]["status"] == "skipped"
    assert runs.records(out)
    assert runs.left_behind(out) == []


@pytest.mark.parametrize("text", BACKENDS)
def test_clean_restores_the_machine_after_kill_9(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    with runs.started(runs.topology(tmp_path, text, **STREAM), out) as process:
        runs.until(lambda: runs.records(out), process)
        process.kill()
        process.communicate(timeout=60)
    assert runs.left_behind(out)
    command = [sys.executable, "-m", "testbed.clean"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert runs.left_behind(out) == []


def test_the_next_run_restores_the_machine_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with runs.started(runs.topology(tmp_path, **STREAM), out) as process:
        runs.until(lambda: runs.records(out), process)
        process.kill()
        process.communicate(timeout=60)
    assert runs.left_behind(out)
    code, text = runs.run(runs.topology(tmp_path, methods="[single]", repeats=1), tmp_path / "next")
    assert code == 0, text
    assert "removed what a crashed run had left" in text
    assert runs.left_behind(out) == []


def test_bad_files_are_refused_whole_and_nothing_starts(tmp_path: Path) -> None:
    path = runs.topology(tmp_path, model="vit-tinny", source="h9", methods="[sequenze]", tokens=0)
    code, text = runs.run(path, tmp_path / "out")
    assert code == 2
    for word in ("h9", "sequence", "tokens"):
        assert word in text
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = runs.topology(tmp_path, model="gpt2-tiny", tokens=5000, methods="[tensor, {block: {joins: 9}}]")
    code, text = runs.run(path, tmp_path / "out")
    assert code == 2
    assert "5000" in text
    assert "9 joins are too many" in text
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_too_short_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc")
    path = runs.topology(tmp_path, model="gpt2-tiny", methods="[single]")
    path.write_text(path.read_text() + f"  inputs: {tmp_path / 'short.txt'}\n")
    code, text = runs.run(path, tmp_path / "out")
    assert code == 2
    assert "run.inputs" in text and "3 tokens of text, 50 are needed" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_other_families_through_the_door(tmp_path: Path, model: str) -> None:
    """Text models, the source not the first host, a length that three devices cannot share evenly."""
    methods = "[sequence, pipeline, {astra: {groups: 2, codewords: 32}}]"
    out = tmp_path / "out"
    code, text = runs.run(runs.topology(tmp_path, model=model, source="h2", tokens=47, methods=methods, repeats=1), out)
    assert code == 0, text
    methods_found = runs.read(out, "summary.json")["methods"]
    for method in methods_found[:2]:
        assert method["fidelity"]["max_abs_error"] < 1e-4
    assert methods_found[2]["fidelity"]["cosine"] < 1
    assert all(method["payload_matches_formula"] for method in methods_found)
    assert next(r["host"] for r in runs.records(out) if r["rank"] == 0) == "h2"
