"""Runs side by side, through the command: pairs, refusals, marks, sweeps, exports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas
import pytest
from rich.console import Console

from runtime.record import Record
from testbed import export, pairing
from testbed.compare import NotComparable, compare
from testbed.manifest import manifest
from testbed.store import RunFolder, StoreError, load
from testbed.summary import summary
from testbed.sweep import folder as sweeps

LATENCY_S = {"single": [0.50, 0.52, 0.48, 0.51, 0.55, 0.49], "sequence": [0.21, 0.20, 0.22, 0.19, 0.25, 0.20]}
RUN_YAML = """\
name: star_2
backend: mininet
hosts: {{h1: {{}}, h2: {{}}}}
defaults: {{link: {{rate: {rate}, delay: 5 ms, loss: 1 %}}}}
links: [h1 - h2]
run: {{source: h1, model: vit-tiny, weights: random, seed: {seed}, tokens: {tokens}, inputs: sample, repeats: 6}}
"""
LINK = {"from": "h1", "to": "h2", "attempt": 1, "declared": {}, "expected": {}, "measured": {}, "why": ""}


def saved(
    path: Path, *, slower: float = 1.0, rate: str = "10 Mbit/s", tokens: int = 16, seed: int = 0, **facts: Any
) -> Path:
    """A run folder on a network that was as declared; `facts` go into its manifest."""
    with RunFolder.create("star_2", path) as folder:
        folder.write_text("run.yaml", RUN_YAML.format(rate=rate, tokens=tokens, seed=seed))
        machine = {"cores": 8, "cpu": "a cpu"}
        folder.write_json(
            "manifest.json", manifest([], {}, {"git": None, "machine": machine, "shaper": "tbf", **facts})
        )
        folder.write_json("links.json", [{**LINK, "when": when, "verdict": "ok"} for when in ("before", "after")])
        common = {"options": {}, "status": "ok", "error": None, "equals_single": True}
        sent = {"single": [0], "sequence": [70, 80]}
        methods = [{"method": name, "label": name, "payload_formula": sent[name], **common} for name in LATENCY_S]
        folder.write_json("methods.json", methods)
        for name, times in LATENCY_S.items():
            for number, seconds in enumerate([9.0, *times]):
                for row in rows(name, number, seconds * slower, sent[name]):
                    folder.append_record({**row, "warmup": number == 0})
    return path


def rows(name: str, request: int, seconds: float, sent: Sequence[int]) -> list[dict[str, Any]]:
    """One request; a third of it is compute."""
    found = []
    for rank, count in enumerate(sent):
        record = Record(
            request, rank, seconds, compute_s=seconds / 3, sent_bytes=count, wire_bytes=count + 100, messages=2
        )
        found.append({**record.row(), "host": f"h{rank + 1}", "method": name, "label": name})
    found[0]["fidelity"] = {"max_abs_error": 1e-6, "cosine": 1.0, "top1_agreement": True, "kl": None}
    return found


def changed(path: Path, name: str, **values: Any) -> Path:
    """The run folder, with keys of every entry of a JSON file of it changed."""
    known = json.loads((path / name).read_text())
    entries = known if isinstance(known, list) else [known]
    for entry in entries:
        entry.update(values)
    (path / name).write_text(json.dumps(known))
    return path


def shown(*paths: Path, width: int = 80, **options: Any) -> list[str]:
    """What the comparison prints."""
    text = StringIO()
    compare(paths, Console(file=text, width=width, highlight=False), **options)
    return text.getvalue().splitlines()


def words_of(lines: Sequence[str], beginning: str, after: int = 0) -> list[str]:
    """The words of a line, `after` further down."""
    return lines[next(i for i, line in enumerate(lines) if line.startswith(beginning)) + after].split()


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "testbed.compare", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def swept(path: Path, cells: Mapping[tuple[str, int], Path], axis: str = "defaults.link.rate") -> Path:
    """A sweep folder with these runs, by rate (or what else the axis is) and repetition."""
    return sweep_of(path, [(where, run, tuple(LATENCY_S)) for where, run in cells.items()], axis)


def sweep_of(
    path: Path, runs: Sequence[tuple[tuple[str, int], Path, Sequence[str]]], axis: str = "defaults.link.rate"
) -> Path:
    """The same, with the methods whose cells each run has."""
    found = []
    for number, ((rate, repetition), run, labels) in enumerate(runs):
        for name in labels:
            point = {axis: rate}
            seed = load(run).topology["run"]["seed"]
            found.append({
                "key": f"{number}{name}", "block": run.name, "label": name, "method": name, "options": {},
                "point": point, "repetition": repetition, "seed": seed, "status": "ok", "code": "c",
                "run": f"blocks/{run.name}",
            })  # fmt: skip
    with sweeps.opened(path, "sweep", "name: sweep\n", "c", [cell["key"] for cell in found]) as folder:
        folder.add(found)
        for _, run, _ in runs:
            run.rename(path / "blocks" / run.name)
    return path


def failed(path: Path, label: str) -> Path:
    """The run folder, with a method that did not end well."""
    methods = json.loads((path / "methods.json").read_text())
    for method in methods:
        if method["label"] == label:
            method.update(status="failed", error="h2 lost")
    (path / "methods.json").write_text(json.dumps(methods))
    return path


def test_the_same_requests_are_paired(tmp_path: Path) -> None:
    lines = shown(saved(tmp_path / "a"), saved(tmp_path / "b", slower=2.0, rate="5 Mbit/s"))
    assert words_of(lines, "single")[1:6] == ["A", "6", "505", "ms", "1.00x"]
    assert words_of(lines, "single", after=2)[:5] == ["B", "6", "1.01", "s", "0.50x"]
    assert "0.50-0.50" in words_of(lines, "single", after=3)
    assert "Differs: links.h1 - h2.rate: A 10 Mbit/s; B 5 Mbit/s" in lines
    assert not any(line.startswith(("Marked", "Not paired", "NOT")) for line in lines)


def test_other_inputs_are_not_paired_and_that_is_said(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", slower=2.0, tokens=32)
    text = " ".join(" ".join(shown(a, b)).split())
    assert "Not paired: B, run.tokens: 16 against 32. Its vs A is the ratio of the medians." in text
    one, other = pairing.read([a, b])
    found = pairing.ratio(one.points[()], other.points[()], "single")
    assert found["ratio"] == pytest.approx(0.5) and found["paired"] is False
    assert found["ci95"][0] < 0.5 < found["ci95"][1]  # of medians drawn apart, not exactly 0.5 as of pairs
    other_seed = pairing.read([a, saved(tmp_path / "c", seed=1)])
    assert pairing.not_paired(*(side.points[()] for side in other_seed)) == "run.seed: none in common"


def test_fewer_pairs_than_requests_are_said(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", slower=2.0)
    kept = [line for line in (a / "records.jsonl").read_text().splitlines() if json.loads(line)["request"] < 4]
    (a / "records.jsonl").write_text("".join(f"{line}\n" for line in kept))
    lines = shown(a, b)
    assert words_of(lines, "single", after=2)[:5] == ["B", "6", "1.01", "s", "0.50x"]
    assert words_of(lines, "single", after=4)[0] == "n=3"


@pytest.mark.parametrize(("verdict", "words"), [("wrong", "not the declared one"), ("unverified", "not verified")])
def test_a_run_that_is_not_valid_is_refused(tmp_path: Path, verdict: str, words: str) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b")
    if verdict == "wrong":
        changed(b, "links.json", verdict="wrong", why="a long transfer gets 5 Mbit/s")
    else:
        (b / "links.json").write_text(json.dumps(json.loads((b / "links.json").read_text())[:1]))
    with pytest.raises(NotComparable) as refused:
        shown(a, b, out=tmp_path / "x.csv")
    first, last = str(refused.value).splitlines()
    assert first.startswith(f"not comparable: B {b}: ") and words in first and "--anyway" in last
    assert not (tmp_path / "x.csv").exists()
    assert any(line.startswith("NOT COMPARABLE: B") for line in shown(a, b, anyway=True))
    assert shown(b)  # by itself it is no comparison: its report says what it is


def test_the_command_refuses_with_2_and_exports_with_0(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", compute="replayed", profile={"name": "a_gpu"})
    done = command(a, b, "--export", tmp_path / "x.csv")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "x.csv").exists()
    assert len(done.stderr.splitlines()) == 2 and "compute: A real; B replayed from a_gpu" in done.stderr
    done = command(a, b, "--anyway", "--export", tmp_path / "x.csv")
    assert done.returncode == 0 and "NOT COMPARABLE" in done.stdout and (tmp_path / "x.csv").exists()
    done = command(a, "--export", tmp_path / "x.csv")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    done = command(a, "--force")
    assert done.returncode == 2 and "--export" in done.stderr and len(done.stderr.splitlines()) == 1


def test_real_and_replayed_compute_are_not_compared(tmp_path: Path) -> None:
    facts = {"compute": "replayed", "profile": {"name": "a_gpu", "sha256": "0"}}
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", **facts)
    with pytest.raises(NotComparable, match="compute: A real; B replayed from a_gpu"):
        shown(a, b)
    assert any("compute replayed from a_gpu" in line for line in shown(a, b, anyway=True, width=200))
    other = saved(tmp_path / "c", **{**facts, "profile": {"name": "a_phone", "sha256": "1"}})
    assert {"Marked: profile.name: A a_gpu; B a_phone", "Marked: profile.sha256: A 0; B 1"} <= set(shown(b, other))
    assert any(line.startswith("Compute replayed from a_gpu") for line in shown(b))


def test_code_and_machine_are_marked_and_the_network_is_what_is_compared(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", git={"commit": "a" * 40, "dirty": False})
    facts = {"git": {"commit": "b" * 40, "dirty": False}, "machine": {"cores": 4, "cpu": "a cpu"}, "shaper": "relay"}
    lines = shown(a, saved(tmp_path / "b", rate="1 Mbit/s", **facts))
    assert [line for line in lines if line.startswith(("Marked", "Differs"))] == [
        "Marked: git.commit: A aaaaaaaa; B bbbbbbbb",
        "Marked: machine.cores: A 8; B 4",
        "Marked: shaper: A tbf; B relay",
        "Marked: no topology declares it, and a ratio may come from it alone.",
        "Differs: links.h1 - h2.rate: A 10 Mbit/s; B 1 Mbit/s",
    ]


def test_code_that_was_changed_after_its_commit_is_announced(tmp_path: Path) -> None:
    paths = [saved(tmp_path / name, git={"commit": "a" * 40, "dirty": True}) for name in "ab"]
    assert any(line.startswith("Note A, B: the code was changed") for line in shown(*paths))


def test_a_sweep_is_shown_by_point_and_its_repetitions_together(tmp_path: Path) -> None:
    runs = {
        ("100 Mbit/s", 0): saved(tmp_path / "p0", rate="100 Mbit/s"),
        ("500 kbit/s", 0): saved(tmp_path / "q0", rate="500 kbit/s", slower=4.0),
        ("100 Mbit/s", 1): saved(tmp_path / "p1", rate="100 Mbit/s", seed=1),
    }
    lines = shown(swept(tmp_path / "sweep", runs))
    assert [line for line in lines if line.startswith("At ")] == [
        "At defaults.link.rate 500 kbit/s",
        "At defaults.link.rate 100 Mbit/s",
    ]
    counts = [line.split()[2] for line in lines if line.startswith("sequence") and line.endswith("e-6")]
    assert counts == ["6", "12"]
    assert words_of(lines, "A ")[1:9] == ["star_2,", "a", "sweep", "of", "3", "runs", "at", "2"]
    last = [line.split() for line in lines if line.startswith("sequence")][-1]
    ratio = geometric([a / b for a, b in zip(*LATENCY_S.values(), strict=True)])
    assert last == ["sequence", "A", "2", f"{ratio:.2f}x", f"{ratio:.2f}x", "-", f"{ratio:.2f}x"]


def geometric(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product ** (1 / len(values))


def test_two_sweeps_are_paired_point_by_point(tmp_path: Path) -> None:
    def sweep(name: str, slower: Mapping[str, float]) -> Path:
        runs = {
            (rate, 0): saved(tmp_path / f"{name}{number}", rate=rate, slower=factor)
            for number, (rate, factor) in enumerate(slower.items())
        }
        return swept(tmp_path / name, runs)

    a = sweep("a", {"1 Mbit/s": 1.0, "10 Mbit/s": 1.0})
    b = sweep("b", {"1 Mbit/s": 1.0, "10 Mbit/s": 4.0})
    one, other = pairing.read([a, b])
    ratios = [pairing.ratio(one.points[point], other.points[point], "single") for point in one.points]
    assert [found["ratio"] for found in ratios] == pytest.approx([1, 1 / 4])
    assert all(found["ci95"] == pytest.approx([found["ratio"]] * 2) and found["n"] == 6 for found in ratios)
    lines = shown(a, b)
    at = next(i for i, line in enumerate(lines) if line.startswith("Over all points"))
    single = words_of(lines[at:], "single", after=1)
    assert single == ["B", "2", "1.00x", "1.00x", "-", "1.00x", "0.50x", "0.25x", "-", "1.00x"]
    assert "Differs: nothing that was declared" in lines


def test_a_run_of_a_sweep_that_is_not_valid_is_left_out_and_named(tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good"), saved(tmp_path / "bad", rate="1 Mbit/s")
    changed(bad, "links.json", verdict="wrong", why="no")
    sweep = swept(tmp_path / "sweep", {("10 Mbit/s", 0): good, ("1 Mbit/s", 0): bad})
    lines = shown(sweep, width=300)
    assert any(line.startswith("A  left out: ") and "blocks/bad" in line for line in lines)
    assert not any(line.startswith("At ") and "1 Mbit/s" in line.split("rate ")[1][:6] for line in lines)
    assert any("2 runs at 2 points" in line for line in shown(sweep, width=300, anyway=True))
    changed(sweep / "blocks" / "good", "links.json", verdict="wrong", why="no")
    with pytest.raises(StoreError, match="no run of this sweep can be compared"):
        shown(sweep)


def test_runs_of_a_point_are_paired_by_repetition(tmp_path: Path) -> None:
    """Of B the first repetition is left out: its second one is held against A's second one, not against the first."""
    rate = "10 Mbit/s"
    a = swept(tmp_path / "a", {(rate, n): saved(tmp_path / f"a{n}", slower=n) for n in (1, 2)})
    runs = {n: saved(tmp_path / f"b{n}", slower=4) for n in (1, 2)}
    changed(runs[1], "links.json", verdict="wrong", why="no")
    b = swept(tmp_path / "b", {(rate, n): run for n, run in runs.items()})
    one, other = pairing.read([a, b])
    (point,) = other.points
    found = pairing.ratio(one.points[point], other.points[point], "single")
    assert (found["n"], found["paired"]) == (6, True) and found["ratio"] == pytest.approx(2 / 4)


