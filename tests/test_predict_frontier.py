"""The map of the fastest method against formulas whose crossings are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import families
from runtime.profile import Entry, Profile
from testbed.predict import jobs
from testbed.predict.frontier import crossings, frontier, map_figure
from testbed.predict.jobs import Case, Grid
from testbed.predict.maps import latency_of, with_links
from testbed.predict.messages import over_loopback
from testbed.predict.work import Costs
from testbed.topology import Lane, Loss, MethodSpec
from tests.networks import star
from tests.works import medium

RATES, DELAYS = [1e6, 2e6, 5e6, 10e6, 20e6, 100e6], [0.0, 5e-3, 50e-3]
METHODS = ["single", "codes", "slices"]


def _latency(method: str, rate_bit_s: float, delay_s: float) -> float:
    """Few bytes and much computing, or many bytes and little: one is faster at low rates, the other at high ones."""
    compute_s, bits = {"single": (1.0, 0), "codes": (0.5, 1e6), "slices": (0.3, 6e6)}[method]
    return compute_s + bits / rate_bit_s + (12 * delay_s if bits else 0.0)


def test_every_point_has_the_fastest_and_single_where_it_wins() -> None:
    frame = frontier(_latency, METHODS, RATES, DELAYS)
    assert len(frame) == len(RATES) * len(DELAYS)
    for row in frame.to_dict("records"):
        times = {method: _latency(method, row["rate_bit_s"], row["delay_s"]) for method in METHODS}
        assert row["latency_s"] == min(times.values()) == times[row["fastest"]]
        assert row["single_wins"] == (row["fastest"] == "single")
        assert row["speedup"] == pytest.approx(1 / min(times.values()))
    assert set(frame["fastest"]) == set(METHODS)


def test_crossings_are_between_the_points_where_the_formulas_cross() -> None:
    found = crossings(frontier(_latency, METHODS, RATES, DELAYS), METHODS).set_index(["delay_s", "method"])[
        "rate_bit_s"
    ]
    assert found[0.0, "codes"] == pytest.approx(2e6)
    assert found[0.0, "slices"] == pytest.approx(6e6 / 0.7, rel=0.1)
    assert math.isnan(found[50e-3, "codes"])
    everywhere = frontier(lambda method, *_: 1.0 if method == "single" else 0.5, METHODS, RATES, DELAYS)
    assert (crossings(everywhere, METHODS)["rate_bit_s"] == 0).all()


@pytest.mark.parametrize("methods", [["codes"], ["single"]])
def test_a_frontier_needs_single_and_another(methods: list[str]) -> None:
    with pytest.raises(ValueError, match="give single and at least one more"):
        frontier(_latency, methods, RATES, DELAYS)


def test_the_figure_has_a_square_for_every_point_and_a_name_for_every_colour(tmp_path: Path) -> None:
    frame = frontier(_latency, METHODS, RATES, DELAYS)
    figure = map_figure(frame)
    axes = figure.axes[0]
    assert len(axes.patches) == len(frame) == len(axes.texts)
    assert sum(patch.get_hatch() is not None for patch in axes.patches) == frame["single_wins"].sum()
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(METHODS)
    figure.savefig(tmp_path / "map.svg")
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_the_map_of_a_topology_is_that_of_its_methods_on_other_links() -> None:
    shape = families.describe("vit-base", "random")
    entries = Entry("single", {}, 196, 1, total_s=1.0), Entry("sequence", {}, 196, 4, total_s=0.3)
    profile = Profile("by_hand", 12, 768, entries)
    topology = star(4, Lane(1e6, loss=Loss(0.1)))
    topology = replace(topology, run=replace(topology.run, methods=(MethodSpec("single"), MethodSpec("sequence"))))
    frame = frontier(latency_of(topology, profile, shape), ["single", "sequence"], [10e6, 100e6, 1e9], [0.0])
    # 12 layers of 3 slices of 50 rows of 768 floats: 4.6 s at 10 Mbit/s.
    assert list(frame["single_wins"]) == [True, False, False]
    assert frame["sequence"][0] == pytest.approx(0.3 + 12 * 3 * 50 * 768 * 32 * 1.07 / 10e6, rel=0.05)


@pytest.mark.parametrize(
    ("methods", "known", "columns"),
    [
        (["sequence"], ["single", "sequence"], {"single", "sequence"}),
        (["single", "sequence"], ["sequence"], None),
        (["single"], ["single"], None),
    ],
    ids=["single left out", "no time of single", "single alone"],
)
def test_a_map_is_between_single_and_another_or_there_is_none(
    methods: list[str], known: list[str], columns: set[str] | None, tmp_path: Path
) -> None:
    entries = tuple(Entry(name, {}, 196, 1 if name == "single" else 2, total_s=0.3) for name in known)
    plain = star(2)
    asked = replace(plain, run=replace(plain.run, methods=tuple(map(MethodSpec, methods))))
    grid = Grid(Case(asked, Profile("by_hand", 12, 768, entries)), (1e7, 1e9), (0.0,))
    found = jobs.maps([(grid, tmp_path)], Costs())[0]
    assert (None if found is None else columns and columns & set(found.columns)) == columns


def test_links_of_a_map_have_the_rate_and_the_delay_and_nothing_else() -> None:
    lossy = star(3, Lane(1e6, 1e-3, loss=Loss(0.1)))
    lanes = {lane for link in with_links(lossy, 5e6, 2e-3).links for lane in (link.up, link.down)}
    assert lanes == {Lane(5e6, 2e-3)}
    shared = with_links(medium(3, 1e6), 5e6, 0.0)
    assert shared.switches[0].rate_bit_s == 5e6
    assert all(link.up.rate_bit_s == 5e6 and math.isinf(link.down.rate_bit_s) for link in shared.links)


def test_a_message_costs_something_and_not_a_millisecond() -> None:
    costs = over_loopback()
    assert 0 < costs.send_s < 1e-3 and 0 <= costs.receive_s < 5e-3 and 0 <= costs.per_byte_s < 1e-7
