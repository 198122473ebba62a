"""What was not there in time, from the records of a run to its summary, its table and its page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from testbed.store import RunData
from testbed.summary import summary
from tests.test_page import data, visible, written
from tests.test_report import shown
from tests.test_summary import codes, method, of, rows, saved

UDP = "astra transport=udp"
NONE: dict[str, int] = {"late": 0, "twice": 0, "foreign": 0, "unfit": 0, "overrun": 0, "unsent": 0}


def run(path: Path, **lossy: Any) -> RunData:
    """Two measured requests of two devices, and a warm-up that lost everything."""
    found = [*rows("single", 0, 1.0, ranks=1, warmup=True), *rows(UDP, 0, 9.0, warmup=True, lost_tokens=[100, 100])]
    for request in (1, 2):
        found += [*rows("single", request, 1.0, ranks=1), *rows(UDP, request, 0.5, **lossy)]
    for row in found:
        row["method"] = row["label"].split()[0]
    return saved(path, [method("single", [0]), method("astra", [0, 0], label=UDP, equals_single=False)], found)


LOSSY = {
    "lost_tokens": [3, 0],
    "due_tokens": [100, 100],
    "dropped": [NONE | {"late": 2}, NONE | {"twice": 1}],
}


def test_the_summary_adds_up_devices_and_measured_requests(tmp_path: Path) -> None:
    found = summary(run(tmp_path / "out", **LOSSY))
    assert of(found, "single")["lost"] is None
    datagrams = {**NONE, "late": 4, "twice": 2}
    assert of(found, UDP)["lost"] == {"tokens": 6, "due": 400, "share": 0.015, "datagrams": datagrams}


def test_a_line_below_the_table_says_so_where_anything_could_be_lost(tmp_path: Path) -> None:
    lines = shown(run(tmp_path / "out", **LOSSY), width=200)
    said = "not there in time and masked out, of all layers and devices: "
    assert f"{said}{UDP} 1.5 % of 400 tokens, datagrams 4 late, 2 twice" in lines
    quiet = {"lost_tokens": [0, 0], "due_tokens": [100, 100], "dropped": [NONE, NONE]}
    assert any(line.endswith(f"{UDP} 0 of 400 tokens") for line in shown(run(tmp_path / "quiet", **quiet), width=200))
    assert not any("not there in time" in line for line in shown(run(tmp_path / "tcp")))


def test_a_note_says_so_where_codes_were_late(tmp_path: Path) -> None:
    seen = codes(run(tmp_path / "out", **LOSSY))["late-codes"].seen
    assert seen == f"codes came after they were waited for: 4 datagrams of {UDP}"
    lost = LOSSY | {"dropped": [NONE, NONE | {"twice": 1}]}
    assert "late-codes" not in codes(run(tmp_path / "lost", **lost))
    assert "late-codes" not in codes(run(tmp_path / "tcp"))


def test_on_one_device_nothing_is_lost_and_nothing_changed(tmp_path: Path) -> None:
    found = [row for n in (0, 1) for row in rows(UDP, n, 1.0, ranks=1, warmup=n == 0, due_tokens=[0], dropped=[NONE])]
    entry = method("astra", [0], label=UDP, equals_single=False)
    alone = saved(tmp_path / "out", [entry], [row | {"method": "astra"} for row in found])
    assert of(summary(alone), UDP)["lost"] is None and "changes-function" not in codes(alone)
    assert not any("not there in time" in line for line in shown(alone))
    assert "tokens not there in time" not in visible(written(tmp_path, tmp_path / "out"))
    assert "changes-function" in codes(run(tmp_path / "two"))


def test_the_page_has_a_column_for_it_where_anything_could_be_lost(tmp_path: Path) -> None:
    run(tmp_path / "out", **LOSSY)
    page = written(tmp_path, tmp_path / "out")
    table = visible(page).partition('id="fidelity"')[2].partition("</table>")[0]
    assert "tokens not there in time" in table and re.search(r">1\.5 % of 400<", table)
    entries = {entry["label"]: entry for entry in data(page)["facts"]["methods"]}
    assert (entries[UDP]["lost_tokens"], entries[UDP]["due_tokens"]) == (6, 400)
    assert entries["single"]["lost_tokens"] is None
    run(tmp_path / "tcp")
    assert "tokens not there in time" not in visible(written(tmp_path, tmp_path / "tcp"))