def test_of_a_repetition_that_ran_twice_the_run_that_the_cell_names_counts(tmp_path: Path) -> None:
    """A method that was added or run again later had single beside it: that is no other repetition."""
    at = ("10 Mbit/s", 1)
    a = swept(tmp_path / "a", {at: saved(tmp_path / "a1"), ("10 Mbit/s", 2): saved(tmp_path / "a2", slower=2)})
    again, first = saved(tmp_path / "again", slower=3), failed(saved(tmp_path / "first", slower=5), "sequence")
    last = saved(tmp_path / "last", slower=2)
    labels = (("sequence",), ("single",), ("single", "sequence"))
    places = ((at, again), (at, first), (("10 Mbit/s", 2), last))
    b = sweep_of(tmp_path / "b", [(*place, own) for place, own in zip(places, labels, strict=True)])
    one, other = pairing.read([a, b])
    (point,) = other.points
    for label, slower in (("single", 5), ("sequence", 3)):
        found = pairing.ratio(one.points[point], other.points[point], label)
        assert found["n"] == 12 and found["ratio"] == pytest.approx(slower**-0.5)
    assert pairing.failures(other.points[point]) == []  # it was run again, and well


def test_where_no_request_was_measured_by_both_that_is_said(tmp_path: Path) -> None:
    rate = "10 Mbit/s"
    a = {(rate, 1): saved(tmp_path / "a1"), (rate, 2): failed(saved(tmp_path / "a2"), "sequence")}
    b = {(rate, 1): failed(saved(tmp_path / "b1"), "sequence"), (rate, 2): saved(tmp_path / "b2")}
    b[("1 Mbit/s", 1)] = saved(tmp_path / "b3", rate="1 Mbit/s")
    lines = shown(swept(tmp_path / "a", a), swept(tmp_path / "b", b), width=200)
    assert [line for line in lines if line.startswith("No vs A")] == [
        "No vs A: B, at defaults.link.rate 1 Mbit/s: A has nothing there",
        "No vs A: B, defaults.link.rate 10 Mbit/s: sequence: no request that both have measured (n = 0)",
    ]


