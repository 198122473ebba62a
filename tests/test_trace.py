"""`testbed trace`: the trace events of a request are the spans of its timeline, and what is missing is said."""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import families, methods
from runtime.device import Device
from runtime.hollow import HollowExchange, HollowWeights
from runtime.transport import loopback
from testbed import trace
from testbed.cli import main
from tests import devices, pages
from tests.pages import Made, made

REQUIRED = {"X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}, "M": {"name", "ph", "pid", "tid", "args"}}


def traced(tmp_path: Path, run: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "t.json"
    with pytest.raises(SystemExit) as ended:
        main(["trace", str(run), "--out", str(out), *options])
    assert ended.value.code == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_every_span_is_an_event_on_the_clock_of_the_earliest_device(tmp_path: Path) -> None:
    what = Made()
    found = traced(tmp_path, made(tmp_path / "run", what), "--method", "sequence", "--request", "3")
    events = found["traceEvents"]
    for event in events:
        assert REQUIRED[event["ph"]] <= event.keys() and isinstance(event["pid"], int) and isinstance(event["tid"], int)
    spans = [event for event in events if event["ph"] == "X"]
    assert min(span["ts"] for span in spans) == 0 and all(span["dur"] > 0 for span in spans)
    for rank in range(2):
        row = pages.timeline(what, "sequence", 3, rank)
        own = [span for span in spans if span["pid"] == rank]
        names = [stage if layer is None else f"{stage} {layer}" for _, stage, layer, _, _ in row["spans"]]
        assert [span["name"] for span in own] == names
        assert [span["cat"] for span in own] == [kind for kind, *_ in row["spans"]]
        starts = [1e6 * (0.002 * rank + start) for *_, start, _ in row["spans"]]
        assert [span["ts"] for span in own] == pytest.approx(starts, abs=0.01)
        assert [span["dur"] for span in own] == pytest.approx([1e6 * took for *_, took in row["spans"]])
    assert [span["ts"] for span in spans] == sorted(span["ts"] for span in spans)


@pytest.mark.parametrize("method", ["sequence", "tensor", "pipeline"])
def test_on_a_thread_one_span_follows_the_other(method: str) -> None:
    """Viewers draw a span that begins inside another as a part of it. The spans are those of devices, not made up."""
    shape = families.describe("vit-tiny", "random")
    plan = devices.planned(method, {}, shape, 16, 3)
    meshes, weights = loopback.mesh(plan.world, 10.0), HollowWeights(shape)
    made = [methods.load(method)(weights, plan, rank) for rank in range(plan.world)]
    parts = [Device(one, meshes[one.rank], (), HollowExchange) for one in made]
    with torch.inference_mode(), ThreadPoolExecutor(plan.world) as pool:
        others = [pool.submit(part.serve, 0) for part in parts[1:]]
        parts[0].infer(0, devices.random_input(shape, 16))
        assert {one.result().rank for one in others} == {1, 2}
    stages = [part.stages for part in parts]
    rows = [{"rank": r, "host": f"h{r + 1}", "began_s": s.began_s, "spans": s.spans} for r, s in enumerate(stages)]
    spans = [event for event in trace.events(rows) if event["ph"] == "X"]
    assert len(spans) > 3 * shape.layers and all(span["ts"] >= 0 and span["dur"] >= 0 for span in spans)
    assert [span["ts"] for span in spans] == sorted(span["ts"] for span in spans)
    threads = defaultdict(list)
    for span in spans:
        threads[span["pid"], span["tid"]].append(span)
    assert {pid for pid, _ in threads} == {0, 1, 2} and len(threads) > 6
    for own in threads.values():
        assert all(span["ts"] + span["dur"] <= later["ts"] + 1e-3 for span, later in pairwise(own))  # 1 ns


def test_devices_and_kinds_are_named(tmp_path: Path) -> None:
    found = traced(tmp_path, made(tmp_path / "run"), "--method", "astra G=1")
    named = [event for event in found["traceEvents"] if event["ph"] == "M"]
    processes = {event["pid"]: event["args"]["name"] for event in named if event["name"] == "process_name"}
    assert processes == {0: "h1 (rank 0)", 1: "h2 (rank 1)"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
    spans = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert all(threads[span["pid"], span["tid"]] == span["cat"] for span in spans)
    assert found["otherData"] == {
        "name": "star2", "method": "astra G=1", "request": 1, "warmup": False, "compute": "compute real",
        "started_utc": found["otherData"]["started_utc"],
    }  # fmt: skip


def test_a_replayed_run_says_so_and_the_only_method_needs_no_name(tmp_path: Path) -> None:
    replayed = {"compute": "replayed", "profile": {"name": "small-board", "sha256": "00"}}
    found = traced(tmp_path, made(tmp_path / "run", Made(labels=("single",), manifest=replayed)))
    assert found["otherData"]["compute"] == "compute replayed from small-board"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            [],
            'several methods have a timeline, name one with --method: "single", "sequence", "astra G=1", "astra G=16"',
        ),
        (["--method", "tensor"], '--method tensor: {run} has a timeline of "single", "sequence"'),
        (["--method", "single", "--request", "9"], "--request 9: single has a timeline of 0-4"),
        (["--method", "single", "--out", "{run}/no/t.json"], "t.json: cannot be written: No such file or directory"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["trace", str(run), *(option.format(run=run) for option in options)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words.format(run=run) in said and said.count("\n") == 1


def test_an_older_folder_has_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", str(made(tmp_path / "old", Made(timeline=False)))])
    assert ended.value.code == 2 and "it has no timeline.jsonl, which newer runs write" in capsys.readouterr().err
