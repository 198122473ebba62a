"""What a run stood on: code, versions, kernel, processor, settings. Written before the first request."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from testbed.store import SCHEMA_VERSION

PACKAGES = ("torch", "transformers", "ray", "mininet", "numpy", "safetensors")
SYSCTLS = (
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_no_metrics_save",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rmem_default",
    "net.core.wmem_default",
    "net.core.default_qdisc",
)


def manifest(argv: Sequence[str], seeds: Mapping[str, int], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Content of manifest.json. `extra` (the shaper chosen, facts of the run) is added as it is. Never raises for a
    machine that does not tell: what cannot be learned is null.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(argv),
        "seeds": dict(seeds),
        "git": checkout(Path(__file__).resolve().parent.parent),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": machine(),
        "sysctls": {name: _read(Path("/proc/sys", *name.split("."))) for name in SYSCTLS},
        **extra,
    }


def machine() -> dict[str, Any]:
    """The computer in words and numbers; `cores` are those this process may use, memory_bytes is what is installed."""
    return {
        "kernel": platform.release(),
        "system": _system(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_installed": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def checkout(root: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the git checkout at `root`, None where `root` is not the top of one."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None
    return {"commit": commit, "dirty": _git(root, "status", "--porcelain") != ""}


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command that only reads, None where it fails.

    As root through sudo it must neither run a program that the checkout's configuration names (fsmonitor) nor
    rewrite the index, which would then belong to root (optional locks).
    """
    command = ("git", "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false", "--no-optional-locks", "-C")
    try:
        result = subprocess.run([*command, str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version(package: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _system() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _cpu_model() -> str | None:
    """Processor name as the kernel tells it; boards without one have None."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