def test_cells_that_have_no_run_are_named(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "sweep", {("10 Mbit/s", 1): saved(tmp_path / "good")})
    rows = [json.loads(line) for line in (sweep / sweeps.CELLS).read_text().splitlines()]
    lost = {"status": "failed", "error": "no room for the model", "run": None}
    point = {"defaults.link.rate": "1 Mbit/s"}
    more = [{**row, **lost, "point": point, "key": f"lost {row['key']}"} for row in rows]
    known = [row["key"] for row in (*rows, *more)]
    with sweeps.opened(sweep, "sweep", "name: sweep\n", "c", [*known, "never", "neither"]) as folder:
        folder.add([*more, {**more[0], "key": "of a point that the file has no more"}])
    assert [line for line in shown(sweep, width=200) if "left out" in line] == [
        "A  left out: single at defaults.link.rate 1 Mbit/s and 1 more cells: no room for the model",
        "A  left out: 2 cells that have not run yet",
    ]
    (sweep / sweeps.CELLS).write_text("".join(json.dumps(row) + "\n" for row in more))
    with pytest.raises(StoreError, match=r"no run of this sweep can be compared; single at .*: no room for the model"):
        shown(sweep)


def test_a_sweep_over_real_and_replayed_compute_is_compared_point_by_point(tmp_path: Path) -> None:
    facts = {"compute": "replayed", "profile": {"name": "a_gpu", "sha256": "0"}}

    def sweep(name: str, real: Mapping[str, Any], replayed: Mapping[str, Any]) -> Path:
        facts = {"real": real, "replay": replayed}
        runs = {(axis, 1): saved(tmp_path / f"{name}-{axis}", **own) for axis, own in facts.items()}
        return swept(tmp_path / name, runs, "run.compute")

    a, b, mixed = sweep("a", {}, facts), sweep("b", {}, facts), sweep("mixed", facts, facts)
    assert not any("NOT COMPARABLE" in line for line in shown(a, b))
    assert shown(a)
    with pytest.raises(NotComparable, match="compute: A real; B replayed from a_gpu: one measures devices"):
        shown(a, mixed)


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b")
    (tmp_path / "link").symlink_to(a)
    for same in (a, tmp_path / "b" / ".." / "a", tmp_path / "link"):
        with pytest.raises(NotComparable, match=r"^not comparable: .* is .*: give it once$"):
            shown(a, b, same, anyway=True)


