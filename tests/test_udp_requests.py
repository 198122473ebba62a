"""Whole requests of astra over UDP: without loss what TCP gives, with loss what one machine gives that masks the same.

Nothing is lost by chance here: forwarders between ranks drop what a test names, and deadlines are far longer than
anything takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime import methods, steps
from runtime.codecs.vq import GroupedVQ, code_bits
from runtime.device import Device
from runtime.errors import RuntimeFault
from runtime.hollow import HollowExchange, HollowWeights
from runtime.layer import Layer
from runtime.methods.astra import AstraOptions, streams
from runtime.mixed import contiguous, results
from runtime.model import Model, load, load_shape
from runtime.plan import Plan, Span
from runtime.record import Record
from runtime.shape import Shape
from runtime.transport.gather import Cut, Label
from runtime.transport.udp import UdpMesh
from testbed import turn
from testbed.rehearse import rehearsed
from tests.devices import codebooks, planned, random_input, request, shaken
from tests.files import loaded, problems
from tests.taps import Forwarder, udp_mesh
from tests.test_astra import mixed_layer

TOKENS, CODEWORDS = 100, 16
LONG = "30 s"
FAMILIES = ("vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny")
Build = Callable[[int], list[UdpMesh]]
Lost = Callable[[int, Label], bool]  # by whom it is not received, and what


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[UdpMesh] = []

    def make(world: int) -> list[UdpMesh]:
        made.extend(udp_mesh(world))
        return made[-world:]

    yield make
    for each in made:
        each.close()


@dataclass(frozen=True)
class Case:
    """A model with codebooks so fine that a layer's codes of a device take several datagrams."""

    folder: Path
    books: Path
    shape: Shape
    groups: int
    raw: Tensor

    def plan(self, devices: int, **more: Any) -> Plan:
        options = {"groups": self.groups, "codewords": CODEWORDS, **more}
        return planned("astra", options, self.shape, TOKENS, devices)

    def spans(self, plan: Plan, rank: int) -> tuple[Span, ...]:
        """The tokens of each datagram of a rank."""
        bits = self.groups * code_bits(CODEWORDS)
        return Cut(plan.shares[rank].tokens, bits, len(streams(self.shape, AstraOptions()))).spans

    def run(self, plan: Plan, mesh: list[UdpMesh], lost: Lost | None = None) -> tuple[Tensor, list[Record]]:
        """A request between whose devices some datagrams are lost."""
        with ExitStack() as stack:
            for each in mesh if lost else ():
                stack.enter_context(Forwarder(mesh, each, lost))
            return request(self.folder, plan, self.raw, self.books, mesh)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root, found = tmp_path_factory.mktemp("udp"), {}
    for name in FAMILIES:
        folder, books = shaken(name, root / name, 3), root / f"{name}.books"
        shape = load_shape(folder)
        groups = min(streams(shape, AstraOptions()).values())
        codebooks(folder, {"groups": groups, "codewords": CODEWORDS}, TOKENS, books)
        found[name] = Case(folder, books, shape, groups, random_input(shape, TOKENS))
    return found


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_loss_it_is_what_tcp_gives_bit_for_bit_and_as_many_bytes(
    cases: dict[str, Case], build: Build, family: str, devices: int
) -> None:
    case = cases[family]
    shape = case.shape
    truth, records = request(case.folder, case.plan(devices), case.raw, case.books)
    assert all(record.dropped is None and record.lost_tokens == 0 for record in records)
    plan = case.plan(devices, transport="udp", deadline=LONG)
    result, records = case.run(plan, build(devices))
    assert torch.equal(result, truth)
    kind, options = methods.load("astra"), AstraOptions(**plan.options)
    for record in records:
        receivers = devices - 1 - record.rank if shape.causal else devices - 1
        assert record.sent_bytes == kind.payload_bytes(shape, options, plan, record.rank)
        assert record.messages == receivers * shape.layers * len(case.spans(plan, record.rank))
        assert record.lost_tokens == 0 and record.dropped is not None and not any(record.dropped.values())
        seen = [share for share in plan.shares if share.rank < record.rank or not shape.causal]
        due = sum(len(share.tokens) for share in seen if share.rank != record.rank)
        assert record.due_tokens == due * shape.layers
    assert sum(record.sent_bytes for record in records) == sum(record.received_bytes for record in records)


