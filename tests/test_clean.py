"""A run that was killed is undone, exactly and only that."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import cgroup, clean
from testbed.hosts import HOSTS, HostError
from testbed.ledger import Ledger, boot_id, folder
from testbed.processes import look
from testbed.topology import Host, RunSpec, Topology
from tests.networks import marked, needs_relay

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parent.parent
CHILD = """
import sys
from testbed.hosts import HOSTS
from testbed.topology import Host, Lane, Link, RunSpec, Switch, Topology
backend, run_id, *shaper = sys.argv[1:]
hosts = (Host("h1"), Host("h2"))
switches = (Switch("s1"),) if backend == "mininet" else ()
links = tuple(Link.both(host.name, "s1", Lane(1e7)) for host in hosts) if switches else ()
topology = Topology("t", backend, hosts, switches, links, RunSpec("h1", "vit-base"))
daemon = "import os,time\\nif os.fork()==0:\\n os.setsid()\\n if os.fork()==0:\\n  print(os.getpid(),flush=True)"
daemon += ";time.sleep(600)"
with HOSTS[backend](topology, run_id, *shaper) as network:
    log = network.directory / "h1.log"
    network.hosts["h1"].start([sys.executable, "-c", daemon], log).wait()
    while not log.read_text().strip():
        pass
    print(network.directory, log.read_text().strip(), flush=True)
    input()
"""


def killed_run(backend: str, run_id: str, *shaper: str) -> tuple[Path, int]:
    """Build a network in a child that is then killed. Returns what it left: its scratch folder and a daemon's pid."""
    argv = [sys.executable, "-c", CHILD, backend, run_id, *shaper]
    child = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    words = child.stdout.readline().split()
    child.kill()
    child.communicate()
    directory, daemon = Path(words[0].decode()), int(words[1])
    assert directory.is_dir() and look(daemon) is not None
    return directory, daemon


@pytest.fixture
def run_id() -> str:
    return secrets.token_hex(4)


def test_killed_local_run(run_id: str) -> None:
    directory, daemon = killed_run("local", run_id)
    removed = clean.clean()
    assert f"directory {directory}" in removed and any(line.endswith(f"processes of run {run_id}") for line in removed)
    assert not directory.exists() and look(daemon) is None
    assert not any(run_id in line for line in clean.clean())


