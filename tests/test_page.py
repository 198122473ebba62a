"""The page of runs: its numbers are those of the raw records, its sentences say what they are worth."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from runtime.methods import METHODS
from testbed import store
from testbed.cli import main
from testbed.page import frontier, latency, style, timeline
from testbed.page.data import gather
from tests import pages
from tests.pages import CABLE, COMPUTE_S, SENT_BYTES, Made, latency_s, made

HOSTILE = "astra </script><img src=x onerror=alert(1)>\"'&<b>%{y}"
REPLAYED = {"compute": "replayed", "profile": {"name": "small-board", "sha256": "00"}}


class Tags(HTMLParser):
    """Elements of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for key, value in attrs if key in ("src", "href") and not (value or "").startswith("#")
        ]


def written(tmp_path: Path, *runs: Path) -> str:
    """The page of these runs, by the command."""
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, runs), "--out", str(out)])
    assert ended.value.code == 0
    return out.read_text(encoding="utf-8")


def data(page: str) -> dict[str, Any]:
    """What the page holds for its script."""
    found = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def visible(page: str) -> str:
    """The page without its scripts and style."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)


def test_the_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    what = Made()
    page = data(written(tmp_path, made(tmp_path / "run", what)))
    times = {label: [latency_s(what, label, n) for n in range(1, 5)] for label in COMPUTE_S}
    for row in page["facts"]["methods"]:
        own, single = times[row["label"]], times["single"]
        ratio = math.exp(mean(math.log(a / b) for a, b in zip(single, own, strict=True)))
        devices = 1 if row["label"] == "single" else 2
        assert (row["n"], row["median_s"]) == (4, pytest.approx(median(own)))
        assert row["speedup"] == pytest.approx(ratio)
        assert min(own) <= row["low_s"] <= row["median_s"] <= row["high_s"] <= max(own)
        assert row["payload_bytes"] == row["formula_bytes"] == devices * SENT_BYTES[row["label"]]
        assert row["wire_bytes"] == devices * (SENT_BYTES[row["label"]] + 1000 + 2.5)
        assert row["cosine"] == pages.COSINE[row["label"]]
    points = [trace for trace in page["plots"]["latency-0"]["data"] if len(trace["x"]) > 1]
    assert {trace["name"]: trace["x"] for trace in points} == {
        label: [float(f"{value:.6g}") for value in values] for label, values in times.items()
    }


def test_parts_of_a_device_add_up_to_its_time(tmp_path: Path) -> None:
    what = Made()
    page = data(written(tmp_path, made(tmp_path / "run", what)))
    for row in page["facts"]["devices"]:
        whole = mean(latency_s(what, row["label"], n) for n in range(1, 5))
        assert row["compute_s"] == pytest.approx(whole / 2) and row["waited_s"] == pytest.approx(whole / 4)
        assert sum(row[key] for key in row if key.endswith("_s")) == pytest.approx(whole)
    bars = {bar["name"]: bar["x"] for bar in page["plots"]["breakdown-0-1"]["data"]}
    first = mean(latency_s(what, "sequence", n) for n in range(1, 5))
    assert bars["coding"] == pytest.approx([first / 10] * 2, rel=1e-5)


def test_raw_records_alone_make_the_page(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    page = written(tmp_path, run)
    (run / store.SUMMARY).write_text('{"methods": [{"label": "single", "latency_s": {"median": 7}}]}')
    assert written(tmp_path, run) == page


def test_what_must_be_known_stands_first(tmp_path: Path) -> None:
    what = Made(verdict="wrong", weights="random", manifest=REPLAYED, failed={"tensor": "h2 lost"})
    runs = [made(tmp_path / rate.split()[0], replace(what, rate=rate)) for rate in pages.RATES]
    for run in runs:
        (run / store.PROFILE).write_text(pages.PROFILE)
    page = visible(written(tmp_path, *runs))
    tables = ("Size of the errors of predictions", "from 10 Mbit/s to 100 Mbit/s.", "Fastest method, one card per")
    assert all(table in page for table in tables)
    first = ["NOT VALID, the network", "Compute replayed from small-board", "Untrained (random)", "h2 lost", "<h2"]
    places = [page.index(words) for words in first]
    assert places == sorted(places)
    for caption in re.findall(r'<(?:figcaption|p class="caption")>(.*?)</', page):
        assert "replayed from small-board" in caption or caption.startswith(("Topology", "Links", "Runs"))


def test_a_good_run_says_so(tmp_path: Path) -> None:
    page = visible(written(tmp_path, made(tmp_path / "run")))
    assert "The network was the declared one" in page
    assert not re.search("NOT VALID|DEGRADED|Untrained|replayed", page)
    assert "n = 4 per method" in page and "a processor, 8 cores" in page


def test_text_of_a_run_folder_is_never_markup(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for table in (COMPUTE_S, SENT_BYTES, pages.COSINE):
            patch.setitem(table, HOSTILE, table["astra G=1"])
        what = Made(labels=("single", HOSTILE), host="<i>h2</i>", failed={"tensor <u>": "<script>bad()</script>"})
        page = written(tmp_path, made(tmp_path / "run", what), made(tmp_path / "more", Made(rate="100 Mbit/s")))
    found = Tags(page)
    assert found.tags.count("script") == 3 and not {"img", "b", "i", "u"} & set(found.tags) - {"i"}
    assert "&lt;/script&gt;&lt;img src=x" in visible(page) and "&lt;script&gt;bad()" in visible(page)
    assert HOSTILE in {row["label"] for row in data(page)["facts"]["methods"]}
    for plot in data(page)["plots"].values():
        assert "<img" not in json.dumps(plot) and "%{y}\\u0022" not in json.dumps(plot)
    assert found.loads == ["data:,"]


def test_single_wins_below_the_rate_of_the_formula(tmp_path: Path) -> None:
    """compute + bytes / rate is that of single at 8e6 bits / 0.2 s = 40 Mbit/s."""
    runs = [made(tmp_path / rate.split()[0], Made(rate=rate)) for rate in pages.RATES]
    page = written(tmp_path, *runs)
    said = re.search(
        r"sequence beats single from about (\S+) Mbit/s on \(slower at 10 Mbit/s, faster at 100 Mbit/s\)", page
    )
    assert said and 20 < float(said[1]) < 60  # two points: a straight line between them
    assert "astra G=1 beats single from 10 Mbit/s to 100 Mbit/s." in page
    plots = data(page)["plots"]
    lines = {line["name"]: line for line in plots["by-rate-speedup-0-0"]["data"]}
    facts = {(row["setting"], row["label"]): row for row in data(page)["facts"]["methods"]}
    assert lines["sequence"]["x"] == [1e7, 1e8]
    assert lines["sequence"]["y"] == [facts[0, "sequence"]["speedup"], facts[1, "sequence"]["speedup"]]
    shaded = plots["by-rate-speedup-0-0"]["layout"]["shapes"][0]
    assert (shaded["type"], shaded["y1"]) == ("rect", 1)


def test_runs_that_differ_in_more_than_rate_have_panels_of_their_own(tmp_path: Path) -> None:
    kinds = [(delay, network) for delay in ("1 ms", "5 ms") for network in (pages.STAR, CABLE)]
    runs = [
        made(tmp_path / f"{index}-{rate.split()[0]}", Made(rate=rate, delay=delay, network=network))
        for index, (delay, network) in enumerate(kinds) for rate in pages.RATES
    ]  # fmt: skip
    page = written(tmp_path, *runs)
    titles = re.findall("<h3>(.*?)</h3>", page)[1:]
    assert titles == [
        "one card per device, delay 2 ms", "a link per pair, delay 1 ms",
        "one card per device, delay 10 ms", "a link per pair, delay 5 ms",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(1e7, 0.5), (1e8, 2)],
         "m beats single from about 31.6 Mbit/s on (slower at 10 Mbit/s, faster at 100 Mbit/s)."),
        ([(1e7, 2), (1e8, 0.5)],
         "m beats single only below about 31.6 Mbit/s (faster at 10 Mbit/s, slower at 100 Mbit/s)."),
        ([(1e7, 2), (1e8, 3)], "m beats single from 10 Mbit/s to 100 Mbit/s."),
        ([(1e7, 0.5), (1e8, 0.9)], "m never beats single from 10 Mbit/s to 100 Mbit/s."),
        ([(1e7, 2), (2e7, 0.5), (5e7, 2)], "m beats single at 10 Mbit/s, 50 Mbit/s and not at the other rates."),
    ],
)  # fmt: skip
def test_who_wins_is_said_in_words(points: list[tuple[float, float]], words: str) -> None:
    assert frontier.beats("m", [(rate, speedup, None, None) for rate, speedup in points]) == words


def test_an_interval_that_includes_1_decides_nothing() -> None:
    found = frontier.beats("m", [(1e7, 0.9, 0.8, 1.1), (1e8, 2.0, 1.9, 2.1)])
    assert found.endswith("; at 10 Mbit/s the interval includes 1.")


def test_the_timeline_is_that_of_the_folder(tmp_path: Path) -> None:
    what = Made()
    page = data(written(tmp_path, made(tmp_path / "run", what)))["timeline"]
    entry = next(entry for entry in page["entries"] if entry["title"] == "astra G=1")
    request = next(request for request in entry["requests"] if request["title"].startswith("2 "))
    rows = [pages.timeline(what, "astra G=1", 2, rank) for rank in range(2)]
    for row, (host, spans) in zip(rows, request["devices"], strict=True):
        offset_s = 0.002 * row["rank"]
        assert host == row["host"]
        assert [[page["stages"][stage], layer, start, took] for _, stage, layer, start, took in spans] == [
            [stage, -1 if layer is None else layer, round(1e6 * (offset_s + start)), round(1e6 * took)]
            for _, stage, layer, start, took in row["spans"]
        ]
        kinds = list(timeline.NAMES)
        assert [kinds[span[0]] for span in spans] == [span[0] for span in row["spans"]]
    assert {request["title"].split()[0] for request in entry["requests"]} == set("01234")


def test_a_folder_without_a_timeline_says_so(tmp_path: Path) -> None:
    page = written(tmp_path, made(tmp_path / "old", Made(timeline=False)))
    assert "No timeline: these folders have no timeline.jsonl" in page and data(page)["timeline"] is None


def test_what_does_not_fit_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_SPANS", 200)
    monkeypatch.setattr(latency, "MOST_POINTS", 3)
    page = written(tmp_path, made(tmp_path / "run"))
    kept = sum(len(entry["requests"]) for entry in data(page)["timeline"]["entries"])
    assert 0 < kept < 20 and f"{kept} of 20 requests are on this page" in page
    assert "Thinned to 3 points" in page
    points = data(page)["plots"]["latency-0"]["data"][0]["x"]
    times = [latency_s(Made(), "single", n) for n in range(1, 5)]
    assert len(points) == 3 and (min(points), max(points)) == pytest.approx((times[0], times[-1]))


def test_runs_of_a_sweep_that_differ_in_their_seed_alone_count_together(tmp_path: Path) -> None:
    sweep = tmp_path / "grid"
    rows = []
    for seed in (0, 1):
        run = made(sweep / "blocks" / f"b{seed}", Made(seed=seed, requests=4))
        rows.append({"key": f"k{seed}", "run": f"blocks/{run.name}", "status": "ok", "error": None})
    rows.append({"key": "k2", "run": None, "status": "failed", "error": "no <such> machine"})
    common = {"block": "b", "label": "single", "method": "single", "options": {}, "repetition": 0, "seed": 0,
              "code": "c", "point": {"run.tokens": "16"}}  # fmt: skip
    (sweep / "cells.jsonl").write_text("".join(json.dumps({**common, **row}) + "\n" for row in rows))
    about = {"schema_version": 1, "name": "grid", "code": "c", "keys": ["k0", "k1", "k2"]}
    (sweep / "sweep.json").write_text(json.dumps(about))
    page = written(tmp_path, sweep)
    assert {row["n"] for row in data(page)["facts"]["methods"]} == {8}
    assert "single, run.tokens 16: no &lt;such&gt; machine" in page
    both = written(tmp_path, *(sweep / "blocks" / f"b{seed}" for seed in (0, 1)))
    assert {row["n"] for row in data(both)["facts"]["methods"]} == {4}  # runs named one by one are not mixed


def test_a_run_without_a_network_or_a_method_is_shown(tmp_path: Path) -> None:
    run = made(tmp_path / "local", Made(network="", timeline=False))
    text = (run / "run.yaml").read_text().replace("mininet", "local").replace("{cpu: 0.5}", "{}")
    (run / "run.yaml").write_text(text)
    (run / "links.json").write_text("[]")
    assert "Nothing was shaped" in written(tmp_path, run)
    (run / "records.jsonl").write_text("")
    assert "No request was measured." in written(tmp_path, run)


def test_a_topology_that_cannot_be_read_any_more_is_said(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "run.yaml").write_text((run / "run.yaml").read_text().replace("10 Mbit/s", "10 parsecs", 1))
    page = written(tmp_path, run)
    assert "Not drawn, its topology cannot be read here" in page and "10 parsecs" in page


def test_figures_for_a_paper(tmp_path: Path) -> None:
    runs = [made(tmp_path / rate.split()[0], Made(rate=rate, manifest=REPLAYED)) for rate in pages.RATES]
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, runs), "--out", str(tmp_path / "p.html"), "--figures", str(tmp_path / "paper")])
    assert ended.value.code == 0
    names = {path.name for path in (tmp_path / "paper").iterdir()}
    assert names == {f"{name}.{kind}" for kind in ("pdf", "svg") for name in (
        "latency-by-bandwidth", "speedup-by-bandwidth", "breakdown-A", "breakdown-B")}  # fmt: skip
    drawn = (tmp_path / "paper" / "speedup-by-bandwidth.svg").read_text()
    assert "astra G=16" in drawn and "replayed from small-board" in drawn
    ET.fromstring(drawn)
    assert (tmp_path / "paper" / "breakdown-A.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/nothing"], "nothing: not a run folder (it has no run.yaml)"),
        (["{tmp}/run", "--out", "{tmp}/no/page.html"], "page.html: cannot be written: No such file or directory"),
        (["{tmp}/run", "--out", "{tmp}/p.html", "--figures", "{tmp}/run/run.yaml"], "run.yaml: cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["report", *(argument.format(tmp=tmp_path) for argument in arguments)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words in said and said.count("\n") == 1


def test_the_page_of_one_run_lies_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["report", str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    shutil.copytree(run, tmp_path / "moved")
    assert gather([tmp_path / "moved"]).runs[0].verdict == "ok"


def test_colours_of_methods_are_told_apart_also_by_the_colour_blind() -> None:
    """CIE 76 distances as seen, and with one kind of cones missing (Machado, Oliveira and Fernandes, 2009)."""
    seen = {
        "all": np.eye(3),
        "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
        "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    }
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(linear: Any) -> Any:
        x, y, z = np.cbrt(to_xyz @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    assert set(style.COLOURS) == set(METHODS)
    colours = [np.array([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) ** 2.2 for c, *_ in style.COLOURS.values()]
    for name, eyes in seen.items():
        places = [lab(np.array(eyes) @ colour) for colour in colours]
        least = min(np.linalg.norm(one - other) for one, other in combinations(places, 2))
        assert least > 12, name  # 2.3 is just noticeable


def test_a_method_has_its_colour_and_variants_their_own_mark() -> None:
    labels = ["single", "astra G=16", "astra G=4", "astra G=1", "sequence", "new"]
    found = style.looks((label.split()[0], label) for label in labels)
    assert {found[f"astra G={groups}"].colour for groups in (1, 4, 16)} == {style.COLOURS["astra"][0]}
    assert [found[f"astra G={groups}"].dash for groups in (1, 4, 16)] == ["solid", "dash", "dot"]
    assert len({(look.colour, look.mark) for look in found.values()}) == len(labels)
