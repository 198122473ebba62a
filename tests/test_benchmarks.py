"""The benchmarks still run and print what they promise; their figures are looked at by people, not here."""

from __future__ import annotations

import os
import subprocess
import sys

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