def test_code_that_changed_in_the_course_of_a_sweep_is_marked(tmp_path: Path) -> None:
    runs = {
        (f"{n} Mbit/s", 0): saved(tmp_path / f"{n}", rate=f"{n} Mbit/s", shaper=s)
        for n, s in ((1, "tbf"), (2, "relay"))
    }
    lines = shown(swept(tmp_path / "sweep", runs))
    assert "Marked: shaper: A tbf or relay" in lines and not any(line.startswith("Differs") for line in lines)


READ = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}


@pytest.mark.parametrize("suffix", READ)
def test_an_export_reads_back_as_the_summary(tmp_path: Path, suffix: str) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", slower=2.0)
    out = tmp_path / f"table{suffix}"
    assert "exported to" in " ".join(shown(a, b, out=out))
    table = READ[suffix](out)
    assert list(zip(table["run"], table["label"], strict=True)) == [(r, m) for r in "AB" for m in LATENCY_S]
    for path, (_, found) in zip((a, b), table.groupby("run"), strict=True):
        for method, (_, row) in zip(summary(load(path))["methods"], found.iterrows(), strict=True):
            same_as(row, method)
            assert (row["rate_bit_s"], row["delay_s"], row["loss"]) == (1e7, 0.005, 0.01)
            assert (row["name"], row["hosts"], row["tokens"], row["model"]) == ("star_2", 2, 16, "vit-tiny")
            assert (row["weights"], row["shaper"], row["verdict"], row["compute"]) == ("random", "tbf", "ok", "real")
    assert list(table["vs_a"]) == pytest.approx([1, 1, 0.5, 0.5]) and list(table["vs_a_n"]) == [6] * 4
    assert not (tmp_path / f".table{suffix}.new").exists()


