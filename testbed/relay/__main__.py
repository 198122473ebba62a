"""`python -m testbed.relay PLAN.json`: make the TAP devices, say on the socket that they are there, carry frames.

It ends, and the devices with it, when the first connection to its socket closes or on SIGTERM. Exit status 1 with one
line on stderr when it cannot start. Standard library only, so that it is there in a few hundredths of a second.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed import awake
from testbed.relay import plan, tap
from testbed.relay.control import Control
from testbed.relay.line import Line, Medium
from testbed.relay.loop import Loop, Way

PRIORITY = 10
_MCL_CURRENT_AND_FUTURE = 3


def main(path: str) -> int:
    """Carry out a plan until the first connection closes."""
    found = json.loads(Path(path).read_text())
    try:
        files = {end["tap"]: tap.create(end["tap"]) for cable in found["cables"] for end in (cable["a"], cable["b"])}
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Its folder belongs to the run, but a socket's own permissions count as well.
        os.umask(0o077)
        server.bind(found["socket"])
    except OSError as error:
        print(f"{error.filename or found['socket']}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    loop = Loop(ways(found, files))
    names = {way.name: name for name, file in files.items() for start, way in loop.ways.items() if start == file}
    drops = {direction: tap.Drops(name, files[name]) for direction, name in names.items()}
    warnings = [why for why in map(_unless, (_real_time, _stay_in_memory, awake.hold)) if why]
    control = Control(loop, server, drops, warnings)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing made from here on refers to itself
    server.listen()
    loop.carry()
    del control
    return 0


def ways(found: dict[str, Any], files: dict[str, int]) -> dict[int, Way]:
    """The file that frames come from -> where they go, for both directions of every cable of a plan."""
    media: dict[str, Medium] = {}
    made = {}
    for index, cable in enumerate(found["cables"]):
        for number, lane, near, far in ((0, "up", "a", "b"), (1, "down", "b", "a")):
            sender, receiver, shared = cable[near], cable[far], cable["medium"]
            medium = None
            if shared and shared["node"] == receiver["node"]:
                medium = media.setdefault(shared["name"], Medium())
            line = Line(plan.decode(cable[lane]), found["seed"] + 2 * index + number, medium)
            name = f"{sender['node']} -> {receiver['node']}"
            made[files[sender["tap"]]] = Way(name, line, files[receiver["tap"]])
    return made


def _real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))


def _stay_in_memory() -> None:
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _unless(done: Callable[[], object]) -> str | None:
    """None if it could be done, else what follows from that."""
    what: dict[Callable[[], object], str] = {
        _real_time: "real-time priority was refused: whatever else runs makes frames late",
        _stay_in_memory: "its memory was not locked: frames are late whenever the machine swaps",
        awake.hold: awake.WITHOUT,
    }
    try:
        done()
    except OSError as error:
        return f"{what[done]} ({error.strerror})"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
