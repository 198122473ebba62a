"""The rivals of codes: integer codecs on the baselines, segment means, plain top-k, each against a simple truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runtime import methods, mixed, steps
from runtime.codecs.integer import BLOCK, Integer
from runtime.codecs.topk import LargestFeatures, index_bits
from runtime.device import Device
from runtime.errors import Unfit
from runtime.hollow import HollowExchange, HollowWeights
from runtime.layer import Attended, Layer
from runtime.methods.coding import CODECS
from runtime.methods.method import rows
from runtime.methods.prism import SegmentMeans
from runtime.model import Model, load, load_shape
from runtime.plan import Plan, even_spans
from runtime.record import Record
from runtime.shape import Shape
from runtime.transport import loopback, wire
from testbed.rehearse import rehearsed
from testbed.topology import MethodSpec
from tests.devices import planned, random_input, request, shaken
from tests.test_steps import LLAMA, VIT, Listening, sent_bytes

FAMILIES = ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"]
TOKENS = 37  # a prime: no length divides evenly
Case = tuple[str, dict[str, Any]]
INTEGERS: list[Case] = [
    ("sequence", {"codec": "int8"}),
    ("sequence", {"codec": "int4", "gather": "kv"}),
    ("tensor", {"codec": "int8"}),
    ("tensor", {"codec": "int4"}),
    ("pipeline", {"codec": "int4"}),
    ("block", {"joins": 1, "codec": "int8"}),
    ("block", {"joins": 2, "exchange": "sp", "codec": "int4"}),
]
SPLIT: list[Case] = [
    ("prism", {"segments": 3}),
    ("prism", {"segments": 4, "codec": "int8"}),
    ("topk", {"keep": 10}),
]
EVERY = INTEGERS + SPLIT


def name(case: Case) -> str:
    return MethodSpec(*case).label.replace(" ", "-")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: shaken(family, root / family, 5) for family in FAMILIES}


def noise(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


# The codecs


@given(tokens=st.integers(0, 9), width=st.integers(1, 200), bits=st.sampled_from([4, 8]), exponent=st.integers(-12, 4))
@settings(deadline=None, max_examples=60)
def test_integers_are_as_long_and_as_near_as_they_should_be(tokens: int, width: int, bits: int, exponent: int) -> None:
    codec, x = Integer(bits), noise(tokens, width, seed=width) * 10.0**exponent
    packed, blocks = codec.pack(x), math.ceil(width / 64)
    assert packed.dtype == torch.uint8
    assert (
        packed.numel()
        == codec.packed_bytes(tokens, width)
        == 2 * tokens * blocks + math.ceil(tokens * width * bits / 8)
    )
    found = codec.unpack(packed, tokens, width)
    assert torch.equal(found, codec.rebuilt(x))
    for start in range(0, width, BLOCK):
        mine, theirs = x[:, start : start + BLOCK], found[:, start : start + BLOCK]
        step = mine.abs().amax(-1, keepdim=True) / codec.top
        # Half a step, and what the fp16 scale is off at the top level; below the least fp16 all is 0.
        assert ((mine - theirs).abs() <= step * (0.5 + codec.top * 2**-11) + codec.top * 2**-25).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_are_those_of_torch(bits: int) -> None:
    """Its fake quantization, block by block, given the same scales."""
    codec, x = Integer(bits), noise(5, 150)
    top, found = 2 ** (bits - 1) - 1, codec.rebuilt(x)
    for row in range(5):
        for start in range(0, 150, 64):
            block = x[row, start : start + 64]
            scale = (block.abs().max() / top).half().item()
            expected = torch.fake_quantize_per_tensor_affine(block, scale, 0, -top, top)
            torch.testing.assert_close(found[row, start : start + 64], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_integers_hide_nothing(bits: int, bad: float) -> None:
    x = noise(2, 128)
    x[1, 70] = bad
    x[0, :64] = 0
    codec = Integer(bits)
    found = codec.unpack(codec.pack(x), 2, 128)
    assert not found[1, 64:].isfinite().any() and found[0].isfinite().all() and found[1, :64].isfinite().all()
    assert (found[0, :64] == 0).all()


@given(tokens=st.integers(0, 9), width=st.integers(1, 300), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_largest_features_and_nothing_else(tokens: int, width: int, seed: int) -> None:
    keep = 1 + seed * width // 100
    codec, x = LargestFeatures(keep), noise(tokens, width, seed=seed)
    packed = codec.pack(x)
    bits = max(1, math.ceil(math.log2(width)))
    assert index_bits(width) == bits
    assert (
        packed.numel() == codec.packed_bytes(tokens, width) == 2 * tokens * keep + math.ceil(tokens * keep * bits / 8)
    )
    found = codec.unpack(packed, tokens, width)
    assert torch.equal(found, codec.rebuilt(x))
    for mine, theirs in zip(x, found, strict=True):
        kept = mine.abs() >= mine.abs().sort(descending=True).values[keep - 1]
        assert torch.equal(theirs, torch.where(kept, mine.half().float(), 0.0))


@pytest.mark.parametrize(("tokens", "segments"), [(12, 4), (13, 4), (7, 3), (5, 1), (3, 8), (1, 1)])
def test_means_are_those_of_even_segments(tokens: int, segments: int) -> None:
    codec, x = SegmentMeans(segments, CODECS["fp32"]), noise(2, tokens, 6)
    spans = even_spans(tokens, min(tokens, segments))
    means = torch.stack([x[:, span.slice()].mean(1) for span in spans], 1)
    torch.testing.assert_close(codec.averages(x), means)
    assert codec.counts(tokens) == [len(span) for span in spans]
    spread = torch.cat([means[:, i : i + 1].expand(-1, len(span), -1) for i, span in enumerate(spans)], 1)
    torch.testing.assert_close(codec.rebuilt(x), spread)
    assert codec.packed_bytes(tokens, 6) == len(spans) * 6 * 4 == codec.pack(x[0]).nbytes


# What the devices compute together


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("case", [("topk", {"keep": 10}), ("topk", {"keep": 70})], ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_top_k_is_mixed_precision_attention(folders: dict[str, Path], family: str, case: Case, devices: int) -> None:
    model = load(folders[family])
    codec = LargestFeatures(case[1]["keep"])
    compare(folders[family], case, devices, lambda plan, raw: oracle(model, plan, raw, codec.rebuilt))


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("gather", ["input", "kv"])
@pytest.mark.parametrize("family", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_coded_sequence_is_mixed_precision_attention(
    folders: dict[str, Path], family: str, gather: str, codec: str, devices: int
) -> None:
    model, case = load(folders[family]), ("sequence", {"codec": codec, "gather": gather})
    streams = ("input",) if gather == "input" else ("k", "v")
    compare(
        folders[family], case, devices, lambda plan, raw: oracle(model, plan, raw, CODECS[codec].rebuilt, streams), True
    )


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_coded_sequence_sends_the_class_token_too(folders: dict[str, Path], codec: str, devices: int) -> None:
    """Unlike methods with a copy on every device: it is one more position of the first device."""
    model, case = load(folders["vit-tiny"]), ("sequence", {"codec": codec})

    def reference(plan: Plan, raw: Tensor) -> Tensor:
        owners = torch.cat([torch.full((rows(model.shape, s.tokens),), s.rank) for s in plan.shares])
        same = owners.unsqueeze(1) == owners.unsqueeze(0)
        x = torch.cat([model.class_token(), model.embed(raw, 0, len(raw))])
        for layer in model.layers:
            x = attending(layer, x, CODECS[codec].rebuilt, torch.cat([same, ~same], 1).log())
        return model.head(model.read_out(x, 1))

    compare(folders["vit-tiny"], case, devices, reference, edges=True)


@pytest.mark.parametrize("devices", [3, 4])
@pytest.mark.parametrize("case", [("prism", {"segments": 1}), *SPLIT[:2]], ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_means_stand_for_their_tokens(folders: dict[str, Path], family: str, case: Case, devices: int) -> None:
    """Every token replaced by its segment's mean is the same function as means with the log of their counts."""
    model = load(folders[family])
    means, edges = methods.load("prism").Options(**case[1]).means, "codec" in case[1]
    compare(
        folders[family], case, devices, lambda plan, raw: oracle(model, plan, raw, means.rebuilt, by_device=True), edges
    )
    if model.layers[0].rotary is None:
        compare(folders[family], case, devices, lambda plan, raw: with_means(model, plan, raw, means), edges)


