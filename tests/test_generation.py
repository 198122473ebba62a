"""After the prompt: tokens are those of one machine that computes everything anew, and memory is what formulas say."""

from __future__ import annotations

import gc
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runtime import families, methods, mixed
from runtime.collectives import Exchange
from runtime.decoding import continued, decode, token_bytes
from runtime.errors import Unfit
from runtime.fidelity import agreement
from runtime.layer import alone
from runtime.memory import Memory, Remembering
from runtime.methods.activations import Activations
from runtime.methods.astra import AstraOptions
from runtime.model import load
from runtime.plan import Generation, Plan, Span
from runtime.profile import ProfileError
from runtime.record import Record
from runtime.sampling import Sampler
from runtime.shape import Shape
from runtime.training.measure import coded, streams_of
from runtime.transport.gather import Cut
from testbed import check, material
from testbed.generated import legend
from testbed.predict.command import How as Prediction
from testbed.predict.command import main as predict
from testbed.predict.work import PredictError
from testbed.profile import How as Timing
from testbed.profile import profile
from testbed.topology import RunSpec, dump
from testbed.truth import untold
from tests.devices import codebooks, planned, random_input, request
from tests.files import loaded
from tests.runs import read, records, run
from tests.taps import Forwarder, udp_mesh
from tests.test_families import checkpoint
from tests.test_udp_requests import LONG, reference

TOKENS, NEW = 21, 10
GREEDY, DRAWN = Generation(NEW), Generation(NEW, temperature=0.3, top_k=30, seed=5)
CODES: list[dict[str, Any]] = [
    {"groups": 1, "codewords": 16, "code": "input"},
    {"groups": 4, "codewords": 8, "code": "input"},
    {"groups": 2, "codewords": 8, "code": "kv"},
    {"groups": 1, "codewords": 16, "code": "residual"},
]
FLOAT_BYTES = 4
ALL = ("residual", "input", "k", "v")  # in the order in which a layer knows them


OUTPUTS = {"gpt2": ("c_proj", 3.0), "llama": ("o_proj", 1.0)}
"""Attention's output and how much larger it is made, so that what a token sees of others decides what is said."""


def lively(case: str, folder: Path) -> tuple[Any, Path]:
    """A small transformers model whose every parameter is random, and the same converted."""
    theirs, (name, times) = checkpoint(case, folder / "theirs"), OUTPUTS[case]
    for output in (module for full, module in theirs.named_modules() if full.endswith(f"attn.{name}")):
        output.weight.data *= times
    theirs.save_pretrained(folder / "theirs")
    families.convert(str(folder / "theirs"), "pretrained", 0, folder / "ours")
    return theirs, folder / "ours"


