"""Parallel equals single, bytes equal the formula: every method, every family, 1 to 4 devices."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import methods
from runtime.errors import Unfit
from runtime.model import load, load_shape
from runtime.plan import even_spans
from runtime.shape import Shape
from tests.devices import codebooks, planned, random_input, request, shaken

FAMILIES = ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"]
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("single", {}),
    ("tensor", {}),
    ("sequence", {}),
    ("sequence", {"gather": "kv"}),
    ("pipeline", {}),
]
CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("block", {"joins": 1}),
    ("block", {"joins": 3, "exchange": "sp"}),
    ("astra", {"groups": 1, "codewords": 64}),
    ("astra", {"groups": 4, "codewords": 32}),
]
FLOAT_BYTES = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted models with all parameters of a size that lets a mistake show."""
    root = tmp_path_factory.mktemp("models")
    return {name: shaken(name, root / name) for name in FAMILIES}


def refused(shape: Shape, method: str, devices: int) -> bool:
    """A refusal is due exactly where heads do not divide: asserted here, and the case is over."""
    divisible = shape.heads % devices == 0 and shape.kv_heads % devices == 0
    if method not in ("tensor", "block") or divisible:
        return False
    with pytest.raises(Unfit, match=f"{devices} devices"):
        planned(method, {}, shape, 37, devices)
    return True


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize(("method", "options"), EXACT, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_methods_equal_single(
    folders: dict[str, Path], family: str, method: str, options: dict[str, Any], devices: int
) -> None:
    shape = load_shape(folders[family])
    if refused(shape, method, devices):
        return
    raw = random_input(shape, 37)  # a prime: no length divides evenly
    result, _ = request(folders[family], planned(method, options, shape, 37, devices), raw)
    torch.testing.assert_close(result, load(folders[family])(raw), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "options"), EXACT, ids=str)
@pytest.mark.parametrize("devices", [5, 6, 7, 8])
def test_up_to_eight_devices(tmp_path: Path, method: str, options: dict[str, Any], devices: int) -> None:
    """A small ViT with as many heads and layers as devices; as many tokens too, and one more than can be even."""
    size = {"hidden_size": 8 * devices, "num_attention_heads": devices, "num_hidden_layers": devices}
    config = {"model_type": "vit", **size, "intermediate_size": 12 * devices, "image_size": 32, "patch_size": 8}
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(config))
    folder = shaken(str(tmp_path / "checkpoint"), tmp_path / "model")
    shape = load_shape(folder)
    for tokens in (devices, 2 * devices + 1):
        raw = random_input(shape, tokens)
        result, records = request(folder, planned(method, options, shape, tokens, devices), raw)
        torch.testing.assert_close(result, load(folder)(raw), atol=1e-5, rtol=1e-5)
        assert len(records) == (1 if method == "single" else devices)


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize(("method", "options"), EXACT + CHANGED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [37, 48])
def test_payload_equals_the_formula(
    tmp_path: Path,
    folders: dict[str, Path],
    family: str,
    method: str,
    options: dict[str, Any],
    devices: int,
    tokens: int,
) -> None:
    """Counted bytes of every rank equal the class's own formula, and the published one written out below."""
    shape = load_shape(folders[family])
    if refused(shape, method, devices):
        return
    extra = codebooks(folders[family], options, tokens, tmp_path / "c") if method == "astra" else None
    plan = planned(method, options, shape, tokens, devices)
    _, records = request(folders[family], plan, random_input(shape, tokens), extra)
    sent = [record.sent_bytes for record in records]
    kind = methods.load(method)
    assert sent == [kind.payload_bytes(shape, kind.Options(**options), plan, r) for r in range(plan.world)]
    expected = published(shape, method, options, tokens, plan.world)
    if expected is not None:
        assert sent == expected
    assert sum(sent) == sum(record.received_bytes for record in records)


