"""testbed.memory: what a machine has free, under the limits of a container or a job, in trees written out here."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.memory import available_bytes

FREE = 8 * 2**30
GIB = 2**30


def machine(place: Path, cgroups: str) -> tuple[Path, Path]:
    """A /proc with so much free and these lines of /proc/self/cgroup, and the root of its cgroups."""
    (place / "proc/self").mkdir(parents=True)
    (place / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {FREE // 1024} kB\n")
    (place / "proc/self/cgroup").write_text(cgroups)
    return place / "proc", place / "cgroup"


def group(folder: Path, limit: str, used: int, cache: int, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    most, taken, name = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_{}active_file"),
        2: ("memory.max", "memory.current", "{}active_file"),
    }[version]
    (folder / most).write_text(f"{limit}\n")
    (folder / taken).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\n{name.format('')} {cache // 2}\n{name.format('in')} {cache - cache // 2}\n"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_of_all_limits_counts(tmp_path: Path, version: int) -> None:
    line, tree = {1: ("4:memory:/job/step\n1:cpu:/\n", "memory"), 2: ("0::/job/step\n", "")}[version]
    proc, trees = machine(tmp_path, line)
    assert available_bytes(proc, trees) == FREE  # nothing of it is shown here
    group(trees / tree / "job", str(3 * GIB), 2 * GIB, GIB, version)
    group(trees / tree / "job/step", str(10 * GIB), GIB, 0, version)
    assert available_bytes(proc, trees) == 2 * GIB  # what is read from files is given back
    group(trees / tree / "job/step", str(GIB), 2 * GIB, 0, version)
    assert available_bytes(proc, trees) == 0
    group(trees / tree / "job/step", "max" if version == 2 else str(2**63 - 4096), 2 * GIB, 0, version)
    assert available_bytes(proc, trees) == 2 * GIB


def test_this_machine_has_some() -> None:
    assert 0 <= available_bytes() < 2**50
