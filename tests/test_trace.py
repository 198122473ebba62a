"""`testbed trace`: the trace events of a request are the spans of its timeline, and what is missing is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import main
from tests import pages
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
