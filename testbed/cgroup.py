"""One cgroup per host: its CPU share, its memory limit, and the list of its processes. Versions 1 and 2, by probing."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.hosts import HostError
from testbed.processes import look

PERIOD_US = 10_000  # the kernel's default of 100 ms lets a device stall that long, many times the time of a layer
LEAST_QUOTA_US = 1000  # less is refused by the kernel
REMOVE_S = 5.0
# The first act of a process that is to be in a cgroup, so that all it starts is there too. "0" stands for the writer.
ENTER = "import os,sys\nfor f in sys.argv[1].split(':'):\n open(f,'w').write('0')\nos.execvp(sys.argv[2],sys.argv[2:])"


@dataclass(frozen=True)
class Hierarchy:
    """Where cgroups are made. tracks: the tree that lists processes; cpu, memory: trees with that controller.

    real_time: a tree that lists processes and lets them be real-time; the cpu tree of version 1 does not.
    """

    version: int
    tracks: Path
    cpu: Path | None
    memory: Path | None
    real_time: Path | None = None

    @property
    def for_real_time(self) -> Hierarchy:
        """The same, for groups without a limit whose processes are to be real-time."""
        return replace(self, tracks=self.real_time or self.tracks)


def find(mounts: Path = Path("/proc/self/mounts")) -> Hierarchy:
    """The machine's hierarchy, the one that holds the cpu controller if any. Raises HostError if there is none."""
    first: dict[str, Path] = {}
    unified: Path | None = None
    for line in mounts.read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup":
            for option in options.split(","):
                first.setdefault(option, Path(place))
        elif kind == "cgroup2" and unified is None:
            unified = Path(place)
    if "cpu" in first:
        other = next((place for place in first.values() if place != first["cpu"]), None)
        return Hierarchy(1, first["cpu"], first["cpu"], first.get("memory"), first.get("pids", other))
    if unified is None:
        raise HostError("cgroups: none mounted, neither version 1 with the cpu controller nor version 2")
    able = (unified / "cgroup.controllers").read_text().split()
    cpu, memory = (unified if controller in able else None for controller in ("cpu", "memory"))
    return Hierarchy(2, unified, cpu, memory, unified)


@dataclass(frozen=True)
class Group:
    """A cgroup of one host or purpose, in every tree that it needs."""

    hierarchy: Hierarchy
    path: str  # below each tree, e.g. "testbed-3f9a12cd/host-h1"
    cpu: float | None = None
    memory_bytes: int | None = None

    def folders(self) -> list[Path]:
        """Its folder in each tree; the first one lists its processes."""
        trees = [self.hierarchy.tracks]
        if self.memory_bytes is not None and self.hierarchy.memory not in (None, self.hierarchy.tracks):
            trees.append(self.hierarchy.memory)
        return [tree / self.path for tree in trees]

    def make(self) -> None:
        """Create it, CPU share lifted, memory limited. Raises HostError where the machine cannot."""
        for wanted, tree, word in (
            (self.cpu, self.hierarchy.cpu, "cpu"),
            (self.memory_bytes, self.hierarchy.memory, "memory"),
        ):
            if wanted is not None and tree is None:
                raise HostError(f"{self.path}: this machine has no cgroup controller for {word}, leave {word} out")
        for folder in self.folders():
            try:
                folder.parent.mkdir(exist_ok=True)
                if self.hierarchy.version == 2:
                    self._delegate(folder.parent)
                folder.mkdir()
            except OSError as error:
                raise HostError(f"cgroup {folder}: {error.strerror}") from error
        if self.memory_bytes is not None:
            self._limit_memory(str(self.memory_bytes))

    def _limit_memory(self, size: str) -> None:
        """Swap counts, too: a device that is over its memory is to fail, not to become slow."""
        folder = self.folders()[-1]
        if self.hierarchy.version == 2:
            _write(folder / "memory.max", size)
            swap, most = folder / "memory.swap.max", "0"
        else:
            _write(folder / "memory.limit_in_bytes", size)
            swap, most = folder / "memory.memsw.limit_in_bytes", size  # of both together
        if swap.exists():
            _write(swap, most)

    def _delegate(self, parent: Path) -> None:
        """Version 2: a child has a controller if every level above says so. Not taken back: others may use it."""
        wanted = [word for word, value in (("cpu", self.cpu), ("memory", self.memory_bytes)) if value is not None]
        for level in (parent.parent, parent):
            file = level / "cgroup.subtree_control"
            for word in wanted:
                if word not in file.read_text().split():
                    _write(file, f"+{word}")

    def entrance(self) -> str:
        """The argument of ENTER: files in which a process writes 0 to become a member."""
        return ":".join(str(folder / "cgroup.procs") for folder in self.folders())

    def limit(self, on: bool) -> None:
        """Apply or lift the CPU share; nothing to do without one. Raises HostError."""
        if self.cpu is None:
            return
        period_us = max(PERIOD_US, math.ceil(LEAST_QUOTA_US / self.cpu))
        quota_us = max(LEAST_QUOTA_US, round(self.cpu * period_us))
        folder = self.folders()[0]
        if self.hierarchy.version == 2:
            _write(folder / "cpu.max", f"{quota_us if on else 'max'} {period_us}")
        else:
            _write(folder / "cpu.cfs_period_us", str(period_us))
            _write(folder / "cpu.cfs_quota_us", str(quota_us if on else -1))

    def throttled_s(self) -> float | None:
        """Seconds that its threads were held back, from cpu.stat; None without a share. Raises HostError."""
        if self.cpu is None:
            return None
        values = _table(self.folders()[0] / "cpu.stat")
        if self.hierarchy.version == 2:
            return int(values.get("throttled_usec", 0)) / 1e6
        return int(values["throttled_time"]) / 1e9

    def killed_for_memory(self) -> int:
        """How many of its processes were killed for being over its memory; 0 without a limit. Raises HostError."""
        if self.memory_bytes is None:
            return 0
        file = "memory.events" if self.hierarchy.version == 2 else "memory.oom_control"
        return int(_table(self.folders()[-1] / file).get("oom_kill", 0))


