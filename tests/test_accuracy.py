"""The accuracy study: its arithmetic against formulas, its rivals against the distributed methods, its page."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.accuracy import choice, figures, grid, order, page, store, theorems, theory
from benchmarks.accuracy.__main__ import Jobs
from benchmarks.accuracy.figures import RUN, Subject, bursty, full_precision, independent, messages, spans
from benchmarks.accuracy.grid import DEVICES, RIVALS, STUDIES, cells
from benchmarks.accuracy.intervals import Mean, crossed, difference, of_seeds
from benchmarks.accuracy.results import Results, verdict
from benchmarks.accuracy.work import Bench
from runtime import mixed
from runtime.methods.astra import AstraOptions
from runtime.model import WEIGHTS, load, load_shape
from runtime.plan import even_spans
from runtime.training import measure, train
from runtime.training.fixed import Averaged, Largest, Rounded
from runtime.training.train import Hooks, Settings
from tests.devices import codebooks, planned, random_input, request, shaken
from tests.test_training import data

TOKENS = 16
METRICS = {"digits": "top1", "corpus": "perplexity", "llama": "perplexity", "minilm": "cosine"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accuracy")
    for name in ("vit-tiny", "gpt2-tiny"):
        shaken(name, folder / name, 3)
    # What a token takes from others is little where weights are as they start.
    loud = shaken("gpt2-tiny", folder / "loud", 3)
    tensors = {name: 8 * one if one.dim() == 2 and name.startswith("layers.") else one
               for name, one in load_file(loud / WEIGHTS).items()}  # fmt: skip
    save_file(tensors, loud / WEIGHTS)
    return folder


# Intervals


def test_an_interval_of_one_seeds_spread_alone_is_students() -> None:
    """Inputs that do not differ leave the seeds: 1, 2, 3 have a mean of 2 +- 4.303 / sqrt(3)."""
    found = crossed([[1.0] * 50, [2.0] * 50, [3.0] * 50])
    alone = of_seeds([1.0, 2.0, 3.0])
    assert (found.value, found.seeds, found.inputs) == (2.0, 3, 50)
    assert found.low == pytest.approx(alone.low) == pytest.approx(2 - 4.302653 / 3**0.5)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Seeds and inputs each shift the figures: means of new seeds and new inputs are around 0."""
    draw, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        shifts = torch.randn(3, 1, generator=draw), torch.randn(1, 40, generator=draw) * 3
        found = crossed((shifts[0] + shifts[1] + torch.randn(3, 40, generator=draw)).tolist())
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / 400 <= 1


def test_inputs_of_one_file_count_together() -> None:
    """Ten files whose inputs are all alike are ten inputs, however many they have; and alone an input is a file."""
    draw = random.Random(0)
    files = [[draw.gauss(0, 1) for _ in range(10)]] * 3
    repeated, origins = (
        [[value for value in files[0] for _ in range(20)]] * 3,
        [i for i in range(10) for _ in range(20)],
    )
    assert crossed(repeated, origins).low == pytest.approx(crossed(files).low)
    assert crossed(files, list(range(10))) == crossed(files)


def test_pairs_take_out_what_both_share() -> None:
    base = [[random.Random(seed * 100 + i).random() for i in range(30)] for seed in range(3)]
    better = [[value + 0.01 for value in row] for row in base]
    found = difference(better, base)
    assert found.low == pytest.approx(0.01) and verdict(found) == "better"
    assert verdict(difference(base, better)) == "worse" and verdict(difference(base, base)) == "no difference seen"


def test_one_seed_has_no_interval() -> None:
    assert crossed([[1.0, 2.0]]) == Mean(1.5, None, None, 1, 2)


# What is measured


@pytest.mark.parametrize("lose", [independent, bursty])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_losses_are_as_frequent_as_asked(lose: figures.Lose, rate: float) -> None:
    lost = lose(4000, 128, rate, torch.Generator().manual_seed(0))
    assert lost.float().mean().item() == pytest.approx(rate, rel=0.1)
    runs = (lost[:, 1:] & ~lost[:, :-1]).sum().item() + lost[:, 0].sum().item()
    length = lost.sum().item() / runs
    assert length == pytest.approx(RUN if lose is bursty else 1 / (1 - rate), rel=0.15)