LOSSES: dict[bool, dict[tuple[int, int, int], set[int]]] = {
    # causal: (sender, receiver, layer): sequence numbers. No two devices miss each other's: none has to wait in vain.
    False: {(0, 1, 0): {1}, (2, 0, 1): {0, 1, 2}, (1, 2, 2): {0}, (1, 0, 2): {1}},
    True: {(0, 1, 0): {0, 1, 2}, (0, 2, 1): {1}, (1, 2, 2): {0}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_lost_tokens_are_masked_and_nothing_else_changes(cases: dict[str, Case], build: Build, family: str) -> None:
    case = cases[family]
    plan, losses = case.plan(3, transport="udp", deadline=LONG), LOSSES[case.shape.causal]

    def lost(receiver: int, label: Label) -> bool:
        return label.sequence in losses.get((label.sender, receiver, label.layer), ())

    result, records = case.run(plan, build(3), lost)
    unheard: dict[tuple[int, int], list[int]] = {}
    for (sender, receiver, layer), sequences in losses.items():
        spans = [span for number, span in enumerate(case.spans(plan, sender)) if number in sequences]
        unheard.setdefault((receiver, layer), []).extend(
            token for span in spans for token in range(span.start, span.stop)
        )
    missed = [sum(len(tokens) for (rank, _), tokens in unheard.items() if rank == r) for r in range(3)]
    assert [record.lost_tokens for record in records] == missed and sum(missed) > 50
    model, books = load(case.folder), load_file(case.books)
    error, error_unmasked = (
        (result - reference(model, plan, books, case.raw, tokens)).abs().max() for tokens in (unheard, {})
    )
    assert error < 1e-4 and error < error_unmasked / 20


def reference(
    model: Model, plan: Plan, books: dict[str, Tensor], raw: Tensor, unheard: Mapping[tuple[int, int], list[int]]
) -> Tensor:
    """One machine, keys [K | K̂] of twice the length; unheard: tokens that the queries of (device, layer) do not see."""
    shape = model.shape
    copies = torch.arange(plan.world).repeat(shape.prefix)
    first = len(copies)
    owner = torch.cat([copies, *(torch.full((len(share.tokens),), share.rank) for share in plan.shares)])
    x = torch.cat([model.class_token().repeat(plan.world, 1), model.embed(raw, 0, len(raw))])
    same = owner.unsqueeze(1) == owner.unsqueeze(0)
    content = torch.arange(len(owner)) >= first
    earlier = torch.ones_like(same).tril() if shape.causal else torch.ones_like(same)
    for layer in model.layers:
        other = ~same & content
        for rank in range(plan.world):
            gone = torch.tensor(unheard.get((rank, layer.index), []), dtype=torch.int64) + first
            other[(owner == rank).unsqueeze(1) & torch.isin(torch.arange(len(owner)), gone)] = False
        x = mixed_layer(layer, x, books, torch.cat([same & earlier, other & earlier], 1))
    if shape.readout == "mean":
        return model.head(model.read_out(x, 0) / len(raw))
    if shape.readout == "last":
        return model.head(model.read_out(x, 0))
    return model.head(torch.stack([model.read_out(row.unsqueeze(0), 0) for row in x[: max(first, 1)]]).mean(0))


@pytest.mark.parametrize("family", ["vit-tiny", "llama-tiny"])
def test_what_nobody_hears_in_any_layer_is_what_training_leaves_out(
    cases: dict[str, Case], build: Build, family: str
) -> None:
    """A message of several datagrams, lost as a whole to one of two receivers in the first layer, to both in the last,
    where their deadline has to pass."""
    case = cases[family]
    model, books, sender = load(case.folder), load_file(case.books), 0 if case.shape.causal else 2
    plan = case.plan(3, transport="udp", deadline="1 s")

    def quantize(layer: Layer, name: str, x: Tensor) -> Tensor:
        codec = GroupedVQ(books[f"layers.{layer.index}.{name}"])
        return codec.decode(codec.encode(x[0])).unsqueeze(0)

    last = case.shape.layers - 1
    heard = torch.ones(case.shape.layers, 1, 3, 3, dtype=torch.bool)
    heard[0, 0, 1, sender] = heard[last, 0, :, sender] = False
    result, records = case.run(
        plan, build(3), lambda receiver, label: not bool(heard[label.layer, 0, receiver, label.sender])
    )
    holding = replace(contiguous([share.tokens for share in plan.shares], 1), heard=heard)
    oracle = results(model, case.raw.unsqueeze(0), holding, streams(case.shape, AstraOptions()), quantize)[0]
    torch.testing.assert_close(result, oracle, atol=1e-4, rtol=1e-4)
    assert len(case.spans(plan, sender)) > 1
    missed = [len(plan.shares[sender].tokens) * int((~heard[:, 0, rank, sender]).sum()) for rank in range(3)]
    assert [record.lost_tokens for record in records] == [0 if rank == sender else missed[rank] for rank in range(3)]
    assert max(record.waited_s for record in records) >= 1


def test_replayed_devices_send_the_same_datagrams(cases: dict[str, Case], build: Build) -> None:
    case, mesh, kind = cases["vit-tiny"], build(3), methods.load("astra")
    plan, weights = case.plan(3, transport="udp", deadline=LONG), HollowWeights(case.shape)
    devices = [Device(kind(weights, plan, rank), mesh[rank], exchange=HollowExchange) for rank in range(3)]
    with ThreadPoolExecutor(3) as threads:
        served = [threads.submit(device.serve, 0) for device in devices[1:]]
        records = [devices[0].infer(0, case.raw)[1], *(one.result() for one in served)]
    formula = [kind.payload_bytes(case.shape, AstraOptions(**plan.options), plan, rank) for rank in range(3)]
    assert [record.sent_bytes for record in records] == formula
    assert all(record.lost_tokens == 0 for record in records)


def test_what_may_be_lost_is_neither_predicted_nor_profiled(cases: dict[str, Case]) -> None:
    case, said = cases["vit-tiny"], "^transport: udp needs devices on a network.*$"
    plan = case.plan(3, transport="udp")
    with pytest.raises(RuntimeFault, match=said):
        steps.steps(plan, case.shape, 0)
    with pytest.raises(RuntimeFault, match=said):
        rehearsed(plan, case.folder, case.books, case.raw)


HEAD = "name: t\nbackend: local\nhosts: {h1: {}, h2: {}}\nrun:\n  model: vit-tiny\n  tokens: 20\n  methods: [%s]\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("transport: quic", 'transport is "tcp" or "udp", not \'quic\''),
        ("deadline: 5 ms", "deadline is for transport: udp"),
        ("transport: udp, deadline: 5", 'e.g. "20 ms", not 5'),
        ("transport: udp, deadline: 0 ms", "e.g. \"20 ms\", not '0 ms'"),
        ("transport: udp, deadline: 5 min", "in us, ms or s"),
        ("transport: udp, deadline: -1 s", "from 1 ms to 3600 s"),
        ("transport: udp, deadline: 999 us", "from 1 ms to 3600 s"),
        ("transport: udp, deadline: 3601 s", "from 1 ms to 3600 s"),
    ],
)
def test_a_file_with_wrong_options_is_refused_in_a_line(tmp_path: Path, options: str, said: str) -> None:
    found = problems(tmp_path, HEAD % f"{{astra: {{{options}}}}}")
    assert len(found) == 1 and found[0].startswith("t.yaml:7 run.methods[0].astra") and said in found[0]


