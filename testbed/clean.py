"""Take down what a ledger names, and only that: at the end of every run, and for runs that were killed.

`python -m testbed.clean` prints what it removed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from testbed import cgroup, processes
from testbed.hosts import HostError
from testbed.ledger import Entry, Ledger, forget_drafts, stale


def scratch(run_id: str) -> Path:
    """The scratch folder of a run: short, since socket paths end at 107 bytes and Ray adds 62 of its own."""
    place = Path(tempfile.gettempdir())
    return (place if len(str(place)) <= 24 else Path("/tmp")) / f"tb-{run_id}"


def prefix(run_id: str) -> str:
    """How the names of a run's interfaces and bridges start: they may have 15 characters in all."""
    return f"tb{run_id[:5]}"


def clean() -> list[str]:
    """Undo every run of this user whose process is dead; returns what was removed, a line each.

    Live runs are left alone. Raises HostError for what could not be removed; its ledger then stays for the next time.
    """
    removed, failures = [], []
    try:
        removed += cgroup.forget_probes()
    except HostError as error:
        failures.append(str(error))
    forget_drafts()
    for ledger in stale():
        try:
            removed += undo(ledger)
        except HostError as error:
            failures.append(str(error))
    if failures:
        raise HostError("; ".join([*failures, *(f"removed {line}" for line in removed)]))
    return removed


def undo(ledger: Ledger) -> list[str]:
    """Remove all that a ledger names, processes first, and the ledger; returns what was there, a line each.

    Goes on after a failure, then raises HostError with all of them; the ledger then stays.
    """
    entries, failures, removed = ledger.entries(), [], []
    for entry in entries:
        if not _ours(entry, ledger.run_id):
            raise HostError(
                f"{ledger.path}: {entry.kind} {entry.name} is not of run {ledger.run_id}: nothing was touched; "
                "look at the file, then delete it"
            )
    # A throttled process takes its time to end, so shares are lifted first.
    steps: list[Callable[[], list[str]]] = [partial(_lift, entry) for entry in entries if entry.kind == "cgroup"]
    steps += [partial(_end, ledger, entries), *(partial(_remove, entry) for entry in reversed(entries))]
    with undisturbed():
        for step in steps:
            try:
                removed += step()
            except (HostError, OSError) as error:
                failures.append(str(error))
        if failures:
            raise HostError(f"run {ledger.run_id} not wholly removed: {'; '.join(failures)}")
        ledger.close()
    return removed


def _ours(entry: Entry, run_id: str) -> bool:
    """A damaged ledger must not make us remove what is not the run's."""
    if entry.kind in ("bridge", "ovs", "interface"):
        return re.fullmatch(prefix(run_id) + r"[a-z0-9-]{1,8}", entry.name) is not None
    if entry.kind == "cgroup":
        parts = Path(entry.name).parts
        return f"testbed-{run_id}" in parts[-2:] and ".." not in parts
    if entry.kind == "directory":
        return Path(entry.name).name == f"tb-{run_id}"
    return entry.name.isdigit() and entry.start is not None


def _lift(entry: Entry) -> list[str]:
    cgroup.lift(Path(entry.name))
    return []


def _end(ledger: Ledger, entries: list[Entry]) -> list[str]:
    if not ledger.same_boot():
        return []
    groups = [Path(entry.name) for entry in entries if entry.kind == "cgroup"]
    leaders = {int(entry.name): entry.start or 0 for entry in entries if entry.kind == "process"}

    def find() -> set[int]:
        found = processes.family(ledger.run_id, leaders) if leaders or not groups else set()
        return found.union(*(cgroup.members(group) for group in groups)) - {os.getpid()}

    count = processes.end(find)
    return [f"{count} processes of run {ledger.run_id}"] if count else []


def _remove(entry: Entry) -> list[str]:
    if entry.kind == "cgroup":
        there = cgroup.remove(Path(entry.name))
    elif entry.kind == "directory":
        there = _remove_directory(Path(entry.name))
    elif entry.kind == "ovs":
        there = _remove_ovs(entry.name)
    elif entry.kind in ("bridge", "interface"):
        there = _remove_interface(entry.name)
    else:
        return []
    return [f"{entry.kind} {entry.name}"] if there else []


def _remove_interface(name: str) -> bool:
    if not Path("/sys/class/net", name).exists():
        return False
    try:
        processes.checked(["ip", "link", "delete", "dev", name])
    except HostError:
        # The kernel removes a cable by itself when the namespace at its other end goes: that may just have happened.
        if Path("/sys/class/net", name).exists():
            raise
    return True


def _remove_ovs(name: str) -> bool:
    there = name in processes.checked(["ovs-vsctl", "--timeout=10", "list-br"]).stdout.split()
    processes.checked(["ovs-vsctl", "--timeout=10", "--if-exists", "del-br", name])
    return there


def _remove_directory(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise HostError(f"{path}: not a folder of ours: not touched")
    shutil.rmtree(path)
    return True


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while things are taken down; a held one is delivered afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in held[:1]:
            signal.raise_signal(first)


if __name__ == "__main__":
    from testbed.cli import main

    main(["clean", *sys.argv[1:]])
