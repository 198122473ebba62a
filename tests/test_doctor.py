"""The doctor's findings hold on the machine at hand, and what a machine cannot do is refused with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import abilities, doctor
from testbed.topology import Host, Link, RunSpec, Switch, Topology, TopologyError, load

ROOT = Path(__file__).parent.parent
STAR = Topology(
    name="star",
    backend="mininet",
    hosts=(Host("h1"), Host("h2")),
    switches=(Switch("s1"),),
    links=(Link("h1", "s1", 1e7), Link("h2", "s1", 1e7)),
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


@pytest.mark.parametrize("change", [("delay: 0 ms", "delay: 5 ms"), ("rate: 10 Mbit/s", "rate: 1 Gbit/s")])
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
    rates = abilities.qdisc_works("tbf") or abilities.qdisc_works("netem")
    assert (doctor.refusal(STAR) == []) is (programs and kernel and rates)


def test_the_command_agrees_with_its_last_line():
    done = subprocess.run(
        [sys.executable, "-m", "testbed.doctor", "topologies/local2.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    missing = sum(line.startswith("missing") for line in done.stdout.splitlines())
    assert done.returncode == (1 if missing else 0)
    assert done.stdout.splitlines()[-1] == (f"{missing} missing" if missing else "all that is needed is here")
