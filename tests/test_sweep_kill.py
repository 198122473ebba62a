"""A sweep that is killed at any moment and run again ends with the same cells as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from testbed import models
from testbed.store import load
from testbed.sweep import blocks, child, folder, keys, points
from testbed.topology import RunSpec
from tests import runs

pytestmark = pytest.mark.alone  # any run that starts meanwhile would clean up what a killed one left

KILLS = int(os.environ.get("TESTBED_SWEEP_KILLS", "2"))
SEED = int(os.environ.get("TESTBED_KILL_SEED") or secrets.randbits(32))  # printed by a test that fails
# What a run has said, and seconds after it in which none is over: Ray and a device's libraries take longer to load, a
# network half a second to be taken down.
STAGES = [("model", 2.0), ("hosts up", 2.0), ("Ray up", 1.0), ("single ", 0.3), ("pipeline ", 0.3)]
FILE = """
name: killed
backend: local
hosts: {h1: {}}
run: {source: h1, model: vit-tiny, tokens: 16, methods: [single, pipeline], repeats: 1, budget: 20 s}
sweep: {repetitions: 2}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model prepared: what is killed is a sweep, not a conversion."""
    models.prepared(RunSpec("h1", "vit-tiny"))
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(FILE)
    return path


def start(file: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """`python -m testbed.sweep FILE --out OUT` in a session of its own, its output added to a file beside OUT."""
    command = [sys.executable, "-m", "testbed.sweep", str(file), "--out", str(out), *more]
    with out.with_suffix(".txt").open("ab") as said:
        return subprocess.Popen(command, cwd=runs.ROOT, stdout=said, stderr=said, start_new_session=True)


def marked(out: Path) -> set[int]:
    """Running processes of the sweep's blocks, by the mark in their environment."""
    mark, found = f"{child.MARK}={out}".encode(), set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if state not in "ZX" and mark in (path / "environ").read_bytes().split(b"\0"):
                found.add(int(path.name))
    return found


def cut_power(out: Path) -> None:
    """Everything that the sweep had running ends at once."""
    while pids := marked(out):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # polling


def fail_the_first(file: Path, out: Path) -> None:
    """As an earlier sweep that has failed to run its first block: only --retry runs it again."""
    sweep, code = points.read(file), keys.code_version()
    found = blocks.ordered(sweep, code)
    result = {"code": code, "run": None, "network": None, "status": "failed", "error": "h1 lost"}
    wanted = [cell.key for block in found for cell in block.cells]
    with folder.opened(out, sweep.name, sweep.text, code, wanted) as opened:
        opened.add([{**found[0].row(cell), **result} for cell in found[0].cells])


def cells(out: Path) -> dict[str, tuple[str, int, str]]:
    """What is finished, by key; none that ended well ran again."""
    rows = [json.loads(line) for line in (out / folder.CELLS).read_text().splitlines()]
    good = [row["key"] for row in rows if row["status"] == "ok"]
    assert len(set(good)) == len(good)
    return {row["key"]: (row["label"], row["repetition"], row["status"]) for row in rows}


def words(out: Path) -> str:
    """What a sweep has said so far."""
    return out.with_suffix(".txt").read_text()


def running(out: Path) -> str:
    """What the run of the block that runs now has said so far; "" where none runs."""
    files = [path.with_suffix(".log") for path in (out / folder.BLOCKS).glob("*.yaml")]
    return "".join(path.read_text() for path in files if path.exists())


def killed(process: subprocess.Popen[bytes], out: Path, said: str, stage: str, after_s: float) -> bool:
    """Kill a sweep some seconds after the first run that it starts when it has said something new with the words `said`
    came to a stage. False if it ended before."""
    before = len(words(out))
    while process.poll() is None and (said not in words(out)[before:] or stage not in running(out)):
        time.sleep(0.01)  # polling
    with suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    process.kill()
    return process.wait() == -signal.SIGKILL


def test_a_sweep_killed_at_any_moment_ends_with_the_same_cells(
    file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed with all that it runs, as by a power cut, then, in its second block, alone: so that its run lives on.

    Its first block had failed before. Meanwhile another one runs undisturbed, also by what the killed one cleans up.
    """
    chance, out, other = random.Random(SEED), tmp_path / "disturbed", tmp_path / "undisturbed"
    fail_the_first(file, out)
    undisturbed = start(file, other)
    request.addfinalizer(lambda: [undisturbed.kill(), undisturbed.wait(), cut_power(out), cut_power(other)])
    for number in range(KILLS):
        alone, (stage, most_s) = number % 2 == 1, chance.choice(STAGES)
        after_s = chance.uniform(0, most_s)
        done = killed(start(file, out, "--retry"), out, " ok, " if alone else " cells in ", stage, after_s)
        print(f"TESTBED_KILL_SEED={SEED}: {number}, {stage} {after_s:.2f} s, {'killed' if done else 'ended before'}")
        assert done or number > 1
        if not alone:
            cut_power(out)
    assert start(file, out, "--retry").wait(runs.LIMIT_S) == 0, words(out)
    assert undisturbed.wait(runs.LIMIT_S) == 0, words(other)
    print(words(out))
    truth = cells(other)
    assert len(truth) == 4 and {status for _, _, status in truth.values()} == {"ok"}
    assert cells(out) == truth
    for place in (out, other):
        whole = [path for path in (place / folder.BLOCKS).iterdir() if path.is_dir()]
        assert sorted(whole) == sorted(folder.runs(place))
        assert sum(len(load(path).methods) for path in whole) == len(truth)
        assert not [line for path in whole for line in runs.left_behind(path)]
        assert not marked(place)