@pytest.mark.parametrize("name", ["vit-tiny", "gpt2-tiny"])
def test_messages_that_are_lost_are_those_that_a_device_sends(root: Path, name: str) -> None:
    shape, asked = load_shape(root / name), list[int]()

    def fourth(rows: int, count: int, rate: float, draw: torch.Generator) -> torch.Tensor:
        asked.append(count)
        return (torch.arange(count) == 3).expand(rows, -1)

    lost = messages(fourth, 2, shape, 0.1, torch.Generator())
    every = [(sender, receiver) for sender in range(4) for receiver in range(4) if sender != receiver]
    sent = {pair for pair in every if not shape.causal or pair[1] > pair[0]}
    assert sum(asked) == shape.layers * len(sent)
    # The fourth that a device sends is to the first of its receivers in the second layer if it has three of them.
    fourths = {(0, 1): 1, (1, 0): 1, (2, 0): 1, (3, 0): 1} if not shape.causal else {(0, 1): 1, (1, 3): 1, (2, 3): 3}
    found = {(int(s), int(r)): int(layer) for layer, row, r, s in lost.nonzero() if row == 1}
    assert found == {pair: layer for pair, layer in fourths.items() if layer < shape.layers}


def test_rates_are_tried_on_while_the_best_is_at_an_end() -> None:
    low, high = choice.between(lambda rate: rate), choice.between(lambda rate: -rate)
    assert sorted(low) == list(grid.RATES[:-1]) and sorted(high) == list(grid.RATES[1:])
    assert sorted(choice.between(lambda rate: abs(rate - grid.RATES[2]))) == list(grid.RATES[1:-1])


def test_pairs_in_full_precision_are_counted_one_by_one() -> None:
    cut = spans(16, 0.5)
    owner = [rank for rank, span in enumerate(cut) for _ in range(len(span))]
    every = [(q, k) for q in range(16) for k in range(16)]
    assert len(owner) == 16 and [len(span) for span in cut] == [8, 3, 3, 2]
    assert full_precision(cut, False) == sum(owner[q] == owner[k] for q, k in every) / len(every)
    seen = [(q, k) for q, k in every if k <= q]
    assert full_precision(cut, True) == sum(owner[q] == owner[k] for q, k in seen) / len(seen)


def test_distances_of_a_shifted_cloud_are_its_shift() -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, 4.0])
    assert theorems.sliced(x, x[torch.randperm(200)] + shift) == pytest.approx(5, rel=1e-5)
    assert theorems.between_normals(x, x + shift) == pytest.approx(5, rel=1e-6)
    assert theorems.between_normals(x, 2 * x) == pytest.approx(
        (x.mean(0).square().sum() + torch.cov(x.T).trace()).sqrt().item(), rel=1e-4
    )