@pytest.fixture(scope="module", params=list(OUTPUTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_grad_enabled(False)
    return lively(request.param, tmp_path_factory.mktemp(request.param))[1]


def generated(folder: Path, plan: Plan, how: Generation, extra: Path | None = None) -> list[Record]:
    """The records of one request; the source's has the tokens."""
    raw = random_input(load(folder).shape, plan.tokens)
    return request(folder, replace(plan, generation=how), raw, extra)[1]


@pytest.mark.parametrize("options", CODES, ids=str)
def test_tokens_after_codes_are_those_of_one_machine_that_computes_all_anew(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    model, extra = load(folder), codebooks(folder, options, TOKENS, tmp_path / "books")
    books, raw, differ = load_file(extra), random_input(model.shape, TOKENS), 0
    for devices, uneven in ((1, {}), (2, {}), (3, {}), (4, {}), (3, {"split": "3/1/2"})):
        plan = planned("astra", options | uneven, model.shape, TOKENS, devices)
        spans = [share.tokens for share in plan.shares]
        assert len({len(span) for span in spans}) > 1 or not uneven
        for how in (GREEDY, DRAWN):
            found = generated(folder, plan, how, extra)[0].generated
            assert found == mixed.generate(model, raw, spans, streams_of(books), coded(books), how)
            differ += found != continued(model, raw, how)[0]
    assert differ >= 3, "so coarse codes change what is said"


@pytest.mark.parametrize("method", ["single", "sequence"])
def test_exact_methods_say_what_one_device_says(folder: Path, method: str) -> None:
    model = load(folder)
    raw = random_input(model.shape, TOKENS)
    for how in (GREEDY, DRAWN):
        truth, leads = continued(model, raw, how)
        assert truth == mixed.generate(model, raw, [Span(0, TOKENS)], (), coded({}), how)
        assert len(set(truth)) > 1 and min(leads) > 1e-3
        for devices in (1, 3):
            plan = planned(method, {}, model.shape, TOKENS, devices)
            assert generated(folder, plan, how)[0].generated == truth


def test_logits_of_new_tokens_are_those_of_a_longer_prompt(folder: Path) -> None:
    """Closer than tokens can tell: those hide a key that stands at a wrong position nearby."""
    model, memory = load(folder), Memory(0, TOKENS + NEW - 1)
    ids = random_input(model.shape, TOKENS)
    x = model.embed(ids, 0, TOKENS)
    for layer in model.layers:
        x = layer(x, 0, Remembering(alone, memory))
    for token, logits in decode(model, memory, model.read_out(x, 0), GREEDY):
        torch.testing.assert_close(logits, model(ids), atol=1e-5, rtol=1e-5)
        ids = torch.cat([ids, torch.tensor([token])])
    assert len(ids) == TOKENS + NEW


def test_what_a_context_of_the_prompt_is_told_it_is_told_too_where_all_is_remembered(folder: Path) -> None:
    model = load(folder)
    x = model.embed(random_input(model.shape, TOKENS), 0, TOKENS)
    plain, remembered = Activations(ALL, 0), Activations(ALL, 0)
    for context in (plain, Remembering(remembered, Memory(0, TOKENS))):
        model.layers[0](x, 0, context)
    assert list(plain.rows) == list(remembered.rows) == [f"layers.0.{name}" for name in ALL]


@pytest.mark.parametrize(("method", "options"), [("prism", {"segments": 2}), ("topk", {"keep": 5})], ids=str)
def test_rivals_say_what_they_would_after_a_longer_prompt(folder: Path, method: str, options: dict[str, Any]) -> None:
    """New tokens belong to the last device: the same method with that much more of a prompt there."""
    shape = load(folder).shape
    plan, raw = planned(method, options, shape, TOKENS, 3), random_input(shape, TOKENS)
    found, ids = generated(folder, plan, GREEDY)[0].generated, raw
    for token in found or ():
        last = replace(plan.shares[-1], tokens=Span(plan.shares[-1].tokens.start, len(ids)))
        logits, _ = request(folder, replace(plan, shares=(*plan.shares[:-1], last)), ids)
        assert int(logits.argmax()) == token
        ids = torch.cat([ids, torch.tensor([token])])
    assert len(ids) == TOKENS + NEW


@pytest.mark.parametrize("case", OUTPUTS)
def test_single_says_what_transformers_says(tmp_path: Path, case: str) -> None:
    theirs, ours = lively(case, tmp_path)
    theirs.generation_config.eos_token_id = None  # else it would stop there
    raw = random_input(load(ours).shape, TOKENS)
    said = theirs.generate(raw.unsqueeze(0), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, TOKENS:].tolist()
    assert len(set(said)) > 1
    assert generated(ours, planned("single", {}, load(ours).shape, TOKENS, 1), Generation(12))[0].generated == said


def test_what_is_kept_and_sent_is_what_the_formulas_say(folder: Path, tmp_path: Path) -> None:
    """Written out here: K and V of the last device's tokens, new ones but the last included, and the others' codes."""
    shape, devices = load(folder).shape, 4
    per_token = shape.layers * 2 * shape.kv_width * FLOAT_BYTES
    own, others = TOKENS // 4 + NEW - 1, [6, 5, 5]
    books = codebooks(folder, CODES[1], TOKENS, tmp_path / "books")
    codes = shape.layers * sum(-(-count * 4 * 3 // 8) for count in others)
    due = {"sequence": per_token * sum(others), "astra": codes, "topk": per_token * sum(others)}
    for method, kept in due.items():
        options = CODES[1] if method == "astra" else {}
        plan = planned(method, options, shape, TOKENS, devices)
        found = generated(folder, plan, GREEDY, books if method == "astra" else None)
        kind = methods.load(method)
        assert kind.kept_bytes(shape, kind.Options(**options), plan) == kept
        assert [one.kept_bytes for one in found] == [None, None, None, per_token * own + kept]
        assert [one.token_bytes for one in found] == [0, 0, 0, 4 * NEW]
        assert [token_bytes(replace(plan, generation=GREEDY), rank) for rank in range(4)] == [0, 0, 0, 4 * NEW]
        payload = [kind.payload_bytes(shape, kind.Options(**options), plan, rank) for rank in range(4)]
        assert [one.sent_bytes for one in found] == payload, "nothing more is exchanged for a token"
        source = found[0]
        assert source.ttft_s is not None and source.token_s is not None
        assert 0 < source.ttft_s < source.ttft_s + (NEW - 1) * source.token_s <= source.latency_s + 1e-9


@pytest.mark.parametrize("method", ["sequence", "astra"])
def test_of_codes_nothing_stays_rebuilt(folder: Path, tmp_path: Path, method: str) -> None:
    """Tensors that are alive when a token is told and have the size of the others' K or V in a layer: sequence keeps
    two for each layer, which shows that they are found."""
    model, found = load(folder), list[int]()
    plan = planned(method, CODES[1] if method == "astra" else {}, model.shape, TOKENS, 3)
    size = (model.shape.kv_heads, plan.shares[-1].tokens.start, model.shape.head_dim)

    class Looking(Exchange):
        def send_token(self, rank: int, token: int) -> None:
            found.append(sum(type(one) is torch.Tensor and one.shape == size for one in gc.get_objects()))
            super().send_token(rank, token)

    extra = codebooks(folder, CODES[1], TOKENS, tmp_path / "books") if method == "astra" else None
    plan, raw = replace(plan, generation=Generation(2)), random_input(model.shape, TOKENS)
    request(folder, plan, raw, extra, exchange=Looking)
    assert found == [0 if method == "astra" else 2 * model.shape.layers] * 2


def test_the_codes_of_llama_3_8b_take_what_a_pencil_says() -> None:
    """T = 1024, N = 4, G = 32: of 35,520,512 bytes 33,554,432 are 256 tokens with K and V in fp16."""
    shape = Shape("llama", 32, 4096, 32, 8, 128, 14336, causal=True, rotary=True, vocabulary=128256, result="tokens")
    plan = planned("astra", {"groups": 32}, shape, 1024, 4)
    assert methods.load("astra").kept_bytes(shape, AstraOptions(groups=32), plan) == 35_520_512 - 33_554_432


def test_codes_that_were_lost_stay_lost(tmp_path: Path) -> None:
    """Over UDP: new tokens do not see in a layer what the last device's prompt tokens did not see in it."""
    folder, options, tokens = lively("llama", tmp_path)[1], {"groups": 32, "codewords": 16}, 150
    model, books = load(folder), codebooks(folder, options, tokens, tmp_path / "books")
    plan = planned("astra", {**options, "transport": "udp", "deadline": LONG}, model.shape, tokens, 3)
    losses = {
        (0, 2, 0): {0, 1},
        (1, 2, 0): {1},
        (0, 2, 1): {0},
        (1, 2, 1): {0, 1},
    }  # sender, receiver, layer: sequence numbers
    unheard: dict[tuple[int, int], list[int]] = {}
    for (sender, receiver, layer), numbers in losses.items():
        for span in (Cut(plan.shares[sender].tokens, 32 * 4, 2).spans[number] for number in numbers):
            unheard.setdefault((receiver, layer), []).extend(range(span.start, span.stop))
    mesh, ids = udp_mesh(3), random_input(model.shape, tokens)
    with ExitStack() as stack:
        for one in mesh:
            stack.callback(one.close)
        for one in mesh:
            stack.enter_context(
                Forwarder(mesh, one, lambda at, seen: seen.sequence in losses.get((seen.sender, at, seen.layer), ()))
            )
        found = request(folder, replace(plan, generation=GREEDY), ids, books, mesh)[1]
    assert found[2].lost_tokens == sum(map(len, unheard.values())) > 50
    differ = 0
    for token in found[0].generated or ():
        last = replace(plan.shares[-1], tokens=Span(plan.shares[-1].tokens.start, len(ids)))
        longer = replace(plan, shares=(*plan.shares[:-1], last))
        deaf, hearing = (reference(model, longer, load_file(books), ids, lost) for lost in (unheard, {}))
        assert int(deaf.argmax()) == token
        differ += int(hearing.argmax()) != token
        ids = torch.cat([ids, torch.tensor([token])])
    assert len(ids) == tokens + NEW and differ > 0


def test_a_drawn_token_is_one_of_the_likeliest_and_the_seed_decides() -> None:
    logits = torch.arange(50.0) / 10
    assert {Sampler(Generation(1, temperature=5.0, top_k=3, seed=seed))(logits) for seed in range(60)} == {47, 48, 49}
    assert len({Sampler(Generation(1, temperature=5.0, seed=seed))(logits) for seed in range(60)}) > 20
    first, second = (Sampler(DRAWN) for _ in range(2))
    assert [first(logits) for _ in range(9)] == [second(logits) for _ in range(9)]
    assert Sampler(GREEDY)(torch.tensor([1.0, 7.0, 7.0])) == 1
    cold = Sampler(Generation(1, temperature=0.01))
    assert [cold(logits) for _ in range(9)] == [49] * 9


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits, count = torch.tensor([0.0, 1.0, -1.0, 2.0, 1.9]), 4000
    sampler = Sampler(Generation(1, temperature=1.5, top_k=4, seed=3))
    often = torch.bincount(torch.tensor([sampler(logits) for _ in range(count)]), minlength=5) / count
    due = torch.tensor([0.0, 1.0, float("-inf"), 2.0, 1.9]).div(1.5).softmax(0)
    assert often[2] == 0 and ((often - due).abs() <= 4 * (due * (1 - due) / count).sqrt()).all()


@pytest.mark.parametrize("how", [GREEDY, DRAWN, replace(DRAWN, top_k=3), replace(DRAWN, top_k=None)], ids=str)
def test_errors_below_half_of_its_lead_change_no_token_and_larger_ones_may(how: Generation) -> None:
    random, changed = torch.Generator().manual_seed(1), 0
    for seed in range(60):
        how, logits = replace(how, seed=seed), torch.randn(50, generator=random)
        token, lead = Sampler(how)(logits), Sampler(how).lead(logits)
        for size in (0.499 * lead, 2 * lead):
            tried = [torch.randn(50, generator=random).sign() * size for _ in range(20)]
            found = {Sampler(how)(logits + error) for error in tried}
            assert size > lead or found == {token}
            changed += found != {token}
    assert changed > 20


def test_a_device_of_a_method_that_cannot_generate_does_not_try(folder: Path) -> None:
    plan = planned("pipeline", {}, load(folder).shape, TOKENS, 2)
    with pytest.raises(Unfit, match="pipeline: after a prompt no device can go on alone"):
        generated(folder, plan, GREEDY)


def test_drawn_tokens_of_exact_methods_are_judged_like_greedy_ones() -> None:
    rows = [{"generated": [4, 5], "token_bytes": 0, "kept_bytes": 70, "fidelity": {"token_lead": 0.3}}]
    promised = PROMISED | {"greedy": False, "token_bytes": [0]}
    assert "ahead of the next one by 0.3" in str(untold(rows, promised, equals_single=True))
    assert untold(rows, promised, equals_single=False) is None


def test_agreement_and_where_tokens_part() -> None:
    assert agreement([5, 6, 7, 8], [5, 6, 9, 8], [1.0, 2.0, 0.3, 4.0]) == {"token_agreement": 0.75, "token_lead": 0.3}
    assert agreement([5], [5], [1.0]) == {"token_agreement": 1.0, "token_lead": None}


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([], ""),
        ([1], "latency: until the source knows the one new token, and so TTFT"),
        ([8, 32], "latency: until the source knows all 8 or 32 new tokens; TTFT: the first of them"),
    ],
    ids=str,
)
def test_what_latency_is_where_tokens_follow(counts: list[int], said: str) -> None:
    assert legend([{}, *({"generation": {"tokens": count}} for count in reversed(counts))]) == said


PROMISED = {"tokens": 2, "greedy": True, "token_bytes": [0, 8], "kept_bytes": 70, "full_bytes": 90}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"generated": [4]}, "2 tokens were to be generated, not 1"),
        ({"generated": None}, "2 tokens were to be generated, not 0"),
        ({"token_bytes": [0, 12]}, r"\[0, 12\] bytes of new tokens were sent, the formula says \[0, 8\]"),
        ({"kept_bytes": [None, 71]}, r"\[None, 71\] bytes .* were kept, the formula says 70"),
        ({"kept_bytes": [70, 70]}, "were kept"),
        ({"lead": 0.3}, "ahead of the next one by 0.3"),
        ({"lead": 1e-4}, None),  # as close as rounding is allowed to be
    ],
    ids=str,
)
def test_what_is_not_as_promised_is_no_result(changed: dict[str, Any], said: str | None) -> None:
    values = {"generated": [4, 5], "token_bytes": [0, 8], "kept_bytes": [None, 70], "lead": None} | changed
    rows: list[dict[str, Any]] = [
        {"generated": None, "token_bytes": sent, "kept_bytes": kept}
        for sent, kept in zip(values["token_bytes"], values["kept_bytes"], strict=True)
    ]
    rows[0] |= {"generated": values["generated"], "fidelity": {"token_lead": values["lead"]}}
    found = untold(rows, PROMISED, equals_single=True)
    assert found is None if said is None else re.search(said, found or "")
    if "lead" in changed:
        assert untold(rows, PROMISED, equals_single=False) is None