def with_means(model: Model, plan: Plan, raw: Tensor, means: SegmentMeans) -> Tensor:
    """One machine: keys are all tokens, masked to a device's own, and all means, with the log of their counts."""
    copies = plan.world * model.shape.prefix
    tokens = torch.cat([torch.full((len(share.tokens),), share.rank) for share in plan.shares])
    counts = [means.counts(len(share.tokens)) for share in plan.shares]
    theirs = torch.cat([torch.full((len(found),), rank) for rank, found in enumerate(counts)])
    owners = torch.cat([torch.arange(copies), tokens])
    mine, query = owners.unsqueeze(0) == owners.unsqueeze(1), owners.unsqueeze(1)
    far = (theirs < query) if model.shape.causal else (theirs != query)
    mine = mine.tril() if model.shape.causal else mine
    weights = torch.tensor([count for found in counts for count in found]) * far
    bias = torch.cat([mine, weights], 1).log()

    def averaged(h: Tensor) -> Tensor:
        held = [h[copies:][share.tokens.slice()] for share in plan.shares]
        packed = [(means.pack(x), len(found)) for x, found in zip(held, counts, strict=True)]
        return torch.cat([means.unpack(frame, count, h.shape[1]) for frame, count in packed])

    x = torch.cat([model.class_token().repeat(plan.world, 1), model.embed(raw, 0, len(raw))])
    for layer in model.layers:
        x = attending(layer, x, averaged, bias)
    return mixed.read_out(model, x.unsqueeze(0), mixed.contiguous([s.tokens for s in plan.shares], 1))[0]