def test_the_nearest_cloud_is_the_one_of_the_same_law() -> None:
    """Of N(0, I) and copies of it that are scaled by c, W2 is |1 - c| √D, also for many features and few points."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1024, 96, generator=draw) for _ in range(2))
    found = {c: theorems.sliced(x, c * y) for c in (0.5, 0.8, 1.0, 1.2)}
    assert min(found, key=found.__getitem__) == 1.0 and found[1.0] < 0.1 * 96**0.5
    assert found[0.5] == pytest.approx(0.5 * 96**0.5, rel=0.05)


def test_noise_has_the_covariance_it_is_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-0.5, 0.5, 0.2]])
    residuals = torch.randn(20_000, 3, generator=draw) @ mixing.T + 2.0
    truth = mixing @ mixing.T
    torch.testing.assert_close(torch.cov(theorems.full(residuals, draw).T), truth, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(theorems.diagonal(residuals, draw).T), truth.diag().diag(), atol=0.03, rtol=0)
    torch.testing.assert_close(theorems.full(residuals, draw).mean(0), torch.full((3,), 2.0), atol=0.03, rtol=0)


def test_the_error_of_k_copies_is_the_mean_over_every_choice_of_them() -> None:
    errors = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) + torch.arange(5.0).unsqueeze(1)

    def pooled(chosen: tuple[int, ...]) -> float:
        return errors[list(chosen)].mean(0).square().sum().item()

    own = sum(pooled((i,)) for i in range(5)) / 5
    found = theorems.of_copies(own, pooled((0, 1, 2, 3, 4)), 5)
    for k, error in enumerate(found, 1):
        choices = [pooled(chosen) for chosen in itertools.combinations(range(5), k)]
        assert error == pytest.approx(sum(choices) / len(choices), rel=1e-5)


# Rivals


AS_METHODS: list[tuple[grid.Rival, str, dict[str, Any]]] = [
    (Averaged(3, 3), "prism", {"segments": 3}),
    (Averaged(2, 3, "int8"), "prism", {"segments": 2, "codec": "int8"}),
    (Largest(10), "topk", {"keep": 10}),
]
ROUNDED: list[tuple[grid.Rival, str, dict[str, Any]]] = [
    (Rounded(bits), "sequence", {"codec": f"int{bits}"}) for bits in (8, 4)
]


@pytest.mark.parametrize(
    ("name", "rival", "method", "options"),
    # Of a class token `sequence` has one, a rival in ASTRA's seat one on each device.
    [(name, *one) for name in ("vit-tiny", "gpt2-tiny") for one in AS_METHODS + ROUNDED * (name == "gpt2-tiny")],
    ids=repr,
)
def test_a_rival_on_one_machine_is_the_method_of_many(
    root: Path, name: str, rival: grid.Rival, method: str, options: dict[str, Any]
) -> None:
    folder, shape = root / name, load_shape(root / name)
    plan, raw = planned(method, options, shape, TOKENS, 3), random_input(shape, TOKENS, 5)
    held = mixed.contiguous([share.tokens for share in plan.shares], 1)
    ours = mixed.results(load(folder), raw.unsqueeze(0), held, {"input"}, rival)
    torch.testing.assert_close(ours[0], request(folder, plan, raw)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rival", [Rounded(4), Averaged(2, 3, "int4"), Largest(8)], ids=repr)
def test_a_model_learns_to_work_with_a_rival(root: Path, tmp_path: Path, rival: grid.Rival) -> None:
    folder, losses = root / "vit-tiny", list[float]()
    settings = Settings(steps=8, batch=6, lr=2e-3, warmup=1, devices=3, assignment="even")
    hooks = Hooks(lambda done, of, found: losses.append(found["task"]))
    with torch.enable_grad():
        train.adapt(folder, rival, data(folder), settings, tmp_path / "out", hooks)
    assert losses[-1] < losses[0] * 0.7
    assert not load_shape(tmp_path / "out").untrained
    losses.clear()
    with torch.enable_grad():
        train.adapt(folder, as_it_is, data(folder), replace(settings, steps=1), tmp_path / "exact", hooks)
        train.adapt(folder, rival, data(folder), replace(settings, steps=1), tmp_path / "coded", hooks)
    assert losses[0] != losses[1]  # of the same inputs and weights: the model was shown what the rival leaves


# What is measured of a model, where it can be said beforehand


def as_it_is(layer: Any, stream: str, x: Tensor) -> Tensor:
    return x


def sevens(layer: Any, stream: str, x: Tensor) -> Tensor:
    return torch.full_like(x, 7.0)


def unseen(layer: Any, stream: str, x: Tensor) -> Tensor:
    raise AssertionError("coded where nobody needs it")


def subject(root: Path, quantize: mixed.Quantize, rows: int = 12, name: str = "loud") -> Subject:
    """A language model, whose figure of an input is nats: it shows any difference."""
    made = data(root / name, 2 * rows)
    model = load(root / name)
    return Subject(
        model, frozenset({"input"}), quantize, made.test, measure.targets(model, made.test, made.test_labels)
    )


def test_tokens_of_one_device_alone_are_never_coded(root: Path) -> None:
    whole = subject(root, unseen)
    assert whole.cut(even_spans(TOKENS, 1)) == whole.alone()


def test_codes_that_lose_nothing_make_no_difference_and_others_do(root: Path) -> None:
    exact, wrong = subject(root, as_it_is), subject(root, sevens)
    for found in (*figures.by_devices(exact).values(), *figures.uneven(exact).values()):
        assert found == pytest.approx(exact.alone(), rel=1e-5)
    assert all(found != pytest.approx(wrong.alone(), rel=1e-3) for found in figures.by_devices(wrong).values())


def test_what_is_never_sent_makes_no_difference(root: Path) -> None:
    """Neither is it as if others' tokens were there."""
    exact, wrong = subject(root, as_it_is), subject(root, sevens)
    assert figures.unheard(exact) == figures.unheard(wrong)
    assert figures.unheard(exact) != pytest.approx(exact.alone(), rel=1e-3)


