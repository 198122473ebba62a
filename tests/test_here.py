"""What outputs are worth at their task: scores of single requests, and what is made of many."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime.fidelity import score
from runtime.model import load, load_shape
from testbed import data
from testbed.data.wanted import digests
from testbed.here import here, says
from testbed.prepare.folder import Prepared
from tests.devices import shaken
from tests.test_page import visible, written
from tests.test_summary import codes, method, rows, saved


def scored(metric: str, pairs: list[tuple[float | None, float]]) -> list[dict[str, Any]]:
    return [{"score": {"metric": metric, "this": this, "single": single}} for this, single in pairs]


def test_shares_have_the_interval_of_wilson() -> None:
    found = here(scored("top1", [(1.0, 1.0)] * 17 + [(0.0, 1.0)] * 2 + [(0.0, 0.0)]))
    assert found is not None
    share, n, z = 17 / 20, 20, 1.959964
    middle, half = share + z * z / 2 / n, z * math.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2)
    ends = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert found["value"] == pytest.approx(share) and found["ci95"] == pytest.approx(ends)
    assert found["single"] == pytest.approx(19 / 20) and found["n"] == 20
    assert found["paired"]["kind"] == "difference" and found["paired"]["value"] == pytest.approx(-2 / 20)
    low, high = found["paired"]["ci95"]
    # Two of twenty lost: with half a request more of each outcome, -2 of 22 and what 3 of 22 differ by.
    spread = z * math.sqrt(3 / 22 - (2 / 22) ** 2) / math.sqrt(22)
    assert [low, high] == pytest.approx([-2 / 22 - spread, -2 / 22 + spread])
    assert says(found) == "85.0% (n 20, 64.0%-94.8%)"


def test_that_no_request_differs_does_not_prove_that_none_would() -> None:
    few, many = (here(scored("top1", [(1.0, 1.0)] * n)) for n in (13, 1300))
    assert few is not None and many is not None
    assert few["paired"]["value"] == 0 and few["paired"]["ci95"][0] < -0.1 < -0.01 < many["paired"]["ci95"][0] < 0


def nine_of_ten(number: int) -> list[dict[str, Any]]:
    found = scored("top1", [(1.0, 1.0)] * 9 + [(0.0, 1.0)])
    for row in found:
        row["score"]["input"] = f"{number:016x}"
    return found


def test_an_input_that_comes_again_says_no_more() -> None:
    pairs = [(1.0, 1.0)] * 8 + [(0.0, 1.0)] * 2
    once = scored("top1", pairs)
    for number, row in enumerate(once):
        row["score"]["input"] = f"{number:016x}"
    assert here(once) == here(once * 30) == here(scored("top1", pairs)) != here(scored("top1", pairs * 30))
    lost = {"score": {"metric": "top1", "input": f"{0:016x}", "this": 0.0, "single": 1.0}}  # of one that came before
    found = here([*once, lost])
    assert found is not None and found["n"] == 10 and found["value"] == pytest.approx(0.75)
    # An input that is right nine times of ten is a loss of a tenth, and both intervals are around what they are of.
    often = here([row for number in range(10) for row in nine_of_ten(number)])
    assert often is not None and (often["n"], often["single"]) == (10, 1.0)
    for one, value in ((often["ci95"], 0.9), (often["paired"]["ci95"], -0.1)):
        assert one[0] < value < one[1]


def test_perplexities_are_of_means_and_compared_by_their_ratio() -> None:
    nats = [(1.0, 0.5), (2.0, 1.0), (3.0, 3.0), (0.5, 0.3)]
    found = here(scored("perplexity", nats))
    assert found is not None
    assert found["value"] == pytest.approx(math.exp(6.5 / 4)) and found["single"] == pytest.approx(math.exp(4.8 / 4))
    assert found["paired"]["kind"] == "ratio" and found["paired"]["value"] == pytest.approx(math.exp(1.7 / 4))
    assert found["ci95"][0] < found["value"] < found["ci95"][1]


def test_what_is_not_known_of_every_request_is_not_said() -> None:
    assert here([]) is None and here([{"score": None}]) is None
    assert here(scored("cosine", [(0.9, 1.0), (None, 1.0)])) is None


def test_a_request_is_scored_by_its_kind(tmp_path: Path) -> None:
    out, other = torch.tensor([0.1, 2.0, -1.0]), torch.tensor([3.0, 0.0, 0.0])

    def of(preset: str, target: Tensor) -> dict[str, Any]:
        return score(load_shape(shaken(preset, tmp_path / preset)), torch.arange(3), out, other, target)

    found = of("vit-tiny", torch.tensor(1))
    assert len(found.pop("input")) == 16 and found == {"metric": "top1", "this": 1.0, "single": 0.0}
    nats = [-one.log_softmax(0)[2].item() for one in (out, other)]
    found = of("gpt2-tiny", torch.tensor(2, dtype=torch.int32))
    assert [found[key] for key in ("metric", "this", "single")] == ["perplexity", *map(pytest.approx, nats)]
    found = of("bert-tiny", other * 2)
    assert found["single"] == pytest.approx(1) and found["this"] == pytest.approx(0.1 / math.hypot(0.1, 2, 1), rel=1e-4)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "bert-tiny"])
def test_what_is_right_of_a_text_is_the_next_id_or_what_the_original_says(tmp_path: Path, preset: str) -> None:
    text = tmp_path / "text"
    text.write_text("".join(random.Random(0).choices(string.ascii_letters + "\n", k=6000)))
    for name in ("model", "original"):
        shaken(preset, tmp_path / name, seed=len(name))
    config = {"data": f"text:{text}", "seed": 0, "tokens": 12, "inputs": {"test": 30}}
    shape = load_shape(tmp_path / "model")
    there = data.load(f"text:{text}", shape, 12, None, 0).test
    save_file({"digests": digests(there)}, tmp_path / "held_out.safetensors")
    raw, right = Prepared(tmp_path, config, shape).inputs(12, 0, 5)
    assert len({one.numpy().tobytes() for one in raw}) == 5
    if not shape.causal:
        model = load(tmp_path / "original")
        torch.testing.assert_close(torch.stack(right), torch.stack([model(one) for one in raw]), atol=1e-5, rtol=1e-5)
        return
    whole = text.read_bytes()
    assert all(bytes([*one.tolist(), int(following)]) in whole for one, following in zip(raw, right, strict=True))


@pytest.mark.parametrize("known", [True, False])
def test_codes_whose_outputs_are_judged_are_not_called_untuned(tmp_path: Path, known: bool) -> None:
    own = rows("astra", 1, 1.0)
    own[0]["score"] = {"metric": "top1", "this": 1.0, "single": 1.0} if known else None
    run = saved(tmp_path / "out", [method("astra", [0, 0], equals_single=False)], own)
    assert ("changes-function" in codes(run)) is not known


def test_the_page_shows_it(tmp_path: Path) -> None:
    found = []
    for request in (0, 1, 2, 3):
        for label in ("single", "topk"):
            own = rows(label, request, 1.0, ranks=1, warmup=request == 0)
            own[0]["score"] = {"metric": "top1", "this": float(label == "single" or request > 1), "single": 1.0}
            found += own
    saved(tmp_path / "out", [method("single", [0]), method("topk", [0], equals_single=False)], found)
    page = visible(written(tmp_path, tmp_path / "out")).partition('id="fidelity"')[2]
    assert "by these outputs" in page and "top-1 66.7% (n 3, 20.8%-93.9%), single 100.0%" in page
    assert "-33.3% (" in page and "tokens not there in time" not in page
