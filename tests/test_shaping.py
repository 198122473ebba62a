"""Shapers at work on networks that are up: what they promise, what they count, and that a change disturbs nothing."""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from testbed import abilities, awake, shape
from testbed.hosts import HOSTS, HostError, Network
from testbed.topology import Lane, Link, Loss, Switch, Topology
from tests.networks import LANE, machine, namespaces, needs_relay, remains, ring, root, star

pytestmark = pytest.mark.alone

SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])):
    sender.sendto(number.to_bytes(2, "big") + bytes(998), (sys.argv[1], 9000))
"""
RECEIVE = """
import json, socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], 9000))
receiver.settimeout(2.5)
print(flush=True)
got = []
try:
    while len(got) < int(sys.argv[2]):
        got.append(int.from_bytes(receiver.recv(2000)[:2], "big"))
except TimeoutError:
    pass
print(json.dumps(got), flush=True)
"""
FRAME_BYTES = 1042  # that carries 1000 bytes


@pytest.fixture
def run_id() -> str:
    return secrets.token_hex(4)


def here(shaper: str) -> None:
    why = abilities.shaper_why_not(shaper)
    if why is not None:
        pytest.skip(f"no {shaper} here: {why}")


class Burst:
    """Datagrams of 1000 bytes from h1 to h2, all handed to the kernel at once."""

    def __init__(self, network: Network, count: int, wanted: int) -> None:
        """wanted: after so many the receiver looks no further; fewer take it 2.5 s."""
        one, two = network.hosts["h1"], network.hosts["h2"]
        address = two.address_for("h1")
        one.run(["ping", "-c1", "-W3", address])  # who has this address is not asked through a full queue
        self._log = network.directory / f"burst-{secrets.token_hex(2)}"
        argv = [sys.executable, "-S", "-c", RECEIVE, address, str(wanted)]
        self._receiver = two.start(argv, self._log)
        while not (self._log.exists() and self._log.read_text()):
            assert self._receiver.poll() is None
        one.run([sys.executable, "-S", "-c", SEND, address, str(count)])

    def received(self) -> list[int]:
        """Their numbers, in the order in which they came."""
        self._receiver.wait(30)
        found: list[int] = json.loads(self._log.read_text())
        return found


def rtt_ms(network: Network, a: str, b: str) -> float:
    """The least of some: tells which delay holds, on a machine of any speed; how exactly, the probe tells."""
    argv = ["ping", "-q", "-i", "0.02", "-c", "6", "-W", "3", network.hosts[b].address_for(a)]
    return float(network.hosts[a].run(argv).stdout.split(" = ")[-1].split("/")[0])


def wake_up_us() -> int:
    """How long the kernel may let a processor take to wake up, in us, as all who hold its file open ask for it."""
    with open(awake.FILE, "rb") as file:
        return int.from_bytes(file.read(4), sys.byteorder, signed=True)


class TestShaping:
    pytestmark = root

    @pytest.mark.skipif(not os.access(awake.FILE, os.W_OK), reason=f"{awake.FILE} cannot be written to")
    @pytest.mark.parametrize("shaper", shape.SHAPERS)
    def test_processors_stay_awake_while_it_is_up_and_no_longer(self, run_id: str, shaper: str) -> None:
        here(shaper)
        before = wake_up_us()
        with HOSTS["mininet"](star(2), run_id, shaper) as network:
            assert network.shaping is not None
            assert not any(awake.WITHOUT in warning for warning in network.shaping.warnings) and wake_up_us() == 0
        assert wake_up_us() == before

    @pytest.fixture
    def before(self) -> Iterator[None]:
        state = machine()
        yield
        assert machine() == state

    @pytest.mark.parametrize("shaper", shape.SHAPERS)
    def test_a_network_of_any_shaper_works_and_leaves_nothing(self, run_id: str, before: None, shaper: str) -> None:
        here(shaper)
        with HOSTS["mininet"](star(3), run_id, shaper) as network:
            made = namespaces(network)
            assert network.shaping is not None and network.shaping.name == shaper
            for name, host in network.hosts.items():
                for peer in network.hosts.keys() - {name}:
                    network.hosts[peer].run(["ping", "-c1", "-W3", host.address_for(peer)])
            counters = network.shaping.counters()
            assert set(counters) == {f"{a} -> {b}" for h in network.hosts for a, b in ((h, "s1"), ("s1", h))}
            for found in counters.values():
                assert found.frames >= 4 and found.bytes >= 4 * 98
                assert (found.queue_drops, found.lost, found.overruns) == (0, 0, 0)
            assert (network.shaping.lateness() is None) is (shaper != "relay")
            with pytest.raises(HostError, match="h1 -> h2"):
                network.shaping.change("h1", "h2", LANE)
        assert remains(run_id, made) == []

    @pytest.mark.skipif(not abilities.ovs_works(), reason="no Open vSwitch runs here")
    @pytest.mark.parametrize("shaper", ["netem", "relay"])
    def test_open_vswitch_joins_links_as_a_bridge_does(self, run_id: str, before: None, shaper: str) -> None:
        here(shaper)
        joined = replace(star(2, Lane(1e7, delay_s=0.01)), switches=(Switch("s1", "ovs"),))
        with HOSTS["mininet"](joined, run_id, shaper) as network:
            made = namespaces(network)
            assert 40 <= rtt_ms(network, "h1", "h2") <= 44
            assert network.shaping is not None and network.shaping.counters()["s1 -> h2"].frames >= 6
        assert remains(run_id, made) == []

    @pytest.mark.parametrize("shaper", shape.SHAPERS)
    def test_a_change_drops_nothing_that_waits(self, run_id: str, shaper: str) -> None:
        here(shaper)
        slow = Lane(200e3)
        with HOSTS["mininet"](star(2, slow), run_id, shaper) as network:
            burst = Burst(network, 40, 40)  # 1.7 s at this rate
            assert network.shaping is not None
            network.shaping.change("h1", "s1", replace(slow, rate_bit_s=2e6))
            network.shaping.change("s1", "h2", replace(slow, rate_bit_s=1e6))
            assert burst.received() == list(range(40))
            assert network.shaping.counters()["h1 -> s1"].queue_drops == 0

    @pytest.mark.parametrize("shaper", shape.SHAPERS)
    def test_what_does_not_fit_the_queue_is_dropped_and_counted(self, run_id: str, shaper: str) -> None:
        here(shaper)
        lane = Lane(1e6, queue_bytes=20_000)
        with HOSTS["mininet"](star(2, lane), run_id, shaper) as network:
            got = Burst(network, 60, 60).received()
            assert network.shaping is not None
            found = network.shaping.counters()["h1 -> s1"]
            assert found.queue_drops == 60 - len(got) and found.frames >= len(got)
            # The relay and TBF count bytes; netem counts frames, as full ones.
            fits = 20_000 / 1538 if shaper == "netem" else 20_000 / FRAME_BYTES
            assert fits - 2 <= len(got) <= fits + 8  # some leave while the others come

    @pytest.mark.parametrize("shaper", ["netem", "relay"])
    def test_delay_loss_and_a_link_that_is_down(self, run_id: str, shaper: str) -> None:
        here(shaper)
        lane = Lane(10e6, delay_s=0.005)
        with HOSTS["mininet"](star(2, lane), run_id, shaper) as network:
            shaping = network.shaping
            assert shaping is not None
            assert 20 <= rtt_ms(network, "h1", "h2") < 30
            shaping.change("h1", "s1", replace(lane, delay_s=0.025))
            assert 40 <= rtt_ms(network, "h1", "h2") < 50
            for changed in (replace(lane, loss=Loss(1.0)), None):
                shaping.change("h1", "s1", changed)
                with pytest.raises(HostError, match="ping"):
                    network.hosts["h1"].run(["ping", "-c1", "-W1", network.hosts["h2"].address_for("h1")])
            shaping.change("h1", "s1", lane)
            assert 20 <= rtt_ms(network, "h1", "h2") < 30
            found = shaping.counters()
            # Two pings, and, if the system just then asks for an address, that too.
            assert found["h1 -> s1"].lost >= 2 and found["h1 -> s1"].queue_drops == 0
            assert found["s1 -> h1"].lost == found["h2 -> s1"].lost == 0

    @needs_relay
    def test_hosts_forward_along_the_way_that_the_file_implies(self, run_id: str, before: None) -> None:
        with HOSTS["mininet"](ring(5, Lane(10e6, 0.005)), run_id) as network:
            made = namespaces(network)
            assert 10 <= rtt_ms(network, "h1", "h5") < 15
            assert 20 <= rtt_ms(network, "h1", "h3") < 30
            assert 20 <= rtt_ms(network, "h4", "h1") < 30
        assert remains(run_id, made) == []

    @needs_relay
    def test_a_shared_medium(self, run_id: str, before: None) -> None:
        given = star(3)
        links = tuple(Link(link.a, link.b, Lane(2e6), Lane(math.inf)) for link in given.links)
        topology: Topology = replace(given, switches=(Switch("s1", "shared", 2e6),), links=links)
        with HOSTS["mininet"](topology, run_id) as network:
            made = namespaces(network)
            assert network.shaping is not None and network.shaping.name == "relay"
            assert Burst(network, 20, 20).received() == list(range(20))
        assert remains(run_id, made) == []

    @needs_relay
    @pytest.mark.parametrize("shaper", [None, "relay"])
    def test_sixteen_hosts(self, run_id: str, before: None, shaper: str | None) -> None:
        with HOSTS["mininet"](star(16), run_id, shaper) as network:
            made = namespaces(network)
            assert len(network.hosts) == 16
            for name, peer in (("h1", "h16"), ("h8", "h9"), ("h16", "h2")):
                network.hosts[name].run(["ping", "-c1", "-W3", network.hosts[peer].address_for(name)])
        assert remains(run_id, made) == []

    def test_a_host_over_its_memory_is_killed_and_counted(self, run_id: str) -> None:
        with HOSTS["mininet"](star(1, LANE, memory_bytes=64 * 2**20), run_id) as network:
            host = network.hosts["h1"]
            assert host.killed_for_memory() == 0
            host.run([sys.executable, "-S", "-c", "b'x' * (20 << 20)"])
            assert host.killed_for_memory() == 0
            with pytest.raises(HostError, match="ended with -9"):
                host.run([sys.executable, "-S", "-c", "b'x' * (200 << 20)"])
            assert host.killed_for_memory() == 1
