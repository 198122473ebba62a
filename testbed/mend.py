"""What `testbed doctor --fix` does: every finding that a command can mend is offered, one by one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

_LIMIT_S = 600.0  # a package may have to be fetched


class Ill(Protocol):
    """A finding, as far as it matters here."""

    @property
    def line(self) -> str:
        """For people."""

    @property
    def mend(self) -> tuple[str, ...]:
        """The command that mends it; () if none does."""


def fix(findings: Sequence[Ill], yes: bool = False, say: Callable[[str], object] = print) -> int:
    """Offer to mend each finding that has a command; returns how many commands were run.

    yes: run them all. Else each is asked for if somebody is there to answer, and only listed if not.
    """
    done: set[tuple[str, ...]] = set()
    offered = list({finding.mend: finding for finding in findings if finding.mend}.values())
    if not offered:
        say("nothing here that a command could mend")
    for finding in offered:
        say(f"{finding.line}\n    {shlex.join(finding.mend)}")
        if yes or (sys.stdin.isatty() and _agreed()):
            done.add(finding.mend)
            say(f"    {_run(finding.mend)}")
    if offered and not yes and not sys.stdin.isatty():
        say("nobody to ask: nothing was done; --yes runs all of these commands")
    return len(done)


def _agreed() -> bool:
    try:
        return input("    run this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _run(argv: tuple[str, ...]) -> str:
    """What came of it, one line."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "done" if done.returncode == 0 else f"failed: {said[-1] if said else f'ended with {done.returncode}'}"
