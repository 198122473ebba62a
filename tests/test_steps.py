"""The steps of a method are those that its devices take: the same messages, of the same sizes, in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import families, methods, steps
from runtime.collectives import all_reduce_bytes
from runtime.layer import Part, attend, plainly, visible
from runtime.methods.method import FLOAT_BYTES
from runtime.plan import Span
from runtime.shape import Shape
from runtime.transport import loopback, wire
from testbed.rehearse import rehearsed
from tests.devices import codebooks, planned, random_input, request

VIT = Shape(
    "vit", 12, 768, 12, 12, 64, 3072, embedding="patches", patch=16, class_token=True, readout="first", outputs=1000,
    result="classes",
)  # fmt: skip
LLAMA = Shape("llama", 4, 256, 8, 4, 32, 512, causal=True, rotary=True, gated=True, vocabulary=1000, result="tokens")
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("single", {}),
    ("tensor", {}),
    ("sequence", {}),
    ("sequence", {"gather": "kv"}),
    ("block", {"joins": 1}),
    ("block", {"joins": 3, "exchange": "sp"}),
    ("pipeline", {}),
    ("astra", {"groups": 1}),
    ("astra", {"groups": 32}),
    ("astra", {"groups": 1, "code": "residual"}),
]


def sent_bytes(found: list[steps.Step], world: int, rank: int) -> int:
    """Payload that a rank sends between layers."""
    reduced = [step.payload_bytes for step in found if isinstance(step, steps.AllReduce)]
    sends = [step for step in found if isinstance(step, steps.Send) and step.purpose == "exchange"]
    return sum(len(step.to) * step.payload_bytes for step in sends) + sum(
        all_reduce_bytes(size // FLOAT_BYTES, FLOAT_BYTES, world, rank) for size in reduced
    )


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [VIT, LLAMA], ids=["vit", "llama"])
@pytest.mark.parametrize(("method", "options"), EVERY, ids=[f"{m}-{o}" for m, o in EVERY])
def test_steps_send_what_the_formula_says(method: str, options: dict[str, Any], shape: Shape, devices: int) -> None:
    kind = methods.load(method)
    if refused := kind.refuse(shape, kind.Options(**options), devices):
        assert "cannot be divided" in refused
        return
    plan = planned(method, options, shape, 197, devices)
    for rank in range(plan.world):
        found = steps.steps(plan, shape, rank)
        assert sent_bytes(found, plan.world, rank) == kind.payload_bytes(shape, kind.Options(**options), plan, rank)


@pytest.mark.parametrize(("method", "options"), EVERY, ids=[f"{m}-{o}" for m, o in EVERY])
def test_every_message_that_is_sent_is_received_and_the_other_way_round(method: str, options: dict[str, Any]) -> None:
    plan = planned(method, options, VIT, 50, 4)
    every = [steps.steps(plan, VIT, rank) for rank in range(plan.world)]
    sent = [
        (rank, peer, step.layer, step.purpose)
        for rank, found in enumerate(every)
        for step in found
        if isinstance(step, steps.Send)
        for peer in step.to
    ]
    received = [
        (peer, rank, step.layer, step.purpose)
        for rank, found in enumerate(every)
        for step in found
        if isinstance(step, steps.Receive)
        for peer in step.sources
    ]
    assert sorted(sent, key=str) == sorted(received, key=str)
    reduces = [sum(isinstance(step, steps.AllReduce) for step in found) for found in every]
    assert len(set(reduces)) == 1 and (reduces[0] > 0) == (method == "tensor")


class Listening(loopback.Loopback):
    """Keeps (peer, kind, layer, bytes) of what was sent, in order."""

    sent: list[tuple[int, wire.Kind, int, int]]

    def send(self, peer: int, kind: wire.Kind, request: int, layer: int, tensor: torch.Tensor) -> None:
        self.sent.append((peer, kind, layer, tensor.nbytes))
        super().send(peer, kind, request, layer, tensor)


@pytest.mark.parametrize(("method", "options"), [e for e in EVERY if e[0] != "tensor" and e[0] != "astra"])
def test_a_request_takes_these_very_steps(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shape = families.convert("vit-tiny", "random", 0, folder)
    plan = planned(method, options, shape, 16, 2)
    mesh = loopback.mesh(plan.world, 10.0)
    for transport in mesh:
        transport.__class__ = Listening
        transport.sent = []  # type: ignore[attr-defined]
    request(folder, plan, random_input(shape, 16), mesh=mesh)
    for rank, transport in enumerate(mesh):
        purposes = {"exchange": wire.Kind.EXCHANGE, "scatter": wire.Kind.SCATTER, "gather": wire.Kind.GATHER}
        expected = [
            (peer, purposes[step.purpose], wire.NO_LAYER if step.layer is None else step.layer, step.payload_bytes)
            for step in steps.steps(plan, shape, rank)
            if isinstance(step, steps.Send)
            for peer in step.to
        ]
        assert transport.sent == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("mask", [None, "causal"])
def test_attention_written_out_is_that_of_the_kernel(mask: str | None) -> None:
    """What runs where there is no such kernel, as on a GPU, against what runs here."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(4, 20, 16, generator=generator) for _ in range(3))
    hidden = visible(Span(0, 20), Span(0, 20), True) if mask else None
    expected = attend(q, Part(k, v, 0), 0, causal=mask is not None)
    found = plainly(q, k, v, hidden)
    assert expected is not None
    assert torch.allclose(found.out, expected.out, atol=1e-6)
    assert torch.allclose(found.logsumexp, expected.logsumexp, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
@pytest.mark.parametrize(("method", "options"), EVERY, ids=[f"{m}-{o}" for m, o in EVERY])
def test_a_gpu_computes_what_the_processor_does(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shape = families.convert("vit-tiny", "random", 0, folder)
    options = options | {"codewords": 64} if method == "astra" else options
    plan, raw = planned(method, options, shape, 48, 2), random_input(shape, 48)
    extra = codebooks(folder, options, 48, tmp_path / "extra") if method == "astra" else None
    results = []
    for place in ("cpu", "cuda"):
        device = rehearsed(plan, folder, extra, raw, place)[0]
        results.append(device.infer(0, raw)[0].cpu())
    assert torch.allclose(*results, atol=1e-3)
