"""Networks of hosts: as promised while up, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest

from testbed import cgroup, paths
from testbed.clean import prefix
from testbed.hosts import HOSTS, HostError, Network
from testbed.hosts.layout import Layout, layout, used_networks
from testbed.topology import Host, Lane, Link, Switch, Topology
from tests.networks import LANE, RUN, machine, marked, namespaces, needs_relay, qdiscs, remains, ring, root, star

pytestmark = pytest.mark.alone


def local() -> Topology:
    return Topology("local", "local", (Host("h1"), Host("h2")), (), (), RUN)


MESH = Topology(
    "mesh",
    "mininet",
    (Host("a"), Host("b"), Host("c")),
    (Switch("s1"), Switch("s2")),
    (
        Link.both("a", "b", LANE),
        Link.both("a", "s1", Lane(2e7)),
        Link.both("b", "s1", Lane(2e7)),
        Link.both("s1", "s2", Lane(2e7)),
        Link.both("c", "s2", Lane(2e7)),
    ),
    RUN,
)
LINE = replace(ring(4), name="line", links=ring(4).links[:-1])


@pytest.fixture
def run_id() -> str:
    return secrets.token_hex(4)


# --- names and addresses, without root ---


def test_layout_names_fit_the_kernel_and_carry_the_run_id() -> None:
    plan = layout(MESH, "3f9a12cd")
    names = [end.interface for cable in plan.cables for end in (cable.a, cable.b)]
    names += [*plan.hosts.values(), *plan.switches.values(), plan.management]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 and name.startswith(prefix("3f9a12cd")) for name in names)


def test_connected_switches_are_one_network_and_direct_cables_their_own() -> None:
    plan = layout(MESH, "3f9a12cd")

    def nets(host: str, shaped: bool) -> list[str]:
        return [str(end.address).rpartition(".")[0] for end in plan.ends(host, shaped)]

    assert nets("a", True)[1] == nets("b", True)[1] == nets("c", True)[0]
    assert nets("a", True)[0] == nets("b", True)[0]
    everything = {*nets("a", True), plan.control_address.rpartition(".")[0]}
    assert len(everything) == 3
    assert plan.reach("b", "a") == plan.ends("b", True)[0].address  # the direct cable
    assert plan.reach("b", "c") == plan.ends("b", True)[1].address  # through the switches


def walked(plan: Layout, topology: Topology, host: str, peer: str) -> list[str]:
    """The hosts that a packet from `peer` to `host` passes, by the routing tables of the layout alone."""
    at = {end.address: end.node for cable in plan.cables if cable.link for end in (cable.a, cable.b) if end.address}
    address, node, passed = plan.reach(host, peer), peer, [peer]
    assert address is not None and at[address] == host
    while node != host:
        route = next((route for route in plan.routes[node] if route.address == address), None)
        via = route.via if route else address
        own = [e for e in plan.ends(node, True) if str(e.address).rpartition(".")[0] == via.rpartition(".")[0]]
        assert len(own) == 1, "the next hop must be on-link, by one interface"
        assert route is None or route.interface == own[0].interface
        node = at[via]
        passed.append(node)
        assert len(passed) <= len(topology.hosts)
    return passed


@pytest.mark.parametrize("topology", [MESH, star(4), ring(5), ring(6), LINE], ids=lambda topology: topology.name)
def test_routing_tables_lead_along_the_paths(topology: Topology) -> None:
    plan = layout(topology, "3f9a12cd")
    names = [host.name for host in topology.hosts]
    between = set()
    for host in names:
        for peer in names:
            if peer != host:
                hops = paths.path(topology, peer, host).hops
                hosts = [peer, *(hop.receiver for hop in hops if hop.receiver in names)]
                assert walked(plan, topology, host, peer) == hosts
                between |= set(hosts[1:-1])
    assert set(plan.forwarding) == between


def test_addresses_keep_away_from_what_the_machine_uses() -> None:
    addresses = json.dumps([{"addr_info": [{"local": "10.130.0.7", "prefixlen": 9}]}])
    routes = json.dumps([{"dst": "default"}, {"dst": "10.0.0.0/10"}, {"dst": "10.64.0.9"}])
    used = used_networks(addresses, routes)
    assert used == [IPv4Network("10.0.0.0/10"), IPv4Network("10.128.0.0/9"), IPv4Network("10.64.0.9/32")]
    plan = layout(MESH, "ffffffff", used)
    got = [end.address for cable in plan.cables for end in (cable.a, cable.b) if end.address]
    assert all(ip_address(one) in IPv4Network("10.64.0.0/10") for one in [*got, plan.control_address])
    with pytest.raises(HostError, match=r"all of 10\.0\.0\.0/8"):
        layout(MESH, "00000000", [IPv4Network("10.0.0.0/8")])


# --- cgroup files, on a folder that stands in for the kernel ---


@pytest.mark.parametrize(
    ("version", "on", "off"),
    [
        (1, {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "4000"}, {"cpu.cfs_quota_us": "-1"}),
        (2, {"cpu.max": "4000 10000"}, {"cpu.max": "max 10000"}),
    ],
)
def test_cpu_share_of_either_version(tmp_path: Path, version: int, on: dict[str, str], off: dict[str, str]) -> None:
    group = cgroup.Group(cgroup.Hierarchy(version, tmp_path, tmp_path, None), "run/h1", cpu=0.4)
    (tmp_path / "run/h1").mkdir(parents=True)
    (tmp_path / "run/h1/cpu.stat").write_text("nr_throttled 3\nthrottled_time 1500000000\nthrottled_usec 1500000\n")
    for switched, files in ((True, on), (False, off)):
        group.limit(switched)
        assert {name: (tmp_path / "run/h1" / name).read_text() for name in files} == files
    assert group.throttled_s() == 1.5


@pytest.mark.parametrize(("version", "file"), [(1, "memory.oom_control"), (2, "memory.events")])
def test_kills_for_memory_of_either_version(tmp_path: Path, version: int, file: str) -> None:
    group = cgroup.Group(cgroup.Hierarchy(version, tmp_path, None, tmp_path), "run/h1", memory_bytes=1024)
    (tmp_path / "run/h1").mkdir(parents=True)
    (tmp_path / "run/h1" / file).write_text("under_oom 0\noom 4\noom_kill 3\n")
    assert group.killed_for_memory() == 3


def test_a_limit_that_the_machine_cannot_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no cgroup controller for memory"):
        cgroup.Group(cgroup.Hierarchy(1, tmp_path, tmp_path, None), "run/h1", memory_bytes=1 << 30).make()


def test_hierarchy_is_found_by_looking(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    assert cgroup.find(mounts) == cgroup.Hierarchy(2, tmp_path, tmp_path, None, tmp_path)
    mounts.write_text(f"cgroup /v1 cgroup rw,cpu,cpuacct 0 0\ncgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert cgroup.find(mounts) == cgroup.Hierarchy(1, Path("/v1"), Path("/v1"), None)
    mounts.write_text("cgroup /v1 cgroup rw,cpu 0 0\ncgroup /v2 cgroup rw,pids 0 0\ncgroup /v3 cgroup rw,memory 0 0\n")
    found = cgroup.find(mounts)
    assert found == cgroup.Hierarchy(1, Path("/v1"), Path("/v1"), Path("/v3"), Path("/v2"))
    assert found.for_real_time.tracks == Path("/v2")
    mounts.write_text("proc /proc proc rw 0 0\n")
    with pytest.raises(HostError, match="none mounted"):
        cgroup.find(mounts)


def test_whether_cgroups_can_be_made_is_found_by_making_one(tmp_path: Path) -> None:
    old, new = (cgroup.Hierarchy(version, tmp_path, tmp_path, None) for version in (1, 2))
    assert cgroup.why_not(old, tmp_path, "cpu") is None and list(tmp_path.iterdir()) == []
    assert "No such file" in str(cgroup.why_not(old, tmp_path / "nowhere"))
    assert "cgroup.subtree_control" in str(cgroup.why_not(new, tmp_path, "cpu"))  # which is not there
    switch = tmp_path / "cgroup.subtree_control"
    switch.write_text("memory")
    assert cgroup.why_not(new, tmp_path, "memory") is None and switch.read_text() == "memory"
    assert cgroup.why_not(new, tmp_path, "cpu") is None and switch.read_text() == "+cpu"  # others may use it now
    assert list(tmp_path.iterdir()) == [switch]


# --- local ---


def test_local_hosts_run_processes_and_end_them(run_id: str) -> None:
    with HOSTS["local"](local(), run_id) as network:
        one, two = network.hosts.values()
        assert one.address_for("h2") == one.data_addresses[0] != two.data_addresses[0]
        assert one.data_interfaces == () and network.ports == () and one.throttled_s() is None
        assert network.shaping is None and one.killed_for_memory() == 0
        assert one.run([sys.executable, "-c", "print('here')"]).stdout == "here\n"
        log = network.directory / "h1.log"
        # A daemon in the old style: it leaves its parent, its session and its group.
        daemon = "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  time.sleep(600)"
        first = one.start([sys.executable, "-c", "print('out'); import time; time.sleep(600)"], log)
        one.start([sys.executable, "-c", daemon], log).wait(20)
        control = network.start([sys.executable, "-c", "import time; time.sleep(600)"], log, None)
        assert one.alive(first.pid) and os.getsid(first.pid) == first.pid
        deadline = time.monotonic() + 10
        while len(marked(run_id)) < 3:  # the kernel shows a program's environment a moment after it began
            assert time.monotonic() < deadline
    assert first.poll() is not None and control.poll() is not None
    assert not one.alive(first.pid) and marked(run_id) == [] and not network.directory.exists()


@pytest.mark.parametrize("argv", [["false"], ["no-such-program-here"], ["sleep", "600"]])
def test_a_command_that_fails_is_named(run_id: str, argv: list[str]) -> None:
    with HOSTS["local"](local(), run_id) as network, pytest.raises(HostError, match=f"h1: {' '.join(argv)}: [a-zA-Z]"):
        network.hosts["h1"].run(argv, timeout_s=0.2)


def test_local_refuses_what_it_cannot_limit(run_id: str) -> None:
    topology = Topology("local", "local", (Host("h1", cpu=0.5),), (), (), RUN)
    with pytest.raises(HostError, match="h1: cpu"), HOSTS["local"](topology, run_id):
        pass


def test_local_shapes_nothing(run_id: str) -> None:
    with pytest.raises(HostError, match="leave out shaper tbf"), HOSTS["local"](local(), run_id, "tbf"):
        pass


# --- Mininet ---


class TestMininet:
    pytestmark = root

    @pytest.fixture
    def before(self) -> Iterator[dict[str, object]]:
        state = machine()
        yield state
        assert machine() == state

    def test_a_star_is_as_promised_and_leaves_nothing(self, run_id: str, before: dict[str, object]) -> None:
        with HOSTS["mininet"](star(3, LANE, cpu=0.4), run_id) as network:
            names = list(network.hosts)
            made = namespaces(network)
            assert len(made) == 3 and os.readlink("/proc/self/ns/net") not in made
            for name, host in network.hosts.items():
                for peer in names:
                    if peer != name:
                        network.hosts[peer].run(["ping", "-c1", "-W3", host.address_for(peer)])
                host.run(["ping", "-c1", "-W3", network.control_address])
                queues = qdiscs(network, name)
                assert set(queues) == {"127.0.0.1", host.control_address, *host.data_addresses}  # and no IPv6
                assert queues[host.control_address] == "noqueue"
                assert {queues[one] for one in host.data_addresses} <= {"tbf", "netem"}
            assert [(p.hop.sender, p.hop.receiver, p.host) for p in network.ports][:2] == [
                ("h1", "s1", "h1"),
                ("s1", "h1", None),
            ]
            self._shares(network)
            with pytest.raises(HostError, match=r"h1: ip link set nowhere up: ended with 1: .*nowhere"):
                network.hosts["h1"].run(["ip", "link", "set", "nowhere", "up"])
            # It leaves its parent, session and environment, and ignores SIGTERM: only its cgroup knows it.
            stubborn = "trap '' TERM; setsid -f env -i sleep 600; sleep 600"
            network.hosts["h2"].start(["sh", "-c", stubborn], network.directory / "log")
            network.start(["sleep", "600"], network.directory / "log", None)
        assert remains(run_id, made) == []

    def _shares(self, network: Network) -> None:
        host = network.hosts["h1"]
        # Busy for 0.4 s of its own time: a share of 0.4 holds it back about 0.6 s.
        busy = [sys.executable, "-S", "-c", "import time\nwhile time.process_time() < 0.4: pass"]
        host.run(busy)
        assert host.throttled_s() == 0
        host.limit(True)
        host.run(busy)
        held = host.throttled_s()
        assert held is not None and held > 0.2
        host.limit(False)
        host.run(busy)
        assert host.throttled_s() == held

    def test_a_host_over_its_memory_is_named(self, run_id: str, before: dict[str, object]) -> None:
        greedy = [sys.executable, "-S", "-c", "bytearray(1 << 26)"]
        over = r"^h1 went over its declared memory \(4 MiB\): .* ended with -9"
        with HOSTS["mininet"](star(1, LANE, memory_bytes=4 << 20), run_id) as network:
            made = namespaces(network)
            with pytest.raises(HostError, match=over):
                network.hosts["h1"].run(greedy)
            with pytest.raises(HostError, match=r"^h1: false: ended with 1"):
                network.hosts["h1"].run(["false"])
        assert remains(run_id, made) == []

    def test_direct_cables_and_two_switches(self, run_id: str, before: dict[str, object]) -> None:
        with HOSTS["mininet"](MESH, run_id) as network:
            made = namespaces(network)
            a, b, c = network.hosts.values()
            assert len(b.data_addresses) == len(b.data_interfaces) == 2
            for source, target in ((a, b), (a, c), (c, b)):
                source.run(["ping", "-c1", "-W3", target.address_for(source.name)])
            # The direct cable is on nobody else's network, and yet reached: through who is at its other end.
            c.run(["ping", "-c1", "-W3", b.address_for("a")])
        assert remains(run_id, made) == []

    @pytest.mark.parametrize("shaper", [None, pytest.param("relay", marks=needs_relay)])
    def test_two_networks_at_once(self, run_id: str, before: dict[str, object], shaper: str | None) -> None:
        other_id = secrets.token_hex(4)
        with HOSTS["mininet"](star(2), run_id, shaper) as one:
            with HOSTS["mininet"](star(2), other_id, shaper) as other:
                one.hosts["h1"].run(["ping", "-c1", "-W3", one.hosts["h2"].address_for("h1")])
                other.hosts["h1"].run(["ping", "-c1", "-W3", other.hosts["h2"].address_for("h1")])
                made = namespaces(other)
                assert other.control_address != one.control_address
            assert remains(other_id, made) == []
            made = namespaces(one)
            one.hosts["h1"].run(["ping", "-c1", "-W3", one.hosts["h2"].address_for("h1")])
            one.hosts["h1"].run(["ping", "-c1", "-W3", one.control_address])
        assert remains(run_id, made) == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
    def test_any_way_out_is_clean(self, run_id: str, before: dict[str, object], error: type[BaseException]) -> None:
        with pytest.raises(error), HOSTS["mininet"](star(1), run_id) as network:
            made = namespaces(network)
            raise error
        assert remains(run_id, made) == []

    def test_a_network_half_built_is_taken_down(self, run_id: str, before: dict[str, object]) -> None:
        broken = star(1, Lane(1e7, queue_bytes=1 << 50))  # more than tc can say
        with pytest.raises(HostError, match=r"tc qdisc replace .* ended with"), HOSTS["mininet"](broken, run_id, "tbf"):
            pass
        assert remains(run_id, set()) == []
        with (
            pytest.raises(HostError, match=r"cgroup .* = -7"),
            HOSTS["mininet"](star(1, LANE, memory_bytes=-7), run_id),
        ):
            pass
        assert remains(run_id, set()) == []

    @pytest.mark.skipif(shutil.which("iptables") is None, reason="no program iptables")
    @pytest.mark.parametrize(("chain", "whom"), [("INPUT", "the machine itself"), ("FORWARD", "h2")])
    def test_a_firewall_in_the_way_is_named(
        self, run_id: str, before: dict[str, object], chain: str, whom: str
    ) -> None:
        """In a network namespace of its own, so that the machine's firewall stays as it is."""
        if chain == "FORWARD" and not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
            pytest.skip("this kernel's firewall does not look into bridges")
        code = "from testbed.hosts import *\nfrom tests.networks import *\n"
        code += f"with HOSTS['mininet'](star(2), {run_id!r}): pass"
        # /sys shows the interfaces of the namespace in which it was mounted, and cgroups are below it.
        script = f"""
            mount --rbind /sys/fs/cgroup /mnt && mount -t sysfs sysfs /sys &&
            mount --rbind /mnt /sys/fs/cgroup && ip link set lo up && iptables -P {chain} DROP && exec "$@"
        """
        argv = ["unshare", "--net", "--mount", "--", "sh", "-c", script, "sh", sys.executable, "-c", code]
        done = subprocess.run(argv, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert f"HostError: h1 cannot reach {whom}" in last and "firewall" in last, done.stderr
        assert remains(run_id, set()) == []
