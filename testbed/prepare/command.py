"""`testbed prepare RECIPE`: everything that can be refused is, then what is left to do is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError

from runtime.errors import BadModel
from testbed import yamlfile
from testbed.inputs import BadInputs
from testbed.prepare import card, source
from testbed.prepare.folder import read
from testbed.prepare.progress import Progress
from testbed.prepare.recipe import WHAT
from testbed.prepare.stages import Preparation
from testbed.prepare.work import Work, opened
from testbed.store import StoreError
from testbed.terminable import terminable
from testbed.topology import TopologyError

HOME = Path("prepared")
OK, INTERRUPTED = 0, 130
DEVICES = ("cpu", "cuda")


def execute(path: Path, out: Path | None = None, device: str = "cpu") -> int:
    """Prepare the recipe of a file; the exit status of the command. out: the folder, None for prepared/<name>.

    device: "cpu" or "cuda". Raises TopologyError, StoreError, BadModel.
    """
    _refuse(device)
    recipe, console = source.load(path), Console(highlight=False)
    with opened(out or HOME / recipe.name, recipe) as work:
        try:
            with terminable():
                config = _done(work) if work.done else _run(path, work, console, device)
        except KeyboardInterrupt:
            console.print("interrupted: what is done is kept, the same command goes on", style="yellow")
            return INTERRUPTED
        console.print(card.summary(config), soft_wrap=True)
        console.print(f"in {os.path.relpath(work.path)}, described in {card.NAME}", soft_wrap=True)
    return OK


def _done(work: Work) -> Mapping[str, Any]:
    """What was found before. Raises BadModel if the folder was changed since."""
    prepared = read(work.path)
    prepared.verify()
    return prepared.config


def _run(path: Path, work: Work, console: Console, device: str) -> Mapping[str, Any]:
    """Raises TopologyError with line and key, StoreError."""
    try:
        return Preparation(work, Progress(console), device).run()
    except (BadInputs, BadModel) as error:
        document = yamlfile.read(path, WHAT)
        key = "data" if isinstance(error, BadInputs) else "model"
        said = document.value[key]
        document.problem((key,), str(error).removeprefix(f"data {work.recipe.data!r}: "), said)
        raise TopologyError(document.problems) from None
    except torch.OutOfMemoryError as error:
        why = f"--device {device}: out of memory ({str(error).splitlines()[0]})"
        raise BadModel(f"{why}; in a training, give it a smaller batch and another --out") from None
    except (OSError, SafetensorError) as error:
        why = f"{work.path}: cannot be written ({error}); what is done is kept, the same command goes on"
        raise StoreError(why) from None


def _refuse(device: str) -> None:
    """Raises BadModel for a device of torch that is not here."""
    if device not in DEVICES:
        raise BadModel(f"--device {device}: there are {' and '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadModel("--device cuda: torch finds no CUDA device here; give --device cpu")
