"""Computing that is replayed: devices wait what a profile says, send what they would send, and claim nothing else."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from agents.cluster import Cluster
from agents.place import place
from runtime import families, methods
from runtime.device import Device
from runtime.hollow import HollowWeights
from runtime.methods import METHODS as METHODS_KNOWN
from runtime.profile import STAGES, Entry, Profile
from runtime.stages import Replayed
from runtime.steps import Compute, steps
from runtime.transport import loopback
from testbed import check, profiles
from testbed.cli import app
from testbed.predict.command import predict
from testbed.profile import _figures
from testbed.topology import TopologyError
from tests import runs

TOTAL_S = {"single": 0.06, "tensor": 0.03, "sequence": 0.03, "block": 0.03, "pipeline": 0.03, "astra": 0.02}
METHODS = ["single", "tensor", "sequence", {"block": {"joins": 1}}, "pipeline", {"astra": {"groups": 2}}]
TIMES = {
    "embed": "1 ms",
    "input": "1 ms",
    "encode": ["1 ms"] * 4,
    "mlp": "1500 us",
    "decode": "0.5 ms",
    "head": "2 ms",
}


def entry(method: str, devices: int, **more: object) -> dict[str, object]:
    return {"method": method, "tokens": 50, "devices": devices, **more}


def profile(folder: Path, *entries: dict[str, object], layers: int = 4, width: int = 192) -> Path:
    found = {"profile": "made_up", "model": {"layers": layers, "width": width}, "entries": list(entries)}
    path = folder / "made_up.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def topology(folder: Path, methods: list[object], compute: object, **more: object) -> Path:
    run = {"model": "vit-tiny", "tokens": 50, "methods": methods, "repeats": 3, "compute": compute, **more}
    path = folder / "replayed.yaml"
    path.write_text(
        yaml.safe_dump({"name": "replayed", "backend": "local", "hosts": {"h1": {}, "h2": {}, "h3": {}}, "run": run})
    )
    return path


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One replayed run of all methods whose devices have the input: its folder and output."""
    folder = tmp_path_factory.mktemp("replayed")
    options = {"block": {"joins": 1}, "astra": {"groups": 2}}
    entries = [
        entry(method, 1 if method == "single" else 3, options=options.get(method, {}), total=f"{seconds * 1e3} ms")
        for method, seconds in TOTAL_S.items()
        if method != "astra"
    ]
    astra = entry("astra", 3, options=options["astra"], ranks=[TIMES])
    profile(folder, *entries, astra)
    path = topology(folder, METHODS, {"replay": "made_up.yaml"}, input_at="everywhere")
    code, text = runs.run(path, folder / "out")
    assert code == 0, text
    return folder / "out", text


def test_it_says_that_it_was_replayed_and_claims_no_result(replayed: tuple[Path, str]) -> None:
    out, text = replayed
    assert "Compute replayed from made_up" in text and "Untrained" not in text
    manifest, summary = runs.read(out, "manifest.json"), runs.read(out, "summary.json")
    assert (manifest["compute"], manifest["profile"]["name"]) == ("replayed", "made_up")
    assert (summary["compute"], summary["profile"]) == ("replayed", "made_up")
    for method in summary["methods"]:
        assert method["status"] == "ok" and method["payload_matches_formula"]
        assert method["compared"] is False and method["fidelity"]["max_abs_error"] is None
        assert 0 <= method["late_s"][0] <= method["late_s"][1]


def test_a_device_computes_as_long_as_its_profile_says(replayed: tuple[Path, str]) -> None:
    for row in runs.records(replayed[0]):
        computed_s = row["compute_s"] + row["code_s"]
        if row["method"] == "astra":
            own = (1 + 2 if row["rank"] == 0 else 1) + 4 * (1 + 1 + 1.5 + 0.5)  # embed, head; input, codes, mlp
            assert row["code_s"] > 0
        elif row["method"] == "pipeline":
            own = TOTAL_S["pipeline"] * 1e3 * (2 if row["rank"] == 0 else 1) / 4  # its share of the 4 layers
        else:
            own = TOTAL_S[row["method"]] * 1e3
        assert 0.98 * own * 1e-3 <= computed_s <= 2 * own * 1e-3 + 0.05, row  # above: a busy machine wakes late


