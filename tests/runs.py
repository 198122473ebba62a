"""Runs the product as a user does, as a process, and looks at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 240.0

LOCAL = """
name: small
backend: local
hosts: {{h1: {{}}, h2: {{}}, h3: {{}}}}
run:
  source: {source}
  model: {model}
  tokens: {tokens}
  methods: {methods}
  repeats: {repeats}
  budget: {budget} s
"""
STAR = """
name: smallstar
backend: mininet
hosts: {{h1: {{cpu: 0.5}}, h2: {{cpu: 0.5}}, h3: {{cpu: 0.5}}}}
switches: [s1]
defaults: {{link: {{rate: 20 Mbit/s}}}}
links: [h1 - s1, h2 - s1, h3 - s1]
run:
  source: {source}
  model: {model}
  tokens: {tokens}
  methods: {methods}
  repeats: {repeats}
  budget: {budget} s
"""
CHANGING = """
name: changing
backend: mininet
hosts: {{h1: {{}}, h2: {{}}}}
switches: [s1]
defaults: {{link: {{rate: 20 Mbit/s, delay: 5 ms, loss: 1 %}}}}
links:
  - {{between: h1 - s1, up: {{trace: {{steps: [[500 ms, 10 Mbit/s], [1 s, 20 Mbit/s]]}}}}}}
  - h2 - s1
events: ["at 200 ms: h2 - s1 down for 300 ms", "at 2 s: kill h2"]
run:
  source: {source}
  model: {model}
  tokens: {tokens}
  methods: {methods}
  repeats: {repeats}
  budget: {budget} s
"""
SMALL = """
name: smallhost
backend: mininet
hosts: {{h1: {{}}, h2: {{memory: {memory}}}}}
switches: [s1]
defaults: {{link: {{rate: 20 Mbit/s}}}}
links: [h1 - s1, h2 - s1]
run:
  source: {source}
  model: {model}
  tokens: {tokens}
  methods: {methods}
  repeats: {repeats}
  budget: {budget} s
"""
PAIRS = {LOCAL: LOCAL.replace(", h3: {{}}", ""), STAR: STAR.replace(", h3: {{cpu: 0.5}}", "").replace(", h3 - s1", "")}
ALL = (
    "[single, tensor, sequence, {block: {joins: 1}}, pipeline, {astra: {groups: 1, codewords: 64}}, "
    "{astra: {groups: 1, codewords: 64, transport: udp, deadline: 5 s}}]"
)


def topology(folder: Path, text: str = LOCAL, **values: Any) -> Path:
    """A topology file with these values in place of the small defaults."""
    given = {"source": "h1", "model": "vit-tiny", "tokens": 50, "methods": ALL, "repeats": 2, "budget": 30} | values
    path = folder / "topology.yaml"
    path.write_text(text.format(**given))
    return path


def paced(folder: Path, text: str, compute_s: Mapping[str, float], **values: Any) -> Path:
    """A topology file of these methods, whose requests compute for so many seconds each on any machine: replayed. So a
    number of requests is a time, and what a test does meanwhile is not too late."""
    path = topology(folder, text, methods=f"[{', '.join(compute_s)}]", **values)
    declared = yaml.safe_load(path.read_text())
    count, tokens = len(declared["hosts"]), declared["run"]["tokens"]
    entries = [
        {"method": name, "tokens": tokens, "devices": 1 if name == "single" else count, "total": f"{seconds * 1e3} ms"}
        for name, seconds in compute_s.items()
    ]
    profile = {"profile": "paced", "model": {"layers": 4, "width": 192}, "entries": entries}
    (folder / "paced.yaml").write_text(yaml.safe_dump(profile))
    path.write_text(f"{path.read_text()}  compute: {{replay: paced.yaml}}\n")
    return path


@contextmanager
def started(path: Path, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m testbed.run PATH --out OUT` in the background; ended by pid if the test leaves it behind."""
    command = [sys.executable, "-m", "testbed.run", str(path), "--out", str(out), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def run(path: Path, out: Path) -> tuple[int, str]:
    """Exit status and all output of a run."""
    with started(path, out) as process:
        text, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, text


def command(name: str, *words: str | Path) -> tuple[int, str]:
    """Exit status and all output of `testbed NAME WORDS`."""
    argv = [sys.executable, "-m", f"testbed.{name}", *map(str, words)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
    return done.returncode, done.stdout


def until(ready: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What `ready` returns once it is true; fails if the process ends first or time is up."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := ready()):
        assert process.poll() is None, (
            f"ended early with {process.returncode}: {process.stdout and process.stdout.read()}"
        )
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)  # polling a file, with a deadline: not a guess at how long something takes
    return found


def records(out: Path) -> list[dict[str, Any]]:
    """Whole lines of records.jsonl."""
    path = out / "records.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def device_pid(out: Path, host: str) -> int:
    """The newest device process of a host, as its log names it."""
    lines = [line for line in (out / f"{host}.log").read_text().splitlines() if "device process" in line]
    return int(lines[-1].partition("device process ")[2].partition(",")[0])


def raylet_pid(run_id: str, index: int) -> int:
    """The Ray node process of the host with this index."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"/raylet") and any(f"tb-{run_id}/r{index}/".encode() in word for word in command):
            return int(pid)
    raise AssertionError(f"no Ray node {index} of run {run_id}")


def read(out: Path, name: str) -> Any:
    """A JSON file of a run folder."""
    return json.loads((out / name).read_text())


def left_behind(out: Path) -> list[str]:
    """What is still there of a run that is over: processes, scratch folder, interfaces, cgroups, ledger."""
    run_id = read(out, "manifest.json")["run_id"]
    found = [f"process {pid}" for pid in os.listdir("/proc") if pid.isdigit() and marked(int(pid), run_id)]
    places = [Path("/tmp"), Path("/sys/class/net"), Path("/run/testbed"), Path(f"/tmp/testbed-{os.geteuid()}")]
    found += [str(p) for place in places if place.is_dir() for p in place.iterdir() if run_id in p.name]
    found += [str(p) for p in Path("/sys/class/net").iterdir() if p.name.startswith(f"tb{run_id[:5]}")]
    found += [str(p) for p in Path("/sys/fs/cgroup").glob(f"**/testbed-{run_id}")]
    return found


def marked(pid: int, run_id: str) -> bool:
    """Does a process carry the run's id, in its environment or its command line?"""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"TESTBED_RUN={run_id}".encode() in environment or f"tb-{run_id}".encode() in command