def attending(layer: Layer, x: Tensor, far: Callable[[Tensor], Tensor], bias: Tensor) -> Tensor:
    """One layer with keys of all rows x [S, D] and of far(attention inputs) [F, D], scores plus bias [S, S + F]."""
    h = layer.attention_input(x)
    q, k, v = layer.project(h)
    far_k, far_v = layer.keys_values(far(h))
    keys, values = (torch.cat([layer.split(a), layer.split(b)], 1) for a, b in ((k, far_k), (v, far_v)))
    scores = layer.split(q) @ keys.transpose(1, 2) / layer.shape.head_dim**0.5 + bias
    x, summed = layer.mlp(x, layer.output(Attended(scores.softmax(-1) @ values, scores.logsumexp(-1))))
    return layer.residual(x, summed)


def oracle(
    model: Model,
    plan: Plan,
    raw: Tensor,
    rebuilt: Callable[[Tensor], Tensor],
    streams: Sequence[str] = ("input",),
    by_device: bool = False,
) -> Tensor:
    """Mixed-precision attention on one machine; by_device: what a token becomes depends on its device's others."""
    spans = [share.tokens for share in plan.shares]

    def quantize(layer: Layer, stream: str, x: Tensor) -> Tensor:
        return torch.cat([rebuilt(x[:, span.slice()]) for span in spans], 1) if by_device else rebuilt(x)

    return mixed.results(model, raw.unsqueeze(0), mixed.contiguous(spans, 1), streams, quantize)[0]


