"""The other end of the relay's control socket: starts it, changes lanes, asks for counters and lateness."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from testbed.hosts import HostError
from testbed.relay import plan
from testbed.topology import Lane, Link, Switch

LIMIT_S = 10.0
_POLL_S = 0.01
_END_S = 1.0


def write_plan(
    path: Path, socket: Path, seed: int, cables: Sequence[tuple[Link, str, str]], switches: Iterable[Switch]
) -> list[str]:
    """Write the relay's plan to `path`; returns the command line of the process that carries it out.

    cables: (link, TAP at link.a, TAP at link.b) for every link, in the order of the file. `socket`: where it will
    listen, at most 107 bytes. Raises HostError.
    """
    try:
        path.write_text(json.dumps(plan.plan(str(socket), seed, cables, switches), allow_nan=False))
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    # Not with the working folder in front of the standard library: whatever lies there would run as root.
    return [sys.executable, "-P", "-m", "testbed.relay", str(path)]


class Relay:
    """A connection to a relay that runs: all its TAP devices exist. The relay ends when its first connection closes.

    warnings: what the relay could not do and goes on without, one line each. May be used by several threads.
    """

    def __init__(self, path: Path, process: Popen[bytes], log: Path) -> None:
        """Connect to the relay at `path`. process, log: of the relay, to say why it ended. Raises HostError."""
        self._process, self._log, self._lock = process, log, threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(LIMIT_S)
        try:
            self._connect(path)
            self._lines = self._socket.makefile("rb")
            self._failed: HostError | None = None
            self.warnings: tuple[str, ...] = tuple(self._ask("warnings"))
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: Path) -> None:
        until_s = time.monotonic() + LIMIT_S
        while True:
            try:
                return self._socket.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if self._process.poll() is not None:
                    raise self._ended() from error
                if time.monotonic() > until_s:
                    raise HostError(f"the relay process did not start within {LIMIT_S:g} s") from error
                time.sleep(_POLL_S)
            except OSError as error:
                raise HostError(f"{path}: {error}") from error

    def change(self, direction: str, lane: Lane | None) -> None:
        """From now on the direction "h1 -> s1" is as `lane` says (its trace is not looked at); None: carries nothing.

        Raises HostError, also for a direction that the relay does not have.
        """
        self._ask("change", direction=direction, lane=None if lane is None else plan.encode(lane))

    def counters(self) -> dict[str, dict[str, int]]:
        """Direction -> frames, bytes, queue_drops, lost, overruns since the start. Raises HostError."""
        found: dict[str, dict[str, int]] = self._ask("counters")
        return found

    def lateness(self) -> dict[str, Any]:
        """frames, median_s, p99_s, most_s, cpu_s, waited_s since last asked. Raises HostError."""
        found: dict[str, Any] = self._ask("lateness")
        return found

    def close(self) -> None:
        """Close the connection; if it was the first, the relay ends, and its TAP devices with it."""
        self._lines.close()
        self._socket.close()

    def _ask(self, do: str, **words: Any) -> Any:
        with self._lock:
            if self._failed is not None:  # a late answer would be taken for that of another question
                raise HostError(str(self._failed))
            try:
                self._socket.sendall(json.dumps({"do": do, **words}).encode() + b"\n")
                line = self._lines.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionError("it closed the connection")
            except (OSError, ValueError) as error:
                self._failed = self._why(error)
                raise self._failed from error
        answer = json.loads(line)
        if "error" in answer:
            raise HostError(f"relay: {answer['error']}")
        return answer["is"]

    def _why(self, error: Exception) -> HostError:
        if isinstance(error, TimeoutError) and self._process.poll() is None:
            return HostError(f"the relay process did not answer within {LIMIT_S:g} s")
        try:
            self._process.wait(_END_S)  # its files are closed a moment before it has ended
        except TimeoutExpired:
            return HostError(f"the relay process cannot be asked any more: {error}")
        return self._ended()

    def _ended(self) -> HostError:
        try:
            said = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            said = ""
        return HostError(f"the relay process ended: {said or 'it said nothing'}")
