"""What a run is about to create, on disk before it exists, so that a run that was killed can be undone exactly.

One file per run, a JSON object per line, the first one naming the process that owns the run.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.hosts import HostError
from testbed.processes import look

KINDS = ("directory", "cgroup", "bridge", "ovs", "interface", "process")
RUN_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """One thing. kind: one of KINDS; name: a path, an interface or a pid; start: of a process, as in processes.look."""

    kind: str
    name: str
    start: int | None = None


def folder() -> Path:
    """The folder of all ledgers of this user; made if need be. Raises HostError if someone else could write in it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0:
        place = Path("/run/testbed")
    elif runtime and os.access(runtime, os.W_OK):
        place = Path(runtime) / "testbed"
    else:
        place = Path(f"/tmp/testbed-{os.geteuid()}")
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise HostError(f"{place}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise HostError(f"{place}: must be a folder of yours that nobody else can write in")
    return place


def boot_id() -> str:
    """Names the time since the last boot: pids of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Ledger:
    """The ledger of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.stem

    @classmethod
    def create(cls, run_id: str) -> Ledger:
        """A new ledger, owned by this process. Raises HostError on a bad run id or one in use."""
        if not RUN_ID.fullmatch(run_id):
            raise HostError(f"run id {run_id!r}: eight of 0-9a-f")
        path = folder() / f"{run_id}.jsonl"
        myself = look(os.getpid())
        owner = {"owner": os.getpid(), "start": myself.start if myself else 0, "boot": boot_id()}
        # Written aside and linked into place: whoever lists the folder never sees a ledger without its owner.
        draft = path.with_suffix(f".{os.getpid()}")  # whose it is: `forget_drafts` looks for those of the dead
        try:
            with draft.open("x") as file:
                file.write(json.dumps(owner) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError as error:
            raise HostError(f"run id {run_id} is in use: {path}") from error
        finally:
            draft.unlink(missing_ok=True)
        return cls(path)

    def add(self, kind: str, name: str, start: int | None = None) -> None:
        """Append one thing; on disk when this returns. Call it before the thing is created."""
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "name": name, "start": start}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[Entry]:
        """Everything noted so far. A torn last line is left out: what it named was never created.

        Raises HostError on a line that names a kind of thing, but not which.
        """
        found = []
        for row in self._rows():
            if row.get("kind") in KINDS:
                name, start = row.get("name"), row.get("start")
                if not isinstance(name, str) or not isinstance(start, int | None):
                    damaged = f"{self.path}: damaged at {json.dumps(row)}"
                    raise HostError(f"{damaged}: nothing was touched; look at the file, then delete it")
                found.append(Entry(row["kind"], name, start))
        return found

    def same_boot(self) -> bool:
        """Whether the machine has not been started anew since: else its processes are gone whatever their pids say."""
        return any(row.get("boot") == boot_id() for row in self._rows())

    def owner_lives(self) -> bool:
        """Whether the process that owns the run still runs."""
        owner = next((row for row in self._rows() if "owner" in row), None)
        if owner is None or not self.same_boot():
            return False
        if not isinstance(owner["owner"], int):
            return False  # damaged
        found = look(owner["owner"])
        return found is not None and found.start == owner.get("start")

    def close(self) -> None:
        """Everything is undone: forget it."""
        self.path.unlink(missing_ok=True)

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows


def forget_drafts() -> None:
    """Remove what `Ledger.create` left that was killed in the middle: nothing of that run exists."""
    for path in folder().iterdir():
        pid = path.suffix[1:]
        if RUN_ID.fullmatch(path.stem) and pid.isdigit() and look(int(pid)) is None:
            path.unlink(missing_ok=True)


def stale() -> list[Ledger]:
    """Ledgers of this user whose run is dead, oldest name first."""
    found = [Ledger(path) for path in sorted(folder().glob("*.jsonl")) if RUN_ID.fullmatch(path.stem)]
    return [ledger for ledger in found if not ledger.owner_lives()]
