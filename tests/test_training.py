"""Training: what the learning codebook does, by plain arithmetic and vector-quantize-pytorch; and whole trainings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime import mixed
from runtime.codecs.vq import GroupedVQ
from runtime.methods.astra import AstraOptions, streams
from runtime.model import WEIGHTS, Model, load, load_shape
from runtime.plan import Span, even_spans
from runtime.training import measure
from runtime.training.data import Data
from runtime.training.quantizer import LearnedVQ, Learning
from runtime.training.train import CODEBOOKS, Hooks, Settings, finetune, original
from tests.devices import codebooks, planned, random_input, request, shaken

TOKENS, SHORT = 16, Settings(steps=6, batch=4, warmup=2, devices=3)
FAMILIES = ("vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny")


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """Whatever tests before these have switched off."""
    with torch.enable_grad():
        yield


def learned(learning: Learning, codebook: Tensor | None = None) -> LearnedVQ:
    """Two groups of 8 codewords of width 3, unless given."""
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(2, 8, 3, generator=generator) if codebook is None else codebook
    return LearnedVQ(book, learning, generator)


def vectors(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    for name in FAMILIES:
        shaken(name, folder / name, 3)
    return folder


def data(folder: Path, rows: int = 12) -> Data:
    """Noise of the right form: enough to train on, not to learn from."""
    shape = load_shape(folder)
    raw = torch.stack([random_input(shape, TOKENS + int(shape.causal), 50 + i) for i in range(rows)])
    labels = torch.arange(rows) % shape.outputs if shape.result == "classes" else None
    half = rows // 2
    first, second = (None, None) if labels is None else (labels[:half], labels[half:])
    return Data("noise", raw[:half], first, raw[half:], second)


# The codebook


def test_without_noise_others_see_the_codewords_and_gradients_pass_as_they_are() -> None:
    vq, x = learned(Learning(noise=0.0)), vectors(40).requires_grad_()
    codec = GroupedVQ(vq.codebook.clone())
    weight = vectors(40, 7)
    seen = vq(x)
    (seen * weight).sum().backward()
    torch.testing.assert_close(seen, codec.decode(codec.encode(x)))
    torch.testing.assert_close(x.grad, weight)


def test_commitment_pulls_vectors_to_their_codewords_and_not_the_other_way() -> None:
    vq, x = learned(Learning(noise=0.0)), vectors(40).requires_grad_()
    codec = GroupedVQ(vq.codebook.clone())
    vq(x)
    vq.loss.backward()
    decoded = codec.decode(codec.encode(x.detach()))
    torch.testing.assert_close(vq.loss.detach(), (x.detach() - decoded).square().sum(-1).mean())
    torch.testing.assert_close(x.grad, 2 * (x.detach() - decoded) / 40)
    assert not vq.codebook.requires_grad


def test_noise_has_the_mean_and_the_spread_of_the_residuals() -> None:
    vq, x = learned(Learning(noise=1.0, ema=0.0)), vectors(20_000) + 0.3
    codec = GroupedVQ(vq.codebook.clone())
    residuals = x - codec.decode(codec.encode(x))
    noise = vq(x) - codec.decode(codec.encode(x))
    torch.testing.assert_close(noise.mean(0), residuals.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.std(0), residuals.std(0), atol=0.03, rtol=0)


def test_half_the_lambda_is_half_the_noise() -> None:
    seen = [learned(Learning(noise=noise))(vectors(50)) for noise in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(seen[1] - seen[0], (seen[2] - seen[0]) / 2)


@pytest.mark.parametrize("ema", [0.99, 0.8])
def test_moving_averages_are_those_of_vector_quantize_pytorch(ema: float) -> None:
    library = pytest.importorskip("vector_quantize_pytorch", reason="needs the package vector-quantize-pytorch")
    vq = learned(Learning(noise=0.0, ema=ema, reseed=False))
    settings: dict[str, Any] = {"decay": ema, "rotation_trick": False, "threshold_ema_dead_code": 0, "eps": 1e-5}
    theirs = [library.VectorQuantize(dim=3, codebook_size=8, **settings) for _ in range(2)]
    for group, one in enumerate(theirs):
        one._codebook.embed.data.copy_(vq.codebook[group])
        one._codebook.embed_avg.data.copy_(vq.codebook[group])
        one._codebook.cluster_size.data.fill_(1.0)
        one.train()
    for step in range(5):
        x = vectors(64, step)
        ours = vq(x)
        seen = torch.cat([one(part)[0] for one, part in zip(theirs, x.split(3, -1), strict=True)], -1)
        torch.testing.assert_close(ours, seen)
    torch.testing.assert_close(vq.codebook, torch.stack([one.codebook for one in theirs]))


def test_dead_codewords_come_back_at_vectors_of_the_batch() -> None:
    book = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    book[:, 5:] += 100.0  # nothing is near these
    kept, given_back = (learned(Learning(noise=0.0, ema=0.5, reseed=reseed), book) for reseed in (False, True))
    for step in range(12):
        x = vectors(64, step)
        kept(x), given_back(x)
    assert (kept.codebook[:, 5:] > 50).any()
    assert given_back.codebook.abs().max() < 10
    spread = torch.cdist(given_back.codebook, x.view(64, 2, 3).transpose(0, 1)).min(-1).values
    assert spread.max() < 3


def test_what_is_never_used_is_dead_after_a_few_batches_and_what_is_used_never() -> None:
    """At the recipes' decay and length, in which the weight that codewords begin with hardly fades."""
    book = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    book[:, 5:] += 100.0  # nothing is near these
    vq = learned(Learning(noise=0.0, ema=0.99), book)
    for step in range(10):  # of 16 vectors, so that an even use would be of two
        before = vq.codebook.clone()
        vq(vectors(16, step))
        moved = (vq.codebook[:, 5:] - before[:, 5:]).abs().amax(-1) > 50
        assert bool(moved.all()) == (step == 7) and bool(moved.any()) == (step == 7)
    rare = torch.cat([torch.zeros(1, 1, 3), torch.full((1, 1, 3), 9.0)], 1)  # one of two codewords, used 1 in 20 times
    vq = learned(Learning(noise=0.0, ema=0.99), rare)
    x = torch.zeros(20, 3)
    x[0] = 9.0
    for _ in range(100):
        vq(x)
    torch.testing.assert_close(vq.codebook, rare, atol=1e-3, rtol=0)


