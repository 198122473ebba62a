"""Rows on disk -> summary: the contract's keys, and numbers that a reader can check with a pencil."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from runtime.record import Record
from testbed.manifest import manifest
from testbed.notes import TEXTS, Note, notes
from testbed.store import RunData, RunFolder, load
from testbed.summary import summary

RUN_YAML = """\
name: star2
backend: {backend}
hosts: {{h1: {{cpu: 0.4}}, h2: {{cpu: 0.4}}}}
run: {{source: h1, model: vit-base, weights: {weights}, tokens: 16, repeats: {repeats}, budget: 60 s}}
"""
MACHINE = {"cores": 8}
CONTRACT = {
    "method", "label", "options", "status", "requests", "latency_s", "compute_s", "code_s", "exchange_wait_s",
    "scatter_s", "gather_s", "payload_bytes", "wire_bytes", "messages", "speedup_over_single", "speedup", "fidelity",
}  # fmt: skip


def method(name: str, formula: Sequence[int] | None, **values: Any) -> dict[str, Any]:
    """One entry of methods.json."""
    common: dict[str, Any] = {
        "method": name,
        "label": name,
        "options": {},
        "status": "ok",
        "error": None,
        "equals_single": True,
    }
    return {**common, "payload_formula": formula, **values}


def rows(
    name: str,
    request: int,
    latency_s: float,
    *,
    ranks: int = 2,
    warmup: bool = False,
    fidelity: dict[str, Any] | None = None,
    **values: Sequence[Any],
) -> list[dict[str, Any]]:
    """The rows of one request; `values` gives a field of Record one value per rank."""
    found = []
    for rank in range(ranks):
        own = {key: value[rank] for key, value in values.items()}
        record = Record(request=request, rank=rank, latency_s=latency_s - rank / 100, **own)
        found.append({**record.row(), "host": f"h{rank + 1}", "method": name, "label": name, "warmup": warmup})
    found[0]["fidelity"] = fidelity or {"max_abs_error": 1e-6, "cosine": 1.0, "top1_agreement": True, "kl": None}
    return found


def saved(
    path: Path,
    methods: list[dict[str, Any]],
    records: list[dict[str, Any]],
    *,
    backend: str = "mininet",
    weights: str = "pretrained",
    repeats: int = 3,
    machine: dict[str, Any] = MACHINE,
) -> RunData:
    """Through the door that a run uses: written with RunFolder, read with load."""
    with RunFolder.create("star2", path) as folder:
        folder.write_text("run.yaml", RUN_YAML.format(backend=backend, weights=weights, repeats=repeats))
        folder.write_json("manifest.json", manifest([], {}, {"machine": machine, "git": None}))
        folder.write_json("methods.json", methods)
        for record in records:
            folder.append_record(record)
    return load(path)


def single_and_sequence(path: Path, **values: Any) -> RunData:
    """Three measured requests of each, after a warm-up that would spoil every figure if it were counted."""
    times = {"single": [0.9, 1.0, 1.3], "sequence": [0.4, 0.5, 0.7]}
    found = [*rows("single", 0, 9.0, ranks=1, warmup=True), *rows("sequence", 0, 9.0, warmup=True, sent_bytes=[70, 70])]
    for number, time_s in enumerate(times["single"], 1):
        found += rows("single", number, time_s, ranks=1, compute_s=[time_s])
    for number, time_s in enumerate(times["sequence"], 1):
        found += rows(
            "sequence", number, time_s, compute_s=[0.1 * number, 0.2], code_s=[0.0, 0.01],
            waited_s=[0.05, 0.03 * number], scatter_s=[0.01, 0.02], gather_s=[0.03, 9],
            sent_bytes=[70, 70], wire_bytes=[100 + number, 200 + number],
            messages=[12, 12], peak_memory_bytes=[1000, 2000],
        )  # fmt: skip
    return saved(path, [method("single", [0]), method("sequence", [70, 70])], found, **values)


def of(found: dict[str, Any], label: str) -> dict[str, Any]:
    """One method of a summary."""
    return next(entry for entry in found["methods"] if entry["label"] == label)


def codes(run: RunData) -> dict[str, Note]:
    """Notes of a run by their code, each code once."""
    found = notes(summary(run), run)
    assert len({note.code for note in found}) == len(found)
    return {note.code: note for note in found}


def changed(path: Path, name: str, change: Callable[[Any], Any]) -> RunData:
    """The run folder, with a file of it changed."""
    (path / name).write_text(json.dumps(change(json.loads((path / name).read_text()))))
    return load(path)


def test_the_summary_is_the_contract(tmp_path: Path) -> None:
    found = summary(single_and_sequence(tmp_path / "out"))
    assert found["name"] == "star2" and found["schema_version"] == 1
    for entry in found["methods"]:
        assert set(entry) >= CONTRACT
        assert set(entry["latency_s"]) == {"n", "median", "p95", "p99", "mean", "min", "ci95", "mean_ci95"}
        assert set(entry["speedup"]) == {"ratio", "ci95", "n"}
        assert set(entry["fidelity"]) >= {"max_abs_error", "cosine", "top1_agreement"}
    json.dumps(found, allow_nan=False)


def test_times_and_bytes_are_the_medians_of_the_measured_requests(tmp_path: Path) -> None:
    entry = of(summary(single_and_sequence(tmp_path / "out")), "sequence")
    assert (entry["requests"], entry["warmups"]) == (3, 1)
    assert entry["latency_s"]["median"] == 0.5 and entry["latency_s"]["min"] == 0.4  # rank 0's clock, not rank 1's
    assert entry["latency_s"]["mean"] == pytest.approx((0.4 + 0.5 + 0.7) / 3)
    assert entry["compute_s"] == pytest.approx(median([0.2, 0.2, 0.3]))  # the largest over ranks, per request
    assert entry["exchange_wait_s"] == pytest.approx(median([0.05, 0.06, 0.09]))
    assert (entry["code_s"], entry["scatter_s"], entry["gather_s"]) == (0.01, 0.02, 0.03)
    assert (entry["payload_bytes"], entry["messages"], entry["wire_bytes"]) == ([70, 70], [12, 12], [102, 202])
    assert entry["payload_matches_formula"] is True
    assert entry["speedup_over_single"] == pytest.approx(1.0 / 0.5)
    assert entry["latency_s"]["n"] == 3
    assert entry["speedup"]["n"] == 3  # request by request: 0.9 / 0.4, 1.0 / 0.5, 1.3 / 0.7
    assert entry["speedup"]["ratio"] == pytest.approx((0.9 / 0.4 * 1.0 / 0.5 * 1.3 / 0.7) ** (1 / 3))
    single = of(summary(load(tmp_path / "out")), "single")
    assert single["speedup_over_single"] == 1.0 and single["speedup"] == {"ratio": 1.0, "ci95": [1.0, 1.0], "n": 3}


def test_a_host_without_its_own_interface_has_null_wire_bytes(tmp_path: Path) -> None:
    run = saved(
        tmp_path / "out", [method("sequence", [7, 7])], rows("sequence", 0, 1.0, sent_bytes=[7, 7]), backend="local"
    )
    assert of(summary(run), "sequence")["wire_bytes"] == [None, None]
    assert of(summary(run), "sequence")["speedup_over_single"] is None
    assert {"local", "no-single"} <= set(codes(run)) and "leak" not in codes(run)


def test_a_failed_method_keeps_its_rows_but_gets_no_latency(tmp_path: Path) -> None:
    lost = rows("sequence", 1, 0.0, error=["rank 1 lost at layer 3: closed", None])[:1]
    failed = method("sequence", [70, 70], status="failed", error="h2 lost in layer 3", failed_host="h2")
    records = [*rows("single", 0, 1.0, ranks=1), *rows("sequence", 0, 0.5, sent_bytes=[70, 70]), *lost]
    run = saved(tmp_path / "out", [method("single", [0]), failed], records)
    entry = of(summary(run), "sequence")
    assert (entry["status"], entry["error"], entry["failed_host"]) == ("failed", "h2 lost in layer 3", "h2")
    nothing = dict.fromkeys(("median", "p95", "p99", "mean", "min"))
    assert entry["latency_s"] == {"n": 0, **nothing, "ci95": [None, None], "mean_ci95": [None, None]}
    assert entry["speedup"] == {"ratio": None, "ci95": [None, None], "n": 0}
    assert entry["speedup_over_single"] is None and entry["requests"] == 1 and entry["payload_bytes"] == [70, 70]
    assert of(summary(run), "single")["status"] == "ok" and len(run.records) == 4


def test_a_method_that_never_ended_a_request_has_nulls(tmp_path: Path) -> None:
    run = saved(tmp_path / "out", [method("tensor", None, status="skipped", error="3 heads on 2 devices")], [])
    entry = of(summary(run), "tensor")
    assert entry["requests"] == 0 and entry["compute_s"] is None and entry["payload_bytes"] == []
    assert entry["payload_matches_formula"] is None and entry["fidelity"]["cosine"] is None


def test_a_request_of_which_a_rank_is_missing_does_not_count(tmp_path: Path) -> None:
    records = [*rows("sequence", 0, 0.5), *rows("sequence", 1, 0.1)[:1], *rows("sequence", 2, 0.2)[1:]]
    entry = of(summary(saved(tmp_path / "out", [method("sequence", [0, 0])], records)), "sequence")
    assert entry["requests"] == 1 and entry["latency_s"]["median"] == 0.5


def test_fidelity_is_the_worst_of_the_measured_requests(tmp_path: Path) -> None:
    records = []
    for number, (error, cosine, hit) in enumerate([(0.1, 0.99, True), (0.3, 0.95, False), (0.2, 0.97, True)]):
        shown = {"max_abs_error": error, "cosine": cosine, "top1_agreement": hit, "kl": 0.01 * number}
        records += rows("astra", number, 1.0, fidelity=shown)
    entry = of(summary(saved(tmp_path / "out", [method("astra", None, equals_single=False)], records)), "astra")
    assert entry["fidelity"] == {
        "max_abs_error": 0.3, "cosine": 0.95, "top1_agreement": pytest.approx(2 / 3), "kl": 0.02,
    }  # fmt: skip


def test_a_good_run_has_no_alarming_note(tmp_path: Path) -> None:
    found = codes(single_and_sequence(tmp_path / "out"))
    assert set(found) == {"few"}  # three requests; that their interval is wide is no second note
    assert found["few"].seen.startswith("single, sequence: 3 requests")


def test_devices_that_share_cores_are_named(tmp_path: Path) -> None:
    fits = codes(single_and_sequence(tmp_path / "one", machine={"cores": 1}))["shared-cores"]
    assert fits.seen == "2 devices share 1 core" and "0.8 in all" in fits.cause


def test_bytes_that_differ_from_the_formula_or_leave_by_another_way_are_named(tmp_path: Path) -> None:
    records = rows("sequence", 0, 0.5, sent_bytes=[70, 80], wire_bytes=[20, 100])
    found = codes(saved(tmp_path / "out", [method("sequence", [70, 70])], records))
    assert "[70, 80] instead of [70, 70]" in found["payload"].seen
    assert found["leak"].seen.startswith("sequence: interface counters")


def test_an_exact_method_that_is_not_and_a_result_that_is_no_number_are_named(tmp_path: Path) -> None:
    far = {"max_abs_error": 0.02, "cosine": 1.0, "top1_agreement": True, "kl": None}
    broken = {"max_abs_error": float("nan"), "cosine": float("nan"), "top1_agreement": False, "kl": None}
    records = [*rows("tensor", 0, 0.5, fidelity=far), *rows("block", 0, 0.5, fidelity=broken)]
    methods = [method("tensor", None), method("block", None, equals_single=False)]
    found = codes(saved(tmp_path / "out", methods, records))
    assert found["inexact"].seen.startswith("tensor") and "0.02" in found["inexact"].seen
    assert found["not-finite"].seen.startswith("block") and found["changes-function"].seen.startswith("block")


def test_slower_than_single_says_what_dominates(tmp_path: Path) -> None:
    records = [
        *rows("single", 0, 1.0, ranks=1),
        *rows("tensor", 0, 8.0, compute_s=[0.3, 0.3], waited_s=[7.0, 7.0]),
        *rows("pipeline", 0, 1.2, compute_s=[0.5, 0.5], waited_s=[0.1, 0.2], scatter_s=[0, 0.3]),
        *rows("astra", 0, 1.5, compute_s=[0.5, 0.5], code_s=[0.7, 0.1], waited_s=[0.1, 0.4]),
        *rows("sequence", 0, 2.0, compute_s=[1.1, 1.0], waited_s=[0.1, 0.4]),
    ]
    names = ("single", "tensor", "pipeline", "astra", "sequence")
    run = saved(tmp_path / "out", [method(name, None) for name in names], records)
    named = "by waiting for data: tensor; by distribution: pipeline; by encoding: astra; by computing: sequence"
    assert codes(run)["slower"].seen == f"slower than single {named}"


def test_notes_that_need_more_than_records(tmp_path: Path) -> None:
    single_and_sequence(tmp_path / "out", weights="random")
    held = {"throttled_s": {"h1": 1.605, "h2": 0.0}, "verdict": "ok", "why": ""}
    changed(tmp_path / "out", "manifest.json", lambda manifest: {**manifest, "byte_tokens": True})
    (tmp_path / "out" / "watch.json").write_text(json.dumps([{"label": label, **held} for label in ("a", "b")]))
    found = codes(load(tmp_path / "out"))
    assert set(found) == {"byte-tokens", "cpu-share", "few"}  # that weights are random is the report's first line
    assert found["cpu-share"].seen == "held back by the declared cpu (0.4): h1 3.2 s"


def test_few_requests_because_of_the_budget_are_one_note(tmp_path: Path) -> None:
    found = codes(single_and_sequence(tmp_path / "out", repeats=10))
    assert set(found) == {"budget"}
    assert found["budget"].seen == "fewer requests than the 10 asked for: single 3, sequence 3"
    assert "60 s" in found["budget"].cause and "95 %" in found["budget"].cause


def test_methods_that_change_the_function_are_one_note_with_their_causes(tmp_path: Path) -> None:
    records = [*rows("block", 0, 0.5), *rows("astra", 0, 0.5)]
    methods = [method(name, None, equals_single=False) for name in ("block", "astra")]
    found = codes(saved(tmp_path / "out", methods, records))["changes-function"]
    assert found.seen.startswith("block, astra:") and "blocks" in found.cause and "codes" in found.cause


def test_a_host_that_failed_is_named_with_where_to_look(tmp_path: Path) -> None:
    records = [*rows("single", 0, 1.0, ranks=1)]
    lost = {"status": "failed", "error": "h2 lost", "failed_host": "h2, h3"}
    methods = [method("single", [0]), method("sequence", None, **lost), method("tensor", None, **lost)]
    found = codes(saved(tmp_path / "out", methods, records))["host-failed"]
    assert found.seen == "h2, h3 ended or failed during sequence, tensor" and "h2.log, h3.log" in found.advice


@pytest.mark.parametrize(("by", "noted"), [("memory", {"memory"}), ("event", set())])
def test_a_host_that_the_file_or_its_memory_ended_is_not_said_to_have_failed(
    tmp_path: Path, by: str, noted: set[str]
) -> None:
    lost = {"status": "failed", "error": "h2 lost", "failed_host": "h2", "failed_by": by}
    methods = [method("single", [0]), method("sequence", None, **lost)]
    found = codes(saved(tmp_path / "out", methods, rows("single", 0, 1.0, ranks=1)))
    assert found.keys() & {"memory", "host-failed"} == noted


def test_events_that_came_after_the_requests_are_one_note(tmp_path: Path) -> None:
    missed = ["at 100 s: kill h4", "at 200 s: loss 5 %"]
    methods = [method("single", [0], not_reached=missed), method("sequence", [0, 0], not_reached=missed[1:])]
    found = codes(saved(tmp_path / "out", methods, rows("single", 0, 1.0, ranks=1)))
    words = "not reached: at 100 s kill h4 (single); at 200 s loss 5 % (single, sequence)"
    assert found["not-reached"].seen == words
    assert "not-reached" not in codes(single_and_sequence(tmp_path / "other"))


def test_what_the_relay_could_not_do_is_a_note(tmp_path: Path) -> None:
    single_and_sequence(tmp_path / "out")
    refused = {"shaper_warnings": ["sched_setscheduler: Operation not permitted"]}
    changed(tmp_path / "out", "manifest.json", lambda manifest: {**manifest, **refused})
    assert codes(load(tmp_path / "out"))["relay-warned"].seen.endswith("Operation not permitted")


def test_what_a_hypervisor_withheld_is_a_note_with_the_worst_share_of_each_method(tmp_path: Path) -> None:
    single_and_sequence(tmp_path / "out")
    shares = [("single", 0.0234), ("single", 0.08), ("sequence", 0.009), ("tensor", None)]
    watched = [{"label": label, "verdict": "ok", "why": "", **({} if share is None else {"withheld": share})}
               for label, share in shares]  # fmt: skip
    (tmp_path / "out" / "watch.json").write_text(json.dumps(watched))
    assert codes(load(tmp_path / "out"))["withheld"].seen.endswith("for so much of the time: single 8 %")
    (tmp_path / "out" / "watch.json").write_text(json.dumps(watched[2:]))
    assert "withheld" not in codes(load(tmp_path / "out"))


def test_hosts_that_forward_are_named(tmp_path: Path) -> None:
    single_and_sequence(tmp_path / "out")
    row = {"from": "h1", "to": "h3", "links": ["h1 -> h2", "h2 -> s1", "s1 -> h3"], "verdict": "ok"}
    (tmp_path / "out" / "links.json").write_text(json.dumps([row]))
    assert codes(load(tmp_path / "out"))["forwarding"].seen == "frames of other hosts go through h2"


@pytest.mark.parametrize(("declared", "noted"), [("[sequence]", True), ("[single, sequence]", False)])
def test_a_single_that_failed_is_not_said_to_be_missing(tmp_path: Path, declared: str, noted: bool) -> None:
    saved(tmp_path / "out", [method("sequence", None)], rows("sequence", 0, 0.5))
    path = tmp_path / "out" / "run.yaml"
    path.write_text(path.read_text().replace("tokens: 16", f"tokens: 16, methods: {declared}"))
    assert ("no-single" in codes(load(tmp_path / "out"))) is noted


def test_an_interval_that_is_wide_although_there_are_enough_requests_is_named(tmp_path: Path) -> None:
    records = [row for number in range(6) for row in rows("sequence", number, 0.5 + number % 2)]
    found = codes(saved(tmp_path / "out", [method("sequence", [0, 0])], records, repeats=6))
    assert found["wide"].seen.startswith("sequence: the interval") and "few" not in found


def test_requests_far_from_the_others_are_counted_and_kept(tmp_path: Path) -> None:
    times = [0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 2.5]
    records = [row for number, time_s in enumerate(times) for row in rows("sequence", number, time_s)]
    run = saved(tmp_path / "out", [method("sequence", [0, 0])], records, repeats=9)
    found = codes(run)["far-outside"]
    assert found.seen == "far from the other requests: 1 of 9 of sequence (2.5 s against a median of 540 ms)"
    assert of(summary(run), "sequence")["latency_s"]["mean"] == pytest.approx(sum(times) / 9)
    quiet = [row for number in range(9) for row in rows("sequence", number, 0.5 + (number == 8) * 0.001)]
    assert "far-outside" not in codes(saved(tmp_path / "quiet", [method("sequence", [0, 0])], quiet, repeats=9))


def test_a_line_that_was_cut_off_is_a_note(tmp_path: Path) -> None:
    single_and_sequence(tmp_path / "out")
    with (tmp_path / "out" / "records.jsonl").open("a") as file:
        file.write('{"request": 9')
    assert "records.jsonl:13" in codes(load(tmp_path / "out"))["cut-off"].seen


def test_every_note_says_what_to_do() -> None:
    assert all(len(texts) == 3 and all(texts) for texts in TEXTS.values())