def published(shape: Shape, method: str, options: dict[str, Any], tokens: int, n: int) -> list[int] | None:
    """The table of the methods' specification, T the positions (class token included) except for astra's content.

    None where N does not divide T (or T·D), for which the table only gives the largest device.
    """
    layers, width, total = shape.layers, shape.width, tokens + shape.prefix
    if method == "astra":
        if tokens % n:
            return None
        streams, groups, bits = (
            (2 if shape.kv_heads < shape.heads else 1),
            options["groups"],
            int(math.log2(options["codewords"])),
        )
        once = layers * streams * math.ceil(tokens // n * groups * bits / 8)
        return [(n - 1 - rank if shape.causal else n - 1) * once for rank in range(n)]
    if method == "single" or n == 1:
        return [0] * n
    if method == "tensor":
        return None if total * width % n else [layers * 4 * (n - 1) * total * width * FLOAT_BYTES // n] * n
    if method == "pipeline":
        return [total * width * FLOAT_BYTES] * (n - 1) + [0]
    if total % n:
        return None
    one_slice = math.ceil(total / n) * (2 * shape.kv_width if options.get("gather") == "kv" else width) * FLOAT_BYTES
    if method == "sequence":
        return [(n - 1) * layers * one_slice] * n
    if width % n:
        return None
    joins, exchanges = options["joins"], 2 if options.get("exchange") == "sp" else 1
    return [(n - 1) * exchanges * joins * one_slice] * n


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exchange", ["ag", "sp"])
def test_block_with_a_join_in_every_layer_is_single(folders: dict[str, Path], family: str, exchange: str) -> None:
    """With every layer joined nothing is decoupled: the one case in which block's function is the model's."""
    shape = load_shape(folders[family])
    raw = random_input(shape, 37)
    plan = planned("block", {"joins": shape.layers, "exchange": exchange}, shape, 37, 4)
    result, _ = request(folders[family], plan, raw)
    torch.testing.assert_close(result, load(folders[family])(raw), atol=1e-5, rtol=1e-5)


def test_block_between_joins_is_layers_of_fewer_heads(folders: dict[str, Path]) -> None:
    """The decoupled part, written out: private residual streams through cut layers, slices of features at the join."""
    folder = folders["vit-tiny"]
    shape, raw, n = load_shape(folder), random_input(load_shape(folder), 48), 4
    whole = load(folder)
    streams = []
    for span in even_spans(shape.heads, n):
        cut = load(folder, heads=span)
        x = torch.cat([cut.class_token(), cut.embed(raw, 0, 48)])
        for layer in cut.layers[:-1]:
            x = layer(x)
        streams.append(x)
    joined = torch.cat([s[:, f.slice()] for s, f in zip(streams, even_spans(shape.width, n), strict=True)], -1)
    expected = whole.head(whole.read_out(whole.layers[-1](joined), 1))
    result, _ = request(folder, planned("block", {"joins": 1}, shape, 48, n), raw)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_refusals_name_the_reason(folders: dict[str, Path]) -> None:
    vit, gpt2 = load_shape(folders["vit-tiny"]), load_shape(folders["gpt2-tiny"])
    for method, options, shape, tokens, devices, words in [
        ("tensor", {}, vit, 37, 5, "12 heads cannot be divided among 5 devices"),
        ("pipeline", {}, vit, 37, 8, "4 layers are too few for 8 stages"),
        ("sequence", {}, vit, 3, 4, "3 tokens are too few for 4 devices"),
        ("astra", {"groups": 7}, vit, 37, 4, "cannot be cut into 7 groups"),
        ("block", {"joins": 5}, vit, 37, 4, "5 joins are too many for 4 layers"),
        ("single", {}, gpt2, gpt2.max_tokens or 0, 1, None),
        ("single", {}, gpt2, (gpt2.max_tokens or 0) + 1, 1, "more than the"),
    ]:
        if words is None:
            planned(method, options, shape, tokens, devices)
            continue
        with pytest.raises(Unfit, match=words):
            planned(method, options, shape, tokens, devices)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("block", {"joins": 0}, "at least 1"),
        ("block", {"joins": True}, "whole number"),
        ("block", {"exchange": "all"}, '"ag" or "sp"'),
        ("sequence", {"gather": "q"}, '"input" or "kv"'),
        ("astra", {"codewords": 1000}, "power of two"),
        ("astra", {"groups": 0}, "at least 1"),
        ("astra", {"code": "x"}, '"auto", "input", "residual" or "kv"'),
    ],
)
def test_bad_options_say_what_is_allowed(method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        methods.load(method).Options(**options)