@pytest.fixture
def bystander() -> Iterator[tuple[str, int]]:
    """A bridge, and a process in a namespace of its own, of somebody else; the bridge's name is almost one of ours."""
    bridge = f"tb{secrets.token_hex(3)}"
    subprocess.run(["ip", "link", "add", "dev", bridge, "type", "bridge"], check=True)
    holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    yield bridge, holder.pid
    holder.kill()
    holder.wait()
    subprocess.run(["ip", "link", "delete", "dev", bridge], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec")
@pytest.mark.parametrize("shaper", [(), pytest.param(("relay",), marks=needs_relay)], ids=["kernel", "relay"])
def test_killed_mininet_run_with_bystanders(run_id: str, bystander: tuple[str, int], shaper: tuple[str, ...]) -> None:
    directory, daemon = killed_run("mininet", run_id, *shaper)
    made = [name for name in os.listdir("/sys/class/net") if name.startswith(clean.prefix(run_id))]
    bridges = [name for name in made if "-" not in name]
    assert len(bridges) == 2  # the switch and the management network
    shown = subprocess.run(
        [sys.executable, "-m", "testbed.clean"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"removed directory {directory}" in shown.stdout
    # Cables may be gone already: their namespaces ended with their processes.
    assert all(f"removed bridge {name}\n" in shown.stdout for name in bridges)
    assert look(daemon) is None and not directory.exists() and marked(run_id) == []
    assert not any(name.startswith(clean.prefix(run_id)) for name in os.listdir("/sys/class/net"))
    assert not list(Path("/sys/fs/cgroup").glob(f"**/testbed-{run_id}"))
    bridge, holder = bystander
    assert Path("/sys/class/net", bridge).exists() and look(holder) is not None


def test_a_live_run_is_left_alone(run_id: str) -> None:
    topology = Topology("t", "local", (Host("h1"),), (), (), RunSpec("h1", "vit-base"))
    with HOSTS["local"](topology, run_id) as network:
        process = network.hosts["h1"].start(["sleep", "600"], network.directory / "log")
        assert not any(run_id in line for line in clean.clean())
        assert network.hosts["h1"].alive(process.pid) and network.directory.is_dir()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("directory", "/etc"),
        ("directory", "/tmp/tb-00000000"),
        ("bridge", "docker0"),
        ("interface", "eth0"),
        ("cgroup", "/sys/fs/cgroup/cpu"),
        ("cgroup", "/sys/fs/cgroup/testbed-RUN/../user.slice"),
        ("process", "1"),
    ],
)
def test_a_damaged_ledger_removes_nothing(run_id: str, kind: str, name: str) -> None:
    ledger = Ledger.create(run_id)
    try:
        ledger.add(kind, name.replace("RUN", run_id))
        with pytest.raises(HostError, match="nothing was touched"):
            clean.undo(ledger)
    finally:
        ledger.close()


def test_the_others_are_cleaned_beside_a_damaged_ledger(run_id: str) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    owner = json.dumps({"owner": gone.pid, "start": 1, "boot": boot_id()})
    # First in order, so that the other one comes after it.
    damaged, whole = folder() / "00000000.jsonl", folder() / f"{run_id}.jsonl"
    left = clean.scratch(run_id)
    left.mkdir()
    try:
        damaged.write_text(f'{owner}\n{{"kind": "cgroup"}}\n')
        whole.write_text(owner + "\n" + json.dumps({"kind": "directory", "name": str(left), "start": None}) + "\n")
        with pytest.raises(HostError, match=f"{damaged}: damaged at .*removed directory {left}"):
            clean.clean()
        assert damaged.exists() and not whole.exists() and not left.exists()
    finally:
        damaged.unlink()


def test_a_link_in_place_of_the_scratch_folder_is_not_followed(run_id: str, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    link = tmp_path / f"tb-{run_id}"
    link.symlink_to(tmp_path / "precious")
    ledger = Ledger.create(run_id)
    try:
        ledger.add("directory", str(link))
        with pytest.raises(HostError, match="not touched"):
            clean.undo(ledger)
    finally:
        ledger.close()
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_a_second_interrupt_waits_for_the_clean_up() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), clean.undisturbed():
        signal.raise_signal(signal.SIGINT)
        steps.append("went on")
    assert steps == ["went on"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes cgroups")
@pytest.mark.root
def test_what_was_only_tried_goes_too(run_id: str) -> None:
    """A process killed while it tried the machine, or began a ledger: nothing is written of that anywhere else."""
    with subprocess.Popen(["true"]) as gone:
        pass
    probe = cgroup.find().tracks / f"testbed-probe-{gone.pid}"
    probe.mkdir()
    draft, live = (folder() / f"{run_id}.{pid}" for pid in (gone.pid, os.getpid()))
    draft.touch()
    live.touch()
    try:
        assert f"cgroup {probe}" in clean.clean()
        assert not probe.exists() and not draft.exists() and live.exists()
    finally:
        live.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes cgroups")
@pytest.mark.root
def test_a_process_that_enters_late_does_not_keep_its_cgroup(run_id: str) -> None:
    """It was being started when its run was killed, and became a member after all members had been ended."""
    group = cgroup.Group(cgroup.find(), f"testbed-{run_id}/nodes")
    group.make()
    enter = [sys.executable, "-I", "-S", "-c", cgroup.ENTER, group.entrance(), "sleep", "600"]
    with subprocess.Popen(enter) as late:
        while not cgroup.members(group.folders()[0]):
            assert late.poll() is None
        assert all(cgroup.remove(folder.parent) for folder in group.folders())
        assert late.wait(10) == -signal.SIGKILL