def test_devices_that_have_the_input_are_sent_none(replayed: tuple[Path, str]) -> None:
    assert {row["scatter_bytes"] for row in runs.records(replayed[0])} == {0}


def test_the_timeline_tells_where_the_time_of_every_record_went(replayed: tuple[Path, str]) -> None:
    out, _ = replayed
    rows = [json.loads(line) for line in (out / "timeline.jsonl").read_text().splitlines()]
    timelines = {(row["label"], row["request"], row["rank"]): row for row in rows}
    records = runs.records(out)
    assert timelines.keys() == {(row["label"], row["request"], row["rank"]) for row in records}
    for record in records:
        spans = timelines[record["label"], record["request"], record["rank"]]["spans"]
        total = {kind: sum(seconds for found, *_, seconds in spans if found == kind) for kind in ("code", "wait")}
        assert total["code"] == pytest.approx(record["code_s"], abs=1e-6)
        assert total["wait"] == pytest.approx(record["waited_s"], abs=1e-3)
        ends = [(start_s, start_s + seconds) for *_, start_s, seconds in spans]
        assert all(end <= later for (_, end), (later, _) in pairwise(ends))
        assert ends[0][0] >= 0 and ends[-1][1] <= record["latency_s"] + 1e-3


def test_a_run_folder_replays_the_profile_that_it_holds(replayed: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = replayed
    assert check.problems(out / "run.yaml") == []
    assert check.load(out / "run.yaml").run.compute == str(out / "profile.yaml")
    assert profiles.read(out / "profile.yaml").name == "made_up"


@pytest.mark.parametrize(
    ("entries", "more", "said"),
    [
        ([entry("sequence", 2, total="1 ms")], {}, "no sequence with 50 tokens on 3 devices, only with 50 on 2"),
        ([entry("astra", 3, total="1 ms")], {}, "no sequence with 50 tokens on 3 devices, at all"),
        ([entry("sequence", 3, total="1 ms")], {"width": 768}, "of 4 layers of width 768, vit-tiny has"),
        ([entry("sequenze", 3, total="1 ms")], {}, 'unknown method; did you mean "sequence"?'),
        ([entry("sequence", 3)], {}, "give either total or ranks"),
        ([entry("sequence", 3, ranks=[{"mlp": "1 ms"}, {"mlp": "1 ms"}])], {}, "2 given: one for all ranks"),
        ([entry("sequence", 3, ranks=[{"mlp": ["1 ms"]}])], {}, "1 values for 4 layers"),
        ([entry("sequence", 3, ranks=[{"atention": "1 ms"}])], {}, 'unknown stage; did you mean "attention"?'),
        ([entry("sequence", 3, total="1 m")], {}, "duration"),
        ([entry("astra", 3, options={"group": 1}, total="1 ms")], {}, "group"),
    ],
)  # fmt: skip
def test_a_profile_that_does_not_fit_is_refused(
    entries: list[dict[str, object]], more: dict[str, int], said: str, tmp_path: Path
) -> None:
    profile(tmp_path, *entries, **more)
    found = check.problems(topology(tmp_path, ["sequence"], {"replay": "made_up.yaml"}))
    assert len(found) == 1 and said in found[0] and "replayed.yaml:" in found[0]


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"replay": "nowhere.yaml"}, "nowhere.yaml: cannot be read: No such file or directory"),
        ({"reply": "made_up.yaml"}, 'unknown key, did you mean "replay"?'),
        ("fast", "choose real, or {replay: PROFILE}"),
    ],
)
def test_what_is_no_profile_is_refused(compute: object, said: str, tmp_path: Path) -> None:
    found = check.problems(topology(tmp_path, ["single"], compute))
    assert any(said in line for line in found)


def test_a_profile_survives_being_written(tmp_path: Path) -> None:
    ranks = ({"input": 1.5e-3, "mlp": (0.001, 0.25, 3e-6, 0.0)}, {"head": 2.0})
    made = Profile("two", 4, 192, (Entry("astra", {"groups": 2}, 50, 2, ranks), Entry("single", {}, 50, 1, (), 0.25)))
    profiles.write(tmp_path / "two.yaml", made, "figures", {"cpu": "none"})
    assert profiles.read(tmp_path / "two.yaml") == made
    (tmp_path / "two.yaml").write_text("profile: 3\nentries: []\n")
    with pytest.raises(TopologyError, match="model"):
        profiles.read(tmp_path / "two.yaml")


