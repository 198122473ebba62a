"""How much memory this process may still take: what is free on the machine, below the limits of containers and jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # cgroup 2 and 1
CACHE = (("active_file", "inactive_file"), ("total_active_file", "total_inactive_file"))
"""Of files that were read: counted as used, and given back when it is needed."""


def available_bytes(proc: Path = Path("/proc"), trees: Path = Path("/sys/fs/cgroup")) -> int:
    """The least of what is free on the machine and below the limit of any cgroup that this process is in."""
    lines = (proc / "meminfo").read_text().splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return min([free, *(left for group in _groups(proc, trees) if (left := _left(group)) is not None)])


def _groups(proc: Path, trees: Path) -> Iterator[Path]:
    """Folders of this process's groups with those above them, as far as they are shown here."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = trees / "memory" if controllers else trees
        own = tree / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(tree))


def _left(group: Path) -> int | None:
    """Bytes below its limit; None where it has none."""
    for (most, used), cached in zip(LIMITS, CACHE, strict=True):
        try:
            limit, taken = (group / most).read_text().strip(), int((group / used).read_text())
            table = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        cache = sum(int(table.get(name, 0)) for name in cached)
        return None if limit == "max" else max(0, int(limit) - taken + min(cache, taken))
    return None
