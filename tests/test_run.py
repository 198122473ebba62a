"""The whole product, as a user runs it: a file in, a run folder and a table out, and nothing else left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import experiment
from testbed import topology as topologies
from tests import networks, runs

BACKENDS = [pytest.param(runs.LOCAL, id="local"), pytest.param(runs.STAR, id="mininet", marks=networks.measured)]
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
        "astra G=1 K=64 transport=udp deadline=5 s",
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


def test_over_udp_nothing_is_lost_where_links_lose_nothing(finished: tuple[Path, int, str]) -> None:
    """And with the codebooks of the other transport the same comes out."""
    *_, tcp, udp = runs.read(finished[0], "summary.json")["methods"]
    assert udp["fidelity"] == tcp["fidelity"] and tcp["lost"] is None
    layers, tokens = 4, 50
    assert udp["lost"]["due"] == 2 * 2 * layers * tokens and udp["lost"]["tokens"] == 0
    assert "transport=udp deadline=5 s 0 of 800 tokens" in " ".join(finished[2].split())


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
    verdict = runs.read(out, "summary.json")["network"]["verdict"]
    assert manifest["command"][-1] == str(out)
    assert manifest["versions"]["ray"] == "2.60.0"
    assert manifest["sysctls"]["net.ipv4.tcp_congestion_control"]
    links = runs.read(out, "links.json")
    if manifest["backend"] == "local":
        assert links == [] and verdict == "unshaped"
    else:
        assert verdict == "ok" and {row["when"] for row in links} == {"before", "after"}
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
    again = shutil.copytree(finished[0], finished[0].with_name("again"), dirs_exist_ok=True)
    command = [sys.executable, "-m", "testbed.compare", str(finished[0]), str(again)]
    text = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout
    assert "astra G=1" in text


@pytest.mark.parametrize(
    ("verdict", "statuses", "code"),
    [
        ("ok", ["ok", "ok"], 0),
        ("ok", ["ok", "failed"], 1),
        ("unshaped", ["ok"], 0),
        ("degraded", ["ok"], 4),
        ("degraded", ["failed"], 1),
        ("wrong", ["failed"], 3),
        ("unverified", ["ok"], 3),
    ],
)
def test_the_exit_status_is_the_worst_that_is_known(verdict: str, statuses: list[str], code: int) -> None:
    found = {"network": {"verdict": verdict, "reasons": []}, "methods": [{"status": status} for status in statuses]}
    assert experiment.status(found) == code


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