FILE = (
    "name: t\nbackend: local\nhosts: {{h1: {{}}, h2: {{}}}}\nrun:\n  model: {model}\n  tokens: {tokens}\n"
    "  generate: {generate}\n  seed: 7\n  methods: {methods}\n"
)


def told(**values: Any) -> str:
    """A file that generates."""
    return FILE.format(**{"model": "gpt2-bytes", "tokens": 200, "generate": 57, "methods": "[single]"} | values)


@pytest.mark.parametrize(
    ("values", "where", "said"),
    [
        ({"model": "vit-tiny", "tokens": 64}, "t.yaml:7 run.generate", "only gpt2 and llama do"),
        ({"generate": 58}, "t.yaml:7 run.generate = 58", "positions for 256: after 200 tokens at most 57 can follow"),
        ({"generate": 0}, "t.yaml:7 run.generate", "must be at least 1"),
        ({"generate": "a few"}, "t.yaml:7 run.generate", "give how many tokens follow the prompt, e.g. 32"),
        ({"generate": "{tokens: 9, sampling: nucleus}"}, "t.yaml:7 run.generate.sampling", "choose greedy, or {"),
        ({"generate": "{tokens: 9, sampling: {temperature: 0}}"}, "generate.sampling.temperature = 0", "at least 0.01"),
        ({"generate": "{tokens: 9, sampling: {temperature: 1.0e-40}}"}, "t.yaml:7 run.generate.sampling.temperature",
         "must be at least 0.01 (e.g. 0.8; the coldest is sampling: greedy)"),
        ({"generate": "{tokens: 9, sampling: {top_k: 300}}"}, "run.generate.sampling.top_k = 300",
         "gpt2-bytes has only 256 tokens to draw from"),
        ({"generate": "{tokens: 58}"}, "t.yaml:7 run.generate.tokens = 58", "after 200 tokens at most 57 can follow"),
        ({"generate": "{tokens: 9, seed: 1}"}, "t.yaml:7 run.generate.seed = 1", "greedy sampling draws nothing"),
        ({"generate": "{tokens: 9, sample: greedy}"}, "run.generate.sample", "allowed: tokens, sampling, seed"),
        (
            {"methods": "[single, pipeline]"}, "t.yaml:9 run.methods[1]",
            "these generate: single, sequence, astra, prism, topk",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_generated_is_refused_in_a_line(
    tmp_path: Path, values: dict[str, Any], where: str, said: str
) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(told(**values))
    (line,) = check.problems(file)
    assert where in line and said in line


def test_all_that_is_wrong_with_generating_comes_in_one_pass(tmp_path: Path) -> None:
    """Beside what makes the file no topology; what is wrong within `generate` hides only what follows from it."""
    wrong, file = "{tokens: 99, sampling: {top_k: 9000}, sead: 1}", tmp_path / "t.yaml"
    file.write_text(told(generate=wrong, methods="[single, tensor, sinle]").replace("seed: 7", "seed: -7"))
    found = [line.removeprefix(f"{file}:").partition(":")[0] for line in check.problems(file)]
    assert found == [
        "7 run.generate.sead",
        "7 run.generate.tokens = 99",
        "7 run.generate.sampling.top_k = 9000",
        "8 run.seed = -7",
        '9 run.methods[2] = "sinle"',
        '9 run.methods[1] = "tensor"',
    ]
    file.write_text(told(generate="{tokens: 0, sampling: {top_k: 9000}}", methods="[pipeline]"))
    assert len(check.problems(file)) == 2


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("57", Generation(57)),
        ("{tokens: 3}", Generation(3)),
        ("{tokens: 3, sampling: greedy}", Generation(3)),
        ("{tokens: 3, sampling: {top_k: 5}}", Generation(3, 1.0, 5, 7)),
        ("{tokens: 3, sampling: {temperature: 0.8}, seed: 0}", Generation(3, 0.8, None, 0)),
        ("null", None),
    ],
)
def test_a_file_says_how_to_generate_and_a_saved_one_says_the_same(
    tmp_path: Path, text: str, how: Generation | None
) -> None:
    found = loaded(tmp_path, told(generate=text))
    assert found.run.generate == how
    assert loaded(tmp_path, dump(found)) == found


def test_patience_takes_the_time_of_a_prompt_without_that_of_what_follows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes it for each new token: with theirs in it, one that hangs would be found far too late."""
    clock, raw = [0.0], [random_input(load(folder).shape, TOKENS)]

    def slowly(*given: Any) -> tuple[list[int], list[float]]:
        clock[0] += 100
        return continued(*given)

    monkeypatch.setattr(material, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(material, "continued", slowly)
    collected = material.Collected(folder, load(folder).shape, None, raw, [], {"single": 0})
    asked = RunSpec("h1", str(folder), tokens=TOKENS, generate=GREEDY)
    ready = material.gather(asked, collected, tmp_path / "requests", print)
    assert clock[0] == 100 and ready.reference_s == 0


def test_what_follows_a_prompt_is_neither_predicted_nor_profiled(tmp_path: Path) -> None:
    topology = loaded(tmp_path, told())
    with pytest.raises(PredictError, match=r"t\.yaml: run\.generate: what follows a prompt is not predicted"):
        predict(tmp_path / "t.yaml", None, Prediction(), True, print)
    with pytest.raises(ProfileError, match=r"run\.generate: a profile is of the prompt alone"):
        profile(topology, "t", Timing(), print)


RUN = """
name: spoken
backend: local
hosts: {h1: {}, h2: {}}
run:
  model: gpt2-bytes
  tokens: 40
  generate: {tokens: 5, sampling: {temperature: 0.7, top_k: 20}}
  methods: [single, {astra: {groups: 2, codewords: 16}}]
  repeats: 3
"""


def test_a_run_tells_its_two_times_apart_and_what_was_kept(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(RUN)
    status, text = run(tmp_path / "t.yaml", tmp_path / "out")
    assert status == 0, text
    assert "TTFT" in text and "per token" in text and "tokens 100%" in text
    assert "kept to generate (in full: 180 kB): single 180 kB (100%, formula 180 kB)" in " ".join(text.split())
    per_token, codes = 4 * 2 * 128 * FLOAT_BYTES, 4 * (20 * 2 * 4 // 8)
    due = [(44 * per_token, [0]), (24 * per_token + codes, [0, 20])]
    summary = read(tmp_path / "out", "summary.json")["methods"]
    for found, (kept, sent) in zip(summary, due, strict=True):
        spoken = found["generation"]
        assert spoken["kept_bytes"] == spoken["kept_formula"] == kept and spoken["full_bytes"] == 44 * per_token
        assert spoken["token_bytes"] == sent and spoken["tokens"] == 5 and not spoken["greedy"]
        assert spoken["ttft_s"]["n"] == spoken["token_s"]["n"] == 3
        assert 0 < spoken["ttft_s"]["median"] < found["latency_s"]["median"]
        assert spoken["token_agreement"] == 1.0 or not found["equals_single"]
    rows = records(tmp_path / "out")
    assert all(len(row["generated"]) == 5 and row["ttft_s"] < row["latency_s"] for row in rows if row["host"] == "h1")
    assert all(row["generated"] is None and row["ttft_s"] is None for row in rows if row["host"] != "h1")
