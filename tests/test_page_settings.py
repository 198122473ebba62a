"""Settings of a page: every measured cell counts, what differs is told apart, and what is not valid is no evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed import store
from testbed.cli import app
from testbed.page import apart, beside, forecast, frontier, paper
from testbed.page.data import Study, gather
from testbed.page.page import page
from testbed.predict import against, jobs
from testbed.predict.work import EMULATED, Costs
from testbed.sweep import folder
from tests import pages
from tests.pages import Made, made

COSTS = Costs(kind=EMULATED)
LABELS = ("single", "sequence")
WHAT = Made(labels=LABELS, weights="random")
QUEUED = pages.STAR.replace("delay: {delay}", "delay: {delay}, queue: 1 MB")
CELL = {"options": {}, "point": {"run.tokens": "16"}, "repetition": 1, "seed": 0, "status": "ok", "error": None}


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small forecasts: other processes would take longer to begin."""
    monkeypatch.setattr(jobs, "_ALONE", 100)


def sweep(path: Path, runs: Mapping[str, Made], code: str = "c", cells: Sequence[Mapping[str, Any]] = ()) -> Path:
    """A sweep folder of these runs, all of whose methods count, unless cells say otherwise."""
    for name, what in runs.items():
        made(path / "blocks" / name, what)
    every = [{"key": f"{name}{label}", "label": label, "run": f"blocks/{name}"}
             for name, what in runs.items() for label in what.labels]  # fmt: skip
    rows = [{**CELL, "block": "b", "code": code, "method": one["label"].split()[0], **one} for one in cells or every]
    (path / folder.CELLS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = [row["key"] for row in rows if row["key"] != "old"]
    about = {"schema_version": 1, "name": path.name, "code": code, "keys": keys}
    (path / folder.ABOUT).write_text(json.dumps(about))
    return path


def studied(*paths: Path) -> Study:
    return gather(paths).with_cells(against.cells(paths, COSTS))


def errors(study: Study) -> list[float]:
    return [row["error"] for row in forecast.rows(study) if forecast.counts(row)]


def everywhere(run: Path) -> Path:
    """The same run, with the input on every device."""
    file = run / store.TOPOLOGY
    file.write_text(file.read_text().replace("seed: 0", "seed: 0, input_at: everywhere"))
    return run


def test_what_differs_in_no_axis_is_told_apart_and_counts(tmp_path: Path) -> None:
    runs = []
    for rate in pages.RATES:
        what, name = replace(WHAT, rate=rate), rate.split()[0]
        runs += [made(tmp_path / f"{name}-a", what), made(tmp_path / f"{name}-b", replace(what, network=QUEUED))]
        runs.append(everywhere(made(tmp_path / f"{name}-c", what)))
    study = studied(*runs)
    assert len(study.settings) == len({tuple(one.axes.items()) for one in study.settings}) == 6
    groups = frontier.grouped(study.settings)
    also = [settings[0].axes[apart.ALSO] for settings in groups]
    assert [len(settings) for settings in groups] == [2, 2, 2]
    assert "queue 1 MB" in also[1] and "input_at everywhere" in also[2] and "input_at source" in also[0]
    assert len(errors(study)) == 6 and "Over 6 methods" in beside.summary(forecast.rows(study))[0]
    beyond = beside.summary(forecast.rows(study))[1].partition(": ")[2].split("), ")  # of what was made up, all are
    assert len(set(beyond)) == 6 and all("100 Mbit/s" in words or "10 Mbit/s" in words for words in beyond)
    assert all(row["n"] == 4 and row["measured_s"] for row in forecast.rows(study))


def test_a_point_of_two_sweeps_counts_once_with_the_requests_of_both(tmp_path: Path) -> None:
    slow, fast = (replace(WHAT, rate=rate) for rate in pages.RATES)
    first = sweep(tmp_path / "first", {"a": slow, "b": fast})
    study = studied(first, sweep(tmp_path / "second", {"a": slow}))
    assert [(row["rate_bit_s"], row["n"]) for row in forecast.rows(study) if row["label"] == "sequence"] == [
        (1e7, 8), (1e8, 4)
    ]  # fmt: skip
    other = studied(first, sweep(tmp_path / "third", {"a": slow}, code="of another day"))
    assert [one.axes[apart.ALSO] for one in other.settings] == ["none", "none", "repeat 2"]
    assert len(errors(other)) == 3


def test_links_with_other_rates_at_the_same_slowest_one_are_told_apart() -> None:
    rates = [("10", "10"), ("10", "20"), ("20", "10"), ("20", "20")]
    facts = [{f"links.h{i} - s1.rate": f"{rate} Mbit/s" for i, rate in enumerate(pair, 1)} for pair in rates]
    group = (("network", "star"),)
    found = apart.told({i: (group, min(pair)) for i, pair in enumerate(rates)}, facts.__getitem__)
    assert found[0] == found[3] == "none"  # their links are alike: a panel of two rates
    assert found[1] == "links.h1 - s1.rate 10 Mbit/s, links.h2 - s1.rate 20 Mbit/s" != found[2] != "none"
    same = apart.told(dict.fromkeys(range(3), (group, 1)), lambda _: {})
    assert list(same.values()) == ["none", "repeat 2", "repeat 3"]


def test_a_point_that_was_not_measured_is_of_the_panel_from_which_nothing_tells_it() -> None:
    plain, deep = {"links.a.queue": "64 kB", "run.seed": "0"}, {"links.a.queue": "1 MB", "run.seed": "0"}
    known = [("queue 64 kB", plain), ("queue 1 MB", deep)]
    assert apart.placed({**deep, "run.seed": "7", "git.commit": "x"}, known, known) == "queue 1 MB"
    assert apart.placed({"links.a.queue": "2 MB"}, known, known) == "queue 2 MB"
    faster = {"links.a.queue": "80 kB", "links.a.rate": "2 Gbit/s"}  # the default queue depends on the rate
    assert apart.placed(faster, [], known) == "queue 64 kB"
    assert apart.placed(plain, [], []) == apart.NOTHING


@pytest.mark.parametrize(("verdict", "words"), [("wrong", "not valid"), ("unverified", "not verified")])
def test_what_was_not_the_declared_network_is_no_evidence(tmp_path: Path, verdict: str, words: str) -> None:
    slow, fast = (replace(WHAT, rate=rate) for rate in pages.RATES)
    runs = [made(tmp_path / "a", slow), made(tmp_path / "b", replace(fast, verdict=verdict))]
    told = forecast.rows(studied(*runs))
    said = beside.summary(told)[0]
    assert "Over 1 methods and networks" in said and "Of 1 more nothing is said" in said
    assert {row["rate_bit_s"]: row["verdict"] for row in told} == {1e7: "ok", 1e8: verdict}
    asked = ["predict", *map(str, runs)]
    summed = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["errors"]
    assert (summed["all"]["n"], summed["left_out"]) == (1, 1)
    printed = " ".join(CliRunner().invoke(app, asked).stdout.split())
    assert words in printed and "1 of the cells are in no error" in printed


def test_what_was_not_the_declared_network_is_crossed_on_the_page_and_in_files(tmp_path: Path) -> None:
    slow, fast = (replace(WHAT, rate=rate) for rate in pages.RATES)
    study = studied(made(tmp_path / "a", slow), made(tmp_path / "b", replace(fast, verdict="unverified")))
    found = page(study)
    data = json.loads(found.split('id="page-data">')[1].split("</script>")[0])
    lines = {line["name"]: line for line in data["plots"]["by-rate-speedup-0-0"]["data"]}
    assert lines["sequence"]["x"] == [1e7] and lines["sequence, not valid"]["x"] == [1e8]
    assert lines["sequence, not valid"]["marker"]["symbol"] == "x"
    words = " ".join(found.split())
    assert "sequence never beats single at 10 Mbit/s, the one rate at which both were measured." in words
    assert "Crosses are not valid" in words and "100 Mbit/s, not valid" in words
    paper.draw(study, tmp_path / "files")
    drawn = (tmp_path / "files" / "speedup-by-bandwidth.svg").read_text()
    assert "crosses: network not as declared or not verified" in drawn


def test_of_a_cell_that_ran_again_the_last_run_counts(tmp_path: Path) -> None:
    first = replace(WHAT, labels=("single",), failed={"sequence": "h2 lost"})
    cells = [
        {"key": "k1", "label": "single", "run": "blocks/a"},
        {"key": "k2", "label": "sequence", "run": "blocks/a", "status": "failed", "error": "h2 lost"},
        {"key": "old", "label": "tensor", "run": None, "status": "failed", "error": "not asked for any more"},
        {"key": "k2", "label": "sequence", "run": "blocks/b"},
    ]
    study = studied(sweep(tmp_path / "again", {"a": first, "b": WHAT}, cells=cells))
    assert study.failures == () and set(study.methods["status"]) == {"ok"}
    assert dict(study.methods[["label", "n"]].itertuples(index=False)) == {"single": 8, "sequence": 4}
    assert "h2 lost" not in page(study) and len(errors(study)) == 1


def test_a_sweep_whose_cells_are_gone_is_a_line(tmp_path: Path) -> None:
    path = sweep(tmp_path / "gone", {"a": WHAT})
    (path / folder.CELLS).unlink()
    done = CliRunner().invoke(app, ["report", str(path)])
    assert done.exit_code == 2 and "no finished block yet" in done.stderr and done.stderr.count("\n") == 1
