"""Predictions beside measurements: run folders whose every number is a formula, and sweeps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runtime import families
from testbed import store, topology
from testbed.cli import app
from testbed.page import maps
from testbed.page.data import gather
from testbed.page.page import page, report
from testbed.predict import against, kept, left, machine, messages, own
from testbed.predict.paper import FORMULA, PUBLISHED, read, told
from testbed.predict.work import EMULATED, LOOPBACK, Costs
from testbed.store import RunFolder
from testbed.sweep import folder, keys, points
from testbed.topology import MethodSpec
from tests import pages
from tests.works import line_bytes

NO_COSTS = Costs(kind=EMULATED)  # so that the commands take what tests have predicted
UNIT = 2**20  # of the paper's Mbit/s
METHODS = [MethodSpec("single"), MethodSpec("sequence"), MethodSpec("astra", {"groups": 1})]
SWEEP = """\
name: fig
backend: mininet
topology:
  - mesh: {hosts: 4, link: {rate: [10.48576 Mbit/s, 104.8576 Mbit/s]}}
run:
  source: h1
  model: vit-base
  tokens: 1024
  input_at: everywhere
  compute: {replay: PROFILE}
  methods: [single, sequence, {astra: {groups: 1}}]
  repeats: 4
sweep:
  except: [{rate: 10.48576 Mbit/s, method: sequence}]
