"""`testbed trace RUN`: what every device did for one request, as trace events that Chrome and Perfetto open.

One process per device, one thread per kind of work, one complete event ("ph": "X") per span of timeline.jsonl; times in
microseconds from the start of the earliest device. The format: "Trace Event Format", Google 2016, JSON object form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import disk, store
from testbed.page.setting import compute
from testbed.store import RunData, StoreError

NAME = "trace.json"
KINDS = ("compute", "code", "wait", "scatter", "gather", "send")
US = 1e6
Row = Mapping[str, Any]


def trace(folder: Path, method: str | None, request: int | None, out: Path) -> str:
    """Write the trace of one request of a run folder into `out`; -> a line that says what it holds.

    method: its label, needed where several have a timeline. request: its number, by default the first that was
    measured. Raises StoreError where there is no such request, or the file cannot be written.
    """
    run = store.load(folder)
    rows = _chosen(run, method, request)
    content = {"traceEvents": events(rows), "displayTimeUnit": "ms", "otherData": _about(run, rows[0])}
    try:
        out.write_text(json.dumps(store.finite(content), allow_nan=False) + "\n", encoding="utf-8")
        disk.give(out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror}") from None
    return f"{out}: {rows[0]['label']}, request {rows[0]['request']}, {len(rows)} devices"


def events(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of one request, one per device -> names of processes and threads, then the spans in the order of time."""
    begun_s = min(row["began_s"] for row in rows)
    named, spans = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in sorted(rows, key=lambda row: row["rank"]):
        named += _names(row)
        for kind, stage, layer, start_s, seconds in row["spans"]:
            where = {} if layer is None else {"layer": layer}
            spans.append({
                "name": stage if layer is None else f"{stage} {layer}", "cat": kind, "ph": "X",
                "pid": row["rank"], "tid": _thread(kind), "ts": US * (row["began_s"] - begun_s + start_s),
                "dur": US * seconds, "args": {"stage": stage, **where},
            })  # fmt: skip
    return [*named, *sorted(spans, key=lambda span: span["ts"])]


def _names(row: Row) -> Iterable[dict[str, Any]]:
    """Metadata of a device: its host, its place in the list, and the kinds of work that it did."""
    rank = row["rank"]
    yield {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"{row['host']} (rank {rank})"}}
    yield {"name": "process_sort_index", "ph": "M", "pid": rank, "tid": 0, "args": {"sort_index": rank}}
    for kind in dict.fromkeys(span[0] for span in row["spans"]):
        place = {"ph": "M", "pid": rank, "tid": _thread(kind)}
        yield {"name": "thread_name", **place, "args": {"name": kind}}
        yield {"name": "thread_sort_index", **place, "args": {"sort_index": _thread(kind)}}


def _thread(kind: str) -> int:
    """Number of a kind of work; one that a newer program writes comes last."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _chosen(run: RunData, method: str | None, request: int | None) -> list[Row]:
    """Rows of the request that was asked for. Raises StoreError with what there is."""
    if not run.timeline:
        raise StoreError(f"{run.path}: it has no timeline.jsonl, which newer runs write; run it again")
    labels = list(dict.fromkeys(row["label"] for row in run.timeline))
    if method is None and len(labels) > 1:
        raise StoreError(f"{run.path}: several methods have a timeline, name one with --method: {_quoted(labels)}")
    if method is not None and method not in labels:
        raise StoreError(f"--method {method}: {run.path} has a timeline of {_quoted(labels)}")
    rows: list[Row] = [row for row in run.timeline if row["label"] == (method or labels[0])]
    if request is None:
        request = next((row["request"] for row in rows if not row["warmup"]), rows[0]["request"])
    found = [row for row in rows if row["request"] == request]
    if not found:
        numbers = sorted({row["request"] for row in rows})
        raise StoreError(f"--request {request}: {rows[0]['label']} has a timeline of {_ranges(numbers)}")
    return found


def _about(run: RunData, row: Row) -> dict[str, Any]:
    return {
        "name": run.topology["name"], "method": row["label"], "request": row["request"], "warmup": row["warmup"],
        "compute": compute(run.manifest), "started_utc": run.manifest.get("started_utc"),
    }  # fmt: skip


def _quoted(labels: Sequence[str]) -> str:
    return ", ".join(f'"{label}"' for label in labels)


def _ranges(numbers: Sequence[int]) -> str:
    """ "0-10" where none is missing, else every number."""
    whole = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))


if __name__ == "__main__":
    from testbed.cli import main

    main(["trace", *sys.argv[1:]])
