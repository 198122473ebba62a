"""The ledger: what a run creates is on disk first, and whose run is dead is told by pid, start time and boot."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ledger as ledger_module
from testbed.hosts import HostError
from testbed.ledger import Entry, Ledger, stale
from testbed.processes import look


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ledger]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Ledger.create(secrets.token_hex(4))
    yield made
    made.close()


def rewrite_owner(ledger: Ledger, **changes: object) -> None:
    first, *rest = ledger.path.read_text().splitlines()
    ledger.path.write_text("\n".join([json.dumps({**json.loads(first), **changes}), *rest]) + "\n")


def is_stale(ledger: Ledger) -> bool:
    return ledger.path in [one.path for one in stale()]


def test_entries_come_back_in_order(ledger: Ledger) -> None:
    ledger.add("bridge", "tb000001")
    ledger.add("process", "12", 345)
    assert Ledger(ledger.path).entries() == [Entry("bridge", "tb000001"), Entry("process", "12", 345)]


def test_a_torn_last_line_is_left_out(ledger: Ledger) -> None:
    ledger.add("bridge", "tb000001")
    with ledger.path.open("a") as file:
        file.write('{"kind": "bridge", "na')
    assert ledger.entries() == [Entry("bridge", "tb000001")]


@pytest.mark.parametrize(
    "row", ['{"kind": "cgroup"}', '{"kind": "bridge", "name": 3}', '{"kind": "process", "name": "1", "start": "x"}']
)
def test_a_damaged_line_is_named(ledger: Ledger, row: str) -> None:
    with ledger.path.open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(HostError, match=f"^{ledger.path}: damaged at {re.escape(row)}"):
        ledger.entries()


def test_a_run_lives_with_its_owner(ledger: Ledger) -> None:
    assert not is_stale(ledger)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = look(child.pid)
    assert found is not None
    rewrite_owner(ledger, owner=child.pid, start=found.start)
    assert not is_stale(ledger)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped yet
    assert is_stale(ledger)
    child.communicate()
    assert is_stale(ledger)


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}, {"owner": "x"}])
def test_the_same_pid_is_not_the_same_owner(ledger: Ledger, change: dict[str, object]) -> None:
    rewrite_owner(ledger, **change)
    assert is_stale(ledger)


@pytest.mark.parametrize("bad", ["", "3f9a", "../../x0", "3F9A12CD", "3f9a12cd\n"])
def test_a_run_id_is_eight_hex_digits(bad: str) -> None:
    with pytest.raises(HostError, match="run id"):
        Ledger.create(bad)


def test_a_run_id_is_used_once_at_a_time(ledger: Ledger) -> None:
    with pytest.raises(HostError, match="in use"):
        Ledger.create(ledger.run_id)
    left = [path.suffix for path in ledger.path.parent.iterdir() if path.stem == ledger.run_id]
    assert left == [".jsonl"]  # no draft


def test_others_cannot_write_in_the_folder() -> None:
    found = ledger_module.folder().stat()
    assert found.st_uid == os.geteuid() and not found.st_mode & 0o077