def compare(
    folder: Path, case: Case, devices: int, reference: Callable[[Plan, Tensor], Tensor], edges: bool = False
) -> None:
    """edges: the reference adds up in another order, so that what lies on the edge between two levels (one value in a
    hundred thousand) may fall to the other side; that must cost little of what coding costs."""
    method, options = case
    shape = load_shape(folder)
    plan, raw = planned(method, options, shape, TOKENS, devices), random_input(shape, TOKENS)
    result, _ = request(folder, plan, raw)
    expected = reference(plan, raw)
    lost = (expected - load(folder)(raw)).abs().max().item() if edges else 0.0
    assert (result - expected).abs().max().item() <= 1e-4 + 0.05 * lost


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_coded_pipeline_rounds_at_every_boundary(folders: dict[str, Path], family: str, codec: str) -> None:
    folder, devices = folders[family], 3
    model, rebuilt = load(folder), CODECS[codec].rebuilt

    def reference(plan: Plan, raw: Tensor) -> Tensor:
        x = torch.cat([model.class_token(), model.embed(raw, 0, len(raw))])
        for share in plan.shares:
            x = x if share.rank == 0 else rebuilt(x)
            for layer in model.layers[share.layers.slice()]:
                x = layer(x)
        row = model.read_out(x, model.shape.prefix)
        return model.head(row / len(raw) if model.shape.readout == "mean" else row)

    compare(folder, ("pipeline", {"codec": codec}), devices, reference)


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_coded_tensor_rounds_every_summand_and_every_sum_once(
    folders: dict[str, Path], family: str, codec: str
) -> None:
    folder, devices = folders[family], 4
    shape = load_shape(folder)
    cuts = [load(folder, heads=span) for span in even_spans(shape.heads, devices)]
    rebuilt = CODECS[codec].rebuilt

    def summed(summands: Sequence[Tensor]) -> Tensor:
        found = []
        for rank, span in enumerate(even_spans(len(summands[0]), devices)):
            theirs = [rebuilt(one[span.slice()]) for r, one in enumerate(summands) if r != rank]
            found.append(rebuilt(sum(theirs, summands[rank][span.slice()])))
        return torch.cat(found)

    def attended(layer: Layer, x: Tensor) -> Tensor:
        q, k, v = layer.project(layer.attention_input(x))
        found = layer.attend(layer.rotate(layer.split(q), 0), layer.part(k, v, 0), 0)
        assert found is not None
        return layer.output(found)

    def reference(plan: Plan, raw: Tensor) -> Tensor:
        model = cuts[0]
        x = torch.cat([model.class_token(), model.embed(raw, 0, len(raw))])
        for layers in zip(*(cut.layers for cut in cuts), strict=True):
            whole = summed([attended(layer, x) for layer in layers])
            pairs = [layer.mlp(x, whole) for layer in layers]
            x = layers[0].residual(pairs[0][0], summed([partial for _, partial in pairs]))
        row = model.read_out(x, shape.prefix)
        return model.head(row / len(raw) if shape.readout == "mean" else row)

    compare(folder, ("tensor", {"codec": codec}), devices, reference)