def test_a_file_says_transport_and_deadline(tmp_path: Path) -> None:
    text = HEAD % "astra, {astra: {transport: udp}}, {astra: {transport: udp, deadline: 2.5 ms}}"
    specs = loaded(tmp_path, text).run.methods
    found = [AstraOptions(**spec.options) for spec in specs]
    assert [one.transport for one in found] == ["tcp", "udp", "udp"]
    assert [one.deadline_s for one in found] == [0.1, 0.1, 0.0025]
    assert specs[2].label == "astra transport=udp deadline=2.5 ms"


STAR = (
    "name: t\nbackend: mininet\nhosts: {h1: {}, h2: {}, h3: {}}\nswitches: [s1]\ndefaults: {link: %s}\n"
    "links: [h1 - s1, h2 - s1, h3 - s1]\nrun:\n  model: vit-tiny\n  tokens: 60\n  methods: [%s]\n"
)


@pytest.mark.parametrize(
    ("link", "options", "due_ms"),
    [
        # 20 tokens of 32 x 10 bits in one datagram: six times 800 bytes and 86 of headers, 42.528 kbit
        ("{rate: 1 Mbit/s}", "groups: 32", 100 + 42.528),
        ("{rate: 64 kbit/s, delay: 10 ms}", "groups: 32", 100 + 664.5 + 2 * 2 * 10),
        ("{rate: 1 Mbit/s, up: {rate: 500 kbit/s}}", "groups: 32", 100 + 2 * 42.528),
        ("{rate: 64 kbit/s}", "groups: 32, deadline: 7 ms", 7),
        (None, "groups: 32", 100),
    ],
)
def test_a_deadline_that_is_left_open_is_as_long_as_codes_can_be_on_their_way(
    tmp_path: Path, link: str | None, options: str, due_ms: float
) -> None:
    method = f"{{astra: {{{options}, transport: udp}}}}"
    topology = loaded(tmp_path, HEAD % method if link is None else STAR % (link, method))
    (spec,) = topology.run.methods
    plan = turn.planned(topology, Shape("vit", 4, 128, 4, 4, 32, 512), spec)
    found_ms = 1e3 * AstraOptions(**plan.options).deadline_s
    assert due_ms <= round(found_ms, 6) < 1.06 * due_ms + 1
    assert ("deadline" in spec.label) == ("deadline" in options)


