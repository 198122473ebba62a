"""A recipe that is done in seconds: a tiny ViT on small digits."""

from __future__ import annotations

from pathlib import Path

from testbed.prepare import command

RECIPE = """\
name: tiny
model: {preset: vit-digits, hidden_size: 32, num_hidden_layers: 2, intermediate_size: 64, image_size: 16}
weights: random
data: digits
tokens: 16
original: {steps: 100, batch: 32, lr: 3e-3, warmup: 2}
astra: {groups: 4, codewords: 16}
training: {steps: 150, batch: 8, lr: 1e-3, warmup: 2, devices: 3}
seed: 1
"""
CODED = "{astra: {groups: 4, codewords: 16}}"


def written(folder: Path, text: str = RECIPE) -> Path:
    """A recipe file."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def prepared(folder: Path, text: str = RECIPE) -> Path:
    """The folder of a recipe, prepared below `folder`."""
    assert command.execute(written(folder, text), folder / "tiny") == 0
    return folder / "tiny"