"""
PROFILE = Path(__file__).parents[1] / "topologies" / "profiles" / "paper_encoder.yaml"
COMPUTE_S = {"single": 0.1115, "sequence": 0.0328, "astra G=1": 0.0392}


def due_s(label: str, rate_bit_s: float) -> float:
    """Compute, then in each of 12 layers what a device sends each other one over a cable of its own."""
    rows = 257 if label == "sequence" else 256
    payload = {"single": None, "sequence": rows * 768 * 4, "astra G=1": rows * 10 // 8}[label]
    return COMPUTE_S[label] + (0.0 if payload is None else 12 * line_bytes(payload) * 8 / rate_bit_s)


def sweep_folder(tmp_path: Path) -> tuple[Path, Path]:
    """A sweep and its file: of each point a run folder, with latencies by the formula but for the last digits."""
    file = tmp_path / "fig.yaml"
    file.write_text(SWEEP.replace("PROFILE", str(PROFILE)))
    path, rows = tmp_path / "sweep", []
    for number, point in enumerate(points.read(file).points):
        name = f"b{number}"
        _run(path / "blocks" / name, point.topology)
        common = {"block": name, "options": {}, "point": dict(point.chosen), "repetition": 1, "seed": 0, "code": "c"}
        for spec in point.topology.run.methods:
            cell = {"key": f"{name}{spec.label}", "label": spec.label, "method": spec.method, "status": "ok"}
            rows.append({**common, **cell, "run": f"blocks/{name}", "error": None})
    (path / folder.CELLS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"schema_version": 1, "name": "fig", "code": "c", "keys": [row["key"] for row in rows]}
    (path / folder.ABOUT).write_text(json.dumps(about))
    (path / folder.FILE).write_text(SWEEP.replace("PROFILE", "gone.yaml"))
    return path, file


def _run(path: Path, what: topology.Topology) -> None:
    rate = what.links[0].up.rate_bit_s
    facts = {"git": None, "machine": pages.MACHINE, "compute": "replayed", "profile": {"name": "paper_encoder"}}
    with RunFolder.create("fig", path) as made:
        made.write_text("run.yaml", topology.dump(what))
        made.write_text("profile.yaml", PROFILE.read_text())
        made.write_json("manifest.json", {"schema_version": 1, "shaper": "netem", **facts})
        made.write_json("links.json", pages.links("ok"))
        made.write_json("methods.json", [_entry(spec) for spec in what.run.methods])
        for spec in what.run.methods:
            for request in range(5):
                for rank in range(1 if spec.method == "single" else 4):
                    made.append_record(_record(spec, request, rank, rate))


def _entry(spec: MethodSpec) -> dict[str, Any]:
    return {"method": spec.method, "label": spec.label, "options": dict(spec.options), "status": "ok", "error": None,
            "equals_single": True}  # fmt: skip


def _record(spec: MethodSpec, request: int, rank: int, rate: float) -> dict[str, Any]:
    what = pages.Made()
    label = "single" if spec.method == "single" else "sequence"
    row = pages.record(what, label, request, min(rank, 1))
    seconds = due_s(spec.label, rate) * (1 + request / 10_000)
    host = f"h{rank + 1}"
    return {**row, "rank": rank, "host": host, "method": spec.method, "label": spec.label, "latency_s": seconds}


def test_cells_are_predicted_beside_what_was_measured_and_where_nothing_was(tmp_path: Path) -> None:
    path, _ = sweep_folder(tmp_path)
    cells = against.cells([path], NO_COSTS)
    measured = {(cell.spec.label, _rate(cell)): cell for cell in cells if cell.kind == against.REPLAYED}
    assert len(measured) == 5 and all(cell.n == 4 and cell.shaper == "netem" for cell in measured.values())
    for (label, rate), cell in measured.items():
        assert cell.measured_s == pytest.approx(due_s(label, rate), rel=1e-3)
        assert cell.error == pytest.approx(0.0, abs=0.08)  # the result, which the formula leaves out
    only = [cell for cell in cells if cell.kind == against.ONLY]
    assert [(cell.spec.label, _rate(cell), cell.n) for cell in only] == [("sequence", 10.48576e6, 0)]
    assert only[0].predicted_s == pytest.approx(due_s("sequence", 10.48576e6), rel=0.02) and only[0].error is None
    summed = against.errors(cells)
    assert summed is not None and summed.n == 3 and summed.median <= summed.worst < 0.08
    assert set(against.by(cells, lambda cell: cell.spec.label)) == {"sequence", "astra G=1"}


def _rate(cell: against.Cell) -> float:
    return cell.topology.links[0].up.rate_bit_s


def test_what_was_predicted_is_kept_until_the_sources_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = sweep_folder(tmp_path)
    first = against.cells([path], NO_COSTS)
    slow = Costs(send_s=1.0, kind=EMULATED)  # would be seen, if anything were predicted again
    assert [cell.predicted_s for cell in against.cells([path], slow)] == [cell.predicted_s for cell in first]
    files = [path / kept.NAME, *(path / "blocks" / name / kept.NAME for name in ("b0", "b1"))]
    assert all(file.is_file() for file in files)
    files[1].write_text("{damaged")
    assert [cell.predicted_s for cell in against.cells([path], NO_COSTS)] == [cell.predicted_s for cell in first]
    assert kept._sources.__wrapped__() == keys.code_version()  # of all sources, not of those of predictions only
    monkeypatch.setattr(kept, "_sources", lambda: "edited")
    assert max(cell.predicted_s or 0.0 for cell in against.cells([path], slow)) > 12


def test_costs_of_loopback_give_way_to_emulated_ones_and_are_told(tmp_path: Path) -> None:
    path, _ = sweep_folder(tmp_path)
    loopback = Costs(send_s=0.1, kind=LOOPBACK)
    slow = [cell for cell in against.cells([path], loopback) if cell.spec.method != "single"]
    fast = [cell for cell in against.cells([path], NO_COSTS) if cell.spec.method != "single"]
    assert {cell.costs for cell in slow} == {loopback} and {cell.costs for cell in fast} == {NO_COSTS}
    assert all((a.predicted_s or 0) > (b.predicted_s or 9) + 1 for a, b in zip(slow, fast, strict=True))
    entries = json.loads((path / "blocks" / "b0" / kept.NAME).read_text())["predictions"].values()
    assert [entry["costs"]["kind"] for entry in entries] == [EMULATED]
    assert messages.hold(NO_COSTS, None) and not messages.hold(Costs(), None)
    (said,) = messages.told([loopback, loopback])
    assert said.startswith("a message costs 100 ms, as measured over loopback")
    assert "costs 0-100 ms, as" in messages.told([NO_COSTS, replace(loopback, kind=EMULATED)])[0]


def test_the_command_prints_cells_and_errors(tmp_path: Path) -> None:
    path, _ = sweep_folder(tmp_path)
    against.cells([path], NO_COSTS)
    found = json.loads(_predict(path, "--json"))
    assert len(found["cells"]) == 6 and found["errors"]["all"]["n"] == 3
    assert [costs["kind"] for costs in found["costs"]] == [EMULATED]
    assert set(found["errors"]["by_shaper"]) == {"netem"}
    words = " ".join(_predict(path).split())
    assert "|error| of cells median worst" in words and "predicted only: nothing was measured there" in words
    assert "compute was replayed from paper_encoder: devices waited its times" in words
    assert "a message costs 0 ms, as measured between emulated hosts" in words
    assert "give its published speedups of 8 methods to" in words
    refused = CliRunner().invoke(app, ["predict", str(path), "--model", "events"])
    assert refused.exit_code == 2 and "are for a topology file" in refused.stderr
    nothing = CliRunner().invoke(app, ["predict", str(tmp_path)])
    assert nothing.exit_code == 2 and "not a run folder" in nothing.stderr


def _predict(path: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["predict", str(path), *more])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_of_a_run_that_computed_the_network_alone_is_predicted(tmp_path: Path) -> None:
    what = pages.Made(labels=("single", "sequence"), weights="random")
    run = store.load(pages.made(tmp_path / "run", what))
    shape = families.describe("vit-base", "random")
    found = {entry.method: entry for entry in own.profile(run, shape).entries}
    part_s = sorted(pages.latency_s(what, "sequence", n) for n in range(1, 5))[1:3]
    middle_s = sum(part_s) / 2 / (4 * pages.LAYERS + 2)
    assert found["sequence"].devices == 2 and found["single"].devices == 1
    for rank in (0, 1):
        stages = found["sequence"].ranks[rank]
        assert set(stages) == {"attention", "encode"}
        assert stages["attention"][:4] == pytest.approx([middle_s] * 3 + [0.0])  # type: ignore[index]
    cells = {cell.spec.label: cell for cell in against.cells([run.path], NO_COSTS)}
    single_s = 2 * pages.LAYERS * sum(sorted(pages.latency_s(what, "single", n) for n in range(1, 5))[1:3]) / 2
    assert {cell.kind for cell in cells.values()} == {against.REAL}
    assert cells["single"].predicted_s == pytest.approx(pages.LAYERS * single_s / (2 * pages.LAYERS) / 14, rel=0.01)
    without = pages.made(tmp_path / "old", pages.Made(labels=("single",), timeline=False, weights="random"))
    assert "no timeline.jsonl" in against.cells([without], NO_COSTS)[0].why


def test_the_page_shows_published_predicted_and_measured(tmp_path: Path) -> None:
    path, _ = sweep_folder(tmp_path)
    study = gather([path])
    found = page(study.with_cells(against.cells([path], NO_COSTS)))
    data = json.loads(found.split('id="page-data">')[1].split("</script>")[0])
    rows = {(row["label"], row["rate_bit_s"]): row for row in data["facts"]["forecasts"]}
    published = read()["encoder"]["speedup_over_single"]
    for label, name in (("sequence", "sp"), ("astra G=1", "astra_g1")):
        for rate, number in ((10.48576e6, 0), (104.8576e6, 3)):
            row = rows[label, rate]
            assert row["source"] == PUBLISHED and row["published_speedup"] == pytest.approx(published[name][number])
            assert row["accounted_speedup"] == pytest.approx(published[name][number], rel=0.01)
            assert row["predicted_speedup"] == pytest.approx(0.1115 / due_s(label, rate), rel=0.08)
    assert rows["sequence", 10.48576e6]["measured_s"] is None and rows["sequence", 10.48576e6]["basis"] == against.ONLY
    lines = {line["name"]: line for line in data["plots"]["by-rate-speedup-0-0"]["data"]}
    assert lines["sequence, predicted"]["x"] == lines["sequence, published"]["x"] == [10.48576e6, 104.8576e6]
    assert lines["sequence"]["x"] == [104.8576e6] and lines["sequence"]["mode"] == "markers"
    assert lines["sequence, published"]["line"]["dash"] == "dash"
    heat = data["plots"]["map-plot"]["data"][0]
    assert len(heat["z"]) == 7 and len(heat["z"][0]) == 8
    words = " ".join(found.split())
    assert "Over 3 methods and networks that were measured, the prediction is off by" in words
    assert "A message costs 0 ms, as measured between emulated hosts" in words and "steps in its accounting" in words
    assert "the steps that the runtime executes give its published speedups of 8 methods to" in words
    assert "One device is beaten by some method" in words and "Published, predicted, measured" in words


def test_maps_that_would_be_too_many_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = sweep_folder(tmp_path)
    monkeypatch.setattr(maps, "MOST", 0)
    found = page(gather([path]).with_cells(against.cells([path], NO_COSTS)))
    words = "Without a map, of which there are 0: a link per pair, 4 devices, 1024 tokens."
    assert words in found and "Fastest method" not in found


def test_figures_have_the_map(tmp_path: Path) -> None:
    path, _ = sweep_folder(tmp_path)
    against.cells([path], NO_COSTS)
    written = report([path], tmp_path / "p.html", tmp_path / "paper")
    assert {"map.pdf", "map.svg", "latency-by-bandwidth.svg"} <= {file.name for file in written}


@pytest.mark.parametrize(
    ("spec", "mbps", "size", "due"),
    [
        (MethodSpec("sequence"), 10, (1024, 4), (0.1115 / 0.0154, PUBLISHED)),
        (MethodSpec("single"), 30, (1024, 4), (0.1115, PUBLISHED)),
        (MethodSpec("sequence"), 30, (1024, 4), (32.8e-3 + 12 * 256 * 768 * 32 / (30 * UNIT), FORMULA)),
        (MethodSpec("block", {"joins": 4, "exchange": "sp"}), 10, (256, 4),
         (11.8e-3 + 2 * 4 * 64 * 768 * 32 / (10 * UNIT), FORMULA)),
        (MethodSpec("pipeline"), 10, (1024, 4), None),
        (MethodSpec("sequence"), 10, (1000, 4), None),
    ],
)  # fmt: skip
def test_what_the_paper_says_is_published_or_by_its_formula(
    spec: MethodSpec, mbps: float, size: tuple[int, int], due: tuple[float, str] | None
) -> None:
    found = told(read(), spec, mbps * UNIT, size)
    assert found == (None if due is None else (pytest.approx(due[0]), due[1]))


def test_time_left_is_that_of_all_requests_within_the_budget(tmp_path: Path) -> None:
    _, file = sweep_folder(tmp_path)
    estimate = left.estimate(file)
    slow, fast = (point.topology for point in points.read(file).points)
    labels: Sequence[str] = ("single", "sequence", "astra G=1")
    assert estimate(fast) == pytest.approx(5 * sum(due_s(label, 104.8576e6) for label in labels), rel=0.03)
    assert estimate(slow) == pytest.approx(5 * sum(due_s(label, 10.48576e6) for label in labels[::2]), rel=0.03)
    run = fast.run
    assert left.spent_s(7.0, run) == 7 * (1 + 4) and left.spent_s(50.0, run) == 100.0
    assert left.spent_s(13.0, run) == 13 * (1 + 3)  # a fourth would end after 65 s
    real = tmp_path / "real.yaml"
    real.write_text(SWEEP.replace("  compute: {replay: PROFILE}\n", ""))
    assert left.estimate(real)(fast) is None


def test_frames_and_messages_cost_something_where_hosts_can_be_made() -> None:
    found = machine.measure()
    if found is None:
        pytest.skip("namespaces need root")
    alone = found.alone()
    assert 1e-6 < found.packet_s + found.frame_s < 1e-3 and 0 <= found.hop_s < 1e-3 and 1e-6 < alone.send_s < 5e-3
    assert found.cores and found.line_s(4, 1, 0) == found.packet_s + 4 * found.frame_s
    assert alone.line_s(4, 1, 0) == alone.line_s(4, 1, 1) == 0
    assert alone.send_s == found.send_s + found.line_s(1, 1, 0) and alone.alone() == alone
    rest = found.receive_s, found.late_s, found.stage_s, found.code_s
    assert all(1e-7 < seconds < 5e-3 for seconds in rest) and 0 <= found.rest_s < 0.1
