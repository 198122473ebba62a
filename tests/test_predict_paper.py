"""What the ASTRA paper publishes, by its own accounting."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.profile import Entry
from testbed import profiles
from testbed.predict import accounting, paper
from testbed.predict.work import PredictError
from testbed.topology import MethodSpec

PROFILE = profiles.read(Path(__file__).parents[1] / "topologies" / "profiles" / "paper_encoder.yaml")
DATA = paper.read()
SPEEDUPS, PREFILLS = paper.speedups(DATA), paper.prefills(DATA)
# Published times that are shorter than compute + V/B: 1.0 to 1.6 Mbit per prefill cost nothing at these rates.
FASTER = {("bp_ag_4", 10), ("bp_ag_4", 20), ("bp_ag_8", 10), ("astra_g16", 10), ("astra_g32", 10), ("astra_g32", 20)}


def test_every_published_speedup_of_the_encoder_is_met_to_a_per_cent() -> None:
    assert len(SPEEDUPS) == 9 * 6
    assert SPEEDUPS["error"].abs().max() < 0.01


def test_the_steps_that_run_meet_published_speedups_to_a_per_cent_by_the_same_accounting() -> None:
    found = accounting.speedups(DATA, PROFILE)
    assert len(found) == 9 * 6
    assert found[found["method"] != "tensor"]["error"].abs().max() < 0.01
    assert (found[found["method"] == "tensor"]["error"] < -0.8).all()


def test_the_ring_of_tensor_parallelism_sends_a_neighbour_more_than_the_paper_charges() -> None:
    """Twice per layer 2(N-1) parts of 1/N of T positions and the class token, where the paper has one of T."""
    assert accounting.ring_factor(DATA) == pytest.approx(2 * 3 * 1025 / 1024)
    shape, tensor = accounting.encoder(), MethodSpec("tensor")
    assert accounting.pair_bits(tensor, shape, 1024, 4) == 12 * 2 * 6 * 1025 * 768 // 4 * 32
    assert "6.0 times its bits" in str(accounting.told(DATA, PROFILE))


def test_the_profile_has_the_times_that_are_published() -> None:
    times = {}
    for key, row in DATA["encoder"]["compute_ms"].items():
        tokens, devices = (int(part.partition("=")[2]) for part in key.split(","))
        times |= {(name, tokens, 1 if name == "single" else devices): ms / 1e3 for name, ms in row.items()}
    assert {_asked(entry): entry.total_s for entry in PROFILE.entries} == pytest.approx(times)


def _asked(entry: Entry) -> tuple[str | None, int, int]:
    return paper.name_of(MethodSpec(entry.method, entry.options)), entry.tokens, entry.devices


def test_prefill_times_of_llama_are_met_but_for_six_that_are_faster_than_the_formula() -> None:
    assert len(PREFILLS) == 7 * 6
    off = PREFILLS[PREFILLS["error"].abs() > 0.01]
    assert {(row.method, row.mbps) for row in off.itertuples()} == FASTER
    free_bits = (off["predicted"] - off["published"]) * off["mbps"] * 1e6
    assert free_bits.between(0.7e6, 1.6e6).all()


def test_requests_over_a_markov_trace_are_near_those_published() -> None:
    found = paper.requests(DATA, range(1)).set_index("method")
    assert found.loc["tp", "predicted"] == 6
    assert found["error"].abs().max() < 0.065
    assert found.loc[["tp", "sp", "astra_g1", "astra_g16"], "error"].abs().max() < 0.015


def test_one_pass_is_compute_and_volume_over_rate() -> None:
    # 12 layers of a slice of 256 x 768 numbers of 32 bits at 10 x 2^20 bit/s.
    assert paper.encoder_s(DATA, "sp", 10) == pytest.approx(32.8e-3 + 12 * 256 * 768 * 32 / (10 * 2**20))
    assert paper.encoder_s(DATA, "single", 10) == pytest.approx(111.5e-3)
    assert paper.encoder_s(DATA, "astra_g1", 10, 4096, 4) == pytest.approx(184.9e-3 + 12 * 10 * 1024 / (10 * 2**20))


@pytest.mark.parametrize("formula", ["__import__('os')", "L.__class__", "L ** 9", "X * 2"])
def test_a_formula_is_arithmetic_and_nothing_else(formula: str) -> None:
    with pytest.raises(PredictError, match="is allowed"):
        paper.volume_bits("sp", {"sp": formula}, {"L": 1.0})


def test_a_file_without_the_figures_is_told(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("encoder: {}\n")
    with pytest.raises(PredictError, match=r"other\.yaml: not a file of published figures"):
        paper.read(file)
    with pytest.raises(PredictError, match="no compute time for 100 tokens"):
        paper.encoder_s(DATA, "sp", 10, 100)
    with pytest.raises(PredictError, match="no formula"):
        paper.volume_bits("ring_2", {"sp": "L"}, {"L": 1.0})