def test_stages_are_timed_on_this_machine_and_can_be_replayed(tmp_path: Path) -> None:
    path, written = topology(tmp_path, METHODS, "real"), tmp_path / "mine.yaml"
    content = yaml.safe_load(path.read_text())
    content |= {"backend": "mininet", "links": [{"between": f"h1 - {end}", "rate": "1 Gbit/s"} for end in ("h2", "h3")]}
    path.write_text(yaml.safe_dump({**content, "hosts": {"h1": {"cpu": 0.5}, "h2": {}, "h3": {}}}))
    code, text = runs.command("profile", path, "--out", written, "--repeats", "1")
    assert code == 0, text
    found = profiles.read(written)
    assert [(one.method, one.devices, len(one.ranks)) for one in found.entries] == [
        ("single", 1, 1), *((name, 3, 3) for name in ("tensor", "sequence", "block", "pipeline", "astra"))
    ]  # fmt: skip
    assert all(one.whole_s(found.layers) > 0 for one in found.entries)
    assert {"encode", "decode"} <= found.entries[-1].ranks[0].keys()
    assert "the CPU shares of the file's hosts did not hold" in yaml.safe_load(written.read_text())["about"]
    replaying = topology(tmp_path, METHODS, {"replay": "mine.yaml"})
    assert check.problems(replaying) == []
    single, whole_s = found.entries[0], found.entries[0].whole_s(found.layers)
    assert 0.98 * whole_s <= _replayed_s(single, found.layers) <= 2 * whole_s + 0.05
    shape = families.describe("vit-tiny", "random")
    forecast = predict(check.load(replaying), found, shape)[0]
    assert forecast.label == "single" and forecast.row["latency_s"] == pytest.approx(whole_s)
    refused = CliRunner().invoke(app, ["profile", str(replaying)])
    assert refused.exit_code == 2 and "run.compute: real" in refused.stderr and refused.stderr.count("\n") == 1


def _replayed_s(entry: Entry, layers: int) -> float:
    """What computing takes on a device that replays single."""
    shape = families.describe("vit-tiny", "random")
    plan = place("single", {}, shape, entry.tokens, Cluster(("h1",)))
    stages = Replayed(lambda stage, layer: entry.seconds(0, stage, layer, layers))
    method = methods.load("single")(HollowWeights(shape), plan, 0, stages=stages)
    raw = torch.zeros(entry.tokens, shape.patch**2 * shape.channels, dtype=torch.uint8)
    Device(method, loopback.mesh(1, 1.0)[0]).infer(0, raw)
    return sum(seconds for kind, *_, seconds in stages.spans if kind in ("compute", "code"))


@pytest.mark.parametrize("method", METHODS_KNOWN)
def test_every_stage_of_every_method_may_stand_in_a_profile(method: str) -> None:
    shape = families.describe("vit-tiny", "random")
    plan = place(method, {}, shape, 16, Cluster(("h1", "h2")))
    for rank in range(plan.world):
        found = {step.stage for step in steps(plan, shape, rank) if isinstance(step, Compute)}
        assert found <= set(STAGES)


def test_layers_that_take_less_or_more_are_kept_apart() -> None:
    assert _figures({layer: [1.0 + layer / 10] for layer in range(4)}, 4) == pytest.approx(1.15)
    for other in (0.1, 9.0):
        assert _figures({0: [1.0], 1: [1.0], 2: [other]}, 3) == (1.0, 1.0, other)


def test_a_stage_that_ends_late_shortens_the_next_one() -> None:
    """However late: together they take what the profile says."""
    stages = Replayed(lambda name, layer: {"free": 0.0, "timed": 0.4}[name])
    with stages("free"):
        time.sleep(0.2)
    with stages("timed"):
        pass
    free_s, timed_s = (seconds for *_, seconds in stages.spans)
    assert free_s >= 0.2 and timed_s < 0.4 <= free_s + timed_s
    assert len(stages.late_s) == 1 and stages.late_s[0] >= 0
