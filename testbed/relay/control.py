"""What the relay answers on its socket, a JSON object a line: `{"do": ...}` to `{"is": ...}` or `{"error": ...}`."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Generator
from typing import Any

from testbed.relay import plan
from testbed.relay.loop import Lateness, Loop
from testbed.relay.tap import Drops

_LONGEST_BYTES = 1 << 16


class Control:
    """Serves any number of connections between frames; when the first of them closes, the loop ends."""

    def __init__(self, loop: Loop, server: socket.socket, drops: dict[str, Drops], warnings: list[str]) -> None:
        """drops: direction -> of the device that its frames come from."""
        self._loop, self._server, self._drops, self._warnings = loop, server, drops, warnings
        self._ways = {way.name: way for way in loop.ways.values()}
        self._first: socket.socket | None = None
        self._cpu_s = time.process_time()
        self._answers: dict[str, Callable[[dict[str, Any]], Generator[None, None, Any]]] = {
            "warnings": self._warned,
            "change": self._change,
            "counters": self._counted,
            "lateness": self._late,
        }
        server.setblocking(False)
        loop.watch(server.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:  # it has gone already
            return
        connection.setblocking(False)  # frames wait for nobody
        self._first = self._first or connection
        pending = bytearray()
        self._loop.watch(connection.fileno(), lambda: self._receive(connection, pending))

    def _receive(self, connection: socket.socket, pending: bytearray) -> None:
        try:
            got = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        pending += got
        if not got or len(pending) > _LONGEST_BYTES:
            self._close(connection)
            return
        while b"\n" in pending:
            line, _, rest = pending.partition(b"\n")
            pending[:] = rest
            self._loop.chores.append(self._answer(connection, bytes(line)))

    def _close(self, connection: socket.socket) -> None:
        if connection.fileno() < 0:  # done before
            return
        self._loop.forget(connection.fileno())
        connection.close()
        if connection is self._first:
            self._loop.running = False

    def _answer(self, connection: socket.socket, line: bytes) -> Generator[None, None, None]:
        """Answer one request, in pieces between which frames are carried."""
        try:
            words = json.loads(line)
            found = {"is": (yield from self._answers[words["do"]](words))}
        except (ValueError, KeyError, TypeError) as error:
            found = {"error": f"not understood: {type(error).__name__} {error}"}
        except OSError as error:
            found = {"error": str(error)}
        answer = json.dumps(found).encode() + b"\n"
        try:
            whole = connection.send(answer) == len(answer)
        except OSError:
            whole = False
        if not whole:  # who does not read, or has gone, gets no more answers
            self._close(connection)

    def _warned(self, _: dict[str, Any]) -> Generator[None, None, list[str]]:
        yield
        return self._warnings

    def _change(self, words: dict[str, Any]) -> Generator[None, None, None]:
        yield
        lane = None if words["lane"] is None else plan.decode(words["lane"])
        self._loop.change(self._ways[words["direction"]], lane)

    def _counted(self, _: dict[str, Any]) -> Generator[None, None, dict[str, dict[str, int]]]:
        found = {}
        for name, way in self._ways.items():
            yield
            found[name] = {
                "frames": way.frames,
                "bytes": way.bytes,
                "queue_drops": way.line.queue_drops,
                "lost": way.line.lost + way.unheard,
                "overruns": way.overruns + self._drops[name].read(),
            }
        return found

    def _late(self, _: dict[str, Any]) -> Generator[None, None, dict[str, float]]:
        late, self._loop.lateness = self._loop.lateness, Lateness()
        waits, self._loop.waits.seen = self._loop.waits.seen, Lateness()
        cpu_s, self._cpu_s = self._cpu_s, time.process_time()
        yield
        found: dict[str, float] = {"frames": late.frames, "most_s": late.most_s, "cpu_s": self._cpu_s - cpu_s}
        for name, fraction in (("median_s", 0.5), ("p99_s", 0.99)):
            yield
            found[name] = late.quantile_s(fraction)
        yield
        found["waited_s"] = waits.quantile_s(0.99)
        return found
