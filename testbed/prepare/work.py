"""The folder of one preparation while it is made: what is done is kept, so that a kill costs little.

recipe.yaml   the recipe, every default written out; it is there from the moment that its data could be read
original/ model/ codebooks.safetensors held_out.safetensors card.md config.json   as they come; config.json is the last
.work/        what is needed to go on: the converted model, checkpoints, state.json; removed at the end
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.families.source import CONFIG, RECIPE
from testbed import disk, store
from testbed.prepare.recipe import Recipe, differing, dump, kept
from testbed.store import StoreError
from testbed.topology import TopologyError

SCRATCH, STATE, LOCK = ".work", "state.json", "lock"
TICK_S = 5.0


class Work:
    """An open one. seconds: by stage; measured: figures by name; starts: how often it was gone on with; data: digest of
    what it was begun with."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.scratch, self.recipe = path, path / SCRATCH, recipe
        state = self._state()
        self.seconds: dict[str, float] = state.get("seconds", {})
        self.measured: dict[str, Any] = state.get("measured", {})
        self.starts: int = state.get("starts", 0) + 1
        self.data: str | None = state.get("data")
        self._clock, self._saved = ("", 0.0, 0.0), 0.0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.path / CONFIG).exists()

    def accept(self, data: str) -> None:
        """The recipe can be used: the folder is its own from now on. data: their digest, which must be the same when it
        is gone on with. Raises StoreError."""
        begun = (self.path / RECIPE).exists()
        if begun and self.data != data:  # also where an earlier version did not keep it
            raise StoreError(f"{self.path}: its data have changed since it was begun: name another folder with --out")
        if not begun:
            self.data = data
            self.save()
            self.write(self.path / RECIPE, dump(self.recipe))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time spent here counts for the stage, also in a process that is killed (see `tick`)."""
        self._clock = stage, time.monotonic(), self.seconds.get(stage, 0.0)
        try:
            yield
        finally:
            self._count()

    def tick(self) -> None:
        """To be called now and then inside `timed`."""
        if time.monotonic() - self._saved >= TICK_S:
            self._count()

    def _count(self) -> None:
        stage, began, before = self._clock
        self.seconds[stage] = before + time.monotonic() - began
        self._saved = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write what is known so far. Raises StoreError."""
        state = {"seconds": self.seconds, "measured": self.measured, "starts": self.starts, "data": self.data}
        self.write(self.scratch / STATE, json.dumps(state))

    def _state(self) -> dict[str, Any]:
        path = self.scratch / STATE
        if not path.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read as JSON ({error}): remove {self.scratch} to begin anew") from None
        return found

    def write(self, path: Path, text: str) -> None:
        """Replace a file; readers see the old or the new one, after a crash too. Raises StoreError."""
        try:
            disk.replace(path, text)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None

    def put(self, fresh: Path, name: str) -> Path:
        """Move what was made in the scratch folder to its place, whole."""
        target = self.path / name
        try:
            os.rename(fresh, target)
            disk.sync_folder(self.path)
        except OSError as error:
            raise StoreError(f"{target}: cannot be written: {error.strerror}") from None
        return target

    def finish(self, config: Mapping[str, Any]) -> None:
        """Write config.json: nothing is left to do."""
        self.write(self.path / CONFIG, json.dumps(store.finite(config), indent=1, allow_nan=False) + "\n")


@contextmanager
def opened(path: Path, recipe: Recipe) -> Iterator[Work]:
    """The folder at `path` for this recipe alone, made if it is missing. Raises StoreError."""
    _refuse_foreign(path, recipe)
    scratch = path / SCRATCH
    try:
        disk.make_folders(scratch)
    except OSError as error:
        raise StoreError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
    with _alone(path):
        if not (path / RECIPE).exists():
            _empty(scratch)
        try:
            yield Work(path.resolve(), recipe)
        finally:
            for made in path.rglob("*"):
                disk.give(made)
            if (path / CONFIG).exists() or not (path / RECIPE).exists():
                shutil.rmtree(scratch)
            with suppress(OSError):
                path.rmdir()  # nothing came of it, and nothing else is there


def _refuse_foreign(path: Path, recipe: Recipe) -> None:
    """Nothing of others is touched: not a folder of something else, nor one of another recipe."""
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path}: exists and is not a folder; name another one with --out")
    if not (path / RECIPE).exists():
        if any(entry.name != SCRATCH for entry in path.iterdir()):
            raise StoreError(f"{path}: exists and is not a folder of testbed prepare; name another one with --out")
        return
    try:
        other = kept(path / RECIPE)
    except TopologyError as error:
        raise StoreError(f"{path}: its recipe cannot be read: {error.problems[0]}; name another with --out") from None
    if keys := differing(other, recipe):
        raise StoreError(f"{path}: holds another recipe ({', '.join(keys)} differ); name another folder with --out")


def _empty(scratch: Path) -> None:
    """Away with what was begun for a recipe that could not be used."""
    for entry in scratch.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The lock of the folder; the kernel lets go of it when this process ends in any way. Raises StoreError."""
    with (path / SCRATCH / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(f"{path}: another process ({file.read().strip()}) prepares it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