def test_reseeding_makes_another_training(root: Path, tmp_path: Path) -> None:
    folder, options = root / "vit-tiny", {"groups": 2, "codewords": 16}
    books = load_file(codebooks(folder, options, TOKENS, tmp_path / "books"))
    books = {name: torch.cat([book[:, :12], book[:, 12:] + 100.0], 1) for name, book in books.items()}
    for reseed in (True, False):
        settings = replace(SHORT, reseed=reseed)
        finetune(folder, books, data(folder), AstraOptions(**options), settings, tmp_path / f"{reseed}")
    with_it, without = (load_file(tmp_path / name / CODEBOOKS) for name in ("True", "False"))
    assert all(with_it[name].abs().max() < 50 < without[name].abs().max() for name in with_it)


# The arithmetic of many on one machine


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_on_one_machine_is_what_devices_return(root: Path, tmp_path: Path, family: str) -> None:
    folder, options = root / family, {"groups": 2, "codewords": 16}
    shape = load_shape(folder)
    extra = codebooks(folder, options, TOKENS, tmp_path / "books")
    raw = torch.stack([random_input(shape, TOKENS, seed) for seed in (1, 2)])
    plan = planned("astra", options, shape, TOKENS, 3)
    model, holding = load(folder), mixed.contiguous([share.tokens for share in plan.shares], 2)
    names = streams(shape, AstraOptions(**options))
    ours = mixed.results(model, raw, holding, names, measure.coded(load_file(extra)))
    devices = torch.stack([request(folder, plan, one, extra)[0] for one in raw])
    torch.testing.assert_close(ours, devices, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_device_is_the_model_itself_and_so_is_a_code_that_loses_nothing(root: Path, family: str) -> None:
    model = load(root / family)
    raw = torch.stack([random_input(model.shape, TOKENS, seed) for seed in (1, 2)])
    truth = torch.stack([model(one) for one in raw])
    for holding in (mixed.alone(2, TOKENS), mixed.contiguous([Span(0, 3), Span(3, 4), Span(4, TOKENS)], 2)):
        for names in (("input",), ("k", "v")):
            exact = mixed.results(model, raw, holding, names, lambda layer, stream, x: x)
            torch.testing.assert_close(exact, truth, atol=1e-4, rtol=1e-4)


def test_what_is_not_heard_is_not_attended_to(root: Path) -> None:
    model = load(root / "vit-tiny")
    raw = random_input(model.shape, TOKENS).unsqueeze(0)
    holding = mixed.contiguous(even_spans(TOKENS, 2), 1)
    last = model.shape.layers - 1
    heard = torch.ones(model.shape.layers, 1, 2, 2, dtype=torch.bool)
    heard[last, 0, 0, 1] = False  # device 0 does not hear device 1 in the last layer

    def hidden(layer_of: int, tokens: slice) -> Tensor:
        """Where some codes of one layer say something else."""

        def quantize(layer: Any, stream: str, x: Tensor) -> Tensor:
            x = x.clone()
            if layer.index == layer_of:
                x[:, tokens] *= 7.0
            return x

        return mixed.forward(model, raw, replace(holding, heard=heard), ("input",), quantize)

    half, copies = TOKENS // 2, 2
    first, second = [0, *range(copies, copies + half)], [1, *range(copies + half, copies + TOKENS)]
    truth, unheard = hidden(-1, slice(0)), hidden(last, slice(half, None))
    torch.testing.assert_close(unheard[:, first], truth[:, first])
    assert not torch.equal(hidden(0, slice(half, None))[:, first], truth[:, first])  # in another layer it does
    assert not torch.equal(hidden(last, slice(half))[:, second], truth[:, second])  # and device 1 hears device 0


@pytest.mark.parametrize("family", ["vit-tiny", "gpt2-tiny"])
def test_a_query_sees_what_its_device_has_or_has_heard(root: Path, family: str) -> None:
    """Looked up one by one, of tokens that lie anywhere."""
    model, draw = load(root / family), torch.Generator().manual_seed(0)
    owners = torch.randint(3, (2, 7), generator=draw)
    heard = torch.rand(2, 3, 3, generator=draw) < 0.5
    holding = mixed.Holding(owners, 3)
    found, copies = mixed.visible(model, holding, 7, heard)[:, 0], holding.copies(model)
    assert found.shape == (2, copies + 7, copies + 7 + 7)
    for b, q, k in itertools.product(range(2), range(7), range(7)):
        mine, theirs = int(owners[b, q]), int(owners[b, k])
        there = k <= q or not model.shape.causal
        assert found[b, copies + q, copies + k] == (there and mine == theirs)
        assert found[b, copies + q, copies + 7 + k] == (there and mine != theirs and bool(heard[b, mine, theirs]))


@pytest.mark.parametrize("one", [True, False])
def test_one_class_token_is_that_of_the_first_device_and_the_others_see_none(root: Path, one: bool) -> None:
    """With codes that say nothing, what a token becomes depends on the class token where its device has one."""
    model = load(root / "vit-tiny")
    other = Model(model.shape, {**model.tensors, "embed.class.weight": -model.tensors["embed.class.weight"]},
                  model.layers)  # fmt: skip
    raw = random_input(model.shape, TOKENS).unsqueeze(0)
    holding = replace(mixed.contiguous(even_spans(TOKENS, 4), 1), one_class_token=one)

    def nothing(layer: Any, stream: str, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    hidden, changed = (mixed.forward(each, raw, holding, ("input",), nothing)[0] for each in (model, other))
    copies = 1 if one else 4
    assert len(hidden) == copies + TOKENS
    same = [bool(torch.equal(a, b)) for a, b in zip(hidden[copies:], changed[copies:], strict=True)]
    assert same == [one and token >= TOKENS // 4 for token in range(TOKENS)]


# Whole trainings


@pytest.mark.parametrize(("family", "code"), [*((family, "auto") for family in FAMILIES), ("vit-tiny", "residual")])
def test_training_writes_a_folder_that_runs_and_is_as_good_as_it_was_measured(
    root: Path, tmp_path: Path, family: str, code: str
) -> None:
    folder, options = root / family, {"groups": 2, "codewords": 16, "code": code}
    shape, made = load_shape(folder), data(folder)
    books = load_file(codebooks(folder, options, TOKENS, tmp_path / "books"))
    losses = []
    hooks = Hooks(lambda done, of, found: losses.append((done, of, found["task"])))
    finetune(folder, books, made, AstraOptions(**options), SHORT, tmp_path / "tuned", hooks)
    assert [(done, of) for done, of, _ in losses] == [(n, 6) for n in range(1, 7)]
    extra = tmp_path / "tuned" / CODEBOOKS
    assert not load_shape(tmp_path / "tuned").untrained
    moved = load_file(tmp_path / "tuned" / WEIGHTS)
    before = load_file(folder / WEIGHTS)
    assert moved.keys() == before.keys() and any((moved[n] != before[n]).any() for n in moved)
    plan = planned("astra", options, shape, TOKENS, 3)
    raw = made.test[0][:TOKENS]
    names, tuned = streams(shape, AstraOptions(**options)), load(tmp_path / "tuned")
    ours = mixed.results(tuned, raw.unsqueeze(0), mixed.contiguous([s.tokens for s in plan.shares], 1), names,
                         measure.coded(load_file(extra)))  # fmt: skip
    torch.testing.assert_close(ours[0], request(tmp_path / "tuned", plan, raw, extra)[0], atol=1e-4, rtol=1e-4)
    scored = measure.score(load(tmp_path / "tuned"), load_file(extra), made, 3)
    assert scored["n"] == len(made.test)


PLACES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_training_goes_on_where_it_was_killed(root: Path, tmp_path: Path, place: str) -> None:
    class Killed(Exception):
        pass

    folder, options = root / "gpt2-tiny", {"groups": 2, "codewords": 16}
    made = data(folder)
    books = load_file(codebooks(folder, options, TOKENS, tmp_path / "books"))

    def stop(done: int, of: int, losses: Any) -> None:
        if done == 5:
            raise Killed

    finetune(folder, books, made, AstraOptions(**options), SHORT, tmp_path / "whole", Hooks(place=place))
    hooks = Hooks(stop, tmp_path / "checkpoint", every=2, place=place)
    with pytest.raises(Killed):
        finetune(folder, books, made, AstraOptions(**options), SHORT, tmp_path / "halves", hooks)
    steps: list[int] = []
    hooks = Hooks(lambda done, of, losses: steps.append(done), tmp_path / "checkpoint", every=2, place=place)
    finetune(folder, books, made, AstraOptions(**options), SHORT, tmp_path / "halves", hooks)
    assert steps == [5, 6]
    for name in (WEIGHTS, CODEBOOKS):
        whole, halves = load_file(tmp_path / "whole" / name), load_file(tmp_path / "halves" / name)
        if place == "cpu":
            assert all(torch.equal(whole[key], halves[key]) for key in whole)
        else:  # where sums are in any order
            assert all(torch.allclose(whole[key], halves[key], atol=1e-3) for key in whole)


def test_a_model_learns_what_it_is_shown(root: Path, tmp_path: Path) -> None:
    """Which of a thousand tokens occur at all."""
    folder = root / "gpt2-tiny"
    made = data(folder)
    shown = replace(made, train=made.train % 10, test=made.test % 10)
    original(folder, shown, Settings(steps=12, batch=6, lr=3e-3, warmup=2), tmp_path / "learned")
    before, after = (measure.score(load(one), None, shown)["value"] for one in (folder, tmp_path / "learned"))
    assert before > 500 and after < 20


@pytest.mark.parametrize(
    ("switch", "steps"),
    [({"noise": 0.0}, 2), ({"class_tokens": "one"}, 1), ({"commitment": 0.1}, 1), ({"ema": 0.5}, 2),
     ({"assignment": "even"}, 1), ({"message_dropout": 0.5}, 1), ({"seed": 1}, 1)],
    ids=str,
)  # fmt: skip
def test_every_part_can_be_switched(root: Path, tmp_path: Path, switch: dict[str, Any], steps: int) -> None:
    """One step of the same inputs makes other weights; what the first leaves behind (residuals, codebooks) takes two.

    Who holds what and what is lost are drawn behind the first step's inputs: those of a second would be others anyway.
    """
    folder, options = root / "vit-tiny", {"groups": 2, "codewords": 16}
    books = load_file(codebooks(folder, options, TOKENS, tmp_path / "books"))
    settings = replace(SHORT, steps=steps)
    for name, chosen in (("plain", settings), ("other", replace(settings, **switch))):
        finetune(folder, books, data(folder), AstraOptions(**options), chosen, tmp_path / name)
    plain, other = (load_file(tmp_path / name / WEIGHTS) for name in ("plain", "other"))
    assert any((plain[name] != other[name]).any() for name in plain)
