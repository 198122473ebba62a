"""What control costs beside the links: memory of the Ray nodes, and bytes on the management network."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed.processes import table

SENT, RECEIVED = 8, 0  # columns of /proc/net/dev behind the name


class Meter:
    """Reads once when it is made, before there are devices, and once at the end.

    leaders: the first process of every Ray node by host, the head's as "control"; data: each host's data interfaces.
    """

    def __init__(self, leaders: Mapping[str, int], data: Mapping[str, Collection[str]]) -> None:
        self._nodes = len(leaders)
        self._hosts = [(leaders[name], interfaces) for name, interfaces in data.items()]
        self._memory_bytes = memory_bytes(leaders.values())
        self._began, self._bytes = time.monotonic(), management_bytes(self._hosts)

    def row(self) -> dict[str, Any]:
        """{"nodes", "memory_bytes", "bytes_per_s"}: of all nodes together; None for what the machine does not tell."""
        seconds, now = time.monotonic() - self._began, management_bytes(self._hosts)
        rate = None if now is None or self._bytes is None else (now - self._bytes) / seconds
        return {"nodes": self._nodes, "memory_bytes": self._memory_bytes, "bytes_per_s": rate}


def memory_bytes(leaders: Iterable[int]) -> int | None:
    """Proportional share of memory (PSS) of these processes and all that descend from them; None if it is not told."""
    found, processes = set(leaders), table().values()
    while more := {process.pid for process in processes if process.parent in found} - found:
        found |= more
    shares = [share for pid in found if (share := _pss_bytes(pid)) is not None]
    return sum(shares) if shares else None


def management_bytes(pids: Iterable[tuple[int, Collection[str]]]) -> int | None:
    """Bytes that hosts have sent and received beside the links. pids: a process of each host, and its data interfaces.

    None where a host has no interfaces of its own or its process is gone. The loopback is no network.
    """
    total = 0
    for pid, data in pids:
        counters = _interfaces(pid)
        if not data or counters is None:
            return None
        own = [columns for name, columns in counters.items() if name not in {"lo", *data}]
        total += sum(columns[SENT] + columns[RECEIVED] for columns in own)
    return total


def _pss_bytes(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # ended since, or a kernel without it
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), None)


def _interfaces(pid: int) -> dict[str, list[int]] | None:
    """Counters of the interfaces in the namespace of a process."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return None
    return {name.strip(): [int(word) for word in rest.split()] for name, _, rest in (s.partition(":") for s in lines)}
