"""Uneven splits of the tokens, through the options of methods: spans, results, bytes, refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from runtime import methods, mixed, steps
from runtime.codecs.topk import LargestFeatures
from runtime.methods import split
from runtime.methods.astra import AstraOptions, streams
from runtime.methods.method import rows
from runtime.model import load, load_shape
from runtime.plan import even_spans
from runtime.training.measure import coded
from testbed import check
from tests.devices import codebooks, planned, random_input, request, shaken
from tests.files import problems
from tests.test_rivals import compare, oracle
from tests.test_steps import LLAMA, VIT, sent_bytes

FAMILIES = ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"]
SPLITS = ["3/2/1", "0.1/0.6/0.05/0.25", "1/17"]
TOKENS = 37
CODES: list[dict[str, Any]] = [
    {"groups": 1, "codewords": 32, "code": "input"},
    {"groups": 4, "codewords": 16, "code": "input"},
    {"groups": 2, "codewords": 32, "code": "kv"},
    {"groups": 1, "codewords": 32, "code": "residual"},
    {"groups": 4, "codewords": 16, "code": "residual"},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: shaken(family, root / family, 5) for family in FAMILIES}


@given(total=st.integers(1, 300), shares=st.lists(st.integers(1, 50), min_size=1, max_size=8))
@settings(deadline=None, max_examples=80)
def test_spans_are_as_near_to_the_shares_as_whole_numbers_are(total: int, shares: list[int]) -> None:
    found = split.spans(total, len(shares), "/".join(map(str, shares)))
    assert [span.start for span in found] == [0, *(span.stop for span in found[:-1])] and found[-1].stop == total
    exact = [total * share / sum(shares) for share in shares]
    assert all(math.floor(one) <= len(span) <= math.ceil(one) for one, span in zip(exact, found, strict=True))
    alike = split.spans(total, len(shares), "/".join(["0.5"] * len(shares)))
    assert alike == even_spans(total, len(shares)) == split.spans(total, len(shares), None)


@pytest.mark.parametrize("options", CODES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_astra_equals_one_machine_and_every_device_sends_its_own_tokens(
    folders: dict[str, Path], tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    books = codebooks(folders[family], options, TOKENS, tmp_path / "books")
    for cut in SPLITS:
        _compare_with_one_machine(folders[family], books, options, cut)


def _compare_with_one_machine(folder: Path, books: Path, options: dict[str, Any], cut: str) -> None:
    devices, model, raw = cut.count("/") + 1, load(folder), random_input(load_shape(folder), TOKENS)
    plan = planned("astra", options | {"split": cut}, model.shape, TOKENS, devices)
    assert [share.tokens for share in plan.shares] == split.spans(TOKENS, devices, cut)
    result, records = request(folder, plan, raw, books)
    holding, names = (
        mixed.contiguous([share.tokens for share in plan.shares], 1),
        streams(model.shape, AstraOptions(**options)),
    )
    truth = mixed.results(model, raw.unsqueeze(0), holding, names, coded(load_file(books)))[0]
    torch.testing.assert_close(result, truth, atol=1e-4, rtol=1e-4)
    bits = options["groups"] * int(math.log2(options["codewords"]))
    for share, record in zip(plan.shares, records, strict=True):
        receivers = devices - 1 - share.rank if model.shape.causal else devices - 1
        once = len(names) * math.ceil(len(share.tokens) * bits / 8)
        assert record.sent_bytes == receivers * model.shape.layers * once


@pytest.mark.parametrize("cut", SPLITS)
@pytest.mark.parametrize("gather", ["input", "kv"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sequence_still_equals_single(folders: dict[str, Path], family: str, gather: str, cut: str) -> None:
    """Where the class token is held once it counts as one of the positions that are dealt out."""
    folder, devices = folders[family], cut.count("/") + 1
    shape, raw = load_shape(folder), random_input(load_shape(folder), TOKENS)
    plan = planned("sequence", {"gather": gather, "split": cut}, shape, TOKENS, devices)
    held = [rows(shape, share.tokens) for share in plan.shares]
    assert held == [len(span) for span in split.spans(TOKENS + shape.prefix, devices, cut)]
    result, records = request(folder, plan, raw)
    torch.testing.assert_close(result, load(folder)(raw), atol=1e-5, rtol=1e-5)
    width = shape.width if gather == "input" else 2 * shape.kv_width
    assert [r.sent_bytes for r in records] == [(devices - 1) * shape.layers * one * width * 4 for one in held]


@pytest.mark.parametrize("cut", SPLITS[:2])
@pytest.mark.parametrize("family", ["vit-tiny", "llama-tiny"])
def test_rivals_equal_one_machine_too(folders: dict[str, Path], family: str, cut: str) -> None:
    folder, devices = folders[family], cut.count("/") + 1
    model, means = load(folder), methods.load("prism").Options(segments=3).means
    case = ("topk", {"keep": 10, "split": cut})
    compare(folder, case, devices, lambda plan, raw: oracle(model, plan, raw, LargestFeatures(10).rebuilt))
    case = ("prism", {"segments": 3, "split": cut})
    compare(folder, case, devices, lambda plan, raw: oracle(model, plan, raw, means.rebuilt, by_device=True))


@pytest.mark.parametrize("method", ["sequence", "astra", "prism", "topk"])
def test_steps_are_those_of_the_split(method: str) -> None:
    kind, options = methods.load(method), {"split": "5/2/1"}
    for shape in (VIT, LLAMA):
        plan = planned(method, options, shape, 100, 3)
        for rank in range(3):
            formula = kind.payload_bytes(shape, kind.Options(**options), plan, rank)
            assert sent_bytes(steps.steps(plan, shape, rank), 3, rank) == formula


HEAD = (
    "name: t\nbackend: local\nhosts: {h1: {}, h2: {}, h3: {}}\nrun:\n  model: vit-tiny\n  tokens: 20\n  methods: [%s]\n"
)
ONE = 'split is one share above 0 for each device, e.g. "3/2/1", not '


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("{astra: {split: [3, 2, 1]}}", f"{ONE}[3, 2, 1]"),
        ("{astra: {split: 3}}", f"{ONE}3"),
        ("{sequence: {split: 3/0/1}}", f"{ONE}'3/0/1': one is 0"),
        ("{topk: {split: 3/-2/1}}", f"{ONE}'3/-2/1'"),
        ("{prism: {split: 3/2/}}", f"{ONE}'3/2/'"),
        ("{tensor: {split: 3/2/1}}", "tensor.split: unknown key, allowed: codec"),
        ("{pipeline: {split: 3/2/1}}", "unknown key"),
        ("{single: {split: 3/2/1}}", "unknown key"),
    ],
)
def test_a_split_that_is_none_is_refused_in_a_line(tmp_path: Path, asked: str, said: str) -> None:
    found = problems(tmp_path, HEAD % asked)
    assert len(found) == 1 and found[0].startswith("t.yaml:7 run.methods[0]") and said in found[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("{astra: {split: 3/2}}", 'run.methods[0] = "astra split=3/2": split 3/2 has 2 shares for 3 devices'),
        ("{topk: {split: 100/1/1}}", "split 100/1/1 leaves a device without a token"),
        ("{sequence: {split: 1/100/100}}", "split 1/100/100 leaves a device without a token"),
        ("{sequence: {split: 10/5/5}}, {astra: {split: 10/5/5}}", None),
    ],
)
def test_a_split_must_fit_devices_and_tokens(tmp_path: Path, asked: str, said: str | None) -> None:
    (tmp_path / "t.yaml").write_text(HEAD % asked)
    found = check.problems(tmp_path / "t.yaml")
    assert found == [] if said is None else len(found) == 1 and said in found[0], found


def test_options_that_are_alike_split_alike(folders: dict[str, Path]) -> None:
    shape = load_shape(folders["vit-tiny"])

    def shares(options: Mapping[str, Any]) -> Any:
        return planned("sequence", options, shape, TOKENS, 3).shares

    assert shares({"split": "1/1/1"}) == shares({}) == shares({"split": None})
