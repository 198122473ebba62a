"""Foreign models become ours: `describe` tells the shape, `convert` writes the folder that `runtime.model.load` reads.

Each family's module has `MODELS` (architectures it accepts -> the transformers class that is loaded, the default
first), `UNREAD` (weights that nothing here reads, so they may be missing), `shape(config, folder)` and
`tensors(model, folder)`. These modules are the only ones that know foreign names.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import BadModel
from runtime.families.presets import PRESETS
from runtime.families.source import Source, resolve
from runtime.shape import Shape

__all__ = ["FAMILIES", "PRESETS", "TOKENIZER", "Source", "convert", "describe", "resolve"]

FAMILIES = {
    "vit": "runtime.families.vit",
    "gpt2": "runtime.families.gpt2",
    "llama": "runtime.families.llama",
    "bert": "runtime.families.bert",
}
TOKENIZER = "tokenizer.json"
_VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.model")
_OF_A_LAYER = re.compile(r"(^|\.)(layer|layers|h)\.\d+\.")


def describe(model: str, weights: str) -> Shape:
    """The shape of a preset, checkpoint folder or hub id, from its configuration alone.

    weights: "random" or "pretrained". Raises BadModel in one line.
    """
    source = resolve(model, weights)
    if source.converted is not None:
        from runtime.model import load_shape

        return load_shape(source.converted)
    with _named(source), _quiet():
        return _family_and_shape(source)[2]


def convert(model: str, weights: str, seed: int, folder: Path) -> Shape:
    """Convert a model into `folder`, which must not exist yet, and appears only once it is complete.

    weights "random" are drawn by transformers' own initialisation from `seed`. A tokenizer comes along as
    tokenizer.json. Raises BadModel in one line.
    """
    source = resolve(model, weights)
    if source.converted is not None:
        raise BadModel(f"{model}: is converted already, in {source.converted}")
    if folder.exists():
        raise BadModel(f"{folder} exists already: a model is converted into a new folder")
    with _named(source), _quiet():
        family, config, shape = _family_and_shape(source)
        tensors = family.tensors(_foreign(family, config, source, seed), source.folder)
        if bad := next((name for name, t in tensors.items() if not bool(t.isfinite().all())), None):
            raise BadModel(f"{bad} holds values that are not finite")
        tokenizer = _tokenizer(source.folder)
    _write(folder, shape, tensors, tokenizer)
    return shape


def _family_and_shape(source: Source) -> tuple[Any, Any, Shape]:
    """The family's module, the transformers configuration naming the one class to load, and the shape."""
    from transformers import AutoConfig

    kind = source.config.get("model_type")
    if kind not in FAMILIES:
        raise BadModel(f"model_type {kind!r} is not supported, only {', '.join(FAMILIES)}")
    family = importlib.import_module(FAMILIES[kind])
    settings = {key: value for key, value in source.config.items() if key != "model_type"}
    config = AutoConfig.for_model(kind, **settings)
    said = (config.architectures or [next(iter(family.MODELS))])[0]
    if said not in family.MODELS:
        raise BadModel(f"architecture {said!r} is not supported, only {', '.join(family.MODELS)}")
    config.architectures = [family.MODELS[said]]
    shape: Shape = replace(family.shape(config, source.folder), untrained=not source.pretrained)
    if min(shape.layers, shape.width, shape.heads, shape.hidden, shape.outputs) < 1:
        raise BadModel("config.json: layers, widths, heads and outputs must be at least 1")
    return family, config, shape


def _foreign(family: Any, config: Any, source: Source, seed: int) -> Any:
    """The transformers model, float32, in evaluation mode."""
    import torch
    import transformers

    kind = getattr(transformers, config.architectures[0])
    if not source.pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind(config).float().eval()
    model, report = kind.from_pretrained(
        source.folder, config=config, dtype=torch.float32, local_files_only=True,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    # transformers fills with random numbers what is missing or of another size, and leaves out what it has no place for
    if missing := [name for name in report["missing_keys"] if not name.startswith(family.UNREAD)]:
        raise BadModel(f"weights are missing: {_some(missing)}")
    if odd := [entry[0] for entry in report["mismatched_keys"]]:
        raise BadModel(f"weights have other sizes than config.json says: {_some(odd)}")
    if surplus := [name for name in report["unexpected_keys"] if _OF_A_LAYER.search(name)]:
        raise BadModel(f"weights do not belong to this configuration: {_some(surplus)}")
    return model.eval()


def _some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tokenizer(folder: Path | None) -> str | None:
    """The checkpoint's tokenizer, if it has one, as the text of a tokenizer.json."""
    if folder is None:
        return None
    if (folder / TOKENIZER).exists():
        return (folder / TOKENIZER).read_text(encoding="utf-8")
    if not any((folder / name).exists() for name in _VOCABULARIES):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise BadModel(f"its tokenizer cannot be turned into {TOKENIZER}: save it with transformers as a fast one")
    return str(tokenizer.backend_tokenizer.to_str())


def _write(folder: Path, shape: Shape, tensors: dict[str, Any], tokenizer: str | None) -> None:
    """Write beside `folder` and rename, so that a folder that exists is complete."""
    from safetensors import SafetensorError

    from runtime.model import SHAPE, WEIGHTS, save

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            fresh = Path(scratch) / folder.name
            save(fresh, shape, tensors)
            (fresh / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner only
            if tokenizer is not None:
                (fresh / TOKENIZER).write_text(tokenizer, encoding="utf-8")
            try:
                os.rename(fresh, folder)
            except OSError:
                if not (folder / SHAPE).exists():  # else another process was faster, with the same model
                    raise
    except (OSError, SafetensorError) as error:
        raise BadModel(f"{folder}: the converted model cannot be written ({error})") from None


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Every failure becomes one line with the model's name: transformers raises whatever a bad file makes it raise."""
    try:
        yield
    except BadModel as error:
        raise BadModel(f"{source.name}: {error}") from None
    except Exception as error:
        why = " ".join(str(error).split())[:240]
        raise BadModel(f"{source.name}: cannot be used as a checkpoint ({type(error).__name__}: {why})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports; what matters of them is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