def test_only_inputs_of_which_a_message_was_lost_differ(root: Path) -> None:
    """With codes that lose nothing. Losses are those that were drawn: from a layer to each device of later tokens."""
    exact = subject(root, as_it_is, rows=300)
    whole, sent = exact.alone(), exact.model.shape.layers * 6
    found = figures.lost(exact)
    assert found.keys() == {f"lost {kind} {rate:g}" for kind in ("independent", "bursty") for rate in (0.01, 0.05, 0.1)}
    for name, each in found.items():
        rate = float(name.split()[-1])
        untouched = sum(a == pytest.approx(b, rel=1e-5) for a, b in zip(each, whole, strict=True)) / len(whole)
        due = (1 - rate) ** sent
        if "independent" in name:
            assert untouched == pytest.approx(due, abs=4 * (due * (1 - due) / len(whole)) ** 0.5)
        else:  # the same share in fewer runs
            assert due < untouched < 1


def test_distances_are_between_what_is_sent_and_codes_of_other_inputs(root: Path) -> None:
    """With codes that are off by 3 in every feature: their residuals are all -3, so that noise of λ takes λ of that
    away. Without another half there is no other distance, and with one there is."""

    def off(layer: Any, stream: str, x: Tensor) -> Tensor:
        return x + 3.0

    one, width = subject(root, off), load_shape(root / "gpt2-tiny").width
    same = replace(one, inputs=torch.cat([one.inputs[:6], one.inputs[:6]]))
    for alike, row in zip(theorems.distances(same, 0), theorems.distances(one, 0), strict=True):
        for kind in theory.KINDS:
            for noise in grid.NOISES:
                due = 3 * (1 - noise) * width**0.5
                assert alike[kind][f"{noise:g}"] == pytest.approx(due, rel=1e-3, abs=0.05)
            assert alike[kind]["other X"] == pytest.approx(0, abs=0.05) and row[kind]["other X"] > 0.5


def test_errors_of_class_tokens_are_those_of_their_means(root: Path) -> None:
    """Devices that hear nothing of use, one copy of the class token each."""
    one = subject(root, sevens, name="vit-tiny")

    def tokens(devices: int) -> Tensor:
        held = mixed.contiguous(even_spans(TOKENS, devices), len(one.inputs))
        hidden = mixed.forward(one.model, one.inputs, held, one.streams, one.quantize)
        return mixed.final_norm(one.model, hidden[:, :devices])

    with torch.inference_mode():
        found, true = theorems.pooling(one), tokens(1)
        for devices, error in enumerate(found["devices"], 2):
            off = tokens(devices).mean(1) - true[:, 0]
            assert error == pytest.approx(off.square().sum(1).mean().item(), rel=1e-4)
        assert found["copies"][0] == pytest.approx((tokens(8) - true).square().sum(2).mean().item(), rel=1e-4)
    assert found["copies"][-1] == pytest.approx(found["devices"][-1], rel=1e-5)


