"""The doctor's findings hold on the machine at hand, and what a machine cannot do is refused with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import abilities, doctor, mend, shape
from testbed.topology import Host, Lane, Link, RunSpec, Switch, Topology, TopologyError, load
from testbed.units import show_rate

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent
STAR = Topology(
    name="star",
    backend="mininet",
    hosts=(Host("h1"), Host("h2")),
    switches=(Switch("s1"),),
    links=(Link.both("h1", "s1", Lane(1e7)), Link.both("h2", "s1", Lane(1e7))),
    run=RunSpec("h1", "vit-tiny"),
)
LOCAL = replace(STAR, backend="local", switches=(), links=())
no_root = os.geteuid() != 0 or shutil.which("mnexec") is None
needs_root = pytest.mark.skipif(no_root, reason="needs root and mnexec")


def test_every_finding_is_one_line_that_says_how_to_fix_what_is_not_ok():
    found = doctor.findings()
    assert {"root", "mnexec", "tc", "cores", "ray", "ports", "/tmp", "tcp"} <= {f.name for f in found}
    for finding in found:
        assert finding.state in ("ok", "missing", "warn")
        assert "\n" not in finding.line
        assert finding.state == "ok" or finding.fix, finding


def test_programs_are_reported_as_the_shell_finds_them():
    found = {finding.name: finding.state for finding in doctor.findings()}
    for program in doctor.PROGRAMS:
        assert found[program] == ("ok" if shutil.which(program) else "missing")


@pytest.mark.skipif(shutil.which("tc") is None, reason="no program tc")
def test_folders_of_root_are_looked_at_also_when_PATH_lacks_them():
    code = "import shutil; from testbed import doctor; print(shutil.which('tc'))"
    bare = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != "None"


def test_without_a_file_the_cores_are_told_and_how_to_compare_them():
    (cores,) = [finding.detail for finding in doctor.findings() if finding.name == "cores"]
    assert cores.startswith(f"{len(os.sched_getaffinity(0))} usable; give a FILE")


@needs_root
@pytest.mark.root
@pytest.mark.skipif(shutil.which("iptables") is None, reason="no program iptables")
def test_a_firewall_that_drops_what_hosts_send_is_named_until_it_lets_them_in():
    """In a network namespace of its own, so that the machine's firewall stays as it is."""
    code = (
        "import subprocess; from testbed import doctor\n"
        "def walls(): return [f for f in doctor.findings() if f.name == 'firewall' and f.state != 'ok']\n"
        "found = walls()\nfor f in found: print(f'{f.detail}: {f.fix}')\n"
        "for f in found: subprocess.run(f.fix.split(), check=True)\n"
        "print(*walls())"
    )
    policies = ["sh", "-c", 'iptables -P INPUT DROP && iptables -P FORWARD DROP && exec "$@"', "sh"]
    argv = ["unshare", "--net", "--", *policies, sys.executable, "-c", code]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
    assert [line for line in said if line] == [
        "unless another rule lets it in, it drops what hosts send to the machine itself: "
        "iptables -I INPUT -i tb+ -j ACCEPT",
        "unless another rule lets it in, it drops what hosts send each other over a bridge: "
        "iptables -I FORWARD -i tb+ -j ACCEPT",
    ][: 1 + bridged]


def test_cores_are_compared_with_what_hosts_ask_for():
    cores = len(os.sched_getaffinity(0))
    modest = replace(LOCAL, hosts=(Host("h1", cores / 2), Host("h2", cores / 2)))
    greedy = replace(LOCAL, hosts=(Host("h1", cores), Host("h2", 1.0)))
    states = [{f.name: f.state for f in doctor.findings(topology)}["cores"] for topology in (modest, greedy)]
    assert states == ["ok", "warn"]


def test_the_local_backend_needs_nothing_of_a_network():
    assert doctor.refusal(LOCAL) == []