def same_as(row: Any, method: Mapping[str, Any]) -> None:
    """Every figure of a row is that of the summary, to the last digit."""
    seconds, speedup = method["latency_s"], method["speedup"]
    expected = {
        "n": seconds["n"], "latency_median_s": seconds["median"], "latency_mean_s": seconds["mean"],
        "latency_median_low_s": seconds["ci95"][0], "latency_median_high_s": seconds["ci95"][1],
        "latency_mean_low_s": seconds["mean_ci95"][0], "latency_p95_s": seconds["p95"], "latency_p99_s": seconds["p99"],
        "speedup": speedup["ratio"], "speedup_low": speedup["ci95"][0], "speedup_n": speedup["n"],
        "compute_s": method["compute_s"], "code_s": method["code_s"], "wait_s": method["exchange_wait_s"],
        "scatter_s": method["scatter_s"], "gather_s": method["gather_s"], "cosine": method["fidelity"]["cosine"],
        "payload_bytes_most": max(method["payload_bytes"]), "payload_bytes_sum": sum(method["payload_bytes"]),
        "wire_bytes_sum": sum(method["wire_bytes"]), "messages_sum": sum(method["messages"]),
    }  # fmt: skip
    assert {key: None if pandas.isna(row[key]) else row[key] for key in expected} == expected


