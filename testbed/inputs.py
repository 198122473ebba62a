"""What the requests of a run hold: real photos cut to patches, or real text as token ids. The same seed, the same."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from runtime.errors import RuntimeFault
from runtime.families import TOKENIZER
from runtime.shape import Shape, grid
from testbed.topology import RunSpec

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLE = "sample"
IMAGES = (".jpg", ".jpeg", ".png")
MAX_TEXT_BYTES = 8 * 1024 * 1024
# Modules with long docstrings: prose that every Python brings along.
PROSE = (
    "bdb", "calendar", "collections", "configparser", "doctest", "fractions", "functools", "heapq", "inspect",
    "ipaddress", "json", "logging", "numbers", "optparse", "pathlib", "pickletools", "random", "shutil", "smtplib",
    "socket", "subprocess", "tempfile", "textwrap", "threading", "typing", "uuid",
)  # fmt: skip


class BadInputs(RuntimeFault):
    """`run.inputs` cannot be used; the text is one line that says what is allowed."""


@dataclass(frozen=True)
class Encoder:
    """How a model reads text. encode: a text -> its ids, int32 [n]; before, after: the special ones, int32, that the
    tokenizer puts around every passage."""

    before: Tensor
    after: Tensor
    encode: Callable[[str], Tensor]


def requests(run: RunSpec, shape: Shape, model_folder: Path | None, count: int) -> list[Tensor]:
    """`count` raw inputs for `Model.__call__`, decided by run.seed; the first n of them do not depend on `count`.

    Images: uint8 [tokens, patch x patch x channels], patches in reading order, a patch by rows, columns, channels.
    Text: int32 ids [tokens]; without a folder there is no tokenizer.
    run.inputs is "sample", a folder of images, or a text file. Raises BadInputs.
    """
    made = _patches(run, shape) if shape.embedding == "patches" else _ids(run, shape, model_folder)
    return [next(made) for _ in range(count)]


def refusal(inputs: str, shape: Shape) -> str | None:
    """Why a model of this shape cannot read `inputs`, found by a look at the files: all of a text, one image's head."""
    try:
        if shape.embedding == "patches":
            refuse_channels(shape)
        if inputs == SAMPLE:
            return None
        if shape.embedding == "tokens":
            _text(inputs)
        else:
            with _opened(image_files(inputs)[0]):
                return None
    except BadInputs as error:
        return str(error).removeprefix(f"inputs {inputs!r}: ")
    return None


def bytes_as_ids(shape: Shape, model_folder: Path | None) -> bool:
    """True if the model reads text but brings no tokenizer, so that bytes stand in for token ids."""
    return shape.embedding == "tokens" and (model_folder is None or not (model_folder / TOKENIZER).exists())


def says(run: RunSpec, shape: Shape, model_folder: Path | None) -> str:
    """One line for people: which inputs `requests` makes. Raises BadInputs."""
    if shape.embedding == "patches":
        rows, columns = grid(run.tokens)
        cut = f"{rows} x {columns} patches of {shape.patch} pixels"
        if run.inputs == SAMPLE:
            return f"photos: seeded crops of scikit-learn's sample images, as {cut}"
        return f"photos: centre crops of the {len(image_files(run.inputs))} images of {run.inputs}, as {cut}"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = f"docstrings of Python {python}'s library" if run.inputs == SAMPLE else _text_file(run.inputs).name
    how = "bytes as ids: the model has no tokenizer" if bytes_as_ids(shape, model_folder) else "the model's tokenizer"
    return f"text: passages of {run.tokens} tokens from {text}, {how}"


def _patches(run: RunSpec, shape: Shape) -> Iterator[Tensor]:
    refuse_channels(shape)
    rows, columns = grid(run.tokens)
    size = (columns * shape.patch, rows * shape.patch)
    pictures = _sample_crops(run.seed, size) if run.inputs == SAMPLE else _centre_crops(run.inputs, size)
    for picture in pictures:
        yield as_patches(picture, shape)


def refuse_channels(shape: Shape) -> None:
    """Raises BadInputs for a model of images that are neither grey nor RGB."""
    if shape.channels not in (1, 3):
        raise BadInputs(f"the model takes images of {shape.channels} channels: inputs can be grey or RGB images only")


def as_patches(picture: Image, shape: Shape) -> Tensor:
    """An image of any mode, its sides multiples of shape.patch, as the model takes it: see `cut_to_patches`."""
    return cut_to_patches(picture.convert("RGB" if shape.channels == 3 else "L"), shape.patch)


