"""astra against a one-machine reference of mixed-precision attention, written as one mask over the whole input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime import methods
from runtime.codecs.vq import GroupedVQ
from runtime.layer import Attended, Layer
from runtime.methods.astra import streams
from runtime.model import Model, load
from runtime.plan import Plan
from testbed import material
from testbed.topology import MethodSpec, RunSpec
from tests.devices import codebooks, planned, random_input, request, shaken

TOKENS = 37


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("astra")
    for name in ("vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"):
        shaken(name, folder / name, 3)
    return folder


def reference(model: Model, plan: Plan, books: dict[str, Tensor], raw: Tensor) -> Tensor:
    """One machine, keys [K | K̂] of twice the length: a query sees K of its own device's tokens, K̂ of all others'."""
    shape, prefix = model.shape, model.shape.prefix
    device = torch.cat([torch.full((len(s.tokens),), s.rank) for s in plan.shares])
    copies = torch.arange(plan.world).repeat(prefix)  # every device's copy of the class token comes first
    owner = torch.cat([copies, device])
    x = torch.cat([model.class_token().repeat(plan.world, 1), model.embed(raw, 0, len(raw))])
    first = len(copies)
    same = owner.unsqueeze(1) == owner.unsqueeze(0)
    other = (owner.unsqueeze(1) != owner.unsqueeze(0)) & (torch.arange(len(owner)) >= first)
    if shape.causal:
        order = torch.arange(len(owner))
        earlier = order.unsqueeze(1) >= order.unsqueeze(0)
        same, other = same & earlier, other & earlier
    mask = torch.cat([same, other], 1)
    for layer in model.layers:
        x = mixed_layer(layer, x, books, mask)
    rows = x[:first] if prefix else x
    if shape.readout == "mean":
        return model.head(model.read_out(x, 0) / len(raw))
    if shape.readout == "last":
        return model.head(model.read_out(x, 0))
    return model.head(torch.stack([model.read_out(row.unsqueeze(0), 0) for row in rows[: max(first, 1)]]).mean(0))


def mixed_layer(layer: Layer, x: Tensor, books: dict[str, Tensor], mask: Tensor) -> Tensor:
    h = layer.attention_input(x)
    heads = layer.shape.heads
    rows = heads * layer.shape.head_dim
    q = layer.rotate(layer.split(layer._linear("qkv", h)[:, :rows]), 0)
    k, v = layer.keys_values(h)
    codecs = {n.split(".")[2]: GroupedVQ(b) for n, b in books.items() if n.startswith(f"layers.{layer.index}.")}

    def rebuilt(name: str, t: Tensor) -> Tensor:
        return codecs[name].decode(codecs[name].encode(t))

    far_k, far_v = layer.keys_values(rebuilt("input", h)) if "input" in codecs else (rebuilt("k", k), rebuilt("v", v))
    keys = torch.cat([layer.rotate(layer.split(t), 0) for t in (k, far_k)], 1)
    values = torch.cat([layer.split(t) for t in (v, far_v)], 1)
    keys, values = (t.repeat_interleave(heads // t.shape[0], 0) for t in (keys, values))
    scores = (q @ keys.transpose(1, 2)) / layer.shape.head_dim**0.5
    scores = scores.masked_fill(~mask, float("-inf"))
    x, summed = layer.mlp(x, layer.output(Attended(scores.softmax(-1) @ values, scores.logsumexp(-1))))
    return layer.residual(x, summed)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"groups": 1, "codewords": 64},
        {"groups": 4, "codewords": 32},
        {"groups": 1, "codewords": 32, "code": "kv"},
        {"groups": 2, "codewords": 32, "code": "input"},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_equals_mixed_precision_attention(
    root: Path, tmp_path: Path, family: str, options: dict[str, Any], devices: int
) -> None:
    folder = root / family
    model = load(folder)
    extra = codebooks(folder, options, TOKENS, tmp_path / "books")
    plan = planned("astra", options, model.shape, TOKENS, devices)
    raw = random_input(model.shape, TOKENS)
    result, _ = request(folder, plan, raw, extra)
    torch.testing.assert_close(result, reference(model, plan, load_file(extra), raw), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("code", ["auto", "residual"])
@pytest.mark.parametrize("family", ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_differs_from_single_by_the_codes_alone(root: Path, tmp_path: Path, family: str, code: str) -> None:
    """With a codebook that holds every vector that occurs, astra is exact; with a poor one it is not."""
    folder = root / family
    model = load(folder)
    kind = methods.load("astra")
    options = {"groups": 1, "codewords": 64, "code": code}
    raw = random_input(model.shape, TOKENS)
    kind.prepare(folder, kind.Options(**options), [raw, random_input(model.shape, TOKENS, 2)], tmp_path / "near")
    books = load_file(tmp_path / "near")
    exact = occurring(model, raw, list(streams(model.shape, kind.Options(**options))), 64)
    save_file(exact, tmp_path / "exact")
    plan = planned("astra", options, model.shape, TOKENS, 3)
    truth = model(raw)
    result, _ = request(folder, plan, raw, tmp_path / "exact")
    torch.testing.assert_close(result, truth, atol=1e-4, rtol=1e-4)
    save_file({name: book * 0 for name, book in books.items()}, tmp_path / "poor")
    poor, _ = request(folder, plan, raw, tmp_path / "poor")
    assert (poor - truth).abs().max() > 1e-3


def occurring(model: Model, raw: Tensor, names: list[str], codewords: int) -> dict[str, Tensor]:
    """A codebook per layer and stream whose first words are the very vectors of this input; the rest lie far away."""
    from runtime.methods.activations import Activations

    seen = Activations(names, model.shape.prefix)
    x = torch.cat([model.class_token(), model.embed(raw, 0, len(raw))])
    for layer in model.layers:
        x = layer(x, 0, seen)
    books = {}
    for name, rows in seen.rows.items():
        book = torch.full((1, codewords, rows[0].shape[1]), 1e3)
        book[0, : len(raw)] = rows[0]
        books[name] = book
    return books


def test_codebooks_are_kept_by_what_they_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by how codes travel or who holds which tokens: what a second such method needs is there already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes: dict[str, Any] = {"groups": 1, "codewords": 4}
    same = [{}, {"transport": "udp", "deadline": "1 s"}, {"split": "3/1"}]
    other = [{"groups": 2}, {"codewords": 2}, {"code": "residual"}]
    specs = tuple(MethodSpec("astra", {**sizes, **more}) for more in (*same, *other))
    run = RunSpec("h1", "gpt2-tiny", tokens=8, methods=specs, repeats=1)
    ready = material.gather(run, material.collect(run), tmp_path / "requests", lambda words: None)
    files = [ready.extras[spec.label] for spec in specs]
    assert len(set(files)) == 1 + len(other) and files[0] == files[1] == files[2]
