"""What is said of new tokens, beside the table of one run: side by side, in exports, on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from testbed.store import RunData
from tests.test_compare import shown
from tests.test_page import data, visible, written
from tests.test_summary import method, rows, saved

METHODS = ("single", "astra")
TTFT_S, TOKEN_S = {"single": 0.1, "astra": 0.2}, {"single": 0.01, "astra": 0.03}
NEAR = {"max_abs_error": 1e-6, "cosine": 1.0, "top1_agreement": True, "kl": 0.1}
NO_CODES = {"late": 0, "twice": 0, "foreign": 0, "unfit": 0, "overrun": 0, "unsent": 0}


def run(path: Path, tokens: int = 3, slower: float = 1.0) -> RunData:
    """Three measured requests of two devices; times grow with each, so that the medians are of the second."""
    found = []
    for label in METHODS:
        for request in range(4):
            times = slower * (9.0 + 1 / 10 * request)
            spoken: dict[str, Any] = {
                "generated": [[4] * tokens, None], "kept_bytes": [None, 70], "token_bytes": [0, 4 * tokens],
                "ttft_s": [TTFT_S[label] * times / 9.2, None], "token_s": [TOKEN_S[label] * times / 9.2, None],
                "lost_tokens": [3, 0], "due_tokens": [100, 100], "dropped": [NO_CODES, NO_CODES],
            }  # fmt: skip
            near = NEAR | {"token_agreement": 0.75, "token_lead": 0.1}
            own = rows(label, request, times, warmup=request == 0, fidelity=near, **spoken)
            own[0]["score"] = {"metric": "top1", "this": float(request > 1), "single": 1.0}
            found += own
    promised = {"tokens": tokens, "greedy": True, "token_bytes": [0, 4 * tokens], "kept_bytes": 70, "full_bytes": 140}
    return saved(path, [method(label, [0, 0], generation=promised) for label in METHODS], found)


def test_both_times_stand_side_by_side_and_latency_is_explained(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", slower=2.0)
    lines = shown(a.path, b.path, anyway=True)
    heads = next(i for i, line in enumerate(lines) if "TTFT" in line)
    assert lines[heads].endswith("TTFT") and lines[heads + 1].endswith("per token")
    own = [line for line in lines[heads + 2 :] if re.search(" [AB] 3 ", line)]
    assert [line.split("  ")[-1].strip() for line in own] == ["100 ms", "200 ms", "200 ms", "400 ms"]
    below = [lines[lines.index(line) + 1].split()[-2:] for line in own]
    assert below == [["10", "ms"], ["20", "ms"], ["30", "ms"], ["60", "ms"]]
    assert "latency: until the source knows all 3 new tokens; TTFT: the first of them" in lines
    one = shown(a.path, run(tmp_path / "c", tokens=1).path, anyway=True)
    assert any("all 1 or 3 new tokens" in line for line in one)


@pytest.mark.parametrize("suffix", [".csv", ".md"])
def test_an_export_has_what_was_generated_lost_and_right(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"table{suffix}"
    shown(run(tmp_path / "a").path, out=out)
    if suffix == ".md":
        heads, row = ([cell.strip() for cell in out.read_text().splitlines()[i].split("|")] for i in (0, 3))
        cells = dict(zip(heads, row, strict=True))
        assert cells["TTFT (ms)"].startswith("200 [") and cells["per token (ms)"].startswith("30.0 [")
        assert (cells["not in time (%)"], cells["task"]) == ("1.50", "top-1 66.7%")
        return
    table = pandas.read_csv(out).set_index("label")
    for label in METHODS:
        row = table.loc[label]
        assert (row["ttft_s"], row["token_s"]) == (pytest.approx(TTFT_S[label]), pytest.approx(TOKEN_S[label]))
        assert row["ttft_low_s"] < row["ttft_s"] < row["ttft_high_s"] and row["token_low_s"] < row["token_s"]
        assert (row["kept_bytes"], row["token_agreement"], row["lost_share"]) == (70, 0.75, 0.015)
        assert (row["here_metric"], row["here_value"], row["here_single"]) == ("top1", pytest.approx(2 / 3), 1)


def test_the_page_tells_both_times_and_what_latency_is(tmp_path: Path) -> None:
    page = written(tmp_path, run(tmp_path / "a").path)
    assert "Latency: until the source knows all 3 new tokens; TTFT: the first of them." in visible(page)
    table = visible(page).partition("Latency and speedup")[2].partition("</table>")[0]
    assert table.count("TTFT") == table.count("per token") == 1
    assert all(re.search(f">{words}<", table) for words in ("100 ms", "10 ms", "200 ms", "30 ms"))
    assert "new tokens equal" in visible(page) and ">75%<" in visible(page)
    entries = {entry["label"]: entry for entry in data(page)["facts"]["methods"]}
    for label in METHODS:
        assert entries[label]["ttft_s"] == pytest.approx(TTFT_S[label]) and entries[label]["new_tokens"] == 3


def test_where_nothing_was_generated_nothing_is_said_of_it(tmp_path: Path) -> None:
    found = [row for n in range(3) for row in rows("single", n, 1.0, ranks=1, warmup=n == 0)]
    a, b = (saved(tmp_path / name, [method("single", [0])], found).path for name in "ab")
    assert "TTFT" not in visible(written(tmp_path, a))
    assert not any("TTFT" in line for line in shown(a, b, anyway=True))