def test_who_waits_for_a_deadline_is_not_taken_for_lost(tmp_path: Path) -> None:
    """Nor who waits for that one."""
    shape, found = Shape("vit", 4, 128, 4, 4, 32, 512), list[float]()
    for options in (
        "groups: 1",
        "groups: 1, transport: udp, deadline: 1 ms",
        "groups: 1, transport: udp, deadline: 1000 s",
    ):
        topology = loaded(tmp_path, STAR % ("{rate: 1 Mbit/s}", f"{{astra: {{{options}}}}}"))
        (spec,) = topology.run.methods
        ready: Any = SimpleNamespace(shape=shape, reference_s=0.0)
        own: Any = SimpleNamespace(topology=topology)
        one = turn.Turn(own, own, ready, spec, {})
        found.append(one._patience_s(turn.planned(topology, shape, spec)))
    assert found[1] - found[0] == pytest.approx(0.002) and found[2] - found[0] == pytest.approx(2000)


def test_codes_that_fit_no_datagram_are_refused() -> None:
    shape = Shape("vit", 2, 1430, 1, 1, 1430, 100)
    options = {"groups": 143, "codewords": 2048}
    kind = methods.load("astra")
    assert kind.refuse(shape, AstraOptions(**options), 2) is None
    assert kind.refuse(shape, AstraOptions(**options, transport="udp"), 2) == (
        "the codes of 8 tokens, the fewest that end with a byte, need 1573 bytes, a datagram has 1428: fewer groups, "
        "or transport: tcp"
    )