def cut_to_patches(picture: Image, side: int) -> Tensor:
    """A grey or RGB image, sides multiples of `side`, as uint8 [patches, side x side x channels] in reading order."""
    width, height = picture.size
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    blocks = pixels.view(height // side, side, width // side, side, -1).transpose(1, 2)
    return blocks.reshape((height // side) * (width // side), -1)


def _sample_crops(seed: int, size: tuple[int, int]) -> Iterator[Image]:
    """Endless different crops, of the aspect of `size`, of the photos that scikit-learn brings along."""
    from PIL import Image

    draw = random.Random(f"photos {seed}")
    photos = sample_photos()
    while True:
        for photo in photos:
            width, height = _largest(photo.size, size)
            zoom = draw.uniform(0.4, 1.0)
            width, height = width * zoom, height * zoom
            left, top = draw.uniform(0, photo.width - width), draw.uniform(0, photo.height - height)
            yield photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def sample_photos() -> list[Image]:
    """The photos of scikit-learn's `load_sample_images`, from its folder: importing it takes more than a second, which
    every run would pay. Raises BadInputs."""
    found = importlib.util.find_spec("sklearn")
    folder = Path((found and found.origin) or "").parent / "datasets" / "images"
    photos = [photo(file) for file in sorted(folder.glob("*.jpg"))]
    if not photos:
        raise BadInputs(f"{folder}: scikit-learn's sample images are not there; give a folder of images")
    return photos


def _centre_crops(folder: str, size: tuple[int, int]) -> Iterator[Image]:
    """The images of a folder, sorted by name, over and over."""
    files = image_files(folder)
    while True:
        for file in files:
            yield centre_crop(photo(file), size)


def photo(file: Path) -> Image:
    """An image file, upright, as RGB. Raises BadInputs."""
    from PIL import ImageOps

    with _opened(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def centre_crop(picture: Image, size: tuple[int, int]) -> Image:
    """The largest part from the middle that has the aspect of `size`, scaled to it."""
    from PIL import Image

    width, height = _largest(picture.size, size)
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    """An image; whatever PIL raises at what it cannot read becomes BadInputs."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInputs(f"inputs {file}: not an image that can be read ({error})") from None


def _largest(photo: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest crop of a photo that has the aspect of `size`."""
    scale = min(photo[0] / size[0], photo[1] / size[1])
    return min(size[0] * scale, photo[0]), min(size[1] * scale, photo[1])


def image_files(folder: str) -> list[Path]:
    """The images of a folder, sorted by name; at least one. Raises BadInputs."""
    path = Path(os.path.expanduser(folder))
    if not os.path.isdir(path):
        raise BadInputs(f'inputs {folder!r}: this model reads images; give "{SAMPLE}" or a folder of jpg or png images')
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.is_file())
    except OSError as error:
        raise BadInputs(f"inputs {folder!r}: the folder cannot be read ({error.strerror})") from None
    if not files:
        raise BadInputs(f"inputs {folder!r}: no {', '.join(IMAGES)} file in this folder")
    return files


def _ids(run: RunSpec, shape: Shape, model_folder: Path | None) -> Iterator[Tensor]:
    """Endless passages of the text; different ones as long as the text has them."""
    encoder = encoder_of(shape, model_folder)
    ids = encoder.encode(_text(run.inputs))
    length = run.tokens - len(encoder.before) - len(encoder.after)
    if length < 1:
        raise BadInputs(
            f"tokens {run.tokens}: give at least {run.tokens - length + 1}, its tokenizer adds special ones"
        )
    if len(ids) < length:
        raise BadInputs(f"inputs {run.inputs!r}: {len(ids)} tokens of text, {length} are needed: give a longer text")
    draw, starts, used = random.Random(f"text {run.seed}"), len(ids) - length + 1, set[int]()
    while True:
        start = draw.randrange(starts)
        if start in used:
            continue
        used.add(start)
        if len(used) == starts:
            used.clear()
        yield torch.cat([encoder.before, ids[start : start + length], encoder.after])


def encoder_of(shape: Shape, model_folder: Path | None) -> Encoder:
    """The tokenizer of a converted model; where it has none, bytes of UTF-8 stand in for ids. Raises BadInputs."""
    if model_folder is None or bytes_as_ids(shape, model_folder):
        none = torch.zeros(0, dtype=torch.int32)
        return Encoder(none, none, functools.partial(_bytes, vocabulary=shape.vocabulary))
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(model_folder / TOKENIZER))
        tokenizer.no_truncation()  # a checkpoint may have saved the lengths of its training here
        tokenizer.no_padding()
        framed = tokenizer.encode("a")
        first = framed.special_tokens_mask.index(0)
        last = len(framed.ids) - framed.special_tokens_mask[::-1].index(0)
    except Exception as error:  # the library raises bare Exceptions
        raise BadInputs(f"{model_folder / TOKENIZER}: not a tokenizer ({error})") from None

    def encode(text: str) -> Tensor:
        return _known(tokenizer.encode(text, add_special_tokens=False).ids, shape.vocabulary)

    return Encoder(_known(framed.ids[:first], shape.vocabulary), _known(framed.ids[last:], shape.vocabulary), encode)


def _bytes(text: str, vocabulary: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int32) % vocabulary)


def _known(ids: Sequence[int], vocabulary: int) -> Tensor:
    made = torch.tensor(ids, dtype=torch.int32)
    if len(made) and int(made.max()) >= vocabulary:
        raise BadInputs(f"the tokenizer makes id {int(made.max())}, the model's vocabulary has only {vocabulary}")
    return made


def _text(inputs: str) -> str:
    """The text to cut passages from; of a large file its first `MAX_TEXT_BYTES`, to the end of a line."""
    if inputs == SAMPLE:
        return _sample_text()
    try:
        with _text_file(inputs).open("rb") as file:
            data = file.read(MAX_TEXT_BYTES)
            return (data[: data.rfind(b"\n") + 1] if file.read(1) else data).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputs(f"inputs {inputs!r}: not a text in UTF-8 ({error})") from None


def _text_file(inputs: str) -> Path:
    path = Path(os.path.expanduser(inputs))
    if not os.path.isfile(path):
        raise BadInputs(f'inputs {inputs!r}: this model reads text; give "{SAMPLE}" or a text file')
    return path


@functools.cache
def _sample_text() -> str:
    return "\n\n".join(_docstrings())


def _docstrings() -> Iterator[str]:
    """The docstrings of `PROSE`."""
    for name in PROSE:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            yield from docstrings(Path(spec.origin).read_bytes())


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of a Python file's module, classes and functions, without their indentation."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
