"""One block as a process of its own, `python -m testbed.run`, and what came of it as rows of cells.jsonl.

A run folder gets its name when its process has ended with a whole run; before that it is `.partial`, and thrown away by
whoever finds it. So a sweep may end at any moment.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import disk, processes, store
from testbed.clean import undisturbed
from testbed.sweep import folder as folders
from testbed.sweep.blocks import Block
from testbed.sweep.folder import BLOCKS, PARTIAL, Row, SweepFolder
from testbed.sweep.keys import ROOT
from testbed.topology import dump

MARK = "TESTBED_SWEEP"  # environment variable of a block's processes: the sweep folder
WHOLE = (0, 1, 3, 4)  # exit statuses of a run that was neither refused nor interrupted
ENDING_S = 120.0  # for a run to take its network down
POLL_S = 0.05
DISK_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
LEAST_BYTES = 100_000
_SAVED = "saved in "


@dataclass(frozen=True)
class Outcome:
    """How a block's process ended. run: its folder below the sweep's, None if there is no whole run; said: its last
    words; seconds: None of a run that was found finished."""

    name: str
    run: str | None
    said: str
    seconds: float | None


def run(folder: SweepFolder, block: Block) -> Outcome:
    """Run a block, or find it finished: a sweep was killed before it could write that down.

    Raises StoreError where the disk is full, KeyboardInterrupt with the process ended and nothing left of it.
    """
    name = _name(folder, block)
    home = folder.path / BLOCKS
    target, partial, log = home / name, home / f"{name}{PARTIAL}", home / f"{name}.log"
    if target.is_dir():
        return Outcome(name, f"{BLOCKS}/{name}", _last_words(log), None)
    folders.discard(partial)
    file = folder.write(f"{BLOCKS}/{name}.yaml", dump(block.topology))
    began = time.monotonic()
    try:
        code = _process(folder.path, file, partial, log)
    except KeyboardInterrupt:
        folders.discard(partial)
        raise
    finally:
        file.unlink(missing_ok=True)  # the run folder has it as run.yaml
    said, seconds = _last_words(log), time.monotonic() - began
    if code and (any(words in said for words in DISK_FULL) or _is_full(home)):
        folders.discard(partial)
        why = said or f"{log}: cannot be written: the disk is full"
        raise store.StoreError(f"{why}; finished cells are kept, make room and run it again")
    if code in WHOLE and (partial / store.SUMMARY).is_file():
        _settle(partial, target)
        return Outcome(name, f"{BLOCKS}/{name}", said, seconds)
    folders.discard(partial)
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return Outcome(name, None, said or f"{how}, see {BLOCKS}/{name}.log", seconds)


def rows(folder: SweepFolder, block: Block, outcome: Outcome) -> list[Row]:
    """What cells.jsonl says of a block that ended."""
    summary = _summary(folder.path / outcome.run) if outcome.run else {}
    methods = {method["label"]: method for method in summary.get("methods", [])}
    verdict = summary.get("network", {}).get("verdict")
    common = {"code": folder.about["code"], "run": outcome.run, "network": verdict, "block_s": outcome.seconds}
    found = []
    for cell in block.cells:
        if cell.key in block.wanted:
            result = _result(methods.get(cell.spec.label), outcome)
            found.append({**block.row(cell), "block": outcome.name, **common, **result})
    return found


def end_orphans(folder: SweepFolder) -> int:
    """Ask what a killed sweep left running to end as after Ctrl-C, and wait. How many there were. Raises StoreError."""
    left = [pid for pid in processes.table() if _is_orphan(pid, folder.path)]
    starts = {pid: process.start for pid in left if (process := processes.look(pid))}
    for pid in starts:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + ENDING_S
    while alive := [pid for pid, start in starts.items() if (now := processes.look(pid)) and now.start == start]:
        if time.monotonic() > deadline:
            raise store.StoreError(f"{folder.path}: a run of it (process {alive[0]}) does not end: end it first")
        time.sleep(POLL_S)
    return len(starts)


def discard_partials(folder: SweepFolder) -> int:
    """Throw away the runs that were not finished. How many there were."""
    home = folder.path / BLOCKS
    found = [*home.glob(f"*{PARTIAL}")]
    for path in [*found, *home.glob("*.yaml"), *home.glob(".*.new")]:
        folders.discard(path)
    return len(found)


def _name(folder: SweepFolder, block: Block) -> str:
    """That of the block, or with a number: an earlier result of the same cells is never written over."""
    number, name = 1, block.name
    while name in folder.blocks:
        number += 1
        name = f"{block.name}-{number}"
    return name


def _process(place: Path, file: Path, partial: Path, log: Path) -> int:
    """The exit status of `testbed run FILE --out PARTIAL`. After Ctrl-C it is asked to end, too, and waited for."""
    command = [sys.executable, "-P", "-m", "testbed.run", str(file), "--out", str(partial)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # this code, not another's
    environment = os.environ | {MARK: str(place), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": environment, "process_group": 0}
    process: subprocess.Popen[bytes] | None = None
    try:
        with undisturbed(), log.open("wb") as said:
            disk.give(log)
            process = subprocess.Popen(command, stdout=said, stderr=said, **options)
        return process.wait()
    except OSError as error:
        raise folders.cannot_write(log, error) from None
    except KeyboardInterrupt:
        if process is not None:
            _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C in its own terminal would, and wait until its network is down."""
    with undisturbed():
        process.terminate()
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()  # what it leaves is removed by the next run
            process.wait()


def _settle(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
        disk.sync_folder(target.parent)
    except OSError as error:
        raise folders.cannot_write(target, error) from None


def _is_full(place: Path) -> bool:
    """Whether there is no room on a disk, not even for a run to say so."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize < LEAST_BYTES


def _last_words(log: Path) -> str:
    """The last line of a log that says anything."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _summary(run: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((run / store.SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise store.StoreError(f"{run / store.SUMMARY}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise store.StoreError(f"{run / store.SUMMARY}: expected a JSON object")
    return found


def _result(method: Mapping[str, Any] | None, outcome: Outcome) -> Row:
    """Status, error, median latency and speedup of one cell; method: its entry in the run's summary."""
    said = "" if outcome.said.startswith(_SAVED) else outcome.said
    if method is None:
        return {"status": "failed", "error": said or "the run says nothing of it", "latency_s": None, "speedup": None}
    good = method["status"] == "ok"
    # A run that ended early says why in its last line, its methods only that they had no turn.
    parts = [method.get("error"), said if method["status"] == "skipped" else None]
    return {
        "status": "ok" if good else "failed",
        "error": None if good else ": ".join(filter(None, parts)),
        "latency_s": method["latency_s"]["median"],
        "speedup": method["speedup_over_single"],
    }


def _is_orphan(pid: int, folder: Path) -> bool:
    """Whether a process is the run of a block of this folder: by the mark and by its command, not by one alone."""
    try:
        marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{MARK}={folder}".encode() in marks and b"testbed.run" in command
