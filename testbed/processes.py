"""Find and end the processes of a run, and only those: by session, descent, mark or cgroup, never by name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.hosts import HostError

MARK = "TESTBED_RUN"  # environment variable that holds the run id in every process of a run
GRACE_S = 0.5  # Ray's head ignores SIGTERM for more than 30 s: waiting longer buys nothing
LIMIT_S = 15.0
POLL_S = 0.01


@dataclass(frozen=True)
class Process:
    """One line of the process table. start: clock ticks after boot, which with the pid names a process for good."""

    pid: int
    parent: int
    session: int
    start: int


def look(pid: int) -> Process | None:
    """The process `pid` if it runs; None if it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in brackets may hold blanks and brackets itself: fields are counted from the last bracket.
    field = text[text.rindex(")") + 2 :].split()
    if field[0] in "ZX":
        return None
    return Process(pid, int(field[1]), int(field[3]), int(field[19]))


def table() -> dict[int, Process]:
    """All running processes by pid."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process}


def marked(pid: int, run_id: str) -> bool:
    """Whether the process was started with the run's mark. False where we may not look or the process overwrote it."""
    try:
        return f"{MARK}={run_id}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def family(run_id: str, leaders: Mapping[int, int]) -> set[int]:
    """Pids of a run's processes: marked ones, sessions led by `leaders` (pid -> start), and all that descend from them.

    Three signs, because Ray's daemons outlive their parents, its workers change group, and titles overwrite the mark.
    """
    processes = table()
    sessions = {pid for pid, start in leaders.items() if pid not in processes or processes[pid].start == start}
    found = {p.pid for p in processes.values() if p.session in sessions or marked(p.pid, run_id)}
    grown = True
    while grown:
        more = {p.pid for p in processes.values() if p.parent in found} - found
        found |= more
        grown = bool(more)
    return found - _own_line(processes)


def _own_line(processes: Mapping[int, Process]) -> set[int]:
    line, pid = set(), os.getpid()
    while pid in processes and pid not in line:
        line.add(pid)
        pid = processes[pid].parent
    return line


def end(find: Callable[[], set[int]]) -> int:
    """SIGTERM, then SIGKILL, whatever `find` returns, until it returns nothing. Returns how many there were at first.

    Raises HostError if some are left after LIMIT_S.
    """
    pids = first = find()
    started = time.monotonic()
    _signal(pids, signal.SIGTERM)
    while pids := find():
        waited_s = time.monotonic() - started
        if waited_s > LIMIT_S:
            raise HostError(f"processes {sorted(pids)} do not end")
        if waited_s > GRACE_S:
            _signal(pids, signal.SIGKILL)
        time.sleep(POLL_S)
    return len(first)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it ended by itself


def checked(argv: Sequence[str], timeout_s: float = 30.0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, text captured. Raises HostError, one line with the command and what it said."""
    shown = " ".join(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{shown}: not done after {timeout_s:g} s") from error
    except OSError as error:
        raise HostError(f"{shown}: {error.strerror or error}") from error
    if done.returncode:
        said = "; ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise HostError(f"{shown}: ended with {done.returncode}: {said or 'said nothing'}")
    return done


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None, run_id: str) -> subprocess.Popen[bytes]:
    """Start a marked process in a session of its own, output appended to `log`. Raises HostError if it cannot."""
    environment = {**(os.environ if env is None else env), MARK: run_id}
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
    except OSError as error:
        raise HostError(f"{' '.join(argv)}: {error.strerror or error}") from error