def test_inputs_held_back_are_a_draw_of_whole_files(root: Path) -> None:
    made = data(root / "vit-tiny", rows=100)
    assert made.train_labels is not None
    made = replace(made, train_labels=torch.arange(50))
    rows = choice.parted(made)
    assert rows.train_labels is not None and rows.test_labels is not None and len(rows.test) == 10
    both = torch.cat([rows.train_labels, rows.test_labels])
    assert both.sort().values.tolist() == list(range(50)) and rows.test_labels.sort().values.tolist() != list(
        range(40, 50)
    )
    assert torch.equal(made.train[both], torch.cat([rows.train, rows.test]))
    files = choice.parted(replace(made, train_origins=torch.arange(50) // 5))
    assert files.train_labels is not None and files.test_labels is not None
    assert len(files.test) == 10 and not set(files.train_labels.div(5).int().tolist()) & {
        int(label) // 5 for label in files.test_labels
    }


def test_a_rate_is_chosen_for_each_method_on_what_is_held_back_from_training(root: Path, tmp_path: Path) -> None:
    """What is held out is not looked at: it may as well be none of the model's inputs."""
    made = data(root / "vit-tiny", rows=40)
    assert made.train_labels is not None
    found = replace(grid.recipe("digits", 0, None), tokens=TOKENS, astra=AstraOptions(groups=1, codewords=16))
    found = replace(found, training=replace(found.training, steps=4, batch=4, warmup=1))
    books = load_file(codebooks(root / "vit-tiny", {"groups": 1, "codewords": 16}, TOKENS, tmp_path / "books"))
    rows = choice.parted(replace(made, test=made.test[:0], test_labels=None))
    (tmp_path / "scratch").mkdir()
    chosen = choice.rates(root / "vit-tiny", found, books, rows, tmp_path / "scratch")
    assert chosen["held back"] == 4 and chosen["rates"].keys() == {grid.CODES, *grid.TRAINED}
    for method, losses in chosen["losses"].items():
        assert len(set(losses.values())) >= 3 and losses[f"{chosen['rates'][method]:g}"] == min(losses.values())
    rates = {grid.CODES: 1e-4, "top-2": 3e-4}
    given = {cell.label: cell.training.get("lr") for cell in cells("digits", 0, rates)}
    assert given["G=16"] == given["G=1 no noise"] == 1e-4 and given["top-2"] == 3e-4 and given["top-8"] is None


def test_cells_begin_once_their_original_and_the_rates_are_there(tmp_path: Path) -> None:
    asked: list[Any] = []

    class Pool(Executor):
        def submit(self, job: Any, /, *what: Any, **more: Any) -> Future[Any]:
            asked.extend(what)
            return Future()

    jobs = Jobs(Pool(), Bench(tmp_path, 1, 1), {"digits": None, "llama": {}})

    def after(study: str, label: str, seed: int) -> list[Any]:
        asked.clear()
        jobs.go_on({"study": study, "label": label, "seed": seed, "rates": {grid.CODES: 1e-4}})
        return list(asked)

    def all_of(*seeds: int) -> list[grid.Cell]:
        return [cell for seed in seeds for cell in cells("digits", seed, {grid.CODES: 1e-4})]

    assert after("digits", "original", 1) == after("digits", "original", 0) == []
    assert after("digits", "rates", 0) == all_of(1, 0) and after("digits", "original", 2) == all_of(2)
    assert after("digits", "G=1", 2) == [] and after("llama", "original", 0) == list(cells("llama", 0, {}))
    assert len(jobs.waiting) == len(all_of(0, 1, 2)) + 3


# What is kept, and the page


def test_comments_do_not_make_a_result_another(tmp_path: Path) -> None:
    one, other, third = (
        "def f():\n    'One.'\n    return 1\n",
        "# two\ndef f():\n    return 1\n",
        "def f(): return 2\n",
    )
    assert store._code(one) == store._code(other) != store._code(third)
    assert store.place(tmp_path, "a b=1", {"x": 1}) != store.place(tmp_path, "a b=1", {"x": 2})
    assert all(list(store.ROOT.glob(pattern)) for pattern in (*store.TRAINING, *store.MEASURING))


def made_up(seeds: int, lift: float) -> list[dict[str, Any]]:
    """Results as a study leaves them, of figures drawn at random; with λ = 1 on digits better by `lift`."""
    draw = random.Random(0)

    def row(study: str, label: str, seed: int, names: list[str], wants: tuple[str, ...]) -> dict[str, Any]:
        shift = lift if (study, label) == ("digits", "G=1") else 0.0
        each = {name: [draw.random() + shift for _ in range(20)] for name in names}
        layers = [{kind: {n: draw.random() for n in theory.NAMES} for kind in theory.KINDS}]
        ranks = {"value": 0.9, "low": 0.8, "high": 0.95}
        more = {"distances": layers, "ranks": ranks, "pooling": {"devices": [1.0] * 7, "copies": [1.0] * 8}}
        return {
            "study": study, "label": label, "seed": seed, "metric": METRICS[study], "data": study, "train": 5,
            "inputs": 20, "origins": [i // 2 for i in range(20)] if study == "corpus" else None,
            "seconds": {"all": 1.0}, "figures": each,
            **{k: v for k, v in more.items() if k in wants},
        }  # fmt: skip

    losses = {method: {f"{rate:g}": rate for rate in grid.RATES} for method in (grid.CODES, *grid.TRAINED)}
    chosen = {"rates": dict.fromkeys(losses, grid.RATES[0]), "losses": losses, "held back": 9, "seconds": {"all": 1.0}}
    found = [{"study": study, "label": "rates", "seed": 0} | chosen for study in grid.RIVALLED]
    for study in STUDIES:
        for seed in range(seeds):
            plain = ["alone", figures.UNHEARD, *(f"G={groups}" for groups in grid.GROUPS), *RIVALS]
            found.append(row(study, "original", seed, plain, ()))
            for cell in cells(study, seed, {}):
                names = ["alone", f"devices {DEVICES}"]
                if "devices" in cell.wants:
                    names += [f"devices {n}" for n in range(2, figures.MOST_DEVICES + 1)]
                if "uneven" in cell.wants:
                    names += [f"first {share:g}" for share in figures.FIRSTS]
                if "lost" in cell.wants:
                    names += [f"lost {k} {r:g}" for k in ("independent", "bursty") for r in figures.RATES[1:]]
                found.append(row(study, cell.label, seed, names, cell.wants))
    return found


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.5, 0.5, "holds"), (0.1, 0.9, "holds"), (-0.5, 3.0, "cannot be said"), (1.5, 3.0, "does not hold"),
     (-3.0, -1.5, "does not hold"), (0.5, 3.0, "cannot be said")],
)  # fmt: skip
def test_no_difference_is_claimed_only_of_a_narrow_interval(low: float, high: float, said: str) -> None:
    assert order.held(Mean((low + high) / 2, low, high, 3, 20), same=True) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.9, 2.0, "met"), (-3.0, -1.1, "missed"), (-1.5, 0.5, "met on average, the interval reaches -1.50"),
     (-3.0, -0.5, "missed on average, the interval reaches -0.50")],
)  # fmt: skip
def test_an_aim_is_met_by_the_whole_interval_or_on_average(low: float, high: float, said: str) -> None:
    assert page.reached(Mean((low + high) / 2, low, high, 3, 20), 1.0) == said


def test_the_page_says_what_the_figures_say(tmp_path: Path) -> None:
    for lift, said in ((0.0, "no difference seen"), (5.0, "holds"), (-5.0, "does not hold")):
        text = order.text(Results(made_up(3, lift)))
        (line,) = (
            line for line in text.splitlines() if "λ = 1 is better than λ = 0, G = 1 |" in line and "| digits" in line
        )
        assert line.endswith(f"| {said} |")
    page.write(tmp_path / "page.md", made_up(3, 0.0), 3)
    written = (tmp_path / "page.md").read_text()
    assert (
        "| top-2 | **0.0000** | 0.0000 | 0.0001 | 0.0003 | 0.0010 |" in written
        and f"{len(made_up(3, 0.0)) - 2 - 4 * 3} models" in written
    )
    assert "(n of files: corpus 10)" in written and "against ASTRA's G = 1, points" in written
    assert "llama 4 and 2" in written and "minilm 24 and 12" in written
    assert written.count("\n## ") >= 12 and "Theorem 2" in written and "nan" not in written
    assert {file.name for file in tmp_path.iterdir()} == {
        "page.md", *(f"accuracy_{name}.svg" for name in ("digits", "corpus", "parts"))
    }  # fmt: skip
