"""Lanes become commands, and what cannot be made is refused: as data, no root needed, and against the kernel."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import abilities, shape
from testbed.paths import Hop
from testbed.topology import Event, Host, Lane, Link, Loss, RunSpec, Step, Switch, Topology, Trace

RATES = st.floats(shape.LOWEST_RATE_BIT_S, shape.HIGHEST_RATE_BIT_S)
LANE = Lane(10e6)
RICH = Lane(10e6, 0.02, 0.002, loss=Loss(0.01))
BURSTY = Loss(good=0.01, enter=0.02, leave=0.3, bad=0.8)
root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tc") is None, reason="needs root and tc: a namespace is made and shaped"
)


def port(lane: Lane = LANE, host: str | None = "h1", interface: str = "h1-eth0") -> shape.Port:
    return shape.Port(Hop("h1", "s1", Link.both("h1", "s1", lane)), host, interface)


def lines(lane: Lane, shaper: str, seed: int | None = None) -> list[str]:
    return [" ".join(command.argv) for command in shape.commands([port(lane)], shaper, seed)]


def star(*lanes: Lane, **more: object) -> Topology:
    hosts = tuple(Host(f"h{index}") for index in range(len(lanes)))
    links = tuple(Link.both(host.name, "s1", lane) for host, lane in zip(hosts, lanes, strict=True))
    given = Topology("star", "mininet", hosts, (Switch("s1"),), links, RunSpec("h0", "vit-tiny"))
    return replace(given, **more)  # type: ignore[arg-type]


# --- commands ---


def test_every_port_loses_superpackets_first_and_is_then_shaped_where_it_sends() -> None:
    found = shape.commands([port(), port(Lane(5e6), None)], "tbf")
    assert [command.host for command in found] == ["h1", "h1", None, None]
    assert [" ".join(command.argv) for command in found[:2]] == [
        "ip link set dev h1-eth0 gso_max_segs 1",
        "tc qdisc replace dev h1-eth0 root handle 1: tbf rate 10000000bit overhead 24 burst 1600 limit 65536",
    ]
    assert "5000000bit" in found[3].argv


def test_netem_keeps_the_rate_and_its_queue_apart_from_what_is_under_way() -> None:
    _, first, rate, last = lines(RICH, "netem", seed=7)
    assert rate == "tc qdisc replace dev h1-eth0 parent 1:1 handle 2: netem rate 10000000bit 24 limit 42"
    words = first.removeprefix("tc qdisc replace dev h1-eth0 root handle 1: netem limit ").split(" ", 1)
    assert int(words[0]) >= 10_000
    # Jitter keeps the order because a rate, here one that delays nothing, lets each packet out after the one before.
    assert words[1] == "delay 20000.000us 2000.000us rate 100gbit"
    assert last.startswith("tc qdisc replace dev h1-eth0 parent 2:1 handle 3: netem limit ")
    assert last.endswith(" loss random 1.0000000% seed 7")
    assert "rate" not in lines(replace(RICH, reorder=True), "netem")[1]
    assert "loss gemodel 2.0000000% 30.0000000% 80.0000000% 1.0000000%" in lines(replace(RICH, loss=BURSTY), "netem")[3]


@given(RATES, st.floats(0, shape.LONGEST_DELAY_S))
def test_what_is_under_way_always_has_room(rate_bit_s: float, delay_s: float) -> None:
    """Twice the bandwidth-delay product in full frames, whatever the lane is changed to."""
    words = lines(Lane(rate_bit_s, delay_s), "netem")[1].split()
    assert int(words[words.index("limit") + 1]) >= 2 * rate_bit_s * delay_s / 8 / 1538


def test_each_direction_has_a_seed_of_its_own() -> None:
    lossy = Lane(10e6, loss=Loss(0.01))
    found = shape.commands([port(lossy), port(lossy)], "netem", seed=40)
    assert [command.argv[-1] for command in found if "loss" in command.argv] == ["40", "41"]
    assert not any("seed" in line for line in lines(lossy, "netem"))


def test_above_some_rate_superpackets_are_small_and_counted_as_their_frames() -> None:
    for shaper, index in (("tbf", 1), ("netem", 2)):
        assert "gso_max_segs 1" in lines(Lane(100e6), shaper)[0] and " 24 " in lines(Lane(100e6), shaper)[index]
        assert "gso_max_segs 4" in lines(Lane(1e9), shaper)[0] and " 96 " in lines(Lane(1e9), shaper)[index]


@given(RATES)
def test_a_bucket_holds_what_comes_as_one_and_never_the_messages_that_are_to_be_measured(rate_bit_s: float) -> None:
    free = shape.free_bytes(rate_bit_s, "tbf")
    assert free >= shape.superpacket_frames(rate_bit_s) * (1514 + 24)
    assert free == 1600 or free * 8 / rate_bit_s <= 0.2e-3 * (1 + 1e-9)
    assert shape.free_bytes(rate_bit_s, "netem") == shape.free_bytes(rate_bit_s, "relay") == 0


def test_a_change_touches_what_is_there_and_drops_nothing() -> None:
    """`tc qdisc change` on the same handles, never `replace` or `add`."""
    made, changed = shape.commands([port(RICH)], "netem"), shape.change(port(RICH), replace(RICH, delay_s=0.1), "netem")
    assert [(c.argv[2], c.argv[5:8]) for c in changed[1:]] == [("change", c.argv[5:8]) for c in made[1:]]
    assert "100000.000us" in changed[1].argv
    down = shape.change(port(RICH), None, "netem")
    assert down[2] == changed[2] and "100.0000000%" in down[3].argv
    for lane in (None, RICH):
        with pytest.raises(ValueError, match="h1 -> s1: tbf keeps a rate and a queue, not"):
            shape.change(port(), lane, "tbf")


def test_an_unknown_shaper_is_an_error() -> None:
    with pytest.raises(KeyError):
        shape.commands([port()], "htb")
    with pytest.raises(shape.NoShaper, match="shaper htb: there are netem, tbf, relay"):
        shape.choose(star(LANE), "htb")


# --- the envelope ---


def refusals(*lanes: Lane, **more: object) -> list[tuple[str, str]]:
    return [(found.at, found.text) for found in shape.refusal(star(*lanes, **more))]


def test_all_that_no_shaper_can_do_is_refused_with_what_is_allowed() -> None:
    assert refusals(LANE, RICH, Lane(1e9), Lane(64e3, 1.0)) == []
    for rate_bit_s in (1.1e9, 63e3):
        ((at, text),) = refusals(Lane(rate_bit_s))
        assert at == "links[0].rate" and "64 kbit/s to 1 Gbit/s" in text
    assert refusals(Lane(10e6, queue_bytes=8000))[0][0] == "links[0].queue"
    found = refusals(LANE, Lane(2e9, 1.5, 1.6, queue_bytes=8000))
    assert [at for at, _ in found] == [f"links[1].{key}" for key in ("rate", "delay", "jitter", "queue")]
    assert "0 to 1 s" in found[1][1]


def test_loss_beyond_what_tcp_and_a_probe_stand_is_refused_wherever_it_comes_from() -> None:
    assert refusals(Lane(10e6, loss=Loss(0.2)), Lane(10e6, loss=Loss(0.0, 0.1, 0.5, 1.0))) == []
    ((at, text),) = refusals(Lane(10e6, loss=Loss(0.0, 0.3, 0.5, 1.0)))
    assert at == "links[0].loss" and "20 %" in text
    trace = Trace((Step(0.0, loss=0.1), Step(1.0, loss=0.4)))
    assert [at for at, _ in refusals(replace(LANE, trace=trace))] == ["links[0].trace"]
    assert [at for at, _ in refusals(LANE, events=(Event(2.0, "set", change=Step(0.0, loss=0.99)),))] == ["events[0]"]


def test_a_direction_is_named_if_the_other_is_sound() -> None:
    links = (Link("h0", "s1", LANE, Lane(5e9)), Link("h1", "s1", Lane(5e9), LANE))
    assert [at for at, _ in refusals(LANE, LANE, links=links)] == ["links[0].down.rate", "links[1].up.rate"]


def test_what_a_lane_becomes_is_looked_at_too() -> None:
    trace = Trace((Step(0.0, 1e6), Step(1.0, 2e9), Step(2.0, 3e9)))
    assert [at for at, _ in refusals(replace(LANE, trace=trace))] == ["links[0].trace"]
    events = (Event(1.0, "kill", host="h0"), Event(2.0, "set", ("h0", "s1"), change=Step(0.0, delay_s=2.0)))
    assert [at for at, _ in refusals(LANE, events=events)] == ["events[1]"]


def shared(rate_bit_s: float) -> Topology:
    links = tuple(Link(name, "s1", Lane(rate_bit_s), Lane(math.inf)) for name in ("h0", "h1"))
    return star(LANE, LANE, switches=(Switch("s1", "shared", rate_bit_s),), links=links)


def unfit(topology: Topology, shaper: str) -> list[str]:
    return [found.at for found in shape.unfit(topology, shaper)]


def test_each_shaper_says_what_it_cannot_do() -> None:
    down = (Event(1.0, "down", ("h0", "s1"), for_s=1.0),)
    slower = replace(LANE, trace=Trace((Step(0.0, 1e6),)))
    later = replace(LANE, trace=Trace((Step(0.0, delay_s=0.1),)))
    assert [unfit(star(LANE, slower), name) for name in shape.SHAPERS] == [[], [], []]
    assert unfit(star(RICH, later), "tbf") == [
        *("links[0].delay", "links[0].jitter", "links[0].loss"), "links[1].trace",
    ]  # fmt: skip
    assert unfit(star(LANE, events=down), "tbf") == ["events[0]"]
    assert unfit(star(RICH, later, events=down), "netem") == unfit(star(RICH, later, events=down), "relay") == []
    assert unfit(shared(20e6), "netem") == unfit(shared(20e6), "tbf") == ["s1.type"]
    assert unfit(shared(20e6), "relay") == []


def test_the_relay_is_true_up_to_a_total() -> None:
    most = shape.HIGHEST_TOTAL_BIT_S
    assert unfit(star(Lane(most / 4), Lane(most / 4)), "relay") == []
    (found,) = shape.unfit(star(Lane(most / 4), Lane(most / 3)), "relay")
    assert found.at == "links" and "400 Mbit/s" in found.text and "466.7 Mbit/s" in found.text
    faster = replace(Lane(most / 4), trace=Trace((Step(0.0, most / 2),)))
    assert unfit(star(Lane(most / 4), faster), "relay") == ["links"]
    # A medium counts twice, its frames cross the relay twice, whatever the number of its links; nothing else could make
    # it, so that is a mistake anywhere.
    assert shape.refusal(shared(most / 2)) == []
    assert [found.at for found in shape.refusal(shared(most))] == ["links"]


# --- against the kernel ---


@pytest.mark.root
@root
def test_the_best_shaper_that_can_is_chosen() -> None:
    here = [name for name in shape.SHAPERS if abilities.shaper_why_not(name) is None]
    for topology in (star(LANE), star(RICH), shared(20e6), star(Lane(150e6, 0.01), Lane(150e6))):
        able = [name for name in here if not shape.unfit(topology, name)]
        if able:
            assert shape.choose(topology) == able[0]
            assert [shape.choose(topology, name) for name in able] == able
        else:
            with pytest.raises(shape.NoShaper, match=r"netem: .*; tbf: .*; relay: links: .* 600 Mbit/s"):
                shape.choose(topology)
        for name in set(shape.SHAPERS) - set(able):
            with pytest.raises(shape.NoShaper, match=f"^{name}: "):
                shape.choose(topology, name)


def shown(script: list[str]) -> list[str]:
    """The words of `tc qdisc show` after commands in a namespace that ends with them."""
    argv = ["unshare", "--net", "--", "sh", "-ec", "\n".join([*script, "tc qdisc show dev lo"])]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.root
@root
@pytest.mark.parametrize("shaper", ["netem", "tbf"])
@pytest.mark.parametrize("rate_bit_s", [shape.LOWEST_RATE_BIT_S, 10e6, 12_345_678.9, shape.HIGHEST_RATE_BIT_S])
def test_the_kernel_takes_the_commands_and_reports_the_same_rate(rate_bit_s: float, shaper: str) -> None:
    if abilities.shaper_why_not(shaper):
        pytest.skip(f"this kernel has no {shaper}")
    seed = 7 if abilities.works("netem_seed") else None
    lane, before = Lane(rate_bit_s), port(RICH if shaper == "netem" else LANE, None, "lo")
    for made in (
        shape.commands([replace(before, hop=Hop("h1", "s1", Link.both("h1", "s1", lane)))], shaper, seed),
        [*shape.commands([before], shaper, seed), *shape.change(before, lane, shaper, seed)],
    ):
        words = shown([" ".join(command.argv) for command in made])
        assert words[1] == shaper
        words = words[words.index("2:" if shaper == "netem" else "1:") :]
        rate = words[words.index("rate") + 1].removesuffix("bit")
        scale = {"K": 1e3, "M": 1e6, "G": 1e9}.get(rate[-1], 1)
        assert float(rate.rstrip("KMG")) * scale == pytest.approx(rate_bit_s, rel=1e-3)
