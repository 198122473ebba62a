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
from testbed.topology import Host, Link, RunSpec, Switch, Topology, load

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


def with_link(**quantities: float) -> Topology:
    return replace(STAR, links=(STAR.links[0], replace(STAR.links[1], **quantities)))


def test_every_finding_is_one_line_that_says_how_to_fix_what_is_not_ok():
    found = doctor.findings()
    assert {"root", "mnexec", "tc", "cores", "ray", "ports", "/tmp", "tcp"} <= {f.name for f in found}
    for finding in found:
        assert finding.state in ("ok", "missing", "warn")
        assert "\n" not in finding.line
        assert finding.state == "ok" or finding.fix, finding


def test_programs_are_reported_as_the_shell_finds_them():
    found = {finding.name: finding.state for finding in doctor.findings()}
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for program in doctor.PROGRAMS:
        assert found[program] == ("ok" if shutil.which(program, path=path) else "missing")


def test_cores_are_compared_with_what_hosts_ask_for():
    cores = len(os.sched_getaffinity(0))
    modest = replace(LOCAL, hosts=(Host("h1", cores / 2), Host("h2", cores / 2)))
    greedy = replace(LOCAL, hosts=(Host("h1", cores), Host("h2", 1.0)))
    states = [{f.name: f.state for f in doctor.findings(topology)}["cores"] for topology in (modest, greedy)]
    assert states == ["ok", "warn"]


def test_the_local_backend_needs_nothing_of_a_network():
    assert doctor.refusal(LOCAL) == []


@pytest.mark.parametrize(
    ("quantities", "word"),
    [
        ({"delay_s": 0.005}, "delay"),
        ({"delay_s": 0.005, "jitter_s": 0.001}, "delay"),
        ({"loss": 0.01}, "loss"),
        ({"rate_bit_s": 1e10}, "rate"),
        ({"rate_bit_s": 1e3}, "rate"),
    ],
)
def test_what_no_shaper_does_is_refused_not_ignored(quantities, word):
    texts = [text for text in doctor.refusal(with_link(**quantities)) if text.startswith("links[1]: h2 - s1: ")]
    assert len(texts) == 1
    assert word in texts[0]


def test_a_refusal_names_the_line_of_the_file(tmp_path):
    file = tmp_path / "t.yaml"
    text = (ROOT / "topologies/star4_10mbps.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("delay: 0 ms", "delay: 5 ms"), encoding="utf-8")
    found = doctor.problems(load(file), file)
    assert [line for line in found if line.startswith(f"{file}:6 links[3]: h4 - s1: delay")]


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
    assert abilities.qdisc_works("ingress") is True
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
