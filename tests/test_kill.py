"""A run that is killed at any moment is undone by `clean`: the machine is as it was, whatever else lives on it."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed import models
from testbed.topology import RunSpec
from tests import runs

pytestmark = [
    pytest.mark.alone,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec"),
]
KILLS = int(os.environ.get("TESTBED_KILLS", "20"))
SEED = int(os.environ.get("TESTBED_KILL_SEED") or secrets.randbits(32))  # printed by a test that fails
GOOD = {0, 4}  # a busy machine may serve a delay late: "degraded"
WRONG_NETWORK = 3  # so busy that a rate is not kept: no kill, but no reason to fail either
ATTEMPTS = 4
SETTLED_S = 10.0  # the kernel takes namespaces down after their last process, on its own time
FILE = """
name: killed
backend: mininet
hosts: {h1: {cpu: 0.5}, h2: {cpu: 0.5}}
switches: [s1]
defaults: {link: {rate: 20 Mbit/s, delay: 2 ms, loss: 0.5 %}}
links: [h1 - s1, h2 - s1]
run: {source: h1, model: vit-tiny, tokens: 20, methods: [sequence], repeats: 3, budget: 10 s}
"""
# Settings that the kernel itself counts or tunes; of interfaces: they go with theirs.
COUNTERS = re.compile(
    r"kernel/(random/|ns_last_pid|pty/nr|perf_event_max_sample_rate)"
    r"|fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr)"
    r"|net/netfilter/nf_conntrack_count|net/ipv[46]/(conf|neigh)/(?!all/|default/)"
)


# What the machine is


def machine(others: set[int]) -> dict[str, set[str]]:
    """What a run must leave as it was, a text for each thing. others: processes whose descendants are not the run's."""
    return {
        "interface": _interfaces(),
        "namespace": _namespaces(),
        "mount": {line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "cgroup": _cgroups(),
        "rule": _rules(),
        "setting": _settings(),
        "folder": {
            str(path) for pattern in ("run/testbed/*", "tmp/tb-*", "dev/shm/*") for path in Path("/").glob(pattern)
        },
        "process": {f"{pid} {_words(pid)}" for pid in descendants(os.getpid()) - others - descendants(*others)},
    }


def _interfaces() -> set[str]:
    rows = json.loads(_output("ip", "-j", "link"))
    return {str([row.get(key) for key in ("ifindex", "ifname", "mtu", "address", "master", "qdisc")]) for row in rows}


def _namespaces() -> set[str]:
    """Network namespaces, by name and by the processes in them."""
    found = {str(path) for path in Path("/run/netns").glob("*")}
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue  # the process ended
    return found


def _cgroups() -> set[str]:
    """Those at the top of each tree, and ours wherever they are; what others do below their own is their affair."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    trees = [Path(place) for _, place, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
    patterns = ("*/", "**/testbed-*/")
    return {str(place) for tree in trees for pattern in patterns for place in tree.glob(pattern)}


def _rules() -> set[str]:
    """The firewall's rules without counters and dates."""
    programs = [name for name in ("iptables-save", "ip6tables-save") if shutil.which(name)]
    lines = [f"{name}: {line}" for name in programs for line in _output(name).splitlines() if not line.startswith("#")]
    return {re.sub(r" \[\d+:\d+\]$", "", line) for line in lines if "#" not in line[:20]}


def _settings() -> set[str]:
    found = set()
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = Path(folder, name)
            key = str(path.relative_to("/proc/sys"))
            if path.stat().st_mode & 0o400 and not COUNTERS.match(key):
                try:
                    found.add(f"{key} = {path.read_bytes()!r}")
                except OSError:
                    continue  # some say so only when they are read
    return found


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def descendants(*ancestors: int) -> set[int]:
    """Running processes below these, by the kernel's process table."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended
        if state not in "ZX":
            parents[int(path.parent.name)] = int(parent)
    found: set[int] = set()
    new = set(ancestors)
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except OSError:
        return ""


def unlike(before: dict[str, set[str]], others: set[int]) -> list[str]:
    """What the machine has more or less than before, once the kernel had its time to tidy up: [] is restored."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        now = machine(others)
        more = [f"left: {kind} {thing}" for kind in now for thing in sorted(now[kind] - before[kind])]
        less = [f"lost: {kind} {thing}" for kind in now for thing in sorted(before[kind] - now[kind])]
        if not more + less or time.monotonic() > deadline:
            return more + less
        time.sleep(0.1)  # polling, with a deadline


# What lives on it: a namespace, a bridge, a Ray cluster, and nothing idle


@dataclass(frozen=True)
class Bystanders:
    """started: the processes that the test began; alive: those and all below them, pid -> start; ray: host and port."""

    started: set[int]
    alive: dict[int, str]
    bridge: str
    address: str
    ray: tuple[str, int]

    def unwell(self) -> list[str]:
        """What does not work as it did: a process, the way over the bridge, Ray's head."""
        found = [f"process {pid} {_words(pid)}" for pid, start in self.alive.items() if _start(pid) != start]
        if subprocess.run(["ping", "-c1", "-W5", self.address], capture_output=True, check=False).returncode:
            found.append(f"no answer over bridge {self.bridge}")
        with socket.socket() as door:
            found += ["Ray's head does not listen"] if door.connect_ex(self.ray) else []
        return found


@pytest.fixture(scope="module")
def bystanders() -> Iterator[Bystanders]:
    """Others' things on a busy machine, and this process in init's place: what loses its parent becomes its child."""
    token = secrets.token_hex(3)
    with ExitStack() as stack:
        stack.enter_context(_adopting())
        # The least weight that there is: a busy machine, and not one that takes twice as long.
        spin = ["nice", "-n", "19", sys.executable, "-S", "-c", "while True: pass"]
        started = [stack.enter_context(_process(*spin)) for _ in range(os.cpu_count() or 1)]
        holder = stack.enter_context(_process("unshare", "--net", "sleep", "3600"))
        address = stack.enter_context(_bridge(token, holder))
        ray, place = stack.enter_context(_ray(token))
        started += [holder, ray]
        alive = {pid: _start(pid) for pid in {*started, *descendants(*started)}}
        yield Bystanders(set(started), alive, f"by{token}", address, place)


@contextmanager
def _adopting() -> Iterator[None]:
    subreaper, libc = 36, ctypes.CDLL(None)
    assert libc.prctl(subreaper, 1, 0, 0, 0) == 0
    yield
    libc.prctl(subreaper, 0, 0, 0, 0)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@contextmanager
def _process(*argv: str, **options: Any) -> Iterator[int]:
    """A process of the test, and whatever it starts, ended by pid."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options) as process:
        yield process.pid
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()


@contextmanager
def _bridge(token: str, holder: int) -> Iterator[str]:
    """A bridge, and a cable from it into the namespace of `holder`, whose address is returned."""
    bridge, near, far = (f"by{token}{end}" for end in ("", "-a", "-b"))
    net = f"198.18.{secrets.randbelow(256)}"  # kept for tests of network devices
    inside = ["nsenter", "-t", str(holder), "-n", "ip"]
    _until(lambda: os.readlink(f"/proc/{holder}/ns/net") != os.readlink("/proc/self/ns/net"))
    _output("ip", "link", "add", bridge, "type", "bridge")
    _output("ip", "link", "add", near, "master", bridge, "type", "veth", "peer", "name", far)
    _output("ip", "link", "set", far, "netns", str(holder))
    for command in (
        ["ip", "link", "set", near, "up"],
        ["ip", "link", "set", bridge, "up"],
        [*inside, "link", "set", far, "up"],
    ):
        _output(*command)
    _output("ip", "addr", "add", f"{net}.1/24", "dev", bridge)
    _output(*inside, "addr", "add", f"{net}.2/24", "dev", far)
    yield f"{net}.2"
    _output("ip", "link", "delete", bridge)
    subprocess.run(["ip", "link", "delete", near], capture_output=True, check=False)  # gone with its namespace, or not


@contextmanager
def _ray(token: str) -> Iterator[tuple[int, tuple[str, int]]]:
    """The head of somebody else's Ray: its launcher's pid and where it listens."""
    folder = Path(tempfile.mkdtemp(prefix="by", dir="/tmp"))  # short: sockets' paths end at 107 bytes
    (folder / "token").write_text(secrets.token_hex(32))
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    ray = str(Path(sys.executable).with_name("ray"))
    flags = ["--port=0", "--include-dashboard=false", "--num-cpus=0", "--node-ip-address=127.0.0.1"]
    flags += ["--disable-usage-stats", "--object-store-memory=80000000", f"--temp-dir={folder}"]
    told = folder / "ray_current_cluster"
    try:
        with (folder / "log").open("wb") as log:
            options = {"stdout": log, "stderr": log, "env": environment, "start_new_session": True}
            with _process(ray, "start", "--head", "--block", *flags, **options) as pid:
                address = _until(lambda: told.exists() and told.read_text().strip())
                host, _, port = address.rpartition(":")
                yield pid, (host, int(port))
    finally:
        shutil.rmtree(folder)


def _until(ready: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := ready()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)  # polling, with a deadline
    return found


def _start(pid: int) -> str:
    """When a process began, in ticks after boot; "" if it runs no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


# The proof


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topology whose runs are killed, its model prepared: what is killed is a run, not a conversion."""
    models.prepared(RunSpec("h1", "vit-tiny"))
    path = tmp_path_factory.mktemp("kill") / "topology.yaml"
    path.write_text(FILE)
    return path


@contextmanager
def _running(file: Path, *outs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A run for each of `outs`, in a session of its own, its output beside; killed if it still runs at the end."""
    processes = []
    try:
        for out in outs:
            command = [sys.executable, "-m", "testbed.run", str(file), "--out", str(out)]
            with out.with_suffix(".txt").open("wb") as said:
                process = subprocess.Popen(command, cwd=runs.ROOT, stdout=said, stderr=said, start_new_session=True)
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _lines(out: Path) -> list[str]:
    """What a run has said so far."""
    return out.with_suffix(".txt").read_text().splitlines()


@dataclass(frozen=True)
class Moment:
    """Some seconds after a run has said so many lines: on a machine of any speed the same stage of the run."""

    lines: int
    after_s: float


@pytest.fixture(scope="module")
def usual(file: Path, bystanders: Bystanders) -> list[float]:
    """Two runs at once, which do not disturb each other. When one of them said its lines and ended, in seconds."""
    before = machine(bystanders.started)
    for attempt in range(ATTEMPTS):
        outs = [file.parent / f"{name}-{attempt}" for name in ("one", "two")]
        times_s, codes = _timed(file, outs)
        said = [line for out in outs for line in _lines(out)]
        assert set(codes) <= GOOD | {WRONG_NETWORK}, said
        assert not any("crashed" in line for line in said)  # neither took the other for dead
        if set(codes) <= GOOD:
            break
    assert unlike(before, bystanders.started) == []
    assert bystanders.unwell() == []
    return times_s


def _timed(file: Path, outs: list[Path]) -> tuple[list[float], list[int]]:
    times_s, began = [0.0], time.monotonic()
    with _running(file, *outs) as processes:
        while processes[0].poll() is None:
            news = len(_lines(outs[0])) + 1 - len(times_s)
            times_s += [time.monotonic() - began] * news
            time.sleep(0.01)  # polling
        times_s.append(time.monotonic() - began)
        return times_s, [process.wait(runs.LIMIT_S) for process in processes]


def _kill(process: subprocess.Popen[bytes], out: Path, moment: Moment) -> bool:
    """Kill a run at its moment. False if it ended before."""
    while process.poll() is None and len(_lines(out)) < moment.lines:
        time.sleep(0.01)  # polling
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment.after_s)
    process.kill()
    code = process.wait()
    print(f"TESTBED_KILL_SEED={SEED}: {moment}, status {code}, last said: {_lines(out)[-1:]}")
    assert code in GOOD | {WRONG_NETWORK, -signal.SIGKILL}
    return code == -signal.SIGKILL