@pytest.mark.parametrize("exchange", ["ag", "sp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_coded_block_rounds_the_slices_of_others(folders: dict[str, Path], family: str, exchange: str) -> None:
    """As without a codec, but that device r has only its own slice of features, and of positions, as it is."""
    folder, devices, rebuilt = folders[family], 4, CODECS["int8"].rebuilt
    shape, whole = load_shape(folder), load(folder)
    last = whole.layers[-1]

    def pieces(mine: Sequence[Tensor], rank: int, side: int) -> Tensor:
        return torch.cat([one if r == rank else rebuilt(one) for r, one in enumerate(mine)], side)

    def reference(plan: Plan, raw: Tensor) -> Tensor:
        slices = []
        for share in plan.shares:
            cut = load(folder, heads=share.heads)
            x = torch.cat([cut.class_token(), cut.embed(raw, 0, len(raw))])
            for layer in cut.layers[:-1]:
                x = layer(x)
            slices.append(x[:, even_spans(shape.width, devices)[share.rank].slice()])
        joined = [last(pieces(slices, rank, 1)) for rank in range(devices)]
        spans = even_spans(len(joined[0]), devices)
        outputs = [y[span.slice()] for y, span in zip(joined, spans, strict=True)]
        y = joined[0] if exchange == "ag" else pieces(outputs, 0, 0)
        row = whole.read_out(y, shape.prefix)
        return whole.head(row / len(raw) if shape.readout == "mean" else row)

    compare(folder, ("block", {"joins": 1, "exchange": exchange, "codec": "int8"}), devices, reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_lost_where_nothing_is_left_out(folders: dict[str, Path], family: str) -> None:
    """A mean for every token is the token itself; all features as fp16 and fine integers are nearly so."""
    folder = folders[family]
    shape, truth = load_shape(folder), load(folder)(random_input(load_shape(folder), TOKENS))
    errors = {}
    for case in [
        ("prism", {"segments": TOKENS}),
        ("topk", {"keep": shape.width}),
        ("sequence", {"codec": "int8"}),
        ("sequence", {"codec": "int4"}),
        ("topk", {"keep": 1}),
    ]:
        result, _ = request(folder, planned(*case, shape, TOKENS, 4), random_input(shape, TOKENS))
        errors[name(case)] = (result - truth).abs().max().item()
    exact, halves, fine, coarse, least = errors.values()
    assert exact < 1e-4 and halves < 5e-3, errors
    assert exact < fine < coarse and fine < least, errors


# What they send


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("case", EVERY, ids=name)
@pytest.mark.parametrize("family", FAMILIES)
def test_payload_equals_the_formula(folders: dict[str, Path], family: str, case: Case, devices: int) -> None:
    method, options = case
    shape, kind = load_shape(folders[family]), methods.load(method)
    if refused(shape, case, devices):
        return
    plan = planned(method, options, shape, TOKENS, devices)
    _, records = request(folders[family], plan, random_input(shape, TOKENS))
    sent = [record.sent_bytes for record in records]
    assert sent == [kind.payload_bytes(shape, kind.Options(**options), plan, rank) for rank in range(plan.world)]
    assert sent == [by_hand(shape, case, plan, rank) for rank in range(plan.world)]
    assert sum(sent) == sum(record.received_bytes for record in records)


def refused(shape: Shape, case: Case, devices: int) -> bool:
    """A refusal is due exactly where heads do not divide: asserted here, and the case is over."""
    divisible = shape.heads % devices == 0 and shape.kv_heads % devices == 0
    if case[0] not in ("tensor", "block") or divisible:
        return False
    with pytest.raises(Unfit, match=f"{devices} devices"):
        planned(*case, shape, TOKENS, devices)
    return True


def by_hand(shape: Shape, case: Case, plan: Plan, rank: int) -> int:
    """The bytes of one rank, written out from what the method says."""
    method, options = case
    n, depth, width = plan.world, shape.layers, shape.width
    bits = {"int8": 8, "int4": 4}.get(options.get("codec", ""), 32)

    def packed(count: int, wide: int) -> int:
        return 4 * count * wide if bits == 32 else 2 * count * math.ceil(wide / 64) + math.ceil(count * wide * bits / 8)

    def cut(total: int, part: int) -> int:
        return total // n + (part < total % n)

    mine, total = len(plan.shares[rank].tokens), plan.tokens + shape.prefix
    receivers = n - 1 - rank if shape.causal else n - 1
    if method == "prism":
        return receivers * depth * packed(min(options["segments"], mine), width)
    if method == "topk":
        kept = mine * options["keep"]
        return receivers * depth * (2 * kept + math.ceil(kept * math.ceil(math.log2(width)) / 8))
    if method == "sequence":
        held = cut(total, rank)
        kv = options.get("gather") == "kv"
        return (n - 1) * depth * (packed(2 * held, shape.kv_width) if kv else packed(held, width))
    if method == "pipeline":
        return 0 if rank == n - 1 else packed(total, width)
    if method == "tensor":
        parts = [packed(cut(total, part), width) for part in range(n)]
        return 2 * depth * (sum(parts) - parts[rank] + (n - 1) * parts[rank])
    slices = packed(total, cut(width, rank)) + (options.get("exchange") == "sp") * packed(cut(total, rank), width)
    return (n - 1) * options["joins"] * slices


def test_bytes_of_a_token_are_those_of_the_table() -> None:
    """Of width 768, on 64 tokens of a device: what the table in `runtime.methods.coding` says."""
    table = {
        3072: CODECS["fp32"], 792: CODECS["int8"], 408: CODECS["int4"], 104: LargestFeatures(32),
        384: SegmentMeans(8, CODECS["fp32"]), 99: SegmentMeans(8, CODECS["int8"]), 51: SegmentMeans(8, CODECS["int4"]),
    }  # fmt: skip
    assert {size: codec.packed_bytes(64, 768) / 64 for size, codec in table.items()} == {size: size for size in table}


# Read off, and replayed


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("shape", [VIT, LLAMA], ids=["vit", "llama"])
@pytest.mark.parametrize("case", EVERY, ids=name)
def test_steps_send_what_the_formula_says_and_all_is_received(case: Case, shape: Shape, devices: int) -> None:
    if refused(shape, case, devices):
        return
    method, options = case
    kind, plan = methods.load(method), planned(method, options, shape, 197, devices)
    every = [steps.steps(plan, shape, rank) for rank in range(plan.world)]
    sent, received = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for rank, found in enumerate(every):
        assert sent_bytes(found, plan.world, rank) == kind.payload_bytes(shape, kind.Options(**options), plan, rank)
        for step in found:
            if isinstance(step, steps.Send):
                sent += [(rank, peer, step.layer, step.purpose) for peer in step.to]
            elif isinstance(step, steps.Receive):
                received += [(peer, rank, step.layer, step.purpose) for peer in step.sources]
    assert sorted(sent, key=str) == sorted(received, key=str)
    coded = [step.kind == "code" for found in every for step in found if isinstance(step, steps.Compute)]
    assert any(coded) == (plan.world > 1)


@pytest.mark.parametrize("case", EVERY, ids=name)
def test_a_request_takes_these_very_steps(case: Case, folders: dict[str, Path]) -> None:
    shape = load_shape(folders["vit-tiny"])
    plan, mesh = planned(*case, shape, 16, 3), loopback.mesh(3, 10.0)
    for transport in mesh:
        transport.__class__ = Listening
        transport.sent = []  # type: ignore[attr-defined]
    request(folders["vit-tiny"], plan, random_input(shape, 16), mesh=mesh)
    kinds = {"exchange": wire.Kind.EXCHANGE, "scatter": wire.Kind.SCATTER, "gather": wire.Kind.GATHER}
    for rank, transport in enumerate(mesh):
        expected = [
            (peer, kinds[step.purpose], wire.NO_LAYER if step.layer is None else step.layer, step.payload_bytes)
            for step in steps.steps(plan, shape, rank)
            if isinstance(step, steps.Send)
            for peer in step.to
        ]
        assert transport.sent == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [VIT, LLAMA], ids=["vit", "llama"])
@pytest.mark.parametrize("case", EVERY, ids=name)
def test_devices_without_weights_send_as_much(case: Case, shape: Shape) -> None:
    """What a replayed run is made of: real frames between hollow models."""
    method, options = case
    kind, plan = methods.load(method), planned(method, options, shape, 50, 4)
    mesh, weights = loopback.mesh(plan.world, 10.0), HollowWeights(shape)
    devices = [Device(kind(weights, plan, rank), mesh[rank], exchange=HollowExchange) for rank in range(plan.world)]
    raw = torch.zeros(50, *((768,) if shape.embedding == "patches" else ()), dtype=torch.uint8)

    def serve(device: Device) -> Record:
        torch.set_grad_enabled(False)
        return device.serve(0)

    with ThreadPoolExecutor(plan.world) as pool:
        served = [pool.submit(serve, device) for device in devices[1:]]
        result, record = devices[0].infer(0, raw)
        records = [record, *(one.result() for one in served)]
    assert result.shape == (shape.outputs or shape.width,)
    formula = [kind.payload_bytes(shape, kind.Options(**options), plan, rank) for rank in range(plan.world)]
    assert [one.sent_bytes for one in records] == formula


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
@pytest.mark.parametrize("case", EVERY, ids=name)
def test_a_gpu_computes_what_the_processor_does(case: Case, folders: dict[str, Path]) -> None:
    folder = folders["vit-tiny"]
    shape = load_shape(folder)
    plan, raw = planned(*case, shape, 48, 2), random_input(shape, 48)
    results = [rehearsed(plan, folder, None, raw, place)[0].infer(0, raw)[0].cpu() for place in ("cpu", "cuda")]
    truth = load(folder)(raw)
    assert (results[0] - results[1]).abs().max() <= 1e-3 + 0.1 * (results[0] - truth).abs().max()


# What a user may ask for


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("sequence", {"codec": "int2"}, 'codec is "fp32", "int8" or "int4", not \'int2\''),
        ("tensor", {"codec": 8}, 'codec is "fp32", "int8" or "int4", not 8'),
        ("pipeline", {"codec": ["int8"]}, 'codec is "fp32", "int8" or "int4", not'),
        ("block", {"codec": None}, 'codec is "fp32", "int8" or "int4", not None'),
        ("block", {"codec": "int8", "joins": 0}, "joins is a whole number of at least 1, not 0"),
        ("sequence", {"codec": "int8", "gather": "q"}, 'gather is "input" or "kv"'),
        ("prism", {"segments": 0}, "segments is a whole number of at least 1, not 0"),
        ("prism", {"segments": "8"}, "segments is a whole number of at least 1, not '8'"),
        ("prism", {"codec": "int3"}, 'codec is "fp32", "int8" or "int4"'),
        ("topk", {"keep": True}, "keep is a whole number of at least 1, not True"),
        ("topk", {"keep": 0.1}, "keep is a whole number of at least 1, not 0.1"),
    ],
)
def test_bad_options_say_what_is_allowed(method: str, options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        methods.load(method).Options(**options)
    assert "\n" not in str(refusal.value)


def test_more_features_than_there_are_are_refused() -> None:
    with pytest.raises(Unfit, match="topk: keep 769 is more than the 768 features of a token"):
        planned("topk", {"keep": 769}, VIT, 50, 2)
    planned("topk", {"keep": 768}, VIT, 50, 2)


def test_labels_name_the_codec_behind_the_method() -> None:
    cases: list[Case] = [
        ("sequence", {"codec": "int8"}),
        ("sequence", {"gather": "kv", "codec": "int4"}),
        ("block", {"joins": 1, "codec": "int8"}),
        ("prism", {"segments": 8}),
        ("prism", {"segments": 8, "codec": "int8"}),
        ("topk", {"keep": 32}),
    ]
    assert [MethodSpec(*case).label for case in cases] == [
        "sequence+int8",
        "sequence+int4 gather=kv",
        "block+int8 AG joins=1",
        "prism segments=8",
        "prism+int8 segments=8",
        "topk keep=32",
    ]


def test_what_a_codec_changes_is_not_promised() -> None:
    for method in ("sequence", "tensor", "pipeline"):
        promised = [methods.equals_single(method, given) for given in ({}, {"codec": "fp32"}, {"codec": "int8"})]
        assert promised == [True, True, False]
    assert methods.equals_single("single", {})
    assert not any(methods.equals_single(method, {}) for method in ("block", "astra", "prism", "topk"))
