"""Links become commands: checked as data, no root needed, and against the kernel where there is root."""

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import shape
from testbed.topology import Link

RATES = st.floats(shape.LOWEST_RATE_BIT_S, shape.HIGHEST_RATE_BIT_S)
root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None, reason="needs root and tc: a namespace is made and shaped"
)


def _port(rate_bit_s: float = 10e6, host: str | None = "h1") -> shape.Port:
    return shape.Port(Link("h1", "s1", rate_bit_s), "h1", "s1", host, "h1-eth0")


def test_every_port_loses_superpackets_first_and_is_then_shaped_where_it_sends() -> None:
    ports = [_port(), _port(5e6, None)]
    found = shape.commands(ports, "tbf")
    assert [command.host for command in found] == ["h1", "h1", None, None]
    superpackets = ("ip", "link", "set", "dev", "h1-eth0", "gso_max_segs", "1")
    assert found[0].argv == found[2].argv == superpackets
    assert found[1].argv == tuple(
        [
            "tc",
            "qdisc",
            "replace",
            "dev",
            "h1-eth0",
            "root",
            "tbf",
            "rate",
            "10000000bit",
            "overhead",
            "24",
            "burst",
            "1600",
            "limit",
            "65536",
        ]
    )
    assert "5000000bit" in found[3].argv


def test_netem_states_its_queue() -> None:
    argv = shape.commands([_port()], "netem")[1].argv
    assert argv[6:] == tuple(["netem", "rate", "10000000bit", "24", "limit", "43"])


def test_an_unknown_shaper_is_an_error() -> None:
    with pytest.raises(KeyError):
        shape.commands([_port()], "htb")


@given(RATES)
def test_a_bucket_holds_a_full_frame_and_never_the_small_messages_that_are_to_be_measured(rate_bit_s: float) -> None:
    free = shape.free_bytes(rate_bit_s, "tbf")
    assert 1514 + 24 <= free <= 5000
    assert free == 1600 or free * 8 / rate_bit_s <= 0.2e-3
    assert shape.free_bytes(rate_bit_s, "netem") == 0


def test_all_that_cannot_be_done_is_refused_with_what_is_allowed() -> None:
    assert shape.refusal(Link("h1", "s1", 10e6)) == {}
    for rate_bit_s in (1e9, 63e3):
        assert "64 kbit/s to 200 Mbit/s" in shape.refusal(Link("h1", "s1", rate_bit_s))["rate"]
    assert "15140 B" in shape.refusal(Link("h1", "s1", 10e6, queue_bytes=8000))["queue"]
    everything = shape.refusal(Link("h1", "s1", 1e9, 0.01, 0.001, 0.01, 8000))
    assert list(everything) == ["delay", "jitter", "loss", "rate", "queue"]


@pytest.mark.root
@root
@pytest.mark.parametrize("rate_bit_s", [shape.LOWEST_RATE_BIT_S, 10e6, 12_345_678.9, shape.HIGHEST_RATE_BIT_S])
def test_the_kernel_takes_the_commands_and_reports_the_same_rate(rate_bit_s: float) -> None:
    shaper = shape.choose()
    port = shape.Port(Link("h1", "s1", rate_bit_s), "h1", "s1", None, "lo")
    lines = [" ".join(command.argv) for command in shape.commands([port], shaper)]
    script = " && ".join([*lines, "tc qdisc show dev lo"])
    shown = subprocess.run(
        ["unshare", "--net", "--", "sh", "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[1] == shaper
    rate = shown[shown.index("rate") + 1].removesuffix("bit")
    scale = {"K": 1e3, "M": 1e6, "G": 1e9}.get(rate[-1], 1)
    assert float(rate.rstrip("KMG")) * scale == pytest.approx(rate_bit_s, rel=1e-3)