@pytest.mark.parametrize("first", range(0, KILLS, 2))
def test_runs_killed_at_any_moment_are_undone(
    first: int, file: Path, usual: list[float], bystanders: Bystanders, tmp_path: Path
) -> None:
    """Two runs at once; random moments, two in each of equal parts of a run's time: every stage has its turn."""
    chance = random.Random(f"{SEED} {first}")
    times_s = [usual[-1] * (first + 2 * chance.random()) / KILLS for _ in range(min(2, KILLS - first))]
    before = machine(bystanders.started)
    for attempt in range(ATTEMPTS):
        moments = [Moment(n := bisect(usual, t) - 1, t - usual[n]) for t in times_s]
        outs = [tmp_path / f"{attempt}-{index}" for index in range(len(moments))]
        with _running(file, *outs) as processes, ThreadPoolExecutor() as pool:
            killed = list(pool.map(_kill, processes, outs, moments))
        times_s = [t * chance.random() for t, done in zip(times_s, killed, strict=True) if not done]
        if not times_s:
            break
    else:
        pytest.fail("runs ended before they were killed")
    if first % 4:  # half of the time the first to clean is killed, too
        _clean(limit_s=chance.uniform(0.1, 1.0))
    _clean()
    assert unlike(before, bystanders.started) == []
    assert bystanders.unwell() == []


def _clean(limit_s: float | None = None) -> None:
    """`python -m testbed.clean` to its good end, or killed after limit_s seconds."""
    command = [sys.executable, "-m", "testbed.clean"]
    with subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            said = process.communicate(timeout=limit_s or runs.LIMIT_S)[1]
            assert process.returncode == 0, said.decode()
        except subprocess.TimeoutExpired:
            process.kill()
            assert limit_s is not None