def test_accuracy_is_beside_latency(tmp_path: Path) -> None:
    task = {"metric": "top1", "original": 0.9, "single": 0.8, "this": 0.75, "n": 450}
    a = changed(saved(tmp_path / "a"), "methods.json", task=task)
    rows = [json.loads(line) for line in (a / "records.jsonl").read_text().splitlines()]
    for row in rows:
        if row["rank"] == 0:
            row["score"] = {"metric": "top1", "input": f"{row['request']:016x}", "this": 1.0, "single": 1.0}
    (a / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = shown(a, saved(tmp_path / "b"), width=160, out=tmp_path / "table.csv")
    assert any(
        line.startswith("A  task, by the outputs of this run's requests: top-1 single 100.0% (n 6") for line in lines
    )
    table = pandas.read_csv(tmp_path / "table.csv")
    first, second = (table[table["run"] == letter] for letter in "AB")
    for name, value in {"task_this": 0.75, "task_n": 450, "here_value": 1.0, "here_n": 6}.items():
        assert set(first[name]) == {value} and second[name].isna().all()
    assert not any(line.startswith("B  task") for line in lines)


def test_columns_have_the_same_types_in_every_export(tmp_path: Path) -> None:
    """p95 of 6 requests is empty; it is a number all the same."""
    shown(saved(tmp_path / "a"), out=tmp_path / "a.parquet")
    types = pandas.read_parquet(tmp_path / "a.parquet").dtypes
    assert {str(types[name]) for name in ("latency_p95_s", "delay_s", "kl", "rate_bit_s")} == {"Float64"}
    assert str(types["n"]) == "Int64" and str(types["vs_a_paired"]) == "boolean"


def test_tables_for_a_paper_are_rounded_and_escaped(tmp_path: Path) -> None:
    a = saved(tmp_path / "a")
    changed(a, "methods.json", label="x_1 & 50% | y")
    lines = (a / "records.jsonl").read_text().replace('"label": "sequence"', '"label": "x_1 & 50% | y"')
    (a / "records.jsonl").write_text(lines.replace('"label": "single"', '"label": "z"'))
    for suffix in (".md", ".tex"):
        shown(a, out=tmp_path / f"table{suffix}")
    latex, markdown = ((tmp_path / f"table{suffix}").read_text() for suffix in (".tex", ".md"))
    assert r"x\_1 \& 50\% | y & 6 &" in latex and r"\toprule" in latex and "205 [190, 250] & 212 [" in latex
    assert r"x_1 & 50% \| y" in markdown and "205 [190, 250]" in markdown
    assert "median (ms)" in markdown and "mean (ms)" in markdown
    rows = [line.replace(r"\|", "") for line in markdown.splitlines()]
    assert len({line.count("|") for line in rows}) == 1 and len(rows) == 4


def test_repetitions_are_rows_of_a_table_and_one_row_of_a_paper(tmp_path: Path) -> None:
    runs = {("1 Mbit/s", n): saved(tmp_path / f"r{n}", rate="1 Mbit/s", seed=n) for n in range(2)}
    sweep = swept(tmp_path / "sweep", runs)
    shown(sweep, out=tmp_path / "x.csv")
    shown(sweep, out=tmp_path / "x.md")
    table = pandas.read_csv(tmp_path / "x.csv")
    assert list(table["seed"]) == [0, 0, 1, 1] and set(table["at defaults.link.rate"]) == {"1 Mbit/s"}
    assert [line.split("|")[4].strip() for line in (tmp_path / "x.md").read_text().splitlines()[2:]] == ["12", "12"]


def test_links_that_differ_have_no_common_rate(tmp_path: Path) -> None:
    a = saved(tmp_path / "a")
    text = (a / "run.yaml").read_text().replace("[h1 - h2]", "[{between: h1 - h2, up: {rate: 1 Mbit/s}}]")
    (a / "run.yaml").write_text(text)
    (row, _) = export.rows(pairing.read([a]))
    assert (row["rate_bit_s"], row["delay_s"]) == (None, 0.005)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.pdf", ".csv, .parquet, .tex, .md"),
        ("there.csv", "--force"),
        ("no/x.csv", "no folder"),
        ("dir.csv", "a folder"),
    ],
)
def test_a_file_that_cannot_be_exported_to_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    a = saved(tmp_path / "a")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(export.BadExport) as refused:
        shown(a, out=tmp_path / name)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "there.csv").read_text() == "mine"
    shown(a, out=tmp_path / "there.csv", force=True)
    assert (tmp_path / "there.csv").read_text().startswith("run,")


def test_a_folder_of_an_older_program_is_compared_with_one_of_now(tmp_path: Path) -> None:
    old = Path(__file__).parent / "data" / "run_v1"
    lines = shown(old, saved(tmp_path / "new"))
    assert words_of(lines, "sequence")[:5] == ["sequence", "A", "6", "5.22", "ms"]
    assert not any("compute" in line and line.startswith("Marked") for line in lines)