_PROBE = "testbed-probe-"


def forget_probes() -> list[str]:
    """Remove what a `why_not` left that was killed in the middle; returns what was there, a line each."""
    try:
        hierarchy = find()
    except HostError:
        return []
    trees = {tree for tree in (hierarchy.tracks, hierarchy.cpu, hierarchy.memory) if tree and os.access(tree, os.W_OK)}
    left = [place for tree in trees for place in tree.glob(f"{_PROBE}*")]
    dead = [place for place in left if (pid := place.name.removeprefix(_PROBE)).isdigit() and look(int(pid)) is None]
    return [f"cgroup {place}" for place in dead if remove(place)]


def why_not(hierarchy: Hierarchy, tree: Path, controller: str | None = None) -> str | None:
    """None if cgroups can be made in `tree` and, version 2, be given `controller`; else what the kernel said.

    Found by doing it: in a container a tree may look writable and refuse. Leaves nothing behind but the controller,
    which is not taken back: another run may use it by now. Needs root.
    """
    scratch = tree / f"{_PROBE}{os.getpid()}"
    try:
        scratch.mkdir()
    except OSError as error:
        return f"{scratch}: {error.strerror}"
    try:
        switch = tree / "cgroup.subtree_control"
        if controller is not None and hierarchy.version == 2 and controller not in switch.read_text().split():
            _write(switch, f"+{controller}")
    except (OSError, HostError) as error:
        return str(error)
    finally:
        scratch.rmdir()
    return None


def members(folder: Path) -> set[int]:
    """Pids of the running processes in a cgroup and all below it; none if it does not exist."""
    found: set[int] = set()
    for file in [*folder.glob("**/cgroup.procs")]:
        try:
            found |= {int(word) for word in file.read_text().split()}
        except OSError:
            continue  # removed since it was listed
    return {pid for pid in found if look(pid)}


def lift(folder: Path) -> None:
    """Lift the CPU share of a cgroup of either version; nothing to do if it has none. Raises HostError."""
    for name, value in (("cpu.max", "max"), ("cpu.cfs_quota_us", "-1")):
        if (folder / name).exists():
            _write(folder / name, value)


def remove(folder: Path) -> bool:
    """Remove a cgroup and all below it, and end what may still be in there. False if there was none.

    Raises HostError if it stays.
    """
    if not folder.is_dir():
        return False
    below = sorted((path for path in folder.glob("**/") if path != folder), key=lambda path: -len(path.parts))
    deadline = time.monotonic() + REMOVE_S
    for path in [*below, folder]:
        while True:
            try:
                path.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:  # busy for a moment after its last process ended
                if time.monotonic() > deadline:
                    raise HostError(f"cgroup {path}: {error.strerror}") from error
                # One that was being started when its run was killed may have become a member only now.
                for pid in members(path) - {os.getpid()}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
            else:
                break
    return True


def _table(file: Path) -> dict[str, str]:
    """A file of lines `name value`. Raises HostError."""
    try:
        return dict(line.split() for line in file.read_text().splitlines())
    except OSError as error:
        raise HostError(f"cgroup {file}: {error.strerror}") from error


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise HostError(f"cgroup {file} = {value}: {error.strerror}") from error