@pytest.mark.parametrize("change", [("delay: 0 ms", "delay: 5 s"), ("rate: 10 Mbit/s", "rate: 2 Gbit/s")])
def test_a_link_that_no_machine_makes_is_a_mistake_of_the_file(tmp_path, change):
    file = tmp_path / "t.yaml"
    file.write_text((ROOT / "topologies/star4_10mbps.yaml").read_text(encoding="utf-8").replace(*change))
    with pytest.raises(TopologyError) as caught:
        doctor.main(file)
    (line,) = caught.value.problems
    assert line.startswith(f"{file}:5 defaults.link.{change[1].partition(':')[0]} = ")


@pytest.mark.skipif(abilities.ovs_works(), reason="Open vSwitch runs here, so nothing is to be refused")
@needs_root
@pytest.mark.root
def test_a_refusal_names_the_line_of_the_file(tmp_path):
    file = tmp_path / "t.yaml"
    text = (ROOT / "topologies/star4_10mbps.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("[s1]", "{s1: {type: ovs}}"), encoding="utf-8")
    assert [line for line in doctor.problems(load(file), file) if line.startswith(f"{file}:4 switches: type ovs")]


@pytest.mark.skipif(abilities.ovs_works(), reason="Open vSwitch runs here, so nothing is to be refused")
@needs_root
@pytest.mark.root
def test_open_vswitch_that_does_not_run_is_refused():
    texts = doctor.refusal(replace(STAR, switches=(Switch("s1", "ovs"),)))
    assert any("Open vSwitch" in text and text.startswith("switches: ") for text in texts)


@pytest.mark.skipif(os.geteuid() == 0, reason="only somebody other than root is refused for not being root")
def test_a_network_without_root_is_refused():
    assert any("needs root" in text for text in doctor.refusal(STAR))


@needs_root
@pytest.mark.root
def test_the_probe_agrees_with_the_kernel_and_leaves_nothing():
    before = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count("tbprobe")
    for ability in abilities.PROBES:
        assert abilities.works(ability) is (abilities.why_not(ability) is None)
    after = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count("tbprobe")
    assert (before, after) == (0, 0)
    with pytest.raises(KeyError):
        abilities.works("no-such-thing")


@needs_root
@pytest.mark.root
def test_a_plain_star_is_refused_exactly_when_something_it_needs_is_missing():
    programs = all(shutil.which(program) for program in doctor.PROGRAMS)
    kernel = all(abilities.works(ability) for ability in ("veth", "bridge", "gso_max_segs"))
    rates = any(abilities.shaper_why_not(shaper) is None for shaper in shape.SHAPERS)
    assert (doctor.refusal(STAR) == []) is (programs and kernel and rates)


def test_the_command_agrees_with_its_last_line():
    done = subprocess.run(
        [sys.executable, "-m", "testbed.doctor", "topologies/local2.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    missing = sum(line.startswith("missing") for line in done.stdout.splitlines())
    assert done.returncode == (1 if missing else 0)
    assert done.stdout.splitlines()[-1] == (f"{missing} missing" if missing else "all that is needed is here")


# --- shapers ---


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = (ROOT / "topologies/star4_10mbps.yaml").read_text(encoding="utf-8")
    for change in changes:
        assert change[0] in text
        text = text.replace(*change)
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@needs_root
@pytest.mark.root
def test_each_shaper_is_a_finding_with_its_envelope_and_the_chosen_one_is_named(tmp_path):
    file = written(tmp_path, ("delay: 0 ms", "delay: 5 ms"))
    found = {finding.name: finding for finding in doctor.findings(load(file))}
    for shaper in shape.SHAPERS:
        here = abilities.shaper_why_not(shaper) is None
        assert (found[shaper].state == "ok") is here
        assert "bit/s" in found[shaper].detail
    assert found["shaper"].detail.startswith(f"{shape.choose(load(file))} for star4_10mbps")


@needs_root
@pytest.mark.root
def test_what_the_forced_shaper_cannot_do_is_refused_at_its_line(tmp_path):
    if abilities.shaper_why_not("tbf"):
        pytest.skip("no tbf here")
    file = written(tmp_path, ("delay: 0 ms", "delay: 5 ms"))
    (line,) = doctor.problems(load(file), file, "tbf")
    assert line.startswith(f"{file}:5 defaults.link.delay: tbf keeps rates and queues only")
    (line,) = doctor.problems(load(file), file, "htb")
    assert line.startswith(f"{file}:2 backend: shaper htb: there are netem, tbf, relay")
    local = ROOT / "topologies/local2.yaml"
    (line,) = doctor.problems(load(local), local, "tbf")
    assert "local shapes nothing" in line


@needs_root
@pytest.mark.root
def test_what_is_too_much_for_the_relay_is_refused_with_the_number(tmp_path):
    if abilities.shaper_why_not("relay"):
        pytest.skip("no relay here")
    file = written(tmp_path, ("10 Mbit/s", "100 Mbit/s"), ("delay: 0 ms", "delay: 5 ms"))
    (line,) = doctor.problems(load(file), file, "relay")
    assert f"at most {show_rate(shape.HIGHEST_TOTAL_BIT_S)}, these have up to 800 Mbit/s" in line
    assert line.startswith(f"{file}:")


# --- mending ---


def finding(tmp_path: Path, name: str, mend: tuple[str, ...] | None = None) -> doctor.Finding:
    return doctor.Finding(name, "warn", "is ill", "do it", ("touch", str(tmp_path / name)) if mend is None else mend)


def test_all_is_mended_with_yes_each_command_once_and_failures_are_told(tmp_path):
    said: list[str] = []
    bad = finding(tmp_path, "bad", ("sh", "-c", "echo no such module >&2; exit 3"))
    ill = [finding(tmp_path, "a"), finding(tmp_path, "a"), bad, finding(tmp_path, "none", ())]
    assert mend.fix(ill, yes=True, say=said.append) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    text = "\n".join(said)
    assert "    done" in text and "    failed: no such module" in text and "none" not in text


@pytest.mark.parametrize(
    ("answers", "made"), [("y\nn\n", ["a"]), ("n\ny\n", ["b"]), ("\n", []), ("YES\ny\n", ["a", "b"])]
)
def test_on_a_terminal_each_is_asked_for(tmp_path, answers, made):
    """Through a pseudo-terminal, as a person does."""
    code = (
        "import sys; from tests.test_doctor import *; from pathlib import Path\n"
        "folder = Path(sys.argv[1]); mend.fix([finding(folder, 'a'), finding(folder, 'b')])"
    )
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    os.write(ours, answers.encode() + b"\x04")
    text, _ = child.communicate()
    os.close(ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == made
    assert text.count("run this? [y/N]") == 2


def test_without_a_terminal_all_is_listed_and_nothing_done(tmp_path):
    code = "import sys; from tests.test_doctor import *\nmend.fix([finding(Path(sys.argv[1]), 'a')])"
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert f"    touch {tmp_path}/a\nnobody to ask: nothing was done; --yes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_crashed_run_are_found_and_removed(tmp_path, monkeypatch):
    code = "import os, sys; from testbed.hosts import HOSTS; from tests.test_doctor import LOCAL\n"
    code += "with HOSTS['local'](LOCAL, sys.argv[1]) as network: print(network.directory, flush=True); os.abort()"
    run_id = os.urandom(4).hex()
    done = subprocess.run([sys.executable, "-c", code, run_id], cwd=ROOT, capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip())
    assert folder.is_dir()
    (found,) = [finding for finding in doctor.findings() if finding.name == "leftovers"]
    assert found.state == "warn" and run_id in found.detail
    monkeypatch.chdir(ROOT)
    assert mend.fix([found], yes=True, say=[].append) == 1
    assert not folder.exists()


@needs_root
@pytest.mark.root
@pytest.mark.skipif(abilities.works("tap") is not True, reason="no TAP devices here to take away")
def test_a_device_node_that_is_missing_is_made():
    """In a mount namespace of its own, so that the machine keeps its own."""
    code = (
        "from testbed import abilities, doctor, mend\n"
        "def ill(): return [f for f in doctor.findings() if f.name == 'relay' and f.state != 'ok']\n"
        "found = ill(); print(len(found)); mend.fix(found, yes=True); abilities.forget(); print(len(ill()))"
    )
    hidden = ["unshare", "--mount", "--", "sh", "-c", 'mount -t tmpfs -o dev tmpfs /dev/net && exec "$@"', "sh"]
    done = subprocess.run([*hidden, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "1" and done.stdout.splitlines()[-1] == "0", done.stdout
